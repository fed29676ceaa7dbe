"""The floor under every adversary's error: closed forms, and adversaries that are optimal yet stay above it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import multivariate_normal
from torch import Tensor

from latentprint.data.parameters import IDENTITY_NAMES, identity_parameters, nuisance_parameters
from latentprint.errors import UserError
from latentprint.feature.certificate import (
    Certificate,
    certify,
    conditional_information,
    density_information,
    floor_ratio,
    gaussian_information,
    geometric_mse,
    heldout_conditional_information,
    heldout_information,
    mse_floor,
    parameter_widths,
    uniform_entropy,
)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def box(n: int, d: int, seed: int = 0) -> Tensor:
    """Parameters, uniform on [-1, 1]."""
    return 2 * torch.rand(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 1


def whitened(x: Tensor) -> Tensor:
    """Rows whose sample mean is 0 and sample covariance (divided by N) the identity."""
    x = x - x.mean(0)
    return x @ torch.linalg.inv(torch.linalg.cholesky(x.T @ x / len(x))).T


# ---- entropy and the inequality ----


def test_the_entropy_of_a_box_is_its_log_volume() -> None:
    assert uniform_entropy([2.0, 2.0, 0.5]) == pytest.approx(math.log(2))
    assert uniform_entropy([1.0] * 5) == 0


def test_widths_are_the_ranges_of_what_is_drawn() -> None:
    assert parameter_widths(["melanin", "jaw_taper"], "palette") == pytest.approx((0.7, 2.0))
    assert parameter_widths(["yaw", "smile"], "posed") == pytest.approx((3.2, 2.0))
    seeds = range(4000)
    columns = [IDENTITY_NAMES.index("melanin"), IDENTITY_NAMES.index("jaw_taper")]
    drawn = identity_parameters(seeds, "palette")[:, columns]
    assert np.ptp(drawn, axis=0) == pytest.approx([0.7, 2.0], rel=2e-3)
    assert np.ptp(nuisance_parameters(seeds, seeds, "posed")[:, 0]) == pytest.approx(3.2, rel=2e-3)


@pytest.mark.parametrize("name", ["smirk", ""])
def test_unknown_parameters_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"'{name}' of population 'default' is unknown"):
        parameter_widths([name])


@given(st.integers(1, 60), st.floats(0, 200))
def test_the_floor_falls_with_information_and_never_reaches_the_prior(d: int, information: float) -> None:
    entropy = d * math.log(2)
    floor = mse_floor(entropy, information, d)
    assert 0 < floor <= mse_floor(entropy, 0, d) < 1 / 3
    assert mse_floor(entropy, 0, d) == pytest.approx(2 / (math.pi * math.e))
    assert mse_floor(entropy, information + d * math.log(2), d) == pytest.approx(floor / 4)


@pytest.mark.parametrize("gain", [0.2, 1.0, 5.0])
def test_the_floor_is_the_error_of_the_best_estimate_of_gaussian_parameters(gain: float) -> None:
    """z = gain * theta with Gaussian theta: the posterior is Gaussian, and every inequality an equality."""
    d, noise_std = 4, 0.7
    entropy = d / 2 * math.log(2 * math.pi * math.e)
    information = d / 2 * math.log(1 + gain**2 / noise_std**2)
    posterior = noise_std**2 / (gain**2 + noise_std**2)
    assert mse_floor(entropy, information, d) == pytest.approx(posterior)
    features = gain * whitened(normal(50, d))
    assert gaussian_information(features, noise_std) == pytest.approx(information)


# ---- estimates of the information ----


def test_the_log_determinant_bound_is_that_of_the_covariance() -> None:
    features = normal(40, 2, 3, 1) * torch.arange(1, 4)[:, None]
    covariance = np.cov(features.flatten(1).numpy().T, bias=True)
    expected = 0.5 * np.linalg.slogdet(np.eye(6) + covariance / 0.3**2)[1]
    assert gaussian_information(features, 0.3) == pytest.approx(expected)


def test_plugging_in_a_covariance_flatters_and_holding_out_does_not() -> None:
    """Twice as many samples as values: the plug-in falls below the truth, the held-out bound stays above."""
    d, noise_std, truth = 20, 0.5, 10 * math.log(1 + 4)
    plugged, held = [], []
    for seed in range(30):
        features = normal(80, d, seed=seed)
        plugged.append(gaussian_information(features[:40], noise_std))
        held.append(float(heldout_information(features[:40], features[40:], noise_std).mean()))
    assert np.mean(plugged) < truth - 1
    assert truth < np.mean(held) < truth + 3
    many = normal(40_000, d, seed=99)
    assert float(heldout_information(many[:20_000], many[20_000:], noise_std).mean()) == pytest.approx(truth, rel=0.01)


def test_the_held_out_bound_is_the_mean_log_density_over_the_noise() -> None:
    """The same number from scipy's density at many noisy copies of one sample."""
    fit, held, noise_std = normal(5000, 3) * torch.tensor([1.0, 2.0, 0.5]), normal(1, 3, seed=1), 0.8
    exact = heldout_information(fit, held, noise_std)
    noisy = held + noise_std * normal(200_000, 3, seed=2)
    q = multivariate_normal(fit.mean(0).numpy(), np.cov(fit.numpy().T, bias=True) + noise_std**2 * np.eye(3))
    sampled = density_information(torch.from_numpy(-q.logpdf(noisy.numpy())), 3, noise_std)
    assert float(exact) == pytest.approx(float(sampled.mean()), abs=0.01)


