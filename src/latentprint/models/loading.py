"""A classifier from the words a user writes: a name, a file, or a function of their own.

==============================  =====================================================================
``builtin:vgg|resnet|mixer``    `latentprint.models.classifiers`
``timm:NAME``                   timm's architecture, untrained: give weights
``torchvision:NAME``            torchvision's classifier, untrained: give weights
``FILE.pt2``                    a program saved by ``torch.export.save``
``FILE.pt`` (.pth, .ts)         a program saved by ``torch.jit.save``
``FILE.py:NAME``                a network, or a callable ``(n_classes) -> nn.Module``, in a Python file
``PACKAGE.MODULE:NAME``         the same in an importable module
``plugin:NAME``                 the same, registered by an installed package (`latentprint.registry`)
``memory:NAME``                 a network or function that the calling process holds (`latentprint.audit`)
``FILE.onnx``                   an ONNX network (extra ``onnx``): answers, no gradients
``http://``, ``https://``       a service (`latentprint.models.outside`): answers, no gradients
==============================  =====================================================================

Files that are programs run when loaded, so they are loaded only because the user named them.
*Weights* come from anywhere, and so never run: safetensors, or ``torch.load(weights_only=True)``; what needs
a full pickle, in a weights file or inside a ``.pt2``, is refused.
"""

from __future__ import annotations

import copy
import inspect
import io
import json
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from latentprint.errors import UserError, useful_line
from latentprint.memory import PREFIX, recall
from latentprint.models import classifiers
from latentprint.models.checkpoints import REFUSED, load_states, load_weights, stand_in, weights_only
from latentprint.models.outside import FunctionNetwork, HttpNetwork, OnnxNetwork, OutsideNetwork
from latentprint.registry import find_callable, raised, settings_kept

WEIGHTS_ALONE = ("holds weights, not a network: name it as 'weights', and its architecture as 'model' (FILE.py:NAME, "
                 "timm:NAME, ...)")


class ExportedModule(nn.Module):
    """An exported program as an ordinary module, its mode (``train``, ``eval``) fixed at export."""

    def __init__(self, program: nn.Module) -> None:
        super().__init__()
        self.program = program

    def forward(self, x: Tensor) -> Tensor:
        return self.program(x)

    def train(self, mode: bool = True) -> ExportedModule:
        return self


class Loaded(NamedTuple):
    """A network, and what was assumed in loading it, a line each."""

    network: nn.Module
    notes: tuple[str, ...]


def load_module(spec: str, n_classes: int, weights: Path | None = None,
                service: Mapping[str, Any] | None = None) -> nn.Module:
    """The network alone; see `load_network`."""
    return load_network(spec, n_classes, weights, service).network


def load_network(spec: str, n_outputs: int, weights: Path | None = None,
                 service: Mapping[str, Any] | None = None) -> Loaded:
    """The network named by ``spec`` (see the module's table) with ``n_outputs`` outputs, on the CPU, in float32.

    Args:
        weights: a file with a state dict to load into it; see `latentprint.models.checkpoints`.
        service: how to ask a service, see `HttpNetwork`.

    Raises:
        UserError: the spec, its file or its weights cannot be used, and why.
    """
    module, notes = _from_spec(spec, n_outputs, service)
    _must_hold_values(module, spec)
    notes += _in_float32(module)
    if weights is not None:
        if isinstance(module, OutsideNetwork):
            raise UserError(f"weights: {spec} holds its own weights already; leave out {weights}")
        notes += load_weights(module, weights, f"{weights} does not fit {spec}")
    if isinstance(module, torch.jit.ScriptModule) and getattr(module, "training", False):
        notes.append(f"{Path(spec).name} was saved in training mode; it is switched to evaluation mode, "
                     "which changes nothing in a traced program")
    return Loaded(module, tuple(notes))


def _must_hold_values(module: nn.Module, spec: str) -> None:
    """Raises UserError for weights of no size yet (lazy layers) or of no value (PyTorch's meta device)."""
    for name, value in module.state_dict().items():
        if isinstance(value, UninitializedBuffer | UninitializedParameter):
            raise UserError(f"{spec}: the weights '{name}' belong to a lazy layer and have no size yet: give the layer "
                            "its sizes, or run the network on an image once before it is returned")
        if isinstance(value, Tensor) and value.is_meta:
            raise UserError(f"{spec}: the weights '{name}' are on PyTorch's meta device and hold no values: make the "
                            "network on the CPU")


