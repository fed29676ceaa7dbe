"""From several losses to one number: weights that are learned, or weights that are given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from latentprint.types import Bounds

LIMITS = Bounds(-3.0, 3.0)


class UncertaintyWeighting(nn.Module):
    """``sum_i (exp(-s_i) L_i + s_i) / 2`` with a learnable log-variance ``s_i`` for each loss, at first 0.

    The gradient in ``s_i`` vanishes at ``s_i = log L_i``, so that a loss is weighted by ``1 / (2 L_i)``. For
    a loss that reaches 0 the optimum runs to minus infinity; hence every loss must be at least 0 and every
    ``s_i`` is kept within ``limits``, which bounds the total below by ``n limits.low / 2`` and a weight above
    by ``exp(-limits.low) / 2``. Give the log-variances a small learning rate of their own (notes: 1e-4).

    Args:
        names: the losses, in any order; unique.
        limits: range of the log-variances, around their start at 0.

    Source: Kendall et al. 2018 (arXiv:1705.07115), equation 7 for several regressions; notes, loss D.
    """

    def __init__(self, names: Sequence[str], limits: Bounds = LIMITS) -> None:
        super().__init__()
        self.names = _unique(names)
        self.limits = limits
        self.log_variances = nn.Parameter(torch.zeros(len(self.names)))

    def forward(self, losses: Mapping[str, Tensor]) -> Tensor:
        """The weighted sum, ``()``.

        Args:
            losses: one scalar for each name, at least 0. A value that is not a number passes through, for the
                training loop to count.

        Raises:
            ValueError: a name too many or too few, or a negative loss.
        """
        values = _in_order(losses, self.names)
        if bool((values < 0).any()):
            name = self.names[int((values < 0).int().argmax())]
            raise ValueError(f"loss '{name}' is negative ({losses[name].item():.4g}): expected at least 0")
        # Projected, not clamped in the graph, where a value outside would get no gradient to come back.
        with torch.no_grad():
            self.log_variances.clamp_(self.limits.low, self.limits.high)
        return ((-self.log_variances).exp() * values + self.log_variances).sum() / 2

    def weights(self) -> dict[str, float]:
        """The factor of each loss in the total, ``exp(-s_i) / 2``, for the log."""
        log_variances = self.log_variances.detach().clamp(self.limits.low, self.limits.high)
        return dict(zip(self.names, ((-log_variances).exp() / 2).tolist(), strict=True))


class FixedWeighting(nn.Module):
    """``sum_i w_i L_i`` with given weights, behind the same interface; nothing to learn.

    Args:
        names: the losses, in any order; unique.
        weights: a number for each name.
    """

    def __init__(self, names: Sequence[str], weights: Mapping[str, float]) -> None:
        super().__init__()
        self.names = _unique(names)
        _same_names(weights, self.names)
        self._weights = {name: float(weights[name]) for name in self.names}

    def forward(self, losses: Mapping[str, Tensor]) -> Tensor:
        """The weighted sum, ``()``. Raises ValueError for a name too many or too few."""
        values = _in_order(losses, self.names)
        return (values * values.new_tensor(list(self._weights.values()))).sum()

    def weights(self) -> dict[str, float]:
        """The factor of each loss in the total, for the log."""
        return dict(self._weights)


def _unique(names: Sequence[str]) -> tuple[str, ...]:
    if not names or len(set(names)) != len(names):
        raise ValueError(f"loss names must be unique and at least one, got {list(names)}")
    return tuple(names)


def _same_names(given: Mapping[str, object], names: Sequence[str]) -> None:
    if set(given) != set(names):
        raise ValueError(f"got losses {sorted(given)}, expected {sorted(names)}")


def _in_order(losses: Mapping[str, Tensor], names: Sequence[str]) -> Tensor:
    """``(n,)`` the losses in the order of ``names``."""
    _same_names(losses, names)
    return torch.stack([losses[name] for name in names])