def test_classes_take_information_off_but_not_more_than_their_entropy() -> None:
    labels = torch.arange(6000) % 3
    centres = 20 * torch.eye(3, dtype=torch.float64)[labels]
    within = 1.5 * math.log(2)  # unit variance, unit noise
    features = centres + whitened(normal(2000, 3)).repeat_interleave(3, 0)
    assert conditional_information(features, labels, 1.0) == pytest.approx(within)
    assert gaussian_information(features, 1.0) > within + math.log(3)
    features = centres + normal(6000, 3)
    held = heldout_conditional_information(features[:3000], labels[:3000], features[3000:], labels[3000:], 1.0)
    assert float(held.mean()) == pytest.approx(within, rel=0.05)


def test_the_conditional_bound_is_above_the_truth_with_few_samples_a_class() -> None:
    labels = torch.arange(60) % 20
    truth = 2.5 * math.log(2)
    held = [float(heldout_conditional_information(x[:60], labels, x[60:], labels, 1.0).mean())
            for x in (normal(120, 5, seed=seed) + normal(20, 5, seed=7)[labels.repeat(2)] * 9 for seed in range(30))]
    assert truth < np.mean(held) < truth + 1.5


def test_class_means_follow_their_labels_whatever_the_numbers() -> None:
    fit, held = normal(9, 2), normal(3, 2, seed=1)
    labels, new = torch.tensor([7, 7, 7, 2, 2, 2, 40, 40, 40]), torch.tensor([40, 2, 7])
    shift = {2: 100.0, 7: -50.0, 40: 3.0}
    moved = fit + torch.tensor([[shift[int(c)]] for c in labels])
    also = held + torch.tensor([[shift[int(c)]] for c in new])
    plain = heldout_conditional_information(fit, labels, held, new, 0.5)
    assert torch.allclose(heldout_conditional_information(moved, labels, also, new, 0.5), plain)


# ---- certificates ----


def channel(d: int, gain: float, noise_std: float, n: int = 4000) -> tuple[Tensor, Tensor, Certificate]:
    """Parameters, what a linear encoder sends of them, and the certificate from other faces."""
    mixing = torch.linalg.qr(normal(d + 2, d)).Q * gain
    fit, held, attacked = (box(n, d, seed=seed) for seed in (1, 2, 3))
    information = heldout_information(fit @ mixing.T, held @ mixing.T, noise_std)
    certificate = certify(information, np.arange(n), [2.0] * d, noise_std)
    return attacked, attacked @ mixing.T + noise_std * normal(n, d + 2, seed=4), certificate


@pytest.mark.parametrize(("gain", "noise_std"), [(1.0, 0.3), (1.0, 1.0), (3.0, 0.2)])
def test_the_best_linear_attack_stays_above_the_floor(gain: float, noise_std: float) -> None:
    theta, sent, certificate = channel(5, gain, noise_std)
    best = torch.linalg.lstsq(sent, theta).solution  # fitted on the very faces it is scored on
    error = geometric_mse(sent @ best, theta)
    signal = gain**2 / 3
    assert error == pytest.approx(1 / 3 * noise_std**2 / (signal + noise_std**2), rel=0.05)
    assert certificate.mse_floor < error
    # what is lost between them: a uniform prior's entropy, 6 / (pi e), and the confidence limit
    assert certificate.mse_floor == pytest.approx(error * 6 / (math.pi * math.e), rel=0.06)


