"""The adversary's own recogniser, trained on public photos: where the attacked one gives no gradients.

Who can embed photos of their own (transfer) trains a copy of the attacked recogniser: each photo's embedding is to be
told among those of a batch, a contrastive distillation in the manner of Tian et al. 2020 (arXiv:1910.10699), and to lie
near it. Who cannot (scores) has only the public people's names: photos of one person attract, of others repel (SupCon,
Khosla et al. 2020, arXiv:2004.11362). A classifier's margin loss learns nothing in so few steps of thousands of people
with two photos each.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pytorch_metric_learning.losses import SupConLoss
from torch import Tensor, nn

from latentprint.data.base import ImageSet
from latentprint.engine.device import Precision, autocast, lay_out
from latentprint.engine.loop import Loop, warm_cosine
from latentprint.engine.run import RunDir
from latentprint.engine.seeds import derive, step_generator
from latentprint.errors import UserError
from latentprint.models.recognisers import EMBEDDING_DIM, EmbeddingNetwork, build_recogniser
from latentprint.template.recogniser import Embedder
from latentprint.template.train import viewed

#: People a step, two photos of each, and the temperature of both losses.
PEOPLE, TEMPERATURE = 32, 0.1
NAME = "surrogate"


class Imitation(EmbeddingNetwork):
    """A recogniser of this package with a last layer into the space of another."""

    def __init__(self, dim: int, architecture: str = "iresnet") -> None:
        super().__init__()
        self.body, self.dim = build_recogniser(architecture), dim
        self.reader = nn.Linear(self.body.dim, dim)

    def raw(self, x: Tensor) -> Tensor:
        return self.reader(self.body.raw(x))


def train_surrogate(public: ImageSet, targets: Tensor | None, steps: int, run: RunDir, seed: int,
                    precision: Precision, device: torch.device, save_every: int, name: str = NAME,
                    architecture: str = "iresnet") -> Embedder:
    """A recogniser of the adversary's own, or the one of the checkpoint.

    Args:
        targets: ``(N, D)`` the attacked recogniser's embeddings of the public photos; None without access to them.
        name: of the training phase. architecture: a key of ``RECOGNISERS``.

    Raises:
        UserError: public photos of one person alone. RunFailed: training broke down.
    """
    if public.n_classes < 2:
        raise UserError("attack.surrogate: a recogniser cannot be trained on public photos of one person")
    torch.manual_seed(derive(seed, name))
    dim = EMBEDDING_DIM if targets is None else targets.shape[1]
    network = lay_out(Imitation(dim, architecture), device).train().requires_grad_(True)
    assert isinstance(network, Imitation)
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3, weight_decay=5e-2)
    pairs, alike = Pairs(public.labels), SupConLoss(TEMPERATURE)

    def loss_at(step: int) -> tuple[Tensor, dict[str, Tensor | float]]:
        rng = step_generator(seed, name, step)
        index = pairs.draw(PEOPLE, rng)
        images = viewed(public.floats(index).to(device), 1.0, rng).clamp(0, 1)
        with autocast(device, precision):
            embedded = network.raw(images)
        if targets is None:
            return alike(embedded.float(), public.labels[index].to(device)), {}
        return imitation_loss(embedded.float(), targets[index].to(device))

    Loop(run, name, optimizer, {"network": network}, steps, warm_cosine(steps, min(100, steps // 10)), clip_norm=5.0,
         save_every=save_every).fit(loss_at)
    return Embedder(network, nn.Identity(), dim, name, architecture)


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
