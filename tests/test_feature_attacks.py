"""Attacks on features: linear edge networks whose best attack is known, defences that are seen through, resume."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
import torch.nn.functional as F
from helpers import save_untrained, small_swapper
from torch import Tensor, nn

from latentprint.config import load_config
from latentprint.data.base import ImageSet
from latentprint.data.procedural import make_people
from latentprint.diffusion.loading import FaceTools, load_tools
from latentprint.engine.run import RunDir
from latentprint.engine.seeds import generator
from latentprint.errors import RunFailed, UserError
from latentprint.feature.attacks import base
from latentprint.feature.attacks.base import (
    PROBE,
    Harness,
    Source,
    Spent,
    combined,
    messages,
    sends_alike,
)
from latentprint.feature.attacks.decoder import DecoderAttack
from latentprint.feature.attacks.faces import FaceReader, usual_hole
from latentprint.feature.attacks.gan import CriticTrainer, GANAttack, gradient_penalty
from latentprint.feature.attacks.matching import measure
from latentprint.feature.attacks.optimise import EDGE, OptimiseAttack
from latentprint.feature.attacks.perceptual import PerceptualAttack, RandomFeatures
from latentprint.feature.attacks.prior import PriorAttack
from latentprint.feature.attacks.registry import ATTACKS
from latentprint.feature.attacks.settings import AttackName, AttackSettings, GANConfig
from latentprint.feature.defense import FeatureDefense
from latentprint.feature.victim import SplitVictim
from latentprint.losses.perceptual import feature_distance
from latentprint.losses.pixel import squared_error, total_variation
from latentprint.models.preprocess import Preprocess
from latentprint.models.recognisers import build_recogniser
from latentprint.victim import QueryCounter

PIXELS = 3 * 4 * 4
FAST = {"epochs": 1, "batch": 8, "blocks": 0, "width": 8}


class Noise(FeatureDefense):
    def __init__(self, noise_std: float) -> None:
        super().__init__()
        self.noise_std = noise_std

    def send(self, features: Tensor, rng: torch.Generator | None) -> Tensor:
        return features + self.noise_std * torch.randn(features.shape, generator=rng)


class Dropout(FeatureDefense):
    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def send(self, features: Tensor, rng: torch.Generator | None) -> Tensor:
        return features * (torch.rand(features.shape, generator=rng) >= self.rate)


class KeepTop(FeatureDefense):
    """Half of the features, chosen in each image or in the whole batch."""

    def __init__(self, whole_batch: bool) -> None:
        super().__init__()
        self.whole_batch = whole_batch

    def send(self, features: Tensor, rng: torch.Generator | None) -> Tensor:
        flat = features.flatten() if self.whole_batch else features.flatten(1)
        return features * (features >= flat.median(-1).values.view(-1, *[1] * (features.ndim - 1)))


def linear_victim(weight: Tensor, *defences: FeatureDefense) -> SplitVictim:
    """Pixels in [0, 1] times ``(D, 3 H W)``."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    with torch.no_grad():
        layer.weight.copy_(weight)
    plain = Preprocess(mean=(0, 0, 0), std=(1, 1, 1))
    return SplitVictim(nn.Sequential(nn.Flatten(), layer), nn.Linear(len(weight), 2), 2, preprocess=plain,
                       defences=defences).eval()


def conv_victim(*defences: FeatureDefense, channels: int = 8, stride: int = 4) -> SplitVictim:
    torch.manual_seed(1)
    edge = nn.Sequential(nn.Conv2d(3, channels, stride, stride), nn.Sigmoid())
    return SplitVictim(edge, nn.Sequential(nn.Flatten(), nn.LazyLinear(2)), 2, defences=defences).eval()


def textures(n: int, size: int = 4, seed: int = 0) -> ImageSet:
    """Correlated Gaussian pixels about 0.5, within [0, 1] but for one in a thousand."""
    rng = generator(seed, "textures")
    mixing = torch.randn(3 * size * size, 3 * size * size, generator=generator(0, "mixing")) / (3 * size * size) ** 0.5
    scale = torch.linspace(0.02, 0.25, 3 * size * size)
    pixels = 0.5 + (torch.randn(n, 3 * size * size, generator=rng) * scale) @ mixing
    images = (pixels.clamp(0, 1) * 255).round().to(torch.uint8).view(n, 3, size, size)
    return ImageSet(images, torch.zeros(n, dtype=torch.int64), ("all",), f"textures {seed}")


