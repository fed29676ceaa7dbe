"""Measure what your recogniser's templates give away: any network that turns a face into a vector.

    python examples/measure_templates.py --out runs/templates        # procedural faces, some minutes on two cores

Here the recogniser is a network in memory; `model` may also be the path of a TorchScript or .pt2 program, FILE.py:NAME
or, without gradients, a function of images or an .onnx file.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

import latentprint as lp
from latentprint.models.assets import load_asset

#: What the recogniser is to be shown: the face in an image (top, left, bottom, right as fractions), in [-1, 1].
LOOK = {"crop": [0.1875, 0.125, 0.9375, 0.875], "input_size": 48, "mean": [0.5], "std": [0.5]}


def shipped() -> torch.nn.Module:
    """A recogniser as a vendor has it: faces of 48 x 48 in [-1, 1] to 512 numbers, of no particular length."""
    packaged: Any = load_asset("teacher")
    return torch.nn.Sequential(packaged.trunk, packaged.head).eval()


def main() -> None:
    parser = argparse.ArgumentParser(description="Invert the templates of a recogniser of one's own.")
    parser.add_argument("--preset", default="small")
    parser.add_argument("--out", type=Path, default=Path("runs/templates"))
    given = parser.parse_args()
    report = lp.audit("template", model=shipped(), preprocess=LOOK, protection={"kind": "quantise", "bits": 3},
                      preset=given.preset, out=given.out, resume=given.out.exists(), progress=True)
    report.show()
    print(f"report: {report.path / 'report.html'}")


if __name__ == "__main__":
    main()
