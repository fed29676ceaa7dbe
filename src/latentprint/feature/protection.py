"""Settings of the feature channel's defences; `latentprint.feature.defenses` builds them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from latentprint.config import Config

SurrogateName = Literal["kmeans", "gmm", "slot", "gated"]


class NoiseConfig(Config):
    """Noise on every message, in training, use and attack alike."""

    kind: Literal["noise"] = "noise"
    std: float = Field(0.025, ge=0, description="standard deviation, in the units of the features; 0: none")
    law: Literal["gaussian", "laplace"] = Field("gaussian", description="distribution of the noise")


class DropoutConfig(Config):
    """Entries of every message are dropped at random."""

    kind: Literal["dropout"] = "dropout"
    share: float = Field(0.2, ge=0, lt=1, description="probability that an entry is set to 0")
    rescaled: bool = Field(False, description="divide the others by 1 - share; the published defence does not")


class TopKConfig(Config):
    """Small entries of every message are set to 0."""

    kind: Literal["top-k"] = "top-k"
    pruned: float = Field(0.5, ge=0, lt=1, description="share of the entries that are set to 0, the smallest by size")
    scope: Literal["message", "batch"] = Field("message", description=(
        "among whose entries the smallest are sought; batch is the published defence, where a message depends on those "
        "sent with it"))


class NoPeekConfig(Config):
    """NoPeek: features are trained to depend less on the image."""

    kind: Literal["nopeek"] = "nopeek"
    weight: float = Field(0.1, ge=0, description="of the distance correlation of image and features")


class AdversarialConfig(Config):
    """Adversarial reconstruction (ResSFL, ARL): a decoder is trained along, and the features against it."""

    kind: Literal["adversarial"] = "adversarial"
    weight: float = Field(0.3, ge=0, description="of the similarity above the bound")
    bound: float = Field(0.5, ge=0, le=1, description="SSIM of the decoder's picture that counts as harmless")
    steps: int = Field(1, ge=1, description="steps of the decoder for each step of the victim")
    first_steps: int = Field(200, ge=0, description="steps that the decoder learns before the victim reacts to it")
    blocks: int = Field(4, ge=0, description="residual blocks of the decoder")
    lr: float = Field(1e-3, gt=0, description="the decoder's learning rate (Adam)")


class PatrolConfig(Config):
    """PATROL-like: a wider edge network is pruned late in training, and retrained without what it lost."""

    kind: Literal["patrol"] = "patrol"
    channels: int = Field(16, ge=1, description="channels of the layer put in front of the edge network")
    pruned: float = Field(0.05, ge=0, lt=1, description="share of output channels pruned in each wide layer")
    at: float = Field(0.75, gt=0, le=1, description="share of the training after which they are pruned")
    exempt: int = Field(32, ge=0, description="layers of at most so many output channels are left alone")


class VIBConfig(Config):
    """Variational information bottleneck: noise whose size is learned, paid for by its divergence from a fixed law."""

    kind: Literal["vib"] = "vib"
    weight: float = Field(1e-3, ge=0, description="beta, of the divergence from a standard normal, nats an entry")
    first_std: float = Field(0.1, gt=0, description="standard deviation of the noise at the start")


class ThresholdConfig(Config):
    """Logarithm of the variance below which features of one class may stay as they are."""

    kind: Literal["noise", "constant", "schedule"] = Field("noise", description=(
        "noise: log(tau sigma^2 + gamma); constant: log(value); schedule: log of a value that falls to the last one"))
    tau: float = Field(0.125, gt=0, description="of kind noise, in units of the noise's variance")
    gamma: float = Field(0.01, gt=0, description="added to every variance before its logarithm")
    value: float = Field(0.05, gt=0, description="of kinds constant and schedule, a variance")
    first_value: float = Field(1.0, gt=0, description="of kind schedule, the variance at the start")


class CEMConfig(Config):
    """Conditional entropy maximisation (arXiv 2503.00383) with a surrogate of one's choice."""

    kind: Literal["cem"] = "cem"
    surrogate: SurrogateName = Field("kmeans", description="what estimates the conditional entropy")
    weight: float = Field(16.0, ge=0, description="lambda; 0: measured, not trained on")
    warm_up: float = Field(5 / 240, ge=0, lt=1, description="share of the training before it acts")
    lr_scaled: bool = Field(True, description="while the learning rate is above 4.1e-4 the weight is lambda 0.001 / lr")
    threshold: ThresholdConfig = Field(ThresholdConfig(), description="variance that counts as low")
    hinge: Literal["relu", "softplus"] = Field("relu", description="form of what counts above the threshold")
    softplus_beta: float = Field(1.0, gt=0, description="of the hinge softplus")
    margin: float = Field(0.1, ge=0, description="of the hinge softplus")


DefenceConfig = Annotated[
    NoiseConfig | DropoutConfig | TopKConfig | NoPeekConfig | AdversarialConfig | PatrolConfig | VIBConfig | CEMConfig,
    Field(discriminator="kind")]
