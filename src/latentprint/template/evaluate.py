"""From reconstructions to numbers: did the face come back, and does the attacked system accept it?

Success attack rate (SAR) type I: a reconstruction is accepted against the very template that leaked; type II: against
that of another photo of the person. Type II by the attacked recogniser is *impersonation* of that system, which a
white-box attack optimises; type II by the first judge, which no attack uses, is *recovery* of the face, the headline.

A threshold belongs to a recogniser and a protection, and is set by strangers among the evaluation people at a false
match rate. Source: the protocol of Otroshi Shahreza et al. (GaFaR, and bob's tifs2024 experiments).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentprint.auditing.scores import LEAK_ARMS, Intervals, Values, per_unit
from latentprint.auditing.scores import protocol as stamped
from latentprint.data.base import ImageSet
from latentprint.data.splits import AuditData
from latentprint.metrics.image import SSIM_MARGIN, psnr, ssim
from latentprint.metrics.perceptual import PerceptualMetric
from latentprint.metrics.reconstruction import reidentification
from latentprint.models.answers import embeddings
from latentprint.models.recognisers import embed
from latentprint.template.defenses import Scheme, cosines
from latentprint.template.recogniser import Embedder
from latentprint.template.victim import Database, checked_templates
from latentprint.verification import LOOSE, STRICT, CalibrationSets, Verifier, above, calibrate_scores

#: Recovery of the face by the first judge, and impersonation of the attacked system.
HEADLINE, IMPERSONATION = "sar_type2_judge", "sar_type2"
RANK1 = "reidentification_rate"
#: Metrics within [0, 1] begin so.
RATES = ("sar_type", RANK1)
#: False match rates of the curves.
CURVE = tuple(float(x) for x in np.geomspace(1e-4, 1e-1, 19))
#: Keys of evaluation people begin here; those of enrolled people at 0.
EVALUATION_KEYS = 1_000_000

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class System(Verifier):
    """A recogniser with a scheme and one enrolled photo of each person; ``impostors`` in the scheme's terms.

    Attributes:
        database: P people's stored templates, a photo each.
        others: ``(M, D')`` stored templates of other photos of the same people. owners: ``(M,)``, whose.
        curve: thresholds at `CURVE`.
        genuine: ``(G,)`` cosines of evaluation people to their own templates. genuine_owners: ``(G,)``, whose.
        strangers: ``(I,)`` cosines to those of others.
    """

    recogniser: Embedder
    scheme: Scheme
    database: Database
    others: Tensor
    owners: Tensor
    curve: Mapping[float, float]
    genuine: Floats
    genuine_owners: NDArray[np.int64]
    strangers: Floats

    def type1(self, templates: Tensor) -> Tensor:
        """``(P,)`` cosines of reconstructions' templates ``(P, D)`` to those that leaked, in the scheme's terms."""
        return _own(self.scheme, templates, self.database.stored, self.database.keys)

    def type2(self, templates: Tensor) -> Tensor:
        """``(M,)`` cosines of the reconstruction of each owner to the templates of their other photos."""
        return _own(self.scheme, templates[self.owners], self.others, self.database.keys[self.owners])


def make_system(name: str, recogniser: Embedder, scheme: Scheme, data: AuditData,
                by: CalibrationSets) -> System:
    """Enrol everybody and set thresholds.

    Raises:
        UserError: the recogniser gives a template that is none.
    """
    found = {part: checked_templates(embeddings(recogniser, photos.images, name), recogniser.dim, name)
             for part, photos in (("own", data.private_train), ("others", data.private_heldout),
                                  ("enrolled", by.enrolment), ("probes", by.probes))}
    keys, owners = torch.arange(len(found["own"])), data.private_heldout.labels
    stored = scheme.stored(found["own"], keys)
    # a scheme without keys draws anew for every photo
    others = scheme.stored(found["others"], keys[owners] if scheme.keyed else len(keys) + torch.arange(len(owners)))
    evaluation_keys = EVALUATION_KEYS + torch.arange(len(by.enrolment))
    scores = cosines(scheme, found["probes"], scheme.stored(found["enrolled"], evaluation_keys), evaluation_keys)
    genuine = by.probes.labels[:, None] == torch.arange(scores.shape[1])
    among = cosines(scheme, found["others"], stored, keys)[owners[:, None] != keys]
    return System(name, recogniser.architecture, by.photos, calibrate_scores(scores, by.probes.labels), among.double(),
                  recogniser, scheme, Database(stored, keys), others, owners,
                  calibrate_scores(scores, by.probes.labels, CURVE).thresholds,
                  scores[genuine].double().numpy(), by.probes.labels.numpy(), scores[~genuine].double().numpy())


def recognition(system: System) -> Values:
    """1 where a genuine probe of the evaluation people passes at `STRICT`, ``(G,)``; NaN without a threshold."""
    return Values(system.accepts(torch.from_numpy(system.genuine)).numpy(), system.genuine_owners)


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
    def intervals(self) -> Intervals:
        return Intervals(self.resamples, self.seed, RATES)

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


@dataclass(frozen=True)
class ArmScores:
    """Values of an arm by metric, and whose each is: of a person's reconstruction, or of one of their other photos."""

    values: Mapping[str, Values]
    pictures: Tensor
    curve: Mapping[str, Floats]

    def arm(self, metric: str) -> Values:
        """Values of a metric, and whose; NaN where there is no judge."""
        if metric in self.values:
            return self.values[metric]
        owners = self.values[IMPERSONATION].units
        return Values(np.full(len(owners), np.nan), owners)


def score(bench: Bench, pictures: Tensor) -> ArmScores:
    """All metrics of reconstructions ``(P, 3, H, W)`` in [0, 1] of the enrolled people, in their order."""
    everyone, owners = np.arange(bench.people), bench.attacked.owners.numpy()
    values: dict[str, Values] = {}
    curve: dict[str, Floats] = {}
    for suffix, system in bench.systems.items():
        templates = embed(system.recogniser, pictures)
        first, second = system.type1(templates).double(), system.type2(templates).double()
        for fmr, extra in ((STRICT, ""), (LOOSE, "_fmr_0.01")):
            values[f"sar_type1{extra}{suffix}"] = Values(system.accepts(first, fmr).numpy(), everyone)
            values[f"sar_type2{extra}{suffix}"] = Values(system.accepts(second, fmr).numpy(), owners)
        values[f"template_similarity{suffix}"] = Values(second.numpy(), owners)
        curve[system.name] = np.array([float(above(second, system.curve[fmr]).mean()) for fmr in CURVE])
    if bench.judges:
        judge = bench.judges[0].recogniser
        gallery = embeddings(judge, bench.gallery.images, bench.judges[0].name)
        hits = reidentification(embed(judge, pictures), torch.arange(bench.people), gallery, bench.gallery.labels)
        values[RANK1] = Values(hits.double().numpy(), everyone)
    references = bench.photos.floats()
    metrics: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"psnr": psnr, bench.perceptual.name: bench.perceptual}
    if min(pictures.shape[-2:]) > 2 * SSIM_MARGIN:
        metrics["ssim"] = ssim
    values |= {name: Values(found(pictures, references).double().numpy(), everyone) for name, found in metrics.items()}
    return ArmScores(values, pictures, curve)


