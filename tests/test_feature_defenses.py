"""Defences of split inference: neutral when off, known answers when on, gradients where they belong."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from latentprint.feature.defense import FeatureDefense, Step
from latentprint.feature.defenses.messages import Dropout, Noise, TopK
from latentprint.feature.defenses.nopeek import NoPeek
from latentprint.feature.defenses.patrol import Patrol
from latentprint.feature.defenses.vib import VIB
from latentprint.feature.protection import (
    DropoutConfig,
    NoiseConfig,
    NoPeekConfig,
    PatrolConfig,
    TopKConfig,
    VIBConfig,
)
from latentprint.feature.victim import SplitVictim
from latentprint.losses.dependence import distance_correlation


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def step(images: Tensor, features: Tensor, sent: Tensor | None = None) -> Step:
    labels = torch.zeros(len(images), dtype=torch.int64)
    return Step(images, labels, features, features if sent is None else sent, 0, 0, 0.0, 0.05)


@pytest.mark.parametrize("defence", [
    FeatureDefense(), Noise(NoiseConfig(std=0.0)), Dropout(DropoutConfig(share=0.0)), TopK(TopKConfig(pruned=0.0)),
    NoPeek(NoPeekConfig(weight=0.0)),
])  # fmt: skip
def test_a_defence_that_is_off_changes_nothing(defence: FeatureDefense) -> None:
    features = torch.randn(4, 3, 2, 2)
    assert torch.equal(defence.send(features, rng()), features)
    assert defence.penalty(step(torch.rand(4, 3, 8, 8), features)) is None


@pytest.mark.parametrize("law", ["gaussian", "laplace"])
def test_noise_has_its_standard_deviation_and_law(law: str) -> None:
    features = torch.full((200, 1000), 0.5)
    noise = Noise(NoiseConfig.model_validate({"std": 0.3, "law": law})).send(features, rng()) - features
    assert noise.mean().abs() < 0.003 and noise.std() == pytest.approx(0.3, rel=0.01)
    kurtosis = (noise / 0.3).pow(4).mean()
    assert kurtosis == pytest.approx(3.0 if law == "gaussian" else 6.0, rel=0.05)


def test_random_messages_repeat_with_their_generator_alone() -> None:
    features = torch.randn(4, 3, 2, 2)
    for defence in (Noise(NoiseConfig(std=1.0)), Dropout(DropoutConfig(share=0.5))):
        assert torch.equal(defence.send(features, rng(1)), defence.send(features, rng(1)))
        assert not torch.equal(defence.send(features, rng(1)), defence.send(features, rng(2)))
        assert not torch.equal(defence.send(features, None), defence.send(features, None))


@pytest.mark.parametrize("rescaled", [False, True])
def test_dropout_keeps_a_share_and_rescales_on_request(rescaled: bool) -> None:
    features = torch.ones(100, 1000)
    sent = Dropout(DropoutConfig(share=0.2, rescaled=rescaled)).send(features, rng())
    assert (sent == 0).float().mean() == pytest.approx(0.2, abs=0.005)
    assert sent[sent != 0].unique().tolist() == pytest.approx([1.25 if rescaled else 1.0])


def test_top_k_drops_the_smallest_of_a_message_or_of_the_batch() -> None:
    features = torch.tensor([[1.0, -4.0, 2.0, -3.0], [10.0, 30.0, -20.0, 40.0]], requires_grad=True)
    own = TopK(TopKConfig(pruned=0.5)).send(features, None)
    assert own.tolist() == [[0, -4, 0, -3], [0, 30, 0, 40]]
    all_ = TopK(TopKConfig(pruned=0.5, scope="batch")).send(features, None)
    assert all_.tolist() == [[0, 0, 0, 0], [10, 30, -20, 40]]
    own.sum().backward()
    assert features.grad is not None and features.grad.tolist() == [[0, 1, 0, 1], [0, 1, 0, 1]]


@given(st.floats(0, 0.95), st.integers(2, 40), st.integers(0, 99))
def test_top_k_keeps_the_largest(pruned: float, dim: int, seed: int) -> None:
    features = torch.randn(3, dim, generator=rng(seed))
    sent = TopK(TopKConfig(pruned=pruned)).send(features, None)
    for row, out in zip(features, sent, strict=True):
        kept = out != 0
        assert int((~kept).sum()) == int(pruned * dim)
        assert row[~kept].abs().max() <= row[kept].abs().min() if (~kept).any() else True
        assert torch.equal(out[kept], row[kept])


# ---- distance correlation ----


def slow_distance_correlation(x: Tensor, y: Tensor) -> float:
    """By the definition, entry by entry."""
    def centred(v: Tensor) -> list[list[float]]:
        n = len(v)
        d = [[float((v[i] - v[j]).norm()) for j in range(n)] for i in range(n)]
        rows = [sum(row) / n for row in d]
        return [[d[i][j] - rows[i] - rows[j] + sum(rows) / n for j in range(n)] for i in range(n)]

    a, b = centred(x), centred(y)
    n = len(x)
    covariance, own_x, own_y = (sum(p[i][j] * q[i][j] for i in range(n) for j in range(n)) / n**2
                                for p, q in ((a, b), (a, a), (b, b)))
    return math.sqrt(covariance) / (own_x * own_y) ** 0.25


@given(st.integers(3, 8), st.integers(1, 4), st.integers(0, 99))
def test_distance_correlation_is_its_definition(n: int, dim: int, seed: int) -> None:
    x = torch.randn(n, dim, generator=rng(seed), dtype=torch.float64)
    y = x[:, :1] ** 2 + torch.randn(n, 1, generator=rng(seed + 1), dtype=torch.float64)
    assert float(distance_correlation(x, y)) == pytest.approx(slow_distance_correlation(x, y), abs=1e-3)


def test_distance_correlation_of_copies_constants_and_strangers() -> None:
    x = torch.randn(400, 3, generator=rng(0))
    turn = torch.linalg.qr(torch.randn(3, 3, generator=rng(1)))[0]
    assert float(distance_correlation(x, 2 * x @ turn + 1)) == pytest.approx(1.0, abs=1e-4)
    assert float(distance_correlation(x, torch.randn(400, 3, generator=rng(2)))) < 0.2
    constant = torch.ones(400, 2, requires_grad=True)
    value = distance_correlation(x, constant)
    value.backward()
    assert float(value.detach()) < 0.1 and constant.grad is not None and constant.grad.isfinite().all()


def test_nopeek_adds_the_weighted_dependence() -> None:
    images, features = torch.rand(8, 3, 6, 6, generator=rng()), torch.randn(8, 5, generator=rng(1), requires_grad=True)
    added = NoPeek(NoPeekConfig(weight=0.7)).penalty(step(images, features))
    assert added is not None
    expected = distance_correlation(images, features.detach())
    assert float(added[0].detach()) == pytest.approx(0.7 * float(expected))
    added[0].backward()
    assert features.grad is not None and features.grad.abs().sum() > 0


# ---- networks of their own ----


def test_vib_is_the_divergence_of_a_normal_law_from_the_standard_one() -> None:
    edge = nn.Flatten()
    defence = VIB(VIBConfig(weight=2.0, first_std=0.4))
    assert defence.edge(edge, torch.zeros(1, 3, 2, 2)) is edge
    features = torch.randn(5, 12, generator=rng())
    added = defence.penalty(step(torch.rand(5, 3, 2, 2), features))
    law, standard = torch.distributions.Normal(features, 0.4), torch.distributions.Normal(0.0, 1.0)
    assert added is not None
    divergence = torch.distributions.kl_divergence(law, standard).mean()
    assert float(added[0].detach()) == pytest.approx(2 * float(divergence), rel=1e-4)
    sent = defence.send(torch.zeros(2000, 12), rng())
    assert sent.std().item() == pytest.approx(0.4, rel=0.02)


def test_vib_trains_its_head_through_message_and_penalty() -> None:
    defence = VIB(VIBConfig())
    defence.edge(nn.Identity(), torch.zeros(1, 3, 4, 4))
    features = torch.randn(5, 3, 4, 4, requires_grad=True)
    added = defence.penalty(step(torch.rand(5, 3, 4, 4), features))
    assert added is not None
    (defence.send(features, rng()).square().mean() + added[0]).backward()
    (group,) = defence.joint_parameters()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in group["params"])


def wide_edge() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 40, 3, padding=1), nn.ReLU(), nn.Conv2d(40, 8, 3, padding=1))


def test_patrol_prunes_the_channels_that_matter_least_once_and_late() -> None:
    torch.manual_seed(0)
    defence, inner = Patrol(PatrolConfig(pruned=0.25, at=0.75), epochs=4), wide_edge()
    edge = defence.edge(inner, torch.zeros(1, 3, 8, 8))
    assert edge(torch.rand(2, 3, 8, 8)).shape == (2, 8, 8, 8)
    edge(torch.rand(2, 3, 8, 8)).square().mean().backward()
    first = inner[0]
    assert isinstance(first, nn.Conv2d)
    weight, mask_of = dict(first.named_parameters())["weight_orig"], dict(first.named_buffers())
    assert weight.grad is not None
    scores = (weight * weight.grad).detach().flatten(1).sum(1).abs()
    for epoch in (0, 1):
        defence.after_epoch(epoch, edge)
        assert bool((mask_of["weight_mask"] == 1).all())
    defence.after_epoch(2, edge)
    pruned = dict(first.named_buffers())["weight_mask"].clone()
    dead = (pruned.flatten(1) == 0).all(1)
    assert int(dead.sum()) == 10 and scores[dead].max() <= scores[~dead].min()
    assert dict(first.named_parameters())["weight_orig"] is weight  # which the optimiser goes on training
    defence.after_epoch(3, edge)
    assert torch.equal(dict(first.named_buffers())["weight_mask"], pruned)
    assert not hasattr(inner[2], "weight_mask")  # eight channels: exempt


def test_a_pruned_network_goes_into_a_fresh_one_by_name() -> None:
    first, second = Patrol(PatrolConfig(pruned=0.25), epochs=1), Patrol(PatrolConfig(pruned=0.25), epochs=1)
    edges = [d.edge(wide_edge(), torch.zeros(1, 3, 8, 8)) for d in (first, second)]
    edges[0](torch.rand(2, 3, 8, 8)).square().mean().backward()
    first.after_epoch(0, edges[0])
    edges[1].load_state_dict(edges[0].state_dict())
    x = torch.rand(2, 3, 8, 8)
    assert torch.equal(edges[0].eval()(x), edges[1].eval()(x))


# ---- the victim ----


def test_a_victim_sends_through_all_its_defences_and_counts() -> None:
    edge, cloud = nn.Flatten(), nn.Linear(12, 4)
    defences = (Noise(NoiseConfig(std=0.3)), Noise(NoiseConfig(std=0.4)), TopK(TopKConfig(pruned=0.5)))
    victim = SplitVictim(edge, cloud, 4, defences=defences)
    assert victim.noise_std == pytest.approx(0.5)
    x = torch.rand(6, 3, 2, 2, requires_grad=True)
    sent = victim.release(x, rng(3))
    assert (sent == 0).sum() == 6 * 6 and victim.queries.forward == 6 and victim.queries.backward == 0
    sent.sum().backward()
    assert victim.queries.backward == 6
    assert torch.equal(victim.release(x, rng(3)), sent) and torch.equal(victim(x, rng(3)), cloud(sent))
    assert victim.queries.forward == 12  # answers for the owner are not the adversary's queries
