"""Inversion from scores alone: submit images, read the similarity to a person's stored template, infer the template.

A score is close to a linear function of the submitted image's embedding by *any* good recogniser, for recognisers agree
on who is like whom. So the adversary embeds the images that it submits with a recogniser of its own, and a ridge
regression of scores on embeddings gives the person's template in that recogniser's space. Faces drawn from it are
submitted in turn, and what they score refines the regression.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.linear_model import RidgeCV
from torch import Tensor

from latentprint.data.base import ImageSet
from latentprint.engine.seeds import generator as seeded
from latentprint.template.generators import Generator
from latentprint.template.recogniser import Embedder
from latentprint.template.recovery import TemplatePrior
from latentprint.template.victim import BudgetSpent, TemplateVictim

#: Drawn faces submitted between two regressions, and how far they scatter around the template inferred so far.
ROUND, SCATTER = 10, 0.5
ALPHAS = [10.0**k for k in range(-3, 4)]


@dataclass
class Inferred:
    """What score queries gave.

    Attributes:
        templates: ``(P, D)`` unit, in the space of the adversary's own recogniser.
        spent: whether the budget went to public photos alone.
    """

    templates: Tensor
    spent: bool


@torch.no_grad()
def infer_templates(victim: TemplateVictim, public: ImageSet, own: Embedder, prior: TemplatePrior,
                    generator: Generator, budget: int, share: float, seed: int) -> Inferred:
    """Everybody's template from at most ``budget`` scores each.

    Args:
        public: photos to submit first, one of a person as far as they go.
        own: the adversary's recogniser. prior: where its embeddings lie.
        generator: draws faces from its embeddings.
        share: of the budget that goes to public photos.
    """
    device, people = victim.device, len(victim.submitted)
    everyone, rng = torch.arange(people), seeded(seed, "submitted")
    asked: list[Asked] = []
    found, drew = prior.mean.expand(people, -1), False
    try:
        for photo in public.floats(_one_a_person(public, max(2, round(share * budget)), seed)).to(device):
            scores = victim.score(photo.expand(people, -1, -1, -1), everyone)
            asked.append(Asked(own(photo[None]).cpu().expand(people, -1), scores))
        while int(victim.submitted.max()) < budget:
            found = _regress(asked, prior)
            for _ in range(ROUND):
                around = F.normalize(found + SCATTER * torch.randn(found.shape, generator=rng) @ prior.axes, dim=1)
                pictures = generator.pictures(around.to(device), everyone).clamp(0, 1)
                asked.append(Asked(own(pictures).cpu(), victim.score(pictures, everyone)))
                drew = True
    except BudgetSpent:  # what it gave is used
        pass
    found = _regress(asked, prior) if len(asked) > 1 else found
    return Inferred(F.normalize(found, dim=1), not drew)


class Asked(NamedTuple):
    """An image for everybody: its embedding ``(P, D)`` and what it scored ``(P,)``."""

    embedded: Tensor
    scores: Tensor


def _regress(asked: Sequence[Asked], prior: TemplatePrior) -> Tensor:
    """``(P, D)`` templates, by ridge regression in the coordinates in which public templates are white."""
    embedded = torch.stack([each.embedded for each in asked], 1)
    scores = torch.stack([each.scores for each in asked], 1)
    white = (embedded - prior.mean) @ prior.axes.T
    found = np.stack([_one(x, y) for x, y in zip(white.double().numpy(), scores.double().numpy(), strict=True)])
    found = found / np.linalg.norm(found, axis=1, keepdims=True).clip(1e-12) * np.sqrt(found.shape[1])
    return prior.template(torch.from_numpy(found).float())


def _one(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(RidgeCV(alphas=ALPHAS).fit(x, y).coef_)


def _one_a_person(public: ImageSet, n: int, seed: int) -> Tensor:
    """At most ``n`` photos, of as many people as possible, in random order."""
    order = torch.randperm(len(public), generator=seeded(seed, "probes"))
    labels = public.labels[order]
    _, first = np.unique(labels.numpy(), return_index=True)
    ahead = torch.zeros(len(order), dtype=torch.bool)
    ahead[torch.from_numpy(first)] = True
    return torch.cat([order[ahead], order[~ahead]])[:n]
