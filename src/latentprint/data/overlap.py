"""Does the adversary's public data hold what it must not: the private people or their photos?

Names and equal bytes decide. Photos that only look alike are counted, by a perceptual hash and a thumbnail: two
people may look alike, and a copy that was cropped otherwise does not, so this is a hint and no proof.
"""

from __future__ import annotations

import hashlib
import math
import unicodedata
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from latentprint.data.base import ImageSet
from latentprint.data.listing import counted
from latentprint.errors import UserError
from latentprint.progress import tracked

# Measured at 64 px. By the hash alone the closest photos of two people are 8 bits apart in AT&T/ORL and in
# the London set, but of 800 procedural photos 24 have one among 1,600 others within 5 (0.1% in CIFAR-10);
# the thumbnails of these pairs correlate below 0.93. Copies after JPEG at quality 40, half size and back,
# or a 15% change of brightness all lie within 5 bits and correlate above 0.994.
NEAR_BITS = 5
NEAR_CORRELATION = 0.98
_SIDE = 8  # of the block of coefficients in the hash, and of the thumbnail
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
_MAX_PAIRS = 2**23
_MAX_FLOATS = 2**22


def overlaps(apart: Iterable[tuple[ImageSet, ImageSet]] = (),
             held: Iterable[tuple[ImageSet, ImageSet]] = ()) -> list[str]:
    """Warnings about sets that share photos, as sentences; empty when there are none.

    Args:
        apart: pairs of sets that must not share people; see `check_overlap`.
        held: pairs of the same classes, what was learned from and what is held out; see `check_held`.

    Raises:
        UserError: a pair of ``apart`` shares a person by name, or a photo byte for byte.
    """
    return [*(warning for pair in apart for warning in check_overlap(*pair)),
            *(warning for pair in held for warning in check_held(*pair))]


def check_held(learned: ImageSet, held: ImageSet) -> list[str]:
    """Warnings about held-out images that equal, or nearly equal, images that were learned from, and about images given
    as of two classes."""
    first, second = photo_digests(learned.images), photo_digests(held.images)
    known = set(first)
    same = torch.tensor([digest in known for digest in second], dtype=torch.bool)
    near = near_duplicates(held.images[~same], learned.images)
    of, among = f"of {len(held)} held-out images of {held.source}", f"the images to train on of {learned.source}"
    return [*([f"{int(same.sum())} {of} are also among {among}: accuracy and leak flatter"] if same.any() else []),
            *([f"{int(near.sum())} {of} look like one among {among}: copies flatter accuracy and leak"]
              if near.any() else []),
            *_of_two_classes(learned, [*zip(first, learned.labels.tolist(), strict=True),
                                       *zip(second, held.labels.tolist(), strict=True)])]


def _of_two_classes(learned: ImageSet, labelled: Iterable[tuple[bytes, int]]) -> list[str]:
    """A warning for digests that have two labels."""
    owners: dict[bytes, set[int]] = {}
    for digest, label in labelled:
        owners.setdefault(digest, set()).add(label)
    shared = [sorted(of) for of in owners.values() if len(of) > 1]
    if not shared:
        return []
    many = counted(len(shared), "photo is", "photos are")
    one, other = (learned.names[label] for label in shared[0][:2])
    return [f"{learned.source}: {many} given as of two people, the first as '{one}' and as '{other}': one of the two "
            "is wrong"]


def check_overlap(public: ImageSet, private: ImageSet) -> list[str]:
    """Warnings about public photos that nearly equal private ones, as sentences; empty when there are none.

    Raises:
        UserError: a person is in both, by name, or a photo is in both, byte for byte.
    """
    check_people(public, private)
    check_photos(public, private)
    near = near_duplicates(private.images, public.images)
    if not near.any():
        return []
    person = private.names[int(private.labels[near.nonzero()[0, 0]])]
    return [
        f"{int(near.sum())} of {len(private)} photos of {private.source} look like one of {public.source}, "
        f"the first of '{person}'"
    ]


def check_people(public: ImageSet, private: ImageSet) -> None:
    """Raise UserError when a person is in both sets, by name (case and Unicode composition do not count)."""
    known = {_folded(name) for name in public.names}
    shared = [name for name in private.names if _folded(name) in known]
    if shared:
        others = f" (and {len(shared) - 1} more)" if len(shared) > 1 else ""
        raise UserError(
            f"person '{shared[0]}'{others} is in both {public.source} and {private.source}; "
            "rename one if it is not the same person"
        )


