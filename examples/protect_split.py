"""Protect a split model of your own: what does noise, and noise with CEM, cost in accuracy and save in leak?

    python examples/protect_split.py --out runs/split          # procedural faces, some minutes on two cores

Your network is any module; name the last layer that runs on the device, and put your data in `data`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from torch import nn

import latentprint as lp


def build(n_classes: int) -> nn.Module:
    """A small network; `stem` runs on the device, the rest in the cloud."""

    def block(inner: int, outer: int) -> list[nn.Module]:
        return [nn.Conv2d(inner, outer, 3, 2, 1), nn.BatchNorm2d(outer), nn.ReLU()]

    network = nn.Sequential()
    network.add_module("stem", nn.Sequential(*block(3, 32), *block(32, 64)))
    network.add_module("trunk", nn.Sequential(*block(64, 128), *block(128, 128), nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    network.add_module("head", nn.Linear(128, n_classes))
    return network


def main() -> None:
    parser = argparse.ArgumentParser(description="Defences of a split model, side by side.")
    parser.add_argument("--preset", default="small")
    parser.add_argument("--out", type=Path, default=Path("runs/split"))
    given = parser.parse_args()
    noise = {"kind": "noise", "std": 0.05}
    found = lp.compare(
        "feature", model=f"{Path(__file__).resolve()}:build", cut="stem", preset=given.preset, out=given.out,
        resume=given.out.exists(), progress=True, cases={
            "undefended": {}, "noise": {"defences": [noise]},
            "noise and CEM": {"defences": [noise, {"kind": "cem", "weight": 4, "lr_scaled": False}]}})
    found.show()
    print(f"report: {found.path / 'report.html'}")


if __name__ == "__main__":
    main()
