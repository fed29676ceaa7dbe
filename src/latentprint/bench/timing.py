"""Wall time of a call, with the work that it left on a GPU."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch


def timed(call: Callable[[], object]) -> float:
    """Seconds."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    began = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began
