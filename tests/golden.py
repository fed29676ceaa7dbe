"""Reports of tiny audits as they once were: what an audit measures and says changes where a commit says so, not before.

A commit that means to change them writes them anew: ``GOLDEN=write pytest tests/test_audit.py ...``, and says why.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from latentprint.report.schema import misfit

FOLDER = Path(__file__).parent / "golden"
#: What says when and how fast, not what was found.
CLOCKS = frozenset({"seconds", "edge_milliseconds"})
#: Within it floats are the same. On another kind of CPU training rounds differently, the difference grows from step to
#: step, and counts and sentences follow: there the keys alone are compared.
CLOSE, CPU = 0.05, torch.backends.cpu.get_cpu_capability()
NUMBER = re.compile(r"-?\d[\d,]*(\.\d+)?(e-?\d+)?")


def check_golden(name: str, out: Path) -> None:
    """Compare the report in ``out`` with the stored one: keys, counts and words exactly, floats nearly; the keys alone
    where the stored one was made on another kind of CPU."""
    text = (out / "report.json").read_text()
    assert misfit(text) == ""
    report = json.loads(text)
    found = _stable({"channels": report["channels"], "warnings": report["warnings"],
                     "manifest": sorted(report["manifest"]), "hashes": sorted(report["manifest"]["hashes"])})
    kept = FOLDER / f"{name}.json"
    if os.environ.get("GOLDEN") == "write":
        kept.write_text(json.dumps({"cpu": CPU, **found}, indent=1, sort_keys=True) + "\n")
    stored = json.loads(kept.read_text())
    if stored.pop("cpu") != CPU:
        stored, found = _keys(stored), _keys(found)
    assert list(_differing(stored, found)) == []


def _keys(value: Any) -> Any:
    """Objects within objects, without what they hold."""
    return {key: _keys(item) for key, item in value.items()} if isinstance(value, dict) else None


def _stable(value: Any) -> Any:
    """Without clocks; in sentences numbers are marks, for they round."""
    if isinstance(value, Mapping):
        return {key: _stable(item) for key, item in value.items() if key not in CLOCKS}
    if isinstance(value, list):
        return [_stable(item) for item in value]
    return NUMBER.sub("#", value) if isinstance(value, str) and " " in value else value


def _differing(kept: Any, found: Any, where: str = "") -> Iterator[str]:
    if isinstance(kept, dict) and isinstance(found, dict):
        for key in {**kept, **found}:
            yield from _differing(kept.get(key, "no such key"), found.get(key, "no such key"), f"{where}.{key}")
    elif isinstance(kept, list) and isinstance(found, list) and len(kept) == len(found):
        for place, pair in enumerate(zip(kept, found, strict=True)):
            yield from _differing(*pair, f"{where}.{place}")
    elif isinstance(kept, float) and isinstance(found, float):
        if found != pytest.approx(kept, rel=CLOSE, abs=CLOSE):
            yield f"{where}: {kept:g} is now {found:g}"
    elif kept != found or type(kept) is not type(found):
        yield f"{where}: {kept!r} is now {found!r}"
