"""A penalty that no surrogate can lower by cheating: the cross entropy of features under a normalised density.

Each class of a batch is cut into halves. What attention pools from one half becomes a mixture ``q(z | y)``, and the
other half is scored on it. Since q is a normalised density that never saw what it scores, the expected score is the
cross entropy, at least the entropy of the features given the class, whatever the parameters are (Gibbs' inequality).
So the encoder and the surrogate lower the same upper bound: the surrogate is trained by maximum likelihood, which is
to tighten it, and to lower it further the features have to change.

The features scored are those which are sent, clean ones plus noise. The noise alone has a known density, and a score is
taken relative to it, ``log p(noise) - log q(z + noise | y)``: its mean over the noise is the divergence of what is sent
for this image from q, and its mean over a class is at least the mutual information of features and what is sent.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from latentprint.surrogates.groups import Classmates, related

#: Batches between two steps of the memory, and samples of a class that it remembers.
FLUSH_EVERY, MEMORY = 16, 64


class Pooled(NamedTuple):
    """Statistics of S groups of tokens, for each sample: ``mass`` ``(B, S)``, how many tokens; ``mean`` and
    ``variance`` ``(B, T, S, C)``, or ``(B, 1, S, C)`` where the T positions share them."""

    mass: Tensor
    mean: Tensor
    variance: Tensor


class Halves(NamedTuple):
    """Two halves of each class.

    Attributes:
        mates: who shares a class and a half of it.
        partner: ``(B,)`` int64, somebody of one's class in the other half; oneself where nobody is there.
        found: ``(B,)`` float32, 1 where somebody is.
    """

    mates: Classmates
    partner: Tensor
    found: Tensor


@torch.no_grad()
def halves(mates: Classmates) -> Halves:
    """Samples of a class go into its halves turn by turn, in the order of the batch.

    Batches are shuffled, so which half a sample is in says nothing about it.
    """
    half = mates.same.tril(-1).sum(1) % 2
    same = mates.same * (half == half[:, None])
    found, partner = (mates.same - same).max(1)
    return Halves(related(same), partner, found)


class Components(NamedTuple):
    """A mixture for each position of each sample: ``log_weight`` ``(B, S)``; ``mean`` and ``variance``
    ``(B, T, S, C)``, or broadcasting to it."""

    log_weight: Tensor
    mean: Tensor
    variance: Tensor


class Density(nn.Module):
    """From pooled statistics to a mixture.

    Few samples make a poor mean and a poor variance, so both shrink towards what is known without them: the class's
    mean over earlier batches, and a learned variance. How much they shrink is learned too. Variances are floored at
    the noise's, since what is sent has no less.

    Args:
        positions, channels: T and C of the tokens of a sample.
    """

    memory: Tensor
    seen: Tensor

    def __init__(self, n_classes: int, positions: int, channels: int, noise_std: float) -> None:
        super().__init__()
        self.noise_std = noise_std
        self.log_variance = nn.Parameter(torch.full((channels,), math.log(0.05)))
        self.log_shrinkage = nn.Parameter(torch.zeros(()))
        self.waiting: list[tuple[Tensor, Tensor]] = []
        self.register_buffer("memory", torch.zeros(n_classes, positions, channels))
        self.register_buffer("seen", torch.zeros(n_classes))
        self.register_state_dict_pre_hook(lambda *_: self.flush())

    def forward(self, pooled: Pooled, parts: Halves, y: Tensor) -> Components:
        """For each sample the mixture that the other half of its class makes."""
        shrinkage = self.log_shrinkage.exp()
        mass = pooled.mass[parts.partner] * parts.found[:, None]
        trust = (mass / (mass + shrinkage))[:, None, :, None]
        mean = torch.lerp(self.memory[y][:, :, None], pooled.mean[parts.partner], trust)
        variance = torch.lerp(self.log_variance.exp(), pooled.variance[parts.partner], trust) + self.noise_std**2
        log_weight = (mass + shrinkage / mass.shape[1]).log().log_softmax(1)
        return Components(log_weight, mean, variance)

    def observe(self, tokens: Tensor, y: Tensor) -> None:
        """Take ``(B, T, C)`` for the memory, which follows some batches later: it never holds what is being scored."""
        if len(self.waiting) == FLUSH_EVERY:
            self.flush()
        self.waiting.append((tokens.detach(), y))

    @torch.no_grad()
    def flush(self) -> None:
        """Let the memory follow the batches that wait. Classes with non-finite features keep theirs."""
        if not self.waiting:
            return
        tokens, y = (torch.cat(parts) for parts in zip(*self.waiting, strict=True))
        self.waiting.clear()
        total = torch.zeros_like(self.memory).index_add_(0, y, tokens.float())
        count = torch.zeros_like(self.seen).index_add_(0, y, torch.ones_like(y, dtype=self.seen.dtype))
        trust = (count / (self.seen + count).clamp(1, MEMORY))[:, None, None].clamp_max(1)
        fresh = torch.lerp(self.memory, total / count.clamp_min(1)[:, None, None], trust)
        self.memory.copy_(torch.where(fresh.isfinite(), fresh, self.memory))
        self.seen += count


def excess(tokens: Tensor, components: Components, noise_std: float) -> Tensor:
    """``log p(noise) - log q(token + noise)`` per dimension, in nats, averaged over positions: ``(B,)``.

    With fresh noise on tokens ``(B, T, C)``. Its expectation is at least 0: it is the cross entropy of what is sent
    per dimension less the entropy of the noise, ``log(2 pi e noise_std^2) / 2``.
    """
    unit = torch.randn_like(tokens)
    sent = torch.add(tokens, unit, alpha=noise_std)[:, :, None]
    squares = ((sent - components.mean).square() / components.variance + components.variance.log()).sum(3)
    log_q = (components.log_weight[:, None] - squares / 2).logsumexp(2)
    log_p = unit.square().sum(2) / -2 - tokens.shape[2] * math.log(noise_std)  # both without log(2 pi) C / 2
    return (log_p - log_q).mean(1) / tokens.shape[2]
