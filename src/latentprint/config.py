"""Typed settings: defaults, then a preset, then a YAML file, then ``--set key=value``.

The settings of a run are one frozen :class:`Config`. Everything a user can get wrong in them (a key, a type,
a range, a file) becomes one ``UserError`` sentence that names the dotted key, what was given and what was
expected. Dots separate the levels everywhere; a number picks an item of a list, as in ``stages.2.steps``. A name that
the user chose, such as that of a variant, may hold dots, and stands in double quotes where that is unclear:
``variants."rate 0.05".split.cut``.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import re
from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from latentprint.complaints import Layer, sentence, shown
from latentprint.errors import UserError
from latentprint.keys import KIND, Key, below, describe, did_you_mean, is_free, key_parts

__all__ = ["Config", "Given", "Key", "changed", "config_hash", "describe", "load_config", "of_channel",
           "read_given", "to_yaml"]

NO_PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType({})


class Config(BaseModel):
    """A frozen group of settings; groups nest. A field's ``description`` is its help text.

    Strict: text is never read as a number nor 1 as true; a whole number serves where a number is asked for.
    NaN and infinity are refused; ``None`` says "no bound". Where a field takes one of several groups, a key
    ``kind`` tells them apart, and giving another kind than the one there starts that group afresh.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, validate_default=True, allow_inf_nan=False
    )


C = TypeVar("C", bound=Config)


class Given(NamedTuple):
    """A group of settings that an option such as ``--victim FILE`` names a file for."""

    key: str
    file: Path
    content: Any


def read_given(key: str, file: Path, example: str) -> Given:
    """The group of settings of a victim in a YAML file.

    Args:
        key: of the group. example: a setting of it, for the message.

    Raises:
        UserError: it cannot be read or holds no settings.
    """
    try:
        content = _parse(file.read_text(encoding="utf-8"), f"--victim {file}")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--victim {file} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UserError(f"--victim {file}: expected settings such as '{example}', got {shown(content)}")
    return Given(key, file, content)


def load_config(
    cls: type[C],
    preset: str | None = None,
    file: Path | None = None,
    sets: Sequence[str] = (),
    channel: str = "config",
    presets: Mapping[str, Mapping[str, Any]] = NO_PRESETS,
    given: Sequence[Given] = (),
    overrides: Sequence[Mapping[str, Any]] = (),
) -> C:
    """The settings of one run, later sources over earlier ones.

    Args:
        preset: a key of ``presets``, whose values are nested or dotted overrides; None for the defaults.
        file: a YAML mapping (YAML 1.1, but ``1e-4`` is a number).
        sets: ``key=value`` texts, the value in YAML.
        channel: begins every message.
        given: groups of settings from files of their own, over those of ``file``.
        overrides: nested or dotted settings, later over earlier, as keyword arguments give them.

    Raises:
        UserError: one sentence on the first thing wrong.
    """
    try:
        layers = [] if preset is None else [_preset_layer(cls, preset, presets)]
        layers += [] if file is None else [_file_layer(cls, file)]
        layers += [Layer(f"--victim {path}", _nest({name: content}, cls)) for name, path, content in given]
        layers += [_set_layers(cls, sets), *(Layer("keyword arguments", _nest(each, cls)) for each in overrides)]
        tree = reduce(_merge, (layer.tree for layer in layers), _default_tree(cls))
        return _validated(cls, tree, layers)
    except UserError as error:
        raise UserError(f"{channel}: {error}") from None


def changed(config: C, overrides: Mapping[str, Any], where: str) -> C:
    """The settings with some replaced.

    Args:
        overrides: nested or with dotted keys.
        where: begins every message, for the user to find them.

    Raises:
        UserError: one sentence on the first thing wrong.
    """
    try:
        layer = Layer(where, _nest(overrides, type(config)))
        return _validated(type(config), _merge(config.model_dump(mode="json"), layer.tree), [layer])
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def of_channel(channel: str, module: str, name: str) -> Any:
    """What a channel has under a name that every channel has, in one of its modules; ``{}`` stands for `Label`, ..."""
    return getattr(importlib.import_module(f"latentprint.{channel}.{module}"), name.format(channel.capitalize()))


