"""Which networks were trained in this process: what they answer is worth keeping nowhere but in their own run."""

from __future__ import annotations

from collections.abc import Iterable
from weakref import WeakSet

from torch import nn

_TRAINED: WeakSet[nn.Module] = WeakSet()


def note_trained(things: Iterable[object]) -> None:
    """Remember the networks among ``things``, with all their parts."""
    for thing in things:
        if isinstance(thing, nn.Module):
            _TRAINED.update(thing.modules())


def was_trained(network: nn.Module) -> bool:
    """Whether a part of it was trained in this process."""
    return any(part in _TRAINED for part in network.modules())
