"""Slot attention within each class: a few slots compete for the samples of a class and stand for its modes.

Source: the notes on slots (seed 003), which build on slot attention (Locatello et al. 2020, arXiv:2006.15055) and on
gated cross attention (Flamingo, Alayrac et al. 2022, arXiv:2204.14198, section 2.2).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latentprint.surrogates.base import Measured
from latentprint.surrogates.density import Density, Pooled, excess, halves
from latentprint.surrogates.groups import Classmates, classmates
from latentprint.surrogates.learned import WIDTH, Learned, Mode, Normalise, Tokens
from latentprint.surrogates.thresholds import Hinge, Threshold

#: Where the gates of attention and feed-forward network start.
GATE = 0.1
EPS = 1e-8


class Attended(NamedTuple):
    """What slot attention found.

    Attributes:
        slots: ``(B, S, W)``, of each sample's class.
        attention: ``(B, S, T)``, of its tokens; sums to 1 over the slots.
        mass: ``(B, S, 1)``, tokens of the class that each slot took.
    """

    slots: Tensor
    attention: Tensor
    mass: Tensor


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
        # One matrix for the product of the query's and the key's, which is all that attention sees of them.
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.cell = nn.GRUCell(width, width)
        self.hidden, self.out = nn.Linear(width, width), nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, mates: Classmates) -> Attended:
        """Of tokens ``(B, T, W)``. Slots start from one draw for all classes, so that those of a class agree."""
        key, value = self.key_value(_normed(x)).split(self.width, 2)
        # Over width^(1/2) as usual, and the extra temperature of the notes, width^(1/4).
        key, value = key.mT / self.width**0.75, F.pad(value, (0, 1), value=1.0)  # the last column counts tokens
        slots = torch.addcmul(self.start, self.log_spread.exp(), torch.randn_like(self.start))
        slots = slots.expand(len(x), -1, -1)
        trained = self.start.requires_grad
        matrices = _Matrices(*(m.t() for m in (self.cell.weight_ih, self.cell.weight_hh, self.hidden.weight,
                                               self.out.weight)))
        for i in range(self.iterations):
            with torch.set_grad_enabled(torch.is_grad_enabled() and (trained or i == self.iterations - 1)):
                slots, attention, mass = self._iterate(slots, key, value, mates, matrices)
        return Attended(slots, attention, mass.view(len(x), self.slots, 1))

    def _iterate(self, slots: Tensor, key: Tensor, value: Tensor, mates: Classmates,
                 m: _Matrices) -> tuple[Tensor, Tensor, Tensor]:
        attention = torch.bmm(_normed(slots), key).softmax(1) + EPS
        total = torch.mm(mates.same, torch.bmm(attention, value).flatten(1)).view(-1, self.width + 1)
        seen, mass = total.split((self.width, 1), 1)
        flat = self._gru(seen / mass, slots.reshape(-1, self.width), m)
        hidden = torch.addmm(self.hidden.bias, _normed(flat), m.hidden).relu()
        return torch.addmm(flat, hidden, m.out).view(slots.shape), attention, mass

    def _gru(self, x: Tensor, h: Tensor, m: _Matrices) -> Tensor:
        """A step of the cell; torch's own takes twice the operations on a CPU."""
        sizes = (2 * self.width, self.width)
        x_gates, x_new = torch.addmm(self.cell.bias_ih, x, m.x).split(sizes, 1)
        h_gates, h_new = torch.addmm(self.cell.bias_hh, h, m.h).split(sizes, 1)
        reset, keep = (x_gates + h_gates).sigmoid().split(self.width, 1)
        return torch.lerp(torch.addcmul(x_new, reset, h_new).tanh(), h, keep)


class _Matrices(NamedTuple):
    """Transposed weights, for all iterations: of the cell's input and state, and of the two layers after it."""

    x: Tensor
    h: Tensor
    hidden: Tensor
    out: Tensor


