"""Room for many images: in memory, or beyond a bound in a file that the system may write out when memory is short."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from latentprint.errors import UserError

#: Bytes of one set of images that are held in memory; ``LATENTPRINT_IN_MEMORY`` says otherwise.
IN_MEMORY = 2**31


def reserve(handle: int, count: int) -> None:
    """Make an open file ``count`` bytes long: a hole that a full disk cannot fill would kill the process (SIGBUS)."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(handle, 0, count)
    else:  # macOS, Windows
        os.truncate(handle, count)


def room(shape: Sequence[int]) -> Tensor:
    """uint8 of this shape, uninitialised.

    Above the bound it is a mapped file in ``TMPDIR``, which is gone with the tensor: such pages do not count as
    memory that a process needs, and the system drops them when it is short.

    Raises:
        UserError: that folder has no room for it.
    """
    count = 1
    for length in shape:
        count *= length
    if count <= int(os.environ.get("LATENTPRINT_IN_MEMORY", IN_MEMORY)):
        return torch.empty(*shape, dtype=torch.uint8)
    handle, name = tempfile.mkstemp(prefix="latentprint-images-")
    try:
        reserve(handle, count)
        mapped = torch.from_file(name, shared=True, size=count, dtype=torch.uint8)
    except OSError as error:
        raise UserError(
            f"{count / 2**20:.0f} MB of images do not fit in {tempfile.gettempdir()} ({error.strerror}); "
            "set TMPDIR to a folder with more room, or LATENTPRINT_IN_MEMORY to more bytes of memory"
        ) from error
    finally:
        os.close(handle)
        Path(name).unlink()  # the mapping keeps it alive
    return mapped.view(*shape)


def selected(images: Tensor, index: Tensor) -> Tensor:
    """``images[index]`` of uint8 images, for an index of int64 or bool, with `room` for the result."""
    if index.dtype == torch.bool:
        index = index.nonzero().squeeze(1)
    return torch.index_select(images, 0, index, out=room((len(index), *images.shape[1:])))


def joined(parts: Sequence[Tensor]) -> Tensor:
    """``torch.cat`` of uint8 images, with `room` for the result."""
    return torch.cat(list(parts), out=room((sum(map(len, parts)), *parts[0].shape[1:])))
