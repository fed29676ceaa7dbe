"""Surrogates of the class-conditional entropy: slow references, closed forms, and what a learned one gets away with."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.mixture import GaussianMixture
from torch import Tensor, nn

from latentprint.bench.counting import count
from latentprint.bench.published_cem import published_penalty, two_passes
from latentprint.engine.state import load_state, save_state
from latentprint.errors import RunFailed, UserError
from latentprint.surrogates import (
    SURROGATES,
    GatedSurrogate,
    GMMSurrogate,
    Hinge,
    KMeansSurrogate,
    Learned,
    SlotSurrogate,
    Surrogate,
    Threshold,
    learning_rate_scale,
)
from latentprint.surrogates.bank import FeatureBank, by_class
from latentprint.surrogates.clustering import Mixture, fit_mixture, kmeans
from latentprint.surrogates.density import Components, excess, halves
from latentprint.surrogates.groups import classmates
from latentprint.surrogates.learned import Mode

STD = 0.1
SHAPE = (2, 2, 2)
DIM = 8
NAMES = sorted(SURROGATES)
LEARNED: list[Any] = [SlotSurrogate, GatedSurrogate]
MODES: list[Mode] = ["frozen", "joint", "own", "density"]


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def data(n: int, n_classes: int, seed: int = 0, spread: float = 0.1) -> tuple[Tensor, Tensor]:
    """Features around two centres a class, ``(n, 2, 2, 2)``, and labels."""
    centres = torch.rand(n_classes, 2, *SHAPE, generator=rng(7))
    y = torch.randint(n_classes, (n,), generator=rng(seed))
    which = torch.randint(2, (n,), generator=rng(seed + 1))
    return centres[y, which] + spread * torch.randn(n, *SHAPE, generator=rng(seed + 2)), y


def fitted(name: str, n_classes: int = 4, **options: Any) -> Surrogate:
    """A surrogate as it is in the middle of a training."""
    surrogate = SURROGATES[name](SHAPE, n_classes, STD, **options)
    z, y = data(200, n_classes, 50)
    surrogate.observe(z, y)
    surrogate.refresh()
    return surrogate


# ---- thresholds ----


def test_thresholds_are_their_formulas() -> None:
    assert Threshold().log_variance(0.025, 0.5) == pytest.approx(math.log(0.125 * 0.025**2 + 0.01))
    assert Threshold("constant").log_variance(0.0, 0.5) == pytest.approx(math.log(0.05))
    schedule = Threshold("schedule", gamma=1e-6)
    start, half, end = (schedule.log_variance(STD, p) for p in (0.0, 0.5, 1.0))
    assert start == pytest.approx(math.log(0.05)) and end == Threshold(gamma=1e-6).log_variance(STD, 0.0)
    assert half == pytest.approx((start + end) / 2) and end < start  # the demand rises


def test_hinges_are_their_formulas() -> None:
    x = torch.tensor([-1.0, 0.0, 0.5, 2.0])
    assert torch.equal(Hinge()(x), torch.tensor([0.0, 0.0, 0.5, 2.0]))
    expected = [math.log1p(math.exp(3 * (v - 0.2))) / 3 for v in x.tolist()]
    assert Hinge("softplus", 3.0, 0.2)(x).tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_no_noise_is_refused_where_the_penalty_is_relative_to_it(name: str) -> None:
    surrogate = SURROGATES[name](SHAPE, 3, 0.0)
    with pytest.raises(UserError, match="noise_std"):
        surrogate.check()
    with pytest.raises(UserError, match="above 0, got 0"):
        surrogate(*data(6, 3))


def test_no_noise_is_fine_for_a_constant_threshold() -> None:
    for cls in (KMeansSurrogate, SlotSurrogate, GatedSurrogate):
        options = {} if cls is KMeansSurrogate else {"mode": "frozen"}
        surrogate = cls(SHAPE, 3, 0.0, threshold=Threshold("constant", gamma=1e-6), **options)  # type: ignore[arg-type]
        assert torch.isfinite(surrogate(*data(12, 3)).loss)
    KMeansSurrogate(SHAPE, 3, 0.0, log_entropy=False).check()


@pytest.mark.parametrize("wrong", [{"tau": 0.0}, {"gamma": -1.0}, {"variance": 0.0}])
def test_impossible_thresholds_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        Threshold(**wrong)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="beta"):
        Hinge("softplus", 0.0)


def test_the_scale_of_the_learning_rate() -> None:
    rates = (0.05, 0.01, 0.002, 0.0004, 0.00008)  # the published schedule
    assert [learning_rate_scale(lr) for lr in rates] == pytest.approx([0.02, 0.1, 0.5, 1, 1])


# ---- k-means ----


@settings(max_examples=15, deadline=None)
@given(st.integers(2, 9), st.integers(2, 40), st.booleans(), st.booleans(), st.integers(0, 99))
def test_kmeans_is_the_published_loop(n_classes: int, n: int, bug: bool, log_entropy: bool, seed: int) -> None:
    surrogate = fitted("kmeans", n_classes, faithful_bug=bug, log_entropy=log_entropy, clusters=3)
    assert isinstance(surrogate, KMeansSurrogate)
    z, y = data(n, n_classes, seed)
    z.requires_grad_()
    ours = surrogate(z, y).loss
    slow = published_penalty(z, y, surrogate.fit_result, float(surrogate.class_size), STD, faithful_bug=bug,
                             log_entropy=log_entropy)
    assert float(ours.detach()) == pytest.approx(float(slow.detach()), rel=1e-5)
    gradients = [torch.autograd.grad(loss, z)[0] for loss in (ours, slow)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-8)


def test_the_bug_is_another_number_and_all_classes_take_the_first_ones() -> None:
    right, wrong = fitted("kmeans"), fitted("kmeans", faithful_bug=True)
    z, y = data(40, 4)
    assert float(right(z, y).loss) != pytest.approx(float(wrong(z, y).loss), rel=1e-2)
    assert isinstance(wrong, KMeansSurrogate)
    wrong.statistics[1:] = float("nan")  # so only the first class's are looked up
    assert torch.isfinite(wrong(z, y).loss)


def test_one_cluster_by_hand() -> None:
    surrogate = KMeansSurrogate((1,), 1, STD, clusters=1)
    surrogate.refresh(torch.tensor([[0.0], [1.0]] * 100), torch.zeros(200, dtype=torch.int64))  # mean 0.5, V = 0.25
    z = torch.tensor([[0.5], [0.5], [1.5], [-0.5]])  # v_batch = 0.5, n = 4, alpha = 10 * 4 / 200 = 0.2
    penalty = surrogate(z, torch.zeros(4, dtype=torch.int64))
    expected = math.log(0.2 * 0.5 + 0.8 * 0.25 + 0.01) - math.log(0.125 * STD**2 + 0.01)
    assert float(penalty.loss) == pytest.approx(expected, rel=1e-6)
    assert float(penalty.intra_class_mse) == pytest.approx(0.5)
    assert penalty.diagnostics["class_penalty"].tolist() == pytest.approx([expected] * 4)


def test_batched_kmeans_is_scikit_learns() -> None:
    y = torch.tensor([0] * 60 + [1] * 35 + [3] * 50)  # the third class is absent
    z = torch.rand(len(y), 5, generator=rng(), dtype=torch.float64)
    held = by_class(z, y, 4)
    start = torch.rand(4, 3, 5, generator=rng(1), dtype=torch.float64)
    ours = kmeans(held, start, iterations=300)
    for c in (0, 1, 3):
        theirs = KMeans(3, init=start[c].numpy(), n_init=1, tol=0, max_iter=300).fit(z[y == c].numpy())
        np.testing.assert_allclose(ours.centroids[c], theirs.cluster_centers_, rtol=1e-9)
        counts = np.bincount(theirs.labels_, minlength=3)
        np.testing.assert_allclose(ours.weight[c], counts / counts.sum(), rtol=1e-6)
        distances = ((z[y == c].numpy() - theirs.cluster_centers_[theirs.labels_]) ** 2).mean(1)
        expected = np.bincount(theirs.labels_, distances, 3) / counts
        np.testing.assert_allclose(ours.variance[c], expected, rtol=1e-9)
    assert ours.weight[2].sum() == 0


def test_first_centroids_are_distinct_members() -> None:
    surrogate = KMeansSurrogate((2,), 2, STD, clusters=3)
    points = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    z, y = torch.cat((points.repeat(5, 1), points.repeat(5, 1) + 9)), torch.tensor([0] * 15 + [1] * 15)
    first = surrogate.first(by_class(z, y, 2), 3)
    for c, offset in ((0, 0.0), (1, 9.0)):
        assert sorted(map(tuple, (first[c] - offset).tolist())) == sorted(map(tuple, points.tolist()))


def test_small_and_absent_classes_do_not_break_kmeans() -> None:
    z, y = data(30, 3)
    y = torch.where(y == 2, torch.where(torch.arange(30) == int((y == 2).nonzero()[0]), 2, 1), y)  # one sample of 2
    surrogate = KMeansSurrogate(SHAPE, 5, STD)
    surrogate.refresh(z, y)
    batch = torch.tensor([0, 1, 2, 3, 4, 2])  # classes 3 and 4 were never seen
    w = z[:6].clone().requires_grad_()
    penalty = surrogate(w, batch)
    penalty.loss.backward()
    assert torch.isfinite(penalty.loss) and w.grad is not None and torch.isfinite(w.grad).all()
    assert (w.grad[3:5] == 0).all() and (w.grad[2] != 0).any()
    assert penalty.diagnostics["class_penalty"][3:5].tolist() == [0, 0]


@pytest.mark.parametrize("name", ["kmeans", "gmm"])
def test_nothing_is_asked_before_the_first_refresh(name: str) -> None:
    z, y = data(20, 4)
    z.requires_grad_()
    loss = SURROGATES[name](SHAPE, 4, STD)(z, y).loss
    loss.backward()
    assert float(loss.detach()) == 0 and z.grad is not None and (z.grad == 0).all()


# ---- refreshes ----


@pytest.mark.parametrize("name", ["kmeans", "gmm"])
def test_refresh_from_batches_is_refresh_from_a_pass(name: str) -> None:
    z, y = data(160, 4)
    online, offline = (SURROGATES[name](SHAPE, 4, STD, capacity=capacity) for capacity in (200, 0))  # type: ignore[call-arg]
    for part in range(0, 160, 32):
        online.observe(z[part : part + 32], y[part : part + 32])
    online.refresh()
    offline.refresh(z, y)
    theirs = offline.state_dict()
    for key, value in online.state_dict().items():
        if not key.startswith("bank"):
            torch.testing.assert_close(value, theirs[key])
    with pytest.raises(ValueError, match="capacity=0"):
        offline.refresh()


def test_the_bank_holds_the_latest(tmp_path: Any) -> None:
    bank = FeatureBank(10, 1)
    for step in range(40):
        bank.add(torch.full((3, 1), float(step)), torch.full((3,), step))
    save_state(tmp_path / "bank", bank.state_dict())
    again = FeatureBank(10, 1)
    state = load_state(tmp_path / "bank")
    assert state is not None
    again.load_state_dict(state)
    for held in (bank, again):
        features, labels = held.contents()
        assert sorted(labels.tolist()) == [36, 37, 37, 37, 38, 38, 38, 39, 39, 39]
        assert features[:, 0].long().tolist() == labels.tolist()
    assert (bank.drain(), bank.drain()) == (120, 0)


@pytest.mark.parametrize("name", ["kmeans", "gmm"])
def test_features_that_are_not_finite_are_left_out_of_a_refresh(name: str) -> None:
    z, y = data(100, 2)
    clean, dirty = (SURROGATES[name](SHAPE, 2, STD) for _ in range(2))
    clean.refresh(z[10:], y[10:])
    z[:10] = float("nan")
    dirty.refresh(z, y)
    key = "centroids" if name == "kmeans" else "mean"
    torch.testing.assert_close(dirty.get_buffer(key), clean.get_buffer(key))
    with pytest.raises(RunFailed, match="finite"):
        dirty.refresh(torch.full_like(z, float("inf")), y)
    with pytest.raises(ValueError, match="labels must lie"):
        dirty.refresh(z, y + 1)


# ---- mixture ----


def test_batched_mixture_is_scikit_learns() -> None:
    y = torch.tensor([0] * 90 + [1] * 60)
    z = torch.randn(len(y), 4, generator=rng(), dtype=torch.float64) + 3 * (torch.arange(len(y)) % 3)[:, None]
    weight, variance = torch.tensor([[0.2, 0.3, 0.5]] * 2).double(), torch.full((2, 3, 4), 2.0).double()
    weight = weight / weight.sum(1, keepdim=True)
    start = Mixture(weight, torch.randn(2, 3, 4, generator=rng(1)).double() + 3, variance)
    ours = fit_mixture(by_class(z, y, 2), start)
    for c in range(2):
        theirs = GaussianMixture(3, covariance_type="diag", weights_init=start.weight[c].numpy(),
                                 means_init=start.mean[c].numpy(), precisions_init=1 / start.variance[c].numpy())
        theirs.fit(z[y == c].numpy())
        np.testing.assert_allclose(ours.weight[c], theirs.weights_, rtol=1e-6)
        np.testing.assert_allclose(ours.mean[c], theirs.means_, rtol=1e-6)
        np.testing.assert_allclose(ours.variance[c], theirs.covariances_, rtol=1e-6)


def slow_gmm(s: GMMSurrogate, z: Tensor, y: Tensor) -> Tensor:
    """Class by class and component by component."""
    z, total = z.flatten(1), torch.zeros(())
    for c in y.unique():
        own = z[y == c]
        logs = torch.stack([s.weight[c, k].log() + torch.distributions.Normal(
            s.mean[c, k], s.variance[c, k].sqrt()).log_prob(own).sum(1) for k in range(s.weight.shape[1])], 1)
        posterior = logs.softmax(1).detach()
        for k, weight in enumerate(s.weight[c]):
            r = posterior[:, k]
            alpha = 10 * r.sum() / (weight * s.class_size)
            alpha = 0.99 if alpha >= 1 else alpha
            batch = (r[:, None] * (own - s.mean[c, k]) ** 2).sum(0) / r.sum()
            variance = alpha * batch + (1 - alpha) * s.variance[c, k]
            ratio = torch.log((variance + STD**2) / STD**2).sum() / 2
            total = total + weight * (ratio - weight.log()) / z.shape[1]
    return total / len(y.unique())


@pytest.mark.parametrize("n", [3, 40, 400])
def test_gmm_penalty_is_its_formula(n: int) -> None:
    surrogate = fitted("gmm")
    assert isinstance(surrogate, GMMSurrogate)
    z, y = data(n, 4, spread=0.3)
    z.requires_grad_()
    ours, slow = surrogate(z, y).loss, slow_gmm(surrogate, z, y)
    assert float(ours.detach()) == pytest.approx(float(slow.detach()), rel=1e-5)
    torch.testing.assert_close(*(torch.autograd.grad(loss, z)[0] for loss in (ours, slow)), rtol=1e-4, atol=1e-7)


def test_gmm_of_one_gaussian_is_its_channel_capacity() -> None:
    """A whole class in the batch: half the log of one plus signal over noise."""
    z = torch.randn(4000, DIM, generator=rng()) * 0.3
    y = torch.zeros(4000, dtype=torch.int64)
    surrogate = GMMSurrogate((DIM,), 1, STD, components=1)
    surrogate.refresh(z, y)
    assert float(surrogate(z, y).loss) == pytest.approx(math.log1p(0.3**2 / STD**2) / 2, rel=0.02)
    assert surrogate.distribution(y).log_prob(z).mean() == pytest.approx(
        -DIM * (math.log(2 * math.pi * 0.3**2) + 1) / 2, rel=0.02)


# ---- slots ----


def slow_slots(s: SlotSurrogate, z: Tensor, y: Tensor, start: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
    """Class by class: slots from the class's samples alone, cross attention, variance. Sample tokens, no reduction."""
    a, x, w = s.slot_attention, s.cross_attention, s.width
    features = F.layer_norm(z.flatten(1), (s.dim,)) if s.normalise == "features" else z.flatten(1)
    costs, sizes = {}, {}
    for c in y.unique().tolist():
        own = features[y == c]
        if len(own) < 2:
            continue
        key, value = a.key_value(F.layer_norm(own, (w,))).chunk(2, 1)
        slots = start
        for _ in range(a.iterations):
            logits = key @ F.layer_norm(slots, (w,)).T / w**0.5 / w**0.25
            attention = logits.softmax(1) + 1e-8
            update = (attention / attention.sum(0)).T @ value
            slots = a.cell(update, slots)
            slots = slots + a.out(torch.relu(a.hidden(F.layer_norm(slots, (w,)))))
        query = x.query(F.layer_norm(own, (w,)))
        k, v = x.key_value(F.layer_norm(slots, (w,))).chunk(2, 1)
        seen = torch.cat([(query[:, h] @ k[:, h].T / (w // x.heads) ** 0.5).softmax(1) @ v[:, h]
                          for h in torch.arange(w).chunk(x.heads)], 1)
        own = own + torch.tanh(x.alpha[0]) * x.project(seen)
        own = own + torch.tanh(x.alpha[1]) * x.feed_forward(F.layer_norm(own, (w,)))
        variance = own.var(0, unbiased=True).clamp_min(1e-6)
        costs[c] = F.relu(torch.log(variance + 1e-6) - math.log(0.1 * STD**2 + 1e-6)).mean()
        sizes[c] = len(own)
    return torch.stack([costs[c] * sizes[c] for c in costs]).sum() / sum(sizes.values()), costs


@pytest.mark.parametrize("normalise", ["attention", "features"])
def test_slots_are_the_notes_class_by_class(normalise: Any) -> None:
    torch.manual_seed(1)
    surrogate = SlotSurrogate(SHAPE, 5, STD, mode="frozen", normalise=normalise)
    for parameter in surrogate.parameters():
        parameter.add_(0.3 * torch.randn_like(parameter))  # gates and spreads of all kinds
    z, y = data(23, 4)
    y[0] = 4  # alone
    torch.manual_seed(2)
    penalty = surrogate(z, y)
    torch.manual_seed(2)
    a = surrogate.slot_attention
    expected, costs = slow_slots(surrogate, z, y, a.start + a.log_spread.exp() * torch.randn_like(a.start))
    assert float(penalty.loss) == pytest.approx(float(expected), rel=1e-4)
    for i in range(1, 23):
        assert float(penalty.diagnostics["class_penalty"][i]) == pytest.approx(float(costs[int(y[i])]), rel=1e-4)
    assert float(penalty.diagnostics["singletons"]) == 1


def test_joint_slots_pass_the_gradient_through_all_iterations_and_frozen_ones_through_the_last() -> None:
    joint = SlotSurrogate(SHAPE, 4, STD, mode="joint")
    z, y = data(30, 4)
    z.requires_grad_()
    gradients = []
    for trained in (True, False):
        joint.requires_grad_(trained)
        torch.manual_seed(3)
        loss = joint(z, y).loss
        gradients.append(torch.autograd.grad(loss, z)[0])
    torch.manual_seed(3)
    a = joint.slot_attention
    slow = slow_slots(joint, z, y, a.start + a.log_spread.exp() * torch.randn_like(a.start))[0]
    torch.testing.assert_close(gradients[0], torch.autograd.grad(slow, z)[0], rtol=1e-3, atol=1e-6)
    assert not torch.equal(*gradients)
    full, last = (g.flatten() for g in gradients)
    assert F.cosine_similarity(full, last, dim=0) > 0.9


# ---- gated attention ----


@pytest.mark.parametrize("normalise", ["attention", "features"])
def test_gated_attention_is_the_notes_class_by_class(normalise: Any) -> None:
    torch.manual_seed(1)
    s = GatedSurrogate(SHAPE, 5, STD, mode="frozen", normalise=normalise)
    z, y = data(23, 4, spread=0.4)
    y[0] = 4  # alone
    features = F.layer_norm(z.flatten(1), (DIM,)) if normalise == "features" else z.flatten(1)
    total, norm = torch.zeros(()), 0.0
    for c in y.unique().tolist():
        own = features[y == c]
        if len(own) < 2:
            continue
        v, u = s.pooling.gate(F.layer_norm(own, (DIM,))).chunk(2, 1)
        weight = s.pooling.logit(torch.tanh(v) * torch.sigmoid(u)).softmax(0)
        mean = (weight * own).sum(0)
        variance = (weight * (own - mean) ** 2).sum(0)
        log_variance = torch.log(variance + 1e-6)
        base = F.softplus(log_variance - math.log(0.1 * STD**2 + 1e-6) - 0.1)
        snr = torch.sigmoid(10 * (variance / (mean**2 + 1e-6) - 0.3))
        share = len(own) / 23
        cost = torch.sigmoid(torch.tensor(10 * (share - 0.05))) * (s.dimension_gate(log_variance) * snr * base).mean()
        total, norm = total + share**2 * cost, norm + share**2
    assert float(s(z, y).loss) == pytest.approx(0.1 * float(total) / norm, rel=1e-4)


# ---- properties that all share ----


def loss_of(surrogate: Surrogate, z: Tensor, y: Tensor) -> Tensor:
    torch.manual_seed(0)
    return surrogate(z, y).loss.detach()


@pytest.mark.parametrize(("name", "options"), [
    ("kmeans", {}), ("gmm", {}), ("slot", {"mode": "frozen"}), ("gated", {"mode": "frozen"}),
    ("slot", {"mode": "frozen", "tokens": "spatial"}), ("gated", {"mode": "frozen", "tokens": "spatial"}),
])  # fmt: skip
def test_the_order_of_a_batch_does_not_count(name: str, options: dict[str, Any]) -> None:
    surrogate = fitted(name, **options)
    z, y = data(30, 4)
    order = torch.randperm(30, generator=rng())
    assert float(loss_of(surrogate, z[order], y[order])) == pytest.approx(float(loss_of(surrogate, z, y)), rel=1e-4)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("tokens", ["sample", "spatial"])
def test_every_batch_has_a_finite_penalty_and_gradient(name: str, tokens: str) -> None:
    options: dict[str, Any] = {"tokens": tokens} if name in ("slot", "gated") else {}
    surrogate = fitted(name, **options)
    for y in ([0], [0, 1, 2, 3], [2] * 6, [0, 0, 1], [3, 3]):
        z = torch.rand(len(y), *SHAPE, generator=rng(), requires_grad=True)
        penalty = surrogate(z, torch.tensor(y))
        penalty.loss.backward()
        assert torch.isfinite(penalty.loss) and z.grad is not None and torch.isfinite(z.grad).all()
        alone = sum(y.count(c) == 1 for c in y)
        assert float(penalty.diagnostics["singletons"]) == alone
        assert math.isnan(float(penalty.intra_class_mse)) == (alone == len(y))
        for value in (penalty.intra_class_mse, *penalty.diagnostics.values()):
            assert not value.requires_grad


@pytest.mark.parametrize("name", NAMES)
def test_features_that_collapse_cost_less(name: str) -> None:
    options: dict[str, Any] = {"mode": "frozen"} if name in ("slot", "gated") else {}
    surrogate = fitted(name, **options)
    z, y = data(64, 4)
    centre = classmates(y).share @ z.flatten(1)
    losses = [float(loss_of(surrogate, (centre + f * (z.flatten(1) - centre)).view_as(z), y)) for f in (1, 0.3, 0.1)]
    if name in ("slot", "gated"):
        assert losses[0] > losses[1] > losses[2]
    else:  # classes are judged around the centres of the last fit
        z, y = data(64, 4, spread=0.02)
        assert float(loss_of(surrogate, z, y)) < losses[0]


def test_the_intra_class_mse_is_that_of_classes_with_two() -> None:
    z, y = data(9, 3)
    y = torch.tensor([0, 0, 0, 1, 1, 2, 0, 1, 0])
    own = [z.flatten(1)[y == c] for c in (0, 1)]
    expected = sum(float(((x - x.mean(0)) ** 2).sum()) for x in own) / (8 * DIM)
    assert float(fitted("kmeans")(z, y).intra_class_mse) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_nan_features_make_a_nan_loss_and_leave_the_state_alone(name: str) -> None:
    surrogate = fitted(name, **({"learn_every": 1} if name in ("slot", "gated") else {}))
    z, y = data(16, 4)
    z[3, 0] = float("nan")
    assert torch.isnan(surrogate(z, y).loss)
    before = {k: v.clone() for k, v in surrogate.named_parameters()}
    for _ in range(3):
        surrogate.observe(z, y)
        surrogate.learn(z, y)
    assert all(torch.equal(v, before[k]) for k, v in surrogate.named_parameters())
    if surrogate.refreshes:
        surrogate.refresh()
    surrogate.state_dict()  # what waits is written
    assert torch.isfinite(surrogate(*data(16, 4)).loss)


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_features_are_measured_in_full(name: str) -> None:
    surrogate = fitted(name)
    z, y = data(16, 4)
    z = z.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        inside = loss_of(surrogate, z, y)
    assert inside.dtype == torch.float32
    assert float(inside) == pytest.approx(float(loss_of(surrogate, z.float(), y)), rel=1e-6)


def test_shapes_that_do_not_fit_are_refused() -> None:
    z, y = data(6, 4)
    surrogate = fitted("kmeans")
    for wrong in ((z.flatten(1), y), (z, y[:5]), (z[:0], y[:0])):
        with pytest.raises(ValueError, match="expected features"):
            surrogate(*wrong)
    with pytest.raises(ValueError, match="spatial tokens"):
        SlotSurrogate((8,), 3, STD, tokens="spatial")
    with pytest.raises(UserError, match="normalise"):
        GatedSurrogate((8,), 3, STD, normalise="features")
    with pytest.raises(ValueError, match="expected features"):
        GMMSurrogate((8, 2), 3, STD)


@pytest.mark.parametrize("name", NAMES)
def test_a_step_has_as_many_operations_for_any_number_of_classes_and_waits_for_none(name: str) -> None:
    counted = []
    for n_classes in (3, 90):
        surrogate = fitted(name, n_classes)
        z, y = data(24, n_classes)
        z.requires_grad_()
        operations = count(lambda: surrogate(z, y).loss.backward())  # noqa: B023
        names = {*operations.computing, *operations.views}
        assert not names & {"_local_scalar_dense", "nonzero", "_unique2", "masked_select"}
        counted.append(operations.computing.total())
    assert counted[0] == counted[1] < (60 if name == "kmeans" else 200)


# ---- parameters ----


@pytest.mark.parametrize("cls", LEARNED)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("tokens", ["sample", "spatial"])
def test_what_is_trained_gets_a_gradient_and_what_is_frozen_none(cls: Any, mode: Mode, tokens: Any) -> None:
    torch.manual_seed(0)
    s: Learned = cls(SHAPE, 4, STD, mode=mode, tokens=tokens, width=2, learn_every=1)
    z, y = data(40, 4)
    got: dict[str, Tensor] = {}
    for name, parameter in s.named_parameters():
        parameter.requires_grad_(True).register_hook(lambda g, name=name: got.__setitem__(name, g))
        parameter.requires_grad_(mode == "joint")
    before = {k: v.clone() for k, v in s.named_parameters()}
    s.learn(z, y)
    learned = dict(got)
    got.clear()
    s(z.requires_grad_(), y).loss.backward()
    everything = set(before)
    assert z.grad is not None and (z.grad != 0).any()
    assert set(got) == (everything if mode == "joint" else set())
    assert set(learned) == (everything if mode in ("own", "density") else set())
    for gradient in (*got.values(), *learned.values()):
        assert torch.isfinite(gradient).all() and (gradient != 0).any()
    assert [len(group["params"]) for group in s.joint_parameters()] == ([len(everything)] if mode == "joint" else [])
    changed = {k for k, v in s.named_parameters() if not torch.equal(v, before[k])}
    assert changed == set(learned)


def test_an_interrupted_training_goes_on_as_if_it_was_not(tmp_path: Any) -> None:
    def advance(s: Learned, first: int, last: int) -> None:
        for step in range(first, last):
            torch.manual_seed(step)
            z, y = data(16, 3, step)
            s.observe(z, y)
            s.learn(z, y)

    whole = SlotSurrogate(SHAPE, 3, STD, learn_every=2)
    part = copy.deepcopy(whole)
    assert whole.own is not None
    part = SlotSurrogate(SHAPE, 3, STD, learn_every=2)
    part.load_state_dict(whole.state_dict())
    advance(whole, 0, 5)
    whole.state_dict()  # as whoever saves does
    advance(part, 0, 5)
    assert part.own is not None
    save_state(tmp_path / "s", {"surrogate": part.state_dict(), "own": part.own.state_dict()})
    resumed = SlotSurrogate(SHAPE, 3, STD, learn_every=2)
    state = load_state(tmp_path / "s")
    assert state is not None and resumed.own is not None
    resumed.load_state_dict(state["surrogate"])
    resumed.own.load_state_dict(state["own"])
    advance(whole, 5, 30)
    advance(resumed, 5, 30)
    for key, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key


def test_wide_features_are_reduced_to_where_the_noise_stays_as_it_is() -> None:
    s = SlotSurrogate((300,), 2, STD, mode="frozen")
    assert max(p.numel() for p in s.parameters()) < 300 * 300 and s.width == 128
    noise = STD * torch.randn(4000, 300, generator=rng(5))  # another stream than the weights'
    assert float(s.reduce(noise).var()) == pytest.approx(STD**2, rel=0.02)


# ---- one backward ----


def test_one_backward_of_the_weighted_sum_is_the_published_two() -> None:
    torch.manual_seed(0)
    surrogate = fitted("kmeans")
    encoder = nn.Sequential(nn.Linear(5, 8), nn.Sigmoid(), nn.Unflatten(1, SHAPE))
    cloud = nn.Sequential(nn.Flatten(), nn.Linear(8, 4))
    x, y = torch.randn(32, 5), torch.randint(4, (32,))
    noise = STD * torch.randn(32, *SHAPE)
    ours, theirs = list(encoder.parameters()), list(cloud.parameters())
    weight = 16 * learning_rate_scale(0.05)

    def task(z: Tensor) -> Tensor:
        return F.cross_entropy(cloud(z + noise), y)

    z = encoder(x)
    (task(z) + weight * surrogate(z, y).loss).backward()
    once = [p.grad.clone() for p in (*ours, *theirs) if p.grad is not None]
    for p in (*ours, *theirs):
        p.grad = None
    z = encoder(x)
    two_passes(surrogate(z, y).loss, lambda: task(z), ours, theirs, weight)
    for a, p in zip(once, (*ours, *theirs), strict=True):
        torch.testing.assert_close(a, p.grad, rtol=1e-5, atol=1e-7)


# ---- the density, and cheating ----


def test_halves_share_no_sample_and_cover_each_class() -> None:
    y = torch.tensor([0, 1, 0, 0, 2, 1, 0, 3, 3])
    parts = halves(classmates(y))
    same, partner = parts.mates.same.bool(), parts.partner
    assert parts.found.tolist() == [1, 1, 1, 1, 0, 1, 1, 1, 1]
    for i in range(9):
        if parts.found[i]:
            assert y[partner[i]] == y[i] and not same[i, partner[i]]
            assert (same[i] | same[partner[i]]).equal(y == y[i])  # two halves make the class


def test_a_score_is_the_log_ratio_of_densities() -> None:
    torch.manual_seed(0)
    tokens = torch.rand(5, 3, 2)
    parts = Components(torch.randn(5, 4).log_softmax(1), torch.rand(5, 1, 4, 2), torch.rand(5, 1, 4, 2) + 0.1)
    torch.manual_seed(1)
    ours = excess(tokens, parts, STD)
    torch.manual_seed(1)
    noise = STD * torch.randn_like(tokens)
    mixture = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(logits=parts.log_weight[:, None].expand(5, 3, 4)),
        torch.distributions.Independent(torch.distributions.Normal(parts.mean.expand(5, 3, 4, 2),
                                                                   parts.variance.sqrt().expand(5, 3, 4, 2)), 1))
    log_p = torch.distributions.Normal(0, STD).log_prob(noise).sum(2)
    expected = (log_p - mixture.log_prob(tokens + noise)).mean(1) / 2
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


MODE_STD, APART = 0.2, 4.0


def two_modes(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Two classes in 4 dimensions, each of two Gaussians far apart: the entropy is known in closed form."""
    y = torch.randint(2, (n,), generator=rng(seed))
    which = torch.randint(2, (n,), generator=rng(seed + 1000))
    centres = APART * torch.tensor([[[1.0, 0, 0, 0], [0, 1, 0, 0]], [[0, 0, 1, 0], [0, 0, 0, 1]]])
    return centres[y, which] + MODE_STD * torch.randn(n, 4, generator=rng(seed + 2000)), y


#: Mutual information with what is sent, per dimension: log 2 for the mode, and Gaussian within it.
TRUE_EXCESS = math.log(2) / 4 + math.log1p(MODE_STD**2 / STD**2) / 2


def trained(s: Learned, steps: int) -> Learned:
    """On fresh features of a distribution that does not change: they leak as much at the end as at the start."""
    optimizer = torch.optim.Adam(s.joint_parameters(), 1e-2) if s.mode == "joint" else None
    for step in range(steps):
        z, y = two_modes(64, step)
        s.observe(z, y)
        s.learn(z, y)
        if optimizer is not None:
            optimizer.zero_grad()
            s(z, y).loss.backward()
            optimizer.step()
    return s


@torch.no_grad()
def mean_loss(s: Learned, batches: int = 40) -> tuple[float, float]:
    """Over fresh batches, with its standard error."""
    losses = torch.stack([s(*two_modes(64, 10_000 + i)).loss for i in range(batches)])
    return float(losses.mean()), float(losses.std() / batches**0.5)


@pytest.mark.parametrize("cls", LEARNED)
def test_a_surrogate_that_minimises_its_own_penalty_cheats(cls: Any) -> None:
    torch.manual_seed(0)
    s = cls((4,), 2, STD, mode="joint", width=2)
    before = mean_loss(s)[0]
    after = mean_loss(trained(s, 200))[0]
    assert after < 0.2 * before


@pytest.mark.parametrize("cls", LEARNED)
def test_a_density_cannot_cheat(cls: Any) -> None:
    torch.manual_seed(0)
    s = cls((4,), 2, STD, mode="density", learn_every=1, lr=1e-2)
    start, _ = mean_loss(s)
    score, error = mean_loss(trained(s, 250))
    assert TRUE_EXCESS - 3 * error < score < start  # trained, it is closer; below, it cannot go
    for parameter in s.parameters():  # whatever the parameters are
        parameter.add_(2 * torch.randn(parameter.shape, generator=rng()))
    score, error = mean_loss(s)
    assert score > TRUE_EXCESS - 3 * error


def test_the_density_of_one_gaussian_comes_close_to_its_entropy() -> None:
    def batch(seed: int) -> tuple[Tensor, Tensor]:
        return 0.3 * torch.randn(128, 2, generator=rng(seed)), torch.zeros(128, dtype=torch.int64)

    torch.manual_seed(0)
    s = GatedSurrogate((2,), 1, STD, learn_every=1, lr=3e-2)
    for step in range(150):
        s.observe(*batch(step))
        s.learn(*batch(step))
    scores = torch.stack([s(*batch(1000 + i)).loss for i in range(60)]).detach()
    exact, error = math.log1p(0.3**2 / STD**2) / 2, float(scores.std() / 60**0.5)
    assert exact - 3 * error < float(scores.mean()) < exact + 0.1


@pytest.mark.parametrize("cls", LEARNED)
def test_no_variance_is_below_the_noises(cls: Any) -> None:
    s = cls((4,), 2, STD)
    s.density.log_variance.fill_(-60)  # as low as it can be learned to be
    z, y = torch.ones(12, 4), torch.arange(12) % 2  # and all features alike
    for _ in range(17):
        s.observe(z, y)
    loss = torch.stack([s(z, y).loss for _ in range(50)]).mean()
    assert abs(float(loss)) < 0.5  # an exact density of what is sent scores 0; a narrower one is far above


def test_the_memory_never_holds_what_is_scored() -> None:
    s = GatedSurrogate((2,), 2, STD)
    z, y = torch.ones(4, 2), torch.tensor([0, 0, 0, 0])
    s.observe(z, y)
    assert (s.density.memory == 0).all()
    for _ in range(16):
        s.observe(3 * z, y)
    assert s.density.memory[0, 0].tolist() == pytest.approx([(1 + 15 * 3) / 16] * 2)  # all but the last
    assert (s.density.memory[1] == 0).all()


def test_density_of_spatial_tokens_with_one_class_a_sample_uses_the_memory() -> None:
    torch.manual_seed(0)
    s = SlotSurrogate(SHAPE, 50, STD, tokens="spatial")
    z, y = torch.rand(50, *SHAPE, generator=rng()), torch.arange(50)
    before = s(z, y)
    for _ in range(17):
        s.observe(z + 0.02 * torch.randn(z.shape, generator=rng(1)), y)
    after = s(z, y)
    assert float(before.diagnostics["no_partner"]) == 50
    assert float(after.loss) < float(before.loss) - 0.2