def test_the_posterior_mean_stays_above_the_floor() -> None:
    """No estimate is better than the posterior mean, here by numerical integration."""
    theta, noise_std = box(4000, 1, seed=3), 0.4
    sent = theta + noise_std * normal(4000, 1, seed=4)
    grid = torch.linspace(-1, 1, 401, dtype=torch.float64)
    weight = torch.softmax(-((sent - grid) ** 2) / (2 * noise_std**2), 1)
    error = geometric_mse((weight @ grid)[:, None], theta)
    certificate = certify(heldout_information(box(4000, 1), box(4000, 1, seed=1), noise_std), np.arange(4000), [2.0],
                          noise_std)
    linear = 1 / 3 * noise_std**2 / (1 / 3 + noise_std**2)
    assert certificate.mse_floor < error < linear
    assert certificate.mse_floor > 0.6 * error


def test_the_geometric_mean_is_below_the_arithmetic_one() -> None:
    errors = torch.tensor([[1.0, 4.0], [1.0, 4.0]])
    assert geometric_mse(errors, torch.zeros(2, 2)) == pytest.approx(4.0)  # sqrt(1 * 16), mean 8.5


def test_more_messages_lower_the_floor_as_less_noise_does() -> None:
    features = box(500, 2)
    fit, held, people = features[:250], features[250:], np.arange(250)
    once, often = (certify(heldout_information(fit, held, noise), people, [2.0, 2.0], noise)
                   for noise in (0.5, 0.5 / math.sqrt(16)))
    assert often.mse_floor < once.mse_floor
    assert often.information > once.information


def test_the_limit_is_above_the_estimate_and_wider_for_fewer_people() -> None:
    information = 3 + normal(400, 1).flatten()
    alone = certify(information, np.arange(400), [2.0] * 9, 0.1)
    shared = certify(information, np.arange(400) // 40, [2.0] * 9, 0.1)
    assert alone.information == shared.information < alone.information_high
    same = certify(torch.full((400,), 3.0), np.arange(400), [2.0] * 9, 0.1, extra=math.log(10))
    assert same.information_high == pytest.approx(3 + math.log(10))
    repeated = certify(information[:10].repeat_interleave(40), np.arange(400) // 40, [2.0] * 9, 0.1)
    spread = certify(information[:10].repeat_interleave(40), np.arange(400), [2.0] * 9, 0.1)
    assert repeated.information_high - repeated.information > 4 * (spread.information_high - spread.information)


def test_without_noise_it_is_vacuous_and_says_so() -> None:
    certificate = certify(None, [], [2.0] * 3, 0.0)
    assert certificate.mse_floor == 0 and certificate.information == math.inf and not certificate.informative
    assert "no noise" in certificate.reason
    assert gaussian_information(normal(10, 2), 0.0) == math.inf
    with pytest.raises(ValueError, match="expected noise"):
        heldout_information(normal(10, 2), normal(10, 2), 0.0)


def test_it_is_informative_when_there_is_less_information_than_entropy() -> None:
    assert 2.7 < 4 * math.log(2) < 2.9
    low, high = (certify(torch.full((10,), nats), np.arange(10), [2.0] * 4, 0.1) for nats in (2.7, 2.9))
    assert low.informative and not high.informative and "2.9 nats" in high.reason
    assert low.mse_floor > 1 / (2 * math.pi * math.e) > high.mse_floor > 0
    nothing = certify(torch.full((10,), -1.0), np.arange(10), [2.0] * 4, 0.1)
    assert nothing.information == 0 and nothing.mse_floor == pytest.approx(2 / (math.pi * math.e))
    assert nothing.mse_prior == pytest.approx(1 / 3)


def test_one_person_gives_no_certificate() -> None:
    certificate = certify(torch.full((10,), 0.5), np.zeros(10), [2.0], 0.1)
    assert certificate.mse_floor == 0 and not certificate.informative


def test_bad_input_is_refused() -> None:
    with pytest.raises(UserError, match="at least one"):
        certify(torch.zeros(3), np.arange(3), [], 0.1)
    with pytest.raises(ValueError, match="at least 2 samples"):
        heldout_information(normal(1, 2), normal(3, 2), 0.1)
    with pytest.raises(ValueError, match="every held-out class"):
        heldout_conditional_information(normal(4, 2), torch.tensor([0, 0, 1, 1]), normal(1, 2), torch.tensor([2]), 0.1)
    with pytest.raises(ValueError, match="at least 2 samples"):
        heldout_conditional_information(normal(2, 2), torch.tensor([0, 1]), normal(1, 2), torch.tensor([1]), 0.1)


def test_the_ratio_of_floors_needs_no_entropy() -> None:
    assert floor_ratio(5.0, 5.0, 100) == 1
    expected = mse_floor(17.0, 2.0, 10) / mse_floor(17.0, 6.0, 10)
    assert floor_ratio(2.0, 6.0, 10) == pytest.approx(expected)
