"""Prepared image sets kept on disk, found again by what they were made from.

An entry is a file of pixels and a safetensors file, named by the SHA-256 of its key; the latter has a JSON header for
names, source, shape and a checksum, and whatever else is known of the images. Both are written beside their place and
moved there, the header last, so nobody reads half an entry. Pixels are mapped and not read: a set may be larger than
memory. Entries are never thrown away; the folder may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

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
    entry = cache_dir / f"{_key(key_parts)}.safetensors"
    if entry.exists():
        try:
            return _read(entry)
        except (OSError, SafetensorError, ValueError, KeyError, TypeError, UserError) as error:
            warnings.warn(f"cache entry {entry} is damaged and will be made anew ({error})", stacklevel=2)
    data = make()
    try:
        _write(data, entry)
    except (OSError, SafetensorError) as error:
        warnings.warn(f"prepared images cannot be kept in {cache_dir} ({error})", stacklevel=2)
    return data


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
    modules = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(module.read_bytes() for module in modules)).hexdigest()


def _write(data: ImageSet, entry: Path) -> None:
    tensors = {name: value.contiguous() for name in _TENSORS if (value := getattr(data, name)) is not None}
    header = {"names": data.names, "source": data.source, "groups": data.groups, "notes": data.notes,
              "shape": list(data.images.shape), "checksum": _checksum(tensors, data.images)}
    entry.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=entry.parent) as folder:
        part = Path(folder) / entry.name
        pixels = part.with_suffix(_PIXELS)
        data.images.contiguous().numpy().tofile(pixels)
        save_file(tensors, part, {"imageset": json.dumps(header)})
        pixels.replace(entry.with_suffix(_PIXELS))
        part.replace(entry)


def _read(entry: Path) -> ImageSet:
    with safe_open(entry, framework="pt") as file:
        header = json.loads((file.metadata() or {})["imageset"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    pixels, count = entry.with_suffix(_PIXELS), math.prod(header["shape"])
    if pixels.stat().st_size != count:
        raise ValueError(f"{pixels.name} has {pixels.stat().st_size} bytes, expected {count}")
    images = _mapped(pixels, header["shape"]) if count else torch.empty(header["shape"], dtype=torch.uint8)
    if _checksum(tensors, images) != header["checksum"]:
        raise ValueError("its checksum does not match")
    groups = header["groups"]
    return ImageSet(images=images, names=tuple(header["names"]), source=header["source"],
                    groups=None if groups is None else tuple(groups), notes=tuple(header["notes"]), **tensors)


def _mapped(pixels: Path, shape: Sequence[int]) -> Tensor:
    """The file as a tensor that nobody may write to."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(np.memmap(pixels, np.uint8, "r", shape=tuple(shape)))


def _checksum(tensors: Mapping[str, Tensor], images: Tensor) -> str:
    stride = max(1, -(-images.numel() // _CHECKED))
    digest = hashlib.sha256(f"{tuple(images.shape)}".encode())
    for part in images[::stride].split(4096):
        digest.update(part.contiguous().numpy().data)
    for name in sorted(tensors):
        digest.update(f"{name} {tuple(tensors[name].shape)}".encode())
        digest.update(tensors[name].numpy().data)
    return digest.hexdigest()