def _in_float32(module: nn.Module) -> list[str]:
    """Weights of another precision become float32, in which every operation exists on a CPU."""
    if isinstance(module, OutsideNetwork | ExportedModule):
        return []  # a program's types are part of it
    kinds = {value.dtype for value in module.state_dict().values()
             if isinstance(value, Tensor) and value.is_floating_point()} - {torch.float32}
    if not kinds:
        return []
    module.float()
    return [f"the network is {' and '.join(sorted(str(kind).removeprefix('torch.') for kind in kinds))}; it is run in "
            "float32"]


# ---- the forms of a spec ----


def _from_spec(spec: str, n_classes: int, service: Mapping[str, Any] | None) -> tuple[nn.Module, list[str]]:
    kind, _, name = spec.partition(":")
    if kind in _LIBRARIES and name:
        return _LIBRARIES[kind](name, n_classes), []
    if kind in ("http", "https"):
        return HttpNetwork(spec, **(service or {})), []
    if spec.startswith(PREFIX):
        return _remembered(recall(spec.removeprefix(PREFIX))), []
    path = Path(spec)
    if path.suffix == ".onnx":
        return OnnxNetwork(path), []
    if path.suffix == ".pt2":
        return _exported(path), []
    if path.suffix in {".pt", ".pth", ".ts", ".torchscript"}:
        return _torchscript(path), []
    source, _, name = spec.rpartition(":")
    if source and name:
        return _called(source, name, n_classes)
    if path.suffix in {".safetensors", ".ckpt", ".bin", ".pkl", ".tar"} and path.is_file():
        raise UserError(f"model: {spec} {WEIGHTS_ALONE}")
    raise UserError(f"victim '{spec}' is none of builtin:NAME, timm:NAME, torchvision:NAME, FILE.py:NAME, "
                    "PACKAGE.MODULE:NAME, a .pt2, .onnx or TorchScript file (.pt, .pth, .ts), or a service at http://")


def _remembered(found: Any) -> nn.Module:
    """A copy of a network, for the one that the process holds to stay as it is; a function as a network."""
    if isinstance(found, type):
        raise UserError(f"model: {found.__name__} is a class; give a network, as in {found.__name__}()")
    if not isinstance(found, nn.Module):
        return FunctionNetwork(found)
    try:
        return copy.deepcopy(found).cpu()
    except Exception as error:  # whatever the parts of a network raise
        raise UserError(f"model: {type(found).__name__} cannot be copied, and the one given is not touched: "
                        f"{useful_line(error)}") from error


def _builtin(name: str, n_classes: int) -> nn.Module:
    return classifiers.build(name, n_classes)


def _timm(name: str, n_classes: int) -> nn.Module:
    import timm

    if not timm.is_model(name):
        raise UserError(f"timm has no model '{name}': see timm.list_models()")
    return timm.create_model(name, pretrained=False, num_classes=n_classes)


def _torchvision(name: str, n_classes: int) -> nn.Module:
    from torchvision import models

    if name not in models.list_models(models):
        raise UserError(f"torchvision has no classifier '{name}': see torchvision.models.list_models()")
    return models.get_model(name, weights=None, num_classes=n_classes)


_LIBRARIES: dict[str, Callable[[str, int], nn.Module]] = {
    "builtin": _builtin, "timm": _timm, "torchvision": _torchvision,
}


def _exported(path: Path) -> nn.Module:
    _must_exist(path)
    try:
        _refuse_pickles(path)
        return ExportedModule(torch.export.load(path).module())
    except UserError:
        raise
    except Exception as error:  # the archive's reader raises whatever it trips over
        raise UserError(f"{path} is not a program saved by torch.export.save: {useful_line(error)}") from None


