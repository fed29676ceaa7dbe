"""``latentprint audit feature``: victim, attacks, evaluation and report, each resumable."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from latentprint import checks
from latentprint.config import config_hash
from latentprint.data.base import ImageSet
from latentprint.diffusion.loading import check_needs
from latentprint.engine.device import lay_out, peak_memory, pick_device
from latentprint.engine.loop import is_main, say
from latentprint.engine.run import RunDir, check_out, manifest, now
from latentprint.engine.seeds import generator
from latentprint.engine.settings import settled
from latentprint.errors import RunFailed
from latentprint.feature.attacks.base import Harness, messages
from latentprint.feature.attacks.registry import make_attack
from latentprint.feature.build import Images, is_trained_here, load_images, make_victim
from latentprint.feature.cost import bounded_output, edge_cost
from latentprint.feature.evaluate import BEST, CEILING, FLOOR, HEADLINE, Judged, compared, rate
from latentprint.feature.explain import draw_explanations
from latentprint.feature.parameters import certified, read
from latentprint.feature.pictures import draw_figures, shown
from latentprint.feature.presets import FeatureConfig
from latentprint.feature.protocol import Roles, divide
from latentprint.feature.scores import Best
from latentprint.feature.split import Split
from latentprint.feature.train import Epochs, accuracy_hits, train_split
from latentprint.feature.victim import SplitVictim
from latentprint.framer import Framer
from latentprint.metrics.perceptual import PerceptualMetric, perceptual_metric
from latentprint.metrics.reconstruction import reidentification, variance_recovered
from latentprint.models.answers import embeddings
from latentprint.models.assets import load_recogniser_asset
from latentprint.models.recognisers import embed
from latentprint.models.strangers import check_strangers
from latentprint.probes import announce, constant_flag, function_flags, spread
from latentprint.report.build import concluded

Floats = NDArray[np.float64]

#: Attacks that follow the gradient of the edge network, and images that it is tried on before.
BY_GRADIENT, PROBED = frozenset({"optimise"}), 32
#: Images whose messages are asked for at a time.
ASK = 256


class Audited(NamedTuple):
    """An audit before its verdict.

    Attributes:
        judged: what was attacked.
        errors, floor: ``(M,)`` squared error of the best attack and of the mean image on each image that is reported.
        units: ``(M,)`` what is resampled.
        hits: ``(N,)`` 1 where the victim is right about a test image.
        hit_units: ``(N,)`` whose each test image is, or its number.
        digest: of the images that are reported: audits compare image by image where it is the same.
        real, drawn: ``(S, 3, H, W)`` in [0, 1], the images on the sheets and what the best attack made of them.
        section: of report.json.
    """

    judged: Judged
    errors: Floats
    floor: Floats
    units: NDArray[np.int64]
    hits: Floats
    hit_units: NDArray[np.int64]
    digest: str
    real: Tensor
    drawn: Tensor
    section: dict[str, Any]


def run_audit(config: FeatureConfig, out: Path, resume: bool = False,
              before_verdict: Callable[[Audited], None] | None = None) -> dict[str, Any]:
    """Audit a split network and write ``out``; returns what report.json holds.

    Args:
        before_verdict: sees the results, and may add to their section, before the verdict is written.

    Raises:
        UserError: settings, files or data that cannot be used; nothing is half-written before they are checked.
        RunFailed: training broke down.
    """
    began = time.perf_counter()
    config, device = settled(config)
    if is_main():
        check_out(out, resume)
    parts = prepare(config)
    run = RunDir.open(out, config.model_dump(mode="json"), resume, writes=is_main())
    run.describe(**manifest(config.seed, str(device), precision=config.precision, config_hash=config_hash(config),
                            command=["latentprint", *sys.argv[1:]],
                            data={"train": image_hash(parts.images.train), "test": image_hash(parts.images.test)}))
    train(config, parts, run, device)
    known, attacked = parts.known_and_attacked()
    looked = look_at(config, parts, attacked)
    judged = Judged(attacked, known.mean(), config.people, config.resamples, config.seed)
    drawn, queries = draw(config, parts, known, attacked, run)
    section, best = results(config, parts, judged, drawn, queries)
    framing, found = parts.framer.reported(drawn[best.name], run.path if is_main() else None)
    section |= framing
    section["probes"] = checks.probes(looked)
    section |= certificate(config, parts, known, attacked)
    hits = accuracy_hits(parts.victim, parts.images.test, config.seed, config.precision)
    section |= accuracy_facts(config, parts, judged, hits)
    if is_main():
        section["figures"] = [*draw_figures(run.path, judged, drawn, best, parts.victim, config.seed),
                              *draw_explanations(run.path / "images", parts.victim, parts.images.train, config.seed)]
        section["grid"] = "images/grid.png"
    if before_verdict is not None:
        before_verdict(audited(parts, judged, drawn[best.name], best, hits, section))
    section |= concluded(section)
    section["seconds"] = time.perf_counter() - began
    run.describe(end=now(), peak_memory_gib=peak_memory(device),
                 hashes={"victim": checks.weights_hash(parts.victim.networks)})
    report = {"schema": 1, "channels": {"feature": section}, "manifest": run.facts,
              "warnings": list(dict.fromkeys(parts.warnings + found + flags(parts, judged)))}
    run.write_json("report.json", report)
    run.close()
    return report


def look_at(config: FeatureConfig, parts: Parts, attacked: ImageSet) -> list[checks.Flag]:
    """What would hide a leak of the edge network from the attacks; noise and other defences are left out.

    Gradients count where every attack goes by them: a decoder learns without them.
    """
    images = spread(attacked, PROBED).floats().to(parts.victim.device)
    edge = parts.victim.features
    with torch.no_grad():
        constant = constant_flag(edge(images))
    return announce([constant, *function_flags(edge, images, edge if {*config.attacks} <= BY_GRADIENT else None)])


@dataclass(frozen=True)
class Parts:
    """Everything that can fail for the user's sake, loaded and checked; the victim perhaps untrained."""

    images: Images
    roles: Roles
    victim: SplitVictim
    split: Split
    metric: PerceptualMetric
    judge: nn.Module | None
    framer: Framer
    warnings: list[str]

    def known_and_attacked(self) -> tuple[ImageSet, ImageSet]:
        """The images that the adversary holds, and those under attack."""
        source = self.images.train if self.roles.known_part == "train" else self.images.test
        return source.take(self.roles.known), self.images.test.take(self.roles.attacked)


