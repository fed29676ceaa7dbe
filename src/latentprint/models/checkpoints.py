"""Weights files of any origin: opened without running code, and fitted to the names that a network gives its weights.

A file may hold one state dict or several, under any key, beside other things; the names in it may have prefixes that a
wrapper added (``DataParallel``, ``torch.compile``, Lightning, Opacus). `fit` takes the one reading that makes every
name and shape match, and says which.
"""

from __future__ import annotations

import argparse
import io
import pathlib
import pickle
import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from latentprint.errors import UserError, useful_line

State = Mapping[str, Tensor]

REFUSED = "needs a full pickle, which can run any code when it is loaded"
MEND = "save the weights alone, as safetensors or by torch.save(module.state_dict(), ...)"
#: Keys of state dicts in checkpoints, the usual first.
USUAL = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights", "params", "module")
#: What names in a checkpoint that hold averaged weights contain.
AVERAGED = ("ema", "averag", "swa", "momentum", "teacher", "shadow")
#: Parts of names that wrappers add, anywhere in a name.
WRAPPERS = (("_orig_mod",), ("_orig_mod", "_module", "module"))
#: Entries that no prediction depends on: counters of batch norms and of profilers, a count of averaged models.
COUNTERS = ("num_batches_tracked", "total_ops", "total_params", "n_averaged")
#: How many names a message lists.
LISTED = 3


def _harmless() -> list[Any]:
    """Types beside tensors that checkpoints hold and that run nothing when they are read, with their other names."""
    scalar, array = np.float64(0).__reduce__()[0], np.zeros(0).__reduce__()[0]
    types = [getattr(np.dtypes, name) for name in np.dtypes.__all__]
    packages = ("numpy.core", "numpy._core")
    lightning = ("pytorch_lightning.utilities.parsing", "lightning_fabric.utilities.data",
                 "lightning.fabric.utilities.data")
    return [argparse.Namespace, np.ndarray, np.dtype, *types,
            *((scalar, f"{each}.multiarray.scalar") for each in packages),
            *((array, f"{each}.multiarray._reconstruct") for each in packages),
            *((pathlib.PurePosixPath, f"{each}.PosixPath") for each in ("pathlib", "pathlib._local")),
            *((pathlib.PureWindowsPath, f"{each}.WindowsPath") for each in ("pathlib", "pathlib._local")),
            *((OrderedDict, f"{each}.AttributeDict") for each in lightning)]


# ---- reading ----


def load_state(path: Path, trusted: bool = False) -> dict[str, Tensor]:
    """The tensors of a weights file by name: of several state dicts in it the one under the most usual key.

    Args:
        trusted: let a file that needs a full pickle run the code in it; for a file whose maker one trusts.

    Raises:
        UserError: no such file, not a weights file, or one that needs a full pickle.
    """
    return dict(next(iter(load_states(path, trusted).values())))


def read_metadata(path: Path) -> dict[str, str]:
    """What the header of a safetensors file says beside its tensors; empty for any other file."""
    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}
    except (OSError, SafetensorError):
        return {}


