"""The three-stage recipe as a value: a tuple of frozen stages, so that an ablation is another tuple.

A photo's embedding conditions the prior at first, a learned label embedding in the end. Stage 0 warms the adapters
up on photos, stage 1 leads the condition over from photo to label, stage 2 works from the label alone.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from latentprint.config import Config
from latentprint.handover import Source

LossName = Literal["prior", "perceptual", "norm", "align", "cls", "margin", "p_reg", "centre", "id", "contrast",
                   "attribute", "diversity", "manifold"]
Answer = Literal["top-k", "top-1", "cross-entropy", "max-margin", "poincare"]
Denoising = Literal["mse", "cosine", "mse+cosine"]

#: What can be computed when the prior is conditioned on a photo, a mix, or a label.
POSSIBLE: dict[Source, frozenset[LossName]] = {
    "image": frozenset({"prior", "perceptual"}),
    "mixed": frozenset({"prior", "perceptual", "norm", "align"}),
    "label": frozenset({"prior", "perceptual", "norm", "align", "cls", "margin", "p_reg", "centre", "id", "contrast",
                        "attribute", "diversity", "manifold"}),
}


class Stage(Config):
    """One stage.

    Its losses: ``prior`` (denoising error on public photos), ``perceptual`` (to the target photo), ``norm`` and
    ``align`` of the label embedding (to what public photos say of the class: where the map put it, or else its paired
    photos), ``cls`` (the victim's answer, in the form ``answer``), ``margin`` (B4: the class leads by a logit),
    ``centre`` (the victim's features against the direction of the class in its last layer), ``p_reg`` (B3: the same
    against a learned centre, by distance), ``id`` (teacher against label embedding), ``contrast`` (B2: nearer to it
    than to any other class's), ``attribute`` (C1: pose, expression and light of the attribute image), ``diversity``
    (C2: as unlike each other as photos of one person), ``manifold`` (typical of public embeddings).
    """

    name: str = Field("stage", pattern=r"^stage[a-z0-9]*$", description="phase name in the logs, stage...")
    identity: Source = Field("image", description="what conditions the prior: image, mixed or label")
    adapters: Literal["reference", "all"] = Field("reference", description="LoRA on reference attention alone, or "
                                                                           "also on self-attention and convolutions")
    losses: dict[LossName, Annotated[float, Field(ge=0)]] = Field({"prior": 1.0}, min_length=1,
                                                                  description="losses and their scales; 0: off")
    answer: Answer = Field("top-k", description="form of the loss cls: top-k (B1), top-1 (its ablation), "
                                                "cross-entropy, max-margin or poincare")
    denoising: Denoising = Field("mse", description="form of the loss prior; the cosine is A2")
    progress_weighted: bool = Field(False, description="A1: the prior's error weighs 0.5, 1.0, 1.5 from noise to "
                                                       "clean")
    phased: bool = Field(False, description="A3: prior x 2.0 and cls x 0.5 in the first quarter of the steps, then "
                                            "x 0.5 and x 1.5")
    rival_margin: float = Field(0.4, ge=0, le=2, description="m of the loss contrast, a cosine")
    weighting: Literal["fixed", "uncertainty"] = Field("fixed", description="sum as scaled, or learned weights")
    steps: int = Field(100, ge=1, description="step cap")
    min_steps: int = Field(10, ge=1, description="it does not end earlier")
    patience: int | None = Field(None, ge=1, description="it ends after so many looks in a row without a lower Frechet "
                                                         "distance; null: never for that")
    batch: int = Field(16, ge=2, description="pictures a step")
    lora_lr: float = Field(1e-4, ge=0, description="learning rate of the adapters")
    embedding_lr: float = Field(1e-3, ge=0, description="learning rate of the label embedding; 0: not trained")
    log_variance_lr: float = Field(1e-4, ge=0, description="learning rate of uncertainty weights")
    success_bound: float = Field(1.0, ge=0, le=1, description="a label stage ends at this success on the victim")
    identity_share: float = Field(0.95, ge=0, description="... and this share of the similarity to the embedding "
                                                          "asked for that the untouched prior reaches")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if wrong := sorted(set(self.active) - POSSIBLE[self.identity]):
            raise ValueError(f"a stage of identity {self.identity!r} cannot compute {', '.join(wrong)}; it can "
                             f"{', '.join(sorted(POSSIBLE[self.identity]))}")
        if not self.active:
            raise ValueError("at least one loss must have a scale above 0")
        return self

    @property
    def active(self) -> dict[LossName, float]:
        """The losses that are on."""
        return {name: scale for name, scale in self.losses.items() if scale > 0}


WARM_UP = Stage(name="stage0", identity="image", losses={"prior": 1.0, "perceptual": 0.1}, steps=40, min_steps=20,
                embedding_lr=0.0)
HAND_OVER = Stage(name="stage1", identity="mixed", losses={"prior": 1.0, "perceptual": 0.1, "norm": 0.1, "align": 1.0},
                  steps=120, min_steps=50)
LABEL_ONLY = Stage(name="stage2", identity="label", adapters="all", weighting="uncertainty",
                   losses={"prior": 1.0, "cls": 1.0, "centre": 3.0, "id": 1.0, "align": 1.0, "perceptual": 0.1,
                           "attribute": 0.1, "norm": 0.1, "manifold": 0.1},
                   steps=300, min_steps=150, lora_lr=1e-4, embedding_lr=3e-3, log_variance_lr=5e-3)

#: The notes' recipe with step counts for two CPU cores, and in stage 2, five times shorter than theirs, rates that are
#: higher in turn: at theirs (1e-5, 1e-3, 1e-4) adapters and weights would not move. Theirs are in the preset ``full``.
PROGRESSIVE = (WARM_UP, HAND_OVER, LABEL_ONLY)
