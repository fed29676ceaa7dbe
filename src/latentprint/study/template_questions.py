"""What the notes ask of the template channel (seed 002) as studies; sizes are for two CPU cores."""

from __future__ import annotations

from typing import Any

from latentprint.study.definition import Metric, Study
from latentprint.template import studies

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


def _study(name: str, question: str, arms: studies.Arms, reference: str, *pairs: list[str]) -> Study:
    return Study(name=name, question=question, command="audit template", settings=SIZE,
                 per_seed={"data.private.first_identity": 1000}, arms={arm: dict(own) for arm, own in arms.items()},
                 reference=reference, pairs=list(pairs), metrics=METRICS, phases="generator",
                 curves={"similarity": "similarity to the template", "pixel": "pixel loss"})


LOSSES = _study("template-losses", "InfoNCE or L2, a linear or a sigmoid weight, with a perceptual loss?",
                studies.LOSSES, "l2 linear", ["info-nce sigmoid", "l2 sigmoid"],
                ["info-nce sigmoid perceptual", "info-nce sigmoid"])
NEGATIVES = _study("template-negatives", "Which negatives should InfoNCE have?", studies.NEGATIVES, "random")
TEMPERATURES = _study("template-temperatures", "Which temperature should InfoNCE have?", studies.TEMPERATURES,
                      "tau 0.1")
