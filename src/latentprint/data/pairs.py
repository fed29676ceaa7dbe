"""Lists of pairs of photos, same person or not, as Labeled Faces in the Wild defines its verification protocol."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from latentprint.data.pixels import decode_photos
from latentprint.errors import UserError


@dataclass(frozen=True)
class Pairs:
    """Photos and pairs of them.

    Attributes:
        images: ``(N, 3, H, W)`` uint8, each photo once. first, second: ``(P,)`` int64 into them.
        same: ``(P,)`` bool. fold: ``(P,)`` int64, of the cross-validation.
    """

    images: Tensor
    first: Tensor
    second: Tensor
    same: Tensor
    fold: Tensor

    def __len__(self) -> int:
        return len(self.same)


def load_lfw_pairs(folder: Path, listing: Path, size: int) -> Pairs:
    """LFW's ``pairs.txt`` (Huang et al. 2007) with the photos ``folder/NAME/NAME_0001.jpg``.

    The first line is the number of folds and of pairs of each kind in each; then ``NAME i j`` for the same person and
    ``NAME i OTHER j`` for two, fold by fold, same ones first.

    Raises:
        UserError: the list cannot be read, has another number of lines than its first one says, or names a photo that
            is not there.
    """
    try:
        head, *lines = listing.read_text(encoding="utf-8").splitlines()
        folds, each = (int(word) for word in head.split())
        rows = [line.split() for line in lines if line.strip()]
        ends = [_ends(row) for row in rows]
    except (OSError, ValueError) as error:
        raise UserError(f"{listing}: not a list of pairs as LFW publishes it ({error})") from None
    if len(rows) != 2 * folds * each:
        raise UserError(f"{listing}: {len(rows)} pairs, but its first line promises {folds} x 2 x {each}")
    paths = [[folder / name / f"{name}_{number:04d}.jpg" for name, number in pair] for pair in ends]
    unique = sorted({path for pair in paths for path in pair})
    if absent := next((path for path in unique if not path.is_file()), None):
        raise UserError(f"{listing}: names {absent}, which is not there")
    place = {path: index for index, path in enumerate(unique)}
    index = torch.tensor([[place[path] for path in pair] for pair in paths])
    return Pairs(decode_photos(unique, size), index[:, 0], index[:, 1], torch.tensor([len(row) == 3 for row in rows]),
                 torch.arange(len(rows)) // (2 * each))


def _ends(row: list[str]) -> list[tuple[str, int]]:
    if len(row) == 3:
        return [(row[0], int(row[1])), (row[0], int(row[2]))]
    first, number, second, other = row
    return [(first, int(number)), (second, int(other))]