def load_states(path: Path, trusted: bool = False) -> dict[str, State]:
    """All state dicts of a weights file, by the dotted key in the file ("": the file itself), the usual keys first.

    Arguments and errors as for `load_state`.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder: name the weights file in it")
    if not path.is_file():
        raise UserError(f"no file {path}")
    if other := stand_in(path):
        raise UserError(f"{path} {other}")
    if path.suffix == ".safetensors":
        try:
            return {"": load_file(path)}
        except SafetensorError as error:
            raise UserError(f"{path} is not a safetensors file: {error}") from None
    held = torch.load(path, map_location="cpu", weights_only=False) if trusted else weights_only(path, str(path))
    found = sorted(_state_dicts(held), key=lambda item: _rank(item[0]))
    if not found:
        raise UserError(f"{path} holds no state dict: expected tensors by name, found {_contents(held)}")
    return dict(found)


def stand_in(path: Path) -> str:
    """What a file is that stands where another was meant, and the mend; "": none that is known."""
    with path.open("rb") as file:
        start = file.read(64).lstrip().lower()
    if start.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the file itself: fetch that with 'git lfs pull'"
    if start.startswith((b"<!doctype html", b"<html")):
        return "is a web page, not the file that was meant: download that again"
    return "" if start else "is empty: copy or download it again"


def weights_only(source: Path | io.BytesIO, name: str) -> Any:
    """What ``torch.load`` reads without running code.

    Args:
        name: begins every message.

    Raises:
        UserError: it is no such file, or holds what only a full pickle can read.
    """
    try:
        with torch.serialization.safe_globals(_harmless()):
            return torch.load(source, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError, TypeError, AttributeError,
            KeyError, IndexError) as error:
        raise UserError(_refusal(source, name, error)) from None


def _refusal(source: Path | io.BytesIO, name: str, error: Exception) -> str:
    text = str(error)
    if "TorchScript archive" in text:
        return f"{name} is a TorchScript program, not weights: give it as 'model' (with the ending .pt)"
    if "Unsupported global" not in text and "Unsupported class" not in text:
        return f"{name} is not a weights file: {useful_line(error)}"
    classes = re.findall(r"GLOBAL ([\w.]+)", text)[:1]
    with suppress(Exception):  # of files that are no zip archives it cannot tell
        classes = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(source)) or classes
    if any(each.startswith("torch.nn.") for each in classes):
        own = [each for each in classes if not each.startswith(("torch.", "collections.", "__builtin__", "builtins."))]
        return (f"{name} holds a whole pickled network ({(own or classes)[0]}) and {REFUSED}: {MEND}, or export it "
                "with torch.export.save or torch.jit.save")
    return f"{name} holds {_some(classes) or 'other objects'} and {REFUSED}: {MEND}"


def _state_dicts(held: Any, key: str = "", depth: int = 3) -> Iterator[tuple[str, State]]:
    if not isinstance(held, Mapping):
        return
    if tensors := {name: value for name, value in held.items() if isinstance(name, str) and isinstance(value, Tensor)}:
        yield key, tensors
    for name, value in held.items():
        if depth and "optim" not in str(name).lower():
            yield from _state_dicts(value, f"{key}.{name}" if key else str(name), depth - 1)


def _rank(key: str) -> tuple[bool, int]:
    """For sorting keys in a checkpoint: plain weights before averaged ones, usual names before others."""
    first = key.partition(".")[0]
    return _is_averaged(key), USUAL.index(first) if first in USUAL else len(USUAL)


def _is_averaged(name: str) -> bool:
    return any(word in re.split(r"[._]", name.lower()) or (len(word) > 3 and word in name.lower()) for word in AVERAGED)


def _contents(held: Any) -> str:
    return f"the keys {_some(list(map(str, held)))}" if isinstance(held, Mapping) and held else type(held).__name__


# ---- fitting ----


class Fit(NamedTuple):
    """A state dict under a network's own names, how the names were changed for that, and what does not match."""

    state: State
    changed: str
    faults: tuple[str, ...]
    n_faults: int


def load_weights(module: nn.Module, path: Path, complaint: str) -> list[str]:
    """Fill a module from a weights file.

    Args:
        complaint: begins the message when nothing in the file fits, as in "w.pt does not fit the victim".

    Returns:
        What was assumed in reading the file, a line each.

    Raises:
        UserError: the file cannot be read, nothing in it fits, or several state dicts do and none has a usual name.
    """
    states = load_states(path)
    found = {key: fit(module, state) for key, state in states.items()}
    fits = [key for key, each in found.items() if not each.faults]
    if not fits:
        raise UserError(f"{complaint}: {'; '.join(min(found.values(), key=lambda each: each.n_faults).faults)}")
    if len(fits) > 1 and _rank(fits[0]) == _rank(fits[1]):
        raise UserError(f"{path} holds several state dicts that fit, {_some(fits)}: save the one that is meant alone")
    _copy(module, found[fits[0]].state)
    return _said(path, fits, found[fits[0]], states)


def fill(module: nn.Module, state: State, complaint: str) -> None:
    """Copy a state dict into a module: every key there, none too many, each of the right shape.

    Raises:
        UserError: ``complaint``, then the missing and extra keys and the first wrong shape.
    """
    faults, _ = _faults(_tensors(module), state)
    if faults:
        raise UserError(f"{complaint}: {'; '.join(faults)}")
    _copy(module, state)


def fit(module: nn.Module, state: State) -> Fit:
    """A state dict under the module's names; of all readings of its names the first that matches, else the nearest."""
    own = _tensors(module)
    nearest: Fit | None = None
    for renamed, changed in _readings(own, state):
        faults, n = _faults(own, renamed)
        if nearest is None or n < nearest.n_faults:
            nearest = Fit(renamed, changed, tuple(faults), n)
        if not faults:
            break
    assert nearest is not None  # the names as they are come first
    return nearest


