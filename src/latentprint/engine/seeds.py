"""Randomness that survives a kill: every draw depends on (seed, what it is for, which step), never on history."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator

import torch
from torch import Tensor


def derive(seed: int, *scope: str | int) -> int:
    """A 63-bit seed for one purpose, e.g. ``derive(0, "stage2", step)``; unrelated scopes give unrelated seeds."""
    text = ":".join(str(part) for part in (seed, *scope))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *scope: str | int) -> torch.Generator:
    """A CPU generator for one purpose (CPU, so that CPU and GPU runs draw the same numbers)."""
    return torch.Generator().manual_seed(derive(seed, *scope))


def step_generator(seed: int, name: str, step: int) -> torch.Generator:
    """The generator of one step's draws.

    Every part of a step, one a process (``torchrun``) and one a repetition (``accumulate``), has its own and draws a
    full batch from it: a step of n parts sees n times the configured batch, whoever computes them.
    """
    number = part_number()
    return generator(seed, name, step, *([f"process {number}"] if number else []))


def part_number() -> int:
    """Which part of the step is under way, among those of all processes."""
    return int(os.environ.get("RANK", "0")) * _under_way.count + _under_way.index


def first_part() -> bool:
    """Whether the step has just begun: what counts steps must not count parts."""
    return _under_way.index == 0


class _UnderWay:
    """Of the parts that this process computes one after another: how many, and which."""

    index, count = 0, 1


_under_way = _UnderWay()


def parts(count: int) -> Iterator[int]:
    """Go through ``count`` parts of a step in this process."""
    try:
        for index in range(count):
            _under_way.index, _under_way.count = index, count
            yield index
    finally:
        _under_way.index, _under_way.count = 0, 1


def seeded_noise(seeds: Tensor, shape: tuple[int, ...], device: torch.device | str = "cpu") -> Tensor:
    """``(N, *shape)`` standard normal; row i depends on ``seeds[i]`` alone, whatever the batch.

    Row by row, for PyTorch has no generator with a seed for each row: 0.1 ms for the 16 pictures of a step.
    """
    rows = [torch.randn(shape, generator=torch.Generator().manual_seed(int(s))) for s in seeds.tolist()]
    return torch.stack(rows).to(device)
