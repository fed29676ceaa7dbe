"""Which preprocessing does a victim of the user's own expect? Common ones are tried jointly on its own people.

Two faults at once (colours and scale, say) show only when both are mended: so every combination is tried, on few
photos first, and the best of them is compared with what was declared photo by photo.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import torch
from scipy.stats import binomtest
from torch import Tensor

from latentprint.checks import Flag
from latentprint.data.base import ImageSet
from latentprint.label.probe import LEVEL, hits_of
from latentprint.models.preprocess import Box, Colours, Preprocess
from latentprint.probes import spread
from latentprint.victim import Victim

#: Photos on which every combination is tried, and the best of them are compared with the one declared.
TRIED, COMPARED = 24, 200
#: Combinations that name at most so many photos fewer right than the best go on to the second round, at most so many.
CLOSE, FINALISTS = 2, 8
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)
CENTRE: Box = (0.125, 0.125, 0.875, 0.875)
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
#: Mean of bytes in the order blue, green, red, as Caffe's face networks subtract it.
CAFFE = (91.4953, 103.8827, 131.0912)


@dataclass(frozen=True)
class Scaling:
    """How values are scaled and centred, and what that is called."""

    called: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float = 1.0


SCALINGS = (
    Scaling("values in [-1, 1]", (0.5,) * 3, (0.5,) * 3),
    Scaling("values in [0, 1]", (0.0,) * 3, (1.0,) * 3),
    Scaling("ImageNet's", *IMAGENET),
    Scaling("bytes", (0.0,) * 3, (1.0,) * 3, 255.0),
    Scaling("centred bytes", (127.5,) * 3, (128.0,) * 3, 255.0),
    Scaling("VGGFace's mean, blue first", CAFFE, (1.0,) * 3, 255.0),
)


def preprocessing_flag(other: Tried | None) -> Flag | None:
    """Blind where another preprocessing is surely better than the one declared."""
    if other is None or not other.sure:
        return None
    return Flag("preprocessing", "blind", f"with {other.words} the model names {other.right} of {other.n} private "
                f"photos right instead of {other.declared}, so it is probably not shown photos as it was trained on "
                "them", "declare it so, unless you know better")


@dataclass(frozen=True)
class Combination:
    """A preprocessing, and each setting that differs from the declared one in words."""

    changes: tuple[str, ...]
    look: Preprocess


@dataclass(frozen=True)
class Tried:
    """A preprocessing that names more photos right than the one declared.

    Attributes:
        words: what differs from the declared one, as settings.
        right, declared: photos named right with it and as declared, of ``n``.
        p: of the exact sign test on the photos that only one of the two names right, times the combinations tried.
    """

    words: str
    right: int
    declared: int
    n: int
    p: float

    @property
    def sure(self) -> bool:
        """Whether the difference is more than the luck of the best among many."""
        return self.p <= LEVEL


def best_other(victim: Victim, photos: ImageSet) -> Tried | None:
    """The combination that names most photos right, or None where none names more than the declared one.

    Of combinations that the best does not surely beat, the one that changes least.
    """
    first = spread(photos, TRIED)
    declared = int(hits_of(victim, first).sum())
    counted = [(int(right.sum()), each) for each in combinations(victim)
               if (right := tried(victim, each.look, first)) is not None]
    most = max((count for count, _ in counted), default=0)
    better = [each for count, each in counted if count > declared and count >= most - CLOSE][:FINALISTS]
    if not better:
        return None
    rest = spread(photos, COMPARED)
    own = hits_of(victim, rest)
    found = [(each, right) for each in better if (right := tried(victim, each.look, rest)) is not None]
    best = max((right for _, right in found), key=lambda right: int(right.sum()))
    simplest, right = next((each, right) for each, right in found if sign_test(best, right) > LEVEL)
    if int(right.sum()) <= int(own.sum()):
        return None
    return Tried("; ".join(simplest.changes), int(right.sum()), int(own.sum()), len(rest),
                 min(1.0, sign_test(right, own) * (len(counted) + 1)))


def sign_test(first: Tensor, second: Tensor) -> float:
    """P value of the exact sign test (McNemar) that ``first`` (N,) bool is right more often than ``second``."""
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    if not only_first + only_second:
        return 1.0
    return float(binomtest(only_first, only_first + only_second, 0.5, alternative="greater").pvalue)


def combinations(victim: Victim) -> list[Combination]:
    """Other preprocessings of the same input size: colours, scaling and crop. Those that change least come first."""
    own = victim.preprocess
    here = Scaling("", _three(own.mean), _three(own.std), own.scale)
    colours: list[Colours] = ["grey"] if own.colours == "grey" else ["rgb", "bgr"]
    scalings = [here, *(each for each in SCALINGS if not _alike(each, here))]
    crops = [own.crop, *(box for box in (WHOLE, CENTRE) if box != own.crop)]
    found = []
    for order, scaling, crop in product(colours, scalings, crops):
        changes = [f"colours {order}"] * (order != own.colours)
        changes += [settings_of(scaling, here)] * (scaling is not here)
        changes += [f"crop {', '.join(f'{x:g}' for x in crop)}"] * (crop != own.crop)
        look = Preprocess(crop, own.size, scaling.mean, scaling.std, order, scaling.scale)
        found.append(Combination(tuple(changes), look))
    return sorted((each for each in found if each.changes), key=lambda each: len(each.changes))


def tried(victim: Victim, look: Preprocess, photos: ImageSet) -> Tensor | None:
    """Whether each photo is named right under another preprocessing; None where the victim cannot take it."""
    own = victim.preprocess
    victim.preprocess = look.to(victim.device)
    try:
        return hits_of(victim, photos)
    except Exception:  # a foreign network may raise anything at a size that it was not made for
        return None
    finally:
        victim.preprocess = own


def _three(values: Tensor) -> tuple[float, ...]:
    return tuple(round(float(value), 6) for value in values.flatten())


def settings_of(scaling: Scaling, declared: Scaling) -> str:
    """What to set for a scaling where it differs from the one declared, and what it is called."""
    found = {"mean": scaling.mean, "std": scaling.std, "scale": (scaling.scale,)}
    given = {"mean": declared.mean, "std": declared.std, "scale": (declared.scale,)}
    return ", ".join(f"{key} {_short(value)}" for key, value in found.items() if value != given[key]) + (
        f" ({scaling.called})")


def _short(values: tuple[float, ...]) -> str:
    return f"{values[0]:g}" if len({*values}) == 1 else f"[{', '.join(f'{value:g}' for value in values)}]"


def _alike(one: Scaling, other: Scaling) -> bool:
    """Whether two scalings map images to the same values."""
    x = torch.tensor([0.0, 1.0])[:, None]

    def mapped(s: Scaling) -> Tensor:
        return (x * s.scale - torch.tensor(s.mean)) / torch.tensor(s.std)

    return bool(torch.allclose(mapped(one), mapped(other), atol=1e-4))
