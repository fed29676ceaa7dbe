"""What the notes ask of the label channel (seeds 000 and 001) as studies; sizes are for two CPU cores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from latentprint.label.recipes import ARMS, LOSS_PRESETS
from latentprint.study.definition import Metric, Study

#: Victim and evaluators of a seed are trained once and audited by every arm.
TRAINED = {"victim.weights": "networks/victim.safetensors", "evaluators.0.weights": "networks/evaluator-1.safetensors",
           "evaluators.1.weights": "networks/evaluator-2.safetensors"}
#: That first run: no more of an attack than a run must have.
START: dict[str, Any] = {"attack.access": "scores", "attack.stages": [], "attack.map_steps": 1, "attack.images": 2}
FIRST_PERSON = {"data.private.first_identity": 1000}
#: Twenty people, stages of the proportions of the preset small and half its pictures a step: a run takes some two and
#: a half minutes on a core.
SIZE: dict[str, Any] = {
    "data.private.people": 20, "data.private.photos": 30, "data.n_heldout": 6,
    "data.public.0.people": 1000, "data.evaluation.people": 150, "data.evaluation.photos": 4, "victim.steps": 350,
    "evaluators.0.steps": 400, "evaluators.1.steps": 500, "attack.map_steps": 300, "attack.horizon": 20,
    **{f"attack.stages.{number}.{key}": value for number, steps in enumerate((10, 30, 60))
       for key, value in (("steps", steps), ("min_steps", steps), ("batch", 8))},
    "attack.stages.2.embedding_lr": 1e-2, "attack.look_every": 10, "attack.look_images": 64, "attack.images": 5,
}
METRICS = {
    "match": Metric(title="identity match", path="attack", share=True),
    "top1": Metric(title="Top-1", path="metrics.top1", share=True),
    "similarity": Metric(title="similarity, judge", path="metrics.similarity_judge"),
    "frechet": Metric(title="Frechet distance", path="metrics.frechet", less_is_more=True),
    "diversity": Metric(title="diversity", path="metrics.diversity"),
    "perceptual": Metric(title="perceptual distance to the attribute image", path="metrics.perceptual",
                         less_is_more=True),
    "attributes": Metric(title="attribute error", path="metrics.attribute_error", less_is_more=True),
    "steps": Metric(title="steps to 80% success on the victim", logged="success", at_least=0.8, less_is_more=True),
    "begun": Metric(title="Frechet distance at first", logged="frechet", take="first", less_is_more=True),
    "identity": Metric(title="similarity to the identity asked for", logged="identity", take="last"),
    "between": Metric(title="variance between class embeddings", logged="collapse", take="last"),
    "alike": Metric(title="likeness of classes' pictures", logged="alike", take="last", less_is_more=True),
    "attention": Metric(title="attention's entropy at first", logged="attention_entropy", take="first"),
    "variance": Metric(title="variance of the victim's loss", logged="raw/cls", take="variance", less_is_more=True),
    "spikes": Metric(title="spikes of the gradient", logged="grad_norm", take="spikes", less_is_more=True),
    "gradient": Metric(title="gradient in the end, of that at first", logged="grad_norm", take="ratio"),
}
#: How far weights are learned, in the end over at first: of the stage that has all losses, after the phases of A3.
WEIGHTS = {f"weight {loss}": Metric(title=f"weight of {loss} in the end, of that at first", logged=f"weight/{loss}",
                                    take="ratio", phases="stage2", skip=0.25)
           for loss in ("cls", "prior", "perceptual", "norm")}
CURVES = {"success": "success on the victim", "identity": "similarity to the label's identity, teacher",
          "frechet": "Frechet distance", "raw/cls": "the victim's loss"}


def _study(name: str, question: str, arms: Mapping[str, dict[str, Any]], reference: str, *pairs: list[str],
           seeds: int = 5, **more: Any) -> Study:
    told: dict[str, Any] = {"settings": SIZE, "metrics": METRICS, "curves": CURVES,
                            "per_seed": FIRST_PERSON, **more}
    return Study(name=name, question=question, command="audit label", start=START, uses=TRAINED, arms=dict(arms),
                 reference=reference, pairs=list(pairs), seeds=seeds, **told)


ANNEALING = _study(
    "annealing", "Does the hand-over from photos to labels help, by which annealing, and does alignment?",
    {**{arm: {"attack.arm": arm} for arm in ARMS},
     "random pairs": {"attack.arm": "cosine", "attack.pairing": "random"},
     "ours": {}}, "baseline",
    ["cosine", "linear"], ["cosine", "no-align"], ["cosine", "random pairs"])

LOSSES = _study(
    "losses", "What do the notes' losses A to D do to success, similarity and variety?",
    {preset: {"attack.loss": preset, "attack.initial": "pseudo"} for preset in LOSS_PRESETS}, "baseline",
    metrics=METRICS | WEIGHTS)

#: The order of people: ten of each population, which is that of the report's groups.
POPULATIONS = ("default", "palette", "aged", "posed")
POPULATED = _study(
    "populations", "Does the hand-over carry over better to people unlike those that the prior learned from?",
    {"baseline": {"attack.arm": "baseline"}, "cosine": {"attack.arm": "cosine"}}, "baseline",
    settings=SIZE | {"data.private.people": 40, "data.private.population": list(POPULATIONS)},
    metrics={**{population: Metric(title=f"identity match, {population}", path=f"per_group.{place}.attack", share=True)
                for place, population in enumerate(POPULATIONS)},
             "match": METRICS["match"], "frechet": METRICS["frechet"],
             "gap": Metric(title="Frechet distance to private photos less that to public ones",
                           path="metrics.frechet.gap", less_is_more=True)})

SHAPE = {"effective_rank": "effective rank", "mean_abs_correlation": "correlation of dimensions",
         "mean_angle": "mean angle", "sd_angle": "spread of angles"}
#: No optimisation: what is described is there before it.
EMBEDDINGS = _study(
    "embeddings", "What do a recogniser's embeddings look like, and labels' before they are trained?",
    {"untrained": {"attack.access": "scores", "attack.stages": [], "attack.initial": "random"}}, "untrained", curves={},
    per_seed=FIRST_PERSON | {"data.public.0.first_identity": [100_000, 10_000]},  # other public people for each seed
    metrics={"silhouette photos": Metric(title="silhouette, photos", path="geometry.photos.silhouette"),
             **{f"{key} {side}": Metric(title=f"{title}, {name}", path=f"geometry.{side}.{key}")
                for side, name in (("photos", "photos"), ("random", "random directions"))
                for key, title in SHAPE.items()}})
