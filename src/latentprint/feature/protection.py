"""Settings of the feature channel's defences; `latentprint.feature.defenses` builds them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from latentprint.config import Config

#: A value that a callable of the user's own may be given.
Option = bool | int | float | str | None


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
    first_steps: int = Field(200, ge=0, description=(
        "steps that the decoder learns before the victim reacts to it; of a network that is already trained, before "
        "its first step"))
    blocks: int = Field(4, ge=0, description="residual blocks of the decoder")
    width: int = Field(64, ge=1, description="channels of the decoder")
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
    """The log-variance within a class that is tolerated."""

    kind: Literal["noise", "constant", "schedule"] = Field("noise", description=(
        "noise: log(tau sigma^2 + gamma), sigma that of the noise on what is sent; constant: log(variance); schedule: "
        "from the constant to the noise's while training proceeds"))
    tau: float = Field(0.125, gt=0, description="share of the noise's variance that features may have")
    gamma: float = Field(0.01, gt=0, description="added to variances before the logarithm, squared feature units")
    variance: float = Field(0.05, gt=0, description="of kind constant, and the start of schedule; squared feature "
                                                    "units")


class HingeConfig(Config):
    """What an excess of log-variance costs."""

    kind: Literal["relu", "softplus"] = Field("relu", description="relu(x), or softplus(beta (x - margin)) / beta")
    beta: float = Field(1.0, gt=0, description="of softplus")
    margin: float = Field(0.1, description="of softplus")


class KMeansConfig(Config):
    """The published surrogate: clusters within each class, refitted between epochs."""

    kind: Literal["kmeans"] = "kmeans"
    clusters: int = Field(5, ge=1, description="of each class (published: 5, and 15 for networks without a sigmoid)")
    log_entropy: bool = Field(True, description="log of the variances above the threshold; false: the variances")
    faithful_bug: bool = Field(False, description="take variances and weights of a wrong class, as the published code")
    threshold: ThresholdConfig = Field(ThresholdConfig(), description="variance that is tolerated")
    hinge: HingeConfig = Field(HingeConfig(), description="what exceeds it costs")


class GMMConfig(Config):
    """A mixture of Gaussians with diagonal covariance for each class, refitted between epochs."""

    kind: Literal["gmm"] = "gmm"
    components: int = Field(3, ge=1, description="of each class")
    floor: float = Field(1e-6, gt=0, description="least variance of a component, squared feature units")


class LearnedConfig(Config):
    """What surrogates with parameters have in common."""

    mode: Literal["frozen", "joint", "own", "density"] = Field("density", description=(
        "density: a likelihood, trained by its own optimiser, that cannot be cheated; frozen: as it starts; joint, "
        "own: trained on its own penalty, which it can make vanish without any protection"))
    tokens: Literal["sample", "spatial"] = Field("sample", description="what attention looks at: whole samples, or "
                                                                       "their positions")
    width: int = Field(128, ge=1, description="features are reduced to so many dimensions before attention")
    normalise: Literal["attention", "features"] = Field("attention", description=(
        "layer norm where attention is computed alone, or before variances are taken, as in the notes"))
    lr: float = Field(1e-4, gt=0, description="learning rate of the own optimiser (Adam)")
    learn_every: int = Field(16, ge=1, description="training steps between its steps")


class SlotConfig(LearnedConfig):
    """Slot attention and gated cross-attention (seed 003)."""

    kind: Literal["slot"] = "slot"
    slots: int = Field(8, ge=1, description="slots of each class")
    iterations: int = Field(3, ge=1, description="of slot attention")
    heads: int = Field(4, ge=1, description="of cross-attention")
    variance_floor: float = Field(1e-6, gt=0, description="least variance, squared feature units")
    threshold: ThresholdConfig = Field(ThresholdConfig(tau=0.1, gamma=1e-6), description="variance that is tolerated")
    hinge: HingeConfig = Field(HingeConfig(), description="what exceeds it costs")


class GatedConfig(LearnedConfig):
    """Gated attention pooling with gates on dimensions, signal-to-noise and classes (seed 004)."""

    kind: Literal["gated"] = "gated"
    hidden: int = Field(64, ge=1, description="hidden units of the pooling and of the dimension gate")
    attention_loss_scale: float = Field(0.1, gt=0, description="weight of the whole penalty")
    class_gate_a: float = Field(10.0, description="steepness of the class gate")
    class_gate_b: float = Field(0.05, description="share of the batch at which the class gate is half open")
    snr_thresh: float = Field(0.3, description="variance over squared mean at which the gate is half open")
    snr_sharp: float = Field(10.0, description="steepness of that gate")
    slot_power: float = Field(2.0, ge=0, description="power of a class's share of the batch in its weight")
    threshold: ThresholdConfig = Field(ThresholdConfig(tau=0.1, gamma=1e-6), description="variance that is tolerated")
    hinge: HingeConfig = Field(HingeConfig(kind="softplus"), description="what exceeds it costs")


class CustomSurrogateConfig(Config):
    """A surrogate of one's own."""

    kind: Literal["custom"] = "custom"
    made_by: str = Field(description="FILE.py:NAME, PACKAGE.MODULE:NAME or plugin:NAME, called with the features' "
                                     "shape, the number of classes and the noise's standard deviation, to give a "
                                     "Surrogate")
    options: dict[str, Option] = Field({}, description="further arguments of it, by name")