def soft(n: int) -> ImageSet:
    """Textures without black or white, to which a logistic function only comes near."""
    made = textures(n, seed=1)
    return replace(made, images=64 + made.images // 2)


def harness(path: Path, repeats: int = 1, save_every: int = 100, **changes: Any) -> Harness:
    changes["decoder"] = FAST | changes.get("decoder", {})
    return Harness(AttackSettings.model_validate(changes), RunDir.open(path, {}, resume=True), seed=0, repeats=repeats,
                   save_every=save_every)


def error(images: Tensor, truth: ImageSet) -> float:
    return float((images - truth.floats()).square().mean())


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


# ---- messages ----


def test_combined_averages_and_reads_erased_entries_where_they_are() -> None:
    sent = torch.tensor([[[1.0, 0.0, 0.0], [3.0, 5.0, 0.0]]])
    assert combined(sent).tolist() == [[2.0, 5.0, 0.0]]
    noisy = torch.randn(500, 16, 20)
    assert torch.allclose(combined(noisy), noisy.mean(1), atol=1e-6)
    assert float(combined(noisy).std()) == pytest.approx(1 / 4, rel=0.05)
    assert torch.equal(combined(noisy[:, :1]), noisy[:, 0])


def test_many_masked_messages_are_the_clean_features() -> None:
    victim, x = linear_victim(torch.randn(30, PIXELS), Dropout(0.3)), textures(20).floats()
    sent = messages(victim, x, 16, generator(0))
    assert sent.shape == (20, 16, 30) and victim.queries.forward == 320
    assert torch.allclose(combined(sent), victim.features(x), atol=1e-5)
    assert not torch.equal(sent[:, 0], sent[:, 1])


@pytest.mark.parametrize(("defences", "alike"), [
    ((), True), ((KeepTop(False),), True), ((KeepTop(True),), False), ((Noise(1e-3),), False),
    ((Dropout(0.05),), False), ((Noise(0.0),), True),
])
def test_defences_that_vary_are_told_from_those_that_do_not(defences: tuple[FeatureDefense, ...], alike: bool) -> None:
    victim = conv_victim(*defences)
    assert sends_alike(victim, torch.rand(PROBE, 3, 16, 16), 0) is alike


def test_an_epoch_shows_each_image_once_and_a_fixed_defence_is_asked_once(tmp_path: Path) -> None:
    known, victim = textures(20), linear_victim(torch.randn(6, PIXELS))
    source = Source(harness(tmp_path, repeats=3), victim, known, "it", 6)
    assert len(source) == 3 and source.batch == 6
    batches = [source(step) for step in range(6)]
    for epoch in (batches[:3], batches[3:]):
        assert len(set(torch.cat([batch.index for batch in epoch]).tolist())) == 18
    assert victim.queries.forward == 20 + 20 + 10 + 20  # three looks at 20 images or half of them, then all once
    for batch in batches:
        assert torch.equal(batch.images, known.floats(batch.index))
        assert torch.allclose(batch.sent, victim.features(batch.images), atol=1e-6)


def test_a_random_defence_is_asked_afresh_at_every_step(tmp_path: Path) -> None:
    known, victim = textures(8), linear_victim(torch.eye(PIXELS), Noise(0.1))
    source = Source(harness(tmp_path, repeats=2), victim, known, "it", 8)
    noises = []
    for step in range(4):
        batch = source(step)
        noises.append((batch.sent - victim.features(batch.images).detach())[batch.index.argsort()])
    assert victim.queries.forward == 8 + 8 + 4 + 4 * 8 * 2
    assert all(float((a - b).abs().max()) > 0.01 for a, b in pairwise(noises))
    assert float(torch.stack(noises).std()) == pytest.approx(0.1 / 2**0.5, rel=0.1)
    assert torch.equal(source(2).sent, Source(source.harness, victim, known, "it", 8)(2).sent)


def test_too_much_to_keep_is_asked_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "KEEP_BYTES", 100)
    known, victim = textures(8), linear_victim(torch.randn(6, PIXELS))
    source = Source(harness(tmp_path), victim, known, "it", 4)
    asked = [victim.queries.forward for step in range(3) if source(step)]
    assert [b - a for a, b in pairwise(asked)] == [4, 4]


