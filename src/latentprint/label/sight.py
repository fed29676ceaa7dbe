"""What an audit could see of these people, before anything is spent: real photos by the judge, and the prior's best.

The same two numbers as the ceiling and the prior ceiling of the report, from a picture a person of some people. Whether
they suffice is asked of the upper end of their exact intervals, so that few people are no fault.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from latentprint.data.base import ImageSet
from latentprint.data.faceregion import with_holes
from latentprint.data.splits import AuditData
from latentprint.diffusion.evaluate import generate
from latentprint.engine.seeds import generator
from latentprint.findings import Row
from latentprint.label.audit import Models
from latentprint.label.presets import LabelConfig
from latentprint.label.tools import encode
from latentprint.models.recognisers import embed
from latentprint.report.conclusive import LEAST_CEILING, LEAST_PRIOR, MOST_CONFUSED
from latentprint.stats import success_rate
from latentprint.verification import STRICT, Recogniser, enrolled

#: People whose real photo and picture are judged, and public photos that lend their surroundings.
PEOPLE, SCENES = 40, 64


def sight(config: LabelConfig, data: AuditData, models: Models, sheet: Path | None = None) -> Iterator[Row]:
    """Rows on framing, the judge's threshold, the ceiling and the prior ceiling; ``ok`` False where a leak could not be
    seen.

    Args:
        sheet: where the picture of framing goes, where a recogniser is framed; None: none is written.
    """
    judge = enrolled(models.judge, data, config.judge)
    people = torch.linspace(0, judge.templates.shape[0] - 1, min(PEOPLE, judge.templates.shape[0])).long().unique()
    threshold = judge.calibration.thresholds[STRICT]
    pictures = None
    if threshold == threshold or models.framer.looked:
        pictures = best_pictures(config, data, models, people)
    yield from models.framer.check(pictures, sheet)
    for warning in judge.warnings():
        yield Row("judges", "threshold", warning, None)
    if (confused := judge.realised_fmr) is not None and confused > MOST_CONFUSED:
        yield Row("judges", "confusion", f"the judge takes these people for one another in {confused:.0%} of "
                  "comparisons of real photos", False,
                  "take a judge that tells these people apart, or photos framed as it expects")
    if pictures is None or threshold != threshold:
        yield Row("judges", "threshold", "too few impostor pairs for a false match rate of 1e-3: no match can be "
                  "stated", False, "name more people in data.evaluation")
        return
    real = matches(judge, first_photos(data.private_heldout, people), people)
    yield verdict_on("ceiling", "real held-out photos of the people", real, LEAST_CEILING,
                     "take a judge that recognises these people, or photos framed as it expects")
    drawn = matches(judge, pictures, people)
    adapted = config.adapt.codec_steps or config.adapt.prior_steps
    yield verdict_on("prior ceiling", "pictures that the prior draws of the people's true embeddings"
                     + (" (before it is adapted)" if adapted else ""), drawn, LEAST_PRIOR * float(real.mean()),
                     "take a prior of the same kind of faces", sure=not adapted)


def matches(judge: Recogniser, images: Tensor, people: Tensor) -> Tensor:
    """1 where the judge accepts the image of each of ``people`` at the strict threshold, else 0: ``(P,)``."""
    similarity = (embed(judge.network, images) * judge.templates[people]).sum(1)
    return judge.accepts(similarity)


def first_photos(photos: ImageSet, people: Tensor) -> Tensor:
    """The first photo of each of ``people``, ``(P, 3, H, W)`` uint8."""
    first = photos.first_photos(1)[0]
    return first.images[torch.stack([(first.labels == person).nonzero()[0, 0] for person in people])]


def best_pictures(config: LabelConfig, data: AuditData, models: Models, people: Tensor) -> Tensor:
    """What the untouched prior draws of people's true embeddings, ``(P, 3, H, W)`` uint8."""
    rng = generator(config.seed, "sight")
    some = torch.randperm(len(data.public), generator=rng)[:SCENES]
    public = with_holes(data.public.take(some))
    tools = encode(models.swapper, models.teacher, public)
    wanted = enrolled(models.teacher, data, config.teacher).truth[people]
    index = torch.arange(len(people)) % len(public)
    seeds = torch.randint(2**62, (len(people),), generator=rng)
    return generate(models.swapper, wanted, tools.scenes.take(index), seeds, config.attack.sample_steps,
                    config.attack.guidance)


def verdict_on(name: str, what: str, hits: Tensor, least: float, mend: str, sure: bool = True) -> Row:
    """A row on a rate: a fault where even the upper end of its 95% interval (Clopper and Pearson) is below ``least``.

    Args:
        sure: False where the rate will still change; it is no fault then.
    """
    k, n = int(hits.sum()), len(hits)
    rate = success_rate(k, n)
    found = f"the judge accepts {k} of {n} {what}"
    if rate.high < least and sure:
        return Row("judges", name, f"{found}; at least {least:.0%} are needed for a low leak to mean anything", False,
                   mend)
    enough = rate.low >= least or k == n
    return Row("judges", name, found, True if enough else None, "" if enough else f"that may be too few: {mend}")
