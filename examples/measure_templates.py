"""Measure what your recogniser's templates give away: any network that turns a face into a vector.

    python examples/measure_templates.py --out runs/templates        # procedural faces, some minutes on two cores

Here the recogniser is a TorchScript file, as a vendor might ship one; `model: FILE.py:NAME`, a .pt2 program or, for
scores alone, an .onnx file do as well.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from latentprint.config import load_config
from latentprint.console import summary
from latentprint.models.assets import load_asset
from latentprint.report.html import render_run
from latentprint.template.audit import run_audit
from latentprint.template.presets import PRESETS, TemplateConfig

#: Top, left, bottom, right of the face in a picture, as shares of it.
FACE_BOX = [0.1875, 0.125, 0.9375, 0.875]


def shipped() -> torch.nn.Module:
    """A recogniser as a vendor has it: faces of 48 x 48 in [-1, 1] to 512 numbers, of no particular length."""
    packaged: Any = load_asset("teacher")
    return torch.nn.Sequential(packaged.trunk, packaged.head).eval()


def main() -> None:
    parser = argparse.ArgumentParser(description="Invert the templates of a recogniser of one's own.")
    parser.add_argument("--preset", default="small")
    parser.add_argument("--out", type=Path, default=Path("runs/templates"))
    given = parser.parse_args()
    given.out.parent.mkdir(parents=True, exist_ok=True)
    file = given.out.parent / "recogniser.ts"
    if not file.exists():
        torch.jit.trace(shipped(), torch.rand(2, 3, 48, 48)).save(str(file))
    config = load_config(TemplateConfig, given.preset, presets=PRESETS, sets=[
        f"recogniser.model={file}",  # what it is to be shown is declared once; mean and std of 0.5 are the default
        f"recogniser.crop={FACE_BOX}", "recogniser.input_size=48",
        "protection={kind: quantise, bits: 3}"])
    report = run_audit(config, given.out, given.out.exists())
    print(f"report: {render_run(given.out)}")
    Console().print(*summary(report), sep="\n")


if __name__ == "__main__":
    main()