def test_spent_queries_go_into_the_checkpoint_as_a_difference() -> None:
    queries = QueryCounter(100, 10)
    spent = Spent(queries)
    queries.forward, queries.backward = 130, 11
    state = spent.state_dict()
    other = QueryCounter(7, 0)
    Spent(other).load_state_dict(state)
    assert (other.forward, other.backward) == (37, 1)


def test_the_mean_image() -> None:
    known = textures(600)
    assert torch.allclose(known.mean(), known.floats().mean(0), atol=1e-6)


# ---- the decoder attack ----


def best_linear(known: Tensor, weight: Tensor, noise_var: float) -> tuple[Tensor, Tensor]:
    """The posterior mean of Gaussian pixels: ``(matrix, offset)`` of ``x_hat = z @ matrix + offset``."""
    mean, covariance = known.mean(0), torch.cov(known.T, correction=0)
    gain = torch.linalg.solve(weight @ covariance @ weight.T + noise_var * torch.eye(len(weight)), weight @ covariance)
    return gain, mean - mean @ weight.T @ gain


@pytest.mark.parametrize(("repeats", "scale"), [(1, 1.0), (4, 1e-3)])
def test_a_linear_decoder_reaches_the_posterior_mean(tmp_path: Path, repeats: int, scale: float) -> None:
    weight, noise_std = scale * torch.randn(24, PIXELS, generator=generator(3)), 0.3 * scale
    victim, known, secret = linear_victim(weight, Noise(noise_std)), textures(4000), textures(400, seed=1)
    sent = messages(victim, secret.floats(), repeats, generator(5))
    linear = {"architecture": "linear", "steps": 450, "batch": 256, "lr": 2e-2, "weight_decay": 0.0}
    made = DecoderAttack(harness(tmp_path, repeats, decoder=linear))(victim, known, sent)
    matrix, offset = best_linear(known.floats().flatten(1), weight, noise_std**2 / repeats)
    best = error((combined(sent) @ matrix + offset).view(-1, 3, 4, 4).clamp(0, 1), secret)
    floor = error(known.mean().expand(400, -1, -1, -1), secret)
    assert best < 0.6 * floor
    assert 0.99 * best < error(made.images, secret) < 1.04 * best


def test_an_attack_that_knows_of_dropout_beats_one_that_does_not(tmp_path: Path) -> None:
    weight = torch.randn(PIXELS, PIXELS, generator=generator(3))
    known, secret = textures(3000), textures(300, seed=1)
    defended, plain = linear_victim(weight, Dropout(0.3)), linear_victim(weight)
    sent = messages(defended, secret.floats(), 1, generator(5))
    linear = {"architecture": "linear", "steps": 300, "batch": 128, "lr": 2e-2}
    adaptive = DecoderAttack(harness(tmp_path / "a", decoder=linear))(defended, known, sent)
    naive = DecoderAttack(harness(tmp_path / "b", decoder=linear))(plain, known, sent)
    floor = error(known.mean().expand(300, -1, -1, -1), secret)
    assert error(adaptive.images, secret) < 0.9 * floor < floor < error(naive.images, secret)
    seen = messages(defended, secret.floats(), 8, generator(5))
    again = DecoderAttack(harness(tmp_path / "c", 8, decoder=linear))(defended, known, seen)
    assert error(again.images, secret) < 0.3 * error(adaptive.images, secret)


@pytest.mark.parametrize("loss", ["mse", "l1", "ssim"])
def test_the_published_decoder_learns_under_each_loss(tmp_path: Path, loss: str) -> None:
    known, victim = make_people(range(16), 2, size=32), conv_victim(Noise(0.01))
    sent = messages(victim, known.floats(), 1, generator(5))
    short = {"steps": 60, "batch": 16, "width": 16, "blocks": 1, "loss": loss, "lr": 5e-3}
    made = DecoderAttack(harness(tmp_path, decoder=short))(victim, known, sent)
    assert error(made.images, known) < 0.7 * error(known.mean().expand_as(made.images), known)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 60 and rows[-1]["loss"] < 0.7 * rows[0]["loss"]


