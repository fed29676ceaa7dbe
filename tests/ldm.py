"""From diffusers' names of a Stable Diffusion U-Net and autoencoder to those of latent-diffusion checkpoints."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
          "conv2": "out_layers.3", "conv_shortcut": "skip_connection"}
UNET = {"time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
        "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2"}
ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def unet_name(key: str, attended: Mapping[int, bool]) -> str:
    """Of two resnets a level; ``attended`` says which up blocks have attention."""
    for ours, theirs in UNET.items():
        if key.startswith(ours + "."):
            return theirs + key.removeprefix(ours)
    block, _, rest = key.partition(".")
    if block == "mid_block":
        kind, index, inner = rest.split(".", 2)
        place = 1 if kind == "attentions" else 2 * int(index)
        return f"middle_block.{place}." + (inner if kind == "attentions" else _resnet(inner))
    level, kind, index, inner = rest.split(".", 3)
    first = 3 * int(level) + int(index)
    if block == "down_blocks":
        if kind == "downsamplers":
            return f"input_blocks.{3 * int(level) + 3}.0.op.{inner.removeprefix('conv.')}"
        return f"input_blocks.{first + 1}." + (f"1.{inner}" if kind == "attentions" else f"0.{_resnet(inner)}")
    if kind == "upsamplers":
        return f"output_blocks.{3 * int(level) + 2}.{2 if attended[int(level)] else 1}.{inner}"
    return f"output_blocks.{first}." + (f"1.{inner}" if kind == "attentions" else f"0.{_resnet(inner)}")


def _resnet(inner: str) -> str:
    name, _, kind = inner.rpartition(".")
    return f"{RESNET[name]}.{kind}"


def vae_name(key: str, levels: int) -> str:
    key = key.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    key = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", key)
    key = re.sub(r"down_blocks\.(\d)\.resnets\.(\d)", r"down.\1.block.\2", key)
    key = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", key)
    key = re.sub(r"up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"up.{levels - 1 - int(m[1])}.block.{m[2]}", key)
    key = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{levels - 1 - int(m[1])}.upsample", key)
    if "mid_block.attentions.0." in key:
        head, inner = key.split("mid_block.attentions.0.")
        name, _, kind = inner.rpartition(".")
        key = f"{head}mid.attn_1.{ATTENTION[name]}.{kind}"
    return key


def ldm_unet(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    attended = {level: any(key.startswith(f"up_blocks.{level}.attentions") for key in state) for level in range(4)}
    return {"model.diffusion_model." + unet_name(key, attended): value for key, value in state.items()}


def ldm_vae(state: Mapping[str, Tensor], levels: int) -> dict[str, Tensor]:
    made = {vae_name(key, levels): value for key, value in state.items()}
    return {"first_stage_model." + key: value[:, :, None, None] if ".attn_1." in key and value.ndim == 2 else value
            for key, value in made.items()}
