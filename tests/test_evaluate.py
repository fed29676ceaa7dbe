"""Scoring on people whose identity is their colour, so that every number is known beforehand."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from latentprint.data.base import ImageSet
from latentprint.data.splits import AuditData
from latentprint.errors import UserError
from latentprint.label import evaluate
from latentprint.label.classifiers import Classifier
from latentprint.label.evaluate import (
    HEADLINE,
    Bench,
    arm_section,
    label_section,
    protocol,
    score,
    score_swaps,
)
from latentprint.label.probe import margin
from latentprint.metrics.distribution import frechet_distance
from latentprint.models.attributes import AttributeNetwork, in_batches
from latentprint.models.preprocess import Preprocess
from latentprint.models.recognisers import embed
from latentprint.probes import gradient_flag
from latentprint.stats import difference_interval, rate_interval
from latentprint.types import Reconstruction
from latentprint.verification import STRICT, calibration_sets, enrol, enrolled
from latentprint.victim import Victim

N = 6
SHADES = torch.linspace(20, 235, N + 8)


class ByShade(nn.Module):
    """Brightness to a unit vector on an arc of 180 degrees: equal shades are equal people. Frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(1))
        self.eval().requires_grad_(False)

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
    return Bench(data, evaluators, recogniser, recogniser, AttributeNetwork().eval().requires_grad_(False), 1000, 0)


def test_swaps_are_compared_with_their_attribute_images() -> None:
    made = bench()
    public, n = made.data.public, len(made.data.public)
    drawn, classes = public.floats(torch.arange(n)), public.labels % N

    def swapped(onto: Tensor) -> Reconstruction:
        return Reconstruction(drawn, classes, torch.arange(n), onto, torch.ones(n), classes,
                              torch.ones(n, dtype=torch.bool), 0, 0, 0.0)

    own = score_swaps(made, swapped(torch.arange(n)), public)
    assert (own.values["attribute_error"] == 0).all() and (own.values["perceptual"] == 0).all()
    shifted = torch.arange(n).roll(1)
    other = score_swaps(made, swapped(shifted), public)
    read = made.features(drawn)
    assert other.values["attribute_error"] == pytest.approx((read - read[shifted]).abs().mean(1).detach().numpy(),
                                                            abs=1e-5)
    assert (other.values["perceptual"] > 0).all()
    none = score_swaps(made, swapped(torch.full((n,), -1)), public)
    assert none.values.keys() == score(made, drawn, classes).values.keys()


def test_known_arms_get_known_numbers() -> None:
    made = bench()
    real, classes = made.data.private_heldout.images, made.data.private_heldout.labels
    wrong = real.roll(2, 0)  # everybody shows the person before
    half = torch.where((torch.arange(len(real)) % 2 == 0).view(-1, 1, 1, 1), real, wrong)
    arms = {name: score(made, images, classes) for name, images in
            {"attack": half, "floor": wrong, "ceiling": real, "prior_ceiling": real, "pseudo_label": wrong}.items()}
    section = label_section(made, arms)
    assert section["ceiling"]["value"] == 1.0 and section["floor"]["value"] == 0.0
    wide = rate_interval([0.5] * N, range(N))
    assert section["attack"] == wide.to_json() and wide.low < 0.4 < 0.6 < wide.high
    assert section["floor"]["high"] == pytest.approx(1 - 0.025 ** (1 / N)) == 1 - section["ceiling"]["low"]
    assert section["leak"]["value"] == pytest.approx(0.5)
    gain = section["gain_over_pseudo_label"]
    assert (gain["value"], gain["n"]) == (0.5, N) and -1 < gain["low"] < 0.5 < gain["high"] < 1
    assert section["grid_caption"].startswith("Shown: the image with the highest victim confidence of each person's 2.")
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
    assert {row["match_rate"] for row in section["per_identity"]} == {None}
    assert {row["ceiling_match_rate"] for row in section["per_identity"]} == {None}
    assert all(row["top1"] == 1.0 for row in section["per_identity"])


