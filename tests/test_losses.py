"""Losses: values computed by hand or by a slow loop, ranges, gradients."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from latentprint import losses
from latentprint.losses import FixedWeighting, UncertaintyWeighting
from latentprint.types import Bounds


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def units(*shape: int, seed: int = 0) -> Tensor:
    return F.normalize(random(*shape, seed=seed), dim=-1)


# ---- denoising ----


def test_prior_mse_is_the_mean_square_of_each_sample() -> None:
    pred = torch.tensor([[[1.0, 2.0]], [[0.0, 0.0]]])
    assert losses.prior_mse(pred, torch.zeros_like(pred)).tolist() == [2.5, 0.0]


def test_prior_cosine_ignores_scale_and_spans_0_to_2() -> None:
    target = random(3, 4, 2, 2)
    pred = torch.stack([7 * target[0], -target[1], target[2].roll(1, 0)])
    result = losses.prior_cosine(pred, target)
    assert result[:2].tolist() == pytest.approx([0.0, 2.0], abs=1e-12)
    a, b = pred[2].flatten(), target[2].flatten()
    assert float(result[2]) == pytest.approx(1 - float(a @ b) / (float(a @ a) * float(b @ b)) ** 0.5)


def test_progress_weight_steps_at_a_fifth_and_four_fifths() -> None:
    progress = torch.tensor([0.0, 0.19, 0.2, 0.5, 0.79, 0.8, 1.0])
    assert losses.progress_weight(progress).tolist() == [0.5, 0.5, 1.0, 1.0, 1.0, 1.5, 1.5]


# ---- classification ----


@pytest.mark.parametrize(("n_classes", "k"), [(2, 1), (3, 2), (10, 2), (59, 2), (60, 3), (100, 5), (530, 5)])
def test_adaptive_k_follows_the_formula(n_classes: int, k: int) -> None:
    assert losses.adaptive_k(n_classes) == k


def slow_top_k(logits: Tensor, y: Tensor, k: int) -> list[float]:
    rows = []
    for row, own in zip(logits.tolist(), y.tolist(), strict=True):
        rivals = sorted((value for j, value in enumerate(row) if j != own), reverse=True)
        rows.append(sum(rivals[:k]) / k - row[own])
    return rows


@settings(max_examples=40, deadline=None)
@given(n_classes=st.integers(2, 120), seed=st.integers(0, 1000))
def test_top_k_margin_equals_a_slow_loop_and_is_bounded(n_classes: int, seed: int) -> None:
    logits = 10 * random(4, n_classes, seed=seed)
    y = torch.randint(n_classes, (4,), generator=torch.Generator().manual_seed(seed))
    loss, raw = losses.top_k_margin(logits, y)
    assert raw.tolist() == pytest.approx(slow_top_k(logits, y, losses.adaptive_k(n_classes)))
    assert loss.tolist() == pytest.approx([math.log1p(math.exp(-abs(r))) + max(r, 0) for r in raw.tolist()])
    assert (loss >= 0).all()
    assert (loss >= raw).all()


def test_every_one_of_the_k_rivals_gets_the_same_gradient() -> None:
    logits = torch.tensor([[5.0, 4.0, 3.0, -1.0, 2.0]], requires_grad=True)
    losses.top_k_margin(logits, torch.tensor([0]), k=2).raw.sum().backward()
    assert logits.grad is not None
    assert logits.grad.tolist() == [[-1.0, 0.5, 0.5, 0.0, 0.0]]


def test_max_margin_is_the_strongest_rival_and_falls_silent_beyond_the_margin() -> None:
    logits = torch.tensor([[5.0, 4.0, 0.0], [1.0, 4.0, 0.0]])
    y = torch.tensor([0, 0])
    loss, raw = losses.max_margin(logits, y, margin=0.5)
    assert raw.tolist() == [-1.0, 3.0]
    assert loss.tolist() == [0.0, 3.5]
    assert torch.equal(losses.top_k_margin(logits, y, k=1).raw, raw)


def test_cross_entropy_of_equal_logits_is_log_c() -> None:
    loss = losses.cross_entropy(torch.zeros(2, 7), torch.tensor([0, 6]))
    assert loss.tolist() == pytest.approx([math.log(7)] * 2)


def test_poincare_equals_the_distance_by_the_other_formula() -> None:
    """Against 2 artanh(|(-u) (+) v|) with Moebius addition, another form of the same distance."""
    logits, y = random(6, 5), torch.arange(6) % 5
    rim = 1 - 1e-4
    u = rim * logits / logits.abs().sum(1, keepdim=True)
    v = rim * torch.eye(5, dtype=torch.float64)[y]
    uv, uu, vv = -(u * v).sum(1, keepdim=True), (u * u).sum(1, keepdim=True), (v * v).sum(1, keepdim=True)
    moebius = ((1 + 2 * uv + vv) * -u + (1 - uu) * v) / (1 + 2 * uv + uu * vv)
    expected = 2 * torch.atanh(moebius.norm(dim=1))
    assert losses.poincare(logits, y).tolist() == pytest.approx(expected.tolist(), rel=1e-6)


def test_poincare_is_0_at_the_target_large_opposite_and_finite_in_half_precision() -> None:
    logits = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    y = torch.tensor([0, 0])
    right, wrong = losses.poincare(logits, y).tolist()
    assert right == pytest.approx(0, abs=1e-5)
    assert 15 < wrong < 20
    assert losses.poincare(logits.bfloat16(), y).tolist() == pytest.approx([right, wrong], rel=1e-3)


def test_centre_distance_is_the_squared_distance_to_the_own_centre() -> None:
    centres = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    assert losses.centre_distance(torch.zeros(2, 2), centres, torch.tensor([0, 1])).tolist() == [0.0, 25.0]


# ---- identity ----


def test_identity_cosine_at_0_90_and_180_degrees() -> None:
    identity = torch.tensor([[1.0, 0.0]] * 3)
    embedding = torch.tensor([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0]])
    assert losses.identity_cosine(embedding, identity).tolist() == [0.0, 1.0, 2.0]


def test_contrastive_identity_leaves_the_own_row_out() -> None:
    table, y, embedding = units(4, 8), torch.tensor([2, 0]), units(2, 8, seed=1)
    result = losses.contrastive_identity(embedding, table[y], table, margin=0.3, own=y)
    for i, own in enumerate(y.tolist()):
        others = [float(embedding[i] @ table[j]) for j in range(4) if j != own]
        own_cosine = float(embedding[i] @ table[own])
        assert float(result[i]) == pytest.approx(max(0.0, 0.3 + max(others) - own_cosine))


def test_contrastive_identity_is_0_beyond_the_margin_and_without_rivals() -> None:
    table, y = torch.eye(3), torch.tensor([0])
    assert losses.contrastive_identity(table[:1], table[:1], table, margin=0.9, own=y).tolist() == [0.0]
    assert losses.contrastive_identity(table[:1], -table[:1], table[:1], own=y).tolist() == [0.0]
    # without `own` a negative equal to the identity leaves the margin itself
    loss = losses.contrastive_identity(table[:1], table[:1], table, margin=0.4)
    assert loss.tolist() == pytest.approx([0.4])


def test_align_is_summed_over_dimensions() -> None:
    a, b = units(5, 512), units(5, 512, seed=1)
    assert losses.align(a, b).tolist() == pytest.approx((2 - 2 * (a * b).sum(1)).tolist())
    assert losses.align(a, -a).tolist() == pytest.approx([4.0] * 5)


def test_embedding_norm_and_its_gradient_at_the_origin() -> None:
    e = torch.tensor([[3.0, 4.0], [0.6, 0.8], [0.0, 0.0]], requires_grad=True)
    result = losses.embedding_norm(e)
    assert result.tolist() == pytest.approx([16.0, 0.0, 1.0], abs=1e-6)
    result.sum().backward()
    assert e.grad is not None
    assert e.grad.isfinite().all()


# ---- perceptual, attribute, diversity ----


def test_feature_distance_equals_a_slow_loop() -> None:
    a = [random(2, c, s, s, seed=c) for c, s in ((3, 4), (5, 2), (7, 1))]
    b = [random(2, c, s, s, seed=c + 1) for c, s in ((3, 4), (5, 2), (7, 1))]
    for i, result in enumerate(losses.feature_distance(a, b).tolist()):
        expected = 0.0
        for fa, fb, weight in zip(a, b, (0.2, 0.5, 0.3), strict=True):
            columns = zip(fa[i].flatten(1).T, fb[i].flatten(1).T, strict=True)
            places = [float((u / u.norm() - v / v.norm()).square().sum()) for u, v in columns]
            expected += weight * sum(places) / len(places)
        assert result == pytest.approx(expected, rel=1e-4)


def test_feature_distance_range_and_gradient_where_all_channels_are_silent() -> None:
    a = random(1, 4, 3, 3)
    assert float(losses.feature_distance([a], [-a], [1.0])) == pytest.approx(4, rel=1e-4)
    assert float(losses.feature_distance([a], [5 * a], [1.0])) == pytest.approx(0, abs=1e-6)
    silent = torch.zeros(1, 4, 3, 3, dtype=torch.float64, requires_grad=True)
    losses.feature_distance([silent], [a], [1.0]).sum().backward()
    assert silent.grad is not None
    assert 0 < float(silent.grad.abs().max()) < 1e4


def test_feature_distance_refuses_a_missing_depth() -> None:
    with pytest.raises(ValueError, match="2 and 2 feature maps for 3 weights"):
        losses.feature_distance([random(1, 2, 2, 2)] * 2, [random(1, 2, 2, 2)] * 2)


def test_attribute_mse_weighs_groups_equally_and_ignores_the_rest() -> None:
    target = torch.zeros(1, 6)
    pred = torch.tensor([[1.0, 1.0, 1.0, 2.0, 0.0, 99.0]])
    groups = {"pose": (0, 1, 2), "expression": (3,), "light": range(4, 5)}
    assert losses.attribute_mse(pred, target, groups).tolist() == [5.0]


def test_diversity_hinge_takes_the_variance_within_classes() -> None:
    e, y = random(7, 4), torch.tensor([0, 1, 0, 1, 0, 2, 1])
    loss, variance = losses.diversity_hinge(e, y, real_variance=5.0)
    within = [float(e[y == c].var(0).sum()) for c in (0, 1)]  # class 2 has one image, hence no variance
    assert float(variance) == pytest.approx(sum(within) / 2)
    assert float(loss) == pytest.approx(sum(max(0.0, 5.0 - v) for v in within) / 2)


def test_diversity_hinge_of_single_images_is_0() -> None:
    assert [float(v) for v in losses.diversity_hinge(random(3, 4), torch.arange(3), 1.0)] == [0.0, 0.0]


LOGITS, CLASSES, TABLE = random(3, 6), torch.tensor([0, 5, 2]), units(6, 5, seed=3)


@pytest.mark.parametrize(
    ("loss", "x"),
    [
        (lambda x: losses.prior_mse(x, LOGITS), random(3, 6, seed=1)),
        (lambda x: losses.prior_cosine(x, LOGITS), random(3, 6, seed=1)),
        (lambda x: losses.top_k_margin(x, CLASSES).loss, LOGITS),
        (lambda x: losses.max_margin(x, CLASSES, 1.0).loss, LOGITS),
        (lambda x: losses.poincare(x, CLASSES), LOGITS),
        (lambda x: losses.contrastive_identity(x, TABLE[CLASSES], TABLE, 1.9, own=CLASSES), units(3, 5)),
        (lambda x: losses.align(x, TABLE[:3]), units(3, 5)),
        (losses.embedding_norm, random(3, 5)),
        (lambda x: losses.feature_distance([x], [random(2, 3, 2, 2, seed=5)], [1.0]), random(2, 3, 2, 2)),
        (lambda x: losses.diversity_hinge(x, torch.tensor([0, 0, 1, 1]), 20.0)[0], random(4, 5)),
    ],
    ids=["mse", "cosine", "top-k", "margin", "poincare", "contrast", "align", "norm", "feature", "diversity"],
)
def test_gradients_are_those_of_the_formula(loss: Callable[[Tensor], Tensor], x: Tensor) -> None:
    assert torch.autograd.gradcheck(loss, (x.clone().requires_grad_(),))


# ---- weighting ----


def test_uncertainty_weighting_formula_and_weights() -> None:
    weighting = UncertaintyWeighting(("cls", "id"))
    assert weighting({"id": torch.tensor(2.0), "cls": torch.tensor(4.0)}).item() == pytest.approx(3.0)
    with torch.no_grad():
        weighting.log_variances.copy_(torch.tensor([1.0, -1.0]))
    total = weighting({"cls": torch.tensor(4.0), "id": torch.tensor(2.0)})
    assert total.item() == pytest.approx((4 * math.exp(-1) + 1 + 2 * math.e - 1) / 2)
    assert weighting.weights() == pytest.approx({"cls": math.exp(-1) / 2, "id": math.e / 2})


def test_uncertainty_weighting_settles_where_the_variance_is_the_loss() -> None:
    weighting = UncertaintyWeighting(("a", "b"))
    optimiser = torch.optim.SGD(weighting.parameters(), lr=0.5)
    values = {"a": torch.tensor(0.5), "b": torch.tensor(4.0)}
    for _ in range(200):
        optimiser.zero_grad()
        weighting(values).backward()
        optimiser.step()
    assert weighting.weights() == pytest.approx({"a": 1 / (2 * 0.5), "b": 1 / (2 * 4.0)}, rel=1e-3)


ADVERSARIES: dict[str, Callable[[int], float]] = {
    "zero": lambda step: 0.0,
    "tiny": lambda step: 1e-9,
    "huge": lambda step: 1e6,
    "alternating": lambda step: 1e6 * (step % 2),
    "falling": lambda step: math.exp(-step / 50),
}


@pytest.mark.parametrize("lr", [1e-4, 0.1, 10.0])
def test_2000_steps_against_adversaries_stay_above_the_bound(lr: float) -> None:
    weighting = UncertaintyWeighting(tuple(ADVERSARIES), Bounds(-3.0, 3.0))
    optimiser = torch.optim.SGD(weighting.parameters(), lr=lr)
    lowest = math.inf
    for step in range(2000):
        optimiser.zero_grad()
        total = weighting({name: torch.tensor(size(step)) for name, size in ADVERSARIES.items()})
        lowest = min(lowest, total.item())
        total.backward()
        optimiser.step()
    assert lowest >= len(ADVERSARIES) * -3.0 / 2
    assert all(math.exp(-3) / 2 * 0.999 <= w <= math.exp(3) / 2 * 1.001 for w in weighting.weights().values())


def test_a_log_variance_at_its_limit_comes_back() -> None:
    weighting = UncertaintyWeighting(("a",))
    with torch.no_grad():
        weighting.log_variances.fill_(-50.0)
    weighting({"a": torch.tensor(100.0)}).backward()
    assert weighting.log_variances.tolist() == [-3.0]
    assert weighting.log_variances.grad is not None
    assert float(weighting.log_variances.grad) == pytest.approx((1 - 100 * math.exp(3)) / 2)


def test_two_forwards_before_one_backward() -> None:
    weighting = UncertaintyWeighting(("a",))
    loss = torch.tensor(2.0, requires_grad=True)
    (weighting({"a": loss}) + weighting({"a": loss})).backward()
    assert loss.grad is not None
    assert float(loss.grad) == pytest.approx(1.0)


def test_weighting_refuses_negative_losses_and_wrong_names() -> None:
    weighting = UncertaintyWeighting(("cls", "id"))
    with pytest.raises(ValueError, match="loss 'id' is negative"):
        weighting({"cls": torch.tensor(1.0), "id": torch.tensor(-0.1)})
    with pytest.raises(ValueError, match=r"got losses \['cls'\]"):
        weighting({"cls": torch.tensor(1.0)})
    with pytest.raises(ValueError, match="unique"):
        UncertaintyWeighting(("cls", "cls"))
    assert weighting({"cls": torch.tensor(math.nan), "id": torch.tensor(1.0)}).isnan()


def test_fixed_weighting_is_the_weighted_sum_with_nothing_to_learn() -> None:
    weighting = FixedWeighting(("cls", "id"), {"id": 0.5, "cls": 2.0})
    assert float(weighting({"cls": torch.tensor(3.0), "id": torch.tensor(4.0)})) == 8.0
    assert weighting.weights() == {"cls": 2.0, "id": 0.5}
    assert not list(weighting.parameters())
    with pytest.raises(ValueError, match="expected"):
        FixedWeighting(("cls",), {"id": 1.0})
