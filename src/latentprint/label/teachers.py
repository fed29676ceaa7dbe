"""Several recognisers as one: what they say jointly of a picture, in one space.

The prior listens to the first teacher's embeddings alone. A picture is judged by all: with weights g_k that sum to 1,
the joint embedding is ``[sqrt(g_k) F_k(x)]`` and that of an identity ``[sqrt(g_k) T_k(e)]``, where T_k translates the
first teacher's space into the k-th. Their cosine is ``sum_k g_k cos(F_k(x), T_k(e))``, so that every loss on
embeddings takes them as they are. Source: seed 000, section 9.2 (several teachers, averaged or gated).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latentprint.errors import UserError

Gate = Literal["average", "learned"]

#: Ridge of a translation, as a share of the mean variance of an axis.
RIDGE = 0.01


class Teachers(nn.Module):
    """Frozen recognisers with a weight each.

    Args:
        networks: the first one's space is that of identities.
        translations: ``(D_1, D_k)`` each, from the first one's space; the first is None: the identity.
        weights: g, at least 0, summing to 1.
    """

    def __init__(self, networks: Sequence[nn.Module], translations: Sequence[Tensor | None], weights: Tensor) -> None:
        super().__init__()
        self.networks, self.translations = nn.ModuleList(networks), list(translations)
        self.roots = [float(g) ** 0.5 for g in weights]

    def forward(self, x: Tensor) -> Tensor:
        """Joint embeddings of pictures ``(B, 3, H, W)`` in [0, 1], unit ``(B, D_1 + ... + D_K)``."""
        return torch.cat([root * network(x) for root, network in zip(self.roots, self.networks, strict=True)], 1)

    def of(self, identity: Tensor) -> Tensor:
        """Joint embeddings of identities ``(B, D_1)`` of the first teacher's space, unit ``(B, D_1 + ... + D_K)``."""
        parts = [identity if matrix is None else F.normalize(identity @ matrix.to(identity), dim=1)
                 for matrix in self.translations]
        return torch.cat([root * part for root, part in zip(self.roots, parts, strict=True)], 1)


def alone(teacher: nn.Module) -> Teachers:
    """One teacher: its embeddings as they are."""
    return Teachers([teacher], [None], torch.ones(1))


def together(networks: Sequence[nn.Module], embeddings: Sequence[Tensor], labels: Tensor, gate: Gate) -> Teachers:
    """Translate and weigh several teachers by public photos.

    Args:
        networks: K recognisers. embeddings: ``(N, D_k)`` each, of the public photos.
        labels: ``(N,)`` int64, whom they show.
        gate: equal weights, or those by which pairs of one person's photos are best told from others.

    Raises:
        UserError: a learned gate, and no public person with two photos.
    """
    first = embeddings[0]
    translations = [None, *(translation(first, other) for other in embeddings[1:])]
    weights = torch.full((len(networks),), 1 / len(networks))
    if gate == "learned" and len(networks) > 1:
        weights = learned_weights(embeddings, labels)
    return Teachers(networks, translations, weights)


def translation(source: Tensor, goal: Tensor) -> Tensor:
    """Ridge regression of ``goal`` ``(N, D')`` on ``source`` ``(N, D)``: the ``(D, D')`` matrix W of ``source @ W``."""
    gram = source.T @ source
    ridge = RIDGE * gram.diagonal().mean() * torch.eye(len(gram))
    return torch.linalg.solve(gram + ridge, source.T @ goal)


def learned_weights(embeddings: Sequence[Tensor], labels: Tensor, steps: int = 200) -> Tensor:
    """Weights ``(K,)`` of a logistic regression on the weighted cosine of pairs of photos: the same person or not.

    Raises:
        UserError: no person has two photos.
    """
    order = labels.argsort(stable=True)
    same = (labels[order][1:] == labels[order][:-1]).nonzero().flatten()
    if not len(same):
        raise UserError("attack.gate=learned needs public people with several photos, to see which teacher tells them "
                        "apart; set data.public to such a source, or attack.gate=average")
    a, b = order[same], order[same + 1]
    other = b.roll(1)
    strangers = labels[a] != labels[other]
    pairs = torch.cat([torch.stack([a, b]), torch.stack([a[strangers], other[strangers]])], 1)
    truth = (torch.arange(pairs.shape[1]) < len(a)).float()
    cosines = torch.stack([(e[pairs[0]] * e[pairs[1]]).sum(1) for e in embeddings], 1)
    gate, line = torch.zeros(len(embeddings), requires_grad=True), torch.tensor([10.0, -3.0], requires_grad=True)
    optimizer = torch.optim.Adam([gate, line], 0.1)
    for _ in range(steps):
        loss = F.binary_cross_entropy_with_logits(line[0] * (cosines @ gate.softmax(0)) + line[1], truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return gate.detach().softmax(0)
