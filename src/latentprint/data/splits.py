"""Who is public, who is private, and which photos are held out. The parts never share a person.

A split depends on the seed, the people's names and how many photos each has, not on the order of the people:
the photos of each are divided by a generator of their own.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from latentprint.data.base import ImageSet
from latentprint.data.overlap import check_people, overlaps
from latentprint.data.room import joined
from latentprint.errors import UserError


@dataclass(frozen=True)
class AuditData:
    """The data of one audit. The people are checked when it is made, the photos by :meth:`validate`.

    Attributes:
        public: what the adversary may use.
        private_train: photos of the private people on which the victim is trained.
        private_heldout: other photos of the same people (the same ``names``), seen by the evaluation alone.
        evaluation: further people, for example to calibrate the judge; or None.

    Raises:
        UserError: a person in two parts, a private person without training or held-out photos, unequal sizes.
    """

    public: ImageSet
    private_train: ImageSet
    private_heldout: ImageSet
    evaluation: ImageSet | None = None

    def __post_init__(self) -> None:
        others = [part for part in (self.public, self.evaluation) if part is not None]
        if self.private_train.names != self.private_heldout.names:
            raise UserError(f"{self.private_train.source}: training and held-out photos must be of the same people")
        for part in (self.private_train, self.private_heldout, *others):
            if not len(part):
                raise UserError(f"{part.source}: no photos")
            if part.images.shape[1:] != self.public.images.shape[1:]:
                raise UserError(
                    f"{part.source}: images are {tuple(part.images.shape[1:])} but those of "
                    f"{self.public.source} are {tuple(self.public.images.shape[1:])}"
                )
        _require_photos(self.private_train, 1, " to train on")
        _require_photos(self.private_heldout, 1, " held out")
        for other in others:
            check_people(other, self.private_train)
        if self.evaluation is not None:
            check_people(self.public, self.evaluation)

    @property
    def private(self) -> ImageSet:
        """All photos of the private people, those to train on first (without holes and attributes)."""
        train, heldout = self.private_train, self.private_heldout
        images, labels = joined([train.images, heldout.images]), torch.cat([train.labels, heldout.labels])
        return replace(train, images=images, labels=labels, holes=None, attributes=None)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was passed over or assumed in reading the photos, a sentence each."""
        parts = (self.private_train, self.private_heldout, self.public, self.evaluation)
        return tuple(dict.fromkeys(note for part in parts if part is not None for note in part.notes))

    @property
    def parts(self) -> dict[str, ImageSet]:
        """The sets by name, those that there are."""
        parts = {"public": self.public, "private_train": self.private_train, "private_heldout": self.private_heldout}
        return parts if self.evaluation is None else {**parts, "evaluation": self.evaluation}

    def validate(self) -> list[str]:
        """Look for photos that are in two parts.

        Returns:
            One sentence for each warning: near duplicates between parts, held-out photos that are, or look like one,
            among those trained on, photos of two people.

        Raises:
            UserError: a photo is, byte for byte, in two parts that must not share people.
        """
        return overlaps(self.apart, self.held)

    @property
    def apart(self) -> list[tuple[ImageSet, ImageSet]]:
        """Pairs of parts that must not share people."""
        if self.evaluation is None:
            return [(self.public, self.private)]
        return [(self.public, self.private), (self.evaluation, self.private), (self.public, self.evaluation)]

    @property
    def held(self) -> list[tuple[ImageSet, ImageSet]]:
        """Photos to train on, and those held out, of the same people."""
        return [(self.private_train, self.private_heldout)]


