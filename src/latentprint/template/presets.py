"""Settings of the template channel, and its presets."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from latentprint.config import Config
from latentprint.data.people import PeopleConfig
from latentprint.data.sources import DataSource, ProceduralSource
from latentprint.engine.settings import Accumulate, RunConfig
from latentprint.models.foreign import BatchSetting, LayoutSetting, OutputSetting
from latentprint.models.framing import FramingSetting
from latentprint.models.preprocess import Colours
from latentprint.schedules import Ramp, WeightRamp
from latentprint.template.protection import (
    MLPHashConfig,
    NoiseConfig,
    NoProtection,
    PartialConfig,
    PolyProtectConfig,
    ProjectionConfig,
    Protection,
    QuantiseConfig,
)

Access = Literal["white-box", "transfer", "scores"]
GeneratorName = Literal["decoder", "prior"]


class DataConfig(PeopleConfig):
    """Who is enrolled, who is public, and who calibrates thresholds."""

    private: DataSource = Field(ProceduralSource(people=100, photos=4, first_identity=0),
                                description="the enrolled people; of each, one photo's template is stored")
    others: DataSource | None = Field(None, description="other photos of the same people, for SAR type II; null: "
                                                        "n_heldout photos of 'private'")
    n_heldout: int = Field(3, ge=1, description="photos of each enrolled person that are kept for SAR type II, where "
                                                "'others' is null")


class RecogniserConfig(Config):
    """A face recogniser: from an image to an embedding."""

    model: str = Field("teacher", description="a packaged asset (teacher, judge), one of the folder 'assets', "
                                              "FILE.py:NAME or PACKAGE.MODULE:NAME (called with dim), a TorchScript or "
                                              ".pt2 file, or an .onnx file (no gradients)")
    weights: Path | None = Field(None, description="a state dict for a named architecture")
    dim: int | None = Field(None, ge=2, description="entries of an embedding; null: as many as the asset has, 512 of a "
                                                    "network of one's own")
    framing: FramingSetting = None
    output: OutputSetting = None
    layout: LayoutSetting = None
    fixed_batch: BatchSetting = None
    colours: Colours = Field("rgb", description="rgb, bgr, or grey for one channel")
    scale: float = Field(1.0, gt=0, description="of the values, before the mean is subtracted; 255: it takes bytes")
    crop: list[float] = Field([0.0, 0.0, 1.0, 1.0], min_length=4, max_length=4,
                              description="top, left, bottom, right of what it sees, as shares of the picture; assets "
                                          "know their own")
    input_size: int | None = Field(None, ge=8, description="pixels the crop is resized to; null: as it is")
    mean: list[float] = Field([0.5, 0.5, 0.5], min_length=1, max_length=3,
                      description="subtracted, by colour; one number: for all colours")
    std: list[float] = Field([0.5, 0.5, 0.5], min_length=1, max_length=3,
                     description="divided by, by colour; one number: for all colours")


class JudgeConfig(RecogniserConfig):
    """A recogniser that the attack never sees."""

    model: str = Field("judge", description=RecogniserConfig.model_fields["model"].description)


class RampConfig(Config):
    """The weight of a loss as training, or denoising, proceeds."""

    kind: Ramp = Field("sigmoid", description="constant, linear or sigmoid")
    most: float = Field(1.0, ge=0, description="lambda_max")
    begin: float = Field(0.0, ge=0, le=1, description="linear: share up to which the weight is 0")
    end: float = Field(1.0, ge=0, le=1, description="linear: share from which it is lambda_max")
    steepness: float = Field(8.0, gt=0, description="sigmoid: k; the notes advise 6 to 10")
    middle: float = Field(0.4, description="sigmoid: share at which the weight is half of lambda_max")
    rescaled: bool = Field(False, description="sigmoid: stretched to start at exactly 0 and end at lambda_max")
    over: Literal["training", "progress"] = Field("training", description=(
        "what the share is of: training steps, or denoising (0: pure noise, 1: the clean image; generator 'prior')"))

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.kind == "linear" and not self.begin < self.end:
            raise ValueError(f"a linear ramp must begin before it ends, got {self.begin:g} and {self.end:g}")
        return self

    @property
    def ramp(self) -> WeightRamp:
        return WeightRamp(self.kind, self.most, self.begin, self.end, self.steepness, self.middle, self.rescaled)


class LossConfig(Config):
    """L_pixel + lambda(t) L_feat + lambda_perc(t) L_perc."""

    pixel: str = Field("l1", description=(
        "error of the pixels: l1, mse, or FILE.py:NAME of a function of drawn and real pictures (B, 3, H, W) to (B,); "
        "'prior': always that of denoising"))
    pixel_weight: float = Field(4.0, ge=0, description="of the pixel error")
    feature: Literal["l2", "info-nce"] = Field("info-nce", description="l2: squared distance of embeddings; info-nce: "
                                                                       "nearest to its own template among others")
    temperature: float = Field(0.1, gt=0, description="tau of info-nce; the notes advise 0.05 to 0.2")
    negatives: Literal["random", "hard", "queue"] = Field("random", description=(
        "random: of the public templates; hard: the most similar of other people; queue: of the last batches"))
    n_negatives: int = Field(128, ge=1, description="K; of a queue its length")
    weight: RampConfig = Field(RampConfig(), description="lambda(t) of the feature loss")
    perceptual: RampConfig = Field(RampConfig(kind="linear", most=0.0, begin=0.6, end=0.8),
                                   description="lambda_perc(t) of the perceptual loss, late; most 0: none")


class AttackConfig(Config):
    """Inversion of stored templates."""

    access: Access = Field("white-box", description=(
        "white-box: the recogniser with gradients; transfer: its embeddings of one's own images, gradients from the "
        "recogniser 'surrogate'; scores: nothing but the similarity of a submitted image to a person's template"))
    surrogate: str = Field("train", description="transfer and scores: the adversary's own recogniser, an asset's name, "
                                                "or train: one trained on public photos, for transfer "
                                                "to embed them as the attacked one does, for scores by their names")
    surrogate_framing: FramingSetting = None
    surrogate_steps: int = Field(1000, ge=1, description="steps of training it, or each imitation")
    imitations: int = Field(0, ge=0, le=4, description=(
        "white-box: networks that learn the attacked recogniser's embeddings of public photos and judge generated "
        "images beside it: a pattern that one network alone takes for a face then gains little"))
    guided: int | None = Field(None, ge=1, description=(
        "images of a step that the attacked recogniser judges where imitations judge all; null: all"))
    generators: list[GeneratorName] = Field(["decoder"], min_length=1, description=(
        "decoder: convolutions from the template; prior: the face diffusion prior with the whole picture to paint"))
    loss: LossConfig = Field(LossConfig(), description="what the generator learns by")
    steps: int = Field(1500, ge=1, description="training steps of the decoder")
    batch: int = Field(32, ge=2, description="photos a step")
    lr: float = Field(1e-3, gt=0, description="peak learning rate of the decoder (AdamW)")
    width: int = Field(256, ge=32, multiple_of=32, description="channels of the decoder's smallest map")
    prior_steps: int = Field(300, ge=1, description="training steps of the prior")
    prior_batch: int = Field(16, ge=2, description="photos a step of the prior")
    prior_lr: float = Field(3e-4, gt=0, description="peak learning rate of the prior's adapters")
    rank: int = Field(16, ge=1, description="LoRA rank of the prior; alpha is the same")
    sample_steps: int = Field(4, ge=1, description="DDIM steps of the prior's pictures")
    views: float = Field(1.0, ge=0, le=5, description="how far pictures are moved at random before the recogniser sees "
                                                      "them in training; 0: as they are")
    degraded: float = Field(0.0, ge=0, le=0.2, description=(
        "standard deviation of noise on these views, whose resolution is then also lowered to at least 3/4 at random; "
        "0: neither"))
    refine_steps: int = Field(0, ge=0, description="gradient steps on the generator's input for each stored template")
    refine_lr: float = Field(0.02, gt=0, description="learning rate of these (Adam)")
    recovery_steps: int = Field(300, ge=1, description="steps from a protected template to the likeliest one")
    budget: int = Field(500, ge=1, description="scores: images that may be submitted for each person")
    probes: float = Field(0.8, gt=0, le=1, description="scores: share of the budget for public photos; the rest goes "
                                                       "to drawn faces")

    @model_validator(mode="after")
    def _imitations_see_embeddings(self) -> Self:
        if self.imitations and self.access != "white-box":
            raise ValueError(f"imitations judge beside the attacked recogniser, which access '{self.access}' does not "
                             "give; set attack.imitations=0, or attack.access=white-box")
        return self


class PairsConfig(Config):
    """Labeled Faces in the Wild, to see whether recognisers read real photos as their publishers say."""

    path: Path = Field(description="folder with one subfolder for each person")
    pairs: Path = Field(description="the list pairs.txt")


class TemplateConfig(RunConfig):
    """Settings of ``latentprint audit template`` and ``latentprint defend template``."""

    data: DataConfig = Field(DataConfig(), description="people")
    recogniser: RecogniserConfig = Field(RecogniserConfig(), description="the recogniser whose templates are stored")
    judges: list[JudgeConfig] = Field([JudgeConfig()], description="other recognisers, to which reconstructions are "
                                                                   "transferred; the attack never sees them")
    judge: str | None = Field(None, description="the first of them, in short: an asset's name, for judges.0.model")
    teacher: str = Field("teacher", description="asset of the recogniser that the prior was trained with; generator "
                                                "'prior'")
    teacher_framing: FramingSetting = None
    protection: Protection = Field(NoProtection(), description="how templates are stored")
    compared: list[Protection] = Field([
        NoiseConfig(), QuantiseConfig(), QuantiseConfig(bits=3), PartialConfig(kept=0.5), PartialConfig(kept=0.3),
        ProjectionConfig(), PolyProtectConfig(), MLPHashConfig()],
        description="defend template: the protections that are compared, beside none and 'protection'")
    attack: AttackConfig = Field(AttackConfig(), description="the attack")
    recognition_cost: float = Field(0.01, ge=0, le=1, description="defend template: share of the true accept rate that "
                                                                  "a recommended protection may cost")
    lpips: Path | None = Field(None, description="torchvision's AlexNet file for LPIPS; null: a perceptual distance in "
                                                 "the packaged attribute network")
    lfw: PairsConfig | None = Field(None, description="also measure each recogniser by the ten-fold protocol of LFW")
    resamples: int = Field(2000, ge=1000, description="bootstrap resamples over people")
    accumulate: Accumulate = 1
    save_every: int = Field(100, ge=1, description="steps between checkpoints")

    @model_validator(mode="before")
    @classmethod
    def _judge_in_short(cls, given: Any) -> Any:
        """``judge`` is kept as ``judges.0.model``, so that there is one place to look."""
        if not isinstance(given, dict) or not isinstance(given.get("judge"), str):
            return given
        first, *others = given.get("judges") or [{}]
        known = first if isinstance(first, dict) else first.model_dump()
        return {**given, "judges": [{**known, "model": given["judge"]}, *others], "judge": None}

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.attack.loss.weight.over == "progress" and "decoder" in self.attack.generators:
            raise ValueError("attack.loss.weight.over: 'progress' is that of denoising, which the generator 'decoder' "
                             "does not do; take attack.generators=[prior], or 'training'")
        return self


PRESETS: dict[str, dict[str, Any]] = {
    # For tests: runs every line, means nothing.
    "tiny": {
        "precision": "fp32",
        "data": {"private": {"kind": "procedural", "people": 5, "photos": 3},
                 "public": [{"kind": "procedural", "people": 24, "photos": 3, "first_identity": 100_000}],
                 "evaluation": {"kind": "procedural", "people": 40, "photos": 4, "first_identity": 200_000},
                 "n_heldout": 2},
        "attack": {"steps": 6, "batch": 4, "width": 32, "prior_steps": 3, "prior_batch": 4, "sample_steps": 2,
                   "surrogate_steps": 3, "recovery_steps": 20, "budget": 12, "loss": {"n_negatives": 8}},
        "save_every": 2,
    },
    # Procedural faces at 64 px on two CPU cores.
    "small": {},
    # Photos of real people, with the folder of `latentprint pretrain faces` or `convert faces` as assets.
    "faces": {"attack": {"imitations": 1, "guided": 3, "degraded": 0.02, "surrogate_steps": 1500,
                         "loss.weight.middle": 0.3}},
    "full": {
        "data": {"private": {"kind": "procedural", "people": 500, "photos": 4},
                 "public": [{"kind": "procedural", "people": 20_000, "photos": 2, "first_identity": 100_000}]},
        "attack": {"steps": 20_000, "batch": 128, "width": 512, "generators": ["decoder", "prior"], "prior_steps": 4000,
                   "prior_batch": 64, "surrogate_steps": 6000},
    },
}
DEFEND_PRESETS = PRESETS
