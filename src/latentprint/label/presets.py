"""Settings of the label channel, and its presets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from latentprint.config import Config
from latentprint.data.people import PeopleConfig
from latentprint.data.sources import DataSource
from latentprint.engine.settings import Accumulate, RunConfig
from latentprint.handover import Annealing, Pace
from latentprint.label.baselines.settings import BaselineName, BaselineSettings
from latentprint.label.protection import DefenceConfig, NoDefence
from latentprint.label.recipes import GUIDE, Arm, LossPreset, unfit, with_arm, with_loss
from latentprint.label.stages import PROGRESSIVE, Stage
from latentprint.models.foreign import BatchSetting, LayoutSetting, OutputSetting
from latentprint.models.framing import FramingSetting
from latentprint.models.outside import Protocol
from latentprint.models.preprocess import Colours
from latentprint.models.recognisers import FACE_CROP
from latentprint.registry import PluginName
from latentprint.schedules import Mixing
from latentprint.victim import Answers

#: top, left, bottom, right of the recognisers' face crop, as shares of the picture.
FACE_BOX = [FACE_CROP[0], FACE_CROP[1], FACE_CROP[0] + FACE_CROP[2], FACE_CROP[1] + FACE_CROP[3]]


class DataConfig(PeopleConfig):
    """The people, and what the victim learns of them."""

    groups: Path | None = Field(None, description="a CSV file with the columns name and group: the report then also "
                                                  "gives the numbers of each group of private people")
    heldout: DataSource | None = Field(None, description=(
        "photos of the private people that a victim of your own has never seen, under the same names; null: n_heldout "
        "of each person's are held out, which a victim trained elsewhere may have seen"))
    n_heldout: int = Field(8, ge=1, description="photos of each private person kept from the victim")
    n_train: int | None = Field(None, ge=1, description="at most so many training photos of each private person")


class ServiceConfig(Config):
    """How a model behind http:// is asked."""

    protocol: Protocol = Field("instances", description=(
        "instances: nested numbers to 'predictions' (KServe, TensorFlow Serving); png: base64 'images' to 'scores'"))
    timeout: float = Field(30.0, gt=0, description="seconds to wait for an answer")
    retries: int = Field(3, ge=0, description="repetitions of a request that timed out or failed")
    budget: int | None = Field(None, ge=1, description="images that may be asked about in all; null: any number")


class ModelConfig(Config):
    """A classifier: the victim or an evaluator. Without weights a named architecture is trained here."""

    model: str = Field("builtin:vgg", description=(
        "builtin:vgg|resnet|mixer, timm:NAME, torchvision:NAME, a .pt2, .onnx or TorchScript file, FILE.py:NAME, "
        "PACKAGE.MODULE:NAME, or a service at http://"))
    classes: list[str] | None = Field(None, description=(
        "what its outputs stand for, in order, as the people are called; null: the people in the order of the data"))
    answers: Answers = Field("logits", description="logits, probabilities, log-probabilities, or sigmoid (a "
                                                   "probability of each class by itself)")
    output: OutputSetting = None
    layout: LayoutSetting = None
    fixed_batch: BatchSetting = None
    colours: Colours = Field("rgb", description="rgb, bgr, or grey for one channel")
    scale: float = Field(1.0, gt=0, description="of the values, before the mean is subtracted; 255: it takes bytes")
    service: ServiceConfig = Field(ServiceConfig(), description="for a model behind http://")
    weights: Path | None = Field(None, description="a state dict, such as networks/victim.safetensors of an earlier "
                                                   "run; null: train it on the private people")
    crop: list[float] = Field(FACE_BOX, min_length=4, max_length=4,
                              description="top, left, bottom, right of what it sees, as shares of the picture")
    input_size: int | None = Field(None, ge=16, description="pixels the crop is resized to; null: as it is")
    mean: list[float] = Field([0.5, 0.5, 0.5], min_length=1, max_length=3,
                      description="subtracted, by colour; one number: for all colours")
    std: list[float] = Field([0.5, 0.5, 0.5], min_length=1, max_length=3,
                     description="divided by, by colour; one number: for all colours")
    steps: int = Field(700, ge=1, description="training steps")
    batch: int = Field(64, ge=2, description="images a training step")
    lr: float = Field(2e-3, gt=0, description="peak learning rate")
    augment: float = Field(1.0, ge=0, le=5, description="how far the random views it is trained on go; 1: as the "
                                                        "attack's views, 0: the photos as they are")
    mirror: bool = Field(False, description="half of these views are mirrored")
    warm: str | None = Field(None, description=(
        "asset of a recogniser, such as faceres, whose embeddings of the public photos the network learns before it is "
        "trained on the private people; beside weights: what they learned from, for the report"))
    warm_steps: int = Field(400, ge=1, description="training steps on these embeddings")
    warm_batch: int = Field(128, ge=2, description="images of such a step")
    warm_lr: float = Field(2e-3, gt=0, description="peak learning rate of such steps")
    warm_weights: Path | None = Field(None, description=(
        "networks/NAME-warm.safetensors of an earlier run with the same model and warm, taken in place of such steps"))

    @field_validator("classes", mode="before")
    @classmethod
    def _written_out(cls, classes: Any) -> Any:
        """YAML reads names such as 10 as numbers, and ``no`` as false, which cannot be undone."""
        if not isinstance(classes, list):
            return classes
        if lost := [name for name in classes if name is None or isinstance(name, bool)]:
            raise ValueError(f"one of the names reads as {json.dumps(lost[0])} in YAML; put such names in quotes")
        return [str(name) if isinstance(name, int | float) else name for name in classes]

    @model_validator(mode="after")
    def _warm_by_name(self) -> Self:
        if self.warm_weights is not None and (self.warm is None or self.weights is not None):
            raise ValueError("warm_weights are what a network is trained from: name in warm what they learned from, "
                             "and leave weights out")
        return self