class GatedCrossAttention(nn.Module):
    """Tokens look at their class's slots, and keep what the gates ``tanh(alpha)`` let through."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = math.gcd(heads, width)
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.project = nn.Linear(width, width)
        self.feed_forward = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.alpha = nn.Parameter(torch.full((2,), GATE))

    def forward(self, x: Tensor, slots: Tensor) -> Tensor:
        """Tokens ``(B, T, W)`` enhanced by slots ``(B, S, W)``."""
        key, value = self.key_value(_normed(slots)).chunk(2, 2)
        query = self._heads(self.query(_normed(x)))
        seen = F.scaled_dot_product_attention(query, self._heads(key), self._heads(value))
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
        slots, iterations: see `SlotAttention`. heads: of the cross attention; for narrow tokens, as many
            of them as divide the width.
        threshold, hinge: not in ``density`` mode, which compares with the noise itself.
        mode, tokens, width, normalise, lr, learn_every: see `Learned`.

    Source: the notes on slots (seed 003); ``density`` mode is ours.
    """

    def __init__(self, feature_shape: Sequence[int], n_classes: int, noise_std: float, *, slots: int = 8,
                 iterations: int = 3, heads: int = 4, threshold: Threshold | None = None, hinge: Hinge | None = None,
                 variance_floor: float = 1e-6, mode: Mode = "density", tokens: Tokens = "sample", width: int = WIDTH,
                 normalise: Normalise = "attention", lr: float = 1e-4, learn_every: int = 16) -> None:
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
            paired = (mates.size > 1).float()
            weight = paired / paired.sum().clamp_min(1)
            gates = self.cross_attention.alpha.tanh()
        return Measured(torch.dot(cost, weight), cost.detach(), {**_look(found, mates), "gates": gates})

    @torch.no_grad()
    def explain(self, z: Tensor, y: Tensor) -> dict[str, Tensor]:
        tokens = self.tokens(self.prepared(z.float().flatten(1)))
        return {"attention": self.slot_attention(self.reduce(tokens), classmates(y)).attention.mean(2)}

    def _score(self, tokens: Tensor, y: Tensor, mates: Classmates) -> Measured:
        parts = halves(mates)
        with self.fixed():
            found = self.slot_attention(self.reduce(tokens), parts.mates)
            gate = self.gate.tanh()
            pooled = _pool(tokens, found, parts.mates, gate * self.shift(found.slots))
            components = self.density(pooled, parts, y)
        score = excess(tokens, components, self.noise_std)
        return Measured(score.mean(), mates.share @ score.detach(),
                        {**_look(found, parts.mates), "gates": gate.detach(),
                         "no_partner": len(y) - parts.found.sum()})


def _pool(tokens: Tensor, found: Attended, mates: Classmates, shift: Tensor) -> Pooled:
    """Means and variances of raw tokens ``(B, T, C)`` under attention, for each sample's mates.

    Args:
        shift: ``(B, S, C)``, added to the means.
    """
    moments = torch.bmm(found.attention, torch.cat((tokens, tokens.square()), 2))
    moments = (mates.same @ moments.flatten(1)).view_as(moments) / found.mass
    mean, second = moments.split(tokens.shape[2], 2)
    variance = torch.addcmul(second, mean, mean, value=-1).clamp_min(0)
    return Pooled(found.mass[..., 0], (mean + shift)[:, None], variance[:, None])


def _unbiased_variance(x: Tensor, mates: Classmates) -> Tensor:
    """Of each dimension of ``(B, D)`` over each one's class, ``(B, D)``; 0 where one is alone."""
    squares = (x - mates.share @ x).square()
    return mates.same @ squares / (mates.size - 1).clamp_min(1)[:, None]


@torch.no_grad()
def _look(found: Attended, mates: Classmates) -> dict[str, Tensor]:
    """Mean entropy of a token's attention over the slots, in nats; mean effective number of samples of a slot."""
    of_sample = found.attention.sum(2)
    effective = found.mass[..., 0].square() / (mates.same @ of_sample.square())
    entropy = -found.attention.xlogy(found.attention).sum(1).mean()
    return {"attention_entropy": entropy, "effective_samples": effective.mean()}


def _normed(x: Tensor) -> Tensor:
    """Without scale and shift of its own: the linear map that follows has them."""
    return F.layer_norm(x, x.shape[-1:])
