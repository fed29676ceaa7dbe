"""A classifier from the words a user writes: a name, a file, or a function of their own.

==============================  =====================================================================
``builtin:vgg|resnet|mixer``    `latentprint.models.classifiers`
``timm:NAME``                   timm's architecture, untrained: give weights
``torchvision:NAME``            torchvision's classifier, untrained: give weights
``FILE.pt2``                    a program saved by ``torch.export.save``
``FILE.pt`` (.pth, .ts)         a program saved by ``torch.jit.save``
``FILE.py:NAME``                a callable ``(n_classes) -> nn.Module`` in a Python file
``PACKAGE.MODULE:NAME``         the same in an importable module
``FILE.onnx``                   an ONNX network (extra ``onnx``): answers, no gradients
``http://``, ``https://``       a service (`latentprint.models.outside`): answers, no gradients
==============================  =====================================================================

Files that are programs run when loaded, so they are loaded only because the user named them.
*Weights* come from anywhere, and so never run: safetensors, or ``torch.load(weights_only=True)``; what needs
a full pickle, in a weights file or inside a ``.pt2``, is refused.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import json
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from latentprint.errors import UserError
from latentprint.models import classifiers
from latentprint.models.outside import HttpNetwork, OnnxNetwork

M = TypeVar("M")

REFUSED = ("needs a full pickle, which can run any code when it is loaded: save the weights alone, "
           "as safetensors or by torch.save(module.state_dict(), ...)")


class ExportedModule(nn.Module):
    """An exported program as an ordinary module, its mode (``train``, ``eval``) fixed at export."""

    def __init__(self, program: nn.Module) -> None:
        super().__init__()
        self.program = program

    def forward(self, x: Tensor) -> Tensor:
        return self.program(x)

    def train(self, mode: bool = True) -> ExportedModule:
        return self


def load_module(spec: str, n_classes: int, weights: Path | None = None,
                service: Mapping[str, Any] | None = None) -> nn.Module:
    """The network named by ``spec`` (see the module's table) with ``n_classes`` outputs, on the CPU.

    Args:
        weights: a state dict to load into it, every name matching.
        service: how to ask a service, see `HttpNetwork`.

    Raises:
        UserError: the spec, its file or its weights cannot be used, and why.
    """
    module = _from_spec(spec, n_classes, service)
    if weights is not None:
        fill(module, load_state(weights), f"{weights} does not fit the victim")
    return module


def load_state(path: Path, trusted: bool = False) -> dict[str, Tensor]:
    """The tensors of a weights file by name, from safetensors or a state dict saved by torch.

    A state dict under the key ``state_dict`` or ``model`` is found there.

    Args:
        trusted: let a file that needs a full pickle run the code in it; for a file whose maker one trusts.

    Raises:
        UserError: no such file, not a weights file, or one that needs a full pickle.
    """
    _must_exist(path)
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise UserError(f"{path} is not a safetensors file: {error}") from None
    state = torch.load(path, map_location="cpu", weights_only=False) if trusted else _weights_only(path, str(path))
    if isinstance(state, dict):
        state = state.get("state_dict", state.get("model", state))
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path} holds no state dict: expected tensors by name")
    return state


# ---- the forms of a spec ----


def _from_spec(spec: str, n_classes: int, service: Mapping[str, Any] | None) -> nn.Module:
    kind, _, name = spec.partition(":")
    if kind in _LIBRARIES and name:
        return _LIBRARIES[kind](name, n_classes)
    if kind in ("http", "https"):
        return HttpNetwork(spec, **(service or {}))
    path = Path(spec)
    if path.suffix == ".onnx":
        return OnnxNetwork(path)
    if path.suffix == ".pt2":
        return _exported(path)
    if path.suffix in {".pt", ".pth", ".ts", ".torchscript"}:
        return _torchscript(path)
    source, _, name = spec.rpartition(":")
    if source and name:
        return _called(source, name, n_classes)
    raise UserError(f"victim '{spec}' is none of builtin:NAME, timm:NAME, torchvision:NAME, FILE.py:NAME, "
                    "PACKAGE.MODULE:NAME, a .pt2, .onnx or TorchScript file (.pt, .pth, .ts), or a service at http://")


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
        raise UserError(f"{path} is not a program saved by torch.export.save: {first_line(error)}") from None


def _torchscript(path: Path) -> nn.Module:
    _must_exist(path)
    try:
        return torch.jit.load(path, map_location="cpu")
    except (RuntimeError, ValueError) as error:
        raise UserError(f"{path} is not a TorchScript program ({first_line(error)}): for a state dict, name "
                        "the architecture as victim and the file as its weights") from None


def find_callable(spec: str) -> Callable[..., Any]:
    """What ``FILE.py:NAME`` or ``PACKAGE.MODULE:NAME`` names.

    Raises:
        UserError: the spec is neither, its file or module fails to run, or it has no such callable.
    """
    source, _, name = spec.rpartition(":")
    if not source or not name:
        raise UserError(f"'{spec}' is neither FILE.py:NAME nor PACKAGE.MODULE:NAME")
    namespace = _python_file(Path(source)) if source.endswith(".py") else _importable(source)
    found = getattr(namespace, name, None)
    if not callable(found):
        raise UserError(f"{source} has no callable '{name}'")
    return found


def made_by(spec: str, kind: type[M], *given: Any, **options: Any) -> M:
    """What the callable of a spec makes of its arguments.

    Raises:
        UserError: see `find_callable`; or it fails, or makes something that is no ``kind``.
    """
    factory = find_callable(spec)
    try:
        made = factory(*given, **options)
    except Exception as error:
        raise UserError(f"{spec} failed: {type(error).__name__}: {error}") from error
    if not isinstance(made, kind):
        raise UserError(f"{spec} made {type(made).__name__}, expected {kind.__name__}")
    return made


def _called(source: str, name: str, n_classes: int) -> nn.Module:
    """``name(n_classes)`` from a Python file or an importable module."""
    factory = find_callable(f"{source}:{name}")
    try:
        module = factory(n_classes)
    except Exception as error:
        raise UserError(f"{source}:{name}({n_classes}) failed: {type(error).__name__}: {error}") from error
    if not isinstance(module, nn.Module):
        kind = type(module).__name__
        raise UserError(f"{source}:{name}({n_classes}) returned {kind}, expected a torch module")
    return module


def _python_file(path: Path) -> Any:
    _must_exist(path)
    found = importlib.util.spec_from_file_location(path.stem, path)
    assert found is not None and found.loader is not None  # a .py file always has a loader
    namespace = importlib.util.module_from_spec(found)
    try:
        found.loader.exec_module(namespace)
    except Exception as error:
        raise UserError(f"{path} failed to run: {type(error).__name__}: {error}") from error
    return namespace


def _importable(source: str) -> Any:
    try:
        return importlib.import_module(source)
    except Exception as error:
        raise UserError(f"cannot import '{source}': {type(error).__name__}: {error}") from error


# ---- files ----


def fill(module: nn.Module, state: Mapping[str, Tensor], complaint: str) -> None:
    """Copy a state dict into a module: every key there, none too many, each of the right shape.

    Raises:
        UserError: ``complaint``, then the first key of each kind of misfit.
    """
    own = {key: value for key, value in module.state_dict().items() if isinstance(value, Tensor)}
    missing, extra = [key for key in own if key not in state], [key for key in state if key not in own]
    faults = [f"{kind} key '{keys[0]}'" + (f" and {len(keys) - 1} more" if len(keys) > 1 else "")
              for kind, keys in (("missing", missing), ("extra", extra)) if keys]
    faults += [f"'{key}' is {tuple(state[key].shape)} and must be {tuple(value.shape)}"
               for key, value in own.items() if key in state and state[key].shape != value.shape][:1]
    if faults:
        raise UserError(f"{complaint}: {'; '.join(faults)}")
    module.load_state_dict({key: state[key] for key in own}, strict=False)


def _weights_only(source: Path | io.BytesIO, name: str) -> Any:
    try:
        return torch.load(source, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError) as error:
        if "Unsupported global" in str(error) or "Unsupported class" in str(error):
            raise UserError(f"{name} {REFUSED}") from None
        raise UserError(f"{name} is not a weights file: {first_line(error)}") from None


def _refuse_pickles(path: Path) -> None:
    """Raises for an archive with full pickles inside, which ``torch.export.load`` would run."""
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.endswith(".pt"):
                _weights_only(io.BytesIO(archive.read(name)), f"{path} ({name})")
            elif name.endswith("_config.json"):
                entries = json.loads(archive.read(name))["config"].values()
                if any(entry["use_pickle"] or "opaque_obj" in entry["path_name"] for entry in entries):
                    raise UserError(f"{path} ({name}) {REFUSED}")
        if not any(name.endswith("archive_format") for name in archive.namelist()):
            raise UserError(f"{path} is in an old format: export it again with torch 2.9 or newer")


def _must_exist(path: Path) -> None:
    if not path.is_file():
        raise UserError(f"no file {path}")


def first_line(error: Exception) -> str:
    """The first line of what an exception says, or its type's name when it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
