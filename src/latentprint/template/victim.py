"""What the adversary reaches: stored templates, and a recogniser behind the access that is granted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latentprint.errors import UserError
from latentprint.models.answers import embeddings
from latentprint.template.defenses import Scheme
from latentprint.template.presets import Access
from latentprint.template.recogniser import Embedder
from latentprint.types import AccessDenied
from latentprint.victim import QueryCounter

#: Length of a template that counts as 1.
UNIT = 1e-3


class BudgetSpent(RuntimeError):
    """More images were submitted for a person than the budget allows."""


@dataclass(frozen=True)
class Database:
    """What is stored of P people.

    Attributes:
        stored: ``(P, D')``, protected. keys: ``(P,)`` int64 of each one's secrets, known to the adversary.
    """

    stored: Tensor
    keys: Tensor

    def __len__(self) -> int:
        return len(self.stored)


class TemplateVictim(nn.Module):
    """A recogniser, its scheme and its database.

    Args:
        recogniser, scheme: as loaded.
        database: what was enrolled; leaked to the adversary, unless it has scores alone.
        access: what else the adversary has.
        budget: images that may be submitted for each person under score access.
    """

    def __init__(self, recogniser: Embedder, scheme: Scheme, database: Database, access: Access,
                 budget: int | None = None) -> None:
        super().__init__()
        self.recogniser, self.scheme, self._database, self.access, self.budget = (recogniser, scheme, database, access,
                                                                                  budget)
        self.queries = QueryCounter()
        self.submitted = torch.zeros(len(database), dtype=torch.int64)

    @property
    def database(self) -> Database:
        """What leaked.

        Raises:
            AccessDenied: under score access nothing did.
        """
        if self.access == "scores":
            raise AccessDenied("score access: the stored templates are not known")
        return self._database

    @property
    def device(self) -> torch.device:
        """Where images must lie."""
        return next(iter(self.recogniser.parameters()), torch.zeros(())).device

    def embed(self, x: Tensor) -> Tensor:
        """Unit embeddings ``(B, D)`` of one's own images ``(B, 3, H, W)`` in [0, 1]; differentiable in the white box.

        Raises:
            AccessDenied: under score access.
        """
        match self.access:
            case "white-box":
                return self._counted(self.recogniser, x)
            case "transfer":
                with torch.no_grad():
                    return self._counted(self.recogniser, x)
        raise AccessDenied("score access: no embeddings")

    def embed_photos(self, photos: Tensor) -> Tensor:
        """Unit embeddings ``(N, D)`` of one's own photos ``(N, 3, H, W)`` uint8, on the device.

        Each counts as a query, whether or not an earlier run kept the answer.

        Raises:
            AccessDenied: under score access.
        """
        if self.access == "scores":
            raise AccessDenied("score access: no embeddings")
        self.queries.forward += len(photos)
        return embeddings(self.recogniser, photos, self.recogniser.name).to(self.device)

    @torch.no_grad()
    def score(self, x: Tensor, people: Tensor) -> Tensor:
        """``(B,)`` cosines of images to the stored templates of ``people`` ``(B,)``, each of which is a query.

        Raises:
            BudgetSpent: a person's budget does not allow it; nothing is answered.
        """
        asked = self.submitted + torch.bincount(people, minlength=len(self.submitted))
        if self.budget is not None and bool((asked > self.budget).any()):
            raise BudgetSpent(f"{self.budget} images a person may be submitted")
        self.submitted = asked
        probes = self._counted(self.recogniser, x).cpu()
        own = self._database.keys[people]
        return F.cosine_similarity(self.scheme.probe(probes, own), self._database.stored[people], dim=1)

    def _counted(self, answer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        n, queries = len(x), self.queries
        queries.forward += n
        out = answer(x)
        if out.requires_grad:
            out.register_hook(lambda _: queries.count_backward(n))
        return out


def checked_templates(templates: Tensor, dim: int, what: str) -> Tensor:
    """Templates ``(N, D)`` as they should be: of ``dim`` finite entries and length 1.

    Raises:
        UserError: they are not.
    """
    if templates.ndim != 2 or templates.shape[1] != dim:
        raise UserError(f"{what}: expected templates of {dim} entries, got {tuple(templates.shape)}")
    if not templates.isfinite().all():
        raise UserError(f"{what}: a template has NaN or infinite entries")
    length = templates.norm(dim=1)
    if not bool(length.all()):
        raise UserError(f"{what}: template {int((length == 0).nonzero()[0])} is all zeros")
    if bool(((length - 1).abs() > UNIT).any()):
        worst = int((length - 1).abs().argmax())
        raise UserError(f"{what}: template {worst} has length {float(length[worst]):.3g}, expected 1; normalise it")
    return templates
