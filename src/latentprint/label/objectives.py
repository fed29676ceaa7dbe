"""What a step of a stage optimises: a batch is drawn, a picture made of it, and every loss of the stage taken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from latentprint.diffusion.prior import TRAIN_STEPS, progress_of, signal_and_noise
from latentprint.diffusion.swap import DenoisingLoss, Scene
from latentprint.engine.seeds import step_generator
from latentprint.handover import HandOver
from latentprint.label.embedding import Centres, Manifold
from latentprint.label.presets import AttackConfig
from latentprint.label.stages import Answer, Denoising, LossName, Stage
from latentprint.label.tools import Tools
from latentprint.label.views import clipped, random_views
from latentprint.losses.classification import (
    Bounded,
    centre_distance,
    cross_entropy,
    max_margin,
    poincare,
    top_k_margin,
)
from latentprint.losses.denoising import prior_cosine, prior_mse, progress_weight
from latentprint.losses.identity import contrastive_identity, diversity_hinge, identity_cosine
from latentprint.losses.perceptual import attribute_mse, feature_distance
from latentprint.models.attributes import GROUP_COLUMNS
from latentprint.victim import Victim

#: Forms of the losses ``cls`` and ``prior``.
ANSWERS: dict[Answer, Callable[[Tensor, Tensor], Tensor | Bounded]] = {
    "top-k": top_k_margin, "top-1": partial(top_k_margin, k=1), "cross-entropy": cross_entropy,
    "max-margin": max_margin, "poincare": poincare,
}  # fmt: skip
DENOISING: dict[Denoising, DenoisingLoss] = {
    "mse": prior_mse, "cosine": prior_cosine, "mse+cosine": lambda v, true: prior_mse(v, true) + prior_cosine(v, true),
}  # fmt: skip

#: Below this progress an estimate of the clean picture from one prediction says too little to be a loss.
LEAST_PROGRESS = 0.2


@dataclass
class Aims:
    """What pictures and label embeddings are held against.

    Attributes:
        pairs: ``(C, n)`` public photos of each class.
        public: ``(C, D)`` what public photos say of each class: their mean embedding, or where a learned map put it.
        manifold: of public embeddings.
        origin: ``(D,)`` mean of the victim's features on public photos. directions: ``(C, D)`` of its last layer.
        centres: learned centres of its features (loss p_reg).
        spread: variance of one person's photos (loss diversity).
    """

    pairs: Tensor
    public: Tensor
    manifold: Manifold
    origin: Tensor | None = None
    directions: Tensor | None = None
    centres: Centres | None = None
    spread: float | None = None


class Objectives:
    """The losses of a stage's steps; what a step draws depends on seed, stage and step alone."""

    def __init__(self, stage: Stage, tools: Tools, config: AttackConfig, victim: Victim, handover: HandOver, aims: Aims,
                 seed: int) -> None:
        self.stage, self.tools, self.config, self.victim = stage, tools, config, victim
        self.handover, self.aims, self.seed, self.device = handover, aims, seed, tools.device

    def __call__(self, step: int) -> dict[str, Tensor]:
        """The stage's losses, ``()`` each, unweighted; ``cls_unbounded`` beside them is for the log alone."""
        return self._label_losses(step) if self.stage.identity == "label" else self._photo_losses(step)

    def _photo_losses(self, step: int) -> dict[str, Tensor]:
        """Stages 0 and 1: attribute image and target are the same public photo."""
        tools, aims, batch = self.tools, self.aims, self.stage.batch
        rng = step_generator(self.seed, self.stage.name, step)
        if self.stage.identity == "mixed":
            classes = torch.randint(len(aims.pairs), (batch,), generator=rng)
            index = aims.pairs[classes, torch.randint(aims.pairs.shape[1], (batch,), generator=rng)]
        else:
            classes, index = None, torch.randint(len(tools.public), (batch,), generator=rng)
        photo = tools.embeddings[index].to(self.device)
        classes = None if classes is None else classes.to(self.device)
        condition = self.handover.condition(classes, photo)
        target = photo if classes is None or self.config.initial != "mapped" else aims.public[classes]
        losses = {name: value.mean() for name, value in condition.losses(target).items()}
        scene = tools.scenes.take(index).to(self.device)
        losses |= self._denoising(scene, condition.embedding, rng, "perceptual" in self.stage.active)
        return {name: losses[name] for name in self.stage.active}

    def _denoising(self, scene: Scene, identity: Tensor, rng: torch.Generator, perceptual: bool) -> dict[str, Tensor]:
        swapper = self.tools.swapper
        timestep = torch.randint(TRAIN_STEPS, (len(scene),), generator=rng).to(self.device)
        noise = torch.randn(scene.latent.shape, generator=rng).to(self.device)
        error, clean = swapper.denoise(scene, swapper.prior.tokens(identity, scene.seen), timestep, noise,
                                       DENOISING[self.stage.denoising])
        progress = progress_of(timestep)
        losses = {"prior": (error * progress_weight(progress) if self.stage.progress_weighted else error).mean()}
        if perceptual:
            picture = swapper.paste(clean, scene)
            network = self.tools.attributes
            distance = feature_distance(network.depths(picture), network.depths(scene.image))
            losses["perceptual"] = (distance * progress * (progress >= LEAST_PROGRESS)).mean()
        return losses

    def _label_losses(self, step: int) -> dict[str, Tensor]:
        """Stage 2: a swap of a class's identity onto a public attribute image; there is no photo of the person."""
        tools, aims, wanted = self.tools, self.aims, self.stage.active
        rng = step_generator(self.seed, self.stage.name, step)
        classes = torch.randint(len(aims.pairs), (self.stage.batch,), generator=rng)
        if "diversity" in wanted:  # which needs two pictures of a class
            classes[1::2] = classes[: self.stage.batch // 2 * 2 : 2]
        index = torch.randint(len(tools.public), (self.stage.batch,), generator=rng)
        seeds = torch.randint(2**62, (self.stage.batch,), generator=rng)
        classes, scene = classes.to(self.device), tools.scenes.take(index).to(self.device)
        condition = self.handover.condition(classes)
        label = condition.embedding
        losses = {name: value.mean() for name, value in condition.losses(aims.public[classes]).items()}
        if "manifold" in wanted:
            losses["manifold"] = aims.manifold.excess(label).mean()
        if "prior" in wanted:
            photos = torch.randint(len(tools.public), (max(2, self.stage.batch // 2),), generator=rng)
            losses |= self._denoising(tools.scenes.take(photos).to(self.device),
                                      tools.embeddings[photos].to(self.device), rng, False)
        if set(wanted) - {"norm", "align", "manifold", "prior"}:
            picture, weight = self._picture(label, scene, seeds, rng)
            found = self._picture_losses(clipped(picture), scene, classes, label, rng)
            losses |= {name: (value * weight.repeat(len(value) // len(weight))).mean() if value.ndim else value
                       for name, value in found.items()}  # views of a picture are a batch apart
        return {name: losses[name] for name in (*wanted, "cls_unbounded") if name in losses}

    def _picture(self, label: Tensor, scene: Scene, seeds: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """x_hat ``(B, 3, H, W)``, and how much each estimate counts, ``(B,)``.

        A single prediction says little while there is mostly noise: it counts by its progress, and not at all below
        `LEAST_PROGRESS`. The noise is put on the attribute image, for there is no picture of the class.
        """
        swapper = self.tools.swapper
        if self.config.estimate == "ddim":
            return (swapper.ddim(label, scene, seeds, self.config.ddim_steps, self.config.gradient_steps),
                    torch.ones(len(label), device=self.device))
        timestep = torch.randint(TRAIN_STEPS, (len(label),), generator=rng).to(self.device)
        a, s = signal_and_noise(swapper.schedule, timestep, scene.latent)
        noise = torch.randn(scene.latent.shape, generator=rng).to(self.device)
        progress = progress_of(timestep)
        return (swapper.one_step(label, scene, a * scene.latent + s * noise, timestep),
                progress * (progress >= LEAST_PROGRESS))

    def _picture_losses(self, picture: Tensor, scene: Scene, classes: Tensor, label: Tensor,
                        rng: torch.Generator) -> dict[str, Tensor]:
        """Of pictures or of their views, ``(B,)`` or ``(views * B,)``; of the whole batch, ``()``."""
        tools, views, wanted = self.tools, self.config.augmentations, set(self.stage.active)
        seen, y = random_views(picture, views, rng), classes.repeat(views)
        losses = self._victim_losses(seen, y, wanted)
        teachers = tools.teachers
        embedding, asked = teachers(seen), teachers.of(label).repeat(views, 1)
        losses["id"] = identity_cosine(embedding, asked).clamp_min(0)
        if "contrast" in wanted:
            with torch.no_grad():
                others = teachers.of(self.handover.labels(torch.arange(self.victim.n_classes, device=self.device)))
            losses["contrast"] = contrastive_identity(embedding, asked, others, self.stage.rival_margin, y)
        if "diversity" in wanted:
            assert self.aims.spread is not None
            losses["diversity"], _ = diversity_hinge(tools.teacher(picture), classes, self.aims.spread)
        network = tools.attributes
        if "attribute" in wanted:
            losses["attribute"] = attribute_mse(network(picture), scene.attributes, GROUP_COLUMNS)
        if "perceptual" in wanted:
            losses["perceptual"] = feature_distance(network.depths(picture), network.depths(scene.image))
        return losses

    def _victim_losses(self, seen: Tensor, y: Tensor, wanted: set[LossName]) -> dict[str, Tensor]:
        """What the victim says of the views, and where its features of them lie."""
        aims, wants_features = self.aims, bool({"centre", "p_reg"} & wanted)
        losses: dict[str, Tensor] = {}
        if not {"cls", "margin", "centre", "p_reg"} & wanted:
            return losses
        logits, features = self.victim.logits_and_features(seen) if wants_features else (self.victim(seen), None)
        answer = ANSWERS[self.stage.answer](logits.float(), y)
        losses["cls"], raw = answer if isinstance(answer, Bounded) else (answer, answer)
        losses["cls_unbounded"] = raw.detach()  # logged, not optimised
        losses["margin"] = max_margin(logits.float(), y, margin=1.0).loss
        if features is not None:
            assert aims.origin is not None and aims.directions is not None
            centred = features.float() - aims.origin
            losses["centre"] = 1 - F.cosine_similarity(centred, aims.directions[y])
            if "p_reg" in wanted:
                assert aims.centres is not None
                losses["p_reg"] = centre_distance(centred / aims.centres.length, aims.centres.table.weight, y)
        return losses
