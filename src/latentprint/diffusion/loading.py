"""The shipped prior with what it was trained beside, for all channels."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch

from latentprint.diffusion.prior import SwapPrior
from latentprint.diffusion.swap import Swapper
from latentprint.engine.device import lay_out
from latentprint.errors import UserError
from latentprint.models.assets import find_asset, load_asset
from latentprint.models.codec import LatentCodec
from latentprint.models.recognisers import EmbeddingNetwork


class FaceTools(NamedTuple):
    """The prior with its helpers, and the recogniser in whose space it takes identities. Frozen, on one device."""

    swapper: Swapper
    teacher: EmbeddingNetwork


def load_tools(assets: Path | None, device: torch.device, teacher: str = "teacher") -> FaceTools:
    """The networks as shipped, or those of a folder.

    Args:
        teacher: name of the recogniser's asset: the one that the prior was trained with.

    Raises:
        UserError: one is missing or damaged, or the prior was trained with others than these.
    """
    check_needs(assets, teacher)
    codec, attributes, prior, recogniser = (lay_out(load_asset(name, assets), device)
                                            for name in ("codec", "attributes", "prior", teacher))
    if not isinstance(codec, LatentCodec) or not isinstance(prior, SwapPrior):
        raise UserError("assets: 'codec' and 'prior' must be those that 'latentprint pretrain' or 'convert' makes")
    if not isinstance(recogniser, EmbeddingNetwork):
        raise UserError(f"teacher: the asset {teacher!r} is not a recogniser")
    if recogniser.dim != prior.embedding_dim:
        raise UserError(f"assets: the prior takes embeddings of {prior.embedding_dim} entries and the teacher "
                        f"{teacher!r} makes them of {recogniser.dim}; retrain it with 'latentprint pretrain prior'")
    return FaceTools(Swapper(prior, codec, attributes), recogniser)


def check_needs(assets: Path | None, teacher: str = "teacher") -> None:
    """Whether the prior was trained with these networks, by their records alone.

    Raises:
        UserError: see `load_tools`.
    """
    for name, needed in find_asset("prior", assets)[1].get("needs", {}).items():
        own_name = teacher if name == "teacher" else name
        if find_asset(own_name, assets)[1]["sha256"] != needed:
            raise UserError(f"assets: the prior was trained with another {name} than {own_name!r}; retrain it with "
                            "'latentprint pretrain prior'")
