"""Splitting a network in two at a layer: the edge network ends with that layer's output, the cloud network goes on.

Both parts hold the network's own layers, not copies, so that training either trains the network.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx, nn

from latentprint.errors import UserError
from latentprint.feature.graph import Shapes, Traced, modes_kept, part, trace
from latentprint.keys import did_you_mean
from latentprint.models.split_networks import Bottleneck, Bounded


@dataclass(frozen=True)
class Split:
    """A network in two parts; ``cloud(edge(x))`` is what the network answers.

    Attributes:
        edge: preprocessed images ``(B, 3, H, W)`` to features ``(B, *F)``.
        cloud: features to logits ``(B, C)``. It works on a copy of the features and leaves them as they were.
        cut: the layer whose output the features are.
        feature_shape: F.
    """

    edge: nn.Module
    cloud: nn.Module
    cut: str
    feature_shape: tuple[int, ...]


@dataclass(frozen=True)
class CutPoint:
    """A layer at which a network can be split, and the shape of its output without the batch."""

    name: str
    feature_shape: tuple[int, ...]


def split(model: nn.Module, cut: str | int, example: Tensor) -> Split:
    """Cut a network after a layer.

    Args:
        model: preprocessed images ``(B, 3, H, W)`` to logits ``(B, C)``. It stays usable and shares its layers with the
            parts, which start in its mode (train or eval).
        cut: name of the layer as ``named_modules`` spells it; of a layer that is run more than once, the last run
            counts. A number counts `cut_points` from 0.
        example: ``(B, 3, H, W)`` images to run it on, B at least 1.

    Raises:
        UserError: no such layer, more than one tensor would cross the cut, a layer would work on both sides, or the
            network cannot be traced.
    """
    plan = _Plan(model, example)
    name = plan.pick(cut)
    halves = {mode: traced.halves(traced.outputs[name]) for mode, traced in plan.traced.items()}
    edge = part(model, {mode: both[0] for mode, both in halves.items()}, "Edge")
    cloud = part(model, {mode: both[1] for mode, both in halves.items()}, "Cloud")
    made = Split(edge, cloud, name, plan.shape(name))
    _same_answer(model, made, example)
    return made


def cut_points(model: nn.Module, example: Tensor) -> list[CutPoint]:
    """Every layer at which the network can be split, from the images on.

    Layers with one output between them (a block and its last layer) are one cut, named after the outermost; layers
    that pass their input on unchanged (``nn.Identity``) are left out. Arguments and errors as for `split`.
    """
    plan = _Plan(model, example)
    return [CutPoint(name, plan.shape(name)) for name in plan.names()]


def with_bottleneck(split: Split, channels: int, bounded: Bounded, example: Tensor) -> Split:
    """The same split with fewer channels crossing: see `latentprint.models.split_networks.Bottleneck`.

    Args:
        split: with features ``(C, H, W)``, channels first, or ``(..., C)``.
        channels: that cross the cut, at least 1.
        bounded: what holds the features within bounds.
        example: ``(B, 3, H, W)`` images to run it on.

    Raises:
        UserError: channels below 1, or an unknown bound.
    """
    is_map = len(split.feature_shape) == 3
    pair = Bottleneck(split.feature_shape[0 if is_map else -1], channels, bounded, is_map=is_map).to(example)
    pair.train(split.edge.training)
    edge = nn.Sequential(OrderedDict(network=split.edge, encode=pair.encode))
    cloud = nn.Sequential(OrderedDict(decode=pair.decode, network=split.cloud))
    edge.training, cloud.training = split.edge.training, split.cloud.training
    return replace(split, edge=edge, cloud=cloud, feature_shape=tuple(_answer(edge, example).shape[1:]))


class _Plan:
    """What can be cut where: the network traced in both modes, and the shapes of its tensors on an example."""

    def __init__(self, model: nn.Module, example: Tensor) -> None:
        example = example if len(example) > 1 else example.repeat(2, 1, 1, 1)  # 1 may be the length of anything
        self.model, self.traced, self.batch = model, trace(model), len(example)
        runner = Shapes(model, self.answers.graph)
        with modes_kept(model), torch.no_grad():
            model.eval()
            runner.run(example)
        self.shapes = runner.shapes

    @property
    def answers(self) -> Traced:
        """As the network answers, not as it trains: its order is the one shown."""
        return self.traced[False]

    def names(self) -> list[str]:
        """Clean cuts in order, the outermost layer of those with the same output."""
        layers = dict(self.model.named_modules())
        named: dict[fx.Node, str] = {}
        for name, node in sorted(self.answers.outputs.items(), key=lambda item: item[0].count(".")):
            if not isinstance(layers[name], nn.Identity):
                named.setdefault(self._source(node), name)
        return [named[node] for node in self.answers.graph.nodes if node in named and not self.fault(named[node])]

    def _source(self, node: fx.Node) -> fx.Node:
        """The operation whose result this one passes on."""
        while node.op == "call_module" and isinstance(self.model.get_submodule(str(node.target)), nn.Identity):
            node = node.all_input_nodes[0]
        return node

    def pick(self, cut: str | int) -> str:
        """The layer that the user means.

        Raises:
            UserError: there is none, or it is no clean cut; with the nearest that are.
        """
        layers, kind = [name for name, _ in self.model.named_modules() if name], type(self.model).__name__
        if isinstance(cut, int):
            clean = self.names()
            if not 0 <= cut < len(clean):
                raise UserError(f"cut: {kind} has {len(clean)} places to cut, numbered from 0; got {cut}")
            return clean[cut]
        if cut not in layers:
            raise UserError(f"cut: {kind} has no layer '{cut}': {did_you_mean(cut, layers)}")
        if fault := self.fault(cut):
            raise UserError(f"cut: {fault}; {self._near(cut)}")
        return cut

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a layer's output without the batch."""
        return self.shapes[self.answers.outputs[name].name][1:]

    def fault(self, name: str) -> str | None:
        """Why the network cannot be cut after the layer, in words; None when it can."""
        if any(name not in traced.outputs for traced in self.traced.values()):
            return f"'{name}' is not run, or is inside a layer that torch.fx cannot follow"
        shape = self.shapes.get(self.answers.outputs[name].name, ())
        if len(shape) < 2 or shape[0] != self.batch:
            return f"'{name}' does not give one tensor of numbers with the images in its first dimension"
        return next(filter(None, (self._fault(traced, name) for traced in self.traced.values())), None)

    def _fault(self, traced: Traced, name: str) -> str | None:
        cut = traced.outputs[name]
        before, after = traced.sides(cut)
        if cut not in before or not any(node.op.startswith("call") for node in after):
            return f"'{name}' leaves nothing for the edge or nothing for the cloud to compute"
        if others := traced.crossing(cut):
            words = " and ".join(_called(traced, node) for node in others[:3])
            return f"after '{name}' the cloud would need {words} too"
        mine, theirs = _parameters(self.model, before), _parameters(self.model, after)
        shared = [word for key, word in mine.items() if key in theirs]
        return f"'{shared[0]}' would work on both sides of '{name}'" if shared else None

    def _near(self, name: str) -> str:
        """The clean cuts before and after a layer, in words."""
        clean, order = self.names(), {node: i for i, node in enumerate(self.answers.graph.nodes)}
        if not clean:
            return "no single tensor leaves any of its layers"
        if name not in self.answers.outputs:
            return f"it can be cut after '{clean[0]}' and up to '{clean[-1]}'"
        here = order[self.answers.outputs[name]]
        before = [other for other in clean if order[self.answers.outputs[other]] < here][-1:]
        after = [other for other in clean if order[self.answers.outputs[other]] > here][:1]
        return "clean cuts nearby are after " + " and ".join(f"'{other}'" for other in before + after)


