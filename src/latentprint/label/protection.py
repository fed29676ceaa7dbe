"""Settings of the victim's defences; `latentprint.label.defenses` builds them."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from latentprint.config import Config


class NoDefence(Config):
    """The victim as it is."""

    kind: Literal["none"] = "none"


class LabelSmoothingConfig(Config):
    """Label smoothing, of either sign."""

    kind: Literal["label-smoothing"] = "label-smoothing"
    strength: float = Field(0.05, ge=0, le=1, description="|alpha|, the share of a label that is spread over all "
                                                          "classes, or taken from them; 0: none")
    sign: Literal["negative", "positive"] = Field("negative", description="negative defends; positive is common in "
                                                                          "training and tends to leak more")
    start: float = Field(0.5, ge=0, le=1, description="negative alpha is 0 before this share of the training")
    full: float = Field(0.75, ge=0, le=1, description="and reaches its value, in a line, at this share")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.full < self.start:
            raise ValueError(f"full ({self.full:g}) must not be below start ({self.start:g})")
        return self


class BiDOConfig(Config):
    """Bilateral dependency optimisation with HSIC."""

    kind: Literal["bido"] = "bido"
    strength: float = Field(0.05, ge=0, description="lambda_x, weight of the hidden layers' dependence on the input")
    label_ratio: float = Field(10.0, ge=0, description="lambda_y / lambda_x, how much more their dependence on the "
                                                       "label counts")
    layers: list[str] = Field([], description="names of the hidden layers; empty: every top-level block")


class DPSGDConfig(Config):
    """Differentially private training. Epsilon is the promise to each photo, not to each person."""

    kind: Literal["dp-sgd"] = "dp-sgd"
    epsilon: float | None = Field(8.0, gt=0, le=1000, description="privacy budget of the whole training, for each "
                                                                  "photo; null: no privacy, the undefended training")
    delta: float = Field(1e-5, gt=0, lt=1, description="probability with which that promise may fail, below 1 / photos")
    max_grad_norm: float = Field(1.0, gt=0, description="every photo's gradient is clipped to this L2 norm")

    @property
    def strength(self) -> float:
        """1 / epsilon: 0 when there is no privacy."""
        return 0.0 if self.epsilon is None else 1 / self.epsilon


DefenceConfig = Annotated[NoDefence | LabelSmoothingConfig | BiDOConfig | DPSGDConfig, Field(discriminator="kind")]
