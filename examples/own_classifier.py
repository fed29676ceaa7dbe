"""Audit a classifier of your own: train a stock ResNet-18, describe it in a YAML file, let latentprint attack it.

    python examples/own_classifier.py orl_64.npz --out runs/own
    latentprint audit label --config examples/orl.yaml --set data.private.path=orl_64.npz \
      --set "data.public=[{kind: npz, path: london_64.npz}]" --victim runs/own/victim.yaml --check
    (and once more without --check, which takes minutes)

The pack holds `images`, `labels` and `class_names`. Nothing here knows of latentprint but the split, which the audit
makes alike: the network may only learn from photos that the audit does not hold out.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
import yaml
from safetensors.torch import save_file
from torch import nn
from torchvision.models import resnet18

from latentprint.data.npz import load_npz
from latentprint.data.splits import split_people

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def build(n_classes: int) -> nn.Module:
    """What the audit calls, by `model: examples/own_classifier.py:build`."""
    return resnet18(weights=None, num_classes=n_classes)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a ResNet-18 to be audited.")
    parser.add_argument("pack", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/own"))
    parser.add_argument("--people", type=int, default=20)
    parser.add_argument("--heldout", type=int, default=3, help="photos of each person for the audit alone")
    parser.add_argument("--epochs", type=int, default=30)
    given = parser.parse_args()
    photos = split_people(load_npz(given.pack, 64), given.people, given.heldout, seed=0).private_train
    torch.manual_seed(0)
    network = build(photos.n_classes)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3, weight_decay=1e-2)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    for epoch in range(given.epochs):
        order, right = torch.randperm(len(photos)), 0
        for index in order.split(20):
            x = photos.floats(index)
            x = torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x.flip(3), x)
            x = x.roll((int(torch.randint(-3, 4, ())), int(torch.randint(-3, 4, ()))), (2, 3))
            logits = network((x - mean) / std)
            optimizer.zero_grad()
            F.cross_entropy(logits, photos.labels[index]).backward()
            optimizer.step()
            right += int((logits.argmax(1) == photos.labels[index]).sum())
        if epoch % 10 == 9 or epoch == given.epochs - 1:
            print(f"epoch {epoch + 1}: {right / len(photos):.0%} of training photos")
    given.out.mkdir(parents=True, exist_ok=True)
    save_file(network.state_dict(), given.out / "resnet18.safetensors")
    (given.out / "victim.yaml").write_text(yaml.safe_dump({
        "model": f"{Path(__file__).resolve()}:build", "weights": "resnet18.safetensors",
        "classes": list(photos.names), "mean": MEAN, "std": STD, "crop": [0.0, 0.0, 1.0, 1.0]}))
    print(f"wrote {given.out / 'victim.yaml'}")


if __name__ == "__main__":
    main()
