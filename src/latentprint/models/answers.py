"""What frozen networks answer about sets of photos, kept on disk: asked once, whichever run wants to know.

An answer is found again by the content of the network (`latentprint.models.content`), of the photos, and by the
question. Large sets are kept piece by piece, so that a run that was stopped goes on where it was. Answers that are
found are those that the network would give, bit for bit.

Two kinds of networks are never kept: one that is still in training is refused, and one that was trained in this
process (`latentprint.engine.loop`) is asked afresh every time, for no other run would find its answers.
`latentprint.models.recognisers.embed` always asks: it is for generated pictures, and for networks in training.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from functools import partial
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn

from latentprint.data.cache import bytes_of, default_cache_dir, kept, read_tensors, write_tensors
from latentprint.engine.loop import was_trained
from latentprint.models.content import content
from latentprint.progress import tracked

#: Photos of an entry; fewer in all than this many are asked about every time.
PIECE, FEWEST = 2048, 256
#: Some photos, and what else belongs to each, to the answers ``(B, ...)`` about them.
Question = Callable[..., Tensor]


def embeddings(recogniser: nn.Module, photos: Tensor, name: str = "recogniser") -> Tensor:
    """Embeddings of photos ``(N, 3, H, W)`` uint8 by a frozen recogniser, ``(N, D)`` on the CPU; see `answers`."""
    return readings(recogniser, photos, name=name)


def readings(network: nn.Module, photos: Tensor, method: str = "forward", name: str = "attribute network",
             batch: int = 256) -> Tensor:
    """``network.method`` of photos ``(N, 3, H, W)`` uint8, which it sees in [0, 1]; see `answers`."""
    device, call = device_of(network), getattr(network, method)
    return answers(network, lambda part: call(part.to(device).float() / 255), photos, question=method, name=name,
                   batch=batch)


@torch.no_grad()
def answers(network: nn.Module | None, ask: Question, *inputs: Tensor, question: str, name: str,
            batch: int = 256) -> Tensor:
    """What ``ask`` answers about all of ``inputs``, a batch at a time; what is known already is not asked.

    Args:
        network: the one network that ``ask`` asks, frozen; None: it is asked every time.
        ask: a pure function of its batches of ``inputs``.
        inputs: tensors ``(N, ...)`` on the CPU, the first of them photos.
        question: which function ``ask`` is, among those of this network.
        name: of the network, for the progress bar.

    Returns:
        ``(N, ...)`` on the CPU.

    Raises:
        ValueError: the network is not frozen.
    """
    if network is not None and (network.training or any(each.requires_grad for each in network.parameters())):
        raise ValueError(f"{name}: answers of a network that is not frozen cannot be kept")
    count, folder, known = len(inputs[0]), _folder(), None
    if network is not None and folder is not None and count >= FEWEST and not was_trained(network):
        known = content(network)
    pieces = list(zip(*(each.split(PIECE) for each in inputs), strict=True))
    batches = [list(zip(*(each.split(batch) for each in piece), strict=True)) for piece in pieces]
    parts = []
    with closing(tracked([part for own in batches for part in own], f"{name}: {count:,} photos")) as bar:
        for piece, own in zip(pieces, batches, strict=True):
            now = islice(bar, len(own))
            make = partial(_asked, ask, now)
            if folder is None or known is None:
                parts.append(make())
                continue
            entry = folder / f"{_key(known, question, batch, piece)}.safetensors"
            parts.append(kept(entry, make, partial(_read, count=len(piece[0])), _write, "answers of networks"))
            for _ in now:  # those of a piece that was found
                pass
    return torch.cat(parts)


def device_of(network: nn.Module) -> torch.device:
    """Where its images must lie; an outside runtime has no parameters."""
    return next(network.parameters(), torch.empty(0)).device


def _asked(ask: Question, batches: Iterable[tuple[Tensor, ...]]) -> Tensor:
    # contiguous, for how they lie in memory may change how sums are rounded
    return torch.cat([ask(*(each.contiguous() for each in batch)).cpu() for batch in batches])


def _folder() -> Path | None:
    cache_dir = default_cache_dir()
    return None if cache_dir is None else cache_dir / "answers"


def _key(known: str, question: str, batch: int, piece: Sequence[Tensor]) -> str:
    asked = [(str(each.dtype), list(each.shape), hashlib.sha256(bytes_of(each)).hexdigest()) for each in piece]
    return hashlib.sha256(json.dumps([known, question, batch, asked]).encode()).hexdigest()


def _write(found: Tensor, entry: Path) -> None:
    write_tensors({"answers": found}, entry, {})


def _read(entry: Path, count: int) -> Tensor:
    found = read_tensors(entry)[0]["answers"]
    if len(found) != count:
        raise ValueError(f"it has {len(found)} answers, expected {count}")
    return found
