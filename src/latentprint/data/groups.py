"""Groups of people, from a table that their keeper made."""

from __future__ import annotations

import csv
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from latentprint.errors import UserError


def read_groups(path: Path, names: Sequence[str]) -> tuple[str, ...]:
    """The group of each person in ``names``, from a CSV file with the columns ``name`` and ``group``.

    Raises:
        UserError: the file cannot be read, lacks a column, names a person twice, or leaves one out.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            if missing := {"name", "group"} - set(rows.fieldnames or ()):
                raise UserError(f"{path}: no column {' and no column '.join(sorted(missing))}; expected name,group")
            pairs = [(_composed(row["name"]), (row["group"] or "").strip()) for row in rows]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: groups cannot be read ({error})") from error
    groups = dict(pairs)
    if len(groups) != len(pairs):
        twice = next(name for i, (name, _) in enumerate(pairs) if name in dict(pairs[:i]))
        raise UserError(f"{path}: person '{twice}' is listed twice")
    if absent := [name for name in names if not groups.get(_composed(name))]:
        more = f" (nor do {len(absent) - 1} more people)" if len(absent) > 1 else ""
        raise UserError(f"{path}: person '{absent[0]}' has no group{more}")
    return tuple(groups[_composed(name)] for name in names)


def _composed(name: str | None) -> str:
    """As folders are called here: without spaces around it, in the composed Unicode form."""
    return unicodedata.normalize("NFC", (name or "").strip())
