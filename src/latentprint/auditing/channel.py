"""The contract of a channel: what an audit of one kind of leak loads, trains, attacks, measures and draws.

`latentprint.auditing.run` takes the steps that all audits share, and calls these methods in the order in which they
stand.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar, final

import torch
from torch import Tensor, nn

from latentprint.checks import Flag
from latentprint.data.base import ImageSet
from latentprint.engine.run import RunDir
from latentprint.engine.settings import RunConfig
from latentprint.framer import Framer

C = TypeVar("C", bound=RunConfig)


class Audit(ABC, Generic[C]):
    """One audit of a channel.

    Attributes:
        name: of the channel, in report.json and in commands.
        warnings: sentences for the report, in order; every step may add to them.
        framer: frames the recognisers of the audit; known after `load`.
        reconstructions: ``(N, 3, H, W)`` in [0, 1], what the attack that is reported made; known after `attack`.
        section: the channel's section of report.json; known before the verdict.
    """

    name: ClassVar[str]
    framer: Framer
    reconstructions: Tensor
    section: dict[str, Any]

    @classmethod
    def settings(cls, config: C) -> dict[str, Any]:
        """Settings that have something left to choose, with nothing left to choose."""
        return {}

    @final
    def __init__(self, config: C, device: torch.device) -> None:
        self.config, self.device = config, device
        self.warnings: list[str] = []
        self.load()

    @abstractmethod
    def load(self) -> None:
        """Load and check data and networks: all that can fail for the user's sake, before anything is written.

        Raises:
            UserError: settings, files or data that cannot be used.
        """

    @abstractmethod
    def sets(self) -> Mapping[str, ImageSet]:
        """The images of the audit, by the part that they play."""

    @property
    def comes_trained(self) -> bool:
        """Whether the victim can be probed before `train`."""
        return True

    @abstractmethod
    def train(self, run: RunDir) -> None:
        """Train what comes untrained, and get ready what judges."""

    @abstractmethod
    def probe(self) -> Sequence[Flag | None]:
        """What would hide a leak of the victim from the attack."""

    @abstractmethod
    def attack(self, run: RunDir) -> None:
        """Reconstruct, and score every arm."""

    @abstractmethod
    def results(self) -> dict[str, Any]:
        """What was measured, for report.json."""

    @abstractmethod
    def flags(self) -> list[str]:
        """Warnings that only the results can raise."""

    @abstractmethod
    def figures(self, folder: Path) -> dict[str, Any]:
        """Draw the figures of the run in ``folder``; their entries for report.json."""

    @abstractmethod
    def networks(self) -> Mapping[str, nn.Module]:
        """The networks whose weights the manifest identifies."""