def cut(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """Every source breaks at this step."""
    whole = Source.__call__

    def broken(self: Source, step: int) -> Any:
        if step == at:
            raise RunFailed("cut short")
        return whole(self, step)

    monkeypatch.setattr(Source, "__call__", broken)


@pytest.mark.parametrize(("kind", "at"), [(DecoderAttack, 5), (PerceptualAttack, 5), (GANAttack, 14)])
def test_a_resumed_attack_equals_an_unbroken_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int,
                                                 kind: Callable[[Harness], DecoderAttack]) -> None:
    known = make_people(range(12), 1, size=16)
    short: dict[str, Any] = {"decoder": {"steps": 7}, "gan": {"steps": 5, "critic_steps": 3, "batch": 8}}

    def made(folder: str) -> tuple[DecoderAttack, Any]:
        victim, attack = conv_victim(Noise(0.05)), kind(harness(tmp_path / folder, save_every=2, **short))
        return attack, attack(victim, known, messages(victim, known.floats(), 1, generator(5)))

    unbroken, expected = made("a")
    with monkeypatch.context() as patch:
        cut(patch, at)
        with pytest.raises(RunFailed, match="cut short"):
            made("b")
    resumed, found = made("b")
    assert same(unbroken.decoder, resumed.decoder) and torch.equal(expected.images, found.images)
    assert found.n_forward == expected.n_forward > 0
    again, third = made("b")  # finished: nothing is asked, and the count stands
    assert same(again.decoder, resumed.decoder) and third.n_forward == expected.n_forward


def test_queries_of_the_decoder_attack_are_counted(tmp_path: Path) -> None:
    known, victim = make_people(range(12), 1, size=16), conv_victim(Noise(0.05))
    sent = messages(victim, known.floats(), 3, generator(5))
    asked = victim.queries.forward
    made = DecoderAttack(harness(tmp_path, repeats=3, decoder={"steps": 5, "batch": 4}))(victim, known, sent)
    looks = (12 + 12 + 6) + 12 * 3  # does it vary; a batch to measure scales on
    assert (made.n_forward, made.n_backward) == (looks + 5 * 4 * 3, 0)
    assert victim.queries.forward == asked + made.n_forward and made.seconds > 0


def test_bad_input_of_decoder_attacks(tmp_path: Path) -> None:
    known, victim = textures(8, 8), conv_victim()
    sent = messages(victim, known.floats(), 2, None)
    with pytest.raises(ValueError, match="prepared for 1 messages an image, got 2"):
        DecoderAttack(harness(tmp_path))(victim, known, sent)
    with pytest.raises(UserError, match="no known images"):
        DecoderAttack(harness(tmp_path))(victim, known.take(torch.arange(0)), sent[:, :1])
    with pytest.raises(UserError, match=r"decoder\.loss=ssim needs images of at least 11 pixels"):
        DecoderAttack(harness(tmp_path, decoder={"loss": "ssim"}))(victim, known, sent[:, :1])
    with pytest.raises(UserError, match="attack 'perceptual' needs images of at least 16 pixels"):
        PerceptualAttack(harness(tmp_path))(victim, known, sent[:, :1])
    with pytest.raises(ValueError, match="training mode; call eval"):
        DecoderAttack(harness(tmp_path / "b"))(conv_victim().train(), known, sent[:, :1])
    with pytest.raises(ValueError, match="repeats must be at least 1"):
        harness(tmp_path, repeats=0)


# ---- perceptual ----


def test_random_features_are_frozen_repeatable_and_draw_from_nobody() -> None:
    x, state = torch.rand(2, 3, 32, 32), torch.random.get_rng_state()
    network = RandomFeatures(3)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert [tuple(m.shape[1:]) for m in network(x)] == [(16, 16, 16), (32, 8, 8), (64, 4, 4)]
    assert same(network, RandomFeatures(3)) and not same(network, RandomFeatures(4))
    assert not any(p.requires_grad for p in network.parameters())
    assert all(0.1 < float(m.std()) < 10 for m in network(x))