SurrogateConfig = Annotated[KMeansConfig | GMMConfig | SlotConfig | GatedConfig | CustomSurrogateConfig,
                            Field(discriminator="kind")]


class CEMConfig(Config):
    """Conditional entropy maximisation (arXiv 2503.00383) with a surrogate of one's choice."""

    kind: Literal["cem"] = "cem"
    surrogate: SurrogateConfig = Field(KMeansConfig(), description="what estimates the conditional entropy")
    weight: float = Field(16.0, ge=0, description="lambda; 0: fitted, not trained on")
    warm_up: float = Field(5 / 240, ge=0, lt=1, description="share of the training before it acts")
    lr_scaled: bool = Field(True, description="at learning rates of 4.1e-4 or more the weight is lambda 0.001 / lr")


class CustomConfig(Config):
    """A defence of one's own, such as another loss."""

    kind: Literal["custom"] = "custom"
    made_by: str = Field(description="FILE.py:NAME, PACKAGE.MODULE:NAME or plugin:NAME, which gives a FeatureDefense")
    options: dict[str, Option] = Field({}, description="its arguments, by name")


DefenceConfig = Annotated[
    NoiseConfig | DropoutConfig | TopKConfig | NoPeekConfig | AdversarialConfig | PatrolConfig | VIBConfig | CEMConfig
    | CustomConfig,
    Field(discriminator="kind")]


def described(defences: Sequence[DefenceConfig]) -> str:
    """Kinds, and what is not as it comes: ``noise(std 0.1) + cem(gated, weight 64)``."""
    return " + ".join(f"{each.kind}({', '.join(found)})" if (found := _own(each)) else each.kind for each in defences)


def _own(defence: DefenceConfig) -> list[str]:
    surrogate: dict[str, Any] = {}
    settings = defence.model_dump(exclude_defaults=True)
    if isinstance(defence, CEMConfig):
        settings.pop("surrogate", None)
        surrogate = {defence.surrogate.kind: "", **defence.surrogate.model_dump(exclude_defaults=True)}
    return [f"{name} {_short(value)}".strip() for name, value in {**surrogate, **settings}.items() if name != "kind"]


def _short(value: Any) -> str:
    if isinstance(value, bool | float):
        return ("off", "on")[value] if isinstance(value, bool) else f"{value:g}"
    return " ".join(f"{name} {_short(part)}" for name, part in value.items()) if isinstance(value, dict) else str(value)
