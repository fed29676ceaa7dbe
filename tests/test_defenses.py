"""Defences of the label channel: their losses, their neutrality at strength 0, DP-SGD's promise, and the command."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from latentprint.cli import main
from latentprint.config import load_config
from latentprint.data.base import ImageSet
from latentprint.data.procedural import make_people
from latentprint.defense import Defense
from latentprint.engine.loop import Loop, warm_cosine
from latentprint.engine.run import RunDir
from latentprint.engine.seeds import step_generator
from latentprint.errors import RunFailed, UserError
from latentprint.label import compare
from latentprint.label.classifiers import fit_classifier, load_classifier
from latentprint.label.compare import share_checkpoints
from latentprint.label.defenses import (
    BiDO,
    LabelSmoothing,
    bilateral_dependence,
    defended,
    hidden_layers,
    recorded,
)
from latentprint.label.dpsgd import DPSGD, micro_batches, per_sample_gradients, poisson_sample, private_optimizer
from latentprint.label.presets import DEFEND_PRESETS, PRESETS, LabelConfig
from latentprint.label.privacy import PrivacyPlan, plan_privacy, spent
from latentprint.label.protection import BiDOConfig, DPSGDConfig, LabelSmoothingConfig
from latentprint.label.views import random_views
from latentprint.losses.classification import cross_entropy, smoothed_cross_entropy
from latentprint.losses.dependence import gaussian_gram, hsic, normalised_hsic, squared_distances
from latentprint.models.classifiers import ARCHITECTURES, build
from latentprint.report.build import verdict
from latentprint.report.tables import defence_table
from latentprint.report.view import defence_settings
from latentprint.victim import Victim

N = 3  # people
PHOTOS = 6


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def photos() -> ImageSet:
    return make_people(range(N), PHOTOS)


def settings(*sets: str) -> LabelConfig:
    words = ["victim.steps=4", "victim.batch=8", "save_every=2", "device=cpu", *sets]
    return load_config(LabelConfig, "tiny", None, words, "defend label", PRESETS)


def trained(config: LabelConfig, photos: ImageSet, folder: Path) -> Victim:
    """The victim of ``config``, defended and trained on ``photos``."""
    plain = load_classifier(config, config.victim, "victim", photos)
    victim = defended(plain, config, len(photos), photos.size)
    run = RunDir.open(folder, config.model_dump(mode="json"), (folder / "config.yaml").exists())
    fit_classifier(config, config.victim, victim, photos, photos, run)
    run.close()
    return victim


def weights(victim: Victim) -> list[Tensor]:
    return list(victim.network.state_dict().values())


def same(first: Victim, second: Victim) -> bool:
    return all(torch.equal(a, b) for a, b in zip(weights(first), weights(second), strict=True))


def test_what_a_run_trained_serves_another(photos: ImageSet, tmp_path: Path) -> None:
    first = trained(settings(), photos, tmp_path / "first")
    kept = tmp_path / "first" / "networks" / "victim.safetensors"
    second = trained(settings(f"victim.weights={kept}"), photos, tmp_path / "second")
    assert same(first, second) and not (tmp_path / "second" / "networks").exists()
    fresh = load_classifier(settings(), settings().victim, "victim", photos)
    assert not same(first, fresh)


# ---- HSIC ----


def slow_hsic(x: Tensor, y: Tensor, sigma_x: float, sigma_y: float) -> float:
    """By the definition: ``E k l + E k E l - 2 E (E k)(E l)`` over all pairs, times ``(n / (n - 1))^2``."""
    n = len(x)

    def kernel(a: Tensor, b: Tensor, sigma: float) -> float:
        return math.exp(-float((a - b).square().sum()) / (2 * sigma**2))

    k = [[kernel(x[i], x[j], sigma_x) for j in range(n)] for i in range(n)]
    l = [[kernel(y[i], y[j], sigma_y) for j in range(n)] for i in range(n)]  # noqa: E741
    joint = sum(k[i][j] * l[i][j] for i in range(n) for j in range(n)) / n**2
    margins = sum(map(sum, k)) * sum(map(sum, l)) / n**4
    cross = sum(sum(k[i]) * sum(l[i]) for i in range(n)) / n**3
    return (joint + margins - 2 * cross) * n**2 / (n - 1) ** 2


@given(st.integers(2, 9), st.integers(1, 4), st.floats(0.3, 3), st.integers(0, 99))
def test_hsic_is_its_definition(n: int, dim: int, sigma: float, seed: int) -> None:
    x = torch.randn(n, dim, generator=rng(seed), dtype=torch.float64)
    y = x[:, :1] ** 2 + torch.randn(n, 1, generator=rng(seed + 1), dtype=torch.float64)
    expected = slow_hsic(x, y, sigma, 1.0)
    assert float(hsic(x, y, bandwidth_x=sigma, bandwidth_y=1.0)) == pytest.approx(expected, abs=1e-12)


def test_hsic_of_two_samples_in_closed_form() -> None:
    """Two points at distance d: K - 1 has off-diagonal -a with a = 1 - exp(-d^2 / 2), and HSIC is a_x a_y."""
    x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0], [2.0]])
    expected = (1 - math.exp(-0.5)) * (1 - math.exp(-2.0))
    assert float(hsic(x, y, bandwidth_x=1.0, bandwidth_y=1.0)) == pytest.approx(expected, rel=1e-5)


def test_independent_samples_score_as_their_permutations_do() -> None:
    x, y = torch.randn(100, 2, generator=rng(0)), torch.randn(100, 1, generator=rng(1))
    shuffled = np.array([float(hsic(x, y[torch.randperm(100, generator=rng(s))])) for s in range(100)])
    assert float(hsic(x, y)) < np.quantile(shuffled, 0.99) < 0.01
    dependent = x[:, :1] ** 2 + 0.1 * y  # uncorrelated with x, yet a function of it
    assert float(hsic(x, dependent)) > 2 * shuffled.max()


def test_normalised_hsic_is_1_for_copies_0_for_constants_and_within_0_and_1() -> None:
    x, y = torch.randn(12, 5, generator=rng(0)), torch.randn(12, 3, generator=rng(1))
    assert float(normalised_hsic(x, 7 * x + 3)) == pytest.approx(1, abs=1e-5)
    assert float(normalised_hsic(x, torch.ones(12, 4))) == 0
    assert 0 < float(normalised_hsic(x, y)) < 1
    assert float(normalised_hsic(x, y)) == pytest.approx(float(normalised_hsic(y, x)), rel=1e-5)


def test_hsic_gradients_are_right_and_finite_where_samples_coincide() -> None:
    x = torch.randn(5, 2, generator=rng(0), dtype=torch.float64, requires_grad=True)
    y = torch.randn(5, 2, generator=rng(1), dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: normalised_hsic(x, y, bandwidth_x=1.0), (x,))
    equal = torch.ones(6, 3, requires_grad=True)
    normalised_hsic(equal, torch.randn(6, 2)).backward()
    assert equal.grad is not None and equal.grad.isfinite().all()


def test_distances_and_grams_of_images() -> None:
    # far from the origin, where naive differences of squares are lost
    x = torch.rand(4, 3, 8, 8, generator=rng()) + 100
    assert torch.allclose(squared_distances(x), torch.cdist(x.flatten(1), x.flatten(1)).square(), atol=1e-2)
    gram = gaussian_gram(x)
    assert torch.equal(gram.diagonal(), torch.ones(4)) and ((gram > 0) & (gram <= 1)).all()


# ---- label smoothing ----


@pytest.mark.parametrize("alpha", [0.1, 0.5, 1.0])
def test_positive_smoothing_is_torchs(alpha: float) -> None:
    logits, y = torch.randn(7, 5, generator=rng()), torch.arange(7) % 5
    expected = F.cross_entropy(logits, y, reduction="none", label_smoothing=alpha)
    assert torch.allclose(smoothed_cross_entropy(logits, y, alpha), expected, atol=1e-6)


@pytest.mark.parametrize("alpha", [-0.05, -0.5, -2.0])
def test_negative_smoothing_is_the_cross_entropy_with_negative_labels(alpha: float) -> None:
    logits, y = torch.randn(4, 3, generator=rng()), torch.tensor([0, 2, 1, 1])
    found = smoothed_cross_entropy(logits, y, alpha)
    for i in range(4):
        log_p = logits[i].log_softmax(0)
        target = [(1 - alpha) * (j == y[i]) + alpha / 3 for j in range(3)]
        assert sum(target) == pytest.approx(1)
        expected = -sum(float(t * p) for t, p in zip(target, log_p, strict=True))
        assert float(found[i]) == pytest.approx(expected, abs=1e-5)


def test_no_smoothing_is_the_cross_entropy_bit_for_bit() -> None:
    logits, y = torch.randn(7, 5, generator=rng()), torch.arange(7) % 5
    assert torch.equal(smoothed_cross_entropy(logits, y, 0.0), cross_entropy(logits, y))


def tiny_victim(name: str = "vgg", n: int = N) -> Victim:
    torch.manual_seed(0)
    return Victim(build(name, n), n)


def test_negative_alpha_waits_then_falls_in_a_line() -> None:
    defence = LabelSmoothing(tiny_victim(), LabelSmoothingConfig(strength=0.2))
    assert [defence.alpha(p) for p in (0, 0.49, 0.5)] == [0, 0, 0]
    assert defence.alpha(0.625) == pytest.approx(-0.1)
    assert defence.alpha(0.75) == defence.alpha(1.0) == -0.2
    at_once = LabelSmoothing(tiny_victim(), LabelSmoothingConfig(strength=0.2, start=0.5, full=0.5))
    assert (at_once.alpha(0.49), at_once.alpha(0.5)) == (0, -0.2)
    positive = LabelSmoothing(tiny_victim(), LabelSmoothingConfig(strength=0.2, sign="positive"))
    assert positive.alpha(0.0) == positive.alpha(1.0) == 0.2


class Decay(Defense):
    """The sum of the logits' squares: a term of its own that needs no other loss."""

    def training_term(self, x: Tensor, y: Tensor) -> Tensor:
        return self.logits(x).square().sum(1)