def test_selected_pictures_are_a_part_of_all() -> None:
    made = bench()
    heldout = made.data.private_heldout
    arm = score(made, heldout.images, heldout.labels)
    keep = np.arange(len(heldout)) % 2 == 0
    part = arm.take(keep)
    assert len(part.classes) == N and torch.equal(part.images, heldout.images[::2])
    assert np.array_equal(part.values["top1"], arm.values["top1"][keep])


def test_the_gain_is_paired_over_people() -> None:
    """Every person gains one picture of two, whatever the differences between people: what is left is that another
    person might not."""
    made = bench()
    real, classes = made.data.private_heldout.images, made.data.private_heldout.labels
    wrong, easy, second = real.roll(2, 0), (classes < 3).view(-1, 1, 1, 1), (torch.arange(len(real)) % 2 == 1)
    attack = torch.where(easy | second.view(-1, 1, 1, 1), real, wrong)
    baseline = torch.where(easy & ~second.view(-1, 1, 1, 1), real, wrong)
    pictures = {"attack": attack, "pseudo_label": baseline, "floor": wrong, "ceiling": real, "prior_ceiling": real}
    arms = {name: score(made, images, classes) for name, images in pictures.items()}
    section = label_section(made, arms)
    assert section["attack"]["low"] < section["attack"]["value"] == 0.75
    assert section["gain_over_pseudo_label"] == difference_interval([0.5] * N, range(N)).to_json()
    arms["pseudo_label"].values[HEADLINE][:] = np.nan
    assert label_section(made, arms)["gain_over_pseudo_label"]["value"] is None


def test_private_people_are_enrolled_by_as_many_photos_as_the_thresholds_are_for() -> None:
    data = bench().data  # 4 photos of each evaluation person: 2 enrol, 2 probe
    recogniser, train = enrolled(ByShade(), data), data.private_train
    photos = embed(ByShade(), train.images)
    first = torch.arange(len(train)) % 4 < 2
    assert recogniser.photos == 2 and recogniser.people == "evaluation people"
    assert recogniser.calibration.n_impostor == 8 * 3 and recogniser.calibration.n_genuine == 8
    assert torch.equal(recogniser.templates, enrol(photos[first], train.labels[first], N))
    assert torch.equal(recogniser.truth, enrol(photos, train.labels, N))


def test_who_has_fewer_photos_is_enrolled_by_all_of_them() -> None:
    data = bench().data
    few = data.private_train.take(torch.arange(3, len(data.private_train)))  # one photo left of person 0
    assert torch.equal(enrolled(ByShade(), replace(data, private_train=few)).templates[0],
                       embed(ByShade(), few.images)[0])
    assert calibration_sets(replace(data, private_train=data.private_heldout)).photos == 2
    one = data.private_train.take(torch.arange(0, len(data.private_train), 4))
    assert calibration_sets(replace(data, private_train=one)).photos == 1  # a threshold for what there is


def test_without_evaluation_people_private_ones_calibrate_and_public_ones_with_photos_to_spare() -> None:
    alone = replace(bench().data, evaluation=None)  # 2 photos of each public person, 4 make a template
    assert calibration_sets(alone).enrolment.names == alone.private_train.names
    joined = replace(alone, public=people(N, 4, 6, "q"))
    sets = calibration_sets(joined)
    assert sets.people == "private and public people" and sets.photos == 4
    assert sets.enrolment.counts().tolist() == [4] * 10 and sets.probes.counts().tolist() == [2] * 10
    assert enrolled(ByShade(), joined).calibration.n_impostor == 20 * 9


