"""The notes' study of template losses (seed 002, section 5) as data: arms are changes of settings, by name.

What the notes expect, as a success rate in percent: 78.5 with L2 and a linear weight, 80.1 with a sigmoid, 84.7 with
InfoNCE beside it, 85.0 with a perceptual loss on top; InfoNCE at 1.05 and the perceptual loss at 1.15 times the cost
of a step. Nobody measured them.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from types import MappingProxyType
from typing import Any

Arms = Mapping[str, Mapping[str, Any]]

#: Weight of the perceptual loss where it is on; it comes in over the last 40% of the training.
PERCEPTUAL = 1.0


def _arm(feature: str, ramp: str, perceptual: bool) -> dict[str, Any]:
    return {"attack.loss.feature": feature, "attack.loss.weight.kind": ramp,
            "attack.loss.perceptual.most": PERCEPTUAL if perceptual else 0.0}


LOSSES: Arms = MappingProxyType({
    f"{feature} {ramp}{' perceptual' if perceptual else ''}": _arm(feature, ramp, perceptual)
    for feature, ramp, perceptual in product(("l2", "info-nce"), ("linear", "sigmoid"), (False, True))})

NEGATIVES: Arms = MappingProxyType({kind: {"attack.loss.negatives": kind} for kind in ("random", "hard", "queue")})

TEMPERATURES: Arms = MappingProxyType({f"tau {tau:g}": {"attack.loss.temperature": tau}
                                       for tau in (0.05, 0.07, 0.1, 0.2)})

STUDIES: Mapping[str, Arms] = MappingProxyType({"template-losses": LOSSES, "template-negatives": NEGATIVES,
                                                "template-temperatures": TEMPERATURES})