def test_a_term_is_added_to_the_inner_victims_loss() -> None:
    x, y = torch.rand(4, 3, 32, 32, generator=rng()), torch.arange(4) % N
    plain = tiny_victim()
    loss, logits = Decay(tiny_victim(), 0.5).training_loss(x, y)
    assert torch.equal(logits, plain.logits(x))
    assert torch.equal(loss, cross_entropy(logits, y) + 0.5 * logits.square().sum(1))
    assert torch.equal(Decay(tiny_victim(), 0.0).training_loss(x, y)[0], plain.training_loss(x, y)[0])
    smoothed = LabelSmoothing(tiny_victim(), LabelSmoothingConfig(strength=0.2))
    late = Decay(smoothed, 0.5).training_loss(x, y, 0.9)[0]
    assert torch.equal(late, smoothed_cross_entropy(logits, y, -0.2) + 0.5 * logits.square().sum(1))


# ---- BiDO ----


@pytest.mark.parametrize(("name", "layers"), [
    ("vgg", ["stages.0", "stages.1", "stages.2", "stages.3", "hidden"]),
    ("resnet", ["stem", "blocks.0", "blocks.1", "blocks.2", "blocks.3", "blocks.4", "final", "hidden"]),
    ("mixer", ["patches", "blocks.0", "blocks.1", "blocks.2", "hidden"]),
])
def test_hidden_layers_are_the_top_level_blocks(name: str, layers: list[str]) -> None:
    assert list(hidden_layers(build(name, 7), 7)) == layers


