"""From the published checkpoint (Lightning, latent-diffusion names) to a folder of assets, once.

Every key is accounted for: it goes into one of the four networks, or is one that the published code stores and never
reads. Anything else is refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
from torch import Tensor, nn

from latentprint.data.base import ImageSet
from latentprint.data.faceregion import with_holes
from latentprint.errors import UserError
from latentprint.models.assets import file_hash, find_asset, save_asset
from latentprint.models.checkpoints import fill, load_state
from latentprint.plugins.arcface.build import build as build_recogniser
from latentprint.plugins.reface.prior import RefacePrior
from latentprint.plugins.reface.shape import PUBLISHED, Shape
from latentprint.plugins.stable.codec import KLCodec

UNET, VAE, CLIP = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.model."
RECOGNISER = "face_ID_model.facenet."
#: Where each part of the condition lies, and what it is called here.
CONDITION = {
    f"{CLIP}vision_model.": "model.vision_model.", f"{CLIP}visual_projection.": "model.visual_projection.",
    "cond_stage_model.mapper2.": "mapper2.", "cond_stage_model.final_ln2.": "final_ln2.",
    "proj_out_source.": "proj_out_source.", "proj_out_target.": "proj_out_target.", "ID_proj_out.": "ID_proj_out.",
    "landmark_proj_out.": "landmark_proj_out.", "learnable_vector": "learnable_vector",
}
#: Stored and never read: CLIP's text half, the mapper that mapper2 replaced, LPIPS, buffers of the schedule.
UNUSED = (f"{CLIP}text_model.", f"{CLIP}text_projection.", f"{CLIP}logit_scale", "cond_stage_model.mapper.",
          "cond_stage_model.final_ln.", "cond_stage_model.projection_back", "lpips_loss.", "betas", "alphas_cumprod",
          "sqrt_", "log_one_minus_", "posterior_", "logvar", "lvlb_weights")
#: A buffer that old versions of transformers stored.
POSITIONS = "embeddings.position_ids"


def convert_reface(checkpoint: Path, out: Path, *, faces: ImageSet | None = None, trusted: bool = False,
                   shape: Shape = PUBLISHED, recogniser: Callable[[], nn.Module] | None = None) -> list[Path]:
    """Write ``teacher``, ``codec`` and ``prior`` into the asset folder ``out``; returns the files.

    Args:
        faces: pictures whose mean CLIP features stand for an identity image where there is none.
        trusted: let the checkpoint's pickle run; Lightning stores objects beside the weights.
        shape, recogniser: of networks other than the published ones.

    Raises:
        UserError: the file cannot be read safely, or a key is missing, unknown or of another shape.
    """
    state = {key: value for key, value in load_state(checkpoint, trusted).items() if not key.endswith(POSITIONS)}
    if wrong := [key for key in state if not key.startswith((UNET, VAE, RECOGNISER, *CONDITION, *UNUSED))]:
        raise UserError(f"{checkpoint}: extra key '{wrong[0]}'"
                        + (f" and {len(wrong) - 1} more" if len(wrong) > 1 else "") + " that REFace does not have")
    complaint = f"{checkpoint} is not REFace's checkpoint"
    prior, codec = RefacePrior(shape.unet, shape.clip, shape.embedding_dim), KLCodec(shape.vae)
    fill(prior.unet, _converted(state, UNET, convert_ldm_unet_checkpoint, shape.unet, complaint), complaint)
    fill(codec.vae, _converted(state, VAE, convert_ldm_vae_checkpoint, shape.vae, complaint), complaint)
    fill(prior.condition, {ours + key.removeprefix(theirs): value for key, value in state.items()
                           for theirs, ours in CONDITION.items() if key.startswith(theirs)}, complaint)
    described = {"architecture": "ir-se50", "alignment": "ffhq"}
    teacher = recogniser() if recogniser is not None else build_recogniser(described)
    fill(teacher, {"network." + key.removeprefix(RECOGNISER): value for key, value in state.items()
                   if key.startswith(RECOGNISER)}, complaint)
    if faces is not None:
        prior.source.copy_(mean_look(prior, faces))
    common = {"metrics": {}, "command": f"latentprint convert reface {checkpoint}"}
    made = [save_asset(out, "teacher", teacher, {"kind": "published-recogniser", **described, **common}, half=False),
            save_asset(out, "codec", codec, {"kind": "kl-codec", "vae": shape.vae, **common}, half=False)]
    needs = {"attributes": find_asset("attributes")[1]["sha256"],
             **{name: file_hash(path) for name, path in zip(("teacher", "codec"), made, strict=True)}}
    record = {"kind": "reface", **{k: v for k, v in asdict(shape).items() if k != "vae"}, "needs": needs,
              "untrained": untrained(prior), **common}
    return [*made, save_asset(out, "prior", prior, json.loads(json.dumps(record)), half=False)]


def _converted(state: Mapping[str, Tensor], prefix: str, convert: Callable[..., dict[str, Tensor]],
               settings: Mapping[str, Any], complaint: str) -> dict[str, Tensor]:
    """A part under diffusers' names; its converter passes over keys that it does not know, which is not for us."""
    part = {key: value for key, value in state.items() if key.startswith(prefix)}
    try:
        made = convert(part, settings)
    except KeyError as error:
        raise UserError(f"{complaint}: missing key '{prefix}{error.args[0]}'") from None
    taken = {value.data_ptr() for value in made.values()}
    if over := [key for key, value in part.items() if value.data_ptr() not in taken]:
        raise UserError(f"{complaint}: extra key '{over[0]}'" + (f" and {len(over) - 1} more" if over[1:] else ""))
    return made


@torch.no_grad()
def mean_look(prior: RefacePrior, faces: ImageSet, batch: int = 32) -> Tensor:
    """Mean of E over the faces of photos, the rest black after CLIP's normalisation, ``(1, width)``."""
    data, total = with_holes(faces), torch.zeros(1, prior.condition.width)
    assert data.holes is not None
    black = prior.condition.clip_mean
    for index in torch.arange(len(data)).split(batch):
        hole = data.holes[index].float()
        total += prior.condition.look(data.floats(index) * hole + black * (1 - hole)).sum(0, keepdim=True)
    return total / len(data)


def untrained(prior: RefacePrior) -> list[str]:
    """Parts that are still as layers begin: the released training code hands some of them to no optimiser."""
    norm = prior.condition.final_ln2
    begun = bool((norm.weight == 1).all()) and bool((norm.bias == 0).all())
    return ["final_ln2"] if begun else []
