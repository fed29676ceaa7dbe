"""What settings exist: the keys of a config class, their types in words, and the nearest to a misspelling."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from difflib import get_close_matches
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

REQUIRED = PydanticUndefined
#: The key that tells apart groups of which one is chosen; its value decides which other keys there are.
KIND = "kind"
_WORDS = {int: "whole number", float: "number", bool: "true|false", str: "text", NoneType: "null"}
_BOUNDS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}


class Key(NamedTuple):
    """One setting: dotted name, type and bounds in words, default (``REQUIRED`` if there is none), help."""

    name: str
    type: str
    default: Any
    help: str


def describe(cls: type[BaseModel]) -> list[Key]:
    """Every setting of ``cls`` and of the groups inside it, in the order written.

    Groups in a list are numbered as in the default (``stages.0.steps``), which is how ``--set`` calls them.
    """
    return list(_keys(cls, None, ""))


def dotted(parts: Sequence[str]) -> str:
    """Parts as a key, those that hold a dot in double quotes."""
    return ".".join(f'"{part}"' if "." in part else part for part in parts)


def is_free(annotation: Any) -> bool:
    """Whether it is of a mapping with names that the user chooses, or of anything at all."""
    return annotation is Any or _mapping_values(annotation) is not None


def key_parts(cls: type[BaseModel], key: str, within: Any = None) -> list[str]:
    """A dotted key as its parts: it is cut at the dots between settings, never inside a name that the user chose.

    Of a free mapping the name is all that follows, or where its values are groups of settings, all up to the first dot
    before one of these. A name in double quotes is taken as it stands.

    Args:
        cls: of all settings. within: the annotation of what the key is relative to; None: ``cls``.

    Raises:
        ValueError: an empty part or an open quote.
    """
    parts: list[str] = []
    annotation, rest = within or cls, key
    while True:
        part, rest = _first_part(annotation, rest, cls)
        if not part:
            raise ValueError("has an empty part")
        parts.append(part)
        if not rest:
            return parts
        annotation, rest = below(annotation, part, cls), rest[1:]


def below(annotation: Any, part: str, root: type[BaseModel]) -> Any:
    """The annotation of what lies under ``part``: ``root`` for overrides of the settings themselves, else its own, or
    ``object`` where nothing is known of it."""
    if annotation is Any:
        return Any
    if (values := _mapping_values(annotation)) is not None:
        return root if _mapping_values(values) is not None else values
    fields = [group.model_fields[part].annotation for group in _groups(annotation) if part in group.model_fields]
    if fields:
        return Union[tuple(fields)]  # noqa: UP007 (of a number known only when it runs)
    items = [get_args(each)[0] for each in _members(annotation) if get_origin(each) in (list, tuple)]
    return items[0] if items and part.isdigit() else object


def _first_part(annotation: Any, text: str, root: type[BaseModel]) -> tuple[str, str]:
    """The first part of a dotted key, and the rest with its leading dot."""
    if text.startswith('"'):
        part, quote, rest = text[1:].partition('"')
        if not quote or rest[:1] not in ("", "."):
            raise ValueError("has a quote that is not closed before a dot or the end")
        return part, rest
    pieces = text.split(".")
    if (values := _mapping_values(annotation)) is None:
        return (text, "") if annotation is Any else (pieces[0], text[len(pieces[0]):])
    groups = _groups(root if _mapping_values(values) is not None else values)
    fields = {name for group in groups for name in group.model_fields}
    length = next((i for i in range(1, len(pieces)) if pieces[i] in fields), len(pieces))
    part = ".".join(pieces[:length])
    return part, text[len(part):]


def _mapping_values(annotation: Any) -> Any:
    """The annotation of a free mapping's values; None for all else."""
    found = [get_args(each) for each in _members(annotation)
             if isinstance(origin := get_origin(each), type) and issubclass(origin, Mapping)]
    return found[0][1] if found and len(found[0]) == 2 else None


def _members(annotation: Any) -> list[Any]:
    """An annotation, or those of a union."""
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [member for each in get_args(annotation) for member in _members(each)]
    return [annotation]


