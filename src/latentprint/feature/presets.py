"""Settings of the feature channel, and its presets."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from latentprint.config import Config
from latentprint.data.sources import DataSource, ProceduralSource
from latentprint.engine.settings import RunConfig
from latentprint.feature.attacks.settings import AttackName, AttackSettings
from latentprint.feature.protection import DefenceConfig
from latentprint.feature.protocol import Protocol
from latentprint.models.framing import FramingSetting
from latentprint.registry import PluginName


class FeatureData(Config):
    """Images of the task: those that the victim learns from, and others of the same classes."""

    train: DataSource = Field(ProceduralSource(people=50, photos=40), description="images that the victim learns from")
    test: DataSource = Field(ProceduralSource(people=50, photos=8, image_seed=1000),
                             description="others of the same classes: accuracy, and the images under attack")


class SplitConfig(Config):
    """The network and where it is cut."""

    model: str = Field("builtin:vgg11", description="builtin:vgg11|resnet20, timm:NAME, torchvision:NAME, FILE.py:NAME "
                                                    "or PACKAGE.MODULE:NAME")
    cut: str | None = Field(None, description="name of the last layer on the device; null: where the paper cuts")
    bottleneck: int | None = Field(8, ge=1, description="channels that are sent; null: as many as the layer has")
    bounded: Literal["sigmoid", "tanh", "none"] = Field("sigmoid", description=(
        "function that bounds what is sent; without one, features grow until any noise is small"))
    weights: Path | None = Field(None, description="a state dict of edge and cloud; null: train them here")
    trained: bool = Field(False, description="the network comes trained, and is trained further, from its own weights, "
                                             "only where a bottleneck or a defence is added")
    mean: list[float] = Field([0.5, 0.5, 0.5], min_length=1, max_length=3,
                      description="subtracted, by colour; one number: for all colours")
    std: list[float] = Field([0.5, 0.5, 0.5], min_length=1, max_length=3,
                     description="divided by, by colour; one number: for all colours")


class TrainingConfig(Config):
    """Training of the victim: the published recipe with its milestones as shares."""

    start: Path | None = Field(None, description="networks/victim.safetensors of an undefended run to begin from, in "
                                                 "place of random weights; surrogates are then fitted before the "
                                                 "first step")
    epochs: int = Field(30, ge=1, description="passes over the training images")
    batch: int = Field(128, ge=2, description="images a step")
    lr: float = Field(0.05, gt=0, description="learning rate of SGD")
    momentum: float = Field(0.9, ge=0, lt=1, description="of SGD")
    weight_decay: float = Field(5e-4, ge=0, description="of SGD")
    milestones: list[float] = Field([0.25, 0.5, 0.75, 0.875], description="shares of the training at which the rate "
                                                                          "drops")
    gamma: float = Field(0.2, gt=0, le=1, description="factor of each drop")
    warm_up: float = Field(0.02, ge=0, lt=1, description="share of the training in which the rate rises")
    clip_norm: float = Field(5.0, gt=0, description="gradients are clipped to this L2 norm")
    augment: Literal["none", "turn-mirror", "shift-turn-mirror"] = Field("shift-turn-mirror", description=(
        "what is done to training images"))


class FeatureConfig(RunConfig):
    """Settings of ``latentprint audit feature`` and ``latentprint defend feature``."""

    data: FeatureData = Field(FeatureData(), description="images")
    split: SplitConfig = Field(SplitConfig(), description="the network under audit and its cut")
    training: TrainingConfig = Field(TrainingConfig(), description="how it is trained")
    defences: list[DefenceConfig] = Field([], description="defences, in the order in which they touch a message")
    protocol: Protocol = Field("train_time", description=(
        "which images the adversary holds: train_time: those that the victim learned from; infer_time: nine tenths of "
        "data.test; class_disjoint: images of other classes than those attacked"))
    attacked: int | None = Field(1000, ge=2, description="images of data.test under attack, as many of each class; "
                                                         "null: all that the protocol leaves")
    repeats: int = Field(1, ge=1, description="messages of each attacked image that the adversary intercepts")
    attacks: list[AttackName | PluginName] = Field(["decoder"], min_length=1, description=(
        "decoder, perceptual, gan, optimise, prior, or plugin:NAME of a FeatureAttack"))
    attack_settings: AttackSettings = Field(AttackSettings(), description="settings of the attacks")
    people: bool = Field(True, description="images show people, one a class: intervals over people, and "
                                           "re-identification")
    judge: str = Field("judge", description="asset that re-identifies people")
    judge_framing: FramingSetting = None
    teacher: str = Field("teacher", description="asset of the recogniser that the prior was trained with; attack "
                                                "'prior'")
    teacher_framing: FramingSetting = None
    lpips: Path | None = Field(None, description="torchvision's AlexNet file for LPIPS; null: a perceptual distance in "
                                                 "the packaged attribute network")
    variants: dict[str, dict[str, Any]] = Field({}, description=(
        "further victims to compare with, by name: settings of each in place of those here, as in {dropout: {defences: "
        "[{kind: dropout}]}, shallow: {split.cut: pool1}}"))
    accuracy_cost: float = Field(0.01, ge=0, le=1, description="share of accuracy, against the first victim, that a "
                                                               "recommended one may cost")
    resamples: int = Field(2000, ge=1000, description="bootstrap resamples over people or images")
    save_every: int = Field(100, ge=1, description="steps between checkpoints")


PRESETS: dict[str, dict[str, Any]] = {
    # For tests: runs every line, means nothing.
    "tiny": {
        "precision": "fp32",
        "data": {"train": {"kind": "procedural", "people": 4, "photos": 8, "size": 32},
                 "test": {"kind": "procedural", "people": 4, "photos": 4, "image_seed": 1000, "size": 32}},
        "training": {"epochs": 2, "batch": 16},
        "attack_settings": {"decoder": {"steps": 4, "batch": 8, "blocks": 1, "width": 8},
                            "gan": {"steps": 2, "batch": 8, "critic_steps": 1}, "optimise": {"steps": 3, "starts": 1},
                            "prior": {"encoder_steps": 3, "batch": 8, "ddim_steps": 2}},
        "resamples": 1000,
    },
    # Procedural faces at 64 px on two CPU cores.
    "small": {
        "training": {"epochs": 20},
        "attack_settings": {"decoder": {"steps": 600, "batch": 64, "blocks": 4}},
    },
    # More people, longer training and every learned attack, for a GPU.
    "full": {
        "data": {"train": {"kind": "procedural", "people": 500, "photos": 40},
                 "test": {"kind": "procedural", "people": 500, "photos": 8, "image_seed": 1000}},
        "attacks": ["decoder", "perceptual", "gan"],
    },
    # The paper's network and shapes. data.train and data.test name the pack.
    "cifar10": {
        "data": {"train": {"kind": "npz", "path": "cifar10.npz", "size": 32, "where": {"split": 0}},
                 "test": {"kind": "npz", "path": "cifar10.npz", "size": 32, "where": {"split": 1}}},
        "split": {"mean": [0.4914, 0.4822, 0.4465], "std": [0.247, 0.243, 0.261]},
        "people": False,
    },
}

#: Those of ``defend feature``: noise and conditional-entropy maximisation where no defence is named.
DEFEND_PRESETS: Mapping[str, Mapping[str, Any]] = {
    name: {**preset, "defences": [{"kind": "noise"}, {"kind": "cem"}]} for name, preset in PRESETS.items()}
