"""Where images come from, as settings: ``{"kind": "folder", "path": "...", "size": 64}``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from latentprint.config import Config
from latentprint.data.base import ImageSet, concatenate
from latentprint.data.cache import cached, default_cache_dir, fingerprint
from latentprint.data.folder import load_flat, load_folder, load_nested, load_tiny_imagenet
from latentprint.data.hf import load_hf
from latentprint.data.npz import load_npz
from latentprint.data.objects import image_set, sized
from latentprint.data.procedural import make_people
from latentprint.data.vision import Part, load_celeba, load_cifar
from latentprint.errors import UserError
from latentprint.memory import recall
from latentprint.registry import made_by

Size = Annotated[int, Field(ge=8, le=2048, description="height and width of the images, in pixels")]


class ProceduralSource(Config):
    """Faces of people who do not exist, drawn from seeds."""

    kind: Literal["procedural"] = "procedural"
    people: int = Field(default=400, ge=1, description="number of people")
    photos: int = Field(default=16, ge=1, description="photos of each person")
    first_identity: int = Field(default=0, ge=0, description="identity seed of the first person; the others follow")
    image_seed: int = Field(default=0, ge=0, description="seed of each person's first photo; the others follow")
    population: str | Annotated[list[str], Field(min_length=1)] = Field(
        default="default", description="population that the people are drawn from: default, palette, aged, posed or "
                                       "shifted; of a list each has an equal share of the people, in its order")
    size: Size = 64


class FolderSource(Config):
    """A folder with one subfolder of photos for each person."""

    kind: Literal["folder"] = "folder"
    path: Path = Field(description="folder with one subfolder for each person")
    size: Size = 64
    min_photos: int = Field(default=1, ge=1, description="leave out people with fewer photos")
    max_people: int | None = Field(default=None, ge=1, description="at most so many people; null for all")


class NestedSource(FolderSource):
    """Folders of photos at any depth, each a person, such as FaceScrub's actors and actresses."""

    kind: Literal["nested", "facescrub"] = "nested"  # type: ignore[assignment]
    path: Path = Field(description="folder in which, at any depth, each person has a folder")


class LfwSource(FolderSource):
    """Labeled Faces in the Wild, aligned or not, from a local copy."""

    kind: Literal["lfw"] = "lfw"  # type: ignore[assignment]
    path: Path = Field(description="folder that holds lfw, lfw_funneled or lfw-deepfunneled, or one of these")


class FlatSource(Config):
    """Photos of nobody in particular, such as FFHQ: each is a person of its own."""

    kind: Literal["flat", "ffhq"] = "flat"
    path: Path = Field(description="folder with photos in it or below")
    size: Size = 64
    first: int = Field(default=0, ge=0, description="number of the first photo taken, in sorted order")
    count: int | None = Field(default=None, ge=1, description="at most so many; null for all")


class TinyImageNetSource(Config):
    """Tiny-ImageNet, from a local copy."""

    kind: Literal["tiny-imagenet"] = "tiny-imagenet"
    path: Path = Field(description="the folder tiny-imagenet-200")
    size: Size = 64
    part: Literal["train", "test"] = Field(default="train", description="train, or test: the published validation part")


class HfSource(Config):
    """A Hugging Face dataset on disk (extra 'hf')."""

    kind: Literal["hf"] = "hf"
    path: Path = Field(description="folder that save_to_disk wrote, or one of Parquet files, whose names say the split")
    size: Size = 64
    image: str = Field(default="image", description="column of the images")
    label: str = Field(default="label", description="column of the person or class")
    split: str | None = Field(default=None, description="split; null where there is one alone")


class NpzSource(Config):
    """An image pack: ``images``, ``labels`` and ``class_names`` in one file."""

    kind: Literal["npz"] = "npz"
    path: Path = Field(description="the .npz file")
    size: Size = 64
    where: dict[str, int] = Field(default_factory=dict, description="keep images whose column has this value")


