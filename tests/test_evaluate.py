"""Scoring on people whose identity is their colour, so that every number is known beforehand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from latentprint.data.base import ImageSet
from latentprint.data.splits import AuditData
from latentprint.label.classifiers import Classifier
from latentprint.label.evaluate import HEADLINE, STRICT, Bench, enrolled, label_section, protocol, score
from latentprint.models.attributes import AttributeNetwork
from latentprint.models.preprocess import Preprocess
from latentprint.victim import Victim

N = 6
SHADES = torch.linspace(20, 235, N + 8)


class ByShade(nn.Module):
    """Brightness to a unit vector on an arc of 180 degrees: equal shades are equal people."""

    def __init__(self) -> None:
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        angle = x.mean((1, 2, 3)) * torch.pi + self.anchor
        flat = torch.zeros(len(x), 512)
        return torch.stack([angle.cos(), angle.sin()], 1) @ torch.eye(2, 512) + flat


class Names(nn.Module):
    """Logits by the nearest shade, on pictures in [-1, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(1))

    def features(self, x: Tensor) -> Tensor:
        return (x.mean((1, 2, 3)) + 1).unsqueeze(1) * 127.5 + self.anchor

    def forward(self, x: Tensor) -> Tensor:
        return -(self.features(x) - SHADES[:N]).abs()


def people(first: int, count: int, photos: int, prefix: str) -> ImageSet:
    labels = torch.arange(count).repeat_interleave(photos)
    level = SHADES[first + labels] + torch.arange(len(labels)) % 2
    images = level.view(-1, 1, 1, 1).expand(-1, 3, 64, 64).to(torch.uint8).clone()
    return ImageSet(images, labels, tuple(f"{prefix}{i}" for i in range(count)), prefix)


def bench() -> Bench:
    private_train, heldout = people(0, N, 4, "p"), people(0, N, 2, "p")
    data = AuditData(people(N, 4, 2, "q"), private_train, heldout, people(N + 4, 4, 4, "e"))
    torch.manual_seed(0)
    evaluators = [Classifier(Victim(Names(), N, preprocess=Preprocess()), name, f"builtin:{name}", 1.0, 12)
                  for name in ("one", "two")]
    recogniser = enrolled(ByShade(), data)
    recogniser.calibration.thresholds[STRICT] = 0.9999
    return Bench(data, evaluators, recogniser, recogniser, AttributeNetwork().eval(), 1000, 0)


def test_known_arms_get_known_numbers() -> None:
    made = bench()
    real, classes = made.data.private_heldout.images, made.data.private_heldout.labels
    wrong = real.roll(2, 0)  # everybody shows the person before
    half = torch.where((torch.arange(len(real)) % 2 == 0).view(-1, 1, 1, 1), real, wrong)
    arms = {name: score(made, images, classes) for name, images in
            {"attack": half, "floor": wrong, "ceiling": real, "prior_ceiling": real, "pseudo_label": wrong}.items()}
    section = label_section(made, arms)
    assert section["ceiling"]["value"] == 1.0 and section["floor"]["value"] == 0.0
    assert section["attack"] == {"value": 0.5, "low": 0.5, "high": 0.5, "n": N}
    assert section["leak"]["value"] == pytest.approx(0.5)
    assert section["metrics"]["top1"]["value"] == 0.5 and section["arms"]["ceiling"]["top1"]["value"] == 1.0
    assert section["arms"]["ceiling"]["feature_distance"]["value"] == pytest.approx(0.0, abs=1e-3)
    assert section["arms"]["floor"]["feature_distance"]["value"] > 10
    assert [row["match_rate"] for row in section["per_identity"]] == [0.5] * N
    assert [row["ceiling_match_rate"] for row in section["per_identity"]] == [1.0] * N


def test_frechet_is_refused_not_zero_when_pictures_are_few() -> None:
    made = bench()
    heldout = made.data.private_heldout
    arm = label_section(made, {name: score(made, heldout.images, heldout.labels) for name in
                               ("attack", "floor", "ceiling", "prior_ceiling")})["arms"]["attack"]
    assert arm["frechet"]["value"] is None and arm["frechet"]["reason"]
    assert "attribute network" in arm["frechet"]["extractor"]


def test_without_a_threshold_the_headline_is_not_measured() -> None:
    made = bench()
    made.judge.calibration.thresholds[STRICT] = float("nan")
    heldout = made.data.private_heldout
    arms = {name: score(made, heldout.images, heldout.labels) for name in
            ("attack", "floor", "ceiling", "prior_ceiling")}
    assert np.isnan(arms["attack"].values[HEADLINE]).all()
    section = label_section(made, arms)
    assert section["attack"]["value"] is None and section["leak"]["value"] is None
    assert section["metrics"]["top1"]["value"] == 1.0


def test_selected_pictures_are_a_part_of_all() -> None:
    made = bench()
    heldout = made.data.private_heldout
    arm = score(made, heldout.images, heldout.labels)
    keep = np.arange(len(heldout)) % 2 == 0
    part = arm.take(keep)
    assert len(part.classes) == N and torch.equal(part.images, heldout.images[::2])
    assert np.array_equal(part.values["top1"], arm.values["top1"][keep])


def test_calibration_uses_evaluation_people_else_private_and_public_ones() -> None:
    made = bench()
    assert enrolled(ByShade(), made.data).calibration.n_impostor == 8 * 3  # 4 people, 2 probes each
    rest = AuditData(made.data.public, made.data.private_train, made.data.private_heldout, None)
    assert enrolled(ByShade(), rest).calibration.n_impostor == (12 + 4) * 9  # 10 people, 16 probes


def test_protocol_hash_tells_protocols_apart() -> None:
    made = bench()
    one, same, other = protocol(made, 8, 0.5), protocol(made, 8, 0.5), protocol(made, 9, 0.5)
    assert one["hash"] == same["hash"] != other["hash"]
