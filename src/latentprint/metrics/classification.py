"""What a classifying evaluator says of each reconstruction. All generated images count, recognised or not."""

from __future__ import annotations

from torch import Tensor


def topk_hits(logits: Tensor, classes: Tensor, k: int) -> Tensor:
    """``(B,)`` bool: is the true class among the k highest logits?

    Args:
        logits: ``(B, C)``.
        classes: ``(B,)`` int64 in 0..C-1.

    Ties and NaN count against the hit: an evaluator that answers the same for every class recognises nobody.
    """
    own = logits.gather(1, classes[:, None])
    not_beaten = (~(logits < own)).sum(1) - 1  # the class itself is never below itself
    return not_beaten < k


def confidence(logits: Tensor, classes: Tensor) -> Tensor:
    """``(B,)`` in [0, 1]: probability of the true class, from logits ``(B, C)`` and int64 ``(B,)``."""
    return logits.softmax(1).gather(1, classes[:, None]).squeeze(1)
