"""Slot attention within each class: a few slots compete for the samples of a class and stand for its modes.

Source: the notes on slots (seed 003), which build on slot attention (Locatello et al. 2020, arXiv:2006.15055) and on
gated cross attention (Flamingo, Alayrac et al. 2022, arXiv:2204.14198, section 2.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latentprint.surrogates.base import Measured
from latentprint.surrogates.density import Density, Pooled, excess, halves
from latentprint.surrogates.groups import Classmates
from latentprint.surrogates.learned import WIDTH, Learned, Mode, Normalise, Tokens
from latentprint.surrogates.thresholds import Hinge, Threshold, require_noise

#: Where the gates of attention and feed-forward network start.
GATE = 0.1
EPS = 1e-8


class Attended(NamedTuple):
    """``slots`` ``(B, S, W)`` of each sample's class; ``attention`` ``(B, T, S)`` of its tokens, 1 over the slots."""

    slots: Tensor
    attention: Tensor


class SlotAttention(nn.Module):
    """Slots of a class, refined in some iterations.

    The gradient reaches the parameters through all iterations while they are trained. Otherwise it goes to the features
    through the last one alone, which to first order is the gradient at the fixed point that the iterations approach
    (Chang et al. 2022, arXiv:2207.00787).
    """

    def __init__(self, width: int, slots: int = 8, iterations: int = 3) -> None:
        super().__init__()
        self.slots, self.width, self.iterations = slots, width, iterations
        self.start = nn.Parameter(torch.randn(slots, width) * width**-0.5)
        self.log_spread = nn.Parameter(torch.zeros(width))
        self.query_key = nn.Linear(width, width, bias=False)  # the product of the query's and the key's map
        self.value = nn.Linear(width, width, bias=False)
        self.cell = nn.GRUCell(width, width)
        self.hidden, self.out = nn.Linear(width, width), nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, mates: Classmates) -> Attended:
        """Of tokens ``(B, T, W)``. Slots start from one draw for all classes, so that those of a class agree."""
        x = _normed(x)
        # Over width^(1/2) as usual, and the extra temperature of the notes, width^(1/4).
        key, value = self.query_key(x) / self.width**0.75, self.value(x)
        slots = torch.addcmul(self.start, self.log_spread.exp(), torch.randn_like(self.start)).repeat(len(x), 1)
        trained = self.start.requires_grad
        for i in range(self.iterations):
            with torch.set_grad_enabled(torch.is_grad_enabled() and (trained or i == self.iterations - 1)):
                slots, attention = self._iterate(slots, key, value, mates)
        return Attended(slots.view(len(x), self.slots, -1), attention)

    def _iterate(self, slots: Tensor, key: Tensor, value: Tensor, mates: Classmates) -> tuple[Tensor, Tensor]:
        query = _normed(slots).view(len(key), self.slots, -1)
        attention = torch.bmm(key, query.mT).softmax(2) + EPS
        mass = mates.same @ attention.sum(1)
        seen = torch.mm(mates.same, torch.bmm(attention.mT, value).flatten(1)).view_as(slots) / mass.view(-1, 1)
        slots = _gru(self.cell, seen, slots)
        return torch.addmm(slots, self.hidden(_normed(slots)).relu(), self.out.weight.t()), attention


def _gru(cell: nn.GRUCell, x: Tensor, h: Tensor) -> Tensor:
    """A step of the cell; torch's own takes twice the operations on a CPU."""
    width = h.shape[1]
    x_gates, x_new = F.linear(x, cell.weight_ih, cell.bias_ih).split((2 * width, width), 1)
    h_gates, h_new = F.linear(h, cell.weight_hh, cell.bias_hh).split((2 * width, width), 1)
    reset, keep = (x_gates + h_gates).sigmoid().chunk(2, 1)
    return torch.lerp(torch.addcmul(x_new, reset, h_new).tanh(), h, keep)


