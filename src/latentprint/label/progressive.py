"""The three stages at work: what each step optimises, when a stage ends, what is watched meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from latentprint.diffusion.lora import AdapterState, adapter_parameters, add_adapter
from latentprint.diffusion.prior import TRAIN_STEPS, progress_of, signal_and_noise
from latentprint.diffusion.swap import DenoisingLoss, Scene
from latentprint.engine.device import autocast
from latentprint.engine.loop import Loop, say, warm_cosine
from latentprint.engine.run import RunDir
from latentprint.engine.seeds import derive, generator, step_generator
from latentprint.handover import HandOver, LabelEmbedding
from latentprint.label.diagnosis import Finding, Levels, diagnose, latest
from latentprint.label.embedding import Centres, Manifold, spread_within
from latentprint.label.look import Look, Watch
from latentprint.label.mapping import fit_map
from latentprint.label.pairing import public_features
from latentprint.label.presets import AttackConfig
from latentprint.label.samples import keep_sample
from latentprint.label.stages import Answer, Denoising, LossName, Stage
from latentprint.label.tools import Tools
from latentprint.label.views import clipped, random_views
from latentprint.losses.attribute import attribute_mse
from latentprint.losses.classification import (
    Bounded,
    centre_distance,
    cross_entropy,
    max_margin,
    poincare,
    top_k_margin,
)
from latentprint.losses.denoising import prior_cosine, prior_mse, progress_weight
from latentprint.losses.diversity import diversity_hinge
from latentprint.losses.identity import align, contrastive_identity, identity_cosine
from latentprint.losses.perceptual import feature_distance
from latentprint.losses.weighting import FixedWeighting, UncertaintyWeighting
from latentprint.models.attributes import GROUP_COLUMNS
from latentprint.models.penultimate import class_directions
from latentprint.report.figures import Row, read_metrics
from latentprint.victim import Victim

#: Forms of the losses ``cls`` and ``prior``.
ANSWERS: dict[Answer, Callable[[Tensor, Tensor], Tensor | Bounded]] = {
    "top-k": top_k_margin, "top-1": partial(top_k_margin, k=1), "cross-entropy": cross_entropy,
    "max-margin": max_margin, "poincare": poincare,
}  # fmt: skip
DENOISING: dict[Denoising, DenoisingLoss] = {
    "mse": prior_mse, "cosine": prior_cosine, "mse+cosine": lambda v, true: prior_mse(v, true) + prior_cosine(v, true),
}  # fmt: skip

#: Rate of the class centres as a share of the label embedding's: as fast as the features, they would follow them.
CENTRE_RATE = 0.1

#: Below this progress an estimate of the clean picture from one prediction says too little to be a loss.
LEAST_PROGRESS = 0.2


@dataclass
class StageResult:
    """How a stage went."""

    name: str
    steps: int
    reason: str
    seconds: float
    skipped: int


@dataclass
class Memory:
    """What the rules of a stage remember; part of its checkpoint."""

    frechets: list[float] = field(default_factory=list)
    last: dict[str, float] = field(default_factory=dict)

    def state_dict(self) -> dict[str, Any]:
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


class Progressive:
    """Adapters and label embedding, led through the recipe.

    Args:
        pairs: ``(C, n)`` public photos of each class. pseudo: ``(C, 512)`` what these say of each class.

    Attributes:
        labels: the label embedding.
        public: ``(C, 512)`` what public photos say of each class: ``pseudo``, or where a learned map put it.
    """

    def __init__(self, tools: Tools, config: AttackConfig, victim: Victim, pairs: Tensor, pseudo: Tensor, run: RunDir,
                 seed: int, precision: str = "fp32", save_every: int = 50) -> None:
        self.tools, self.config, self.victim, self.pairs = tools, config, victim, pairs
        self.run, self.seed, self.precision, self.save_every = run, seed, precision, save_every
        self.device = tools.device
        wanted = {name for stage in config.stages for name in stage.active}
        if config.initial == "mapped" or {"centre", "p_reg"} & wanted:
            features = public_features(victim, tools.public)
            self.origin = features.mean(0).to(self.device)
            self.directions = class_directions(victim.network, victim.n_classes).to(self.device)
        if config.initial == "mapped":
            mapping = fit_map(features - features.mean(0), tools.embeddings, run, seed, self.device,
                              steps=config.map_steps, noise=config.map_noise)
            pseudo = mapping(self.directions).cpu()
        self.public = pseudo.to(self.device)
        start = pseudo
        if config.initial == "random":
            start = F.normalize(torch.randn(pseudo.shape, generator=generator(seed, "start")), dim=1)
        torch.manual_seed(derive(seed, "labels"))
        self.labels = LabelEmbedding(start).to(self.device)
        self.manifold = Manifold(tools.embeddings)
        if "p_reg" in wanted:
            self.centres = Centres(self.directions, float((features - features.mean(0)).norm(dim=1).mean()))
            self.centres.to(self.device)
        if "diversity" in wanted:
            self.spread = spread_within(tools.embeddings, tools.public.labels)
        self.handover = HandOver(self.labels, config.horizon, config.annealing, config.mixing, config.pace,
                                 config.align_bound)
        self.results: list[StageResult] = []
        self.watch = Watch(tools, config, victim, seed)

    def fit(self) -> list[StageResult]:
        """All stages, each from its checkpoint where there is one."""
        self.keep_samples(0)
        for number, stage in enumerate(self.config.stages):
            self.add_adapters(stage)
            loop = StageLoop(self, stage, number).fit()
            self.results.append(StageResult(stage.name, loop.step, loop.reason, loop.seconds, loop.skipped))
        adapter_parameters(self.tools.swapper.prior, trained=False)
        return self.results

    def keep_samples(self, step: int) -> None:
        """Draw the few pictures that show training, at a step of the stage under way."""
        if self.run.writes:
            total = sum(result.steps for result in self.results) + step
            keep_sample(self.run.path, total, self.watch.samples(self.labels))

    def diagnosis(self, find: Callable[[list[Row], AttackConfig, Levels], list[Finding]] = diagnose) -> list[Finding]:
        """What the logs so far say is amiss."""
        return find(read_metrics(self.run.path / "metrics.jsonl"), self.config, self.watch.levels)

    def add_adapters(self, stage: Stage) -> None:
        """LoRA where the stage wants it and earlier stages did not put it yet."""
        present = getattr(self.tools.swapper.prior.unet, "peft_config", {})
        for scope in ("reference", "all") if stage.adapters == "all" else ("reference",):
            if scope not in present:
                torch.manual_seed(derive(self.seed, "adapter", scope))
                add_adapter(self.tools.swapper.prior, scope, scope, self.config.rank)


class StageLoop:
    """One stage: draws a step's batch, computes its losses, decides when it is over."""

    def __init__(self, owner: Progressive, stage: Stage, number: int) -> None:
        self.o, self.stage, self.number = owner, stage, number
        # The untouched prior's distance is what the first look is compared with.
        self.memory = Memory([owner.watch.base])
        names = tuple(stage.active)
        self.weighting: UncertaintyWeighting | FixedWeighting = (
            UncertaintyWeighting(names) if stage.weighting == "uncertainty"
            else FixedWeighting(names, dict.fromkeys(names, 1.0)))
        self.weighting.to(owner.device)

    def fit(self) -> Loop:
        o, stage = self.o, self.stage
        groups: list[dict[str, Any]] = [
            {"params": adapter_parameters(o.tools.swapper.prior), "lr": stage.lora_lr},
            {"params": list(o.labels.parameters()) if stage.embedding_lr else [], "lr": stage.embedding_lr},
            {"params": list(o.centres.parameters()) if "p_reg" in stage.active else [],
             "lr": CENTRE_RATE * stage.embedding_lr},
            {"params": list(self.weighting.parameters()), "lr": stage.log_variance_lr, "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW([group for group in groups if group["params"]], weight_decay=0.0)
        states: dict[str, Any] = {"adapters": AdapterState(o.tools.swapper.prior), "labels": o.labels,
                                  "weighting": self.weighting, "handover": o.handover, "memory": self.memory,
                                  "queries": o.victim.queries}
        if "p_reg" in stage.active:
            states["centres"] = o.centres
        return Loop(o.run, stage.name, optimizer, states, stage.steps, warm_cosine(stage.steps, 5, floor=0.1),
                    save_every=o.save_every, log_every=min(10, o.config.look_every)).fit(self.loss_at, self.after)

    def loss_at(self, step: int) -> tuple[Tensor, dict[str, Tensor | float]]:
        o = self.o
        lam = o.handover.step(self.stage.identity)
        with autocast(o.device, o.precision):  # type: ignore[arg-type]
            raw = self._label_losses(step) if self.stage.identity == "label" else self._photo_losses(step)
        raw = {name: value.float() for name, value in raw.items()}
        scale = {name: self._scale(name, step) for name in self.stage.active}
        total = self.weighting({name: scale[name] * raw[name] for name in scale})
        logs: dict[str, Tensor | float] = {f"raw/{name}": value.detach() for name, value in raw.items()}
        weights = self.weighting.weights()
        logs |= {f"weight/{name}": weights[name] * scale[name] for name in scale}
        if self.stage.identity == "mixed":
            o.handover.record(float(raw["align"].detach()) if "align" in raw else float("nan"))
            logs |= {"lambda": lam, "horizon": o.handover.horizon}
        return total, {**logs, **self.memory.last}

    def _scale(self, name: LossName, step: int) -> float:
        """A loss's scale; while lambda rises the alignment's falls as beta = beta0 (1 - lambda)."""
        annealed = 1.0
        if name == "align" and self.stage.identity == "mixed":
            annealed = self.o.config.beta * (1 - self.o.handover.lam)
        return self.stage.losses[name] * annealed * (self._phase(step, name) if self.stage.phased else 1.0)

    def _phase(self, step: int, name: LossName) -> float:
        """A3: first protect the prior, then turn to the victim."""
        late = step >= self.stage.steps / 4
        return {"prior": (2.0, 0.5), "cls": (0.5, 1.5)}.get(name, (1.0, 1.0))[late]

    def _photo_losses(self, step: int) -> dict[str, Tensor]:
        """Stages 0 and 1: attribute image and target are the same public photo."""
        o, batch = self.o, self.stage.batch
        rng = step_generator(o.seed, self.stage.name, step)
        if self.stage.identity == "mixed":
            classes = torch.randint(len(o.pairs), (batch,), generator=rng)
            index = o.pairs[classes, torch.randint(o.pairs.shape[1], (batch,), generator=rng)]
        else:
            classes, index = None, torch.randint(len(o.tools.public), (batch,), generator=rng)
        photo = o.tools.embeddings[index].to(o.device)
        classes = None if classes is None else classes.to(o.device)
        condition = o.handover.condition(classes, photo)
        target = photo if classes is None or o.config.initial != "mapped" else o.public[classes]
        losses = {name: value.mean() for name, value in condition.losses(target).items()}
        scene = o.tools.scenes.take(index).to(o.device)
        losses |= self._denoising(scene, condition.embedding, rng, "perceptual" in self.stage.active)
        return {name: losses[name] for name in self.stage.active}

    def _denoising(self, scene: Scene, identity: Tensor, rng: torch.Generator, perceptual: bool) -> dict[str, Tensor]:
        swapper = self.o.tools.swapper
        timestep = torch.randint(TRAIN_STEPS, (len(scene),), generator=rng).to(self.o.device)
        noise = torch.randn(scene.latent.shape, generator=rng).to(self.o.device)
        error, clean = swapper.denoise(scene, swapper.prior.tokens(identity, scene.attributes), timestep, noise,
                                       DENOISING[self.stage.denoising])
        progress = progress_of(timestep)
        losses = {"prior": (error * progress_weight(progress) if self.stage.progress_weighted else error).mean()}
        if perceptual:
            picture = swapper.paste(clean, scene)
            network = self.o.tools.attributes
            distance = feature_distance(network.depths(picture), network.depths(scene.image))
            losses["perceptual"] = (distance * progress * (progress >= LEAST_PROGRESS)).mean()
        return losses

    def _label_losses(self, step: int) -> dict[str, Tensor]:
        """Stage 2: a swap of a class's identity onto a public attribute image; there is no photo of the person."""
        o, wanted = self.o, self.stage.active
        rng = step_generator(o.seed, self.stage.name, step)
        classes = torch.randint(len(o.pairs), (self.stage.batch,), generator=rng)
        if "diversity" in wanted:  # which needs two pictures of a class
            classes[1::2] = classes[: self.stage.batch // 2 * 2 : 2]
        index = torch.randint(len(o.tools.public), (self.stage.batch,), generator=rng)
        seeds = torch.randint(2**62, (self.stage.batch,), generator=rng)
        classes, scene = classes.to(o.device), o.tools.scenes.take(index).to(o.device)
        condition = o.handover.condition(classes)
        label = condition.embedding
        losses = {name: value.mean() for name, value in condition.losses(o.public[classes]).items()}
        if "manifold" in wanted:
            losses["manifold"] = o.manifold.excess(label).mean()
        if "prior" in wanted:
            photos = torch.randint(len(o.tools.public), (max(2, self.stage.batch // 2),), generator=rng)
            losses |= self._denoising(o.tools.scenes.take(photos).to(o.device),
                                      o.tools.embeddings[photos].to(o.device), rng, False)
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
        o, swapper = self.o, self.o.tools.swapper
        if o.config.estimate == "ddim":
            return (swapper.ddim(label, scene, seeds, o.config.ddim_steps, o.config.gradient_steps),
                    torch.ones(len(label), device=o.device))
        timestep = torch.randint(TRAIN_STEPS, (len(label),), generator=rng).to(o.device)
        a, s = signal_and_noise(swapper.schedule, timestep, scene.latent)
        noise = torch.randn(scene.latent.shape, generator=rng).to(o.device)
        progress = progress_of(timestep)
        return (swapper.one_step(label, scene, a * scene.latent + s * noise, timestep),
                progress * (progress >= LEAST_PROGRESS))

    def _picture_losses(self, picture: Tensor, scene: Scene, classes: Tensor, label: Tensor,
                        rng: torch.Generator) -> dict[str, Tensor]:
        """Of pictures or of their views, ``(B,)`` or ``(views * B,)``; of the whole batch, ``()``."""
        o, views, wanted = self.o, self.o.config.augmentations, set(self.stage.active)
        seen, y = random_views(picture, views, rng), classes.repeat(views)
        losses = self._victim_losses(seen, y, wanted)
        teachers = o.tools.teachers
        embedding, asked = teachers(seen), teachers.of(label).repeat(views, 1)
        losses["id"] = identity_cosine(embedding, asked).clamp_min(0)
        if "contrast" in wanted:
            with torch.no_grad():
                others = teachers.of(o.labels(torch.arange(len(o.pairs), device=o.device)))
            losses["contrast"] = contrastive_identity(embedding, asked, others, self.stage.rival_margin, y)
        if "diversity" in wanted:
            losses["diversity"], _ = diversity_hinge(o.tools.teacher(picture), classes, o.spread)
        network = o.tools.attributes
        if "attribute" in wanted:
            losses["attribute"] = attribute_mse(network(picture), scene.attributes, GROUP_COLUMNS)
        if "perceptual" in wanted:
            losses["perceptual"] = feature_distance(network.depths(picture), network.depths(scene.image))
        return losses

    def _victim_losses(self, seen: Tensor, y: Tensor, wanted: set[LossName]) -> dict[str, Tensor]:
        """What the victim says of the views, and where its features of them lie."""
        o, losses = self.o, {}
        if {"cls", "margin"} & wanted:
            logits = o.victim(seen).float()
            answer = ANSWERS[self.stage.answer](logits, y)
            losses["cls"], raw = answer if isinstance(answer, Bounded) else (answer, answer)
            losses["cls_unbounded"] = raw.detach()  # logged, not optimised
            losses["margin"] = max_margin(logits, y, margin=1.0).loss
        if {"centre", "p_reg"} & wanted:
            features = o.victim.features(seen).float() - o.origin
            losses["centre"] = 1 - F.cosine_similarity(features, o.directions[y])
            if "p_reg" in wanted:
                losses["p_reg"] = centre_distance(features / o.centres.length, o.centres.table.weight, y)
        return losses

    def after(self, step: int) -> str | None:
        """Look now and then, slow the annealing when the Frechet distance jumps, and say when the stage is over."""
        o, stage, memory = self.o, self.stage, self.memory
        if step % o.config.look_every and step != stage.steps:
            return None
        look = o.watch.look(stage.identity, o.labels)
        if stage.identity == "mixed" and look.frechet > memory.frechets[-1] + o.watch.jump:
            o.handover.horizon *= o.config.slow_down
        memory.frechets.append(look.frechet)
        memory.last = look.values() | (self._embedding() if stage.identity == "mixed" else {})
        o.run.log(f"{stage.name}-look", step, memory.last)
        o.keep_samples(step)
        for finding in o.diagnosis(latest):
            say(f"{finding.stage}, step {finding.step}: {finding.said}; {finding.advice}")
        return self._verdict(look) or self._worn_out() if step >= stage.min_steps else None

    def _verdict(self, look: Look) -> str | None:
        stage, watch = self.stage, self.o.watch
        if stage.identity == "image":
            return f"Frechet distance {look.frechet:.2f} < {watch.bound:.2f}" if watch.calm(look) else None
        if stage.identity == "mixed":
            return self._handed_over()
        identity = stage.identity_share * watch.base_identity
        if look.success >= stage.success_bound and look.identity >= identity and watch.calm(look):
            return f"success {look.success:.2f}, identity {look.identity:.2f}"
        return None

    def _worn_out(self) -> str | None:
        """Early stopping on the Frechet distance (seed 000, section 9.2)."""
        patience, seen = self.stage.patience, self.memory.frechets
        if patience is None or len(seen) <= patience or min(seen[-patience:]) < min(seen[:-patience]):
            return None
        return f"no lower Frechet distance in {patience} looks"

    def _handed_over(self) -> str | None:
        """The labels have taken over, and the Frechet distance is steady."""
        recent = self.memory.frechets[-3:]
        # With too few public photos for a Frechet distance (NaN) the other rules decide alone.
        steady = len(recent) == 3 and not np.std(recent) >= self.o.watch.jump
        return self.o.handover.over(self._alignment()) if steady else None

    def _embedding(self) -> dict[str, float]:
        """Of label embeddings: mean norm before normalisation, mean L2 distance to what public photos say."""
        o = self.o
        with torch.no_grad():
            raw = o.labels.raw(torch.arange(len(o.pairs), device=o.device))
            distance = (F.normalize(raw, dim=1) - o.public).norm(dim=1)
        return {"norm": float(raw.norm(dim=1).mean()), "distance": float(distance.mean())}

    def _alignment(self) -> float:
        """Distance of label embeddings to what public photos say, whatever lambda makes of its weight."""
        o = self.o
        with torch.no_grad():
            return float(align(o.labels(torch.arange(len(o.pairs), device=o.device)), o.public).mean())