def test_the_perceptual_loss_is_the_decoders_plus_the_distance_in_features(tmp_path: Path) -> None:
    known, victim = make_people(range(4), 1, size=32), conv_victim()
    x, y = torch.rand(2, 4, 3, 32, 32)
    network = RandomFeatures(0)
    for weight in (0.0, 0.3):
        attack = PerceptualAttack(harness(tmp_path, perceptual={"weight": weight, "features": "random"}))
        expected = squared_error(x, y) + weight * feature_distance(network(x), network(y))
        assert torch.allclose(attack.loss(victim, known)(x, y), expected)
        assert attack.extractor_name == "random"


def test_faces_are_measured_by_the_attribute_network_unless_told_otherwise(tmp_path: Path) -> None:
    faces, victim = make_people(range(4), 1, size=32), conv_victim()
    given = Harness(AttackSettings(), RunDir.open(tmp_path, {}, resume=True), 0, extractor=lambda x: [x, x, x])
    for made, known, name in ((harness(tmp_path), faces, "attributes"), (harness(tmp_path), textures(4, 32), "random"),
                              (given, faces, "given")):
        attack = PerceptualAttack(made)
        loss = attack.loss(victim, known)
        assert attack.extractor_name == name
        x = known.floats()
        assert torch.allclose(loss(x, x), torch.zeros(len(known)), atol=1e-6)
        assert float(loss(x, x.flip(0)).min()) > 0


# ---- gan ----


class LinearCritic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.1 * torch.ones(3, 4, 4))

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.weight).flatten(1).sum(1)


def test_the_gradient_penalty_of_a_linear_critic_is_its_norms_distance_from_1() -> None:
    critic = LinearCritic()
    real, fake = torch.rand(2, 5, 3, 4, 4)
    found = gradient_penalty(critic, real, fake, generator(0))
    norm = float(critic.weight.detach().norm())
    assert torch.allclose(found, torch.full((5,), (norm - 1) ** 2))
    found.mean().backward()
    slope = 2 * (norm - 1) * critic.weight.detach() / norm
    assert critic.weight.grad is not None and torch.allclose(critic.weight.grad, slope, atol=1e-6)


def test_a_linear_critic_finds_the_distance_in_closed_form() -> None:
    """``max_w w d - lambda (|w| - 1)^2`` for ``d`` between two points has ``|w| = 1 + |d| / (2 lambda)``."""
    real, fake = torch.rand(2, 1, 3, 4, 4).repeat_interleave(4, 1)
    critic = LinearCritic()
    config = GANConfig(critic_lr=0.02)
    trainer = CriticTrainer(critic, torch.optim.Adam(critic.parameters(), 0.02, (0.5, 0.999)), config)
    for step in range(500):
        distance = trainer.step(real, fake, 1 - step / 500, generator(step))
    gap = float((real[0] - fake[0]).norm())
    assert float(distance) == pytest.approx(gap * (1 + gap / (2 * config.penalty)), rel=0.01)
    assert not critic.weight.requires_grad


def test_the_gan_starts_from_the_decoder_and_steps_its_critic_more_often(tmp_path: Path) -> None:
    known, victim = make_people(range(12), 1, size=16), conv_victim(Noise(0.05))
    short: dict[str, Any] = {"decoder": {"steps": 40, "batch": 12, "lr": 1e-2},
                             "gan": {"steps": 4, "critic_steps": 3, "batch": 6}}
    sent = messages(victim, known.floats(), 1, generator(5))
    made = harness(tmp_path, **short)
    start, attack = DecoderAttack(made), GANAttack(made)
    before, after = start(victim, known, sent), attack(victim, known, sent)
    state = made.run.load("gan")
    assert state is not None
    counts = {int(one["step"]) for one in state["states"]["critic_optimizer"]["state"].values()}
    assert counts == {4 * 3} and {int(one["step"]) for one in state["optimizer"]["state"].values()} == {4}
    assert not same(start.decoder, attack.decoder) and all(p.grad is None for p in victim.parameters())
    assert error(after.images, known) < 1.2 * error(before.images, known)  # the squared error rules at first
    assert after.n_forward == before.n_forward + 12 * 6 + (12 + 12 + 6)  # the decoder's queries count for both