def arm_section(bench: Bench, arm: ArmScores) -> dict[str, Any]:
    """Metrics of an arm with intervals, for report.json."""
    return {**{name: bench.intervals.metric(name, each) for name, each in arm.values.items()
               if not np.isinf(each.values).any()},
            "n_images": len(arm.pictures)}


def impersonation(bench: Bench, arms: Mapping[str, ArmScores]) -> dict[str, Any]:
    """How often the attacked system itself accepts reconstructions, for report.json: type II, and type I beside it."""
    intervals = bench.intervals
    return {"metric": IMPERSONATION, "system": bench.attacked.name, "leak": intervals.leak(arms, IMPERSONATION),
            **{name: intervals.rate(arms[name].arm(IMPERSONATION)) for name in LEAK_ARMS},
            "type1": intervals.rate(arms["attack"].arm("sar_type1"))}


def per_person(bench: Bench, arm: ArmScores) -> list[dict[str, Any]]:
    """For report.json a row a person: by the first judge, and beside it what the attacked system accepts. None where
    there is no threshold, or no judge."""
    columns = {key: per_unit(arm.arm(metric), bench.people) for key, metric in (
        ("match_rate", HEADLINE), ("similarity", "template_similarity_judge"), ("type1", "sar_type1"),
        ("type2", IMPERSONATION))}
    n = np.bincount(bench.attacked.owners.numpy(), minlength=bench.people)
    return [{"identity": name, **{key: values[i] for key, values in columns.items()}, "n": int(n[i])}
            for i, name in enumerate(bench.photos.names)]


def protocol(bench: Bench, by: CalibrationSets, facts: Mapping[str, Any]) -> dict[str, Any]:
    """What exactly was compared, with a hash by which two reports can be told comparable."""
    found: dict[str, Any] = {
        "enrolled": f"{bench.people} people, one photo each", "other_photos": len(bench.gallery),
        "type1": "accepted against the template that leaked", "type2": "accepted against other photos of the person",
        "headline": "type II by the first judge",
        "best_attack": "of several generators, chosen by the adversary's recogniser on what leaked, not by a judge",
        "fmr": STRICT, "calibration": f"{len(by.enrolment)} {by.people}, one photo enrolled, {len(by.probes)} probes",
        "perceptual_metric": bench.perceptual.name, "transferred_to": [system.name for system in bench.judges],
        "interval": f"95% over people, {bench.resamples} resamples: Gaffke's of rates, bootstrap of others", **facts,
    }
    return stamped("template/v2", found)


def _own(scheme: Scheme, probes: Tensor, stored: Tensor, keys: Tensor) -> Tensor:
    """``(N,)`` cosines of probes ``(N, D)`` to one stored template each."""
    return torch.nn.functional.cosine_similarity(scheme.probe(probes, keys), stored, dim=1)