def _torchscript(path: Path) -> nn.Module:
    _must_exist(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # that torch.jit is deprecated: files of it are around
            return torch.jit.load(path, map_location="cpu")
    except (RuntimeError, ValueError) as error:
        raise UserError(f"model: {path} {_other_than_torchscript(path, error)}") from None


def _other_than_torchscript(path: Path, error: Exception) -> str:
    """What a file that ``torch.jit.load`` cannot read is, and what to do."""
    try:
        load_states(path)
    except UserError as found:
        if REFUSED in str(found):
            return str(found).removeprefix(f"{path} ") + ", and name its architecture as 'model'"
        return f"is not a TorchScript program: {useful_line(error)}"
    return WEIGHTS_ALONE


def _called(source: str, name: str, n_classes: int) -> tuple[nn.Module, list[str]]:
    """What ``name`` in a Python file or an importable module is, or makes: a network with ``n_classes`` outputs."""
    factory, spec = find_callable(f"{source}:{name}"), f"{source}:{name}"
    if isinstance(factory, nn.Module):
        return factory, [f"{name} is a network, not a function that makes one, and is used as it is"]
    args, options, notes = _arguments(factory, name, n_classes)
    call = ", ".join([*map(str, args), *(f"{key}={value}" for key, value in options.items())])
    try:
        with settings_kept():
            made = factory(*args, **options)
    except (Exception, SystemExit) as error:
        raise UserError(f"{spec}({call}) failed: {raised(error)}") from error
    if isinstance(made, tuple) and len(networks := [each for each in made if isinstance(each, nn.Module)]) == 1:
        made, notes = networks[0], [*notes, f"{name} returns several things, of which one is a network: that was taken"]
    if not isinstance(made, nn.Module):
        kind = type(made).__name__
        raise UserError(f"{spec}({call}) returned {kind}, expected a torch module")
    return made, notes


def _arguments(factory: Callable[..., Any], name: str, n: int) -> tuple[list[int], dict[str, int], list[str]]:
    """How a factory takes the number of outputs: by position, by a name that says so, or not at all."""
    try:
        parameters = list(inspect.signature(factory).parameters.values())
    except (TypeError, ValueError):  # some callables in C show none
        return [n], {}, []
    named = [each.name for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)]
    if classes := [each for each in named if each.lower() in _CLASSES]:
        return [], {classes[0]: n}, []
    positional = [each for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    if any(each.kind is each.VAR_POSITIONAL for each in parameters) and not positional:
        return [n], {}, []
    if positional and (positional[0].default is inspect.Parameter.empty or _is_count(positional[0].default)):
        return [n], {}, []
    if lengths := [each for each in named if each.lower() in _LENGTHS]:
        return [], {lengths[0]: n}, []
    return [], {}, [f"{name} takes no number of outputs and was called without one"]


#: Names, in lower case, of a parameter that takes the number of classes, and of one that takes an embedding's length.
_CLASSES = frozenset(before + what for before in ("n_", "num_", "n", "num", "")
                     for what in ("classes", "class", "labels", "outputs", "ids", "identities"))
_LENGTHS = frozenset({"out_features", "output_dim", "out_dim", "dim", "embedding_size", "embedding_dim", "emb_dim",
                      "embed_dim"})


def _is_count(default: object) -> bool:
    return default is None or (isinstance(default, int) and not isinstance(default, bool))


# ---- files ----


def _refuse_pickles(path: Path) -> None:
    """Raises for an archive with full pickles inside, which ``torch.export.load`` would run."""
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.endswith(".pt"):
                weights_only(io.BytesIO(archive.read(name)), f"{path} ({name})")
            elif name.endswith("_config.json"):
                entries = json.loads(archive.read(name))["config"].values()
                if any(entry["use_pickle"] or "opaque_obj" in entry["path_name"] for entry in entries):
                    raise UserError(f"{path} ({name}) {REFUSED}: export it without objects of its own")
        if not any(name.endswith("archive_format") for name in archive.namelist()):
            raise UserError(f"{path} is in an old format: export it again with torch 2.9 or newer")


def _must_exist(path: Path) -> None:
    if not path.is_file():
        raise UserError(f"no file {path}")
    if path.suffix != ".py" and (other := stand_in(path)):
        raise UserError(f"{path} {other}")
