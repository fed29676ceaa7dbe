"""What all baselines are given, and the unit in which their budget is counted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from latentprint.attack import QUERY_BATCH, Attack
from latentprint.engine.device import Precision
from latentprint.engine.run import RunDir
from latentprint.label.baselines.settings import BaselineSettings
from latentprint.label.presets import AttackConfig
from latentprint.label.tools import Tools
from latentprint.progress import tracked


@dataclass(frozen=True)
class Harness:
    """The same for every baseline.

    Attributes:
        tools: the adversary's means, with the untouched prior.
        config: the attack's settings, of which baselines take views, batch, DDIM steps and pairing.
        settings: what is theirs alone.
        budget: pictures at which the victim's gradient may be taken, in all: as many as the attack took.
        run: where training loops log and checkpoint.
        seed: of everything that is drawn besides the pictures.
        save_every: in steps.

    Raises:
        ValueError: the budget is negative.
    """

    tools: Tools
    config: AttackConfig
    settings: BaselineSettings
    budget: int
    run: RunDir
    seed: int
    precision: Precision = "fp32"
    save_every: int = 50

    def __post_init__(self) -> None:
        if self.budget < 0:
            raise ValueError(f"a budget is at least 0 gradients, got {self.budget}")

    @property
    def batch(self) -> int:
        """Pictures a training step: the attack's in its last stage."""
        return self.config.stages[-1].batch

    def steps(self, gradients: int) -> int:
        """How many steps of so many gradients the budget pays for; 0 when not even one."""
        return self.budget // gradients


class Baseline(Attack):
    """An attack in the harness."""

    def __init__(self, harness: Harness) -> None:
        self.harness = harness
        self.selected_fraction = harness.config.selected


def batches(n: int, name: str) -> Iterator[Tensor]:
    """Indices of ``n`` pictures in batches; progress is shown."""
    yield from tracked(torch.arange(n).split(QUERY_BATCH), name, stage=True)