def did_you_mean(word: str, known: Collection[str]) -> str:
    """``did you mean 'x'?`` or, when nothing is near, what there is at that place.

    Names may be dotted: the word may then also be a group of them, or the last part of one.
    """
    group, dot, leaf = word.rpartition(".")
    inside = _children(group + dot, known)
    siblings = {child: f"{group}.{child}" for child in inside}
    near = _nearest(leaf, siblings) if dot and inside else _anywhere(word, known)
    if near:
        return f"did you mean '{near}'?"
    return f"there is {', '.join(inside or _children('', known)) or 'none'}"


def _anywhere(word: str, known: Collection[str]) -> str | None:
    leaves = {name.rpartition(".")[2]: name for name in reversed(list(known))}
    groups = [name.rpartition(".")[0] for name in known if "." in name]
    whole = _nearest(word, {name: name for name in (*groups, *known)})
    return leaves.get(word) or whole or _nearest(word.rpartition(".")[2], leaves)


def _nearest(word: str, names: Mapping[str, str]) -> str | None:
    return next((names[near] for near in get_close_matches(word, names, n=1)), None)


def _children(prefix: str, known: Collection[str]) -> list[str]:
    below = (name.removeprefix(prefix) for name in known if name.startswith(prefix))
    return list(dict.fromkeys(name.partition(".")[0] for name in below))


def type_words(annotation: Any, metadata: Collection[Any] = ()) -> str:
    """A type annotation for a person to read: ``whole number >= 1``, ``list of number``, ``cpu|cuda``."""
    constraints = [bound for item in metadata for bound in (item, *getattr(item, "metadata", ()))]
    bounds = [
        f"{sign} {getattr(bound, name):g}"
        for bound in constraints
        for name, sign in _BOUNDS.items()
        if getattr(bound, name, None) is not None
    ]
    words, null, nothing = _plain_words(annotation).partition(" or null")  # the bounds are not those of null
    return f"{words} {', '.join(bounds)}".rstrip() + null + nothing


def _plain_words(annotation: Any) -> str:
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_words(args[0], args[1:])
    if origin is Literal:
        return "|".join(map(str, args))
    if origin in (Union, UnionType):
        return " or ".join(map(_plain_words, args))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return f"group of {_plain_words(args[1])}"
    if origin is not None:
        return f"list of {' and '.join(_plain_words(arg) for arg in args if arg is not Ellipsis)}"
    return _WORDS.get(annotation) or getattr(annotation, "__name__", str(annotation)).lower()


def _keys(cls: type[BaseModel], instance: Any, prefix: str) -> Iterator[Key]:
    """The keys of ``cls``; defaults are those of ``instance``, where an outer group gives its own."""
    for name, field in cls.model_fields.items():
        given = isinstance(instance, cls)
        default = getattr(instance, name) if given else field.get_default(call_default_factory=True)
        if isinstance(default, tuple | list) and default and isinstance(default[0], BaseModel):
            groups = _groups(get_args(field.annotation)[0])
            for index, item in enumerate(default):
                yield from _group_keys(groups, item, f"{prefix}{name}.{index}.")
        elif groups := _groups(field.annotation):
            yield from _group_keys(groups, default, f"{prefix}{name}.")
        else:
            words = type_words(field.annotation, field.metadata)
            yield Key(f"{prefix}{name}", words, default, field.description or "")


def _group_keys(groups: list[type[BaseModel]], default: Any, prefix: str) -> Iterator[Key]:
    """The keys of one group, or of all that a ``kind`` chooses from: the default's first, each key once."""
    variants: dict[str, list[tuple[str, Key]]] = {}
    for group in sorted(groups, key=lambda group: not isinstance(default, group)):
        kind = type_words(group.model_fields[KIND].annotation) if KIND in group.model_fields else ""
        for key in _keys(group, default, prefix):
            variants.setdefault(key.name, []).append((kind, key))
    for name, found in variants.items():
        key = found[0][1]
        if name == prefix + KIND:
            yield key._replace(type="|".join(kind for kind, _ in found))
        elif len(found) == len(groups):
            yield key
        else:
            yield key._replace(help="; ".join(f"{kind}: {variant.help}" for kind, variant in found))


def _groups(annotation: Any) -> list[type[BaseModel]]:
    """The config classes that an annotation allows."""
    if get_origin(annotation) in (Annotated, Union, UnionType):
        return [group for argument in get_args(annotation) for group in _groups(argument)]
    return [annotation] if isinstance(annotation, type) and issubclass(annotation, BaseModel) else []