def _called(traced: Traced, node: fx.Node) -> str:
    if node.op == "placeholder":
        return "the images"
    if names := [name for name, made in traced.outputs.items() if made is node]:
        return f"the output of '{min(names, key=len)}'"
    return f"an earlier output of '{node.target}'" if node.op == "call_module" else f"the result of '{node.name}'"


def _parameters(model: nn.Module, nodes: list[fx.Node]) -> dict[int, str]:
    """Identities of the parameters that operations use, and the layer that holds each."""
    found: dict[int, str] = {}
    for node in nodes:
        owner, _, leaf = str(node.target).rpartition(".")
        if node.op == "call_module":
            layer = model.get_submodule(str(node.target))
            found |= {id(parameter): str(node.target) for parameter in layer.parameters()}
        elif node.op == "get_attr" and isinstance(value := getattr(model.get_submodule(owner), leaf), nn.Parameter):
            found[id(value)] = str(node.target)
    return found


def _answer(module: nn.Module, example: Tensor) -> Tensor:
    with modes_kept(module), torch.no_grad():
        return module.eval()(example)


def _same_answer(model: nn.Module, made: Split, example: Tensor) -> None:
    """Raises UserError when the parts do not answer as the network does: its code did what no graph shows."""
    whole, parts = _answer(model, example), _answer(made.cloud, _answer(made.edge, example))
    if not isinstance(whole, Tensor) or not torch.allclose(whole, parts, 1e-4, 1e-5, equal_nan=True):
        raise UserError(f"cut: {type(model).__name__} split after '{made.cut}' does not answer as it did before; it "
                        "must be a function of the images to one tensor of logits, without side effects")
