"""From a diffusers folder (``unet``, ``vae``, ``scheduler``) to assets: a prior yet to be trained, and its codec."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler
from torch import Tensor

from latentprint.diffusion.prior import TRAIN_STEPS
from latentprint.errors import UserError
from latentprint.models.assets import file_hash, find_asset, save_asset
from latentprint.models.checkpoints import fill, load_state
from latentprint.models.codec import LATENT_CHANNELS
from latentprint.plugins.stable.codec import KLCodec
from latentprint.plugins.stable.prior import CHANNELS, StablePrior

#: Files that hold the weights, in the order of preference.
WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors",
           "diffusion_pytorch_model.bin")


def convert_diffusers(folder: Path, out: Path, identity_tokens: int = 8) -> list[Path]:
    """Write ``prior`` and ``codec`` into the asset folder ``out``; returns the files.

    Raises:
        UserError: a part or its weights are missing, do not fit their own settings, or are of a kind that cannot serve.
    """
    unet, vae, schedule = (settings(folder, part) for part in ("unet", "vae", "scheduler"))
    channels = _usable(folder, unet, vae, schedule)
    prior = StablePrior({**unet, "in_channels": CHANNELS}, schedule, identity_tokens, hole_first=channels == CHANNELS)
    state, file = weights(folder / "unet")
    if channels == LATENT_CHANNELS:
        state = {**state, "conv_in.weight": widened(state["conv_in.weight"])}
    fill(prior.unet, state, f"{file} does not fit its config.json")
    codec = KLCodec(vae)
    state, file = weights(folder / "vae")
    fill(codec.vae, state, f"{file} does not fit its config.json")
    common = {"metrics": {}, "command": f"latentprint convert diffusers {folder}"}
    made = [save_asset(out, "codec", codec, {"kind": "kl-codec", "vae": vae, **common}, half=False)]
    needs = {"codec": file_hash(made[0]), **{name: find_asset(name)[1]["sha256"] for name in ("attributes", "teacher")}}
    record = {"kind": "stable", "unet": dict(prior.unet.config), "schedule": schedule, "needs": needs,
              "identity_tokens": identity_tokens, "hole_first": channels == CHANNELS, **common}
    return [*made, save_asset(out, "prior", prior, json.loads(json.dumps(record)), half=False)]


def settings(folder: Path, part: str) -> dict[str, Any]:
    """What a part's JSON file says, less what diffusers notes about itself.

    Raises:
        UserError: it is missing or not JSON.
    """
    path = folder / part / ("scheduler_config.json" if part == "scheduler" else "config.json")
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: expected the settings of a diffusers {part} ({error})") from None
    known = set(inspect.signature(DDIMScheduler.__init__).parameters) if part == "scheduler" else None
    return {key: value for key, value in found.items()
            if not key.startswith("_") and (known is None or key in known)}


def weights(folder: Path) -> tuple[dict[str, Tensor], Path]:
    """The state dict of a part, and where it was.

    Raises:
        UserError: none of the usual files is there, or it cannot be read.
    """
    for name in WEIGHTS:
        if (folder / name).is_file():
            return load_state(folder / name), folder / name
    raise UserError(f"{folder}: no weights; expected {' or '.join(WEIGHTS)}")


def widened(conv_in: Tensor) -> Tensor:
    """The first convolution with five further input channels, at zero."""
    return torch.cat([conv_in, conv_in.new_zeros(len(conv_in), CHANNELS - conv_in.shape[1], *conv_in.shape[2:])], 1)


def _usable(folder: Path, unet: dict[str, Any], vae: dict[str, Any], schedule: dict[str, Any]) -> int:
    """The U-Net's input channels."""
    channels = int(unet.get("in_channels", LATENT_CHANNELS))
    faults = [
        (channels not in (LATENT_CHANNELS, CHANNELS), f"its U-Net takes {channels} channels, expected 4 or 9"),
        (not isinstance(unet.get("cross_attention_dim"), int), "its U-Net has no cross-attention of one width"),
        (bool(unet.get("addition_embed_type")), "its U-Net needs further conditions (Stable Diffusion XL)"),
        (vae.get("latent_channels") != LATENT_CHANNELS, "its autoencoder has not 4 latent channels"),
        (schedule.get("num_train_timesteps", TRAIN_STEPS) != TRAIN_STEPS, f"its schedule has not {TRAIN_STEPS} steps"),
        (schedule.get("prediction_type", "epsilon") not in ("epsilon", "v_prediction"), "it predicts neither epsilon "
                                                                                        "nor v"),
    ]
    if found := [said for wrong, said in faults if wrong]:
        raise UserError(f"{folder} cannot be the base of a prior: {'; '.join(found)}")
    return channels
