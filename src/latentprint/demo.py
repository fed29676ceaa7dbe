"""``latentprint demo``: the main job on procedural faces, in some minutes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from latentprint.config import load_config
from latentprint.label.audit import run_audit
from latentprint.label.presets import PRESETS, LabelConfig


def run_demo(out: Path, resume: bool = False, preset: str | None = None) -> dict[str, Any]:
    """Audit a small face classifier on the label channel, preset ``demo`` unless told otherwise."""
    config = load_config(LabelConfig, preset or "demo", None, (), "demo", PRESETS)
    return run_audit(config, out, resume)
