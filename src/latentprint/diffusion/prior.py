"""The face-swap prior: a latent diffusion model that repaints the face of an attribute image as another person.

What it is given, as in REFace: the noisy latent (4), the latent of the attribute image with the face region greyed
out (4) and the keep-mask (1; 1 = keep, 0 = hole), nine channels in this order. The identity embedding enters by
reference attention alone: cross-attention of every spatial position over M identity tokens. Pose, expression and
light, which the hole hides, enter as attribute tokens of ten numbers: too few to tell who anybody is.

The network predicts v (Salimans and Ho 2022, eq. 13, appendix D) under a schedule whose last step is pure noise
(Lin et al. 2024), so that sampling may start from nothing but noise and few steps suffice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn

from latentprint.data.procedural import ATTRIBUTE_NAMES
from latentprint.models.assets import register_builder
from latentprint.models.codec import LATENT_CHANNELS
from latentprint.models.recognisers import EMBEDDING_DIM

TRAIN_STEPS = 1000
TOKEN_DIM = 128
ATTRIBUTE_TOKENS = 2


class FaceSwapPrior(nn.Module):
    """``forward`` predicts v; ``tokens`` turns an identity embedding and attributes into what attention reads.

    Args:
        widths: channels of the U-Net's two levels, multiples of 32.
        identity_tokens: M >= 4; with one token the softmax would always be 1 and attention dead.
    """

    def __init__(self, widths: tuple[int, int] = (64, 128), identity_tokens: int = 8) -> None:
        super().__init__()
        self.n_identity = identity_tokens
        self.unet = UNet2DConditionModel(
            sample_size=16, in_channels=2 * LATENT_CHANNELS + 1, out_channels=LATENT_CHANNELS, layers_per_block=1,
            block_out_channels=widths, cross_attention_dim=TOKEN_DIM,
            # Attention where it is cheap: at 8x8 and in the middle. At 16x16 it doubled a step's time.
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=4,  # heads, for historical reasons
        )  # fmt: skip
        self.identity = nn.Sequential(nn.Linear(EMBEDDING_DIM, 384), nn.SiLU(),
                                      nn.Linear(384, identity_tokens * TOKEN_DIM))
        self.attributes = nn.Sequential(nn.Linear(len(ATTRIBUTE_NAMES), 128), nn.SiLU(),
                                        nn.Linear(128, ATTRIBUTE_TOKENS * TOKEN_DIM))
        self.place = nn.Parameter(0.02 * torch.randn(1, identity_tokens + ATTRIBUTE_TOKENS, TOKEN_DIM))
        self.nobody = nn.Parameter(0.02 * torch.randn(1, identity_tokens, TOKEN_DIM))
        self.norm = nn.LayerNorm(TOKEN_DIM)

    def tokens(self, embedding: Tensor, attributes: Tensor, dropped: Tensor | None = None) -> Tensor:
        """Identity and attribute tokens, ``(B, M + 2, 128)``.

        Args:
            embedding: ``(B, 512)``, unit norm.
            attributes: ``(B, 10)``.
            dropped: ``(B,)`` bool, True where the identity is left out (classifier-free guidance).
        """
        # Unit vectors have entries of about 1/sqrt(512): scale them to order one for the first layer.
        identity = self.identity(embedding * EMBEDDING_DIM**0.5).view(-1, self.n_identity, TOKEN_DIM)
        if dropped is not None:
            identity = torch.where(dropped[:, None, None], self.nobody, identity)
        attribute = self.attributes(attributes).view(-1, ATTRIBUTE_TOKENS, TOKEN_DIM)
        return self.norm(torch.cat([identity, attribute], 1) + self.place)

    def forward(self, noisy: Tensor, timestep: Tensor, masked: Tensor, keep: Tensor, tokens: Tensor) -> Tensor:
        """v ``(B, 4, h, w)`` from noisy and masked latents ``(B, 4, h, w)`` and keep ``(B, 1, h, w)``."""
        stacked = torch.cat([noisy, masked, keep], 1)
        return self.unet(stacked, timestep, tokens).sample


def schedule() -> DDIMScheduler:
    """The noise schedule of the embedded prior: scaled-linear betas rescaled to zero terminal SNR, v-prediction."""
    return DDIMScheduler(num_train_timesteps=TRAIN_STEPS, beta_start=0.00085, beta_end=0.012,
                         beta_schedule="scaled_linear", prediction_type="v_prediction", clip_sample=False,
                         rescale_betas_zero_snr=True, timestep_spacing="trailing")


def clean_and_noise(scheduler: DDIMScheduler, noisy: Tensor, v: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor]:
    """x0 and epsilon from v: x0 = a x - s v, eps = s x + a v (Salimans and Ho 2022, appendix D)."""
    a, s = signal_and_noise(scheduler, timestep, noisy)
    return a * noisy - s * v, s * noisy + a * v


def signal_and_noise(scheduler: DDIMScheduler, timestep: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """sqrt(alpha-bar) and sqrt(1 - alpha-bar) of each timestep, ``(B, 1, 1, 1)``."""
    bar = scheduler.alphas_cumprod.to(like.device)[timestep].view(-1, 1, 1, 1)
    return bar.sqrt(), (1 - bar).sqrt()


def progress_of(timestep: Tensor) -> Tensor:
    """0 at pure noise, 1 at the clean image."""
    return 1 - timestep.float() / (TRAIN_STEPS - 1)


def _build(record: Mapping[str, Any]) -> FaceSwapPrior:
    fine, coarse = record["widths"]
    return FaceSwapPrior((fine, coarse), record["identity_tokens"])


register_builder("prior", _build)
