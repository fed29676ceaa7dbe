"""Tensors as the npm packages of face-api and Human, and dlib's files, store them.

A TensorFlow.js weights manifest lists groups of tensors that follow one another in a file without padding, little
endian: float32, IEEE half (``float16``), or one byte an element (``uint8``, value = byte * scale + min).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latentprint.errors import UserError

Weights = Mapping[str, Tensor]


def read_manifest(text: bytes, data: bytes, what: str) -> dict[str, Tensor]:
    """All float tensors of one weights file, float32, by name.

    Args:
        text: a JSON list of groups, or a graph model's JSON with ``weightsManifest`` in it.
        data: the bytes that they describe. what: begins every message.

    Raises:
        UserError: no such JSON, a type that is not known, or a file of another length.
    """
    try:
        found = json.loads(text)
        groups = found["weightsManifest"] if isinstance(found, dict) else found
        entries = [entry for group in groups for entry in group["weights"]]
        tensors, at = {}, 0
        for entry in entries:
            tensor, at = _tensor(entry, data, at)
            if tensor.is_floating_point():
                tensors[entry["name"]] = tensor
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{what}: not a weights manifest of TensorFlow.js ({error})") from None
    if at != len(data):
        raise UserError(f"{what}: its manifest describes {at} bytes, the file has {len(data)}")
    return tensors


def _tensor(entry: Mapping[str, Any], data: bytes, at: int) -> tuple[Tensor, int]:
    shape, quantised = tuple(entry["shape"]), entry.get("quantization")
    stored = np.dtype(quantised["dtype"] if quantised else entry["dtype"]).newbyteorder("<")
    end = at + stored.itemsize * int(np.prod(shape, dtype=np.int64))
    values = np.frombuffer(data[at:end], stored)  # sliced first: floats begin at any byte
    if values.dtype == np.uint8 and quantised:
        values = values.astype(np.float32) * np.float32(quantised["scale"]) + np.float32(quantised["min"])
    wide = values.astype(np.int32 if entry["dtype"] == "int32" else np.float32)
    return torch.from_numpy(wide.reshape(shape).copy()), end


def conv_filter(weights: Tensor) -> Tensor:
    """``[kh, kw, in, out]`` to torch's ``(out, in, kh, kw)``."""
    return weights.permute(3, 2, 0, 1).contiguous()


def depthwise_filter(weights: Tensor) -> Tensor:
    """``[kh, kw, channels, 1]`` to torch's ``(channels, 1, kh, kw)``."""
    return weights.permute(2, 3, 0, 1).contiguous()


def read_dlib(data: bytes, sizes: Sequence[int], what: str) -> list[Tensor]:
    """The parameters of a network that dlib's ``serialize`` wrote, in its order: from the input on, ``(n,)`` each.

    A tensor is a version (2), four dimensions, each an integer with its count of bytes before it, and little-endian
    float32. What lies between tensors are layers' settings and empty tensors, which are passed over: of ``sizes[i]``
    entries, the next tensor of that size is taken.

    Raises:
        UserError: one of them is not there.
    """
    found, at = [], 0
    for size in sizes:
        for start, payload in _headers(data, at):
            if int(np.prod(_dimensions(data, start), dtype=np.int64)) == size and payload + 4 * size <= len(data):
                at = payload + 4 * size
                found.append(torch.from_numpy(np.frombuffer(data[payload:at], "<f4").copy()))
                break
        else:
            raise UserError(f"{what}: no tensor of {size} entries after byte {at}; is it dlib's recogniser?")
    return found


def _headers(data: bytes, at: int) -> Iterator[tuple[int, int]]:
    """Where dimensions may begin from ``at`` on, and where the numbers after them would."""
    while (at := data.find(b"\x01\x02", at)) >= 0:
        if len(_dimensions(data, at + 2)) == 4:
            yield at + 2, _skip(data, at + 2, 4)
        at += 1


def _dimensions(data: bytes, at: int) -> list[int]:
    """Up to four positive integers: a byte that says how many bytes follow, then these, least first."""
    values: list[int] = []
    while len(values) < 4 and at < len(data) and 1 <= data[at] <= 4:
        values.append(int.from_bytes(data[at + 1: at + 1 + data[at]], "little"))
        at += 1 + data[at]
    return values


def _skip(data: bytes, at: int, count: int) -> int:
    for _ in range(count):
        at += 1 + data[at]
    return at
