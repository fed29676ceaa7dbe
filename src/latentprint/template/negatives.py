"""Whom InfoNCE tells the generated face apart from: random, hard, or recent other people, never its own."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from latentprint.errors import UserError

Kind = Literal["random", "hard", "queue"]


class Drawn(NamedTuple):
    """Negatives ``(K, D)`` for the whole batch or ``(B, K, D)``, and which do not count ``(B, K)``."""

    templates: Tensor
    excluded: Tensor

    def of(self, samples: slice) -> Drawn:
        """Those of some samples of the batch."""
        return Drawn(self.templates if self.templates.ndim == 2 else self.templates[samples], self.excluded[samples])


class Negatives:
    """A source of negatives among public templates.

    Args:
        bank: ``(N, D)`` unit templates. people: ``(N,)`` int64, whose each is.
        count: K; for a queue its length.

    Raises:
        UserError: a bank of one person, who has no negative.
    """

    def __init__(self, kind: Kind, bank: Tensor, people: Tensor, count: int) -> None:
        if len(people.unique()) < 2:
            raise UserError("attack.loss.negatives: the public photos are all of one person; a negative is another one")
        self.kind, self.bank, self.people = kind, bank, people
        self.count = count if kind == "queue" else min(count, len(bank))
        self.queue = bank.new_zeros(count if kind == "queue" else 0, bank.shape[1])
        self.owners = torch.full((len(self.queue),), -1, device=bank.device)
        self.place = 0

    def draw(self, positive: Tensor, people: Tensor, rng: torch.Generator) -> Drawn:
        """For templates ``(B, D)`` of ``people`` ``(B,)``. A queue takes them in afterwards.

        The notes keep the queue of a momentum encoder; the recogniser here stands still, and its older answers stay
        valid. Until the queue is full, what is empty is excluded.
        """
        match self.kind:
            case "random":
                index = torch.randint(len(self.bank), (self.count,), generator=rng).to(self.bank.device)
                return Drawn(self.bank[index], self.people[index] == people[:, None])
            case "hard":
                likeness = (positive @ self.bank.T).masked_fill(self.people == people[:, None], -torch.inf)
                found, index = likeness.topk(self.count, 1)
                return Drawn(self.bank[index], found == -torch.inf)
        drawn = Drawn(self.queue.clone(), (self.owners == people[:, None]) | (self.owners == -1))
        self._push(positive.detach(), people)
        return drawn

    def _push(self, templates: Tensor, people: Tensor) -> None:
        at = (self.place + torch.arange(len(templates), device=self.queue.device)) % len(self.queue)
        self.queue[at], self.owners[at] = templates, people
        self.place = (self.place + len(templates)) % len(self.queue)

    def state_dict(self) -> dict[str, Any]:
        return {"queue": self.queue, "owners": self.owners, "place": self.place}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.queue.copy_(state["queue"])
        self.owners.copy_(state["owners"])
        self.place = int(state["place"])
