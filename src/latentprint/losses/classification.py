"""Losses that make the victim see class ``y``: all from logits ``(B, C)`` and classes ``(B,)`` to ``(B,)``.

Margins such as ``-l_y + mean l_j`` have no lower bound, and under learned weights the total would run to
minus infinity; they come as `Bounded`: the loss to optimise (at least 0) and the raw margin to log.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# How far points keep from the rim of the unit ball, where all distances are infinite (1e-4 in PPA).
RIM = 1e-4


class Bounded(NamedTuple):
    """A loss in two forms, each ``(B,)``."""

    loss: Tensor
    """At least 0: the one to optimise."""
    raw: Tensor
    """As the source writes it, unbounded below: the one to log."""


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """``-log softmax(logits)_y``, ``(B,)`` in [0, inf)."""
    return F.cross_entropy(logits, y, reduction="none")


def smoothed_cross_entropy(logits: Tensor, y: Tensor, alpha: float) -> Tensor:
    """Cross-entropy against ``(1 - alpha) onehot(y) + alpha / C``: a share ``alpha`` of the label spread evenly.

    Args:
        logits: ``(B, C)``. y: ``(B,)`` int64.
        alpha: at most 1. Above 0 it holds confidence back. Below 0 the other classes get negative labels: the loss
            has no lower bound, and keeps driving the wrong classes' probabilities down.

    Returns:
        ``(B,)``; at ``alpha`` 0 `cross_entropy` bit for bit.

    Source: Szegedy et al. 2016 (arXiv:1512.00567), section 7; alpha below 0: Struppek et al. 2024
    (arXiv:2310.06549).
    """
    return (1 - alpha) * cross_entropy(logits, y) - alpha * logits.log_softmax(1).mean(1)


def adaptive_k(n_classes: int) -> int:
    """How many rivals count: ``max(2, min(5, C // 20))``, at most all C - 1. Source: notes, loss B1."""
    return min(max(2, min(5, n_classes // 20)), n_classes - 1)


def top_k_margin(logits: Tensor, y: Tensor, k: int | None = None) -> Bounded:
    """How far the ``k`` strongest rivals lead: ``-l_y + mean_{top-k, j != y} l_j``, bounded by a softplus.

    Args:
        logits: ``(B, C)`` with C at least 2.
        y: ``(B,)`` int64.
        k: number of rivals, 1..C-1; `adaptive_k` by default. ``k=1`` is the ablation: the notes' older
            "maximum over the top k" is the strongest rival whatever k is.

    Returns:
        ``loss = softplus(raw)`` in (0, inf), and ``raw``.

    Source: notes, loss B1.
    """
    k = adaptive_k(logits.shape[1]) if k is None else k
    raw = _rivals(logits, y).topk(k, dim=1).values.mean(1) - _own(logits, y)
    return Bounded(F.softplus(raw), raw)


def max_margin(logits: Tensor, y: Tensor, margin: float = 0.0) -> Bounded:
    """The strongest rival's lead, ``-l_y + max_{j != y} l_j``, bounded by a hinge.

    Unlike the softplus of `top_k_margin` the hinge falls silent once ``l_y`` leads by ``margin`` logits.

    Returns:
        ``loss = max(0, margin + raw)`` in [0, inf), and ``raw``.

    Source: Yuan et al. 2023, PLG-MI (arXiv:2302.09814), max-margin loss. With ``margin`` > 0 it is our
    reading of the margin term that the notes' loss B4 weighs by 0.3 without defining it.
    """
    raw = _rivals(logits, y).amax(1) - _own(logits, y)
    return Bounded(F.relu(margin + raw), raw)


def poincare(logits: Tensor, y: Tensor) -> Tensor:
    """Hyperbolic distance, in the unit ball, of the L1-normalised logits ``u`` to the one-hot target ``v``.

    ``arccosh(1 + delta)`` with ``delta = 2 ||u - v||^2 / ((1 - ||u||^2)(1 - ||v||^2))``; ``v`` is the one-hot
    vector scaled by ``1 - 1e-4``, and ``u`` is kept as far from the rim. Its gradients do not vanish when the
    victim is already confident.

    Returns:
        ``(B,)`` in [0, inf); at most about 20.

    Source: Struppek et al. 2022, Plug & Play Attacks (arXiv:2201.12179), Poincare loss.
    """
    # The distance needs 1 - ||u||^2 near the rim: float32 at least, whatever the autocast precision.
    logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    u = (1 - RIM) * F.normalize(logits, p=1, dim=1)
    v = (1 - RIM) * F.one_hot(y, logits.shape[1]).to(u)
    room = (1 - u.square().sum(1)) * (1 - v.square().sum(1))
    delta = 2 * (u - v).square().sum(1) / room
    # arccosh(1 + delta) without the cancellation; its slope is infinite at 0, which no image attains.
    delta = delta.clamp_min(1e-12)
    return torch.log1p(delta + (delta * (delta + 2)).sqrt())


def centre_distance(features: Tensor, centres: Tensor, y: Tensor) -> Tensor:
    """Squared distance of the victim's penultimate features to their class's centre, ``||p_x - c_y||^2``.

    Centres that learn as fast as the features make this vanish without any effect: start them from the
    victim's last-layer weights or from pseudo-labelled features, with a slow learning rate.

    Args:
        features: ``(B, D)``.
        centres: ``(C, D)``.
        y: ``(B,)`` int64.

    Returns:
        ``(B,)`` in [0, inf), summed over dimensions.

    Source: notes, loss B3 (p-reg).
    """
    return (features - centres[y]).square().sum(1)


def _own(logits: Tensor, y: Tensor) -> Tensor:
    return logits.gather(1, y[:, None]).squeeze(1)


def _rivals(logits: Tensor, y: Tensor) -> Tensor:
    """The logits with the own class at minus infinity."""
    return logits.scatter(1, y[:, None], float("-inf"))
