"""Training of a generator on public faces: ``L_pixel + lambda(t) L_feat + lambda_perc(t) L_perc``.

Source: the notes on template losses (seed 002). ``t`` is the share of the training or of the denoising that is done:
the notes count the one in their formula and argue with the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from latentprint.data.augment import jittered, warped
from latentprint.data.base import ImageSet
from latentprint.engine.device import Precision, autocast
from latentprint.engine.loop import Loop, warm_cosine
from latentprint.engine.run import RunDir
from latentprint.engine.seeds import step_generator
from latentprint.imitation import LIGHT, SHIFT, TURN
from latentprint.losses.identity import align, info_nce
from latentprint.metrics.perceptual import PerceptualMetric
from latentprint.models.recognisers import centred
from latentprint.schedules import WeightRamp
from latentprint.template.generators import Estimate, Generator
from latentprint.template.negatives import Drawn, Negatives
from latentprint.template.presets import AttackConfig, LossConfig
from latentprint.victim import QueryCounter

LOGGED = 10


@dataclass(frozen=True)
class Guide:
    """A recogniser that judges generated images while a generator learns.

    Attributes:
        recogniser: images ``(B, 3, H, W)`` in [0, 1] to unit embeddings ``(B, D)``, with gradients.
        center: ``(D,)``, subtracted from them, see `latentprint.models.recognisers.center_of`.
        images: of each step that it judges, the first ones; None: all.
    """

    recogniser: Callable[[Tensor], Tensor]
    center: Tensor
    images: int | None = None

    def __call__(self, images: Tensor) -> Tensor:
        return centred(self.recogniser(images), self.center)


@dataclass(frozen=True)
class TrainingSet:
    """What a generator learns from.

    Attributes:
        photos: public.
        identities: ``(N, D)`` what the generator is given of each.
        targets: ``(N, D')`` unit embeddings of each in the guides' space, less their center.
        guides: all of one space.
        perceptual: the distance of L_perc.
        queries: how often the victim was asked so far, part of checkpoints.
    """

    photos: ImageSet
    identities: Tensor
    targets: Tensor
    guides: Sequence[Guide]
    perceptual: PerceptualMetric
    queries: QueryCounter = field(default_factory=QueryCounter)


@dataclass(frozen=True)
class Plan:
    """How long a generator learns, and by what."""

    loss: LossConfig
    steps: int
    batch: int
    lr: float
    views: float
    degraded: float

    @classmethod
    def of(cls, config: AttackConfig, name: str) -> Plan:
        """For the generator of that name."""
        if name == "prior":
            return cls(config.loss, config.prior_steps, config.prior_batch, config.prior_lr, config.views,
                       config.degraded)
        return cls(config.loss, config.steps, config.batch, config.lr, config.views, config.degraded)


def train_generator(generator: Generator, data: TrainingSet, config: AttackConfig, run: RunDir, seed: int,
                    precision: Precision, save_every: int = 100) -> None:
    """Train in place and freeze, or go on from the checkpoint ``generator-NAME``.

    Raises:
        RunFailed: training broke down.
    """
    plan, name = Plan.of(config, generator.name), f"generator-{generator.name}"
    negatives = negatives_of(data, plan.loss)
    optimizer = torch.optim.AdamW(generator.trained(), plan.lr, weight_decay=1e-2)

    def loss_at(step: int) -> tuple[Tensor, dict[str, Tensor | float]]:
        return step_loss(generator, data, plan, negatives, step, step_generator(seed, name, step), precision)

    states: dict[str, Any] = {**generator.states(), "negatives": negatives, "queries": data.queries}
    Loop(run, name, optimizer, states, plan.steps,
         warm_cosine(plan.steps, min(100, plan.steps // 10)), save_every=save_every).fit(loss_at)
    generator.requires_grad_(False).eval()


def negatives_of(data: TrainingSet, settings: LossConfig) -> Negatives:
    """Raises UserError where the public photos are of one person."""
    return Negatives(settings.negatives, data.targets, data.photos.labels.to(data.targets.device),
                     settings.n_negatives)


def step_loss(generator: Generator, data: TrainingSet, plan: Plan, negatives: Negatives, step: int,
              rng: torch.Generator, precision: Precision) -> tuple[Tensor, dict[str, Tensor | float]]:
    """A scalar for a step's batch, drawn from ``rng``, and values to log."""
    settings, device, done = plan.loss, data.targets.device, step / plan.steps
    index = torch.randint(len(data.photos), (plan.batch,), generator=rng)
    images, target = data.photos.floats(index).to(device), data.targets[index]
    with autocast(device, precision):
        estimate = generator.estimate(data.identities[index], images, rng)
        views = viewed(estimate.pictures, plan.views, plan.degraded, rng)
        embeddings = [guide(views[: guide.images]) for guide in data.guides]
    drawn = negatives.draw(target, data.photos.labels[index].to(device), rng)
    feature = guided_loss(settings, embeddings, target, drawn)
    first, drawn_for_first = embeddings[0], drawn.of(slice(len(embeddings[0])))
    strength = at(settings.weight.ramp, settings.weight.over, estimate, done)
    loss = settings.pixel_weight * estimate.error + strength * feature
    values: dict[str, Tensor | float] = {
        "pixel": estimate.error.detach().mean(), "feature": feature.detach().mean(),
        "similarity": (first.detach() * target[: len(first)]).sum(1).mean(), "feature_weight": strength.mean()}
    if settings.perceptual.most > 0:
        with autocast(device, precision):
            distance = data.perceptual.distance(estimate.pictures, images).float()
        loss = loss + at(settings.perceptual.ramp, settings.perceptual.over, estimate, done) * distance
        values["perceptual"] = distance.detach().mean()
    if (step + 1) % LOGGED == 0 or step + 1 == plan.steps:
        values |= gradient_norms(settings, first, target[: len(first)], drawn_for_first)
    return loss.mean(), values


def guided_loss(settings: LossConfig, embeddings: Sequence[Tensor], target: Tensor, drawn: Drawn) -> Tensor:
    """``(B,)``: `feature_loss` averaged over guides; one that judged fewer images weighs as much on average.

    Args:
        embeddings: ``(B, D)`` of every guide, or ``(b, D)`` of the first b images. target: ``(B, D)``.
    """
    total, n = target.new_zeros(len(target)), len(target)
    for each in embeddings:
        own = feature_loss(settings, each, target[: len(each)], drawn.of(slice(len(each))))
        total = total + F.pad(own * (n / len(each) / len(embeddings)), (0, n - len(each)))
    return total


def feature_loss(settings: LossConfig, embedding: Tensor, target: Tensor, drawn: Drawn) -> Tensor:
    """``(B,)``: how far embeddings ``(B, D)`` are from what they should be."""
    if settings.feature == "l2":
        return align(embedding, target)
    return info_nce(embedding, target, drawn.templates, settings.temperature, drawn.excluded)


def gradient_norms(settings: LossConfig, embedding: Tensor, target: Tensor, drawn: Drawn) -> dict[str, Tensor]:
    """Mean length of each loss's gradient at these embeddings, whichever of the two is trained on.

    Along the sphere, for an embedding has length 1 whatever the picture. The notes say that the gradient of L2 vanishes
    as a picture succeeds and that of InfoNCE never does.
    """
    found = {}
    for kind in ("l2", "info-nce"):
        at_embedding = embedding.detach().requires_grad_(True)
        loss = feature_loss(settings.model_copy(update={"feature": kind}), at_embedding, target, drawn)
        (gradient,) = torch.autograd.grad(loss.sum(), at_embedding)
        unit = embedding.detach()
        along = gradient - (gradient * unit).sum(1, keepdim=True) * unit
        found[f"gradient_{kind.replace('-', '_')}"] = along.norm(dim=1).mean()
    return found


def at(ramp: WeightRamp, over: str, estimate: Estimate, trained: float) -> Tensor:
    """The weight ``(B,)`` or ``()`` at a share of the training, or at each picture's own progress."""
    if over == "progress" and estimate.progress is not None:
        return ramp(estimate.progress)
    return ramp(torch.tensor(trained, device=estimate.error.device))


def viewed(images: Tensor, amount: float, degraded: float, rng: torch.Generator) -> Tensor:
    """Images moved a little at random, and degraded, so that no recogniser is pleased by a pattern at one place or of
    one frequency.

    Args:
        amount: of movement; 1: by at most `TURN`, `SHIFT` and `LIGHT`.
        degraded: standard deviation of noise on images of lower resolution; 0: none.
    """
    if amount:
        images = warped(images, rng, TURN * amount, SHIFT * amount, light=LIGHT * amount)
    if degraded:
        images = jittered(images, 0.0, rng)
        images = images + degraded * torch.randn(images.shape, generator=rng).to(images)
    return images
