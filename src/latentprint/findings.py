"""What a look at a machine or at an audit's settings found, a line each."""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    """One finding. ``ok`` is None for what is optional and absent; ``hint`` says how to get it."""

    section: str
    name: str
    found: str
    ok: bool | None = True
    hint: str = ""
