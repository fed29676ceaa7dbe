"""Images that a Python process holds, in the shapes in which they are usually held, as an `ImageSet`."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from latentprint.data.arrays import images_of, labels_of
from latentprint.data.base import ImageSet
from latentprint.data.cache import bytes_of
from latentprint.data.pixels import resize_square, square_rgb
from latentprint.errors import UserError

EXPECTED = ("an ImageSet, a torch Dataset of (image, label), tensors (images, labels), or images alone, each of a "
            "person of its own")


def is_images(value: object) -> bool:
    """Whether it is of one of the shapes that `image_set` takes."""
    arrays = (Tensor, np.ndarray)
    pair = isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], arrays)
    return pair or isinstance(value, (ImageSet, Dataset, DataLoader, *arrays))


def image_set(data: Any, source: str, names: Sequence[str] | None = None, prefix: str = "") -> ImageSet:
    """The images as bytes with their labels.

    Args:
        data: an `ImageSet`; a torch ``Dataset`` (or the one in a ``DataLoader``) of pairs (image, label), the image a
            PIL image, tensor or array; a pair (images, labels); or images alone, each a class of its own. Images are
            ``(N, 3, H, W)`` tensors or ``(N, H, W, 3)`` arrays, also grey or with opacity: bytes, or floats in [0, 1].
        source: what they are called in reports and messages.
        names: of the classes that labels count; None: those that the dataset has, else the labels themselves.
        prefix: before labels that serve as names, for label 0 of two sets not to be one person.

    Raises:
        UserError: it is none of these, or images or labels that could mean two things.
    """
    if isinstance(data, ImageSet):
        return data
    if isinstance(data, DataLoader):
        data = data.dataset
    if isinstance(data, Dataset):
        names = names or _class_names(data)
        data = _pairs(data, source)
    images, labels = data if isinstance(data, tuple) and len(data) == 2 else (data, None)
    if not isinstance(images, Tensor | np.ndarray):
        raise UserError(f"{source}: expected {EXPECTED}; got {type(images).__name__}")
    pixels, notes = _bytes(images, source)
    found = labels_of(np.arange(len(pixels)) if labels is None else np.asarray(_on_cpu(labels)),
                      None if names is None else np.array(names), len(pixels), source)
    called = found.names if names is not None else tuple(f"{prefix}{name}" for name in found.names)
    # without names there is a note that labels are taken for them, which is meant here
    notes += found.notes if names is not None else []
    full = ImageSet(pixels, torch.from_numpy(found.labels), called, source,
                    notes=(f"{source}: {'; '.join(notes)}",) if notes else ())
    return full.of_classes(full.counts().nonzero().flatten().tolist())


def digest_of(images: ImageSet) -> str:
    """SHA-256 (hex) of images, labels and names."""
    digest = hashlib.sha256(repr((tuple(images.images.shape), images.names)).encode())
    digest.update(bytes_of(images.images))
    digest.update(bytes_of(images.labels))
    return digest.hexdigest()


def sized(images: ImageSet, size: int) -> ImageSet:
    """The images centre-cropped to a square and resized to ``size`` pixels, where they are of another shape."""
    if images.images.shape[2:] == (size, size):
        return images
    return replace(images, images=resize_square(images.images, size), holes=None, attributes=None)


def _bytes(images: Tensor | np.ndarray, source: str) -> tuple[Tensor, list[str]]:
    """``(N, 3, H, W)`` uint8, and what was assumed."""
    if isinstance(images, Tensor):
        images = images.detach().cpu()
        if images.is_floating_point() and images.numel() and bool(((images >= 0) & (images <= 1)).all()):
            images = (images.float() * 255).round().to(torch.uint8)
        if images.ndim == 4 and images.shape[1] in (1, 3, 4):
            images = images.permute(0, 2, 3, 1)
        images = images.numpy()
    if images.dtype.kind == "f" and images.size and float(images.min()) < 0:
        raise UserError(f"{source}: pixel values from {images.min():.3g} to {images.max():.3g}, but black is 0; give "
                        "images in [0, 1] as they are before normalisation, which 'preprocess' describes")
    pixels, notes = images_of(images, source)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), notes


def _pairs(data: Any, source: str) -> tuple[Any, Any]:
    """Images and labels of a dataset, gone through once."""
    images, labels = [], []
    for index in range(len(data)):
        item = data[index]
        if not isinstance(item, tuple | list) or len(item) < 2:
            raise UserError(f"{source}: item {index} of the dataset is a {type(item).__name__}, expected a pair "
                            "(image, label)")
        images.append(_image(item[0]))
        labels.append(item[1].item() if isinstance(item[1], Tensor) else item[1])
    shapes = dict.fromkeys(tuple(each.shape) for each in images)
    if len(shapes) != 1:
        shown = ", ".join(map(str, list(shapes)[:3])) or "none"
        raise UserError(f"{source}: the images of a dataset must have one size, got {shown}; give it a transform that "
                        "resizes them")
    return torch.stack(images), np.asarray(labels)


def _image(image: Any) -> Tensor:
    if isinstance(image, Image.Image):
        return square_rgb(image, min(image.size))
    return image if isinstance(image, Tensor) else torch.as_tensor(np.asarray(image))


def _class_names(data: Any) -> Sequence[str] | None:
    """Those of a torchvision dataset, or of the one that a ``Subset`` is of."""
    while not hasattr(data, "classes") and hasattr(data, "dataset"):
        data = data.dataset
    found = getattr(data, "classes", None)
    return [str(name) for name in found] if isinstance(found, list | tuple) else None


def _on_cpu(labels: Any) -> Any:
    return labels.detach().cpu().numpy() if isinstance(labels, Tensor) else labels
