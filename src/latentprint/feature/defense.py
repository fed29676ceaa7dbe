"""Defences of split inference: each may change the edge network, the features that leave it, and the training.

A defence is on in training, when accuracy is measured, and when an attack asks: the victim holds it, nobody else
switches it. Defences compose: a victim holds several, and each is called in the order given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from latentprint.engine.loop import Stateful
from latentprint.feature.graph import modes_kept


@dataclass(frozen=True)
class Step:
    """What a training step shows a defence.

    Attributes:
        images: ``(B, 3, H, W)`` in [0, 1], as augmented.
        labels: ``(B,)`` int64.
        features: ``(B, *F)`` as the edge network gave them, with gradient.
        sent: ``(B, *F)`` as they leave the device, with gradient.
        number: of the step, from 0.
        epoch: from 0.
        progress: share of the training that is done, in [0, 1).
        lr: the learning rate of this step.
    """

    images: Tensor
    labels: Tensor
    features: Tensor
    sent: Tensor
    number: int
    epoch: int
    progress: float
    lr: float


@dataclass(frozen=True)
class Trained:
    """What a defence may look at before the first step of a network that is already trained.

    Attributes:
        features: gives those of all training images ``(N, *F)``, clean, and their labels ``(N,)``; by a pass over the
            data, so it is called where it is needed alone.
        batch: gives the images of a training step ``(B, 3, H, W)``, as augmented, and what is sent of them, detached.
    """

    features: Callable[[], tuple[Tensor, Tensor]]
    batch: Callable[[int], tuple[Tensor, Tensor]]


def shape_of(edge: nn.Module, example: Tensor) -> tuple[int, ...]:
    """Shape of the features of one image; the network stays as it was, running statistics too.

    Args:
        example: ``(B, 3, H, W)``, preprocessed.
    """
    with modes_kept(edge), torch.no_grad():
        return tuple(edge.eval()(example).shape[1:])


class FeatureDefense(nn.Module):
    """One defence. A subclass overrides what it touches; as it stands it does nothing, bit for bit."""

    #: Standard deviation of the noise that it adds to features; others in the same victim rely on it.
    noise_std: float = 0.0

    def edge(self, edge: nn.Module, example: Tensor) -> nn.Module:
        """The edge network that is trained in place of ``edge``.

        Args:
            example: ``(B, 3, H, W)``, preprocessed images to try shapes on.
        """
        return edge

    def send(self, features: Tensor, rng: torch.Generator | None) -> Tensor:
        """What leaves the device in place of ``features`` ``(B, *F)``.

        Args:
            rng: of all random numbers, on the CPU; None draws from torch's global generator on the features' device.
        """
        return features

    def begin(self, trained: Trained) -> None:
        """Before the first step of a network that is already trained."""

    def before_step(self, step: Step) -> None:
        """Train what the defence trains for itself (an adversary to defend against). Features arrive detached."""

    def penalty(self, step: Step) -> tuple[Tensor, Mapping[str, Tensor | float]] | None:
        """A scalar added to the task's loss as it is (weights applied), and values to log; None: nothing to add."""
        return None

    def joint_parameters(self) -> Sequence[Mapping[str, Any]]:
        """Parameter groups that the victim's own optimiser trains beside edge and cloud."""
        return ()

    def states(self) -> Mapping[str, Stateful]:
        """What a checkpoint must hold besides the defence's own parameters and buffers: optimisers."""
        return {}

    def deployed(self) -> nn.Module | None:
        """What runs on the device because of this defence, beside the edge network; None: nothing with weights."""
        return None

    def after_epoch(self, epoch: int, edge: nn.Module) -> None:
        """Between epochs: refit, prune. ``epoch`` counts from 0; ``edge`` is the network under training."""
