"""Protected templates: what each scheme stores by hand or by a slow loop, and what an adversary gets back."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from latentprint.errors import UserError
from latentprint.template.defenses import (
    Linear,
    Noisy,
    PolyProtect,
    Projected,
    Quantised,
    Scheme,
    cosines,
    make_scheme,
)
from latentprint.template.protection import (
    MLPHashConfig,
    NoiseConfig,
    NoProtection,
    PartialConfig,
    PolyProtectConfig,
    ProjectionConfig,
    Protection,
    QuantiseConfig,
    described,
)
from latentprint.template.recovery import TemplatePrior, recover

DIM = 32
ALL: tuple[Protection, ...] = (NoProtection(), NoiseConfig(), QuantiseConfig(), QuantiseConfig(bits=3), PartialConfig(),
                               ProjectionConfig(), ProjectionConfig(keyed=True), PolyProtectConfig(),
                               PolyProtectConfig(overlap=0), MLPHashConfig())


def templates(n: int, seed: int = 0) -> Tensor:
    """Unit vectors with a mean and correlated entries, as those of faces have."""
    turn = torch.linalg.qr(torch.randn(DIM, DIM, generator=torch.Generator().manual_seed(42))).Q
    spread = torch.randn(n, DIM, generator=torch.Generator().manual_seed(seed)) * torch.linspace(2.0, 0.2, DIM)
    return F.normalize(spread @ turn + 0.2, dim=1)


@pytest.fixture(params=ALL, ids=described)
def scheme(request: pytest.FixtureRequest) -> Scheme:
    return make_scheme(request.param, DIM, seed=3)


def test_a_template_passes_for_itself_and_strangers_do_not(scheme: Scheme) -> None:
    people, keys = templates(12), torch.arange(12)
    found = cosines(scheme, people, scheme.stored(people, keys), keys)
    own = found.diagonal().clone()
    assert own.mean() > 0.65 if isinstance(scheme, Noisy) else torch.allclose(own, torch.ones(12), atol=1e-5)
    assert found.fill_diagonal_(0).mean() < own.mean() - 0.3
    for i, j in ((0, 0), (3, 7)):  # the table is what each pair gives by itself
        kept = scheme.stored(people, keys)[j]
        alone = F.cosine_similarity(scheme.probe(people[i : i + 1], keys[j : j + 1])[0], kept, 0)
        expected = cosines(scheme, people, scheme.stored(people, keys), keys)[i, j]
        assert alone == pytest.approx(float(expected), abs=1e-5)


def test_the_truth_surprises_least(scheme: Scheme) -> None:
    people, keys = templates(12), torch.arange(12)
    stored = scheme.stored(people, keys)
    truth = scheme.negative_log_likelihood(people, stored, keys)
    assert bool((truth < scheme.negative_log_likelihood(templates(12, seed=9), stored, keys)).all())


def test_keys_matter_where_a_scheme_has_them(scheme: Scheme) -> None:
    people, zero = templates(4), torch.zeros(4, dtype=torch.int64)
    assert torch.equal(scheme.probe(people, zero), scheme.probe(people, torch.arange(1, 5))) != scheme.keyed


def test_one_bit_is_the_sign_and_more_bits_err_by_half_a_cell() -> None:
    people, keys = templates(20), torch.arange(20)
    assert torch.equal(make_scheme(QuantiseConfig(), DIM, 0).probe(people, keys), people.sign())
    three = make_scheme(QuantiseConfig(bits=3), DIM, 0)
    assert isinstance(three, Quantised)
    inside = people.clamp(-three.reach, three.reach)
    assert float((three.probe(people, keys) - inside).abs().max()) <= three.cell / 2 + 1e-6
    assert len(three.probe(people, keys).unique()) <= 8


def test_polyprotect_equals_a_slow_loop() -> None:
    scheme = make_scheme(PolyProtectConfig(terms=3, overlap=1, reach=5), 8, 0)
    assert isinstance(scheme, PolyProtect)
    people, keys = templates(2)[:, :8], torch.tensor([4, 7])
    for person, key, got in zip(people, keys.tolist(), scheme.probe(people, keys), strict=True):
        coefficients, exponents = scheme._secret(key)
        assert sorted(exponents.tolist()) == [1, 2, 3] and all(1 <= abs(c) <= 5 for c in coefficients.tolist())
        entries = [*(person * math.sqrt(8)).tolist(), 0.0]  # the last run ends in a zero
        expected = [sum(c * entries[start + j] ** e for j, (c, e) in
                        enumerate(zip(coefficients.tolist(), exponents.tolist(), strict=True)))
                    for start in (0, 2, 4, 6)]
        assert got.tolist() == pytest.approx(expected, rel=1e-4)


def test_random_directions_are_orthonormal_and_one_pass_equals_a_loop_over_keys() -> None:
    scheme = make_scheme(ProjectionConfig(share=1.0, keyed=True), DIM, 0)
    assert isinstance(scheme, Projected) and isinstance(scheme, Linear)
    matrix = scheme._matrix("projection", 5)
    assert torch.allclose(matrix @ matrix.T, torch.eye(DIM), atol=1e-5)
    people, keys = templates(6), torch.tensor([1, 1, 2, 2, 3, 3])
    alone = torch.cat([scheme.probe(people[i : i + 1], keys[i : i + 1]) for i in range(6)])
    assert torch.allclose(scheme.probe(people, keys), alone, atol=1e-5)
    assert torch.allclose(scheme.probe(people[::2], keys[::2]), alone[::2], atol=1e-5)  # every key once


def test_noise_is_drawn_once_for_a_key_and_has_the_length_asked_for() -> None:
    scheme = make_scheme(NoiseConfig(length=0.5), 512, 0)
    zero, keys = torch.zeros(50, 512), torch.arange(50)
    noise = scheme.stored(zero, keys)
    assert float(noise.norm(dim=1).mean()) == pytest.approx(0.5, rel=0.02)
    assert torch.equal(noise[7:8], scheme.stored(zero[:1], keys[7:8]))


@pytest.mark.parametrize(("protection", "least"), [
    (NoProtection(), 0.9999), (ProjectionConfig(share=1.0), 0.99), (ProjectionConfig(share=1.0, keyed=True), 0.99),
    (QuantiseConfig(bits=4), 0.97), (QuantiseConfig(), 0.8), (MLPHashConfig(), 0.75), (PartialConfig(), 0.6)])
def test_who_knows_the_scheme_gets_this_much_back(protection: Protection, least: float) -> None:
    scheme, people, keys = make_scheme(protection, DIM, 0), templates(40, seed=1), torch.arange(40)
    prior = TemplatePrior.of(templates(2000, seed=2))
    found = recover(scheme, scheme.stored(people, keys), keys, prior)
    assert torch.allclose(found.norm(dim=1), torch.ones(40), atol=1e-5)
    assert float((found * people).sum(1).mean()) > least


def test_knowing_where_templates_lie_beats_the_bare_inverse() -> None:
    people, keys, prior = templates(60, seed=1), torch.arange(60), TemplatePrior.of(templates(2000, seed=2))
    for protection in (NoiseConfig(), PartialConfig(kept=0.5), QuantiseConfig()):
        scheme = make_scheme(protection, DIM, 0)
        stored = scheme.stored(people, keys)
        bare = stored
        if isinstance(protection, PartialConfig):
            bare = torch.zeros(60, DIM)
            bare[:, scheme.index] = stored  # type: ignore[attr-defined]
        found = recover(scheme, stored, keys, prior)
        assert (found * people).sum(1).mean() > (F.normalize(bare, dim=1) * people).sum(1).mean() + 0.01, protection


def test_recovery_from_noise_is_the_conditional_mean_of_a_gaussian() -> None:
    rng = torch.Generator().manual_seed(0)
    public = torch.randn(4000, 4, generator=rng) * torch.tensor([1.0, 0.5, 0.3, 0.2])
    prior, scheme = TemplatePrior.of(public), make_scheme(NoiseConfig(length=0.8), 4, 0)
    assert isinstance(scheme, Noisy)
    stored = torch.randn(5, 4, generator=rng)
    variances = public.var(0, correction=0)
    mean = public.mean(0)
    expected = mean + (stored - mean) * variances / (variances + scheme.std**2)
    found = recover(scheme, stored, torch.arange(5), prior, steps=600)
    assert torch.allclose(found, F.normalize(expected, dim=1), atol=0.03)


def test_runs_must_overlap_by_less_than_their_length() -> None:
    with pytest.raises(UserError, match="overlap"):
        make_scheme(PolyProtectConfig(terms=4, overlap=4), DIM, 0)