def split_people(
    data: ImageSet,
    n_private: int,
    n_heldout: int,
    seed: int,
    n_evaluation: int = 0,
    n_train: int | None = None,
) -> AuditData:
    """Divide the people of one set; who is neither private nor kept for evaluation is public.

    The private people are the first of a seeded permutation that have more than ``n_heldout`` photos; those
    for evaluation come next.

    Args:
        n_private: people whose photos the victim learns.
        n_heldout: photos of each private person kept from the victim, at least 1.
        n_evaluation: people for evaluation alone.
        n_train: at most so many photos of each private person to train on; None for all the others.

    Raises:
        UserError: a person without photos, too few people, or too few with enough photos.
    """
    _require_photos(data, 1)
    _require_counts(n_private, n_heldout, n_train)
    if n_evaluation < 0:
        raise UserError(f"n_evaluation must be 0 or more, got {n_evaluation}")
    if n_private + n_evaluation >= data.n_classes:
        raise UserError(
            f"{data.source}: {data.n_classes} people cannot give {n_private} private and {n_evaluation} "
            "for evaluation and leave anyone public"
        )
    order, counts = _shuffled_people(data, seed), data.counts()
    private = [person for person in order if counts[person] > n_heldout][:n_private]
    if len(private) < n_private:
        short = next(person for person in order if counts[person] <= n_heldout)
        raise UserError(
            f"{data.source}: {n_private} private people asked for, but only {len(private)} have the "
            f"{n_heldout + 1} photos needed ({n_heldout} held out, 1 to train on); "
            f"'{data.names[short]}' has {int(counts[short])}"
        )
    chosen = set(private)
    rest = [person for person in order if person not in chosen]
    evaluation, public = rest[:n_evaluation], rest[n_evaluation:]
    train, heldout = _split_photos(data.of_classes(sorted(private)), n_heldout, seed, n_train)
    return AuditData(
        public=data.of_classes(sorted(public)),
        private_train=train,
        private_heldout=heldout,
        evaluation=data.of_classes(sorted(evaluation)) if evaluation else None,
    )


def from_parts(
    public: ImageSet,
    private: ImageSet,
    n_heldout: int,
    seed: int,
    evaluation: ImageSet | None = None,
    n_train: int | None = None,
) -> AuditData:
    """Public and private people from different sources; every person of ``private`` is private.

    Raises:
        UserError: a private person with too few photos, or a person in two parts.
    """
    _require_counts(private.n_classes, n_heldout, n_train)
    _require_photos(private, n_heldout + 1, f" ({n_heldout} held out, 1 to train on)")
    train, heldout = _split_photos(private, n_heldout, seed, n_train)
    return AuditData(public, train, heldout, evaluation)


def _split_photos(data: ImageSet, n_heldout: int, seed: int, n_train: int | None) -> tuple[ImageSet, ImageSet]:
    """(to train on, held out), each grouped by person."""
    photos = data.labels.argsort(stable=True).split(data.counts().tolist())
    shuffled = [_shuffled(own, name, seed) for own, name in zip(photos, data.names, strict=True)]
    end = None if n_train is None else n_heldout + n_train
    train, heldout = (
        torch.cat([own[part] for own in shuffled]) for part in (slice(n_heldout, end), slice(n_heldout))
    )
    return data.take(train), data.take(heldout)


def _shuffled_people(data: ImageSet, seed: int) -> list[int]:
    by_name = sorted(range(data.n_classes), key=lambda person: data.names[person])
    return [by_name[index] for index in np.random.default_rng(seed).permutation(data.n_classes)]


def _shuffled(photos: Tensor, name: str, seed: int) -> Tensor:
    own = int.from_bytes(hashlib.sha256(name.encode(errors="surrogatepass")).digest()[:8], "big")
    return photos[torch.from_numpy(np.random.default_rng([seed, own]).permutation(len(photos)))]


def _require_photos(data: ImageSet, least: int, purpose: str = "") -> None:
    counts = data.counts()
    short: list[int] = (counts < least).nonzero().flatten().tolist()
    if short:
        has, others = (
            int(counts[short[0]]),
            f" (and {len(short) - 1} more people too few)" if len(short) > 1 else "",
        )
        raise UserError(
            f"{data.source}: person '{data.names[short[0]]}' has {has} photo{'s' * (has != 1)}{others}; "
            f"every person needs at least {least}{purpose}"
        )


def _require_counts(n_private: int, n_heldout: int, n_train: int | None) -> None:
    for name, value in (("n_private", n_private), ("n_heldout", n_heldout), ("n_train", n_train)):
        if value is not None and value < 1:
            raise UserError(f"{name} must be at least 1, got {value}")
