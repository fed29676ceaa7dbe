"""The face-swap prior: a latent diffusion model that repaints the face of an attribute image as another person.

What it is given, as in REFace: the noisy latent (C), the latent of the attribute image with the face region greyed
out (C) and the keep-mask (1; 1 = keep, 0 = hole), in this order: nine channels with the packaged codec, whose C is 4.
The identity embedding enters by reference attention alone: cross-attention of every spatial position over M identity
tokens. Pose, expression and light, which the hole hides, enter as attribute tokens of ten numbers: too few to tell who
anybody is.

The embedded network predicts v (Salimans and Ho 2022, eq. 13, appendix D) under a schedule whose last step is pure
noise (Lin et al. 2024), so that sampling may start from nothing but noise and few steps suffice. Released ones predict
the noise: `clean_and_noise` takes either.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Literal

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn

from latentprint.data.procedural import ATTRIBUTE_NAMES
from latentprint.models.codec import LATENT_CHANNELS
from latentprint.models.recognisers import EMBEDDING_DIM

TRAIN_STEPS = 1000
TOKEN_DIM = 128
ATTRIBUTE_TOKENS = 2
#: Width of the hidden layer between an embedding and its tokens.
READ_WIDTH = 384
#: Which layers take adapters: those that read the identity, or all others that are usual.
Scope = Literal["reference", "all"]


class SwapPrior(nn.Module, ABC):
    """A latent diffusion model that repaints faces, of whatever origin. h and w are those of its codec's latents.

    Attributes:
        unet: the network that adapters go on.
        schedule: noise levels, sampler and what is predicted: ``epsilon`` or ``v_prediction``.
        n_identity: tokens that carry the identity, the first ones.
        targets: full-match patterns of the names of ``unet``'s modules that adapters of a scope go on.
        embedding_dim: entries of an identity embedding, as the teacher makes them.
    """

    unet: Any
    schedule: DDIMScheduler
    n_identity: int
    targets: Mapping[Scope, str]
    embedding_dim: int

    @property
    def image_encoder(self) -> nn.Module | None:
        """The part that `seen` shows images to; None where the attributes are all that it needs."""
        return None

    def seen(self, images: Tensor, attributes: Tensor) -> Tensor:
        """What the prior reads of attribute images besides their masked latents, ``(B, K)``.

        Args:
            images: ``(B, 3, H, W)`` in [0, 1].
            attributes: ``(B, 10)`` as the attribute network reads them.
        """
        return attributes

    @abstractmethod
    def tokens(self, embedding: Tensor, seen: Tensor, dropped: Tensor | None = None) -> Tensor:
        """What attention reads, ``(B, T, D)``.

        Args:
            embedding: ``(B, embedding_dim)``, unit norm.
            seen: ``(B, K)``, see `seen`.
            dropped: ``(B,)`` bool, True where the identity is left out (classifier-free guidance).
        """

    @abstractmethod
    def read_embeddings_of(self, dim: int) -> None:
        """Make the layer that reads embeddings anew, untrained, for those of ``dim`` entries: of another teacher."""

    @abstractmethod
    def forward(self, noisy: Tensor, timestep: Tensor, masked: Tensor, keep: Tensor, tokens: Tensor) -> Tensor:
        """The prediction ``(B, C, h, w)`` from noisy and masked latents ``(B, C, h, w)`` and keep ``(B, 1, h, w)``."""


#: Reference attention is ``attn2``, self-attention ``attn1``.
UNET_TARGETS: Mapping[Scope, str] = {
    "reference": r".*\.attn2\.(to_q|to_k|to_v|to_out\.0)",
    "all": r".*\.attn1\.(to_q|to_k|to_v|to_out\.0)|.*\.resnets\.\d+\.(conv1|conv2|conv_shortcut)",
}


class TokenPrior(SwapPrior):
    """A prior told who by M identity tokens, and what pose, expression and light by two attribute tokens.

    Subclasses make ``unet`` and then call `add_tokens`.
    """

    def add_tokens(self, identity_tokens: int, dim: int, embedding_dim: int = EMBEDDING_DIM) -> None:
        """The layers from embeddings and attributes to tokens of ``dim`` entries, untrained.

        Args:
            identity_tokens: M >= 4; with one token the softmax would always be 1 and attention dead.
            embedding_dim: entries of an embedding.
        """
        self.n_identity, self.dim, self.embedding_dim = identity_tokens, dim, embedding_dim
        self.identity = nn.Sequential(nn.Linear(embedding_dim, READ_WIDTH), nn.SiLU(),
                                      nn.Linear(READ_WIDTH, identity_tokens * dim))
        self.attributes = nn.Sequential(nn.Linear(len(ATTRIBUTE_NAMES), 128), nn.SiLU(),
                                        nn.Linear(128, ATTRIBUTE_TOKENS * dim))
        self.place = nn.Parameter(0.02 * torch.randn(1, identity_tokens + ATTRIBUTE_TOKENS, dim))
        self.nobody = nn.Parameter(0.02 * torch.randn(1, identity_tokens, dim))
        self.norm = nn.LayerNorm(dim)

    def tokens(self, embedding: Tensor, seen: Tensor, dropped: Tensor | None = None) -> Tensor:
        """Identity and attribute tokens, ``(B, M + 2, dim)``."""
        # Unit vectors have entries of about 1/sqrt(D): scale them to order one for the first layer.
        identity = self.identity(embedding * self.embedding_dim**0.5).view(-1, self.n_identity, self.dim)
        if dropped is not None:
            identity = torch.where(dropped[:, None, None], self.nobody, identity)
        attribute = self.attributes(seen).view(-1, ATTRIBUTE_TOKENS, self.dim)
        return self.norm(torch.cat([identity, attribute], 1) + self.place)

    def read_embeddings_of(self, dim: int) -> None:
        self.embedding_dim, self.identity[0] = dim, nn.Linear(dim, READ_WIDTH)


class FaceSwapPrior(TokenPrior):
    """The embedded prior. It predicts v, and reads ten attributes of an attribute image.

    Args:
        widths: channels of the U-Net's two levels, multiples of 32.
        identity_tokens: M.
        embedding_dim: entries of an embedding.
        channels: C, of the codec's latents.
    """

    def __init__(self, widths: tuple[int, int] = (64, 128), identity_tokens: int = 8,
                 embedding_dim: int = EMBEDDING_DIM, channels: int = LATENT_CHANNELS) -> None:
        super().__init__()
        self.schedule, self.targets = schedule(), UNET_TARGETS
        self.unet = UNet2DConditionModel(
            sample_size=16, in_channels=2 * channels + 1, out_channels=channels, layers_per_block=1,
            block_out_channels=widths, cross_attention_dim=TOKEN_DIM,
            # Attention where it is cheap: at 8x8 and in the middle. At 16x16 it doubled a step's time.
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=4,  # heads, for historical reasons
        )  # fmt: skip
        self.add_tokens(identity_tokens, TOKEN_DIM, embedding_dim)

    def forward(self, noisy: Tensor, timestep: Tensor, masked: Tensor, keep: Tensor, tokens: Tensor) -> Tensor:
        stacked = torch.cat([noisy, masked, keep], 1)
        return self.unet(stacked, timestep, tokens).sample


def schedule() -> DDIMScheduler:
    """The noise schedule of the embedded prior: scaled-linear betas rescaled to zero terminal SNR, v-prediction."""
    return DDIMScheduler(num_train_timesteps=TRAIN_STEPS, beta_start=0.00085, beta_end=0.012,
                         beta_schedule="scaled_linear", prediction_type="v_prediction", clip_sample=False,
                         rescale_betas_zero_snr=True, timestep_spacing="trailing")


def clean_and_noise(scheduler: DDIMScheduler, noisy: Tensor, predicted: Tensor,
                    timestep: Tensor) -> tuple[Tensor, Tensor]:
    """x0 and epsilon from what was predicted.

    From v, x0 = a x - s v and eps = s x + a v (Salimans and Ho 2022, appendix D); from epsilon, x0 = (x - s eps) / a.
    """
    a, s = signal_and_noise(scheduler, timestep, noisy)
    if predicts_noise(scheduler):
        return (noisy - s * predicted) / a, predicted
    return a * noisy - s * predicted, s * noisy + a * predicted


def to_predict(scheduler: DDIMScheduler, clean: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
    """What the network should have said of ``a clean + s noise``: the noise, or v = a eps - s x0."""
    if predicts_noise(scheduler):
        return noise
    a, s = signal_and_noise(scheduler, timestep, noise)
    return a * noise - s * clean


def predicts_noise(scheduler: DDIMScheduler) -> bool:
    """Whether epsilon is predicted, and not v."""
    return bool(scheduler.config.prediction_type == "epsilon")


def signal_and_noise(scheduler: DDIMScheduler, timestep: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """sqrt(alpha-bar) and sqrt(1 - alpha-bar) of each timestep, ``(B, 1, 1, 1)``."""
    bar = scheduler.alphas_cumprod.to(like.device)[timestep].view(-1, 1, 1, 1)
    return bar.sqrt(), (1 - bar).sqrt()


def progress_of(timestep: Tensor) -> Tensor:
    """0 at pure noise, 1 at the clean image."""
    return 1 - timestep.float() / (TRAIN_STEPS - 1)


def build(record: Mapping[str, Any]) -> FaceSwapPrior:
    """The network that an asset's record describes."""
    fine, coarse = record["widths"]
    return FaceSwapPrior((fine, coarse), record["identity_tokens"], record.get("embedding_dim", EMBEDDING_DIM),
                         record.get("channels", LATENT_CHANNELS))
