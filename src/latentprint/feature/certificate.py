"""How well *any* adversary can do: a floor under the error of every estimate of the parameters a face was made from.

A procedural face is drawn from parameters theta, uniform on a box, of which d are under attack; the edge network makes
features z of it, and ``z_n = z + noise_std * epsilon`` with epsilon standard normal leaves the device. Then, in nats,

1. ``h(theta)`` is the log-volume of the box: known, not estimated.
2. ``I(theta; z_n) <= I(z; z_n) = h(z_n) - D/2 log(2 pi e noise_std^2)``: theta acts through z alone. D values are sent.
3. ``h(z_n) <= E[-log q(z_n)]`` for every density q. With a Gaussian q this is the log-determinant bound
   ``1/2 sum_i log(1 + eigenvalue_i / noise_std^2)``, for a Gaussian has the most entropy at its covariance.
4. ``h(theta | z_n) = h(theta) - I(theta; z_n)``, and the errors e_i of any estimate satisfy
   ``h(theta | z_n) <= sum_i 1/2 log(2 pi e E[e_i^2])``. So the *geometric* mean over the d parameters of their mean
   squared errors is at least ``exp(2 h(theta | z_n) / d) / (2 pi e)``; the arithmetic mean is no smaller.

What is bounded is that mean over faces drawn afresh from the box. Nothing is said of a single parameter, of a single
face, or of an adversary who knows more than the box: one with a list of the people needs no precise parameters.
Whatever is done to z_n afterwards (clipping, masks, rounding) only takes information away. What is done to z before
the noise must be in the features that are passed here. Sources: Cover and Thomas 2006, theorem 8.6.6; Xia et al. 2025,
CEM (arXiv:2503.00383), where the image itself stands for theta and its entropy is unknown.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.covariance import ledoit_wolf
from torch import Tensor

from latentprint.data.parameters import IDENTITY_NAMES, NUISANCE_NAMES, population_of
from latentprint.errors import UserError
from latentprint.stats import bootstrap_by_identity

POSE = NUISANCE_NAMES[:3]


@dataclass(frozen=True)
class Certificate:
    """A floor under every adversary's error in some parameters.

    Attributes:
        mse_floor: the geometric mean of the parameters' mean squared errors is at least this, with the confidence
            of ``information_high``; 0 when the bound is vacuous.
        mse_prior: the same of the best guess without any features, the variance of the prior (1/3 on [-1, 1]). The
            floor is at most 6 / (pi e) = 0.70 of it: a uniform prior has less entropy than a Gaussian of its variance.
        information: nats, the estimate of the upper bound on what a message says about the parameters.
        information_high: the upper end of its confidence interval, which the floor is computed from.
        entropy: nats, of the parameters.
        n_parameters: d.
        noise_std: of the noise on what is sent, in the units of the features.
        reason: why the bound says nothing, or nearly so, in one sentence; empty when it is informative, which is when
            there is less information than entropy.
    """

    mse_floor: float
    mse_prior: float
    information: float
    information_high: float
    entropy: float
    n_parameters: int
    noise_std: float
    reason: str

    @property
    def informative(self) -> bool:
        return not self.reason


# ---- entropy of the parameters ----


def uniform_entropy(widths: Sequence[float]) -> float:
    """Nats of a uniform distribution on a box with these sides, each above 0."""
    return sum(map(math.log, widths))


def parameter_widths(names: Sequence[str], population: str = "default") -> tuple[float, ...]:
    """The lengths of the ranges that identity and nuisance parameters of a population are drawn from uniformly.

    Raises:
        UserError: an unknown population or parameter, or one that the population holds fixed.
    """
    ranges, scale = population_of(population).ranges, population_of(population).pose_scale
    known = dict.fromkeys(IDENTITY_NAMES + NUISANCE_NAMES, 2.0) | dict.fromkeys(POSE, 2.0 * scale)
    known |= {name: high - low for name, (low, high) in ranges.items()}
    for name in names:
        if known.get(name, 0.0) <= 0:
            raise UserError(f"parameters: '{name}' of population '{population}' is "
                            f"{'fixed' if name in known else 'unknown'}; expected one that varies")
    return tuple(known[name] for name in names)


# ---- information in what is sent ----


def gaussian_information(features: Tensor, noise_std: float) -> float:
    """The log-determinant bound ``1/2 sum_i log(1 + eigenvalue_i / noise_std^2)`` on I(z; z_n), in nats.

    Plugs in the covariance of ``(N, *F)`` features as if it were known. That is too small an estimate on average (the
    log-determinant is concave), by much where N is not many times the number of values: for a figure, not for a
    certificate. Infinite without noise.
    """
    if noise_std <= 0:
        return math.inf
    rows = features.flatten(1).double()
    eigenvalues = torch.linalg.svdvals(rows - rows.mean(0)).square() / len(rows)
    return float(torch.log1p(eigenvalues / noise_std**2).sum() / 2)


def conditional_information(features: Tensor, labels: Tensor, noise_std: float) -> float:
    """The same within classes, ``sum_c p_c I_c``: plugged-in bound on I(z; z_n | y), in nats.

    Args:
        labels: ``(N,)`` int64; the classes' shares are those of the sample.

    ``I(z; z_n) <= I(z; z_n | y) + log C``. Parameters that are independent of the class (pose, light) need no
    ``log C``: for them ``I(theta; z_n) <= I(theta; z_n | y)``.
    """
    groups = [features[labels == label] for label in labels.unique()]
    return sum(len(group) * gaussian_information(group, noise_std) for group in groups) / len(features)


def heldout_information(fit: Tensor, held: Tensor, noise_std: float) -> Tensor:
    """``(M,)`` nats a sample, the mean of which is an upper bound on I(z; z_n) in expectation.

    ``E[-log q(z_n) | z] - D/2 log(2 pi e noise_std^2)`` with q a Gaussian whose mean and covariance come from other
    samples (Ledoit-Wolf shrinkage) plus the noise's. The average over the noise is exact. A poor fit can only raise
    the bound.

    Args:
        fit, held: ``(N, *F)`` and ``(M, *F)`` clean features of independent images, N at least 2.
        noise_std: above 0.

    Raises:
        ValueError: no noise, or fewer than 2 samples to fit.
    """
    if noise_std <= 0 or len(fit) < 2:
        raise ValueError(f"expected noise and at least 2 samples to fit, got {noise_std} and {len(fit)}")
    known, new = fit.flatten(1).double().cpu(), held.flatten(1).double().cpu()
    mean = known.mean(0)
    covariance, _ = ledoit_wolf((known - mean).numpy(), assume_centered=True)
    return _excess(new - mean, torch.from_numpy(np.asarray(covariance)), noise_std)


def heldout_conditional_information(fit: Tensor, fit_labels: Tensor, held: Tensor, held_labels: Tensor,
                                    noise_std: float) -> Tensor:
    """``(M,)`` nats a sample, the mean of which is an upper bound on I(z; z_n | y) in expectation.

    As `heldout_information` with one Gaussian a class: its own mean, and one covariance for all.

    Args:
        fit_labels, held_labels: ``(N,)`` and ``(M,)`` int64. Every held-out class has samples to fit.

    Raises:
        ValueError: no noise, a held-out class without samples to fit, or no class with two.
    """
    classes, owner = fit_labels.unique(return_inverse=True)
    if noise_std <= 0 or not bool(torch.isin(held_labels, classes).all()):
        raise ValueError("expected noise, and samples to fit of every held-out class")
    if len(fit) <= len(classes):
        raise ValueError("expected a class with at least 2 samples to fit")
    known, new = fit.flatten(1).double().cpu(), held.flatten(1).double().cpu()
    counts = torch.bincount(owner).double()[:, None]
    means = known.new_zeros(len(classes), known.shape[1]).index_add_(0, owner, known) / counts
    covariance, _ = ledoit_wolf((known - means[owner]).numpy(), assume_centered=True)
    # Deviations from a class's own mean are too small, those of new samples larger by that mean's error.
    widened = torch.from_numpy(np.asarray(covariance)) * (len(fit) + len(classes)) / (len(fit) - len(classes))
    return _excess(new - means[torch.searchsorted(classes, held_labels)], widened, noise_std)


def density_information(negative_log_likelihoods: Tensor, n_values: int, noise_std: float) -> Tensor:
    """``(M,)`` nats a sample from any density: ``-log q(z_n) - D/2 log(2 pi e noise_std^2)``.

    Args:
        negative_log_likelihoods: ``(M,)`` of *noisy* features that q was not fitted on.
        n_values: D.
        noise_std: above 0.
    """
    return negative_log_likelihoods - n_values / 2 * math.log(2 * math.pi * math.e * noise_std**2)


# ---- the floor ----


def mse_floor(entropy: float, information: float, n_parameters: int) -> float:
    """``exp(2 (entropy - information) / d) / (2 pi e)``: see step 4 above. Information below 0 counts as 0."""
    return math.exp(2 * (entropy - max(information, 0.0)) / n_parameters) / (2 * math.pi * math.e)


def geometric_mse(estimates: Tensor, parameters: Tensor) -> float:
    """What the floor is a floor of: the geometric mean over parameters ``(N, d)`` of mean squared errors."""
    return float((estimates - parameters).double().square().mean(0).log().mean().exp())


def floor_ratio(information: float, other: float, n_values: int) -> float:
    """How many times higher the floor of one model lies than another's, for data whose entropy is unknown (photos).

    Args:
        information, other: nats, bounds for this model and for the one to compare with, from the same estimator.
        n_values: numbers that make up an image.

    A ratio of two *bounds*: it compares guarantees, not errors.
    """
    return math.exp(2 * (other - information) / n_values)


def certify(information: Tensor | None, units: ArrayLike, widths: Sequence[float], noise_std: float, *,
            extra: float = 0.0, n_resamples: int = 2000, confidence: float = 0.95, seed: int = 0) -> Certificate:
    """The floor from held-out samples.

    Args:
        information: ``(M,)`` nats a sample (`heldout_information` and its like); None without noise.
        units: ``(M,)`` what is independent among the samples, such as the people they show.
        widths: ranges of the d parameters (`parameter_widths`).
        noise_std: of what is sent. A message sent n times with new noise is one with ``noise_std / sqrt(n)``.
        extra: nats known beside a message, such as log C where ``information`` is within classes and the parameters
            depend on the class.

    Raises:
        UserError: no parameters.
    """
    if not widths:
        raise UserError("parameters: expected at least one to bound the error of")
    entropy, d = uniform_entropy(widths), len(widths)
    prior = math.prod(width**2 / 12 for width in widths) ** (1 / d)
    if information is None or noise_std <= 0:
        reason = "there is no noise, and without noise features may tell everything"
        return Certificate(0.0, prior, math.inf, math.inf, entropy, d, 0.0, reason)
    interval = bootstrap_by_identity(information.numpy(), units, n_resamples=n_resamples, confidence=confidence,
                                     seed=seed)
    value, high = max(interval.value + extra, 0.0), max(interval.high + extra, 0.0)
    if math.isnan(high):
        reason = "all samples depend on each other, so that nothing is known about the spread of the estimate"
        return Certificate(0.0, prior, value, math.inf, entropy, d, noise_std, reason)
    reason = "" if high < entropy else (f"a message may hold {high:.3g} nats, no less than the entropy of the {d} "
                                        f"parameters ({entropy:.3g}): the floor is true but low")
    return Certificate(mse_floor(entropy, high, d), prior, value, high, entropy, d, noise_std, reason)


def _excess(deviations: Tensor, covariance: Tensor, noise_std: float) -> Tensor:
    """``(M,)`` of `heldout_information`, of deviations from q's mean and q's covariance before the noise."""
    n_values = len(covariance)
    factor = torch.linalg.cholesky(covariance / noise_std**2 + torch.eye(n_values, dtype=torch.float64))
    inverse = torch.linalg.solve_triangular(factor, torch.eye(n_values, dtype=torch.float64), upper=False)
    squares = (deviations / noise_std @ inverse.T).square().sum(1)
    return factor.diagonal().log().sum() + (squares + inverse.square().sum() - n_values) / 2
