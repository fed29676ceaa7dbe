"""Imitations: small networks that learn what a recogniser makes of public photos.

They stand in for a recogniser that gives no gradients, or beside one: they cost a fraction of a large network, and a
pattern that pleases one network alone, whatever it shows, seldom pleases another. Each photo's embedding is to be told
among those of a batch, a contrastive distillation in the manner of Tian et al. 2020 (arXiv:1910.10699), and to lie near
it. A classifier's margin loss learns nothing in so few steps of thousands of people with two photos each.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latentprint.data.augment import warped
from latentprint.data.base import ImageSet
from latentprint.engine.device import Precision, autocast, lay_out
from latentprint.engine.loop import Loop, warm_cosine
from latentprint.engine.run import RunDir
from latentprint.engine.seeds import derive, step_generator
from latentprint.models.recognisers import EmbeddingNetwork, build_recogniser

#: People a step, two photos of each, and the temperature of the contrast.
PEOPLE, TEMPERATURE = 32, 0.1
#: Bounds of the views of photos: radians, fraction of the image, factor of light.
TURN, SHIFT, LIGHT = 0.08, 0.04, 0.1


#: Of a step: the loss and values to log.
LossAt = Callable[[int], tuple[Tensor, dict[str, Tensor | float]]]


class Imitation(EmbeddingNetwork):
    """A recogniser of this package with a last layer into the space of another.

    Args:
        dim: entries of that one's embeddings. architecture: a key of ``RECOGNISERS``.
    """

    def __init__(self, dim: int, architecture: str = "iresnet") -> None:
        super().__init__()
        self.body, self.dim = build_recogniser(architecture), dim
        self.reader = nn.Linear(self.body.dim, dim)

    def raw(self, x: Tensor) -> Tensor:
        return self.reader(self.body.raw(x))


def train_imitation(public: ImageSet, targets: Tensor, steps: int, run: RunDir, name: str, *, seed: int,
                    precision: Precision, device: torch.device, save_every: int, architecture: str = "iresnet",
                    mirrored: bool = False) -> Imitation:
    """An imitation, or the one of the checkpoint ``name``; frozen.

    Args:
        public: photos. targets: ``(N, D)`` unit embeddings of them, on the device.
        mirrored: half of the views are mirrored.

    Raises:
        RunFailed: training broke down.
    """
    torch.manual_seed(derive(seed, name))
    network = Imitation(targets.shape[1], architecture)
    lay_out(network, device).train().requires_grad_(True)
    pairs = Pairs(public.labels)

    def loss_at(step: int) -> tuple[Tensor, dict[str, Tensor | float]]:
        rng = step_generator(seed, name, step)
        index = pairs.draw(PEOPLE, rng)
        images = photo_views(public.floats(index).to(device), rng, mirrored)
        with autocast(device, precision):
            embedded = network.raw(images)
        return imitation_loss(embedded.float(), targets[index].to(device))

    learn(network, name, loss_at, steps, run, save_every)
    return network


def learn(network: EmbeddingNetwork, name: str, loss_at: LossAt, steps: int, run: RunDir, save_every: int) -> None:
    """Train an adversary's recogniser by a loss of steps, from its checkpoint where there is one, and freeze it."""
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3, weight_decay=5e-2)
    Loop(run, name, optimizer, {"network": network}, steps, warm_cosine(steps, min(100, steps // 10)), clip_norm=5.0,
         save_every=save_every).fit(loss_at)
    network.requires_grad_(False).eval()


def photo_views(photos: Tensor, rng: torch.Generator, mirrored: bool = False) -> Tensor:
    """Photos ``(B, 3, H, W)`` in [0, 1], moved and lit a little otherwise at random."""
    return warped(photos, rng, TURN, SHIFT, light=LIGHT, mirror=mirrored).clamp(0, 1)


def imitation_loss(embedded: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, Tensor | float]]:
    """Mean over a batch of the cross-entropy of finding each one's target among all, and of 1 - cos to it.

    Args:
        embedded: ``(B, D)`` of any length. targets: ``(B, D)``, unit.
    """
    cosines = F.normalize(embedded, dim=1) @ targets.T
    near = cosines.diagonal().mean()
    told = F.cross_entropy(cosines / TEMPERATURE, torch.arange(len(targets), device=targets.device))
    return told + 1 - near, {"similarity": near.detach()}


class Pairs:
    """Two photos each of people drawn at random; of a person with one photo that one twice.

    Args:
        labels: ``(N,)`` int64, whose each photo is.
    """

    def __init__(self, labels: Tensor) -> None:
        self.photos = labels.argsort(stable=True)
        _, self.counts = labels.unique(return_counts=True)
        self.starts = self.counts.cumsum(0) - self.counts

    def draw(self, people: int, rng: torch.Generator) -> Tensor:
        """``(2 P,)`` indices of photos, first ones and then second ones, of P people, at most so many."""
        who = torch.randperm(len(self.counts), generator=rng)[:people]
        counts, share = self.counts[who], torch.rand(2, len(who), generator=rng)
        first = (share[0] * counts).long()
        other = 1 + (share[1] * (counts - 1)).long()  # how much further the second one lies
        second = torch.where(counts > 1, (first + other) % counts, first)
        return self.photos[torch.cat([self.starts[who] + first, self.starts[who] + second])]