def to_yaml(config: Config) -> str:
    """The complete settings as YAML, which :func:`load_config` reads back to an equal config."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def config_hash(config: Config) -> str:
    """First 12 hex digits of the SHA-256 of the settings as canonical JSON (sorted keys, no spaces)."""
    text = json.dumps(config.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


# ---- the sources ----

#: Key, equals sign and value; what stands in double quotes belongs to the key.
_SET = re.compile(r'((?:"[^"]*"|[^=])*)(=?)(.*)', re.DOTALL)


class _Loader(yaml.SafeLoader):
    """YAML 1.1 with two traps closed: ``1e-4`` is a number, and a key written twice is an error."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                problem = f"the key '{key.value}' is written twice"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            seen.add(key.value)
        return node


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def _parse(text: str, where: str) -> Any:
    """The YAML ``text`` in JSON's terms: dates become text, keys too."""
    try:
        return json.loads(json.dumps(yaml.load(text, Loader=_Loader), default=str))
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        problem = getattr(error, "problem", None) or error
        raise UserError(f"{where} is not valid YAML: {problem}{place}") from None


def _preset_layer(cls: type[Config], name: str, presets: Mapping[str, Mapping[str, Any]]) -> Layer:
    if name not in presets:
        raise UserError(f"unknown preset '{name}'; {did_you_mean(name, presets)}")
    return Layer(f"preset {name}", _nest(presets[name], cls))


def _file_layer(cls: type[Config], file: Path) -> Layer:
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot read the config file {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"the config file {file} is not UTF-8 text") from None
    content = _parse(text, f"the config file {file}")
    if not isinstance(content, dict | None):
        raise UserError(f"the config file {file} should hold 'key: value' lines, not {shown(content)}")
    return Layer(str(file), _nest(content or {}, cls))


def _set_layers(cls: type[Config], sets: Sequence[str]) -> Layer:
    return Layer("--set", reduce(_merge, (_set_tree(cls, text) for text in sets), {}))


def _set_tree(cls: type[Config], text: str) -> dict[str, Any]:
    found = _SET.match(text)
    assert found is not None  # it matches any text
    key, equals, value = found.groups()
    if not equals or not key.strip():
        raise UserError(f"--set {shown(text)} should be key=value, as in --set seed=1")
    return _nest({key.strip(): _parse(value, f"--set {key.strip()}: {shown(value)}")}, cls)


def _default_tree(cls: type[Config]) -> dict[str, Any]:
    return cls.model_construct().model_dump(mode="json")  # unvalidated: a required key is still missing here


def _nest(overrides: Mapping[str, Any], cls: type[Config]) -> dict[str, Any]:
    """Dotted keys as nested mappings: ``{"a.b": 1, "a": {"c": 2}}`` gives ``{"a": {"b": 1, "c": 2}}``."""
    return _nested(overrides, cls, cls)


def _nested(overrides: Mapping[str, Any], annotation: Any, root: type[Config]) -> dict[str, Any]:
    """As `_nest`, for what a setting of this annotation holds; names of a free mapping are taken whole."""
    tree: dict[str, Any] = {}
    for key, value in overrides.items():
        try:
            parts = [key] if is_free(annotation) else key_parts(root, key, annotation)
        except ValueError as error:
            raise UserError(f"the key '{key}' {error}; keys are written a.b=value or nested") from None
        inner = reduce(lambda outer, part: below(outer, part, root), parts, annotation)
        branch = _nested(value, inner, root) if isinstance(value, Mapping) else value
        for part in reversed(parts):
            branch = {part: branch}
        tree = _merge(tree, branch)
    return tree


def _merge(base: Any, override: Any) -> Any:
    """``override`` over ``base``: mappings by key, ``{"2": ...}`` into item 2 of a list, else replaced.

    A mapping of another kind replaces the one that was there: its other keys would not fit.
    """
    if not isinstance(override, dict):
        return override
    if isinstance(base, list) and override.keys() <= {str(index) for index in range(len(base))}:
        return [_merge(item, override.get(str(index), item)) for index, item in enumerate(base)]
    if isinstance(base, dict) and base.get(KIND) in (None, override.get(KIND, base.get(KIND))):
        return {**base, **{key: _merge(base.get(key), value) for key, value in override.items()}}
    return override


def _validated(cls: type[C], tree: dict[str, Any], layers: Sequence[Layer]) -> C:
    try:
        # As JSON: strict about text and numbers, while a list still makes a tuple and a text a path.
        return cls.model_validate_json(json.dumps(tree, default=str))
    except ValidationError as error:
        raise UserError(sentence(cls, error.errors(), tree, layers)) from None