def prepare(config: FeatureConfig) -> Parts:
    """Load and check, before anything is written.

    Raises:
        UserError: settings, files or data that cannot be used.
    """
    images, warnings = load_images(config.data)
    device = pick_device(config.device)
    framer = Framer({"data.train": images.train.images, "data.test": images.test.images}, config.assets, device)
    judge = load_recogniser_asset(config.judge, config.assets, "judge") if config.people else None
    if judge is not None:
        framer.frame(judge, config.judge, config.judge_framing, "judge_framing")
    if "prior" in config.attacks:
        check_needs(config.assets, config.teacher)
        teacher = load_recogniser_asset(config.teacher, config.assets, "teacher")
        framer.frame(teacher, config.teacher, config.teacher_framing, "teacher_framing")
        checks.enforce([checks.judge_is_teacher(judge, teacher)] if judge is not None else [])
    roles = divide(config.protocol, images.train, images.test, n_attacked=config.attacked, seed=config.seed)
    warnings += strangers(config, images, roles)
    if is_trained_here(config):
        Epochs(len(images.train), config.training.batch, config.training.epochs, config.seed)  # refuses too few images
    victim, split = make_victim(config, images.train)
    metric = perceptual_metric(config.lpips, assets=config.assets)
    features = config.attack_settings.perceptual.features
    by_attributes = features == "attributes" or (features == "auto" and images.train.holes is not None)
    if "perceptual" in config.attacks and config.lpips is None and by_attributes:
        warnings.append("the perceptual distance is read in the network that the attack 'perceptual' optimises, so it "
                        "flatters that attack; 'lpips' names another network")
    for warning in warnings:
        say(warning)
    return Parts(images, roles, victim, split, metric, judge, framer, warnings)


def strangers(config: FeatureConfig, images: Images, roles: Roles) -> list[str]:
    """Warnings about images that are, or look, the same where they must differ; see `check_strangers`."""
    held = [(images.train, images.test)]
    if roles.known_part == "test":
        held.append((images.test.take(roles.known), images.test.take(roles.attacked)))
    return check_strangers({"data.train": config.data.train, "data.test": config.data.test}, assets_in_use(config),
                           config.assets, held=held)