def test_private_people_calibrate_alone_where_they_are_enough() -> None:
    def crowd(n: int, photos: int, prefix: str) -> ImageSet:
        labels = torch.arange(n).repeat_interleave(photos)
        return ImageSet(torch.zeros(len(labels), 3, 4, 4, dtype=torch.uint8), labels,
                        tuple(f"{prefix}{i}" for i in range(n)), prefix)

    def sets(n: int) -> str:
        return calibration_sets(AuditData(crowd(5, 4, "q"), crowd(n, 2, "p"), crowd(n, 1, "p"), None)).people

    assert sets(101) == "private people"  # 101 * 100 comparisons: ten may pass at FMR 1e-3
    assert sets(100) == "private and public people"


def test_the_false_match_rate_in_force_is_counted_on_private_people() -> None:
    made = bench()
    judge, heldout = made.judge, made.data.private_heldout
    slow = [float(embed(ByShade(), heldout.images[i:i + 1])[0] @ judge.templates[j])
            for i in range(len(heldout)) for j in range(N) if j != int(heldout.labels[i])]
    for threshold in (0.8, 0.0, 0.9999):
        judge.calibration.thresholds[STRICT] = threshold
        assert judge.realised_fmr == pytest.approx(np.mean(np.array(slow) > threshold))
    assert judge.warnings() == list(judge.calibration.warnings)  # nobody is taken for another at 0.9999
    judge.calibration.thresholds[STRICT] = -2.0
    assert "in 100.00% of 60 comparisons" in judge.warnings()[-1] and "0.1%" in judge.warnings()[-1]
    judge.calibration.thresholds[STRICT] = float("nan")
    assert judge.realised_fmr is None and judge.warnings() == list(judge.calibration.warnings)


def test_the_judges_section_states_the_realised_rate() -> None:
    made = bench()
    heldout = made.data.private_heldout
    arm = score(made, heldout.images, heldout.labels)
    section = label_section(made, dict.fromkeys(("attack", "floor", "ceiling", "prior_ceiling"), arm))
    assert section["judge"]["realised_fmr"] == {"value": 0.0, "n": 60} and section["judge"]["photos"] == 2
    assert "gain_over_pseudo_label" not in section


def test_frechet_samples_the_larger_side_and_leaves_the_heldout_photos_out() -> None:
    """Twice as many pictures as photos, in the order of people: the first half would show half the people."""
    made = bench()
    train = people(0, N, 12, "p")
    made = replace(made, data=replace(made.data, private_train=train))
    twice = train.images.repeat_interleave(2, 0)
    found = arm_section(made, score(made, twice, train.labels.repeat_interleave(2)))["frechet"]
    assert found["n"] == len(train) == 72 and found["extractor"] == "attribute network, pooled, 32 axes"
    real, _, axes = made.reference
    assert axes.shape == (128, 32) and torch.allclose(axes.T @ axes, torch.eye(32), atol=1e-4)
    first = frechet_distance(in_batches(made.features, twice[:72], "pooled") @ axes, real, "").value
    same = arm_section(made, score(made, train.images, train.labels))["frechet"]["value"]
    assert first is not None and found["value"] < 0.3 * first
    assert same == pytest.approx(0.0, abs=1e-3 * first)
    assert found["gap"] is None and len(made.data.public) < 72  # too few public photos for a distance at equal n


def test_the_gap_is_how_much_nearer_pictures_are_to_public_photos() -> None:
    made = bench()
    private, public = people(0, N, 12, "p"), people(N, N, 12, "q")
    made = replace(made, data=replace(made.data, private_train=private, public=public))
    learned = arm_section(made, score(made, public.images, private.labels))["frechet"]
    true = arm_section(made, score(made, private.images, private.labels))["frechet"]
    assert learned["gap"] == pytest.approx(learned["value"], rel=1e-3) and learned["gap"] > 0
    assert true["gap"] == pytest.approx(-learned["gap"], rel=1e-2) and true["value"] < 1e-3 * learned["value"]


