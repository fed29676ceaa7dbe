"""What settings exist: the keys of a config class, their types in words, and the nearest to a misspelling."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
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
