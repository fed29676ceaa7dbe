"""Gated attention pooling of each class: one weighted mean and variance, and gates for what counts.

Source: the notes on gated attention (seed 004, section 2), which build on gated attention pooling (Ilse et al. 2018,
arXiv:1802.04712, equation 9).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latentprint.errors import UserError
from latentprint.surrogates.base import Measured
from latentprint.surrogates.density import Density, Pooled, excess, halves
from latentprint.surrogates.groups import Classmates, classmates
from latentprint.surrogates.learned import WIDTH, Learned, Mode, Normalise, Tokens
from latentprint.surrogates.thresholds import Hinge, Threshold


@dataclass(frozen=True)
class Gates:
    """Settings of the notes, section 3.3.

    Attributes:
        attention_loss_scale: factor on the penalty.
        class_gate_a, class_gate_b: a class with the share s of the batch counts ``sigmoid(a (s - b))``.
        snr_thresh, snr_sharp: a dimension counts ``sigmoid(sharp (var / (mean^2 + eps) - thresh))``.
        softplus_beta, margin_m: of the hinge.
        slot_power: classes are weighted by their share to this power.
    """

    attention_loss_scale: float = 0.1
    class_gate_a: float = 10.0
    class_gate_b: float = 0.05
    snr_thresh: float = 0.3
    snr_sharp: float = 10.0
    softplus_beta: float = 1.0
    margin_m: float = 0.1
    slot_power: float = 2.0

    def __post_init__(self) -> None:
        if not self.attention_loss_scale > 0:
            raise UserError(f"gates.attention_loss_scale: expected a number above 0, got {self.attention_loss_scale}")


class GatedPooling(nn.Module):
    """``softmax(w (tanh(V x) * sigmoid(U x)))`` over the samples of a class, at each position.

    Args:
        width: of a token. hidden: of the gate.
    """

    def __init__(self, width: int, hidden: int = 64) -> None:
        super().__init__()
        self.gate = nn.Linear(width, 2 * hidden)
        self.logit = nn.Linear(hidden, 1, bias=False)

    def forward(self, x: Tensor, mates: Classmates) -> Tensor:
        """Weights ``(T, B, B)`` of samples in each one's class, from tokens ``(B, T, W)``; they sum to 1 over the last.
        """
        value, gate = self.gate(F.layer_norm(x, x.shape[-1:])).chunk(2, 2)
        logits = self.logit(value.tanh() * gate.sigmoid()).permute(1, 2, 0)
        return (logits + mates.same.log()).softmax(2)


class GatedSurrogate(Learned):
    """Gated variance of each class, in ``density`` mode the likelihood of what was pooled.

    Otherwise, for a class with the share s of the batch, weighted variance v and mean m of each dimension:
    ``sigmoid(a (s - b)) mean_d(dimension_gate_d snr_gate_d softplus_hinge(log(v_d + gamma) - threshold))``, averaged
    over classes with weights ``s^slot_power`` and times ``attention_loss_scale``. ``dimension_gate`` is
    ``sigmoid(MLP(LN(log v)))``. Classes with one sample have no variance and no say.

    Args:
        gates: see `Gates`. hidden: of the gate of the pooling, and of the MLP.
        threshold, hinge: not in ``density`` mode. The hinge is the notes' softplus unless given.
        mode, tokens, width, normalise, lr, learn_every: see `Learned`.

    Source: the notes on gated attention (seed 004, section 2.3); ``density`` mode is ours.
    """

    def __init__(self, feature_shape: Sequence[int], n_classes: int, noise_std: float, *, gates: Gates | None = None,
                 hidden: int = 64, threshold: Threshold | None = None, hinge: Hinge | None = None,
                 mode: Mode = "density", tokens: Tokens = "sample", width: int = WIDTH,
                 normalise: Normalise = "attention", lr: float = 1e-4, learn_every: int = 16) -> None:
        super().__init__(feature_shape, n_classes, noise_std, mode=mode, tokens=tokens, width=width,
                         normalise=normalise, lr=lr, learn_every=learn_every)
        self.gates, self.threshold = gates or Gates(), threshold or Threshold(tau=0.1, gamma=1e-6)
        self.hinge = hinge or Hinge("softplus", self.gates.softplus_beta, self.gates.margin_m)
        self.pooling = GatedPooling(self.width, hidden)
        if mode == "density":
            self.density = Density(n_classes, self.positions, self.channels, noise_std)
        else:
            self.dimension_gate = nn.Sequential(nn.LayerNorm(self.dim), nn.Linear(self.dim, hidden), nn.ReLU(),
                                                nn.Linear(hidden, self.dim), nn.Sigmoid())
        self._built()

    def measure(self, z: Tensor, y: Tensor, mates: Classmates, progress: float) -> Measured:
        tokens = self.tokens(self.prepared(z))
        if self.mode == "density":
            return self._score(tokens, y, mates)
        weights = self.pooling(self.reduce(tokens), mates)
        log_variance, dimension, snr = self._gated(tokens, weights)
        base = self.hinge(log_variance - self.threshold.log_variance(self.noise_std, progress))
        cost = (dimension * snr * base).mean(1)
        weight, class_gate = self._class_weights(mates)
        with torch.no_grad():
            diagnostics = {**_look(weights), "dimension_gate": dimension.mean(), "snr_gate": snr.mean(),
                           "class_gate": class_gate.mean()}
        return Measured(torch.dot(cost, weight), cost.detach() * class_gate, diagnostics)

    def _gated(self, tokens: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of each sample's class, ``(B, D)``: log-variances under the weights, dimension gates, signal-to-noise gates.
        """
        mean, variance = (_flat(value) for value in _pool(tokens, weights))
        log_variance = (variance + self.threshold.gamma).log()
        snr = (self.gates.snr_sharp * (variance / (mean.square() + 1e-6) - self.gates.snr_thresh)).sigmoid()
        return log_variance, self.dimension_gate(log_variance), snr

    @torch.no_grad()
    def explain(self, z: Tensor, y: Tensor) -> dict[str, Tensor]:
        tokens, mates = self.tokens(self.prepared(z.float().flatten(1))), classmates(y)
        weights = self.pooling(self.reduce(tokens), mates)
        found = {"attention": weights.diagonal(dim1=1, dim2=2).mean(0)}
        if self.mode != "density":
            _, dimension, snr = self._gated(tokens, weights)
            found |= {"dimension_gate": dimension, "snr_gate": snr}
        return found

    @torch.no_grad()
    def _class_weights(self, mates: Classmates) -> tuple[Tensor, Tensor]:
        """Of each sample's class: weight in the loss over how many samples carry it, and gate; both ``(B,)``."""
        g, n = self.gates, len(mates.size)
        share = mates.size / n
        gate = (g.class_gate_a * (share - g.class_gate_b)).sigmoid()
        power = share**g.slot_power / mates.size * (mates.size > 1)
        return power * gate * (g.attention_loss_scale / power.sum().clamp_min(1e-12)), gate

    def _score(self, tokens: Tensor, y: Tensor, mates: Classmates) -> Measured:
        parts = halves(mates)
        with self.fixed():
            weights = self.pooling(self.reduce(tokens), parts.mates)
            mean, variance = _pool(tokens, weights)
            mass = weights.square().sum(2).mean(0).reciprocal()  # the effective number of samples
            pooled = Pooled(mass[:, None], mean.transpose(0, 1)[:, :, None], variance.transpose(0, 1)[:, :, None])
            components = self.density(pooled, parts, y)
        score = excess(tokens, components, self.noise_std)
        return Measured(score.mean(), mates.share @ score.detach(),
                        {**_look(weights), "no_partner": len(y) - parts.found.sum()})


def _pool(tokens: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of raw tokens ``(B, T, C)`` under weights ``(T, B, B)``: both ``(T, B, C)``."""
    x = tokens.transpose(0, 1)
    mean = torch.bmm(weights, x)
    variance = torch.bmm(weights, x.square()) - mean.square()
    return mean, variance.clamp_min(0)


def _flat(x: Tensor) -> Tensor:
    """``(T, B, C)`` as ``(B, T C)``."""
    return x.transpose(0, 1).flatten(1)


@torch.no_grad()
def _look(weights: Tensor) -> dict[str, Tensor]:
    """Mean entropy of the weights over a class, in nats, and mean effective number of samples."""
    return {"attention_entropy": -weights.xlogy(weights).sum(2).mean(),
            "effective_samples": weights.square().sum(2).reciprocal().mean()}