def test_features_of_the_gallery_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made, plain = bench(), evaluate.penultimate
    seen: list[int] = []

    def counted(victim: Victim, images: Tensor) -> Tensor:
        seen.append(len(images))
        return plain(victim, images)

    monkeypatch.setattr(evaluate, "penultimate", counted)
    heldout = made.data.private_heldout
    for _ in range(3):
        score(made, heldout.images, heldout.labels)
    assert sorted(seen) == [len(heldout)] * 6 + [len(made.data.private_train)] * 2


def test_pictures_out_of_range_are_refused() -> None:
    made = bench()
    heldout = made.data.private_heldout
    with pytest.raises(UserError, match=r"pictures to score: .*to 103"):
        score(made, heldout.images.float().clamp(max=200), heldout.labels)


class Linear(nn.Module):
    """Logits linear in the picture: sure of itself at any ``scale``, deaf when it rounds or cuts the graph."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.layer = nn.Linear(3 * 8 * 8, N)
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        x = {"sure": x * 1e6, "rounded": x.round(), "cut": x.detach(), "plain": x}[self.kind]
        return self.layer(x.flatten(1))


@pytest.mark.parametrize(("kind", "deaf"), [("plain", False), ("sure", False), ("rounded", True), ("cut", True)])
def test_masked_gradients_are_flagged(kind: str, deaf: bool) -> None:
    victim = Victim(Linear(kind), N, preprocess=Preprocess())
    images = torch.rand(40, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    flag = gradient_flag(partial(margin, victim), images)
    assert (flag is not None) == deaf and (flag is None or "100%" in flag.message)
    assert victim.queries.forward == 0 and not images.requires_grad


def test_protocol_hash_tells_protocols_apart() -> None:
    made = bench()
    one, same, other = protocol(made, 8, 0.5), protocol(made, 8, 0.5), protocol(made, 9, 0.5)
    assert one["hash"] == same["hash"] != other["hash"]
    with torch.no_grad():
        next(made.judge.network.parameters()).add_(0.1)
    hashes = {one["hash"], protocol(made, 8, 0.5)["hash"]}
    fewer = replace(made, data=replace(made.data, public=people(N, 4, 1, "q")))
    assert len(hashes | {protocol(fewer, 8, 0.5)["hash"]}) == 3
    assert one["fmr"] == 1e-3 and one["public_photos"] == 8 and len(one["judge_weights"]) == 12
    assert one["enrolment"] == "mean embedding of a person's first 2 training photos"


def test_groups_are_counted_each_by_itself() -> None:
    made = bench()
    groups = ("early",) * 2 + ("late",) * (N - 2)
    made = replace(made, data=replace(made.data, private_train=replace(made.data.private_train, groups=groups)))
    real, classes = made.data.private_heldout.images, made.data.private_heldout.labels
    wrong = real.roll(2, 0)
    only_early = torch.where((classes < 2).view(-1, 1, 1, 1), real, wrong)
    pictures = {"attack": only_early, "floor": wrong, "ceiling": real, "prior_ceiling": real}
    section = label_section(made, {name: score(made, images, classes) for name, images in pictures.items()})
    early, late = section["per_group"]
    assert (early["group"], early["n"], late["group"], late["n"]) == ("early", 2, "late", N - 2)
    assert early["leak"]["value"] == early["attack"]["value"] == early["top1"]["value"] == 1.0
    assert late["leak"]["value"] == late["attack"]["value"] == 0.0 and late["ceiling"]["value"] == 1.0
    assert section["attack"]["value"] == pytest.approx(2 / N)


def test_one_group_is_no_comparison() -> None:
    made = bench()
    made = replace(made, data=replace(made.data, private_train=replace(made.data.private_train, groups=("all",) * N)))
    heldout = made.data.private_heldout
    arms = {name: score(made, heldout.images, heldout.labels) for name in
            ("attack", "floor", "ceiling", "prior_ceiling")}
    assert "per_group" not in label_section(made, arms)
