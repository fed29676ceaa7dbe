"""The attack: train generators on public faces, take what leaked to what they understand, draw, refine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from latentprint.checks import weights_hash
from latentprint.data.base import ImageSet
from latentprint.diffusion.loading import FaceTools
from latentprint.engine.device import autocast, lay_out
from latentprint.engine.loop import progress
from latentprint.engine.run import RunDir
from latentprint.engine.seeds import derive
from latentprint.errors import UserError
from latentprint.metrics.perceptual import PerceptualMetric
from latentprint.models.answers import embeddings
from latentprint.models.recognisers import center_of, centred, embed
from latentprint.template.generators import DecoderGenerator, Generator, PriorGenerator
from latentprint.template.mapping import Mapping, fit_mapping
from latentprint.template.presets import TemplateConfig
from latentprint.template.recogniser import Embedder
from latentprint.template.recovery import TemplatePrior, recover
from latentprint.template.scores import infer_templates
from latentprint.template.train import Guide, TrainingSet, train_generator, viewed
from latentprint.template.victim import TemplateVictim

#: Images at a time where nothing is learned, and photos that a mapping between recognisers is fitted on.
BATCH, FITTED = 64, 8000


@dataclass
class Means:
    """What the adversary brings along.

    Attributes:
        public: photos. perceptual: a distance of pictures.
        faces: the diffusion prior; None where no generator needs it.
        surrogate: a recogniser of its own; None in the white box.
        told: ``(N, D)`` what the attacked recogniser says of the public photos; None where only scores are to be had.
        imitations: of the attacked recogniser, less the `center_of` its embeddings; white box alone.
    """

    public: ImageSet
    perceptual: PerceptualMetric
    faces: FaceTools | None
    surrogate: Embedder | None
    told: Tensor | None
    imitations: Sequence[Embedder] = ()


@dataclass(frozen=True)
class Drawn:
    """What the attack made of a database.

    Attributes:
        pictures: ``(P, 3, H, W)`` in [0, 1] by arm: of each generator, and refined.
        recovered: ``(P, D)`` unit templates that they were drawn from, in the space of `Inversion.space`.
        best: the arm whose faces the adversary's recogniser finds most like what leaked; no judge has a say.
        note: for the reader, or empty.
    """

    pictures: dict[str, Tensor]
    recovered: Tensor
    best: str
    note: str


class Inversion:
    """Generators trained once, for any database of the recogniser's templates.

    Args:
        config: settings. victim: the recogniser behind its access; training asks for embeddings of public photos.
        means: see `Means`. run: where checkpoints go.
    """

    def __init__(self, config: TemplateConfig, victim: TemplateVictim, means: Means, run: RunDir) -> None:
        self.config, self.means, self.run, self.access = config, means, run, victim.access
        self.device = victim.device
        guide = victim.recogniser if self.access == "white-box" else means.surrogate
        if guide is None or not guide.gradients:
            name = "none" if guide is None else guide.name
            raise UserError(f"attack.access: the loss needs gradients of a recogniser, and {name} gives none; take "
                            "attack.access=transfer or scores with a surrogate that has them")
        self.guide, self.queries = guide, victim.queries
        #: The recogniser whose embeddings generators are given.
        self.space = guide if self.access == "scores" else victim.recogniser
        self.identities = self._of_public(guide) if means.told is None else means.told
        self.targets = self.identities if self.space is guide else self._of_public(guide)
        center, settings = center_of(self.targets), config.attack
        limit = settings.guided if means.imitations else None
        first = Guide(victim.embed if self.access == "white-box" else guide, center, limit)  # the victim counts queries
        #: What judges generated images in training: one space, less its center.
        self.guides = [first, *(Guide(each, torch.zeros_like(center)) for each in means.imitations)]
        self.prior = TemplatePrior.of(self.identities.cpu())
        self.to_guide: Mapping | None = None
        if self.access == "transfer":
            self.to_guide = fit_mapping(self.identities[:FITTED].cpu(), self.targets[:FITTED].cpu()).to(self.device)
        self.generators = [self._generator(name) for name in config.attack.generators]

    def train(self) -> None:
        """Every generator, each from its checkpoint where there is one."""
        targets = centred(self.targets, self.guides[0].center)
        data = TrainingSet(self.means.public, self.identities, targets, self.guides, self.means.perceptual,
                           self.queries)
        for generator in self.generators:
            train_generator(generator, data, self.config.attack, self.run, self.config.seed, self.config.precision,
                            self.config.save_every)

    def draw(self, victim: TemplateVictim) -> Drawn:
        """A face of everybody, by every generator.

        Under score access every person's budget is spent; otherwise the protection is undone first.
        """
        settings, note = self.config.attack, ""
        if self.access == "scores":
            inferred = infer_templates(victim, self.means.public, self.guide, self.prior, self.generators[0],
                                       settings.budget, settings.probes, self.config.seed)
            found = inferred.templates
            note = "the budget was spent on public photos alone" if inferred.spent else ""
        else:
            leaked = victim.database
            found = recover(victim.scheme, leaked.stored, leaked.keys, self.prior, settings.recovery_steps)
        pictures: dict[str, Tensor] = {}
        for generator in self.generators:
            pictures[generator.name] = self._pictures(generator, found)
            if settings.refine_steps:
                pictures[f"{generator.name}_refined"] = self._refined(generator, found)
        wanted = self._wanted(found.to(self.device)).cpu()
        likeness = {name: float((embed(self.guide, drawn) * wanted).sum(1).mean())
                    for name, drawn in pictures.items()}
        best = max(likeness, key=lambda name: likeness[name])
        return Drawn(pictures, found, best, note)

    def _of_public(self, recogniser: Embedder) -> Tensor:
        """``(N, D)`` unit embeddings of the public photos, on the device."""
        return embeddings(recogniser, self.means.public.images, recogniser.name).to(self.device)

    def _wanted(self, identity: Tensor) -> Tensor:
        """The guide's embedding of a perfect picture of somebody with this template."""
        return identity if self.to_guide is None else self.to_guide(identity)

    def _generator(self, name: str) -> Generator:
        size, settings = self.means.public.size, self.config.attack
        torch.manual_seed(derive(self.config.seed, "generator", name))
        if name == "decoder":
            made: Generator = DecoderGenerator(center_of(self.identities), size, settings)
        else:
            assert self.means.faces is not None
            swapper, teacher = self.means.faces
            mapping = None
            if weights_hash(teacher) != weights_hash(self.space):
                seen = embeddings(teacher, self.means.public.images[:FITTED], "teacher")
                mapping = fit_mapping(self.identities[: len(seen)].cpu(), seen)
            made = PriorGenerator(swapper, mapping, size, settings)
        lay_out(made, self.device)
        return made

    @torch.no_grad()
    def _pictures(self, generator: Generator, identity: Tensor) -> Tensor:
        parts = []
        for index in torch.arange(len(identity)).split(BATCH):
            with autocast(self.device, self.config.precision):
                parts.append(generator.pictures(identity[index].to(self.device), index).float().clamp(0, 1).cpu())
        return torch.cat(parts)

    def _refined(self, generator: Generator, identity: Tensor) -> Tensor:
        """Pictures from inputs that were moved for the guide to see in them what leaked."""
        settings, parts = self.config.attack, []
        bar = progress()
        with bar:
            task = bar.add_task("refining", total=len(identity))
            for index in torch.arange(len(identity)).split(BATCH):
                own = identity[index].to(self.device)
                wanted = centred(self._wanted(own), self.guides[0].center)
                at = own.clone().requires_grad_(True)
                adam = torch.optim.Adam([at], settings.refine_lr)
                for step in range(settings.refine_steps):
                    rng = torch.Generator().manual_seed(derive(self.config.seed, "refine", int(index[0]), step))
                    with autocast(self.device, self.config.precision):
                        drawn = generator.pictures(F.normalize(at, dim=1), index)
                        seen = viewed(drawn, settings.views, settings.degraded, rng)
                        near = torch.stack([(guide(seen) * wanted).sum(1) for guide in self.guides]).mean(0)
                    loss = 1 - near
                    (at.grad,) = torch.autograd.grad(loss.sum(), at)
                    adam.step()
                parts.append(self._pictures(generator, F.normalize(at.detach(), dim=1).cpu()))
                bar.update(task, advance=len(index))
        return torch.cat(parts)