def test_without_epochs_enough_the_gan_still_steps_once(tmp_path: Path) -> None:
    known, victim = make_people(range(6), 1, size=16), conv_victim()
    made = harness(tmp_path, gan={"epochs": 1, "batch": 6})
    GANAttack(made)(victim, known, messages(victim, known.floats(), 1, None))
    state = made.run.load("gan")
    assert state is not None and state["step"] == 1


# ---- white box ----


def orthogonal(n: int, seed: int = 0) -> Tensor:
    return torch.linalg.qr(torch.randn(n, n, generator=generator(seed))).Q


WHITE = {"steps": 600, "starts": 1, "variation": 0.0}


@pytest.mark.parametrize("scale", [1.0, 1e-3, 30.0])
def test_an_invertible_edge_gives_the_image_back(tmp_path: Path, scale: float) -> None:
    victim, known, secret = linear_victim(scale * orthogonal(PIXELS)), textures(50), soft(6)
    sent = messages(victim, secret.floats(), 1, None)
    asked = victim.queries.forward
    made = OptimiseAttack(harness(tmp_path, optimise=WHITE))(victim, known, sent)
    assert torch.allclose(made.images, secret.floats(), atol=1e-3)
    assert made.n_backward == 600 * 6 and made.n_forward == 601 * 6 + PROBE * (1 + 4)
    assert victim.queries.forward == asked + made.n_forward
    assert all(p.grad is None for p in victim.parameters())


def test_pixels_that_do_not_count_stay_where_they_started(tmp_path: Path) -> None:
    known, secret = textures(50), soft(6)
    half = torch.eye(PIXELS)[::2]
    made = OptimiseAttack(harness(tmp_path, optimise=WHITE))(
        linear_victim(half), known, (secret.floats().flatten(1) @ half.T)[:, None])
    pixels, start = made.images.flatten(1), known.mean().clamp(EDGE, 1 - EDGE).flatten()
    assert torch.allclose(pixels[:, 1::2], start[1::2].expand(6, -1), atol=1e-6)
    assert torch.allclose(pixels[:, ::2], secret.floats().flatten(1)[:, ::2], atol=1e-3)


def test_an_orthogonal_projection_gives_back_what_it_kept(tmp_path: Path) -> None:
    """What was sent is matched, whatever the null space holds."""
    rows, secret = orthogonal(PIXELS)[:20], soft(6)
    made = OptimiseAttack(harness(tmp_path, optimise=WHITE))(
        linear_victim(rows), textures(50), (secret.floats().flatten(1) @ rows.T)[:, None])
    assert torch.allclose(made.images.flatten(1) @ rows.T, secret.floats().flatten(1) @ rows.T, atol=5e-3)


def test_total_variation_smooths_what_features_leave_open(tmp_path: Path) -> None:
    half, secret = torch.eye(PIXELS)[::2], soft(6)
    sent = (secret.floats().flatten(1) @ half.T)[:, None]
    rough, smooth = (OptimiseAttack(harness(tmp_path / str(weight), optimise=WHITE | {"variation": weight}))(
        linear_victim(half), textures(50), sent).images for weight in (0.0, 0.5))
    assert (total_variation(smooth) < 0.9 * total_variation(rough)).all()


def test_masks_are_seen_through_where_entries_were_sent_at_least_once(tmp_path: Path) -> None:
    victim, known, secret = linear_victim(orthogonal(PIXELS), Dropout(0.3)), textures(50), soft(6)
    sent = messages(victim, secret.floats(), 16, generator(5))
    attack = OptimiseAttack(harness(tmp_path, repeats=16, optimise=WHITE))
    made = attack(victim, known, sent)
    assert attack.matching.erases
    assert torch.allclose(made.images, secret.floats(), atol=1e-3)


def test_an_entry_never_sent_counts_for_nothing() -> None:
    victim, known = linear_victim(orthogonal(PIXELS), Dropout(0.5)), textures(64)
    matching, x = measure(victim, known, 0), textures(3, seed=1).floats()
    joined = messages(victim, x, 1, generator(5))[:, 0]
    assert torch.allclose(matching(victim, x, joined), torch.zeros(3), atol=1e-6)
    other = textures(3, seed=2).floats()
    held = joined != 0
    expected = ((victim.features(other) - joined).square() * held).sum(1) / held.sum(1) / matching.variance
    assert torch.allclose(matching(victim, other, joined), expected)


