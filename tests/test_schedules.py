"""Annealing, mixing of embeddings, plateaus."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from latentprint.schedules import Mixing, PhaseClock, cosine_lambda, linear_lambda, mix, no_lower, plateau

NORMALISED: list[Mixing] = ["slerp", "lerp_normalised"]
ALL: list[Mixing] = ["slerp", "lerp_normalised", "lerp"]


def units(*shape: int, seed: int = 0) -> Tensor:
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return F.normalize(x, dim=1)


# ---- annealing ----


def test_cosine_lambda_at_known_phases() -> None:
    values = [cosine_lambda(p) for p in (-1.0, 0.0, 1 / 3, 0.5, 1.0, 2.0)]
    assert values == pytest.approx([0, 0, 0.25, 0.5, 1, 1])


def test_linear_lambda_is_the_phase() -> None:
    assert [linear_lambda(p) for p in (-1.0, 0.25, 2.0)] == [0.0, 0.25, 1.0]


@pytest.mark.parametrize("horizon", [1, 7, 600, 1000])
def test_the_clock_is_the_notes_formula_and_ends_exactly_at_1(horizon: int) -> None:
    clock = PhaseClock()
    for t in range(1, horizon + 1):
        expected = (1 - math.cos(math.pi * min(t, horizon) / horizon)) / 2
        assert cosine_lambda(clock.advance(horizon)) == pytest.approx(expected, abs=1e-9)
    assert clock.phase == 1.0
    assert clock.advance(horizon) == 1.0


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(1, 2000), min_size=1, max_size=60))
def test_lambda_never_jumps_back_whatever_the_horizons(horizons: list[float]) -> None:
    clock, last = PhaseClock(), 0.0
    for horizon in horizons:
        now = cosine_lambda(clock.advance(horizon))
        assert last <= now <= 1
        last = now


def test_a_resumed_clock_goes_on_where_it_stopped() -> None:
    clock, resumed = PhaseClock(), PhaseClock()
    for _ in range(10):
        clock.advance(37)
    resumed.load_state_dict(clock.state_dict())
    assert resumed.advance(55) == clock.advance(55)


def test_the_clock_refuses_what_is_no_phase_or_horizon() -> None:
    with pytest.raises(ValueError, match="horizon"):
        PhaseClock().advance(0)
    with pytest.raises(ValueError, match="phase"):
        PhaseClock().load_state_dict({"phase": 1.5})


# ---- mixing ----


def test_the_three_ways_at_90_degrees() -> None:
    a, b = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    assert mix(a, b, 0.5, "lerp").tolist() == [[0.5, 0.5]]
    assert float(mix(a, b, 0.5, "lerp").norm()) == pytest.approx(0.7071, abs=1e-4)
    assert mix(a, b, 1 / 3, "slerp")[0].tolist() == pytest.approx([math.cos(math.pi / 6), 0.5])
    assert mix(a, b, 0.25, "lerp_normalised")[0].tolist() == pytest.approx([3 / 10**0.5, 1 / 10**0.5])


@pytest.mark.parametrize("how", ALL)
def test_the_way_begins_at_the_photo_and_ends_at_the_label(how: Mixing) -> None:
    a, b = units(4, 16), units(4, 16, seed=1)
    assert torch.allclose(mix(a, b, 0.0, how), a)
    assert torch.allclose(mix(a, b, 1.0, how), b)
    assert torch.allclose(mix(a, b, torch.tensor([0.0, 1.0, 0.0, 1.0]), how)[::2], a[::2])


def test_slerp_turns_at_constant_speed() -> None:
    a, b = units(3, 8), units(3, 8, seed=1)
    whole = torch.acos((a * b).sum(1))
    for lam in (0.1, 0.5, 0.9):
        assert torch.allclose(torch.acos((a * mix(a, b, lam)).sum(1)), lam * whole)


@settings(max_examples=60, deadline=None)
@given(st.floats(0, 1), st.integers(0, 1000), st.floats(0.01, 100), st.sampled_from(NORMALISED))
def test_the_normalised_ways_stay_on_the_sphere_whatever_the_length(
    lam: float, seed: int, scale: float, how: Mixing
) -> None:
    mixed = mix(units(3, 6, seed=seed), scale * units(3, 6, seed=seed + 1), lam, how)
    assert torch.allclose(mixed.norm(dim=1), torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize("how", NORMALISED)
@pytest.mark.parametrize("lam", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("gap", [0.0, 1e-7, 1e-4, 1e-2])
@pytest.mark.parametrize("sign", [1.0, -1.0], ids=["equal", "opposite"])
def test_values_and_gradients_are_finite_at_equal_and_opposite_vectors(
    how: Mixing, lam: float, gap: float, sign: float
) -> None:
    a = units(4, 512).float()
    b = F.normalize(sign * a + gap * units(4, 512, seed=1).float(), dim=1).requires_grad_()
    mixed = mix(a, b, lam, how)
    assert torch.allclose(mixed.norm(dim=1), torch.ones(4), atol=1e-5)
    mixed.square().mul(torch.arange(512)).sum().backward()
    assert b.grad is not None
    assert b.grad.isfinite().all()


@pytest.mark.parametrize("how", NORMALISED)
def test_at_equal_vectors_the_label_gets_its_share_of_the_gradient(how: Mixing) -> None:
    """d mix / d label = lambda times the projection on the tangent plane."""
    a = units(1, 5)
    direction = units(1, 5, seed=2)
    label = a.clone().requires_grad_()
    (mix(a, label, 0.3, how) * direction).sum().backward()
    tangent = direction - (direction * a).sum() * a
    assert label.grad is not None
    assert torch.allclose(label.grad, 0.3 * tangent, atol=1e-8)


def test_between_opposite_vectors_the_way_is_half_a_circle() -> None:
    a = units(1, 8)
    assert abs(float((mix(a, -a, 0.5) * a).sum())) < 0.02
    assert float((mix(a, -a, 1.0) * -a).sum()) > 0.999


@pytest.mark.parametrize("how", ALL)
def test_mix_has_the_gradient_of_its_formula(how: Mixing) -> None:
    a, b = units(2, 4).requires_grad_(), (1.7 * units(2, 4, seed=1)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, y: mix(x, y, 0.4, how), (a, b))


def test_mix_refuses_an_unknown_way() -> None:
    with pytest.raises(ValueError, match="slerp"):
        mix(units(1, 3), units(1, 3), 0.5, "cubic")  # type: ignore[arg-type]


# ---- stopping ----


def test_plateau_tells_falling_from_flat_and_rising() -> None:
    assert not plateau([10.0, 9.0, 8.0, 7.0], window=2, tolerance=0.01)
    assert plateau([5.0, 5.0, 5.0, 4.99], window=2, tolerance=0.01)
    assert plateau([5.0, 5.0, 6.0, 7.0], window=2, tolerance=0.01)
    assert plateau([0.0] * 4, window=2, tolerance=0.01)


def test_plateau_looks_at_the_last_two_windows_only() -> None:
    assert plateau([100.0, 50.0, 1.0, 1.0, 1.0, 1.0], window=2, tolerance=0.01)
    assert not plateau([1.0, 1.0, 1.0], window=2, tolerance=0.01)
    assert not plateau([1.0, math.nan, 1.0, 1.0], window=2, tolerance=0.01)


@pytest.mark.parametrize(("values", "expected"), [
    ([2.0, 1.5, 1.6], False), ([2.0, 1.5, 1.6, 1.5], True), ([2.0, 1.5, 1.6, 1.4], False), ([2.0, 2.0], False),
    ([math.nan] * 5, False), ([math.nan, 1.0, 1.1], False), ([1.0, math.nan, math.nan], False),
    ([1.0, math.nan, 1.1, math.nan], False), ([1.0, math.nan, 1.1, math.nan, 1.0], True), ([], False)])
def test_a_distance_that_was_not_measured_is_no_lack_of_progress(values: list[float], expected: bool) -> None:
    assert no_lower(values, 2) is expected
