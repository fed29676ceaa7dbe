"""Where and in which precision to compute."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import Tensor, nn

from latentprint.errors import UserError

DeviceName = Literal["auto", "cpu", "cuda"]
Precision = Literal["fp32", "bf16"]


def pick_device(name: DeviceName) -> torch.device:
    """``auto`` takes a GPU when there is one.

    Raises:
        UserError: cuda asked for on a machine without it.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device: 'cuda' was asked for, but PyTorch sees no GPU here; use 'auto' or 'cpu'")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """bf16 autocast, or nothing."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def lay_out(module: nn.Module, device: torch.device) -> nn.Module:
    """Move a convolutional network to its device in the memory format that convolutions like there."""
    return module.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def to_device(x: Tensor, device: torch.device) -> Tensor:
    return x.to(device, non_blocking=True)