@pytest.mark.parametrize(("defence", "erases"), [(Noise(0.1), False), (Dropout(0.2), True), (KeepTop(False), True)])
def test_erasing_is_told_from_features_that_are_zero(defence: FeatureDefense, erases: bool) -> None:
    victim = linear_victim(torch.randn(30, PIXELS), defence)
    victim.edge = nn.Sequential(victim.edge, nn.ReLU())
    found = measure(victim, textures(64), 0)
    index = torch.randperm(64, generator=generator(0, "matching"))[:PROBE]
    variance = victim.features(textures(64).floats(index)).var(0, correction=0).mean()
    assert found.erases is erases and found.variance == pytest.approx(variance.item(), rel=1e-5)


def test_the_start_that_matches_best_is_kept_and_neighbours_do_not_matter(tmp_path: Path) -> None:
    torch.manual_seed(2)
    edge = nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, 40), nn.Tanh(), nn.Linear(40, 24))
    victim, known, secret = SplitVictim(edge, nn.Identity(), 2).eval(), textures(50), textures(5, seed=1)
    sent = victim.features(secret.floats()).detach()[:, None]
    attack = OptimiseAttack(harness(tmp_path, optimise={"steps": 15, "starts": 3, "batch": 2, "start_noise": 0.05}))
    made = attack(victim, known, sent)
    index = torch.arange(5)
    ends = [attack.descend(victim, sent[:, 0], attack.start(index, start)) for start in range(3)]
    losses = torch.stack([loss for _, loss in ends])
    assert len(set(losses.argmin(0).tolist())) > 1  # not always the same start
    for i in range(5):
        assert torch.allclose(made.images[i], ends[int(losses[:, i].argmin())][0][i], atol=1e-5)
    assert torch.allclose(attack.run(victim, sent[:3]), made.images[:3], atol=1e-5)


# ---- the prior ----


def small_tools() -> FaceTools:
    torch.manual_seed(0)
    return FaceTools(small_swapper(), build_recogniser("iresnet").eval().requires_grad_(False))


SHORT: dict[str, Any] = {"decoder": {"architecture": "linear", "steps": 4},
                         "prior": {"encoder_steps": 3, "batch": 4, "ddim_steps": 1}}  # fmt: skip


@pytest.mark.parametrize("size", [32, 64])
def test_the_prior_repaints_the_hole_alone(tmp_path: Path, size: int) -> None:
    known, victim = make_people(range(6), 1, size=size), conv_victim(Noise(0.05))
    attack = PriorAttack(harness(tmp_path, repeats=2, **SHORT), small_tools())
    sent = messages(victim, known.floats(), 2, generator(5))
    made = attack(victim, known, sent)
    start = attack.start(victim, known, sent)
    reach = F.max_pool2d(attack.hole, 5, 1, 2)  # the feathered edge, and what resizing adds
    outside = F.interpolate(reach[None], (size, size), mode="bilinear", antialias=True)[0, 0] == 0
    assert 0.2 < float(outside.double().mean()) < 0.8
    assert torch.allclose(made.images[..., outside], start.images[..., outside], atol=1e-5)
    assert (made.images - start.images)[..., ~outside].abs().flatten(1).mean(1).min() > 0.01
    again = PriorAttack(harness(tmp_path, repeats=2, **SHORT), small_tools())(victim, known, sent)
    assert torch.equal(again.images, made.images) and again.n_forward == made.n_forward


def test_refinement_moves_the_picture_towards_what_was_sent(tmp_path: Path) -> None:
    known, victim = make_people(range(6), 1, size=32), conv_victim()
    sent = messages(victim, known.floats(), 1, None)
    mismatch = []
    for steps in (1, 30):
        changes = copy.deepcopy(SHORT) | {"prior": {**SHORT["prior"], "refine_steps": steps, "stay": 0.0}}
        attack = PriorAttack(harness(tmp_path / str(steps), **changes), small_tools())
        made = attack(victim, known, sent)
        assert attack.matching is not None and made.n_backward == steps * 6
        mismatch.append(attack.matching(victim, made.images, sent[:, 0]))
    assert (mismatch[1] < 0.9 * mismatch[0]).all()


