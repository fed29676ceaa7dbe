"""Several teachers as one, and the margin that makes one of them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from pytorch_metric_learning.losses import ArcFaceLoss, CosFaceLoss
from torch import Tensor, nn

from latentprint.errors import UserError
from latentprint.label.teachers import Teachers, alone, learned_weights, together, translation
from latentprint.losses.identity import identity_cosine
from latentprint.losses.margin import AdaFaceLoss


class Linear(nn.Module):
    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.matrix = nn.Parameter(matrix)

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x.flatten(1) @ self.matrix, dim=1)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_one_teacher_alone_is_itself() -> None:
    network, x, e = Linear(random(12, 8)), random(5, 3, 2, 2, seed=1), F.normalize(random(5, 8, seed=2), dim=1)
    one = alone(network)
    assert torch.equal(one(x), network(x)) and torch.equal(one.of(e), e)


def test_the_joint_cosine_is_the_weighted_mean_of_the_teachers_cosines() -> None:
    networks, matrix = [Linear(random(12, 8)), Linear(random(12, 8, seed=3))], random(8, 8, seed=4)
    weights = torch.tensor([0.7, 0.3])
    several = Teachers(networks, [None, matrix], weights)
    x, e = random(5, 3, 2, 2, seed=1), F.normalize(random(5, 8, seed=2), dim=1)
    expected = 0.7 * (networks[0](x) * e).sum(1) + 0.3 * F.cosine_similarity(networks[1](x), e @ matrix)
    assert torch.allclose(several(x).norm(dim=1), torch.ones(5)) and torch.allclose(several.of(e).norm(dim=1),
                                                                                  torch.ones(5))
    assert torch.allclose(1 - identity_cosine(several(x), several.of(e)), expected, atol=1e-6)


def test_a_translation_between_rotated_spaces_is_the_rotation() -> None:
    rotation, _ = torch.linalg.qr(random(16, 16))
    source = F.normalize(random(4000, 16, seed=1), dim=1)
    found = translation(source, source @ rotation)
    assert torch.allclose(F.normalize(source @ found, dim=1), source @ rotation, atol=1e-3)


def test_a_translation_goes_between_spaces_of_different_sizes() -> None:
    turned = torch.linalg.qr(random(16, 16))[0][:, :6]
    source = F.normalize(random(4000, 16, seed=1), dim=1)
    goal = F.normalize(source @ turned, dim=1)
    found = translation(source, goal)
    assert found.shape == (16, 6) and float(F.cosine_similarity(source @ found, goal).min()) > 0.99
    several = Teachers([Linear(random(12, 16)), Linear(random(12, 6))], [None, found], torch.tensor([0.5, 0.5]))
    assert several(random(5, 3, 2, 2)).shape == several.of(source[:5]).shape == (5, 22)


def test_a_learned_gate_trusts_the_teacher_who_tells_people_apart() -> None:
    labels = torch.arange(200).repeat_interleave(2)
    people = random(200, 16)[labels]
    good = F.normalize(people + 0.1 * random(400, 16, seed=1), dim=1)
    blind = F.normalize(random(400, 16, seed=2), dim=1)
    weights = learned_weights([blind, good], labels)
    assert weights.sum() == pytest.approx(1) and weights[1] > 0.9
    alike = learned_weights([good, good], labels)
    assert torch.allclose(alike, torch.tensor([0.5, 0.5]))


def test_a_learned_gate_needs_people_with_two_photos() -> None:
    networks = [Linear(random(12, 8)), Linear(random(12, 8, seed=1))]
    embeddings = [F.normalize(random(6, 8, seed=seed), dim=1) for seed in (2, 3)]
    with pytest.raises(UserError, match=r"attack\.gate=learned needs public people with several photos"):
        together(networks, embeddings, torch.arange(6), "learned")
    assert together(networks, embeddings, torch.arange(6), "average").roots == pytest.approx([0.5**0.5] * 2)


@pytest.mark.parametrize(("quality", "other"), [(-1.0, "arcface"), (0.0, "cosface")])
def test_adaface_is_arcface_for_a_poor_photo_and_cosface_for_a_middling_one(
    quality: float, other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = AdaFaceLoss(5, 16, margin=0.3, scale=8.0).eval()
    margin = 0.3 * 180 / torch.pi if other == "arcface" else 0.3
    theirs = (ArcFaceLoss if other == "arcface" else CosFaceLoss)(5, 16, margin=margin, scale=8.0)
    theirs.W.data.copy_(ours.W.data)
    x, y = random(12, 16, seed=5), torch.arange(12) % 5
    monkeypatch.setattr(ours, "_quality", lambda norm: torch.full_like(norm, quality))
    assert ours(x, y).item() == pytest.approx(theirs(x, y).item(), rel=1e-4)


def test_adaface_takes_long_embeddings_for_good_photos_and_trains() -> None:
    loss = AdaFaceLoss(5, 16)
    x, y = random(64, 16), torch.arange(64) % 5
    for _ in range(800):
        loss(x, y)  # the running statistics come to those of the batch
    norm = x.norm(dim=1)
    expected = ((norm - norm.mean()) * 0.333 / norm.std()).clamp(-1, 1)
    assert torch.allclose(loss._quality(norm), expected, atol=0.05)
    x.requires_grad_(True)
    loss(x, y).backward()
    assert x.grad is not None and x.grad.isfinite().all() and loss.W.grad is not None
