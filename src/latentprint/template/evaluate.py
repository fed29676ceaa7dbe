"""From reconstructions to numbers: did the face come back, and does the attacked system accept it?

Success attack rate (SAR) type I: a reconstruction is accepted against the very template that leaked; type II: against
that of another photo of the person. Type II by the attacked recogniser is *impersonation* of that system, which a
white-box attack optimises; type II by the first judge, which no attack uses, is *recovery* of the face, the headline.

A threshold belongs to a recogniser and a protection, and is set by strangers among the evaluation people at a false
match rate. Source: the protocol of Otroshi Shahreza et al. (GaFaR, and bob's tifs2024 experiments).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentprint.data.base import ImageSet
from latentprint.data.splits import AuditData
from latentprint.metrics.image import SSIM_MARGIN, psnr, ssim
from latentprint.metrics.perceptual import PerceptualMetric
from latentprint.metrics.reconstruction import reidentification
from latentprint.metrics.verification import Calibration, calibrate_scores
from latentprint.models.answers import embeddings
from latentprint.models.recognisers import embed
from latentprint.stats import (
    Arm,
    Interval,
    bootstrap_by_identity,
    difference_interval,
    rate_interval,
    rate_leak_interval,
)
from latentprint.template.defenses import Scheme, cosines
from latentprint.template.recogniser import Embedder
from latentprint.template.victim import Database, checked_templates

STRICT, LOOSE = 1e-3, 1e-2
#: Recovery of the face by the first judge, and impersonation of the attacked system.
HEADLINE, IMPERSONATION = "sar_type2_judge", "sar_type2"
RANK1 = "reidentification_rate"
UNKNOWN: dict[str, Any] = {"value": None, "low": None, "high": None, "n": 0}
#: Metrics within [0, 1] begin so.
RATES = ("sar_type", RANK1)
#: False match rates of the curves.
CURVE = tuple(float(x) for x in np.geomspace(1e-4, 1e-1, 19))
#: Keys of evaluation people begin here; those of enrolled people at 0.
EVALUATION_KEYS = 1_000_000
#: Public people who stand in for evaluation people, at most.
STAND_INS = 400

Floats = NDArray[np.float64]
Method = Callable[..., Interval]


@dataclass(frozen=True)
class Calibrators:
    """People who set thresholds: one photo of each is enrolled, the others are probes.

    Attributes:
        enrolled: one photo a person, in order of person. probes: others; ``labels`` are rows of ``enrolled``.
        people: who they are, in words.
    """

    enrolled: ImageSet
    probes: ImageSet
    people: str


@dataclass(frozen=True)
class System:
    """A recogniser in use: with a scheme, the enrolled people and thresholds.

    Attributes:
        database: P people's stored templates, a photo each.
        others: ``(M, D')`` stored templates of other photos of the same people. owners: ``(M,)``, whose.
        calibration: thresholds at `STRICT` and `LOOSE`. curve: thresholds at `CURVE`.
        genuine: ``(G,)`` cosines of evaluation people to their own templates. genuine_owners: ``(G,)``, whose.
        strangers: ``(I,)`` cosines to those of others.
        confused: ``(K,)`` cosines of other photos of enrolled people to the templates of other enrolled people.
    """

    name: str
    recogniser: Embedder
    scheme: Scheme
    database: Database
    others: Tensor
    owners: Tensor
    calibration: Calibration
    curve: Mapping[float, float]
    genuine: Floats
    genuine_owners: NDArray[np.int64]
    strangers: Floats
    confused: Floats

    @property
    def realised_fmr(self) -> float | None:
        """Share of enrolled people's photos that pass as another of them at `STRICT`; None without a threshold."""
        threshold = self.calibration.thresholds[STRICT]
        return float((self.confused > threshold).mean()) if np.isfinite(threshold) and len(self.confused) else None

    def type1(self, templates: Tensor) -> Tensor:
        """``(P,)`` cosines of reconstructions' templates ``(P, D)`` to those that leaked, in the scheme's terms."""
        return _own(self.scheme, templates, self.database.stored, self.database.keys)

    def type2(self, templates: Tensor) -> Tensor:
        """``(M,)`` cosines of the reconstruction of each owner to the templates of their other photos."""
        return _own(self.scheme, templates[self.owners], self.others, self.database.keys[self.owners])


def calibrators(data: AuditData) -> Calibrators:
    """The evaluation people, or public people with two photos or more where there are none."""
    source, people = (data.evaluation, "evaluation people") if data.evaluation is not None else (data.public,
                                                                                                 "public people")
    several = (source.counts() > 1).nonzero().flatten()
    if data.evaluation is None:
        several = several[torch.linspace(0, len(several) - 1, min(STAND_INS, len(several))).long()]  # of all sources
    chosen = source.of_classes(several.tolist())
    return Calibrators(*chosen.first_photos(1), people)


def make_system(name: str, recogniser: Embedder, scheme: Scheme, data: AuditData, by: Calibrators) -> System:
    """Enrol everybody and set thresholds.

    Raises:
        UserError: the recogniser gives a template that is none.
    """
    found = {part: checked_templates(embeddings(recogniser, photos.images, name), recogniser.dim, name)
             for part, photos in (("own", data.private_train), ("others", data.private_heldout),
                                  ("enrolled", by.enrolled), ("probes", by.probes))}
    keys, owners = torch.arange(len(found["own"])), data.private_heldout.labels
    stored = scheme.stored(found["own"], keys)
    # a scheme without keys draws anew for every photo
    others = scheme.stored(found["others"], keys[owners] if scheme.keyed else len(keys) + torch.arange(len(owners)))
    evaluation_keys = EVALUATION_KEYS + torch.arange(len(by.enrolled))
    scores = cosines(scheme, found["probes"], scheme.stored(found["enrolled"], evaluation_keys), evaluation_keys)
    genuine = by.probes.labels[:, None] == torch.arange(scores.shape[1])
    among = cosines(scheme, found["others"], stored, keys)[owners[:, None] != keys]
    return System(name, recogniser, scheme, Database(stored, keys), others, owners,
                  calibrate_scores(scores, by.probes.labels, (LOOSE, STRICT)),
                  calibrate_scores(scores, by.probes.labels, CURVE).thresholds,
                  scores[genuine].double().numpy(), by.probes.labels.numpy(), scores[~genuine].double().numpy(),
                  among.double().numpy())


def recognition(system: System) -> Floats:
    """1 where a genuine probe of the evaluation people passes at `STRICT`, ``(G,)``; NaN without a threshold."""
    threshold = system.calibration.thresholds[STRICT]
    return _above(system.genuine, threshold)


@dataclass(frozen=True)
class Bench:
    """All that judges.

    Attributes:
        attacked: the system whose templates leaked. judges: other recognisers, unprotected; the first decides the
            headline.
        photos: the P enrolled photos, in order of person. gallery: other photos of the same people.
    """

    attacked: System
    judges: Sequence[System]
    photos: ImageSet
    gallery: ImageSet
    perceptual: PerceptualMetric
    resamples: int
    seed: int

    @property
    def people(self) -> int:
        return len(self.photos)

    @property
    def systems(self) -> dict[str, System]:
        """By what their metrics end in: nothing for the attacked system, ``_judge`` for the first judge, whatever it
        is called, and the names of further ones."""
        names = [f"_{judge.name}" if judge.name != "judge" else "_judge_as_named" for judge in self.judges]
        return dict(zip(("", "_judge", *names[1:]), (self.attacked, *self.judges), strict=False))

    @property
    def missing(self) -> str | None:
        """Why recovery of the face cannot be measured, in a sentence; None where it can."""
        if not self.judges:
            return ("recovery of the face was not measured, for no independent recogniser judges: name one that the "
                    "attack does not use (judges)")
        judge = self.judges[0]
        if np.isnan(judge.calibration.thresholds[STRICT]):
            return (f"recovery of the face was not measured, for the judge '{judge.name}' has no threshold at FMR "
                    f"{STRICT:g}: it needs {round(1 / STRICT):,} impostor comparisons and has "
                    f"{judge.calibration.n_impostor:,}; give it more people (data.evaluation)")
        return None

    def mean(self, values: Floats, owners: NDArray[np.int64],
             method: Method = bootstrap_by_identity) -> dict[str, Any]:
        """With an interval over people, for report.json; nulls where a value is unknown."""
        if not np.isfinite(values).all():
            return dict(UNKNOWN)
        return method(values, owners, n_resamples=self.resamples, seed=self.seed).to_json()


@dataclass(frozen=True)
class ArmScores:
    """Values of an arm by metric, and whose each is: of a person's reconstruction, or of one of their other photos."""

    values: Mapping[str, tuple[Floats, NDArray[np.int64]]]
    pictures: Tensor
    curve: Mapping[str, Floats]

    def hits(self, metric: str = HEADLINE) -> tuple[Floats, NDArray[np.int64]]:
        """The headline's values, or those of another metric; NaN where there is no judge."""
        if metric in self.values:
            return self.values[metric]
        owners = self.values[IMPERSONATION][1]
        return np.full(len(owners), np.nan), owners


def score(bench: Bench, pictures: Tensor) -> ArmScores:
    """All metrics of reconstructions ``(P, 3, H, W)`` in [0, 1] of the enrolled people, in their order."""
    everyone, owners = np.arange(bench.people), bench.attacked.owners.numpy()
    values: dict[str, tuple[Floats, NDArray[np.int64]]] = {}
    curve: dict[str, Floats] = {}
    for suffix, system in bench.systems.items():
        templates = embed(system.recogniser, pictures)
        first, second = system.type1(templates).double().numpy(), system.type2(templates).double().numpy()
        for fmr, extra in ((STRICT, ""), (LOOSE, "_fmr_0.01")):
            threshold = system.calibration.thresholds[fmr]
            values[f"sar_type1{extra}{suffix}"] = _above(first, threshold), everyone
            values[f"sar_type2{extra}{suffix}"] = _above(second, threshold), owners
        values[f"template_similarity{suffix}"] = second, owners
        curve[system.name] = np.array([_above(second, system.curve[fmr]).mean() for fmr in CURVE])
    if bench.judges:
        judge = bench.judges[0].recogniser
        gallery = embeddings(judge, bench.gallery.images, bench.judges[0].name)
        hits = reidentification(embed(judge, pictures), torch.arange(bench.people), gallery, bench.gallery.labels)
        values[RANK1] = hits.double().numpy(), everyone
    references = bench.photos.floats()
    values["psnr"] = psnr(pictures, references).double().numpy(), everyone
    if min(pictures.shape[-2:]) > 2 * SSIM_MARGIN:
        values["ssim"] = ssim(pictures, references).double().numpy(), everyone
    values[bench.perceptual.name] = bench.perceptual(pictures, references).double().numpy(), everyone
    return ArmScores(values, pictures, curve)


def arm_section(bench: Bench, arm: ArmScores) -> dict[str, Any]:
    """Metrics of an arm with intervals, for report.json."""
    return {**{name: bench.mean(*value, method_of(name)) for name, value in arm.values.items()
               if not np.isinf(value[0]).any()},
            "n_images": len(arm.pictures)}


def leak(bench: Bench, arms: Mapping[str, ArmScores], metric: str = HEADLINE) -> dict[str, Any]:
    """(attack - floor) / (ceiling - floor) on the headline, or on another metric."""
    three = [arms[name].hits(metric) for name in ("attack", "floor", "ceiling")]
    if not all(np.isfinite(values).all() for values, _ in three):
        return dict(UNKNOWN)
    return rate_leak_interval(*(Arm(*each) for each in three), n_resamples=bench.resamples, seed=bench.seed).to_json()


def impersonation(bench: Bench, arms: Mapping[str, ArmScores]) -> dict[str, Any]:
    """How often the attacked system itself accepts reconstructions, for report.json: type II, and type I beside it."""
    known = {name: bench.mean(*arms[name].hits(IMPERSONATION), rate_interval)
             for name in ("attack", "floor", "ceiling")}
    return {"metric": IMPERSONATION, "system": bench.attacked.name, "leak": leak(bench, arms, IMPERSONATION), **known,
            "type1": bench.mean(*arms["attack"].hits("sar_type1"), rate_interval)}


def paired(bench: Bench, first: ArmScores, second: ArmScores, metric: str = HEADLINE) -> dict[str, Any]:
    """Headline, or another metric, of one arm minus that of another, photo by photo."""
    (a, owners), (b, _) = first.hits(metric), second.hits(metric)
    return bench.mean(a - b, owners, difference_interval)


def per_person(bench: Bench, arm: ArmScores) -> list[dict[str, Any]]:
    """For report.json a row a person: by the first judge, and beside it what the attacked system accepts. None where
    there is no threshold, or no judge."""
    owners = arm.hits()[1]
    n = np.bincount(owners, minlength=bench.people)

    def of_each(metric: str) -> Floats:
        found: Floats = np.bincount(owners, arm.hits(metric)[0], minlength=bench.people) / n.clip(1)
        return found

    columns = {"match_rate": of_each(HEADLINE), "similarity": of_each("template_similarity_judge"),
               "type1": arm.hits("sar_type1")[0], "type2": of_each(IMPERSONATION)}
    return [{"identity": name, **{key: _known(values[i]) for key, values in columns.items()}, "n": int(n[i])}
            for i, name in enumerate(bench.photos.names)]


def system_section(system: System) -> dict[str, Any]:
    """Thresholds and recognition, for report.json."""
    c = system.calibration
    return {"name": system.name, "architecture": system.recogniser.architecture,
            "thresholds": {f"{fmr:g}": value for fmr, value in c.thresholds.items()},
            "tar": {f"{fmr:g}": value for fmr, value in c.tar.items()}, "n_impostor": c.n_impostor,
            "n_genuine": c.n_genuine, "photos": 1,
            "realised_fmr": {"value": system.realised_fmr, "n": len(system.confused)}}


def protocol(bench: Bench, by: Calibrators, facts: Mapping[str, Any]) -> dict[str, Any]:
    """What exactly was compared, with a hash by which two reports can be told comparable."""
    found: dict[str, Any] = {
        "enrolled": f"{bench.people} people, one photo each", "other_photos": len(bench.gallery),
        "type1": "accepted against the template that leaked", "type2": "accepted against other photos of the person",
        "headline": "type II by the first judge",
        "best_attack": "of several generators, chosen by the adversary's recogniser on what leaked, not by a judge",
        "fmr": STRICT, "calibration": f"{len(by.enrolled)} {by.people}, one photo enrolled, {len(by.probes)} probes",
        "perceptual_metric": bench.perceptual.name, "transferred_to": [system.name for system in bench.judges],
        "interval": f"95% over people, {bench.resamples} resamples: Gaffke's of rates, bootstrap of others", **facts,
    }
    digest = hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:12]
    return {"name": "template/v2", "hash": digest, **found}


def _own(scheme: Scheme, probes: Tensor, stored: Tensor, keys: Tensor) -> Tensor:
    """``(N,)`` cosines of probes ``(N, D)`` to one stored template each."""
    return torch.nn.functional.cosine_similarity(scheme.probe(probes, keys), stored, dim=1)


def method_of(metric: str) -> Method:
    """How the interval of a metric is made: that of a rate stays within [0, 1] and has a width at its ends."""
    return rate_interval if metric.startswith(RATES) else bootstrap_by_identity


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _above(similarity: Floats, threshold: float) -> Floats:
    if threshold != threshold:
        return np.full_like(similarity, np.nan)
    return (similarity > threshold).astype(float)
