"""The folder of what is costly to make, and prepared image sets in it, found again by what they were made from.

An entry is a safetensors file with a JSON header and a checksum, named by the SHA-256 of its key; that of an image set
has a file of pixels beside it. Files are written beside their place and moved there, the header last, so nobody reads
half an entry. Pixels are mapped and not read: a set may be larger than memory. Entries are never thrown away; the
folder may be deleted at any time. What networks answer is kept in a folder of its own (`latentprint.models.answers`).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from latentprint.data.base import ImageSet
from latentprint.data.listing import files_below
from latentprint.errors import UserError

_PIXELS = ".pixels"
_TENSORS = ("labels", "holes", "attributes")
#: Pixels that a checksum is taken of; of larger sets, of that many evenly spaced images' worth.
_CHECKED = 2**30
_HEADER = "header"
T = TypeVar("T")


def default_cache_dir() -> Path | None:
    """``$LATENTPRINT_CACHE`` or ``~/.cache/latentprint``; None (no cache) when the variable is empty."""
    chosen = os.environ.get("LATENTPRINT_CACHE")
    if chosen is None:
        return Path.home() / ".cache" / "latentprint"
    return Path(chosen).expanduser() if chosen else None


def cached(key_parts: Mapping[str, Any], make: Callable[[], ImageSet], cache_dir: Path | None) -> ImageSet:
    """``make()``, or what it gave the last time with equal ``key_parts`` and the same code of this package.

    A damaged entry is made anew, and a folder that cannot be written is passed over, each with a warning.

    Args:
        key_parts: everything that the result depends on, as JSON values; for files see :func:`fingerprint`.
        cache_dir: None calls ``make`` every time.
    """
    if cache_dir is None:
        return make()
    return kept(cache_dir / f"{_key(key_parts)}.safetensors", make, _read, _write, "prepared images")


def kept(entry: Path, make: Callable[[], T], read: Callable[[Path], T], write: Callable[[T, Path], None],
         what: str) -> T:
    """What ``entry`` holds, or ``make()``, which is then written there.

    A damaged entry is made anew, and a folder that cannot be written is passed over, each with a warning.

    Args:
        read: raises one of the usual errors where the entry is not what ``write`` wrote.
        what: the kind of entry, in the plural, for the warning.
    """
    try:
        if entry.exists():
            return read(entry)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, UserError) as error:
        warnings.warn(f"cache entry {entry} is damaged and will be made anew ({error})", stacklevel=3)
    made = make()
    try:
        write(made, entry)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error  # without a temporary name: one warning, not one an entry
        warnings.warn(f"{what} cannot be kept in {entry.parent} ({reason})", stacklevel=3)
    return made


def fingerprint(path: Path) -> str:
    """A digest of the names, sizes and times of change of a file, or of the files under a folder.

    Nothing there is a digest too: to say what is missing is the loader's part.
    """
    stats = {str(file.relative_to(path)): file.stat() for file in (path, *files_below(path)) if file.is_file()}
    facts = sorted((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats.items())
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _key(parts: Mapping[str, Any]) -> str:
    text = json.dumps({"code": _code(), **parts}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


@cache
def _code() -> str:
    """The modules that prepare images: when one of them changes, old entries no longer fit."""
    return digest_of(Path(__file__).parent.glob("*.py"))


def digest_of(files: Iterable[Path]) -> str:
    """SHA-256 (hex) of the bytes of files, in the order of their paths."""
    return hashlib.sha256(b"".join(file.read_bytes() for file in sorted(files))).hexdigest()


def bytes_of(tensor: Tensor) -> memoryview:
    """The bytes of a tensor's values, in their order, wherever and however they lie."""
    # viewed as uint8, for NumPy has no bfloat16; flattened first, for a scalar has no last dimension to view
    return tensor.detach().cpu().flatten().view(torch.uint8).numpy().data


def write_tensors(tensors: Mapping[str, Tensor], entry: Path, header: Mapping[str, Any]) -> None:
    """An entry's safetensors file, whole or not at all; ``header`` holds JSON values."""
    found = json.dumps({**header, "tensors": _checksum(tensors)})
    entry.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=entry.parent) as folder:
        part = Path(folder) / entry.name
        save_file({name: value.contiguous() for name, value in tensors.items()}, part, {_HEADER: found})
        part.replace(entry)


def read_tensors(entry: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and header of an entry.

    Raises:
        OSError, SafetensorError, KeyError, ValueError: it is missing or not what was written.
    """
    with safe_open(entry, framework="pt") as file:
        header = json.loads((file.metadata() or {})[_HEADER])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    if _checksum(tensors) != header["tensors"]:
        raise ValueError("its checksum does not match")
    return tensors, header


def _write(data: ImageSet, entry: Path) -> None:
    tensors = {name: value for name in _TENSORS if (value := getattr(data, name)) is not None}
    header = {"names": data.names, "source": data.source, "groups": data.groups, "notes": data.notes,
              "shape": list(data.images.shape), "pixels": _checksum_of_pixels(data.images)}
    entry.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=entry.parent) as folder:
        pixels = Path(folder) / entry.with_suffix(_PIXELS).name
        data.images.contiguous().numpy().tofile(pixels)
        pixels.replace(entry.with_suffix(_PIXELS))
    write_tensors(tensors, entry, header)


def _read(entry: Path) -> ImageSet:
    tensors, header = read_tensors(entry)
    pixels, count = entry.with_suffix(_PIXELS), math.prod(header["shape"])
    if pixels.stat().st_size != count:
        raise ValueError(f"{pixels.name} has {pixels.stat().st_size} bytes, expected {count}")
    images = _mapped(pixels, header["shape"]) if count else torch.empty(header["shape"], dtype=torch.uint8)
    if _checksum_of_pixels(images) != header["pixels"]:
        raise ValueError("its checksum does not match")
    groups = header["groups"]
    return ImageSet(images=images, names=tuple(header["names"]), source=header["source"],
                    groups=None if groups is None else tuple(groups), notes=tuple(header["notes"]), **tensors)


def _mapped(pixels: Path, shape: Sequence[int]) -> Tensor:
    """The file as a tensor that nobody may write to."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(np.memmap(pixels, np.uint8, "r", shape=tuple(shape)))


def _checksum_of_pixels(images: Tensor) -> str:
    stride = max(1, -(-images.numel() // _CHECKED))
    digest = hashlib.sha256(f"{tuple(images.shape)}".encode())
    for part in images[::stride].split(4096):
        digest.update(part.contiguous().numpy().data)
    return digest.hexdigest()


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}".encode())
        digest.update(bytes_of(tensors[name]))
    return digest.hexdigest()
