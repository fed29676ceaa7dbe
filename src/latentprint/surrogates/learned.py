"""Surrogates with parameters: how these are trained, and what a token is.

A surrogate that is trained to minimise the penalty which it computes itself can cheat: attention on one sample makes
the weighted variance 0, the penalty vanishes, and the features leak as before. That is ``joint`` and ``own``, which are
here to be compared with. ``frozen`` cannot learn to. ``density`` learns, but has nothing to cheat with: see
`latentprint.surrogates.density`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latentprint.errors import UserError
from latentprint.surrogates.base import Surrogate
from latentprint.surrogates.density import Density
from latentprint.surrogates.thresholds import Threshold, require_noise

Mode = Literal["frozen", "joint", "own", "density"]
Tokens = Literal["sample", "spatial"]
Normalise = Literal["attention", "features"]

#: Features are reduced to at most this many dimensions before anything quadratic in it.
WIDTH = 128


class Learned(Surrogate):
    """A surrogate with parameters.

    Args:
        mode: ``frozen``: at their random start; ``joint``: the defended network's optimiser trains them on the penalty
            (`joint_parameters`); ``own``: their own Adam does; ``density``: their own Adam does, on the likelihood.
        tokens: ``sample``: a sample is one token of D features; ``spatial``: each of its positions is one of C.
        width: tokens are mapped linearly to at most this many dimensions; orthogonally at the start, so that the noise
            has the same variance before and after. Tokens that are no wider stay as they are.
        normalise: ``attention``: only where attention is computed; ``features``: samples are layer-normalised before
            all, as in the notes. Variances then no longer compare with the noise's, and to shrink features changes
            nothing.
        lr: of the own Adam. learn_every: it takes a step once in so many calls of `learn`.

    Raises:
        UserError: a density of layer-normalised features, which are not what is sent.
        ValueError: spatial tokens of features that have no positions.
    """

    #: A subclass makes one or both: what it scores by in ``density`` mode, and what it tolerates in others.
    density: Density
    threshold: Threshold

    def __init__(self, feature_shape: Sequence[int], n_classes: int, noise_std: float, *, mode: Mode = "density",
                 tokens: Tokens = "sample", width: int = WIDTH, normalise: Normalise = "attention",
                 lr: float = 1e-4, learn_every: int = 16) -> None:
        super().__init__(feature_shape, n_classes, noise_std)
        if tokens == "spatial" and len(feature_shape) != 3:
            raise ValueError(f"spatial tokens want features (C, H, W), got {tuple(feature_shape)}")
        if mode == "density" and normalise == "features":
            raise UserError("normalise: a 'density' is one of what is sent; expected 'attention', got 'features'")
        self.mode, self.normalise, self.lr, self.learn_every, self.calls = mode, normalise, lr, learn_every, 0
        self.channels = feature_shape[0] if tokens == "spatial" else self.dim
        self.positions = self.dim // self.channels
        self.width = min(width, self.channels)
        self.reduce = _reduction(self.channels, self.width)
        self.own: OwnOptimizer | None = None

    def _built(self) -> None:
        """A subclass calls it when its parameters are there."""
        if self.mode in ("own", "density"):
            self.own = OwnOptimizer(list(self.parameters()), self.lr)
        self.requires_grad_(self.mode == "joint")  # what has an optimiser of its own is fixed outside of `learn`

    def check(self) -> None:
        if self.mode == "density":
            require_noise(self.noise_std, "the 'density' mode")
        else:
            self.threshold.check(self.noise_std)

    def observe(self, z: Tensor, y: Tensor) -> None:
        if self.mode == "density":
            self.density.observe(self.tokens(z.flatten(1)), y)

    def refresh(self, z: Tensor | None = None, y: Tensor | None = None) -> None:
        if self.mode == "density" and z is not None and y is not None:
            self.density.observe(self.tokens(z.flatten(1)), y)
            self.density.flush()

    def fixed(self) -> AbstractContextManager[object]:
        """Where a density is made: constant for the encoder, as centroids are, and differentiable for `learn`.

        The encoder's gradient is then that of the score of each sample under a given density.
        """
        return nullcontext() if next(self.parameters()).requires_grad else torch.no_grad()

    def tokens(self, z: Tensor) -> Tensor:
        """Flat features ``(B, D)`` as ``(B, T, C)``."""
        return z.view(len(z), self.channels, self.positions).mT

    def prepared(self, z: Tensor) -> Tensor:
        """Flat features, layer-normalised where they are to be before all."""
        return F.layer_norm(z, z.shape[1:]) if self.normalise == "features" else z

    def joint_parameters(self) -> list[dict[str, Any]]:
        return [{"params": list(self.parameters())}] if self.mode == "joint" else []

    def learn(self, z: Tensor, y: Tensor) -> None:
        """At every ``learn_every``-th call, a step of the own optimiser on clean features ``(B, *feature_shape)``.

        Outside of it the parameters are constants, so the network's backward pass leaves them no gradient.
        """
        if self.own is None:
            return
        self.calls += 1
        if self.calls % self.learn_every == 0:
            self.requires_grad_(True).zero_grad(set_to_none=True)
            with torch.enable_grad():
                self(z.detach(), y).loss.backward()
            self.own.step()
            self.requires_grad_(False)

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.calls)

    def set_extra_state(self, state: Tensor) -> None:
        self.calls = int(state)


class OwnOptimizer:
    """Adam over a surrogate's parameters, which skips non-finite gradients without asking the device."""

    def __init__(self, parameters: Sequence[nn.Parameter], lr: float) -> None:
        self.parameters = list(parameters)
        self.adam = torch.optim.Adam(self.parameters, lr, fused=True)

    def step(self) -> None:
        """Use the gradients up."""
        norm = nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        self.adam.found_inf = (~norm.isfinite()).float()  # type: ignore[attr-defined]  # as torch.amp's scaler does
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        return self.adam.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.adam.load_state_dict(dict(state))


def _reduction(channels: int, width: int) -> nn.Module:
    """A 1x1 convolution over positions, or a linear map of all features."""
    if channels <= width:
        return nn.Identity()
    linear = nn.Linear(channels, width, bias=False)
    nn.init.orthogonal_(linear.weight)
    return linear
