"""A network as a graph of operations (torch.fx), and that graph cut in two where a single tensor crosses.

The network is traced once as it trains and once as it answers, for dropout and the like are other operations there;
each part switches between its two graphs with ``train`` and ``eval``. A layer that cannot be traced (control flow that
depends on values) becomes one opaque operation.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torchvision
from torch import Tensor, fx, nn
from torchvision.models.feature_extraction import DualGraphModule

from latentprint.errors import UserError, useful_line


@dataclass(frozen=True)
class Traced:
    """A network's operations in one mode.

    Attributes:
        graph: in the order in which they run.
        outputs: name of a layer, as ``named_modules`` spells it -> the operation that makes its output, in the last
            call where there are several.
    """

    graph: fx.Graph
    outputs: dict[str, fx.Node]

    def sides(self, cut: fx.Node) -> tuple[list[fx.Node], list[fx.Node]]:
        """Operations before a cut, its own among them, and after it. Constants may be on both sides."""
        needed = _needed(cut)
        work = [node for node in self.graph.nodes if node.op.startswith("call") or node.op == "get_attr"]
        before, after = [node for node in work if node in needed], [node for node in work if node not in needed]
        constants = {node for late in after for node in late.all_input_nodes if node.op == "get_attr"} & needed
        return before, [node for node in before if node in constants] + after

    def crossing(self, cut: fx.Node) -> list[fx.Node]:
        """What else than the output of ``cut`` would have to be sent, were everything that it needs on the edge."""
        needed = _needed(cut)
        others = [node for node in self.graph.nodes if node in needed and node is not cut and node.op != "get_attr"]
        return [node for node in others if any(user not in needed for user in node.users)]

    def halves(self, cut: fx.Node) -> tuple[fx.Graph, fx.Graph]:
        """The graphs of edge and cloud at a cut that only its own output crosses."""
        before, after = self.sides(cut)
        images = next(node for node in self.graph.nodes if node.op == "placeholder")
        result = next(node for node in self.graph.nodes if node.op == "output").args[0]
        return _graph(images, before, cut), _graph(cut, after, result, copied=True)


def trace(model: nn.Module) -> dict[bool, Traced]:
    """The network's operations as it answers (False) and as it trains (True).

    Raises:
        UserError: torch.fx cannot follow the network's own ``forward``.
    """
    with modes_kept(model):
        return {training: _trace(model.train(training)) for training in (False, True)}


def part(model: nn.Module, graphs: dict[bool, fx.Graph], name: str) -> nn.Module:
    """A module that runs ``graphs`` (see `trace`) with the model's own layers, in the model's mode."""
    training = model.training
    with modes_kept(model):
        module = _Part(model, graphs[True], graphs[False], name)
        return module.train(training)


class Shapes(fx.Interpreter):
    """Runs a graph and keeps the shape of each floating-point tensor that an operation makes."""

    def __init__(self, model: nn.Module, graph: fx.Graph) -> None:
        super().__init__(fx.GraphModule(model, graph))
        self.shapes: dict[str, tuple[int, ...]] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, Tensor) and value.is_floating_point():
            self.shapes[n.name] = tuple(value.shape)
        return value


@contextmanager
def modes_kept(model: nn.Module) -> Iterator[None]:
    """Whatever mode (``train``, ``eval``) its layers are put in, each is back in its own afterwards."""
    before = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in before:
            if isinstance(module, DualGraphModule):  # has a graph to switch, and takes its layers along
                module.train(training)
        for module, training in before:
            module.training = training


class _Part(DualGraphModule):
    """One part of a network; a copy is in the mode of the original, in which torchvision's would always train."""

    def __deepcopy__(self, memo: Any) -> nn.Module:
        copied, modes = super().__deepcopy__(memo), {name: module.training for name, module in self.named_modules()}
        copied.train(self.training)
        for name, module in copied.named_modules():
            module.training = modes[name]
        return copied


class _Tracer(fx.Tracer):
    """Follows layers into their ``forward``, but for ``opaque`` ones; notes what each returns and which one failed."""

    def __init__(self, opaque: set[str]) -> None:
        super().__init__(autowrap_modules=(math, torchvision.ops))
        self.opaque, self.outputs, self.failed = opaque, dict[str, fx.Node](), ""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name in self.opaque or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        name = self.path_of_module(m)
        try:
            result = super().call_module(m, forward, args, kwargs)
        except Exception:
            self.failed = self.failed or name  # the innermost comes first
            raise
        if isinstance(result, fx.Proxy):
            self.outputs[name] = result.node
        return result


def _trace(model: nn.Module) -> Traced:
    opaque: set[str] = set()
    while True:
        tracer = _Tracer(opaque)
        try:
            graph = tracer.trace(model, _options(model))
        except Exception as error:  # tracing runs the network's own code, which raises what it likes
            if tracer.failed:
                opaque.add(tracer.failed)
                continue
            raise UserError(_untraceable(model, error)) from None
        graph.eliminate_dead_code(_has_effect)
        kept = set(graph.nodes)
        return Traced(graph, {name: node for name, node in tracer.outputs.items() if node in kept})


def _options(model: nn.Module) -> dict[str, Any]:
    """What ``forward`` takes beside the images, at its default."""
    others = list(inspect.signature(model.forward).parameters.values())[1:]
    return {each.name: each.default for each in others if each.default is not inspect.Parameter.empty}


def _untraceable(model: nn.Module, error: Exception) -> str:
    chains = [name for name, child in model.named_children() if isinstance(child, nn.Sequential)]
    parts = f"; its parts {', '.join(chains)} are nn.Sequential and can be cut each by itself" if chains else ""
    return (f"{type(model).__name__} cannot be split, for torch.fx cannot follow its forward ({useful_line(error)}): "
            f"expected an nn.Sequential, or a forward without control flow that depends on tensors{parts}")


def _has_effect(node: fx.Node) -> bool:
    """Whether an operation matters although nobody uses its result. Assertions, for one, do not."""
    if node.op in ("placeholder", "output", "call_module"):
        return True
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return name.rstrip("_") + "_" == name or name == "setitem" or bool(node.kwargs.get("inplace"))


def _needed(node: fx.Node) -> set[fx.Node]:
    """The operation and all that its result depends on."""
    found, todo = {node}, [node]
    while todo:
        new = set(todo.pop().all_input_nodes) - found
        found |= new
        todo += new
    return found


def _graph(start: fx.Node, nodes: list[fx.Node], result: Any, copied: bool = False) -> fx.Graph:
    """``nodes`` as a graph of one input, which stands for the result of ``start``.

    Args:
        copied: work on a copy of the input. A layer that works in place would change what was sent under the hands of
            whoever still holds it.
    """
    graph = fx.Graph()
    value = graph.placeholder("x")
    made = {start: graph.call_method("clone", (value,)) if copied else value}
    for node in nodes:
        made[node] = graph.node_copy(node, lambda old: made[old])
    graph.output(fx.node.map_arg(result, lambda old: made[old]))
    return graph
