"""What a step asks of the machine, beside time: operations dispatched and bytes held."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
import weakref
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


def timed(call: Callable[[], object]) -> float:
    """Seconds."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    began = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


class Operations(TorchDispatchMode):
    """Counts eager operations by name, those of the backward pass included.

    Attributes:
        computing: those that compute something. views: those that only look at memory in another way.
    """

    def __init__(self) -> None:
        super().__init__()
        self.computing: Counter[str] = Counter()
        self.views: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Sequence[Any], args: tuple[Any, ...] = (),
                           kwargs: Mapping[str, Any] | None = None) -> Any:
        if func.namespace == "aten":
            (self.views if _is_view(func) else self.computing)[str(func.overloadpacket.__name__)] += 1
        return func(*args, **(kwargs or {}))


class _Held(TorchDispatchMode):
    """Follows the storages that operations return until they are freed: what the CPU's allocator does not record."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.alive: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Sequence[Any], args: tuple[Any, ...] = (),
                           kwargs: Mapping[str, Any] | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not _is_view(func) and not func._schema.is_mutable:
            for tensor in tree_iter(result):
                if isinstance(tensor, Tensor):
                    self._follow(tensor.untyped_storage())
        return result

    def _follow(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self.alive:
            self.alive.add(key)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._freed, key, size).atexit = False

    def _freed(self, key: int, size: int) -> None:
        self.alive.discard(key)
        self.now -= size


def count(call: Callable[[], object]) -> Operations:
    """The operations of a call."""
    with Operations() as operations:
        call()
    return operations


def peak_bytes(call: Callable[[], None], device: torch.device) -> int:
    """The most bytes that a call held at once beyond what was there before it."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - before
    with _Held() as held:
        call()
    return held.peak


def bytes_of(tensors: Sequence[Tensor]) -> int:
    """Of distinct storages."""
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def _is_view(func: Any) -> bool:
    aliases = [r.alias_info for r in func._schema.returns]
    return any(alias is not None and not alias.is_write for alias in aliases)


ROUNDS = 7
COMMANDS = {
    "python": ["-c", "pass"],
    "import latentprint": ["-c", "import latentprint"],
    "latentprint --help": ["-m", "latentprint", "--help"],
}


def startup() -> list[dict[str, Any]]:
    """A row a command: median seconds of several starts, interleaved, and the ratio to a bare interpreter."""
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(ROUNDS):
        for name, arguments in COMMANDS.items():
            began = time.perf_counter()
            subprocess.run([sys.executable, *arguments], capture_output=True, check=True)
            seconds[name].append(time.perf_counter() - began)
    bare = statistics.median(seconds["python"])
    return [{"command": name, "seconds": round(statistics.median(found), 3), "lowest": round(min(found), 3),
             "highest": round(max(found), 3), "ratio": round(statistics.median(found) / bare, 2)}
            for name, found in seconds.items()]