class EvaluatorConfig(ModelConfig):
    """A model that judges. Its views go further than a victim's: some dozens of photos stand for a person."""

    model: str = Field("builtin:resnet", description=ModelConfig.model_fields["model"].description)
    augment: float = Field(2.5, ge=0, le=5, description=ModelConfig.model_fields["augment"].description)


class AdaptConfig(Config):
    """Fine-tuning of codec and prior on the public people, for pictures unlike the procedural ones."""

    codec_steps: int = Field(0, ge=0, description="steps for the codec; 0: as shipped")
    prior_steps: int = Field(0, ge=0, description="steps for the prior; 0: as shipped")
    batch: int = Field(32, ge=2, description="images a step")
    codec_lr: float = Field(5e-4, gt=0, description="peak learning rate of the codec")
    prior_lr: float = Field(3e-4, gt=0, description="peak learning rate of the prior")


class AttackConfig(Config):
    """The progressive attack."""

    access: Literal["white-box", "scores"] = Field("white-box", description=(
        "what the adversary gets of the victim: everything, or class probabilities alone"))
    stages: list[Stage] = Field(list(PROGRESSIVE), description="the recipe, one stage after another; none: the faces "
                                                               "that the map gives, without optimisation")
    loss: LossPreset | None = Field(None, description="the notes' losses in place of those of the label stages: "
                                    + "; ".join(f"{name}: {use}" for name, use in GUIDE.items()))
    arm: Arm | None = Field(None, description="an annealing arm of the notes in place of the stages as they are, with "
                                              "labels that start anywhere")
    pairing: Literal["confidence", "random"] = Field("confidence", description="which public photos go with a class")
    pairs: int = Field(30, ge=1, description="public photos paired with each class")
    initial: Literal["mapped", "pseudo", "random"] = Field("mapped", description=(
        "label embeddings start where a map learned on public photos takes the victim's class directions, at the mean "
        "of the paired photos, or anywhere"))
    map_steps: int = Field(800, ge=1, description="steps of learning that map")
    map_noise: float = Field(0.8, ge=0, description="noise on its input, whose entries are of order one")
    mixing: Mixing = Field("slerp", description="how lambda mixes embeddings: slerp, lerp or lerp_normalised")
    annealing: Annealing = Field("cosine", description="lambda as a function of the phase, cosine or linear")
    pace: Pace = Field("steady", description="steady, or alignment: lambda waits while the alignment loss is above its "
                                             "bound")
    align_bound: float = Field(0.1, ge=0, description="alignment loss (0 to 4) at which labels count as aligned: a "
                                                      "mixed stage may end")
    horizon: int = Field(60, ge=1, description="T_anneal, steps from lambda 0 to 1")
    slow_down: float = Field(1.5, ge=1, description="T_anneal grows by this when the Frechet distance jumps")
    gate: Literal["average", "learned"] = Field("average", description=(
        "how several teachers weigh: alike, or by how well each tells public people apart"))
    beta: float = Field(1.0, ge=0, description="beta0, weight of the alignment at lambda 0")
    rank: int = Field(8, ge=1, description="LoRA rank; alpha is the same")
    estimate: Literal["ddim", "one_step"] = Field("ddim", description=(
        "picture inside the losses: ddim_steps from pure noise, or one prediction on the noisy attribute image"))
    ddim_steps: int = Field(2, ge=1, description="steps of the picture inside the losses")
    gradient_steps: int | None = Field(None, ge=1, description="gradients through the last n of them; null: all")
    augmentations: int = Field(2, ge=1, description="random views of a picture that victim and teacher average over")
    sample_steps: int = Field(2, ge=1, description="DDIM steps of the final pictures")
    guidance: float = Field(1.0, ge=1, description="classifier-free guidance of the final pictures")
    images: int = Field(8, ge=2, description="pictures of each class")
    selected: float = Field(0.5, gt=0, le=1, description="share of them that the victim's confidence selects")
    look_every: int = Field(20, ge=1, description="steps between looks at Frechet distance and success")
    look_images: int = Field(96, ge=64, description="pictures of a look")
    frechet_slack: float = Field(1.3, ge=1, description="bounds on the Frechet distance are this times the larger of "
                                                        "real against real and the untouched prior against real")


    @model_validator(mode="after")
    def _named_apart(self) -> Self:
        names = [stage.name for stage in self.stages]
        if len(set(names)) != len(names):
            raise ValueError(f"stages need different names, got {', '.join(names)}")
        if self.arm is not None and not self.stages:
            raise ValueError("arm changes the stages, and there are none")
        if self.arm is not None and (refused := unfit(self.stages, self.arm)):
            raise ValueError(refused)
        if self.access == "scores" and self.stages:
            raise ValueError("stages need the victim's gradients: with access 'scores' set stages to [], as the preset "
                             "'scores' does")
        return self

    @property
    def resolved(self) -> AttackConfig:
        """What ``loss`` and ``arm`` stand for, spelt out in ``stages``, ``initial`` and ``annealing``."""
        stages, changes = list(self.stages), {}
        if self.arm is not None:
            stages = with_arm(stages, self.arm)
            changes = {"initial": "random", "annealing": "linear" if self.arm == "linear" else "cosine"}
        if self.loss is not None:
            stages = with_loss(stages, self.loss)
        return self.model_copy(update={**changes, "stages": stages, "loss": None, "arm": None})


