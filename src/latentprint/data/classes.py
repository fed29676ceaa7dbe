"""Which person each output of a classifier stands for."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from latentprint.errors import UserError


def order_of(classes: Sequence[str], names: Sequence[str], source: str) -> list[int]:
    """The person (index into ``names``) of each class.

    Names are compared in their composed Unicode form. Digits that no person is called by are compared as numbers, for
    YAML reads ``007`` as 7.

    Args:
        source: where the people come from, for messages.

    Raises:
        UserError: a class without photos, a person who is no class, or a class named twice.
    """
    place = {_composed(name): index for index, name in enumerate(names)}
    numbers: dict[int, list[int]] = {}
    for index, name in enumerate(names):
        if name.isdecimal():
            numbers.setdefault(int(name), []).append(index)

    def person(name: str) -> int | None:
        same = numbers.get(int(name), []) if name.isdecimal() else []
        return place.get(_composed(name), same[0] if len(same) == 1 else None)

    order = [person(name) for name in classes]
    absent = [name for name, index in zip(classes, order, strict=True) if index is None]
    others = [name for index, name in enumerate(names) if index not in order]
    faults = []
    if absent:
        faults.append(f"no photos of {_listed(absent)} in {source}, and every class needs some: add them there, or "
                      "mend the name (in quotes, if it looks like a number)")
    if others:
        faults.append(f"{_listed(others)} of {source} {'is' if len(others) == 1 else 'are'} not among the "
                      f"{len(classes)} classes: name all that the model was trained on, in the order of its outputs, "
                      "or take those photos out")
    if faults:
        raise UserError(f"victim.classes: {'; '.join(faults)}")
    found = [index for index in order if index is not None]
    if len(set(found)) < len(found):
        twice = next(name for name, index in zip(classes, found, strict=True) if found.count(index) > 1)
        raise UserError(f"victim.classes: '{twice}' is named twice")
    return found


def numbered(classes: Sequence[str], names: Sequence[str]) -> list[int] | None:
    """The person of each class where people are called by numbers that count the classes, from 0 or 1; else None."""
    if len(set(classes)) < len(classes) or len(classes) != len(names) or {*classes} & {*names}:
        return None
    for first in (0, 1):
        wanted = [str(number) for number in range(first, first + len(classes))]
        if {*wanted} == {*names}:
            return [list(names).index(name) for name in wanted]
    return None


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(f"'{name}'" for name in names[:3]) + more
