"""A set of labelled images, the one shape in which all data travels through an audit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import torch
from torch import Tensor

from latentprint.data.room import joined, selected
from latentprint.errors import UserError


@dataclass(frozen=True)
class ImageSet:
    """Labelled images of people (or of any classes), held as bytes.

    Attributes:
        images: ``(N, 3, H, W)`` uint8.
        labels: ``(N,)`` int64, indices into ``names``.
        names: the people (classes); unique.
        source: where the images came from, for manifests and messages.
        holes: ``(N, 1, H, W)`` uint8, 1 inside the face region that a swap may repaint, or None when unknown.
        attributes: ``(N, A)`` float32 true nuisance parameters (``ATTRIBUTE_NAMES``), or None when unknown.
        groups: of each person the group or population they belong to, or None when nobody said.
        notes: what was passed over or assumed when these were read, a sentence each, for the user.
    """

    images: Tensor
    labels: Tensor
    names: tuple[str, ...]
    source: str
    holes: Tensor | None = None
    attributes: Tensor | None = None
    groups: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim != 4 or self.images.shape[1] != 3:
            raise UserError(f"{self.source}: images must be (N, 3, H, W) uint8, got "
                            f"{tuple(self.images.shape)} {self.images.dtype}")
        if self.labels.shape != self.images.shape[:1]:
            raise UserError(f"{self.source}: {len(self.images)} images but {len(self.labels)} labels")
        if len(set(self.names)) != len(self.names):
            twice = next(name for name in self.names if self.names.count(name) > 1)
            raise UserError(f"{self.source}: class names are not unique, '{twice}' is there twice")
        if self.groups is not None and len(self.groups) != len(self.names):
            raise UserError(f"{self.source}: {len(self.names)} people but groups of {len(self.groups)}")
        if len(self.labels) and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < len(self.names):
            raise UserError(f"{self.source}: labels must lie in 0..{len(self.names) - 1}")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def n_classes(self) -> int:
        return len(self.names)

    @property
    def size(self) -> int:
        """Image height in pixels."""
        return int(self.images.shape[-2])

    def counts(self) -> Tensor:
        """``(n_classes,)`` images per class."""
        return torch.bincount(self.labels, minlength=self.n_classes)

    def first_photos(self, count: int | None) -> tuple[ImageSet, ImageSet]:
        """Every class's first ``count`` images (None: all), grouped by class, and the rest."""
        order, place = grouped(self.labels)
        first = place < (len(self) if count is None else count)
        return self.take(order[first]), self.take(order[~first])

    def floats(self, index: Tensor | slice | None = None) -> Tensor:
        """Images as ``(B, 3, H, W)`` float32 in [0, 1]."""
        images = self.images if index is None else self.images[index]
        return images.float().div_(255)

    def mean(self) -> Tensor:
        """The mean image ``(3, H, W)`` in [0, 1]: the best guess of any of them without looking."""
        totals = [part.double().sum(0) for part in self.images.split(256)]
        return (torch.stack(totals).sum(0) / (255 * len(self))).float()

    def take(self, index: Tensor) -> ImageSet:
        """The images at ``index`` (int64 or bool), classes unchanged."""
        return replace(
            self,
            images=selected(self.images, index),
            labels=self.labels[index],
            holes=None if self.holes is None else self.holes[index],
            attributes=None if self.attributes is None else self.attributes[index],
        )

    def of_classes(self, classes: Sequence[int]) -> ImageSet:
        """The images of the given classes alone, relabelled 0.. in the order given."""
        new = torch.full((self.n_classes,), -1, dtype=torch.int64)
        new[torch.tensor(list(classes), dtype=torch.int64)] = torch.arange(len(classes))
        kept = self.take((new[self.labels] >= 0).nonzero().squeeze(1))
        return replace(kept, labels=new[kept.labels], names=tuple(self.names[c] for c in classes),
                       groups=None if self.groups is None else tuple(self.groups[c] for c in classes))


def grouped(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Indices ``(N,)`` that bring images with ``labels`` ``(N,)`` together by class, in their order, and the place of
    each within its class, ``(N,)``: 0, 1, ..."""
    order, counts = labels.argsort(stable=True), torch.bincount(labels)
    return order, torch.arange(len(order)) - (counts.cumsum(0) - counts)[labels[order]]


def concatenate(*sets: ImageSet) -> ImageSet:
    """All sets in one, the classes of each numbered after those before (names must not clash).

    What one of them does not know is None.
    """

    def all_of(parts: Sequence[Tensor | None]) -> Tensor | None:
        known = [part for part in parts if part is not None]
        return torch.cat(known) if len(known) == len(parts) else None

    firsts = [0, *accumulate(each.n_classes for each in sets)]
    groups = [each.groups for each in sets if each.groups is not None]
    return ImageSet(
        images=joined([each.images for each in sets]),
        labels=torch.cat([each.labels + first for each, first in zip(sets, firsts, strict=False)]),
        names=sum((each.names for each in sets), ()),
        source=" + ".join(each.source for each in sets),
        holes=all_of([each.holes for each in sets]),
        attributes=all_of([each.attributes for each in sets]),
        groups=sum(groups, ()) if len(groups) == len(sets) else None,
        notes=tuple(dict.fromkeys(note for each in sets for note in each.notes)),
    )
