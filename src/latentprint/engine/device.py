"""Where and in which precision to compute."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import nn

from latentprint.errors import UserError

DeviceName = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "fp32", "bf16"]


def pick_device(name: DeviceName) -> torch.device:
    """``auto`` takes a GPU when there is one.

    Raises:
        UserError: cuda asked for on a machine without it.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device: 'cuda' was asked for, but PyTorch sees no GPU here; use 'auto' or 'cpu'")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """bf16 autocast, or nothing; ``auto`` takes bf16 where the hardware computes it."""
    if precision == "fp32" or (precision == "auto" and not has_bf16(device)):
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def has_bf16(device: torch.device) -> bool:
    """Whether bf16 is faster than fp32 here; CPUs without the instructions emulate it slowly."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def lay_out(module: nn.Module, device: torch.device) -> nn.Module:
    """Move a convolutional network to its device in the memory format that convolutions like there."""
    return module.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
