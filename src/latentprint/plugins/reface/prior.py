"""REFace's diffusion model as a `SwapPrior`.

Identity enters through one token: the softmax over it is 1 whatever the query, so ``attn2.to_q`` and ``to_k`` have no
effect, and adapters go on ``to_v`` and ``to_out.0`` alone. An identity that is known by its embedding only, a class's
or a template's, has no picture for CLIP to look at: the vector ``source`` stands for that, the mean over some faces
where `latentprint convert reface` was given any, else zeros.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn

from latentprint.diffusion.prior import TRAIN_STEPS, UNET_TARGETS, Scope, SwapPrior
from latentprint.models.recognisers import EMBEDDING_DIM
from latentprint.plugins.reface.condition import LANDMARKS, Condition


class RefacePrior(SwapPrior):
    """See the module; ``unet`` and ``clip`` are the settings of the two networks."""

    source: Tensor

    def __init__(self, unet: Mapping[str, Any], clip: Mapping[str, Any],
                 embedding_dim: int = EMBEDDING_DIM) -> None:
        super().__init__()
        self.unet = UNet2DConditionModel(**unet)
        self.condition, self.embedding_dim = Condition(clip, embedding_dim), embedding_dim
        self.register_buffer("source", torch.zeros(1, self.condition.width))
        self.n_identity, self.schedule = 1, schedule()
        self.targets: Mapping[Scope, str] = {**UNET_TARGETS, "reference": r".*\.attn2\.(to_v|to_out\.0)"}

    @property
    def image_encoder(self) -> nn.Module:
        return self.condition

    def seen(self, images: Tensor, attributes: Tensor) -> Tensor:
        """E of the whole attribute image, and its landmarks: zeros, as the published code gives where it finds none."""
        looked = self.condition.look(images)
        return torch.cat([looked, looked.new_zeros(len(images), 2 * LANDMARKS)], 1)

    def tokens(self, embedding: Tensor, seen: Tensor, dropped: Tensor | None = None) -> Tensor:
        target, landmarks = seen.split([self.condition.width, 2 * LANDMARKS], dim=1)
        token = self.condition.token(self.source.expand(len(seen), -1), target, embedding, landmarks)
        if dropped is None:
            return token
        return torch.where(dropped[:, None, None], self.condition.learnable_vector, token)

    def read_embeddings_of(self, dim: int) -> None:
        self.embedding_dim, self.condition.ID_proj_out = dim, nn.Linear(dim, self.condition.width)

    def forward(self, noisy: Tensor, timestep: Tensor, masked: Tensor, keep: Tensor, tokens: Tensor) -> Tensor:
        return self.unet(torch.cat([noisy, masked, keep], 1), timestep, tokens).sample


def schedule() -> DDIMScheduler:
    """That of Stable Diffusion 1: scaled-linear betas, epsilon predicted, 50 steps 981, 961, ..., 1."""
    return DDIMScheduler(num_train_timesteps=TRAIN_STEPS, beta_start=0.00085, beta_end=0.012,
                         beta_schedule="scaled_linear", prediction_type="epsilon", clip_sample=False,
                         set_alpha_to_one=False, steps_offset=1, timestep_spacing="leading")


def build(record: Mapping[str, Any]) -> RefacePrior:
    """The network that an asset's record describes."""
    # Records called it "identity" at first.
    dim = record.get("embedding_dim", record.get("identity", EMBEDDING_DIM))
    return RefacePrior(record["unet"], record["clip"], dim)