class LabelConfig(RunConfig):
    """Settings of ``latentprint audit label``."""

    teacher: str = Field("teacher", description="asset that the attack uses as recogniser")
    teachers: list[str] = Field([], description="assets that judge pictures beside the teacher while the attack trains")
    teacher_framing: FramingSetting = None
    judge: str = Field("judge", description="asset that judges identity")
    judge_framing: FramingSetting = None
    data: DataConfig = Field(DataConfig(), description="people")
    victim: ModelConfig = Field(ModelConfig(), description="the model under audit")
    defence: DefenceConfig = Field(NoDefence(), description="how the victim is trained to give less away")
    evaluators: list[EvaluatorConfig] = Field([EvaluatorConfig(model="builtin:resnet"),
                                               EvaluatorConfig(model="builtin:mixer", steps=1000)],
                                              min_length=1, description="models that judge, of other architectures")
    adapt: AdaptConfig = Field(AdaptConfig(), description="fitting codec and prior to the public people")
    attack: AttackConfig = Field(AttackConfig(), description="the attack")
    baselines: list[BaselineName | PluginName] = Field([], description=(
        "other attacks that are given as many of the victim's gradients: mi-face, art-mi-face (extra 'art'), "
        "embedding-search, ppa, direct, guidance, or plugin:NAME of an Attack"))
    baseline_settings: BaselineSettings = Field(BaselineSettings(), description="settings of the baselines")
    variants: dict[str, dict[str, Any]] = Field({}, description=(
        "further victims to compare with, by name: settings of each in place of those here, as in {smoothed: {defence: "
        "{kind: label-smoothing}}, mixer: {victim.model: builtin:mixer}}"))
    accuracy_cost: float = Field(0.01, ge=0, le=1, description="share of accuracy, against the first victim, that a "
                                                               "recommended one may cost")
    resamples: int = Field(2000, ge=1000, description="bootstrap resamples over identities")
    accumulate: Accumulate = 1
    save_every: int = Field(50, ge=1, description="steps between checkpoints")


