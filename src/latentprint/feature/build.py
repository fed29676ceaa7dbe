"""From settings to images and a split victim: all that can fail for the user's sake, before anything is trained."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from latentprint.checks import enforce, flat_images
from latentprint.data.base import ImageSet
from latentprint.data.sources import load
from latentprint.engine.loop import say
from latentprint.engine.seeds import derive
from latentprint.errors import UserError, useful_line
from latentprint.feature.defenses.registry import make_defences
from latentprint.feature.graph import modes_kept
from latentprint.feature.presets import FeatureConfig, FeatureData, SplitConfig
from latentprint.feature.split import Split, split, with_bottleneck
from latentprint.feature.victim import SplitVictim
from latentprint.models.checkpoints import fill, load_state, load_weights
from latentprint.models.loading import load_network
from latentprint.models.preprocess import Preprocess
from latentprint.models.split_networks import DEFAULT_CUT, resnet20, vgg11


@dataclass(frozen=True)
class Images:
    """Images that the victim learns from, and others of the same classes."""

    train: ImageSet
    test: ImageSet


def load_images(config: FeatureData) -> tuple[Images, list[str]]:
    """Both sets, and what there is to say of each, in sentences.

    Raises:
        UserError: a set cannot be read, is empty, or the two differ in classes or size.
    """
    train, test = load(config.train), load(config.test)
    for part in (train, test):
        if not len(part):
            raise UserError(f"{part.source}: no images")
    if train.names != test.names:
        raise UserError(f"data.train has {train.n_classes} classes and data.test {test.n_classes}, or others; both "
                        "must have the same classes in the same order")
    if train.images.shape[1:] != test.images.shape[1:]:
        raise UserError(f"data.train has images of {train.size} pixels, data.test of {test.size}; expected one size")
    found = enforce(flat_images(part, every_class=False) for part in (train, test))
    return Images(train, test), [*dict.fromkeys(train.notes + test.notes), *found]


def make_victim(config: FeatureConfig, data: ImageSet) -> tuple[SplitVictim, Split]:
    """The network as cut, with its defences, untrained or with the weights that were given.

    Raises:
        UserError: no such network, cut or weights; defences that do not go together.
    """
    torch.manual_seed(derive(config.seed, "victim"))
    example = torch.zeros(2, 3, data.size, data.size)
    parts = cut_network(config.split, data, example)
    if config.training.start is not None:
        fill(nn.ModuleDict({"edge": parts.edge, "cloud": parts.cloud}), load_state(config.training.start),
             f"training.start: {config.training.start} does not fit this network without defences")
    preprocess = Preprocess(mean=config.split.mean, std=config.split.std)
    defences = make_defences(config.defences, data.n_classes, config.training.epochs)
    edge = parts.edge
    for defence in defences:
        edge = defence.edge(edge, example)
    parts = Split(edge, parts.cloud, parts.cut, parts.feature_shape)
    victim = SplitVictim(edge, parts.cloud, data.n_classes, preprocess=preprocess, defences=defences,
                         name=f"{config.split.model} cut after {parts.cut}")
    if config.split.weights is not None:
        for note in load_weights(victim.networks, config.split.weights,
                                 f"split.weights: {config.split.weights} does not fit this network and its defences"):
            say(f"split.weights: {note}")
    return victim, parts


def is_trained_here(config: FeatureConfig) -> bool:
    """Whether the victim's weights are still to be learned."""
    split = config.split
    complete = split.trained and split.bottleneck is None and not config.defences
    return split.weights is None and not complete


def cut_network(config: SplitConfig, data: ImageSet, example: torch.Tensor) -> Split:
    """The bare network in two parts, with the bottleneck between them.

    Raises:
        UserError: no such network or cut.
    """
    kind, _, name = config.model.partition(":")
    if kind != "builtin":
        made = split(foreign(config, data.n_classes, example), _cut(config), example)
        return made if config.bottleneck is None else with_bottleneck(made, config.bottleneck, config.bounded, example)
    at_default = config.cut in (None, DEFAULT_CUT)
    network = builtin(name, data, config.bottleneck if at_default else None, config)
    made = split(network, config.cut or DEFAULT_CUT, example)
    if at_default or config.bottleneck is None:
        return made
    return with_bottleneck(made, config.bottleneck, config.bounded, example)


def foreign(config: SplitConfig, n_classes: int, example: torch.Tensor) -> nn.Module:
    """A network that is not built in, run once on the images it will see.

    Raises:
        UserError: it cannot be loaded, cannot take images of this size, or answers with anything but one tensor.
    """
    loaded = load_network(config.model, n_classes)
    size = "x".join(map(str, example.shape[2:]))
    with modes_kept(loaded.network), torch.no_grad():
        try:
            answer = loaded.network.eval()(example.clone())
        except UserError:
            raise
        except Exception as error:  # whatever the user's own code raises
            raise UserError(f"split.model: {config.model} cannot take two {size} images: {useful_line(error)}; "
                            "data.train.size and data.test.size set their size") from error
    if not isinstance(answer, torch.Tensor):
        kind = type(answer).__name__
        raise UserError(f"split.model: {config.model} answers with a {kind}, and a network that is cut must answer "
                        "with one tensor: let its forward return the logits alone")
    for note in loaded.notes:
        say(f"split.model: {note}")
    return loaded.network


def builtin(name: str, data: ImageSet, bottleneck: int | None, config: SplitConfig) -> nn.Module:
    """``vgg11`` or ``resnet20``.

    Raises:
        UserError: neither.
    """
    match name:
        case "vgg11":
            return vgg11(data.n_classes, image_size=data.size, bottleneck=bottleneck, bounded=config.bounded)
        case "resnet20":
            return resnet20(data.n_classes, bottleneck=bottleneck, bounded=config.bounded)
    raise UserError(f"split.model: no network '{config.model}'; expected builtin:vgg11 or builtin:resnet20")


def _cut(config: SplitConfig) -> str:
    if config.cut is None:
        raise UserError(f"split.cut: name the last layer on the device of {config.model}; null is for built-in ones")
    return config.cut
