"""Which attacks on features there are, and their settings."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from latentprint.config import Config
from latentprint.losses.pixel import PixelLoss
from latentprint.models.decoders import Architecture

AttackName = Literal["decoder", "perceptual", "gan", "optimise", "prior"]


class DecoderConfig(Config):
    """A decoder from what is sent to images, as published; the other learned attacks start from it or share it."""

    architecture: Architecture = Field("published", description="published: residual blocks and transposed "
                                                                "convolutions; linear: one linear map, a fast baseline")
    blocks: int = Field(8, ge=0, description="residual blocks at the features' size (published)")
    width: int = Field(64, ge=1, description="channels (published)")
    loss: PixelLoss = Field("mse", description="mse, l1 or ssim (1 - SSIM)")
    epochs: int = Field(50, ge=1, description="passes over the known images")
    steps: int | None = Field(None, ge=1, description="training steps in place of 'epochs'")
    batch: int = Field(256, ge=1, description="images a training step")
    lr: float = Field(1e-3, gt=0, description="peak learning rate; it falls to a hundredth by a cosine")
    weight_decay: float = Field(1e-4, ge=0, description="Adam's, added to the gradient")


class PerceptualConfig(Config):
    """The same decoder with a perceptual term beside its loss; all else as 'decoder'."""

    weight: float = Field(0.05, ge=0, description="on the distance in features, which lies in [0, 4]")
    features: Literal["auto", "attributes", "random"] = Field("auto", description=(
        "of which network: the attribute network for faces, or a small network of random weights; auto: attributes "
        "where the known images say where the face is"))


class GANConfig(Config):
    """WGAN-GP refinement of the trained decoder, as published."""

    critic_steps: int = Field(10, ge=1, description="steps of the critic before each of the decoder")
    penalty: float = Field(10.0, ge=0, description="weight of the gradient penalty")
    mse: float = Field(1500.0, ge=0, description="weight of the squared error beside the critic's score")
    lr: float = Field(5e-4, gt=0, description="learning rate of the decoder; it falls to a half by a cosine")
    critic_lr: float = Field(5e-3, gt=0, description="learning rate of the critic; falls alike")
    epochs: int = Field(150, ge=1, description="passes of the critic over the known images")
    steps: int | None = Field(None, ge=1, description="steps of the decoder in place of 'epochs'")
    batch: int = Field(128, ge=1, description="images a step")


class OptimiseConfig(Config):
    """White box: pixels moved until their features are those that were sent.

    The weight of the total variation is near the best of 0 to 8 in a small trial: 3,072 pixels of faces from 512
    features of an untrained edge network. Below 0.1 the pictures were worse than the mean image there.
    """

    steps: int = Field(500, ge=1, description="gradient steps of each start")
    starts: int = Field(2, ge=1, description="the mean of the known images, and noisy versions of it; the one that "
                                             "matches best is kept")
    start_noise: float = Field(1.0, ge=0, description="standard deviation of that noise, in logits of pixels")
    lr: float = Field(0.1, gt=0, description="peak learning rate on logits of pixels")
    variation: float = Field(3.0, ge=0, description="weight of the total variation; the mismatch of features is in "
                                                     "units of their variance over the known images")
    batch: int = Field(64, ge=1, description="images at a time")


class PriorConfig(Config):
    """Faces: the decoder's picture with the face repainted by the diffusion prior."""

    encoder_steps: int = Field(2000, ge=1, description="steps of learning who and how from what is sent")
    batch: int = Field(128, ge=2, description="images a step")
    lr: float = Field(1e-3, gt=0, description="peak learning rate of that encoder")
    ddim_steps: int = Field(8, ge=1, description="DDIM steps of a picture")
    guidance: float = Field(1.0, ge=1, description="classifier-free guidance of the identity")
    refine_steps: int = Field(0, ge=0, description="white box: gradient steps on the picture's latent towards the "
                                                   "features that were sent; 0: none")
    refine_lr: float = Field(0.02, gt=0, description="learning rate of these steps; latents have about unit variance")
    stay: float = Field(0.05, ge=0, description="weight of the latent's squared distance from the prior's picture")


class AttackSettings(Config):
    """What each attack on features is set to."""

    decoder: DecoderConfig = Field(DecoderConfig(), description="trained decoder")
    perceptual: PerceptualConfig = Field(PerceptualConfig(), description="decoder with a perceptual term")
    gan: GANConfig = Field(GANConfig(), description="decoder refined against a critic")
    optimise: OptimiseConfig = Field(OptimiseConfig(), description="white-box search in pixels")
    prior: PriorConfig = Field(PriorConfig(), description="faces repainted by the diffusion prior")