@pytest.mark.parametrize("shape", [(4, 16, 16), (3, 2, 2), (20,)])
def test_the_reader_answers_units_and_every_parameter_gets_a_gradient(shape: tuple[int, ...]) -> None:
    reader = FaceReader(shape, 24)
    embedding, attributes = reader(torch.randn(4, *shape))
    assert embedding.shape == (4, 24) and attributes.shape == (4, 10)
    assert torch.allclose(embedding.norm(dim=1), torch.ones(4), atol=1e-5)
    ((embedding - F.normalize(torch.randn(4, 24), dim=1)).square().sum() + attributes.square().sum()).backward()
    for name, p in reader.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all() and float(p.grad.abs().max()) > 0, name


def test_the_reader_learns_whom_an_undefended_message_shows(tmp_path: Path) -> None:
    known, victim = make_people(range(12), 2, size=64), conv_victim(stride=8)
    changes = copy.deepcopy(SHORT) | {"prior": {"encoder_steps": 60, "batch": 24, "ddim_steps": 1}}
    tools = FaceTools(small_swapper(), load_tools(None, torch.device("cpu")).teacher)
    attack = PriorAttack(harness(tmp_path, **changes), tools)
    attack.fit(victim, known)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row["phase"] == "reader"]
    assert rows[-1]["identity"] < 0.5 * rows[0]["identity"]
    embedding, _ = attack.reader(victim.features(known.floats()))
    wanted = tools.teacher(known.floats())
    assert float((embedding @ wanted.T).argmax(1).eq(torch.arange(24)).double().mean()) > 0.5


def test_the_shipped_networks_draw_faces(tmp_path: Path) -> None:
    known, victim = make_people(range(4), 1, size=64), conv_victim()
    attack = ATTACKS["prior"](harness(tmp_path, **SHORT))
    made = attack(victim, known, messages(victim, known.floats(), 1, None))
    assert made.images.shape == (4, 3, 64, 64)
    # A linear decoder of four steps draws noise; the prior's faces are smoother than what it repaints.
    assert isinstance(attack, PriorAttack)
    start = attack.start(victim, known, messages(victim, known.floats(), 1, None))
    inside = attack.hole[0].bool()
    assert float(made.images[..., inside].diff(dim=-1).abs().mean()) < float(
        start.images[..., inside].diff(dim=-1).abs().mean())


def test_the_usual_hole_is_where_most_known_faces_lie() -> None:
    known = make_people(range(9), 1, size=64)
    assert known.holes is not None
    assert torch.equal(usual_hole(known), (known.holes.double().mean(0) >= 0.5).float())
    assert usual_hole(make_people(range(3), 1, size=32)).shape == (1, 64, 64)
    assert 0.3 < float(usual_hole(textures(2, 64)).mean()) < 0.7


def test_a_prior_made_with_other_networks_is_refused(tmp_path: Path) -> None:
    folder = save_untrained(tmp_path / "assets")
    index = json.loads((folder / "assets.json").read_text())
    index["prior"]["needs"] = {"codec": "0" * 64}
    (folder / "assets.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="trained with another codec"):
        load_tools(folder, torch.device("cpu"))
    del index["prior"]["needs"]
    index["prior"] |= {"kind": "codec", "file": index["codec"]["file"], "sha256": index["codec"]["sha256"]}
    (folder / "assets.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="'codec' and 'prior' must be those"):
        load_tools(folder, torch.device("cpu"))


# ---- the registry and the settings ----


def test_every_name_has_an_attack_of_that_name(tmp_path: Path) -> None:
    assert set(ATTACKS) == set(get_args(AttackName)) == set(AttackSettings.model_fields)
    for name, make in ATTACKS.items():
        assert make(harness(tmp_path)).name == name


@pytest.mark.parametrize(("key", "said"), [
    ("decoder.loss=psnr", "decoder.loss"), ("decoder.architecture=deep", "decoder.architecture"),
    ("decoder.steps=0", "decoder.steps"), ("gan.critic_steps=0", "gan.critic_steps"),
    ("optimise.starts=0", "optimise.starts"), ("prior.guidance=0.5", "prior.guidance"),
    ("perceptual.features=vgg", "perceptual.features"), ("decoder.nosuch=1", "nosuch"),
])
def test_bad_settings_are_one_sentence(key: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        load_config(AttackSettings, sets=(key,))
