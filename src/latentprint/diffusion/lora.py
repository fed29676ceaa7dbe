"""LoRA on the prior's U-Net by peft: which layers, and a state dict of the adapters alone."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from peft import LoraConfig
from torch import Tensor, nn

from latentprint.diffusion.prior import Scope, SwapPrior


def add_adapter(prior: SwapPrior, name: str, scope: Scope, rank: int) -> None:
    """A new adapter beside those that are there, all active. It starts as the identity (B = 0)."""
    earlier = list(getattr(prior.unet, "peft_config", {}))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config`")  # several adapters are what we want
        prior.unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian",
                                          target_modules=prior.targets[scope]), adapter_name=name)
    prior.unet.set_adapters([*earlier, name])


def adapter_parameters(prior: SwapPrior, trained: bool = True) -> list[nn.Parameter]:
    """The adapters' parameters, set to require a gradient (or not); everything else of the prior is frozen."""
    found = []
    for name, parameter in prior.named_parameters():
        is_lora = "lora_" in name
        parameter.requires_grad_(is_lora and trained)
        if is_lora:
            found.append(parameter)
    return found


class AdapterState:
    """The adapters of a prior as a state dict, for checkpoints."""

    def __init__(self, prior: SwapPrior) -> None:
        self.prior = prior

    def state_dict(self) -> dict[str, Any]:
        return {key: value for key, value in self.prior.state_dict().items() if "lora_" in key}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Raises KeyError when an adapter is missing on either side."""
        own = self.state_dict()
        if own.keys() != state.keys():
            raise KeyError(f"adapters differ: {sorted(own.keys() ^ state.keys())[:3]}")
        for key, value in own.items():
            value.copy_(state[key])