class GatedCrossAttention(nn.Module):
    """Tokens look at their class's slots, and keep what the gates ``tanh(alpha)`` let through."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.project = nn.Linear(width, width)
        self.feed_forward = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.alpha = nn.Parameter(torch.full((2,), GATE))

    def forward(self, x: Tensor, slots: Tensor) -> Tensor:
        """Tokens ``(B, T, W)`` enhanced by slots ``(B, S, W)``."""
        key, value = self.key_value(_normed(slots)).chunk(2, 2)
        seen = F.scaled_dot_product_attention(*map(self._heads, (self.query(_normed(x)), key, value)))
        attend, feed = self.alpha.tanh().unbind()
        x = x + attend * self.project(seen.transpose(1, 2).flatten(2))
        return x + feed * self.feed_forward(_normed(x))

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)


class SlotSurrogate(Learned):
    """Variance of features that attended to the slots of their class, in ``density`` mode the likelihood of slots.

    Otherwise: ``mean_d hinge(log(max(var_d, eps) + gamma) - threshold)`` of a class, with the unbiased variance over
    its samples of each dimension at each position, averaged over classes by their share. Classes with one sample have
    no variance and no say.

    Args:
        slots, iterations: see `SlotAttention`. heads: of the cross attention.
        threshold, hinge: not in ``density`` mode, which compares with the noise itself.
        mode, tokens, width, normalise, lr, learn_every: see `Learned`.

    Source: the notes on slots, seed 003; ``density`` mode is ours.
    """

    def __init__(self, feature_shape: Sequence[int], n_classes: int, noise_std: float, *, slots: int = 8,
                 iterations: int = 3, heads: int = 4, threshold: Threshold | None = None, hinge: Hinge | None = None,
                 variance_floor: float = 1e-6, mode: Mode = "density", tokens: Tokens = "sample", width: int = WIDTH,
                 normalise: Normalise = "attention", lr: float = 1e-4, learn_every: int = 8) -> None:
        super().__init__(feature_shape, n_classes, noise_std, mode=mode, tokens=tokens, width=width,
                         normalise=normalise, lr=lr, learn_every=learn_every)
        self.threshold, self.hinge = threshold or Threshold(tau=0.1, gamma=1e-6), hinge or Hinge()
        self.variance_floor = variance_floor
        self.slot_attention = SlotAttention(self.width, slots, iterations)
        if mode == "density":
            self.density = Density(n_classes, self.positions, self.channels, noise_std)
            self.shift = nn.Linear(self.width, self.channels, bias=False)
            self.gate = nn.Parameter(torch.tensor(GATE))
        else:
            self.cross_attention = GatedCrossAttention(self.width, heads)
        self._built()

    def check(self) -> None:
        if self.mode == "density":
            require_noise(self.noise_std, "the 'density' mode")
        else:
            self.threshold.check(self.noise_std)

    def observe(self, z: Tensor, y: Tensor) -> None:
        if self.mode == "density":
            self.density.observe(self.tokens(z.flatten(1)), y)

    def measure(self, z: Tensor, y: Tensor, mates: Classmates, progress: float) -> Measured:
        tokens = self.tokens(self.prepared(z))
        if self.mode == "density":
            return self._score(tokens, y, mates)
        reduced = self.reduce(tokens)
        found = self.slot_attention(reduced, mates)
        enhanced = self.cross_attention(reduced, found.slots).flatten(1)
        variance = _unbiased_variance(enhanced, mates).clamp_min(self.variance_floor)
        limit = self.threshold.log_variance(self.noise_std, progress)
        cost = self.hinge((variance + self.threshold.gamma).log() - limit).mean(1)
        with torch.no_grad():
            paired = (mates.count > 1).float()
            weight = paired / paired.sum().clamp_min(1)
            gates = self.cross_attention.alpha.tanh()
        return Measured(torch.dot(cost, weight), cost.detach(), {**_look(found.attention, mates), "gates": gates})

    def _score(self, tokens: Tensor, y: Tensor, mates: Classmates) -> Measured:
        parts = halves(mates)
        with self.fixed():
            found = self.slot_attention(self.reduce(tokens), parts.mates)
            gate = self.gate.tanh()
            pooled = _pool(tokens, found.attention, parts.mates, gate * self.shift(found.slots))
            components = self.density(pooled, parts, y)
        score = excess(tokens, components, self.noise_std)
        return Measured(score.mean(), mates.share @ score.detach(),
                        {**_look(found.attention, parts.mates), "gates": gate.detach(),
                         "no_partner": len(y) - parts.found.sum()})


def _pool(tokens: Tensor, attention: Tensor, mates: Classmates, shift: Tensor) -> Pooled:
    """Means and variances of raw tokens ``(B, T, C)`` under attention ``(B, T, S)``, for each sample's mates.

    Args:
        shift: ``(B, S, C)``, added to the means.
    """
    mass = mates.same @ attention.sum(1)
    moments = torch.bmm(attention.mT, torch.cat((tokens, tokens.square()), 2))
    moments = (mates.same @ moments.flatten(1)).view_as(moments) / mass[..., None]
    mean, second = moments.chunk(2, 2)
    return Pooled(mass, (mean + shift)[:, None], torch.addcmul(second, mean, mean, value=-1).clamp_min(0)[:, None])


def _unbiased_variance(x: Tensor, mates: Classmates) -> Tensor:
    """Of each dimension of ``(B, D)`` over each one's class, ``(B, D)``; 0 where one is alone."""
    squares = (x - mates.share @ x).square()
    return mates.same @ squares / (mates.count - 1).clamp_min(1)[:, None]


@torch.no_grad()
def _look(attention: Tensor, mates: Classmates) -> dict[str, Tensor]:
    """Mean entropy of a token's attention over the slots, in nats; mean effective number of samples of a slot."""
    of_sample = attention.sum(1)
    effective = (mates.same @ of_sample).square() / (mates.same @ of_sample.square())
    return {"attention_entropy": -attention.xlogy(attention).sum(2).mean(), "effective_samples": effective.mean()}


def _normed(x: Tensor) -> Tensor:
    """Without scale and shift of its own: the linear map that follows has them."""
    return F.layer_norm(x, x.shape[-1:])
