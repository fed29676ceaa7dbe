"""Where and in which precision to compute."""

from __future__ import annotations

import os
import resource
import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import nn

from latentprint.errors import UserError

DeviceName = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "fp32", "bf16"]

_chosen: torch.device | None = None


def pick_device(name: DeviceName) -> torch.device:
    """``auto`` takes a GPU when there is one; of several processes on a machine (``torchrun``) each takes its own.

    Processes talk over what is picked here (NCCL between GPUs, gloo between CPUs): pick before the first `Loop`.

    Raises:
        UserError: cuda asked for on a machine without it, or more processes than GPUs.
    """
    global _chosen
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device: 'cuda' was asked for, but PyTorch sees no GPU here; use 'auto' or 'cpu'")
    _chosen = torch.device("cpu") if name == "cpu" or not torch.cuda.is_available() else _own_gpu()
    return _chosen


def chosen_device() -> torch.device:
    """What `pick_device` last answered; before it was ever asked, what ``auto`` takes."""
    return _chosen or pick_device("auto")


def _own_gpu() -> torch.device:
    index, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if index >= count:
        raise UserError(f"device: process {index + 1} of this machine finds only {count} GPU(s); start as many "
                        "processes as there are GPUs, or use 'cpu'")
    device = torch.device("cuda", index)
    torch.cuda.set_device(device)
    return device


def resolve_precision(device: torch.device, precision: Precision) -> Literal["fp32", "bf16"]:
    """What ``auto`` means on a device: bf16 where the hardware computes it, else fp32."""
    if precision == "auto":
        return "bf16" if has_bf16(device) else "fp32"
    return precision


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """bf16 autocast, or nothing; see `resolve_precision`."""
    if resolve_precision(device, precision) == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def has_bf16(device: torch.device) -> bool:
    """Whether bf16 is faster than fp32 here; CPUs without the instructions emulate it slowly."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def peak_memory(device: torch.device) -> dict[str, float]:
    """The most memory this process has held so far, in GiB: ``ram``, and on a GPU ``gpu``."""
    unit = 1024**3 if sys.platform == "darwin" else 1024**2  # bytes there, KiB on Linux
    peak = {"ram": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 2)}
    if device.type == "cuda":
        peak["gpu"] = round(torch.cuda.max_memory_allocated(device) / 1024**3, 2)
    return peak


def lay_out(module: nn.Module, device: torch.device) -> nn.Module:
    """Move a convolutional network to its device in the memory format that convolutions like there."""
    return module.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
