"""CIFAR-10, CIFAR-100 and CelebA from a local copy, read by torchvision. Nothing is downloaded.

The CIFAR files are Python pickles. They are unpickled only after their MD5 matches the published one, so an
altered file is refused unread.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torchvision.datasets import CIFAR10, CIFAR100, CelebA
from torchvision.datasets.utils import check_integrity

from latentprint.data.base import ImageSet
from latentprint.data.pixels import read_photos, resize_square
from latentprint.errors import UserError

Part = Literal["train", "test", "all"]
_CIFAR = {"cifar10": CIFAR10, "cifar100": CIFAR100}
_TRAIN = {"train": (True,), "test": (False,), "all": (True, False)}
_CIFAR_PAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"
_CELEBA_PAGE = "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"


def load_cifar(name: Literal["cifar10", "cifar100"], path: Path, size: int, part: Part = "all") -> ImageSet:
    """CIFAR at ``size`` pixels (Krizhevsky 2009; the originals have 32), training part first.

    Args:
        path: the folder that holds ``cifar-10-batches-py`` or ``cifar-100-python``.

    Raises:
        UserError: files missing or other than published, with their MD5s and where to get them.
    """
    kind = _CIFAR[name]
    files = [*kind.train_list, *kind.test_list, (kind.meta["filename"], kind.meta["md5"])]
    remedy = f"unpack {kind.filename} (md5 {kind.tgz_md5}) from {_CIFAR_PAGE} in {path}"
    _require(name, path / kind.base_folder, [(file, md5) for file, md5 in files], remedy)
    halves = [kind(str(path), train=train) for train in _TRAIN[part]]
    pixels = np.concatenate([half.data for half in halves])
    return ImageSet(
        images=resize_square(torch.from_numpy(pixels).permute(0, 3, 1, 2), size),
        labels=torch.tensor([label for half in halves for label in half.targets]),
        names=tuple(halves[0].classes),
        source=f"{name} ({part})",
    )


def load_celeba(path: Path, size: int, min_photos: int = 20, max_people: int | None = None) -> ImageSet:
    """CelebA's aligned photos with the identity annotation as label (Liu et al. 2015), centre-cropped.

    Args:
        path: the folder that holds ``celeba``.
        min_photos: people with fewer photos are left out.
        max_people: keep the first so many of the others, by identity number.

    Raises:
        UserError: annotation or photos missing, or nobody has ``min_photos`` photos.
    """
    folder = path / CelebA.base_folder
    annotation = [(file, md5) for _, md5, file in CelebA.file_list if file.endswith(".txt")]
    remedy = f"get the annotation files and img_align_celeba.zip (unpacked) from {_CELEBA_PAGE}"
    _require("celeba", folder, annotation, remedy)
    if not (folder / "img_align_celeba").is_dir():
        raise UserError(f"celeba: missing folder {folder / 'img_align_celeba'}; {remedy}")
    photos = CelebA(str(path), split="all", target_type="identity")
    people, person, count = photos.identity[:, 0].unique(return_inverse=True, return_counts=True)
    chosen = (count >= min_photos).nonzero().flatten()[:max_people]
    if len(chosen) == 0:
        raise UserError(f"celeba: nobody has min_photos = {min_photos} photos; the most is {int(count.max())}")
    new = torch.full((len(people),), -1).scatter(0, chosen, torch.arange(len(chosen)))
    kept = (new[person] >= 0).nonzero().flatten()
    files = [folder / "img_align_celeba" / photos.filename[index] for index in kept.tolist()]
    source = f"celeba (at least {min_photos} photos a person)"
    images, notes = read_photos(files, size, source)
    return ImageSet(
        images=images,
        labels=new[person][kept],
        names=tuple(f"celeba-{number:05d}" for number in people[chosen].tolist()),
        source=source,
        notes=notes,
    )


def _require(name: str, folder: Path, files: Sequence[tuple[str, str]], remedy: str) -> None:
    """Raise unless every ``(file, md5)`` lies in ``folder`` with that MD5."""
    absent = [f"{file} (md5 {md5})" for file, md5 in files if not (folder / file).is_file()]
    if absent:
        raise UserError(f"{name}: missing in {folder}: {', '.join(absent)}; {remedy}")
    altered = [f"{file} (md5 {md5} expected)" for file, md5 in files if not check_integrity(folder / file, md5)]
    if altered:
        raise UserError(f"{name}: not as published in {folder}: {', '.join(altered)}; {remedy}")