class CifarSource(Config):
    """CIFAR-10 or CIFAR-100, from a local copy."""

    kind: Literal["cifar10", "cifar100"]
    path: Path = Field(description="folder that holds cifar-10-batches-py or cifar-100-python")
    size: Size = 32
    part: Part = Field(default="all", description="which of the published parts")


class CelebASource(Config):
    """CelebA with identity labels, from a local copy."""

    kind: Literal["celeba"] = "celeba"
    path: Path = Field(description="folder that holds celeba")
    size: Size = 64
    min_photos: int = Field(default=20, ge=1, description="leave out people with fewer photos")
    max_people: int | None = Field(default=None, ge=1, description="at most so many people; null for all")


class MemorySource(Config):
    """Images that a Python process holds, as `latentprint.audit` names them."""

    kind: Literal["memory"] = "memory"
    name: str = Field(description="what they are called, with a digest of their content")
    size: Size = 64


class CustomSource(Config):
    """Images by code of one's own."""

    kind: Literal["custom"] = "custom"
    made_by: str = Field(description="FILE.py:NAME, PACKAGE.MODULE:NAME or plugin:NAME, which gives an ImageSet, a "
                                     "torch Dataset, or tensors (images, labels)")
    options: dict[str, bool | int | float | str | None] = Field({}, description="its arguments, by name")
    size: Size = 64


#: Sources that are prepared once and kept.
KeptSource = (ProceduralSource | FolderSource | NestedSource | LfwSource | FlatSource | NpzSource | CifarSource
              | CelebASource | TinyImageNetSource | HfSource)
DataSource = Annotated[KeptSource | MemorySource | CustomSource, Field(discriminator="kind")]


def load(source: DataSource) -> ImageSet:
    """The images of ``source``, kept prepared in :func:`~latentprint.data.cache.default_cache_dir`.

    Raises:
        UserError: the source cannot be read; see the loader of its kind.
    """
    if isinstance(source, MemorySource):
        return sized(recall(source.name), source.size)
    if isinstance(source, CustomSource):
        return sized(image_set(made_by(source.made_by, object, **source.options), source.made_by), source.size)
    parts: dict[str, Any] = {"source": source.model_dump(mode="json")}
    if not isinstance(source, ProceduralSource):
        parts["files"] = fingerprint(source.path)
    return cached(parts, _maker(source), default_cache_dir())


def _people(source: ProceduralSource) -> ImageSet:
    populations = [source.population] if isinstance(source.population, str) else source.population
    if len(populations) > source.people:
        raise UserError(f"population: {len(populations)} populations cannot share {source.people} people")
    seeds = np.array_split(np.arange(source.first_identity, source.first_identity + source.people), len(populations))
    return concatenate(*(make_people(own.tolist(), source.photos, source.image_seed, source.size, population)
                         for own, population in zip(seeds, populations, strict=True)))


def _maker(source: KeptSource) -> Callable[[], ImageSet]:
    match source:
        case ProceduralSource():
            return lambda: _people(source)
        case LfwSource():
            return lambda: load_folder(_lfw(source.path), source.size, source.min_photos, source.max_people)
        case NestedSource():
            return lambda: load_nested(source.path, source.size, source.min_photos, source.max_people)
        case FolderSource():
            return lambda: load_folder(source.path, source.size, source.min_photos, source.max_people)
        case FlatSource():
            return lambda: load_flat(source.path, source.size, source.first, source.count)
        case TinyImageNetSource():
            return lambda: load_tiny_imagenet(source.path, source.size, source.part == "train")
        case HfSource():
            return lambda: load_hf(source.path, source.size, source.image, source.label, source.split)
        case NpzSource():
            return lambda: load_npz(source.path, source.size, source.where)
        case CifarSource():
            return lambda: load_cifar(source.kind, source.path, source.size, source.part)
        case CelebASource():
            return lambda: load_celeba(source.path, source.size, source.min_photos, source.max_people)


def _lfw(path: Path) -> Path:
    """The folder of people itself, or the one of its usual names in it."""
    return next((path / name for name in ("lfw", "lfw_funneled", "lfw-deepfunneled") if (path / name).is_dir()), path)
