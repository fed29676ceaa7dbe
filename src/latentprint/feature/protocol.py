"""Whose images the adversary knows, and whose it attacks.

``train_time`` and ``infer_time`` are those of the published code of Xia et al. 2025 (arXiv:2503.00383), which their
paper calls training and inference knowledge. On sets that are sorted by class the second knows few of the classes it
attacks, by accident; ``class_disjoint`` knows none of them, by design.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from latentprint.data.base import ImageSet
from latentprint.data.overlap import photo_digests
from latentprint.engine.seeds import generator
from latentprint.errors import UserError

Protocol = Literal["train_time", "infer_time", "class_disjoint"]

#: Share of the test set that ``infer_time`` knows.
KNOWN_SHARE = 0.9


@dataclass(frozen=True)
class Roles:
    """Indices ``(K,)`` and ``(A,)`` int64 of known and attacked images; the attacked are of the test set.

    Attributes:
        known_part: the set that ``known`` counts in.
        class_overlap: share of the attacked images whose class is among the known ones, in [0, 1].
        repeated: known images that were left out, being byte for byte among the attacked.
    """

    known_part: Literal["train", "test"]
    known: Tensor
    attacked: Tensor
    class_overlap: float
    repeated: int


def divide(protocol: Protocol, train: ImageSet, test: ImageSet, *, n_attacked: int | None = None,
           attacked_share: float = 0.5, seed: int = 0) -> Roles:
    """Who knows what.

    - ``train_time``: known are all training images of the victim, attacked the test set.
    - ``infer_time``: known are the first 90% of the test set, attacked the rest.
    - ``class_disjoint``: a share of the classes, by the seed, is attacked in the test set; known are the training
      images of the other classes.

    Args:
        n_attacked: at most so many attacked images, by the seed, as equally many of each class as there are.
        attacked_share: of the classes that have test images (``class_disjoint``), in (0, 1).

    Raises:
        UserError: the sets differ in classes or image size, nothing is left to know or to attack, or a number is out
            of its range.
    """
    _check(train, test, n_attacked, attacked_share)
    known_part: Literal["train", "test"] = "test" if protocol == "infer_time" else "train"
    known_set = test if known_part == "test" else train
    match protocol:
        case "train_time":
            known, attacked = torch.arange(len(train)), torch.arange(len(test))
        case "infer_time":
            known, attacked = torch.arange(len(test)).tensor_split([int(KNOWN_SHARE * len(test))])
        case "class_disjoint":
            hidden = _hidden_classes(test, attacked_share, seed)
            known = (~torch.isin(train.labels, hidden)).nonzero().flatten()
            attacked = torch.isin(test.labels, hidden).nonzero().flatten()
    if n_attacked is not None:
        attacked = attacked[balanced(test.labels[attacked], n_attacked, seed)]
    fresh = _unseen(known_set.images[known], test.images[attacked])
    if not fresh.any() or not len(attacked):
        raise UserError(f"protocol {protocol}: {train.source} and {test.source} leave {int(fresh.sum())} known and "
                        f"{len(attacked)} attacked images; expected at least 1 of each")
    shared = torch.isin(test.labels[attacked], known_set.labels[known[fresh]])
    return Roles(known_part, known[fresh], attacked, float(shared.double().mean()), int((~fresh).sum()))


def balanced(labels: Tensor, n: int, seed: int) -> Tensor:
    """Positions of at most ``n`` of ``(N,)`` labels, ascending: of each class equally many, as far as they go.

    The classes that give one more than others are drawn, as are the images of each.
    """
    rng = generator(seed, "balanced")
    shuffled = torch.randperm(len(labels), generator=rng)
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    _, counts = labels.unique(return_counts=True)
    rank = torch.cat([torch.arange(int(count)) for count in counts]) if len(labels) else by_class
    turn = torch.randperm(len(counts), generator=rng).repeat_interleave(counts)
    order = (rank * len(counts) + turn).argsort()
    return by_class[order[:n]].sort().values


def _hidden_classes(test: ImageSet, share: float, seed: int) -> Tensor:
    """The classes under attack: at least one, and not all."""
    present = test.labels.unique()
    n = min(max(1, round(share * len(present))), len(present) - 1)
    return present[torch.randperm(len(present), generator=generator(seed, "class-disjoint"))[:n]]


def _unseen(known: Tensor, attacked: Tensor) -> Tensor:
    """``(K,)`` bool: which known images are, byte for byte, not among the attacked."""
    hidden = set(photo_digests(attacked))
    return torch.tensor([digest not in hidden for digest in photo_digests(known)], dtype=torch.bool)


def _check(train: ImageSet, test: ImageSet, n_attacked: int | None, attacked_share: float) -> None:
    if train.names != test.names:
        raise UserError(f"{train.source} and {test.source} must have the same classes in the same order")
    if train.images.shape[1:] != test.images.shape[1:]:
        raise UserError(f"{train.source} has images of {tuple(train.images.shape[1:])}, {test.source} of "
                        f"{tuple(test.images.shape[1:])}; expected one size")
    if n_attacked is not None and n_attacked < 1:
        raise UserError(f"n_attacked must be at least 1, got {n_attacked}")
    if not 0 < attacked_share < 1:
        raise UserError(f"attacked_share must lie between 0 and 1, got {attacked_share}")