def test_named_layers_are_taken_and_unknown_ones_refused() -> None:
    network = build("vgg", 7)
    assert list(hidden_layers(network, 7, ["stages.1", "hidden.2"])) == ["stages.1", "hidden.2"]
    with pytest.raises(UserError, match=r"defence.layers: the victim has no layer 'stage.1'; did you mean 'stages.1'"):
        hidden_layers(network, 7, ["stage.1"])


def test_recording_ends_with_the_context() -> None:
    layer = nn.Linear(2, 2)
    with recorded([layer]) as seen:
        layer(torch.ones(1, 2))
    layer(torch.ones(1, 2))
    assert len(seen) == 1 and not layer._forward_hooks


def test_bido_adds_its_terms_to_the_loss_of_the_same_pass() -> None:
    x, y = torch.rand(8, 3, 32, 32, generator=rng()), torch.arange(8) % N
    defence = BiDO(tiny_victim(), BiDOConfig(strength=0.3, label_ratio=2.0, layers=["stages.0", "hidden"]))
    loss, logits = defence.training_loss(x, y)
    with recorded(defence.layers.values()) as hidden:
        assert torch.equal(defence.victim.logits(x), logits)
    labels = F.one_hot(y, N).float()
    term = sum(float(normalised_hsic(x, z) - 2 * normalised_hsic(z, labels)) for z in hidden)
    assert float(bilateral_dependence(x, y, hidden, N, 2.0)) == pytest.approx(term, abs=1e-5)
    assert torch.allclose(loss, cross_entropy(logits, y) + 0.3 * term, atol=1e-5)


@pytest.mark.parametrize(("ratio", "on_input"), [(0.0, True), (50.0, False)])
def test_bido_lowers_what_layers_know_of_the_input_and_raises_what_they_know_of_the_label(
    ratio: float, on_input: bool
) -> None:
    x, y = torch.rand(16, 3, 32, 32, generator=rng()), torch.arange(16) % N
    defence = BiDO(tiny_victim(), BiDOConfig(strength=1.0, label_ratio=ratio, layers=["hidden"]))
    labels = F.one_hot(y, N).float()

    def dependence() -> float:
        with recorded(defence.layers.values()) as hidden, torch.no_grad():
            defence.logits(x)
        return float(normalised_hsic(hidden[0], x if on_input else labels))

    defence.unfreeze()
    before, optimiser = dependence(), torch.optim.Adam(defence.parameters(), 1e-3)
    for _ in range(5):
        optimiser.zero_grad()
        loss, logits = defence.training_loss(x, y)
        (loss - cross_entropy(logits, y)).mean().backward()
        optimiser.step()
    assert (dependence() < before - 0.01) if on_input else (dependence() > before + 0.01)


# ---- neutrality ----