def check_photos(public: ImageSet, private: ImageSet) -> None:
    """Raise UserError when a photo of one set is, byte for byte, in the other."""
    owners = dict(zip(photo_digests(public.images), public.labels.tolist(), strict=True))
    mine = zip(photo_digests(private.images), private.labels.tolist(), strict=True)
    shared = [(owners[digest], label) for digest, label in mine if digest in owners]
    if shared:
        in_public, in_private = public.names[shared[0][0]], private.names[shared[0][1]]
        raise UserError(
            f"photos that are in both {public.source} and {private.source}: {len(shared)}, "
            f"the first as '{in_public}' and as '{in_private}'"
        )


def photo_digests(images: Tensor) -> list[bytes]:
    """The SHA-256 of each image's bytes, ``(N, 3, H, W)`` uint8."""
    return [hashlib.sha256(image.tobytes()).digest() for image in images.numpy()]


def near_duplicates(images: Tensor, others: Tensor) -> Tensor:
    """Which images have a near duplicate among others.

    A pair is one when the perceptual hashes differ in at most ``NEAR_BITS`` bits and the colour thumbnails correlate
    by at least ``NEAR_CORRELATION``.

    Args:
        images: ``(N, 3, H, W)`` uint8.
        others: ``(M, 3, H, W)`` uint8.

    Returns:
        ``(N,)`` bool.
    """
    if not len(images):
        return torch.zeros(0, dtype=torch.bool)
    signs, other_signs = (2 * perceptual_hash(each).float() - 1 for each in (images, others))
    thumbnails, other_thumbnails = _thumbnails(images), _thumbnails(others)
    # For n signs +-1 the Hamming distance is (n - <a, b>) / 2: a matrix product finds all pairs.
    bound = signs.shape[1] - 2 * NEAR_BITS
    chunk = max(1, _MAX_PAIRS // max(1, len(others)))
    found = torch.zeros(len(images), dtype=torch.bool)
    parts = list(zip(signs.split(chunk), range(0, len(images), chunk), strict=True))
    for sign, first in tracked(parts, "looking for near duplicates"):
        row, column = (sign @ other_signs.T >= bound).nonzero(as_tuple=True)
        alike = (thumbnails[first + row] * other_thumbnails[column]).sum(1) >= NEAR_CORRELATION
        found[first + row[alike]] = True
    return found


def perceptual_hash(images: Tensor) -> Tensor:
    """``(N, 64)`` bool: the signs of the 8 x 8 lowest cosine coefficients of the grey 32 x 32 thumbnail.

    The DCT hash of Zauner 2010, with the sign in place of the median. The transform's constant row and column
    are left out, so brightness does not count.
    """
    return torch.cat([_signs(part) for part in images.split(_at_once(images))])


def _at_once(images: Tensor) -> int:
    """How many images to hold as floats."""
    return max(1, _MAX_FLOATS // images[0].numel()) if len(images) else 1


def _signs(images: Tensor) -> Tensor:
    side = 4 * _SIDE
    grey = torch.einsum("nchw,c->nhw", images.float(), torch.tensor(_LUMA)).unsqueeze(1)
    thumbnail = F.interpolate(grey, size=(side, side), mode="bilinear", antialias=True).squeeze(1)
    frequency = torch.arange(1, _SIDE + 1)[:, None]
    cosine = torch.cos(math.pi / side * frequency * (torch.arange(side) + 0.5))
    return (cosine @ thumbnail @ cosine.T > 0).flatten(1)


def _thumbnails(images: Tensor) -> Tensor:
    """``(N, 3 * 8 * 8)``, centred and of unit length, so that an inner product is a correlation."""
    small = torch.empty(len(images), images.shape[1] * _SIDE**2)
    step = _at_once(images)
    for first in range(0, len(images), step):
        part = images[first : first + step].float()
        small[first : first + step] = F.adaptive_avg_pool2d(part, _SIDE).flatten(1)
    small -= small.mean(1, keepdim=True)
    small /= small.norm(dim=1, keepdim=True).clamp_min_(1e-12)
    return small


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
