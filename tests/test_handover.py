"""The hand-over from teacher to labels, apart from any face."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latentprint.handover import SLOWEST, HandOver, LabelEmbedding
from latentprint.schedules import cosine_lambda, mix


def unit(n: int, dim: int = 16, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(n, dim, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_label_embedding_starts_where_it_is_told_and_stays_on_the_sphere() -> None:
    start = unit(5)
    labels = LabelEmbedding(start)
    classes = torch.arange(5)
    assert torch.allclose(labels(classes), start, atol=1e-6)
    assert torch.allclose(labels.raw(classes).norm(dim=1), torch.ones(5), atol=1e-6)
    for p in labels.parameters():
        nn.init.normal_(p, std=0.1)
    assert torch.allclose(labels(classes).norm(dim=1), torch.ones(5), atol=1e-6)


def test_the_condition_goes_from_teacher_by_mix_to_label() -> None:
    over = HandOver(LabelEmbedding(unit(5)), horizon=4)
    teacher, classes = unit(3, seed=1), torch.tensor([0, 2, 4])
    label = over.labels(classes)

    assert over.step("image") == 0
    first = over.condition(teacher=teacher)
    assert torch.equal(first.embedding, teacher) and first.losses(teacher) == {}

    lams = [over.step("mixed") for _ in range(6)]
    assert lams == pytest.approx([cosine_lambda(p) for p in (0, 0.25, 0.5, 0.75, 1, 1)])
    over.clock.phase = 0.5
    over.step("mixed")
    middle = over.condition(classes, teacher)
    assert torch.allclose(middle.embedding, mix(teacher, label, 0.5))
    assert torch.allclose(middle.losses(teacher)["align"], 2 - 2 * (teacher * label).sum(1), atol=1e-5)
    assert torch.allclose(middle.losses(teacher)["norm"], torch.zeros(3), atol=1e-6)

    assert over.step("label") == 1
    assert torch.allclose(over.condition(classes).embedding, label)


def test_linear_annealing_and_plain_interpolation() -> None:
    over = HandOver(LabelEmbedding(unit(2)), horizon=10, annealing="linear", mixing="lerp")
    assert [over.step("mixed") for _ in range(4)] == pytest.approx([0, 0.1, 0.2, 0.3])
    teacher, classes = unit(2, seed=3), torch.arange(2)
    assert torch.allclose(over.condition(classes, teacher).embedding, 0.7 * teacher + 0.3 * over.labels(classes))


def test_paced_by_the_alignment_lambda_waits_for_the_labels() -> None:
    over = HandOver(LabelEmbedding(unit(2)), horizon=8, pace="alignment", bound=0.2, annealing="linear")
    seen = []
    for alignment in (0.1, 0.4, 10.0, 0.2, float("nan")):
        over.step("mixed")
        seen.append(over.clock.phase)
        over.record(alignment)
    over.step("mixed")
    seen.append(over.clock.phase)
    speeds = [1, 1, 0.5, SLOWEST, 1, 1]  # that of the step after; without an alignment there is nothing to wait for
    assert seen == pytest.approx([sum(speeds[: i + 1]) / 8 for i in range(6)])
    steady = HandOver(LabelEmbedding(unit(2)), horizon=8, bound=0.2)
    steady.record(10.0)
    steady.step("mixed")
    assert steady.clock.phase == 1 / 8


def test_it_is_over_when_lambda_has_arrived_and_the_alignment_is_reached_or_stands_still() -> None:
    over = HandOver(LabelEmbedding(unit(2)), horizon=8, bound=0.2)
    over.lam, over.alignments = 0.98, [1.0] * 40
    assert over.over(0.1) is None
    over.lam = 0.99
    assert over.over(0.1) == "handed over: aligned"
    assert over.over(0.3) == "handed over: alignment no longer falling"
    over.alignments = [2.0 - 0.04 * i for i in range(40)]
    assert over.over(0.3) is None


def test_a_resumed_hand_over_goes_on_where_it_stopped() -> None:
    labels = LabelEmbedding(unit(2))
    unbroken, broken = HandOver(labels, 10, pace="alignment"), HandOver(labels, 10, pace="alignment")
    for over in (unbroken, broken):
        for _ in range(3):
            over.step("mixed")
            over.record(0.3)
        over.horizon *= 2
    resumed = HandOver(labels, 10, pace="alignment")
    resumed.load_state_dict(broken.state_dict())
    assert [resumed.step("mixed") for _ in range(5)] == [unbroken.step("mixed") for _ in range(5)]


def test_a_linear_generator_is_handed_over_without_a_face() -> None:
    """Known answer: the generator returns its condition, each class's inputs spread about a centre. The label of a
    class then comes to rest at the direction of that class's mean, which is what minimises the mean alignment."""
    torch.manual_seed(0)
    centres = unit(4)
    labels = LabelEmbedding(unit(4, seed=9))
    over = HandOver(labels, horizon=150)
    optimizer = torch.optim.Adam(labels.parameters(), 0.02)
    for _ in range(300):
        classes = torch.randint(4, (64,))
        teacher = F.normalize(centres[classes] + 0.1 * torch.randn(64, 16), dim=1)
        over.step("mixed")
        condition = over.condition(classes, teacher)
        losses = condition.losses(teacher)
        picture = (condition.embedding - teacher).square().sum(1)
        loss = (picture + losses["align"] + 0.1 * losses["norm"]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        over.record(float(losses["align"].mean().detach()))
    cosine = (labels(torch.arange(4)) * centres).sum(1)
    assert cosine.min() > math.cos(0.15)
    assert over.over(over.alignments[-1]) is not None
