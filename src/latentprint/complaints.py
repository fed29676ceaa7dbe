"""One sentence about settings that do not validate: the dotted key, what was given, what was expected."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from latentprint.keys import KIND, describe, did_you_mean, dotted


class Layer(NamedTuple):
    """Settings from one place, nested; ``source`` is how a message calls the place."""

    source: str
    tree: dict[str, Any]


_EXPECTED = {
    "int_type": "be a whole number",
    "float_type": "be a number",
    "bool_type": "be true or false",
    "string_type": "be text",
    "tuple_type": "be a list",
    "list_type": "be a list",
    "dict_type": "be a group of keys",
    "model_type": "be a group of keys",
    "none_required": "be null",
}


def sentence(
    cls: type[BaseModel], errors: Sequence[ErrorDetails], tree: dict[str, Any], layers: Sequence[Layer]
) -> str:
    """What Pydantic found, as one sentence on the first error.

    Args:
        tree: the settings that were validated.
        layers: where they came from, later over earlier.
    """
    first, parts = errors[0], _parts(errors[0], tree)
    key = dotted(parts)
    source = next((f" (from {layer.source})" for layer in reversed(layers) if _sets(layer.tree, parts)), "")
    known = {item.name: item for item in describe(cls)}
    match first["type"]:
        case "extra_forbidden" if key in known:
            return f"'{key}' is not a setting of this kind{source}; {known[key].help}"
        case "extra_forbidden":
            return f"unknown key '{key}'{source}; {did_you_mean(key, known)}"
        case "missing":
            meaning = f": {known[key].type}, {known[key].help}" if key in known else ""
            return f"'{key}' must be given{meaning}"
        case "union_tag_not_found":
            return f"'{key}.{KIND}' must be given"
        case "union_tag_invalid":
            tags, given = first["ctx"]["expected_tags"], first["input"][KIND]
            return f"'{key}.{KIND}' should be one of {tags}, not {shown(given)}{source}"
        case "value_error":
            return f"{key and repr(key) + ': '}{first['ctx']['error']}{source}"
    # A union reports once for every member.
    expected = " or ".join(dict.fromkeys(_expected(item) for item in errors if _parts(item, tree) == parts))
    return f"'{key}' should {expected}, not {shown(first['input'])}{source}"


def _expected(error: ErrorDetails) -> str:
    """What comes after "should": our words for types, else Pydantic's."""
    said = re.match(r"\w+ should (.+?)( after validation)?(, not \d+)?$", error["msg"])
    return _EXPECTED.get(error["type"]) or (said[1] if said else f"be valid ({error['msg']})")


def _parts(error: ErrorDetails, node: Any) -> list[str]:
    """Where the error is, without the steps that Pydantic adds for the members of a union."""
    parts = []
    for part in error["loc"]:
        if isinstance(part, int) if isinstance(node, list) else isinstance(node, dict) and part in node:
            node = node[part]
            parts.append(str(part))
    missing = [str(error["loc"][-1])] if error["type"] == "missing" else []
    return parts + missing


def _sets(tree: Any, parts: Sequence[str]) -> bool:
    """Whether ``tree`` gives what lies at ``parts``, or a whole list or value that holds it."""
    for part in parts:
        if not isinstance(tree, dict):
            return True
        if part not in tree:
            return False
        tree = tree[part]
    return True


def shown(value: Any, width: int = 60) -> str:
    """A value as JSON, cut to ``width`` characters."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= width else f"{text[: width - 1]}…"
