"""The notes' questions as studies. `latentprint study run NAME`; sizes are for two CPU cores."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from latentprint.errors import UserError
from latentprint.keys import did_you_mean
from latentprint.label.recipes import ARMS, LOSS_PRESETS
from latentprint.study.definition import Metric, Study, study_of
from latentprint.template import studies as template

#: Victim and evaluators of a seed are trained once and audited by every arm.
TRAINED = {"victim.weights": "networks/victim.safetensors", "evaluators.0.weights": "networks/evaluator-1.safetensors",
           "evaluators.1.weights": "networks/evaluator-2.safetensors"}
#: Twenty people, and stages of the proportions of the preset small: a run takes some four minutes on a core.
LABEL_SIZE: dict[str, Any] = {
    "data.private.people": 20, "data.private.photos": 30, "data.n_heldout": 6,
    "data.public.0.people": 1000, "data.evaluation.people": 150, "data.evaluation.photos": 4, "victim.steps": 350,
    "evaluators.0.steps": 400, "evaluators.1.steps": 500, "attack.map_steps": 300, "attack.horizon": 20,
    "attack.stages.0.steps": 10, "attack.stages.0.min_steps": 10, "attack.stages.1.steps": 30,
    "attack.stages.1.min_steps": 30, "attack.stages.2.steps": 60, "attack.stages.2.min_steps": 60,
    "attack.stages.2.embedding_lr": 1e-2, "attack.look_every": 10, "attack.images": 5,
}
LABEL_METRICS = {
    "match": Metric(title="identity match", path="attack", share=True),
    "top1": Metric(title="Top-1", path="metrics.top1", share=True),
    "similarity": Metric(title="similarity, judge", path="metrics.similarity_judge"),
    "frechet": Metric(title="Frechet distance", path="metrics.frechet", less_is_more=True),
    "diversity": Metric(title="diversity", path="metrics.diversity"),
    "perceptual": Metric(title="perceptual distance to the attribute image", path="metrics.perceptual",
                         less_is_more=True),
    "attributes": Metric(title="attribute error", path="metrics.attribute_error", less_is_more=True),
    "steps": Metric(title="steps to 80% success on the victim", logged="success", at_least=0.8, less_is_more=True),
    "attention": Metric(title="attention's entropy at first", logged="attention_entropy", take="first"),
    "variance": Metric(title="variance of the victim's loss", logged="raw/cls", take="variance", less_is_more=True),
    "spikes": Metric(title="spikes of the gradient", logged="grad_norm", take="spikes", less_is_more=True),
    "weight": Metric(title="weight of cls in the end", logged="weight/cls", take="last"),
}
LABEL_CURVES = {"success": "success on the victim", "identity": "similarity to the label's identity, teacher",
                "frechet": "Frechet distance", "raw/cls": "the victim's loss"}
FIRST_PERSON = {"data.private.first_identity": 1000}


def _label(name: str, question: str, arms: Mapping[str, dict[str, Any]], reference: str, seeds: int,
           *pairs: list[str]) -> Study:
    start: dict[str, Any] = {"attack.access": "scores", "attack.stages": [], "attack.map_steps": 1, "attack.images": 2}
    return Study(name=name, question=question, command="audit label", settings=LABEL_SIZE, per_seed=FIRST_PERSON,
                 start=start, uses=TRAINED, arms=dict(arms), reference=reference, metrics=LABEL_METRICS,
                 curves=LABEL_CURVES, pairs=list(pairs), seeds=seeds)


ANNEALING = _label(
    "annealing", "Does the hand-over from photos to labels help, by which annealing, and does alignment?",
    {**{arm: {"attack.arm": arm} for arm in ARMS},
     "random pairs": {"attack.arm": "cosine", "attack.pairing": "random"},
     "mapped": {}}, "baseline", 5,
    ["cosine", "linear"], ["cosine", "no-align"], ["cosine", "random pairs"])

LOSSES = _label(
    "losses", "What do the notes' losses A to D do to success, similarity and variety?",
    {**{preset: {"attack.loss": preset, "attack.initial": "pseudo"} for preset in LOSS_PRESETS},
     "ours": {"attack.initial": "pseudo"}}, "baseline", 5)

TEMPLATE_SIZE: dict[str, Any] = {"data.private.people": 60, "data.public.0.people": 3000, "attack.steps": 400}
TEMPLATE_METRICS = {
    "type2": Metric(title="SAR type II", path="metrics.sar_type2", share=True),
    "type1": Metric(title="SAR type I", path="metrics.sar_type1", share=True),
    "judge": Metric(title="SAR type II, judge", path="metrics.sar_type2_judge", share=True),
    "perceptual": Metric(title="perceptual distance", path="metrics.perceptual distance (attribute network)",
                         less_is_more=True),
    "ssim": Metric(title="SSIM", path="metrics.ssim"),
}


def _template(name: str, question: str, arms: template.Arms, reference: str) -> Study:
    return Study(name=name, question=question, command="audit template", settings=TEMPLATE_SIZE,
                 per_seed=FIRST_PERSON, arms={arm: dict(own) for arm, own in arms.items()}, reference=reference,
                 metrics=TEMPLATE_METRICS, phases="generator",
                 curves={"similarity": "similarity to the template", "pixel": "pixel loss"})


TEMPLATE_LOSSES = _template("template-losses", "InfoNCE or L2, a linear or a sigmoid weight, with a perceptual loss?",
                            template.LOSSES, "l2 linear")
NEGATIVES = _template("template-negatives", "Which negatives should InfoNCE have?", template.NEGATIVES, "random")
TEMPERATURES = _template("template-temperatures", "Which temperature should InfoNCE have?", template.TEMPERATURES,
                         "tau 0.1")


def _cem(kind: str, weight: float, **surrogate: Any) -> dict[str, Any]:
    own = {"kind": kind, **surrogate}
    return {"defences": [{"kind": "noise", "std": 0.05},
                         {"kind": "cem", "weight": weight, "lr_scaled": False, "warm_up": 0, "surrogate": own}]}


SURROGATES = Study(
    name="surrogates", question="How do surrogates of the conditional entropy trade accuracy for leak over lambda?",
    command="audit feature", per_seed={"data.train.first_identity": 1000, "data.test.first_identity": 1000},
    settings={
        "data.train": {"kind": "procedural", "people": 30, "photos": 40, "size": 32},
        "data.test": {"kind": "procedural", "people": 30, "photos": 16, "image_seed": 1000, "size": 32},
        "split.model": "builtin:resnet20", "training.augment": "none", "attacked": 300,
        "attack_settings.decoder.steps": 150, "attack_settings.decoder.batch": 32, "attack_settings.decoder.blocks": 1,
        "training.epochs": 1, "training.lr": 0.02},
    start={"training.epochs": 6, "training.lr": 0.05, "defences": []},
    uses={"training.start": "networks/victim.safetensors"},
    arms={"noise": {"defences": [{"kind": "noise", "std": 0.05}]},
          **{f"{kind} {weight:g}": _cem(kind, weight) for kind, weights in
             {"kmeans": (4, 16), "gmm": (4, 16), "slot": (1, 4), "gated": (1, 4)}.items() for weight in weights},
          "kmeans 16 constant": _cem("kmeans", 16, threshold={"kind": "constant"}),
          "kmeans 16 schedule": _cem("kmeans", 16, threshold={"kind": "schedule"})},
    reference="noise", phases="victim", curves={"accuracy": "accuracy in training"}, front=["accuracy", "leak"],
    pairs=[["gated 4", "kmeans 16"], ["kmeans 16 constant", "kmeans 16"], ["kmeans 16 schedule", "kmeans 16"]],
    metrics={"accuracy": Metric(title="accuracy", path="accuracy", share=True),
             "leak": Metric(title="variance recovered", path="leak", share=True, less_is_more=True),
             "mse": Metric(title="MSE", path="metrics.mse"),
             "ssim": Metric(title="SSIM", path="metrics.ssim", less_is_more=True)})

STUDIES: Mapping[str, Study] = MappingProxyType({study.name: study for study in (
    ANNEALING, LOSSES, SURROGATES, TEMPLATE_LOSSES, NEGATIVES, TEMPERATURES)})


def find_study(name: str) -> Study:
    """A built-in study, or one from a YAML file.

    Raises:
        UserError: neither, or the file is not a study.
    """
    if name in STUDIES:
        return STUDIES[name]
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        raise UserError(f"no study '{name}'; {did_you_mean(name, STUDIES)}, or a YAML file")
    try:
        told = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"{path}: not a study ({' '.join(str(error).split())})") from None
    return study_of(told, str(path))
