"""Memory of a training step of Stable Diffusion's U-Net as a prior, by resolution, batch and savings.

Where there is a GPU the step runs and its peak is read. Elsewhere it is estimated: the step runs on tensors without
contents (PyTorch's fake tensors), and every allocation is counted.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from latentprint.models.codec import LATENT_CHANNELS
from latentprint.plugins.reface.shape import UNET
from latentprint.plugins.stable.prior import CHANNELS, StablePrior

TOKENS, DOWNSCALE = 8, 8
#: Bytes that AdamW keeps for each parameter: two averages, of four bytes or of one.
AVERAGES = {"adamw": 8, "adamw8bit": 2}
#: Resolution, batch.
SIZES = ((256, 4), (512, 1), (512, 4))
#: bf16 autocast, checkpointing, optimiser.
SAVINGS: tuple[tuple[bool, bool, str], ...] = ((False, False, "adamw"), (True, False, "adamw"), (True, True, "adamw"),
                                               (True, True, "adamw8bit"))
GIB = 2**30


def memory() -> list[dict[str, Any]]:
    """A row a size and savings, for training everything and for training the tokens and first convolution alone."""
    return [step_memory(resolution, batch, bf16, checkpointing, optimizer, trained)
            for resolution, batch in SIZES for bf16, checkpointing, optimizer in SAVINGS
            for trained in ("all", "tokens")]


def step_memory(resolution: int, batch: int, bf16: bool, checkpointing: bool, optimizer: str,
                trained: str, unet: dict[str, Any] = UNET) -> dict[str, Any]:
    """Peak of forward and backward pass, and the averages of the optimiser."""
    measured = torch.cuda.is_available()
    if measured:
        peak, count = _step(torch.device("cuda"), resolution, batch, bf16, checkpointing, trained, unet)
    else:
        with FakeTensorMode():
            peak, count = _step(torch.device("cpu"), resolution, batch, bf16, checkpointing, trained, unet)
    total = (peak + AVERAGES[optimizer] * count) / GIB
    return {"resolution": resolution, "batch": batch, "precision": "bf16" if bf16 else "fp32",
            "checkpointing": checkpointing, "optimizer": optimizer, "trained": trained, "gib": round(total, 1),
            "how": "measured" if measured else "estimated"}


def _step(device: torch.device, resolution: int, batch: int, bf16: bool, checkpointing: bool, trained: str,
          unet: dict[str, Any]) -> tuple[int, int]:
    """Bytes at the peak, and parameters that are trained."""
    with device:
        prior = StablePrior({**unet, "in_channels": CHANNELS}, {}, TOKENS, hole_first=False).train()
    if trained == "tokens":
        for name, parameter in prior.unet.named_parameters():
            parameter.requires_grad_(name.startswith("conv_in."))
    if checkpointing:
        prior.unet.enable_gradient_checkpointing()
    side = resolution // DOWNSCALE
    latent = torch.randn(batch, LATENT_CHANNELS, side, side, device=device)
    keep = torch.ones(batch, 1, side, side, device=device)
    who = torch.randn(batch, prior.embedding_dim, device=device)
    count = sum(p.numel() for p in prior.parameters() if p.requires_grad)

    def step() -> None:
        timestep = torch.zeros(batch, dtype=torch.int64, device=device)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            said = prior(latent, timestep, latent, keep, prior.tokens(who, torch.zeros(batch, 10, device=device)))
        said.float().square().mean().backward()

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        step()
        return torch.cuda.max_memory_allocated(), count
    counted = Allocations()
    for tensor in (*prior.parameters(), *prior.buffers()):
        counted.add(tensor)
    with counted:
        step()
    return counted.peak, count


class Allocations(TorchDispatchMode):
    """Bytes of all tensors that are alive, and the most there ever were; the libraries have nothing that takes frozen
    parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: WeakIdKeyDictionary = WeakIdKeyDictionary()

    def add(self, tensor: Tensor) -> None:
        """Count a tensor's storage, once, until it is gone."""
        storage = tensor.untyped_storage()
        if storage not in self._known:
            self._known[storage] = None
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._gone, storage.nbytes())

    def _gone(self, size: int) -> None:
        self.now -= size

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        for value in tree_leaves(out):
            if isinstance(value, Tensor):
                self.add(value)
        return out
