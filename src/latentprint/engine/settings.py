"""Settings that every audit has, and what ``auto`` means in them on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TypeVar

import torch
from pydantic import Field

from latentprint.config import Config
from latentprint.engine.device import DeviceName, Precision, pick_device, resolve_precision

#: A setting of commands that train much.
Accumulate = Annotated[int, Field(ge=1, description="batches a training step, one after another: as so many processes")]


class RunConfig(Config):
    """Where and how an audit computes."""

    seed: int = Field(0, ge=0, description="seed of everything that is drawn")
    device: DeviceName = Field("auto", description="auto, cpu or cuda")
    precision: Precision = Field("auto", description="fp32, bf16, or auto: bf16 where the hardware has it")
    threads: int | None = Field(None, ge=1, description="CPU threads; null: as many as PyTorch takes")
    assets: Path | None = Field(None, description="folder with networks from 'latentprint pretrain'; null: packaged")


R = TypeVar("R", bound=RunConfig)


def settled(config: R, **more: Any) -> tuple[R, torch.device]:
    """The settings with nothing left to choose, so that config.yaml is complete and a resume elsewhere is refused.

    Threads are set and the device is picked by the way. ``more`` are further settings to replace.

    Raises:
        UserError: no such device here.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    device = pick_device(config.device)
    name: DeviceName = "cuda" if device.type == "cuda" else "cpu"
    return config.model_copy(update={"device": name, "precision": resolve_precision(device, config.precision),
                                     "threads": config.threads or torch.get_num_threads(), **more}), device
