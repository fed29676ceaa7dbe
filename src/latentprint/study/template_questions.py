"""What the notes ask of the template channel (seed 002) as studies; sizes are for two CPU cores.

Arms are changes of settings, by name. What the notes expect of the losses (section 5), as a success rate in percent:
78.5 with L2 and a linear weight, 80.1 with a sigmoid, 84.7 with InfoNCE beside it, 85.0 with a perceptual loss on top;
InfoNCE at 1.05 and the perceptual loss at 1.15 times the cost of a step. Nobody measured them.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from types import MappingProxyType
from typing import Any

from latentprint.study.definition import Metric, Study

Arms = Mapping[str, Mapping[str, Any]]

#: Weight of the perceptual loss where it is on; it comes in over the last 40% of the training.
PERCEPTUAL = 1.0


def _arm(feature: str, ramp: str, perceptual: bool) -> dict[str, Any]:
    return {"attack.loss.feature": feature, "attack.loss.weight.kind": ramp,
            "attack.loss.perceptual.most": PERCEPTUAL if perceptual else 0.0}


LOSS_ARMS: Arms = MappingProxyType({
    f"{feature} {ramp}{' perceptual' if perceptual else ''}": _arm(feature, ramp, perceptual)
    for feature, ramp, perceptual in product(("l2", "info-nce"), ("linear", "sigmoid"), (False, True))})

NEGATIVE_ARMS: Arms = MappingProxyType({kind: {"attack.loss.negatives": kind} for kind in ("random", "hard", "queue")})

TEMPERATURE_ARMS: Arms = MappingProxyType({f"tau {tau:g}": {"attack.loss.temperature": tau}
                                       for tau in (0.05, 0.07, 0.1, 0.2)})

STUDIES: Mapping[str, Arms] = MappingProxyType({"template-losses": LOSS_ARMS, "template-negatives": NEGATIVE_ARMS,
                                                "template-temperatures": TEMPERATURE_ARMS})

#: An eighth of the steps of the preset small, and half the width: at twice the steps nine in ten reconstructions pass
#: already, and little can be told apart.
SIZE: dict[str, Any] = {"data.private.people": 60, "data.public.0.people": 3000, "attack.steps": 200,
                        "attack.width": 128}
METRICS = {
    "type2": Metric(title="SAR type II", path="metrics.sar_type2", share=True),
    "type1": Metric(title="SAR type I", path="metrics.sar_type1", share=True),
    "judge": Metric(title="SAR type II, judge", path="metrics.sar_type2_judge", share=True),
    "similarity": Metric(title="similarity in training, teacher, in the end", logged="similarity", take="last"),
    "perceptual": Metric(title="perceptual distance", path="metrics.perceptual distance (attribute network)",
                         less_is_more=True),
    "ssim": Metric(title="SSIM", path="metrics.ssim"),
    **{f"ratio {loss}": Metric(title=f"gradient of {title} in the end, of that at first", logged=f"gradient_{loss}",
                                 take="ratio")
       for loss, title in (("l2", "L2"), ("info_nce", "InfoNCE"))},
}


def _study(name: str, question: str, arms: Arms, reference: str, *pairs: list[str]) -> Study:
    return Study(name=name, question=question, command="audit template", settings=SIZE,
                 per_seed={"data.private.first_identity": 1000}, arms={arm: dict(own) for arm, own in arms.items()},
                 reference=reference, pairs=list(pairs), metrics=METRICS, phases="generator",
                 curves={"similarity": "similarity to the template", "pixel": "pixel loss"})


LOSSES = _study("template-losses", "InfoNCE or L2, a linear or a sigmoid weight, with a perceptual loss?",
                LOSS_ARMS, "l2 linear", ["info-nce sigmoid", "l2 sigmoid"],
                ["info-nce sigmoid perceptual", "info-nce sigmoid"])
NEGATIVES = _study("template-negatives", "Which negatives should InfoNCE have?", NEGATIVE_ARMS, "random")
TEMPERATURES = _study("template-temperatures", "Which temperature should InfoNCE have?", TEMPERATURE_ARMS,
                      "tau 0.1")
