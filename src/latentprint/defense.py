"""Defences: each wraps a victim *and is* one, so that it is on whenever the attack queries it."""

from __future__ import annotations

from typing import final

from torch import Tensor, nn

from latentprint.victim import Victim


class Defense(Victim):
    """A defended victim. Subclasses override `defended`, or `training_term`, or both.

    One that changes the loss itself, or needs the forward pass that the loss was taken of, overrides
    `training_loss`, and calls the base class's at strength 0.

    Defences nest: the victim given may be a defence. Queries are counted once, by the counter of the
    innermost victim, whose access also holds.

    Args:
        victim: what to defend.
        strength: how much of it, at least 0; its unit is the subclass's to say. At 0 the answers are those of
            ``victim`` bit for bit.

    Raises:
        ValueError: a negative strength.
    """

    module: Victim

    def __init__(self, victim: Victim, strength: float) -> None:
        if not strength >= 0:
            raise ValueError(f"strength must be at least 0, got {strength}")
        super().__init__(victim, victim.n_classes, preprocess=victim.preprocess, access=victim.access,
                         name=f"{type(self).__name__}({victim.name}, {strength:g})", notes=victim.notes)
        self.strength = strength
        self.queries = victim.queries

    @property
    def victim(self) -> Victim:
        """The victim that is defended."""
        return self.module

    @property
    def network(self) -> nn.Module:
        return self.victim.network

    def defended(self, x: Tensor) -> Tensor:
        """Defended logits ``(B, C)`` of ``(B, 3, H, W)`` images in [0, 1], by way of ``self.victim.logits``.

        Called at strengths above 0 only. By default the undefended ones: a defence by training alone.
        """
        return self.victim.logits(x)

    def training_term(self, x: Tensor, y: Tensor) -> Tensor:
        """What the defence adds to the victim's own loss when its owner trains it.

        Args:
            x: ``(B, 3, H, W)`` in [0, 1].
            y: ``(B,)`` int64.

        Returns:
            ``(B,)``, to be multiplied by `strength`; zeros by default.
        """
        return x.new_zeros(len(x))

    def training_loss(self, x: Tensor, y: Tensor, progress: float = 0.0) -> tuple[Tensor, Tensor]:
        """The inner victim's own loss plus ``strength * training_term``; see `Victim.training_loss`."""
        loss, logits = self.victim.training_loss(x, y, progress)
        return (loss + self.strength * self.training_term(x, y) if self.strength > 0 else loss), logits

    @final
    def logits(self, x: Tensor) -> Tensor:
        return self.defended(x) if self.strength > 0 else self.victim.logits(x)

    def penultimate(self, x: Tensor) -> Tensor:
        """Penultimate features; a defence that touches them says how by overriding this."""
        return self.victim.penultimate(x)

    def logits_and_penultimate(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """In one pass, unless the defence touches either."""
        own = type(self)
        if own.defended is Defense.defended and own.penultimate is Defense.penultimate:
            return self.victim.logits_and_penultimate(x)
        return self.logits(x), self.penultimate(x)
