"""From what the victim sees to what the teacher sees: a map between their feature spaces, learned on public photos.

The last layer of a classifier holds a direction for each class, which is where the features of that person's photos
point. Where a map from features to the teacher's embeddings is known, the direction becomes an identity in one
forward pass: the estimate that minimises the mean error given the direction. A search that only asks for the
victim's approval may end anywhere among the many faces that the victim cannot tell apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latentprint.engine.loop import Loop, warm_cosine
from latentprint.engine.run import RunDir
from latentprint.engine.seeds import derive, step_generator
from latentprint.label.pairing import Opinions
from latentprint.losses.identity import identity_cosine
from latentprint.models.penultimate import class_directions
from latentprint.types import Access
from latentprint.victim import Victim

#: Photos a step.
BATCH = 256


@dataclass(frozen=True)
class LastLayer:
    """What the victim's last layer sees.

    Attributes:
        origin: ``(D,)`` mean of its features of public photos.
        centred: ``(N, D)`` those features about their mean.
        directions: ``(C, D)`` where the features of each class's photos point.
    """

    origin: Tensor
    centred: Tensor
    directions: Tensor

    @classmethod
    def of(cls, victim: Victim, opinions: Opinions) -> LastLayer:
        """On the CPU.

        Of a victim that shows its scores alone the log-probabilities stand for the features, their axes for directions.
        """
        features = opinions.features
        origin = features.mean(0)
        if victim.access is not Access.WHITE_BOX:
            return cls(origin, features - origin, torch.eye(victim.n_classes) - 1 / victim.n_classes)
        return cls(origin, features - origin, class_directions(victim.network, victim.n_classes).cpu())


class FeatureMap(nn.Module):
    """Centred features ``(B, D)``, of which the length does not count, to unit embeddings ``(B, dim)``.

    A linear map and two hidden layers beside it.
    """

    def __init__(self, n_features: int, dim: int, hidden: int = 1024, dropout: float = 0.5) -> None:
        super().__init__()
        self.linear = nn.Linear(n_features, dim)
        self.deep = nn.Sequential(nn.Linear(n_features, hidden), nn.GELU(), nn.Dropout(dropout),
                                  nn.Linear(hidden, hidden), nn.GELU(), nn.Dropout(dropout),
                                  nn.Linear(hidden, dim))

    def forward(self, centred: Tensor, noise: float = 0.0) -> Tensor:
        x = F.normalize(centred, dim=1) * centred.shape[1] ** 0.5  # entries of order one
        x = x + noise * torch.randn_like(x)
        return F.normalize(self.linear(x) + self.deep(x), dim=1)


def fit_map(features: Tensor, embeddings: Tensor, run: RunDir, seed: int, device: torch.device, *, steps: int,
            noise: float) -> FeatureMap:
    """Learn it by minimising 1 - cos over public photos.

    Args:
        features: ``(N, D)`` the victim's, centred.
        embeddings: ``(N, dim)`` the teacher's.
        noise: standard deviation of what is added to a feature whose entries are of order one, since a class
            direction is no photo's features: it lies some 30 degrees from the mean of its class.
    """
    torch.manual_seed(derive(seed, "map"))
    mapping = FeatureMap(features.shape[1], embeddings.shape[1]).to(device)
    optimizer = torch.optim.AdamW(mapping.parameters(), 1e-3, weight_decay=1e-2)

    def loss_at(step: int) -> tuple[Tensor, dict[str, Tensor | float]]:
        index = torch.randint(len(features), (BATCH,), generator=step_generator(seed, "map", step))
        predicted = mapping(features[index].to(device), noise)
        return identity_cosine(predicted, embeddings[index].to(device)).mean(), {}

    Loop(run, "map", optimizer, {"map": mapping}, steps, warm_cosine(steps, 20), save_every=steps).fit(loss_at)
    return mapping.eval().requires_grad_(False)