_WARM: dict[str, Any] = {"warm": "teacher", "warm_steps": 700, "steps": 800, "lr": 1e-3, "mirror": True, "augment": 1.5}

PRESETS: dict[str, dict[str, Any]] = {
    # For tests: runs every line, means nothing.
    "tiny": {
        "precision": "fp32",
        "data": {"private": {"kind": "procedural", "people": 4, "photos": 6},
                 "public": [{"kind": "procedural", "people": 24, "photos": 3, "first_identity": 100_000}],
                 "evaluation": {"kind": "procedural", "people": 40, "photos": 4, "first_identity": 200_000},
                 "n_heldout": 2},
        "victim": {"steps": 12, "batch": 16},
        "evaluators": [{"model": "builtin:resnet", "steps": 12, "batch": 16},
                       {"model": "builtin:mixer", "steps": 12, "batch": 16}],
        "attack": {"map_steps": 4, "pairs": 4, "horizon": 4, "images": 2, "look_every": 4, "look_images": 64,
                   "sample_steps": 2, "augmentations": 1, "ddim_steps": 1, "stages.0.steps": 4, "stages.0.min_steps": 2,
                   "stages.1.steps": 6, "stages.1.min_steps": 2, "stages.2.steps": 6, "stages.2.min_steps": 2,
                   "stages.0.batch": 4, "stages.1.batch": 4, "stages.2.batch": 4},
        "save_every": 2,
    },
    "small": {},
    # An adversary who sees class probabilities and nothing else: an ONNX file, a service, or one's own model so.
    "scores": {"attack": {"access": "scores", "stages": []}},
    # Fewer people: the shape of the main job in some minutes.
    "demo": {
        "data": {"private": {"kind": "procedural", "people": 16, "photos": 30},
                 "public": [{"kind": "procedural", "people": 4000, "photos": 2, "first_identity": 100_000}],
                 "evaluation": {"kind": "procedural", "people": 120, "photos": 4, "first_identity": 200_000},
                 "n_heldout": 6},
        "victim": {"steps": 350},
        "evaluators": [{"model": "builtin:resnet", "steps": 400}, {"model": "builtin:mixer", "steps": 500}],
        "attack": {"stages.0.steps": 10, "stages.0.min_steps": 10, "stages.1.steps": 60, "stages.1.min_steps": 30,
                   "horizon": 40, "stages.2.steps": 110, "stages.2.min_steps": 60},
    },
    # Photos of real people, with the folder of `latentprint pretrain faces` as assets: evaluators begin as imitations
    # of the teacher, and the attack shows it fewer images, for it takes most of a step's time. The victim is one's own.
    "faces": {
        "evaluators": [{"model": "builtin:resnet", **_WARM}, {"model": "builtin:mixer", **_WARM}],
        "attack": {"augmentations": 1, "stages.2.batch": 8},
    },
    # The notes' step counts, for a GPU.
    "full": {
        "data": {"private": {"kind": "procedural", "people": 200, "photos": 60},
                 "public": [{"kind": "procedural", "people": 20_000, "photos": 2, "first_identity": 100_000}]},
        "victim": {"steps": 4000, "batch": 128},
        "evaluators": [{"model": "builtin:resnet", "steps": 4000, "batch": 128},
                       {"model": "builtin:mixer", "steps": 4000, "batch": 128}],
        "attack": {"horizon": 600, "ddim_steps": 4, "augmentations": 4, "sample_steps": 20, "images": 20,
                   "stages.0.steps": 500, "stages.0.min_steps": 200, "stages.1.steps": 1000,
                   "stages.1.min_steps": 500, "stages.2.steps": 2000, "stages.2.min_steps": 1000,
                   "stages.0.batch": 32, "stages.1.batch": 32, "stages.2.batch": 32, "look_every": 50,
                   "stages.2.lora_lr": 1e-5, "stages.2.embedding_lr": 1e-3, "stages.2.log_variance_lr": 1e-4},
        "save_every": 200,
    },
}  # fmt: skip
DEFEND_PRESETS: dict[str, dict[str, Any]] = {
    name: {**preset, "defence": {"kind": "label-smoothing"}} for name, preset in PRESETS.items()}