def reference(config: LabelConfig, photos: ImageSet, folder: Path) -> Victim:
    """The training of an undefended victim, written out."""
    victim, model = load_classifier(config, config.victim, "victim", photos), config.victim
    victim.unfreeze()
    optimizer = torch.optim.AdamW(victim.parameters(), model.lr, weight_decay=5e-2)

    def loss_at(step: int) -> tuple[Tensor, dict[str, Tensor | float]]:
        draws = step_generator(config.seed, "victim", step)
        index = torch.randint(len(photos), (model.batch,), generator=draws)
        x = random_views(photos.floats(index), 1, draws, model.augment).clamp(0, 1)
        return F.cross_entropy(victim.logits(x), photos.labels[index]), {}

    run = RunDir.open(folder, config.model_dump(mode="json"))
    Loop(run, "victim", optimizer, {"model": victim}, model.steps, warm_cosine(model.steps, 50), clip_norm=5.0,
         save_every=config.save_every).fit(loss_at)
    return victim.freeze()


@pytest.mark.parametrize("defence", [
    "defence.kind=none", "defence={kind: label-smoothing, strength: 0}", "defence={kind: bido, strength: 0}",
    "defence={kind: dp-sgd, epsilon: null}",
])
def test_strength_0_is_the_undefended_training_bit_for_bit(defence: str, photos: ImageSet, tmp_path: Path) -> None:
    config = settings(defence)
    assert same(trained(config, photos, tmp_path / "a"), reference(config, photos, tmp_path / "b"))


@pytest.mark.parametrize("defence", ["{kind: label-smoothing, start: 0, full: 0}", "{kind: bido}"])
def test_above_0_the_weights_differ_and_are_finite(defence: str, photos: ImageSet, tmp_path: Path) -> None:
    config = settings(f"defence={defence}")
    victim = trained(config, photos, tmp_path / "a")
    assert not same(victim, reference(config, photos, tmp_path / "b"))
    assert all(value.isfinite().all() for value in weights(victim))
    assert not victim.training and not any(p.requires_grad for p in victim.parameters())


def test_a_defended_victim_keeps_its_role_and_answers_as_its_network() -> None:
    people, config = make_people(range(N), 1), settings("defence.kind=bido")
    victim = defended(load_classifier(config, config.victim, "victim", people), config, 18, 64)
    assert victim.name == "victim"
    assert isinstance(victim, BiDO) and victim.network is victim.victim.module
    x = torch.rand(2, 3, 64, 64)
    assert torch.equal(victim(x), victim.victim(x))


# ---- DP-SGD ----


def plan(noise: float = 0.0, clip: float = 1.0, rate: float = 1.0) -> PrivacyPlan:
    return PrivacyPlan(1.0, 1e-5, clip, noise, rate, 10)


def gradients(clip: float, keep: list[int], expected_batch: int = 1) -> Tensor:
    """The clipped, noiseless gradient that DP-SGD makes of the samples ``keep`` of a fixed batch, flattened."""
    victim = DPSGD(tiny_victim(), plan(clip=clip)).unfreeze()
    x, y = torch.rand(4, 3, 32, 32, generator=rng(1))[keep], (torch.arange(4) % N)[keep]
    optimizer = private_optimizer(torch.optim.SGD(victim.parameters(), 1.0), victim.plan, expected_batch)
    with per_sample_gradients(victim.network):
        optimizer.zero_grad(set_to_none=True)
        victim.training_loss(x.requires_grad_(), y)[0].mean().backward()
        optimizer.pre_step()
    return torch.cat([p.grad.flatten() for p in victim.parameters() if p.grad is not None])


def test_one_photo_moves_the_clipped_gradient_by_at_most_the_clipping_norm() -> None:
    everyone = gradients(0.5, [0, 1, 2, 3])
    for left_out in range(4):
        rest = [i for i in range(4) if i != left_out]
        assert 0.49 < float((everyone - gradients(0.5, rest)).norm()) <= 0.5 + 1e-5
    assert float(gradients(0.5, [2]).norm()) == pytest.approx(0.5, rel=1e-4)


def test_without_clipping_and_noise_it_is_the_ordinary_gradient() -> None:
    found = gradients(1e9, [0, 1, 2, 3], expected_batch=4)
    victim = DPSGD(tiny_victim(), plan()).unfreeze()
    x, y = torch.rand(4, 3, 32, 32, generator=rng(1)), torch.arange(4) % N
    victim.training_loss(x, y)[0].mean().backward()
    expected = torch.cat([p.grad.flatten() for p in victim.parameters() if p.grad is not None])
    assert float((found - expected).norm() / expected.norm()) < 1e-3


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_per_sample_gradients_are_those_of_batches_of_one(name: str) -> None:
    victim = DPSGD(tiny_victim(name), plan()).unfreeze()
    x, y = torch.rand(3, 3, 32, 32, generator=rng(1)), torch.arange(3)
    with per_sample_gradients(victim.network):
        victim.training_loss(x.clone().requires_grad_(), y)[0].mean().backward()
        found = [getattr(p, "grad_sample") for p in victim.parameters()]  # noqa: B009 (set by Opacus)
    for i in range(3):
        victim.zero_grad()
        victim.training_loss(x[i : i + 1], y[i : i + 1])[0].mean().backward()
        for (key, p), each in zip(victim.named_parameters(), found, strict=True):
            assert p.grad is not None
            assert torch.allclose(each[i], p.grad, rtol=1e-3, atol=1e-5 + 1e-3 * float(p.grad.abs().max())), key