def assets_in_use(config: FeatureConfig) -> list[str]:
    """Names of the trained networks that the audit builds on."""
    return [*([config.judge] if config.people else []),
            *(["prior", "codec", "attributes", config.teacher] if "prior" in config.attacks else []),
            *(["attributes"] if config.lpips is None or "perceptual" in config.attacks else [])]


def train(config: FeatureConfig, parts: Parts, run: RunDir, device: torch.device) -> None:
    """Train the victim unless it came with weights, and keep it."""
    lay_out(parts.victim, device)
    if is_trained_here(config):
        train_split(parts.victim, parts.images.train, config.training, run, config.seed, config.precision,
                    config.save_every, config.split.trained)
        check_trained(parts)
        run.save_weights("victim", parts.victim.networks)
    parts.victim.freeze()


@torch.no_grad()
def check_trained(parts: Parts) -> None:
    """Ask the victim about a few test images.

    Raises:
        RunFailed: its answers are not finite.
    """
    few = torch.arange(min(64, len(parts.images.test)))
    if not parts.victim(parts.images.test.floats(few).to(parts.victim.device)).isfinite().all():
        raise RunFailed("victim: trained until its answers are NaN or infinite; lower training.lr or its clip_norm")


def results(config: FeatureConfig, parts: Parts, judged: Judged, drawn: Mapping[str, Tensor],
            queries: Mapping[str, Any]) -> tuple[dict[str, Any], Best]:
    """What the attacks recovered, for report.json, and which of them did best."""
    best, arms = compared(judged, drawn, {parts.metric.name: parts.metric})
    section: dict[str, Any] = {"headline": HEADLINE, "arms": arms, "metrics": arms[BEST],
                               "leak": arms[BEST][HEADLINE], "best_attack": best.name, "chosen_by": best.recovered,
                               "queries": dict(queries), "evaluators": [],
                               "protocol": protocol_facts(config, parts, judged, queries)}
    section |= {name: arms[name][HEADLINE] for name in (BEST, FLOOR, CEILING)}
    if parts.judge is not None:
        section["reidentification"] = identified(judged, drawn[best.name], best.reported_on, parts.images.train,
                                                 parts.judge)
    return section, best


def certificate(config: FeatureConfig, parts: Parts, known: ImageSet, attacked: ImageSet) -> dict[str, Any]:
    """The floor under everybody's error in pose, expression and light, and what readers reach; of procedural faces."""
    found = certified(config.data.test, parts.victim, parts.images.train, parts.images.test, config.repeats,
                      config.seed)
    if found is None or known.attributes is None or attacked.attributes is None:
        return {}
    errors = read(parts.victim, known, attacked, intercepted(config, parts.victim, attacked), config.seed)
    return {"certificate": {**found, "readers": dict(errors)}}


def accuracy_facts(config: FeatureConfig, parts: Parts, judged: Judged, hits: Tensor) -> dict[str, Any]:
    """The victim, what it gets right and what it costs, for report.json."""
    victim = {"name": config.split.model, "architecture": config.split.model, "cut": parts.split.cut,
              "n_classes": parts.victim.n_classes, "people": config.people, "accuracy": float(hits.mean()),
              "n": len(hits)}
    return {"victim": victim, "accuracy": rate(judged, hits, hit_units(parts, judged)),
            "cost": asdict(edge_cost(parts.split, example_of(parts))),
            "defences": [each.model_dump(mode="json") for each in config.defences]}


def hit_units(parts: Parts, judged: Judged) -> Tensor:
    """``(N,)`` who is on each test image where people are the unit, else the image's number."""
    labels = parts.images.test.labels
    return labels if judged.by_person else torch.arange(len(labels))


def example_of(parts: Parts) -> Tensor:
    """A preprocessed image where the victim is."""
    size = parts.images.train.size
    return parts.victim.preprocess(torch.zeros(1, 3, size, size, device=parts.victim.device))


