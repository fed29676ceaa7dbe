"""What the notes ask of the feature channel (seed 004) as studies; sizes are for two CPU cores."""

from __future__ import annotations

from typing import Any

from latentprint.study.definition import Metric, Study

METRICS = {"accuracy": Metric(title="accuracy", path="accuracy", share=True),
           "leak": Metric(title="variance recovered", path="leak", share=True, signed=True, less_is_more=True),
           "mse": Metric(title="MSE", path="metrics.mse"),
           "ssim": Metric(title="SSIM", path="metrics.ssim", less_is_more=True),
           "psnr": Metric(title="PSNR", path="metrics.psnr", less_is_more=True)}
PEOPLE: dict[str, int | list[int]] = {"data.train.first_identity": 1000, "data.test.first_identity": 1000}
#: Weights of each surrogate: those of k-means and mixtures act as a quarter of those of the learned ones do.
LAMBDAS = {"kmeans": (4, 16, 64), "gmm": (4, 16, 64), "slot": (1, 4, 16), "gated": (1, 4, 16)}
THRESHOLDS = ("constant", "schedule")


def _sizes(people: int, photos: int, test_photos: int, decoder_steps: int) -> dict[str, Any]:
    """So many people, each with photos to train on and others to be tested with, and the attack's decoder."""
    shown = {"kind": "procedural", "people": people, "size": 32}
    return {"data.train": {**shown, "photos": photos},
            "data.test": {**shown, "photos": test_photos, "image_seed": 1000},
            "split.model": "builtin:resnet20", "training.augment": "none",
            **{f"attack_settings.decoder.{key}": value
               for key, value in (("steps", decoder_steps), ("batch", 32), ("blocks", 1))}}


def _cem(noise: dict[str, Any], kind: str, weight: float, **surrogate: Any) -> dict[str, Any]:
    return {"defences": [{"kind": "noise", **noise}, {
        "kind": "cem", "weight": weight, "lr_scaled": False, "warm_up": 0, "surrogate": {"kind": kind, **surrogate}}]}


QUIET = {"std": 0.05}
SURROGATES = Study(
    name="surrogates", question="How do surrogates of the conditional entropy trade accuracy for leak over lambda?",
    command="audit feature", per_seed=PEOPLE,
    settings={**_sizes(10, 120, 48, 150), "attacked": 300, "training.epochs": 2, "training.lr": 0.02,
              "training.batch": 64},  # six photos of a person in a batch: learned surrogates need several
    start={"training.epochs": 30, "training.lr": 0.05, "defences": []},
    uses={"training.start": "networks/victim.safetensors"},
    arms={"noise": {"defences": [{"kind": "noise", **QUIET}]},
          **{f"{kind} {weight}": _cem(QUIET, kind, weight) for kind, weights in LAMBDAS.items() for weight in weights},
          **{f"{threshold} {weight}": _cem(QUIET, "kmeans", weight, threshold={"kind": threshold})
             for threshold in THRESHOLDS for weight in LAMBDAS["kmeans"]}},
    reference="noise", phases="victim", curves={"accuracy": "accuracy in training"}, front=["accuracy", "leak"],
    families={**{kind: [f"{kind} {weight}" for weight in weights] for kind, weights in LAMBDAS.items()},
              **{threshold: [f"{threshold} {weight}" for weight in LAMBDAS["kmeans"]] for threshold in THRESHOLDS}},
    pairs=[["kmeans 64", "kmeans 4"], ["gated 16", "gated 1"]], metrics=METRICS)

#: Far below any noise: a penalty that never falls silent, as in the code that the notes report on.
ALWAYS = {"kind": "constant", "variance": 2.0e-6, "gamma": 1.0e-6}
REGIME = Study(
    name="regime", question="What does a penalty that never falls silent leave of accuracy, as the notes' 24%?",
    command="audit feature", per_seed=PEOPLE,
    settings={**_sizes(10, 32, 16, 200), "training.epochs": 12, "training.batch": 32},
    arms={"noise": {"defences": [{"kind": "noise"}]},
          **{f"kmeans {weight}": _cem({}, "kmeans", weight, threshold=ALWAYS) for weight in (16, 64)},
          **{f"gated {weight}": _cem({}, "gated", weight, mode="frozen", threshold=ALWAYS) for weight in (16, 64)}},
    reference="noise", phases="victim", curves={"accuracy": "accuracy in training"}, front=["accuracy", "leak"],
    pairs=[["gated 16", "kmeans 16"], ["gated 64", "gated 16"]], metrics=METRICS)