def _said(path: Path, fits: Sequence[str], taken: Fit, states: Mapping[str, State]) -> list[str]:
    lines = []
    if (fits[0] and fits[0] != "state_dict") or len(fits) > 1:
        others = f" rather than {_some(fits[1:])}, which fits too" if len(fits) > 1 else ""
        lines.append(f"the weights under '{fits[0]}' were taken{others}")
    if taken.changed:
        lines.append(taken.changed)
    kinds = {str(value.dtype).removeprefix("torch.") for value in taken.state.values() if value.is_floating_point()}
    if floats := kinds - {"float32"}:
        lines.append(f"{_some(sorted(floats), quoted=False)} weights are run in float32")
    return [f"{path.name}: {line}" for line in lines]


def _readings(own: State, state: State) -> Iterator[tuple[State, str]]:
    """The state dict under other names, the likelier first, each with what was done to the names."""
    plain: list[tuple[State, str]] = [(state, "")]
    for words in WRAPPERS:
        shorter = {_without(name, words): value for name, value in state.items()}
        if len(shorter) == len(state) and shorter.keys() != plain[-1][0].keys():
            used = [word for word in words if any(word in name.split(".") for name in state)]
            plain.append((shorter, f"the names in the file lost '{' and '.join(f'{word}.' for word in used)}'"))
    yield from plain
    for names, changed in plain:
        for prefix in _prefixes(own, names):
            inside = {name[len(prefix):]: value for name, value in names.items() if name.startswith(prefix)}
            left = [name for name in names if not name.startswith(prefix)]
            beside = f"; {len(left)} others, such as '{left[0]}', were left out" if left else ""
            yield inside, f"{changed or 'the names in the file'}{' and' if changed else ' lost'} '{prefix}'{beside}"
        prefix = ""
        while (heads := {name[len(prefix):].partition(".")[0] for name in own}) and len(heads) == 1:
            prefix += f"{heads.pop()}."
            if prefix.rstrip(".") in own:
                break
            yield ({prefix + name: value for name, value in names.items()},
                   f"{changed + ', and ' if changed else ''}the names in the file were put under '{prefix}'")


def _without(name: str, words: Sequence[str]) -> str:
    return ".".join(part for part in name.split(".") if part not in words)


def _prefixes(own: State, state: State) -> list[str]:
    """What stands before a name of the network in the file: plain weights before averaged ones, short before long."""
    for name in own:
        if found := {key[: -len(name)] for key in state if key.endswith(f".{name}")}:
            return sorted(found, key=lambda prefix: (_is_averaged(prefix), len(prefix), prefix))
    return []


def _faults(own: State, state: State) -> tuple[list[str], int]:
    """What does not match, in words, and how many names it concerns."""
    groups: dict[tuple[Any, ...], bool] = {}  # of weights that lie in one place: whether one of them is there
    for name, value in own.items():
        groups[_place(name, value)] = groups.get(_place(name, value), False) or name in state
    missing = [name for name, value in own.items() if not groups[_place(name, value)] and not name.endswith(COUNTERS)]
    extra = [name for name in state if name not in own and not name.endswith(COUNTERS)]
    both = [(name, value, state[name]) for name, value in own.items() if name in state]
    shapes = [f"'{name}' is {tuple(new.shape)} and must be {tuple(old.shape)}"
              for name, old, new in both if old.shape != new.shape]
    types = [f"'{name}' holds {new.dtype}, the network {old.dtype}".replace("torch.", "")
             for name, old, new in both if old.is_floating_point() and not new.is_floating_point()]
    words = [f"{kind} {_keys(names)}" for kind, names in (("missing", missing), ("extra", extra)) if names]
    return words + shapes[:1] + types[:1], len(missing) + len(extra) + len(shapes) + len(types)


def _place(name: str, value: Tensor) -> tuple[Any, ...]:
    """The same for weights that share their memory, as tied ones do."""
    if value.numel() == 0 or value.device.type == "meta":
        return (name,)
    return value.data_ptr(), value.shape, value.stride(), value.dtype


def _keys(names: Sequence[str]) -> str:
    return f"key '{names[0]}'" if len(names) == 1 else f"keys {_some(names)}"


def _some(names: Sequence[str], quoted: bool = True) -> str:
    shown = ", ".join(f"'{name}'" if quoted else name for name in names[:LISTED])
    return shown + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")


def _copy(module: nn.Module, state: State) -> None:
    own = _tensors(module)
    module.load_state_dict({name: value for name, value in state.items() if name in own}, strict=False)


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}