def audited(parts: Parts, judged: Judged, drawn: Tensor, best: Best, hits: Tensor, section: dict[str, Any]) -> Audited:
    """What a comparison needs, of the images that are reported."""
    kept = best.reported_on
    references = judged.attacked.floats(kept)
    found = variance_recovered(drawn[kept], references, judged.mean)
    digest = hashlib.sha256(judged.attacked.images[kept].numpy().tobytes()).hexdigest()
    index = shown(judged, kept)
    return Audited(judged, found.errors.double().numpy(), found.floor.double().numpy(), judged.units(kept),
                   hits.double().numpy(), hit_units(parts, judged).numpy(), digest, judged.attacked.floats(index),
                   drawn[index], section)


def draw(config: FeatureConfig, parts: Parts, known: ImageSet, attacked: ImageSet,
         run: RunDir) -> tuple[dict[str, Tensor], dict[str, dict[str, float]]]:
    """What each attack makes of the same intercepted messages, and what it asked for."""
    victim, sent = parts.victim, intercepted(config, parts.victim, attacked)
    own = RunDir.open(run.path / "attacks", run.config, resume=True, writes=run.writes)
    harness = Harness(config.attack_settings, own, config.seed, config.repeats, config.precision, config.save_every,
                      config.assets, config.teacher, config.teacher_framing, parts.framer)
    drawn: dict[str, Tensor] = {}
    queries: dict[str, dict[str, float]] = {}
    for name in config.attacks:
        saved = own.load(f"{name}-pictures")
        if saved is None:
            made = make_attack(name, harness)(victim, known, sent)
            saved = vars(made)
            own.save(f"{name}-pictures", saved)
        drawn[name] = saved["images"]
        queries[name] = {key: saved[key] for key in ("n_forward", "n_backward", "seconds")}
    own.close()
    return drawn, queries


@torch.no_grad()
def intercepted(config: FeatureConfig, victim: SplitVictim, attacked: ImageSet) -> Tensor:
    """``(N, R, *F)`` on the CPU, the messages that all attacks start from."""
    return torch.cat([messages(victim, attacked.floats(index).to(victim.device), config.repeats,
                               generator(config.seed, "intercepted", i)).float().cpu()
                      for i, index in enumerate(torch.arange(len(attacked)).split(ASK))])


def identified(judged: Judged, drawn: Tensor, index: Tensor, gallery: ImageSet,
               judge: nn.Module) -> dict[str, Any]:
    """Share of the reconstructions whose nearest real photo, among those the victim learned from, is of the person."""
    pictures = (drawn[index] * 255).round().to(torch.uint8)
    people = judged.attacked.labels[index]
    hits = reidentification(embed(judge, pictures), people, embeddings(judge, gallery.images, "judge"),
                            gallery.labels)
    return {**rate(judged, hits.float(), people), "chance": 1 / gallery.n_classes}


def flags(parts: Parts, judged: Judged) -> list[str]:
    """Reasons to distrust the numbers."""
    warnings, roles = [], parts.roles
    if parts.victim.noise_std > 0 and not (found := bounded_output(parts.split.edge, example_of(parts))):
        warnings.append(f"noise protects only what is bounded: {found.reason}")
    if roles.repeated:
        warnings.append(f"{roles.repeated} known images were left out: they are among those under attack")
    if len(judged.attacked) < 200:
        warnings.append(f"only {len(judged.attacked)} images are attacked, and half of them choose the attack")
    return warnings


def protocol_facts(config: FeatureConfig, parts: Parts, judged: Judged, queries: Mapping[str, Any]) -> dict[str, Any]:
    """What exactly was compared, with a hash by which two reports can be told comparable."""
    roles, images = parts.roles, parts.images
    facts: dict[str, Any] = {
        "protocol": config.protocol, "known": f"{len(roles.known)} images of data.{roles.known_part}",
        "attacked": f"{len(roles.attacked)} images of data.test",
        "class_overlap": round(roles.class_overlap, 4), "messages_per_image": config.repeats,
        "best_attack": "chosen on one half of the attacked images, all numbers on the other",
        "attacks": list(queries), "perceptual_metric": parts.metric.name,
        "interval": f"95% over {'people' if judged.by_person else 'images'}, {judged.resamples} resamples: bootstrap, "
                    "Gaffke's of rates",
        "train": images.train.source, "test": images.test.source, **parts.framer.facts(),
    }
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]
    return {"name": "feature/v1", "hash": digest, **facts}


def image_hash(images: ImageSet) -> str:
    """SHA-256 of the pictures."""
    return hashlib.sha256(images.images.numpy().tobytes()).hexdigest()