def test_noise_has_the_stated_size() -> None:
    victim = DPSGD(tiny_victim(), plan(noise=3.0, clip=0.5)).unfreeze()
    optimizer = private_optimizer(torch.optim.SGD(victim.parameters(), 1.0), victim.plan, 1)
    with per_sample_gradients(victim.network):
        (0 * victim.training_loss(torch.rand(2, 3, 32, 32).requires_grad_(), torch.tensor([0, 1]))[0]).mean().backward()
        optimizer.pre_step()
    noise = torch.cat([p.grad.flatten() for p in victim.parameters() if p.grad is not None])
    assert float(noise.std()) == pytest.approx(1.5, rel=0.01)


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_every_built_in_architecture_can_be_trained_privately(name: str) -> None:
    config = settings("defence.kind=dp-sgd", f"victim.model=builtin:{name}")
    people = make_people(range(N), 1)
    victim = defended(load_classifier(config, config.victim, "victim", people), config, 18, 64)
    kinds = {type(module) for module in victim.modules()}
    assert nn.GroupNorm in kinds and not {nn.BatchNorm1d, nn.BatchNorm2d} & kinds
    assert not any(hasattr(p, "grad_sample") for p in victim.parameters())


def test_poisson_sampling_takes_each_with_the_rate_and_never_nothing() -> None:
    counts = torch.zeros(50)
    for seed in range(400):
        index, weight = poisson_sample(50, 0.2, rng(seed))
        counts[index] += weight
    assert abs(float(counts.mean()) / 400 - 0.2) < 0.01 and counts.min() > 40
    index, weight = poisson_sample(50, 0.0, rng())
    assert (index.tolist(), weight.tolist()) == ([0], [0.0])
    assert poisson_sample(3, 1.0, rng())[0].tolist() == [0, 1, 2]


def test_epsilon_of_the_full_batch_in_closed_form() -> None:
    """With q = 1 the Renyi divergence is ``steps alpha / (2 sigma^2)``; converted by Balle et al. 2020."""
    sigma, steps, delta = 4.0, 10, 1e-5
    orders = [1 + k / 10 for k in range(1, 100)] + list(range(12, 64))
    expected = min(steps * a / (2 * sigma**2) + math.log((a - 1) / a) - math.log(delta * a) / (a - 1) for a in orders)
    assert spent(sigma, 1.0, steps, delta) == pytest.approx(expected, rel=1e-9)


def test_epsilon_grows_with_steps_and_rate_and_falls_with_noise() -> None:
    by_steps = [spent(1.0, 0.05, steps, 1e-5) for steps in (1, 10, 100, 1000)]
    assert by_steps == sorted(by_steps) and by_steps[0] < by_steps[-1]
    assert spent(1.0, 0.01, 100, 1e-5) < spent(1.0, 0.1, 100, 1e-5)
    assert spent(2.0, 0.05, 100, 1e-5) < spent(1.0, 0.05, 100, 1e-5)


@pytest.mark.parametrize("epsilon", [0.5, 8.0, 1000.0])
def test_the_plan_keeps_to_the_budget_and_uses_it(epsilon: float) -> None:
    found = plan_privacy(DPSGDConfig(epsilon=epsilon), 1600, 64, 200)
    assert 0.98 * epsilon <= found.epsilon <= epsilon and found.sample_rate == 0.04
    assert found.strength == pytest.approx(1 / epsilon)


@pytest.mark.parametrize(("changes", "said"), [
    ({"delta": 0.01}, r"defence.delta must be below 1 / 1600 photos \(6.3e-04\), got 0.01"),
    ({"epsilon": 1e-6}, r"defence.epsilon=1e-06 cannot be reached in 200 steps"),
])
def test_promises_that_mean_nothing_or_cannot_be_kept_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        plan_privacy(DPSGDConfig(**changes), 1600, 64, 200)


