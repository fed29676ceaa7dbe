"""What a network's answers depend on, as one digest: two networks of equal content answer alike, bit for bit."""

from __future__ import annotations

import enum
import hashlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache, partial
from importlib import metadata
from operator import attrgetter
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from latentprint.data.cache import bytes_of, digest_of
from latentprint.models.outside import OutsideNetwork

PACKAGE = Path(__file__).parent.parent
#: Where the code of networks is known: this package, and libraries that are known by their version.
_KNOWN = ("latentprint.", "torch.nn.", "diffusers.", "transformers.", "timm.", "torchvision.")
#: What may answer the same question in two ways.
_UNSTEADY = (OutsideNetwork, nn.FractionalMaxPool2d, nn.FractionalMaxPool3d)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_PLAIN = (type(None), bool, int, float, complex, str, bytes, Path, slice, torch.dtype, torch.device, enum.Enum)
#: What every module has, besides its settings.
_COMMON = frozenset(vars(nn.Module()))
#: In which float32 is really computed.
_PRECISIONS = attrgetter(*(f"{each}.fp32_precision" for each in ("mkldnn.conv", "mkldnn.matmul", "cudnn.conv",
                                                                "cuda.matmul")))
#: Which settings were not given, as diffusers notes it, in no order.
_NOTES = ("_use_default_values",)
#: Settings within settings, beyond which nobody looks.
_DEPTH = 8


class _UnknownContent(Exception):
    """Something that answers may depend on and that has no content of its own, such as a function of the user's."""


def content(network: nn.Module) -> str | None:
    """SHA-256 (hex) of all that a network's answers depend on, beside the images; None where that cannot be told.

    That is: the name, class and settings of each of its modules, every parameter and buffer (those that no state dict
    holds included), the source of this package's networks, the versions of the libraries, and the machine with the
    settings by which it computes. It cannot be told of a network that runs elsewhere, of code of the user's own (a
    class, hook or method from outside this package and the libraries), of a traced or compiled program, or of parts in
    training mode.
    """
    digest = hashlib.sha256()
    try:
        for part in _parts(network):
            digest.update(part)
    except _UnknownContent:
        return None
    return digest.hexdigest()


def _parts(network: nn.Module, depth: int = 0) -> Iterator[bytes | memoryview]:
    modules = dict(network.named_modules(remove_duplicate=False))
    classes = {type(module): _called(type(module)) for module in modules.values()}
    yield repr((_sources(classes), _versions(classes), _machine(network))).encode()
    for name, module in modules.items():
        if isinstance(module, _UNSTEADY) or module.training or any(getattr(module, hooks) for hooks in _HOOKS):
            raise _UnknownContent(name)
        own = {key: value for key, value in vars(module).items() if key not in _COMMON}
        yield repr((name, classes[type(module)], _text(own, depth))).encode()
        for key, tensor in (*module._parameters.items(), *module._buffers.items()):
            yield key.encode()
            yield from _tensor(tensor)


def _tensor(tensor: Tensor | None) -> Iterator[bytes | memoryview]:
    if tensor is None:
        return
    if type(tensor) not in (Tensor, nn.Parameter, nn.Buffer) or tensor.layout != torch.strided or tensor.is_quantized:
        raise _UnknownContent(type(tensor).__name__)
    yield repr((tensor.dtype, tuple(tensor.shape), tensor.stride())).encode()  # sums go in the order of the memory
    yield bytes_of(tensor)


def _called(found: type | FunctionType) -> str:
    """The full name of a class or function, which must be the one that is known by it."""
    module, name = found.__module__ or "", found.__qualname__
    there: Any = sys.modules.get(module)
    for each in name.split("."):
        there = getattr(there, each, None)
    if there is not found or not f"{module}.".startswith(_KNOWN):
        raise _UnknownContent(f"{module}.{name}")
    return f"{module}.{name}"


def _text(value: Any, depth: int) -> str:
    """A setting in words that are equal where settings are."""
    if depth > _DEPTH:
        raise _UnknownContent("nested too deep")
    if isinstance(value, _PLAIN):
        return repr(value)
    if isinstance(value, Mapping):
        items = sorted((_text(key, depth + 1), _text(each, depth + 1)) for key, each in value.items()
                       if key not in _NOTES)
        return f"{type(value).__name__}{items}"
    if isinstance(value, list | tuple | set | frozenset):
        texts = [_text(each, depth + 1) for each in value]
        return f"{type(value).__name__}{texts if isinstance(value, list | tuple) else sorted(texts)}"
    if isinstance(value, np.ndarray | np.generic):
        return f"{value.dtype} {value.shape} {hashlib.sha256(value.tobytes()).hexdigest()}"
    if isinstance(value, Tensor):
        return hashlib.sha256(b"".join(_tensor(value))).hexdigest()
    if isinstance(value, type | FunctionType):
        return _called(value)
    if isinstance(value, partial):
        return f"partial {_text((value.func, value.args, value.keywords), depth + 1)}"
    if isinstance(value, nn.Module):  # not registered as a part, such as what finds the faces for a recogniser
        return hashlib.sha256(b"".join(_parts(value, depth + 1))).hexdigest()
    if not hasattr(value, "__dict__"):
        raise _UnknownContent(type(value).__name__)
    return f"{_called(type(value))} {_text(vars(value), depth + 1)}"


def _sources(classes: Iterable[type]) -> str:
    """Of this package's networks: its folders of them, and the modules that hold further classes or their bases."""
    names = {base.__module__ for each in classes for base in each.__mro__}
    further = [Path(str(sys.modules[name].__file__)) for name in names if name.startswith("latentprint.")]
    folders = (PACKAGE / folder for folder in ("models", "plugins", "diffusion"))
    own = (file for each in folders for file in each.rglob("*.py"))
    return _digest(frozenset({PACKAGE / "victim.py", *further, *own}))


@cache
def _digest(files: frozenset[Path]) -> str:
    return digest_of(files)  # read once: what runs is what was there at the start


def _versions(classes: Iterable[type]) -> list[str]:
    libraries = {base.__module__.partition(".")[0] for each in classes for base in each.__mro__}
    known = sorted(name for name in libraries if f"{name}." in _KNOWN and name != PACKAGE.name)
    return [torch.__version__, *(f"{name} {metadata.version(name)}" for name in known)]


def _machine(network: nn.Module) -> tuple[object, ...]:
    """By what the same sums may come out rounded in another way."""
    device = next((each.device for each in (*network.parameters(), *network.buffers())), torch.device("cpu"))
    backends = torch.backends
    common = (device.type, torch.get_default_dtype(), torch.are_deterministic_algorithms_enabled(),
              torch.is_autocast_enabled(device.type), torch.get_autocast_dtype(device.type), *_PRECISIONS(backends))
    if device.type == "cuda":
        return (*common, torch.cuda.get_device_name(device), torch.version.cuda, backends.cudnn.version(),
                backends.cudnn.benchmark)
    return (*common, backends.cpu.get_cpu_capability(), torch.get_num_threads())
