"""A look at the attack under way: Frechet distance, success on the victim, identity, attention, collapse, samples.

Thresholds on the Frechet distance are calibrated at the start from public data alone: real against real, and the
untouched prior against real, with the number of pictures and the extractor of every later look.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from latentprint.diffusion.evaluate import generate
from latentprint.diffusion.probe import attention_entropy
from latentprint.engine.seeds import generator
from latentprint.handover import LabelEmbedding
from latentprint.label.diagnosis import Levels
from latentprint.label.presets import AttackConfig
from latentprint.label.tools import LOOK_AXES, Tools
from latentprint.losses.perceptual import feature_distance
from latentprint.metrics.distribution import Frechet, frechet_distance
from latentprint.metrics.features import between_class_similarity, between_class_variance
from latentprint.models.attributes import in_batches
from latentprint.models.recognisers import embed
from latentprint.victim import Victim

EXTRACTOR = f"attribute network, pooled, {LOOK_AXES} principal axes"
#: Classes whose picture is kept at every look; photos that are drawn again for the perceptual distance.
SAMPLES, REDRAWN = 6, 32


@dataclass(frozen=True)
class Look:
    """What was seen.

    Attributes:
        frechet: of generated against public pictures, in ``EXTRACTOR``.
        success: share of pictures that the victim takes for their class (stages with labels), else NaN.
        identity: mean teacher cosine of pictures to the embedding asked for.
        collapse: variance of the label embeddings between classes, in [0, 1]; near 0 all are one.
        attention_entropy: of reference attention over identity tokens, as a share of log M.
        perceptual: distance of public photos to themselves redrawn, in the attribute network's features, in [0, 4];
            the notes' LPIPS of stage 0 (seed 000, section 6.3); stages with labels: NaN.
        alike: how alike pictures of different classes are to the teacher, from 0 (as strangers drawn by the untouched
            prior) to 1 (one person); stages without labels: NaN.
    """

    frechet: float
    success: float
    identity: float
    collapse: float
    attention_entropy: float
    perceptual: float = float("nan")
    alike: float = float("nan")

    def values(self) -> dict[str, float]:
        return {key: value for key, value in asdict(self).items() if value == value}


def between_photos(features: Tensor, n: int) -> Frechet:
    """Frechet distance between two sets of public photos that share none.

    Args:
        features: ``(N, D)`` of photos in random order. n: photos in the smaller set, where half of them are as many;
            of fewer photos the two halves are compared, and where these are too small there is no distance.
    """
    half = len(features) // 2
    return frechet_distance(features[half:][-n:], features[:half], EXTRACTOR)


class Watch:
    """Looks, always with the same scenes, seeds and number of pictures, so that they compare.

    Attributes:
        real: Frechet distance between public photos; NaN where there are too few. real_missing: why, or None.
        base: of the untouched prior's pictures to public photos.
        bound: the distance below which pictures count as good, from those of the two that are known.
    """

    def __init__(self, tools: Tools, config: AttackConfig, victim: Victim, seed: int) -> None:
        self.tools, self.config, self.victim, self.seed = tools, config, victim, seed
        n, public = config.look_images, len(tools.public)
        rng = generator(seed, "look")
        self.scene_index = torch.randint(public, (n,), generator=rng)
        self.people = torch.randint(public, (n,), generator=rng)
        self.seeds = torch.randint(2**62, (n,), generator=rng)
        self.classes = torch.arange(n) % victim.n_classes
        order = torch.randperm(public, generator=rng)
        self.reference = tools.features[order[: max(n, public // 2)]]
        found = between_photos(tools.features[order] @ tools.axes, n)
        self.real, self.real_missing = (math.nan if found.value is None else found.value), found.reason
        wanted = tools.embeddings[self.people]
        untouched = self._draw(wanted)
        self.base = self._frechet(in_batches(tools.attributes, untouched, "pooled"))
        seen = embed(tools.teacher, untouched)
        self.base_identity = float((seen * wanted).sum(1).mean())
        self.strangers = between_class_similarity(seen, self.people, public)
        self.bound = config.frechet_slack * max((d for d in (self.real, self.base) if d == d), default=math.nan)
        self.jump = 0.25 * self.bound

    @property
    def levels(self) -> Levels:
        """What findings are measured against; for unit vectors, 1 - |mean|^2 is their variance."""
        spread = 1 - float(self.tools.embeddings.mean(0).square().sum())
        return Levels(self.real, self.base, self.jump, spread)

    def calm(self, look: Look) -> bool:
        """Whether the Frechet distance is below its bound; true where too few photos allow no distance (NaN)."""
        return not look.frechet >= self.bound

    @torch.no_grad()
    def look(self, identity: str, labels: LabelEmbedding) -> Look:
        """Draw the look's pictures, of photos' embeddings in an ``image`` stage and of label embeddings else."""
        device = self.tools.device
        every = labels(torch.arange(self.victim.n_classes, device=device)).cpu()
        wanted = self.tools.embeddings[self.people] if identity == "image" else every[self.classes]
        images = self._draw(wanted)
        seen = embed(self.tools.teacher, images)
        success = perceptual = alike = float("nan")
        if identity == "image":
            perceptual = self._redrawn()
        else:
            answers = self.victim.confidence((images.float() / 255).to(device)).argmax(1).cpu()
            success = float((answers == self.classes).float().mean())
            similarity = between_class_similarity(seen, self.classes, self.victim.n_classes)
            alike = (similarity - self.strangers) / max(1 - self.strangers, 1e-6)
        few = torch.arange(min(16, len(images)))
        return Look(
            frechet=self._frechet(in_batches(self.tools.attributes, images, "pooled")),
            success=success,
            identity=float((seen * wanted).sum(1).mean()),
            collapse=between_class_variance(every, torch.arange(len(every)), len(every)),
            attention_entropy=attention_entropy(self.tools.swapper, wanted[few].to(device),
                                                self.tools.scenes.take(self.scene_index[few]).to(device)),
            perceptual=perceptual, alike=alike,
        )

    @torch.no_grad()
    def samples(self, labels: LabelEmbedding) -> Tensor:
        """One picture of each of the first few classes, always in the same scenes: ``(k, 3, H, W)`` uint8."""
        classes = self.classes[: min(SAMPLES, self.victim.n_classes)]
        return self._draw(labels(classes.to(self.tools.device)).cpu())

    def _redrawn(self) -> float:
        """Mean perceptual distance of photos to themselves, drawn from their own embedding and surroundings."""
        index = self.scene_index[:REDRAWN]
        network, device = self.tools.attributes, self.tools.device
        pictures = (self._draw(self.tools.embeddings[index]), self.tools.public.images[index])
        drawn, photos = (network.depths(images.to(device).float() / 255) for images in pictures)
        return float(feature_distance(drawn, photos).mean())

    def _draw(self, wanted: Tensor) -> Tensor:
        n = len(wanted)
        return generate(self.tools.swapper, wanted, self.tools.scenes.take(self.scene_index[:n]), self.seeds[:n],
                        self.config.ddim_steps)

    def _frechet(self, features: Tensor) -> float:
        axes = self.tools.axes
        result = frechet_distance(features @ axes, self.reference @ axes, EXTRACTOR)
        return float("nan") if result.value is None else result.value