def test_private_training_is_repeatable_resumable_and_says_what_it_spent(
    photos: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings("defence={kind: dp-sgd, epsilon: 5}")
    first = trained(config, photos, tmp_path / "a")
    assert isinstance(first, DPSGD) and 4.9 < first.privacy["epsilon"] <= 5 and first.privacy["unit"] == "photo"
    draw, calls = poisson_sample, iter(range(99))

    def cut_short(*args: Any) -> tuple[Tensor, Tensor]:
        if next(calls) == 3:
            raise RunFailed("cut short")
        return draw(*args)

    monkeypatch.setattr("latentprint.label.dpsgd.poisson_sample", cut_short)
    with pytest.raises(RunFailed):
        trained(config, photos, tmp_path / "b")
    assert same(first, trained(config, photos, tmp_path / "b"))
    assert next(calls) == 6  # three steps, the cut, and two from the checkpoint on
    other = trained(config.model_copy(update={"seed": 1}), photos, tmp_path / "c")
    assert not same(first, other)


def expected_of_micro_batches(accumulate: int, batch: int) -> float:
    """Epsilon of 4 steps at the noise of the training, by Opacus's accountant: what each photo is really exposed to."""
    from opacus.accountants import RDPAccountant

    accountant = RDPAccountant()
    noise = plan_privacy(DPSGDConfig(epsilon=5.0), N * PHOTOS, batch * accumulate, 4).noise_multiplier
    for _ in range(4):
        accountant.step(noise_multiplier=noise, sample_rate=batch * accumulate / (N * PHOTOS))
    return float(accountant.get_epsilon(1e-5))


def test_epsilon_of_micro_batches_is_that_of_the_sample_they_are_cut_from(
    photos: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw, rates = poisson_sample, []

    def recorded_sample(n: int, rate: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        rates.append(rate)
        return draw(n, rate, generator)

    monkeypatch.setattr("latentprint.label.dpsgd.poisson_sample", recorded_sample)
    config = settings("defence={kind: dp-sgd, epsilon: 5}", "victim.batch=4", "accumulate=3")
    victim = trained(config, photos, tmp_path / "a")
    assert isinstance(victim, DPSGD)
    assert rates == [12 / 18] * 4, "one Poisson sample a step, with the rate that is accounted for"
    assert victim.privacy["epsilon"] == pytest.approx(expected_of_micro_batches(3, 4), rel=1e-9)
    assert victim.privacy["sample_rate"] == 12 / 18 and victim.privacy["epsilon"] <= 5


@pytest.mark.parametrize(("noise", "clip"), [(0.0, 0.05), (0.0, 1e6), (1.0, 0.05)])
def test_micro_batches_give_the_weights_of_the_whole_batch(
    noise: float, clip: float, photos: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each photo's gradient is clipped before it is added, and noise is added once: SGD shows gradients as they are."""
    monkeypatch.setattr("latentprint.label.defenses.plan_privacy",
                        lambda *given: replace(plan_privacy(*given), noise_multiplier=noise))
    monkeypatch.setattr("latentprint.label.dpsgd.torch.optim.AdamW",
                        lambda parameters, lr, weight_decay: torch.optim.SGD(parameters, lr))
    defence = f"defence={{kind: dp-sgd, epsilon: 5, max_grad_norm: {clip}}}"
    rate = f"victim.lr={0.1 / min(1.0, clip)}"
    whole, parts = (
        trained(settings(defence, rate, f"victim.batch={batch}", f"accumulate={count}"), photos, tmp_path / str(count))
        for batch, count in ((12, 1), (4, 3)))
    config = settings()
    start = weights(DPSGD(load_classifier(config, config.victim, "victim", photos), plan()))
    moved = [(a - b).double().norm() for a, b in zip(weights(whole), start, strict=True)]
    apart = [(a - b).double().norm() for a, b in zip(weights(whole), weights(parts), strict=True)]
    assert sum(moved) > 1e-3 and float(sum(apart) / sum(moved)) < 1e-3


def test_more_micro_batches_than_photos_leave_empty_ones() -> None:
    images, labels, weight = torch.rand(2, 3, 4, 4), torch.tensor([5, 6]), torch.ones(2)
    parts = list(micro_batches(images, labels, weight, 3))
    assert [(y.tolist(), w.tolist()) for _, y, w in parts] == [([5], [1.0]), ([6], [1.0]), ([5], [0.0])]


class Killed(BaseException):
    """Ends a training as a signal does."""


@pytest.mark.parametrize("defence", [
    "{kind: none}", "{kind: label-smoothing, start: 0.25, full: 0.5}", "{kind: label-smoothing, sign: positive}",
    "{kind: bido}", "{kind: dp-sgd, epsilon: 5}",
])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_training_that_was_killed_ends_like_an_unbroken_one(
    accumulate: int, defence: str, photos: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(f"defence={defence}", "victim.batch=4", f"accumulate={accumulate}")
    whole = trained(config, photos, tmp_path / "whole")
    step, taken = Loop._one, iter(range(99))

    def cut_short(loop: Loop, *given: Any) -> Any:
        if next(taken) == 3:  # a step after the checkpoint
            raise Killed
        return step(loop, *given)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Loop, "_one", cut_short)
        trained(config, photos, tmp_path / "broken")
    assert same(whole, trained(config, photos, tmp_path / "broken"))
    logs = [(tmp_path / each / "metrics.jsonl").read_text() for each in ("whole", "broken")]
    assert logs[0] == logs[1]


# ---- settings ----


@pytest.mark.parametrize(("sets", "said"), [
    (["defence.kind=dp"], "defence.kind"),
    (["defence={kind: label-smoothing, strength: -0.1}"], "defence"),
    (["defence={kind: label-smoothing, start: 0.8}"], r"full \(0.75\) must not be below start \(0.8\)"),
    (["defence={kind: dp-sgd, epsilon: 0}"], "defence.*epsilon"),
])
def test_bad_settings_are_one_sentence(sets: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        settings(*sets)
    assert "\n" not in str(error.value)


def test_a_victim_that_comes_trained_cannot_be_defended(photos: ImageSet) -> None:
    config = settings("defence.kind=bido")
    victim = load_classifier(config, config.victim, "victim", photos)
    given_weights = config.model_copy(update={"victim": config.victim.model_copy(update={"weights": Path("w.pt")})})
    with pytest.raises(UserError, match=r"defence.kind=bido trains the victim, but builtin:vgg comes trained"):
        defended(victim, given_weights, 18, 64)


class StubbornNorm(nn.Module):
    """Batch norm without weights of its own is not replaced."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.head = nn.BatchNorm2d(3, affine=False), nn.Linear(3, N)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(x).mean((2, 3)))


class Uncopied(StubbornNorm):
    """Holds what cannot be pickled."""

    def __init__(self) -> None:
        super().__init__()
        self.function = lambda: None


class Odd(StubbornNorm):
    """Cannot answer."""

    def forward(self, x: Tensor) -> Tensor:
        raise ValueError("odd")


class Shared(StubbornNorm):
    """Uses a weight beside its layer, where no hook sees it."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.mean((2, 3))) + (1 + x.mean((2, 3))) @ self.head.weight.T


@pytest.mark.parametrize(("network", "said"), [
    (StubbornNorm, "mixes the photos of a batch"), (Uncopied, "cannot be copied"), (Odd, "cannot be trained so"),
    (Shared, "'s gradients cannot be had photo by photo"),
])
def test_a_network_that_dp_sgd_cannot_train_is_refused(network: type[nn.Module], said: str) -> None:
    config = settings("defence.kind=dp-sgd")
    with pytest.raises(UserError, match=f"defence.kind=dp-sgd: this network ?{said}"):
        defended(Victim(network(), N), config, 18, 64)


# ---- the command ----

FAST = ["victim.steps=4", "evaluators.0.steps=2", "evaluators.1.steps=2", "threads=1", "resamples=1000", "device=cpu",
        *(f"attack.stages.{i}.{key}=2" for i in range(3) for key in ("steps", "min_steps"))]  # fmt: skip


def command(out: Path, *more: str, sets: tuple[str, ...] = ()) -> list[str]:
    words = ["defend", "label", "--preset", "tiny", "--out", str(out), *more]
    return words + [word for text in (*FAST, *sets) for word in ("--set", text)]


def test_defend_label_compares_and_is_taken_up_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, sets = tmp_path / "run", ("defence.kind=dp-sgd",)
    audits: list[Any] = []
    real: Callable[..., Any] = compare.run_audit

    def one_only(*args: Any) -> Any:
        if audits:
            raise RunFailed("cut short between the audits")
        audits.append(args)
        return real(*args)

    monkeypatch.setattr(compare, "run_audit", one_only)
    assert main(command(out, sets=sets)) == 3
    first = json.loads((out / "undefended" / "report.json").read_text())
    monkeypatch.setattr(compare, "run_audit", real)
    assert main(command(out, sets=sets)) == 2  # holds a run
    assert main(command(out, "--resume", sets=sets)) == 0
    label = json.loads((out / "report.json").read_text())["channels"]["label"]
    undefended = json.loads((out / "undefended" / "report.json").read_text())["channels"]["label"]
    assert undefended["leak"] == first["channels"]["label"]["leak"] and "defence" not in undefended
    found = label["defence"]
    assert found["kind"] == "dp-sgd" and found["strength"] == 1 / 8 and found["settings"]["delta"] == 1e-5
    assert 7.9 < found["epsilon"] <= 8
    for key in ("accuracy", "undefended_accuracy", "accuracy_cost", "leak_reduction"):
        assert {"value", "low", "high", "n"} == set(found[key]), key
    assert found["accuracy"]["value"] == pytest.approx(label["victim"]["accuracy"])
    assert found["undefended_accuracy"]["value"] == pytest.approx(undefended["victim"]["accuracy"])
    assert found["accuracy_cost"]["value"] == pytest.approx(
        undefended["victim"]["accuracy"] - label["victim"]["accuracy"])
    assert found["leak_reduction"]["value"] == pytest.approx(undefended["leak"]["value"] - label["leak"]["value"])
    assert found["undefended"]["leak"] == undefended["leak"] and found["undefended"]["attack"] == undefended["attack"]
    assert label["protocol"]["hash"] == undefended["protocol"]["hash"]
    assert label["floor"] == undefended["floor"] and label["ceiling"] == undefended["ceiling"]
    manifests = [json.loads((folder / "manifest.json").read_text())["hashes"] for folder in (out, out / "undefended")]
    assert manifests[0]["evaluator-1"] == manifests[1]["evaluator-1"]
    assert manifests[0]["victim"] != manifests[1]["victim"]
    assert (out / "undefended" / "report.html").exists() and "Undefended" in (out / "report.html").read_text()


def test_the_default_defence_is_negative_smoothing_and_none_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = load_config(LabelConfig, "tiny", None, (), "defend label", DEFEND_PRESETS)
    assert config.defence == LabelSmoothingConfig() and config.defence.sign == "negative"
    assert set(DEFEND_PRESETS) == set(PRESETS) and "defence" not in PRESETS["tiny"]
    assert main(command(tmp_path / "run", sets=("defence.kind=none",))) == 2
    assert "defence.kind is none" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_what_the_defence_cannot_do_is_found_before_the_undefended_audit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(tmp_path / "run", sets=("defence={kind: bido, layers: [head2]}",))) == 2
    assert "defence.layers" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_shared_checkpoints_are_copied_once_and_whole(tmp_path: Path) -> None:
    for name in ("evaluator-1", "adapt-prior", "victim", "stage0"):
        (tmp_path / "a/checkpoints" / name).mkdir(parents=True)
        (tmp_path / "a/checkpoints" / name / "state.json").write_text(name)
    (tmp_path / "b/checkpoints/evaluator-1.new").mkdir(parents=True)  # a copy that was cut short
    share_checkpoints(tmp_path / "a", tmp_path / "b")
    assert {path.name for path in (tmp_path / "b/checkpoints").iterdir()} == {"evaluator-1", "adapt-prior"}
    (tmp_path / "b/checkpoints/evaluator-1/state.json").write_text("kept")
    share_checkpoints(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b/checkpoints/evaluator-1/state.json").read_text() == "kept"


# ---- the report ----


def section(reduction: tuple[float, float, float], cost: tuple[float, float, float]) -> dict[str, Any]:
    def interval(value: float, low: float, high: float) -> dict[str, float]:
        return {"value": value, "low": low, "high": high, "n": 50}

    return {
        "headline": "identity_match_rate", "leak": interval(0.4, 0.3, 0.5), "attack": interval(0.39, 0.3, 0.5),
        "floor": interval(0.0, 0.0, 0.0), "ceiling": interval(0.98, 0.95, 1.0),
        "defence": {"kind": "bido", "strength": 0.05, "settings": {"label_ratio": 10.0},
                    "accuracy": interval(0.95, 0.93, 0.97), "undefended_accuracy": interval(0.98, 0.96, 0.99),
                    "accuracy_cost": interval(*cost), "leak_reduction": interval(*reduction),
                    "undefended": {"leak": interval(0.7, 0.6, 0.8), "attack": interval(0.69, 0.6, 0.8),
                                   "pseudo_label": interval(0.2, 0.1, 0.3)}},
    }  # fmt: skip


@pytest.mark.parametrize(("reduction", "cost", "said"), [
    ((0.3, 0.2, 0.4), (0.03, 0.01, 0.05),
     "The defence lowered the leak from 70% to 40%, at a cost of 3 points of accuracy."),
    ((0.3, 0.2, 0.4), (0.01, 0.005, 0.02),
     "The defence lowered the leak from 70% to 40%, at a cost of 1 point of accuracy."),
    ((-0.3, -0.4, -0.2), (-0.03, -0.05, -0.01),
     "The defence raised the leak from 70% to 40%, and gained 3 points of accuracy."),
    ((0.3, -0.1, 0.5), (0.03, -0.01, 0.05),
     "With the defence the leak is 40% instead of 70%, but the 95% interval of the reduction (-10 to 50 points) holds "
     "zero, with no sure change in accuracy."),
])
def test_the_verdict_says_what_the_defence_bought_and_cost(
    reduction: tuple[float, float, float], cost: tuple[float, float, float], said: str
) -> None:
    assert said in verdict(section(reduction, cost))


def test_a_report_without_a_defence_or_with_half_of_one_stands() -> None:
    full = section((0.3, 0.2, 0.4), (0.03, 0.01, 0.05))
    plain = {key: value for key, value in full.items() if key != "defence"}
    assert "defence" not in verdict(plain) and not defence_table(plain) and defence_settings({}) == ()
    del full["defence"]["accuracy_cost"]
    assert "The defence lowered the leak from 70% to 40%." in verdict(full)
    assert defence_table(full).rows[2].cells[0].missing
    del full["defence"]["undefended"]
    assert "The defence" not in verdict(full) and not defence_table(full)


def test_the_table_shows_cost_beside_leak() -> None:
    full = section((0.3, 0.2, 0.4), (0.03, 0.01, 0.05))
    rows = [[row.label, *(cell.shown for cell in row.cells)] for row in defence_table(full).rows]
    assert rows == [
        ["Undefended", "98%", "70%", "69%", "20%"],
        ["Defended", "95%", "40%", "39%", "not measured"],
        ["Difference", "3.0 pp cost", "30.0 pp reduction", "–", "–"],
    ]
    assert defence_settings(full["defence"]) == (
        ("kind", "bido"), ("strength", "0.05"), ("settings.label_ratio", "10.0"))
