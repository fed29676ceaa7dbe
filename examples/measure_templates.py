"""Measure what your recogniser's templates give away: any network that turns a face into a vector.

    python examples/measure_templates.py --out runs/templates        # procedural faces, some minutes on two cores

Here the recogniser is a TorchScript file, as a vendor might ship one; `model: FILE.py:NAME`, a .pt2 program or, for
scores alone, an .onnx file do as well.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import nn

from latentprint.config import load_config
from latentprint.console import summary
from latentprint.models.assets import load_asset
from latentprint.report.html import render_run
from latentprint.template.audit import run_audit
from latentprint.template.presets import PRESETS, TemplateConfig


class Shipped(nn.Module):
    """A recogniser that takes faces of 64 x 64 in [-1, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.network = load_asset("teacher")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(x / 2 + 0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description="Invert the templates of a recogniser of one's own.")
    parser.add_argument("--preset", default="small")
    parser.add_argument("--out", type=Path, default=Path("runs/templates"))
    given = parser.parse_args()
    given.out.parent.mkdir(parents=True, exist_ok=True)
    file = given.out.parent / "recogniser.ts"
    if not file.exists():
        torch.jit.trace(Shipped().eval(), torch.rand(2, 3, 64, 64)).save(str(file))
    config = load_config(TemplateConfig, given.preset, presets=PRESETS, sets=[
        f"recogniser.model={file}",  # its preprocessing is declared once: mean and std of 0.5 are the default
        "protection={kind: quantise, bits: 3}"])
    report = run_audit(config, given.out, given.out.exists())
    print(f"report: {render_run(given.out)}")
    print(*summary(report), sep="\n")


if __name__ == "__main__":
    main()
