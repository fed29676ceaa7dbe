"""The budget of a differentially private training: how much noise a promise asks for, and what a training spends.

What one *photo* can change in the trained weights is bounded by (epsilon, delta). A person of k photos has a far
weaker promise (about k epsilon).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

from latentprint.errors import UserError
from latentprint.label.protection import DPSGDConfig


@dataclass(frozen=True)
class PrivacyPlan:
    """The constants of a private training.

    Attributes:
        strength: 1 / the epsilon aimed at; 0: no privacy.
        noise_multiplier: standard deviation of the noise in units of ``max_grad_norm``.
        sample_rate: q, the probability of each photo at each step.
    """

    strength: float
    delta: float
    max_grad_norm: float
    noise_multiplier: float
    sample_rate: float
    steps: int

    @property
    def epsilon(self) -> float:
        """What the training spends by the accountant, at most what was aimed at."""
        return spent(self.noise_multiplier, self.sample_rate, self.steps, self.delta)


def plan_privacy(config: DPSGDConfig, n_photos: int, batch: int, steps: int) -> PrivacyPlan:
    """The least noise that keeps to the budget.

    Args:
        n_photos: of the training. batch: the expected number of photos a step (of all its micro-batches together); all
            when there are fewer.

    Raises:
        UserError: delta is not below 1 / n_photos, or the budget asks for more noise than can be had.
    """
    sample_rate = min(1.0, batch / n_photos)
    if config.epsilon is None:
        return PrivacyPlan(0.0, config.delta, config.max_grad_norm, 0.0, sample_rate, steps)
    if config.delta * n_photos >= 1:
        raise UserError(f"defence.delta must be below 1 / {n_photos} photos ({1 / n_photos:.1e}), "
                        f"got {config.delta:g}: else publishing a photo would keep the promise")
    try:
        noise_multiplier = _noise_multiplier(config.epsilon, config.delta, sample_rate, steps)
    except ValueError as error:
        raise UserError(f"defence.epsilon={config.epsilon:g} cannot be reached in {steps} steps: {error}") from error
    return PrivacyPlan(config.strength, config.delta, config.max_grad_norm, noise_multiplier, sample_rate, steps)


@cache  # a search of some seconds
def _noise_multiplier(epsilon: float, delta: float, sample_rate: float, steps: int) -> float:
    from opacus.accountants.utils import get_noise_multiplier

    with _quiet_accountant():
        return float(get_noise_multiplier(target_epsilon=epsilon, target_delta=delta, sample_rate=sample_rate,
                                          steps=steps, accountant="rdp", epsilon_tolerance=1e-2 * epsilon))


def spent(noise_multiplier: float, sample_rate: float, steps: int, delta: float) -> float:
    """Epsilon after ``steps`` of the subsampled Gaussian mechanism, at least 0; by Renyi differential privacy.

    Source: Mironov, Talwar & Zhang 2019 (arXiv:1908.10530), as Opacus has it.
    """
    from opacus.accountants import RDPAccountant

    accountant = RDPAccountant()
    accountant.history = [(noise_multiplier, sample_rate, steps)]
    with _quiet_accountant():
        return float(accountant.get_epsilon(delta))


@contextmanager
def _quiet_accountant() -> Iterator[None]:
    """Without the remark that another order of the Renyi divergence could give a smaller epsilon: it still holds."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Optimal order")
        yield
