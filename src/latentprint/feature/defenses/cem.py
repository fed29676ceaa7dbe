"""Conditional entropy maximisation (Xia et al. 2025, arXiv 2503.00383) as a defence, with any surrogate."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from latentprint.engine.loop import Stateful
from latentprint.feature.defense import FeatureDefense, Step, Trained, shape_of
from latentprint.feature.protection import CEMConfig
from latentprint.surrogates import Learned, Surrogate, learning_rate_scale

#: Steps between those whose diagnostics are averaged; the training loop logs no more of them.
LOGGED = 10


class CEM(FeatureDefense):
    """Adds ``lambda s(lr) surrogate(z, y)``, taken of the features before any noise.

    Args:
        config: weight, warm-up and surrogate.
        make: from the shape of the features to the surrogate.
    """

    surrogate: Surrogate

    def __init__(self, config: CEMConfig, make: Callable[[Sequence[int]], Surrogate]) -> None:
        super().__init__()
        self.config, self.make = config, make

    def edge(self, edge: nn.Module, example: Tensor) -> nn.Module:
        self.surrogate = self.make(shape_of(edge, example))
        if self.config.weight > 0:
            self.surrogate.check()
        return edge

    def begin(self, trained: Trained) -> None:
        self.surrogate.refresh(*trained.features())

    def before_step(self, step: Step) -> None:
        features = step.features.detach()
        self.surrogate.observe(features, step.labels)
        if self.acts(step):
            self.surrogate.learn(features, step.labels)

    def penalty(self, step: Step) -> tuple[Tensor, Mapping[str, Tensor | float]] | None:
        if not self.acts(step):
            return None
        found = self.surrogate(step.features, step.labels, step.progress)
        values = {"cem": found.loss.detach(), "intra_class_mse": found.intra_class_mse}
        if (step.number + 1) % LOGGED == 0:
            values |= {f"cem_{name}": value.float().nanmean() for name, value in found.diagnostics.items()}
        scale = learning_rate_scale(step.lr) if self.config.lr_scaled else 1.0
        return self.config.weight * scale * found.loss, values

    def acts(self, step: Step) -> bool:
        """Whether the warm-up is over, and there is any weight."""
        return self.config.weight > 0 and step.progress >= self.config.warm_up

    def states(self) -> Mapping[str, Stateful]:
        own = self.surrogate.own if isinstance(self.surrogate, Learned) else None
        return {} if own is None else {"surrogate": own}

    def joint_parameters(self) -> Sequence[Mapping[str, Any]]:
        return self.surrogate.joint_parameters()

    def after_epoch(self, epoch: int, edge: nn.Module) -> None:
        self.surrogate.refresh()
