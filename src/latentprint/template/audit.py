"""``latentprint audit template``: recogniser, attack, evaluation and report, each resumable."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from latentprint import checks
from latentprint.auditing.channel import Audit
from latentprint.auditing.run import run_steps
from latentprint.auditing.scores import LEAK_ARMS, UNKNOWN, Json, Values
from latentprint.data.base import ImageSet
from latentprint.data.pairs import Pairs, load_lfw_pairs
from latentprint.data.people import load_people
from latentprint.data.splits import AuditData
from latentprint.diffusion.loading import check_needs, load_tools
from latentprint.engine.run import RunDir
from latentprint.errors import UserError
from latentprint.framer import Framer, sets_of
from latentprint.metrics.perceptual import perceptual_metric
from latentprint.models.answers import embeddings
from latentprint.models.assets import load_recogniser_asset
from latentprint.models.face_decoder import FaceDecoder
from latentprint.models.outside import OutsideNetwork
from latentprint.models.recognisers import RECOGNISERS, center_of, centred, embed
from latentprint.models.strangers import check_strangers
from latentprint.probes import constant_flag, function_flags, spread
from latentprint.stats import t_interval
from latentprint.template.attack import Drawn, Inversion, Means
from latentprint.template.defenses import Scheme, make_scheme
from latentprint.template.evaluate import (
    HEADLINE,
    RANK1,
    ArmScores,
    Bench,
    System,
    arm_section,
    impersonation,
    make_system,
    per_person,
    protocol,
    score,
)
from latentprint.template.generators import pixel_loss
from latentprint.template.pictures import draw_figures
from latentprint.template.presets import RecogniserConfig, TemplateConfig
from latentprint.template.protection import NoProtection, described
from latentprint.template.recogniser import Embedder, load_recogniser
from latentprint.template.surrogate import train_surrogate
from latentprint.template.victim import TemplateVictim
from latentprint.verification import LOW_TAR, CalibrationSets, pair_accuracy, single_photo_sets

#: Photos that the attacked recogniser is tried on.
PROBED = 32


class TemplateAudit(Audit[TemplateConfig]):
    """An audit of stored templates.

    Attributes:
        data: who is public and enrolled. calibrators: whom thresholds are calibrated on.
        recogniser: the attacked one. judges: others. scheme: how templates are stored.
        surrogate: the adversary's own recogniser, where it needs one and has one already.
        bench: everybody enrolled everywhere. victim: the attacked system behind its access.
        inversion: the attack, trained. drawn: what it made. arms: scores of every arm.
    """

    name = "template"
    data: AuditData
    pairs: Pairs | None
    calibrators: CalibrationSets
    recogniser: Embedder
    judges: list[Embedder]
    surrogate: Embedder | None
    scheme: Scheme
    bench: Bench
    victim: TemplateVictim
    inversion: Inversion
    drawn: Drawn
    arms: dict[str, ArmScores]

    def load(self) -> None:
        config, device, settings = self.config, self.device, self.config.data
        self.data = data = load_people(settings, config.seed, settings.n_heldout, 1, settings.others)
        size = data.public.size
        self.pairs = None if config.lfw is None else load_lfw_pairs(config.lfw.path, config.lfw.pairs, size)
        self.warnings = [*data.notes, *checks.enforce(checks.photos_of(data))]
        lfw = {} if self.pairs is None else {"lfw": self.pairs.images}
        self.framer = framer = Framer({**sets_of(data), **lfw}, config.assets, device)
        self.recogniser = load_recogniser(config.recogniser, config.assets, size, device, "recogniser", framer)
        self.judges = [load_recogniser(judge, config.assets, size, device, f"judges.{i}", framer)
                       for i, judge in enumerate(config.judges)]
        if len({each.name for each in self.judges}) < len(self.judges):
            raise UserError(f"judges: names must differ, got {', '.join(each.name for each in self.judges)}")
        optimised: list[nn.Module] = [self.recogniser]
        if "prior" in config.attack.generators:
            check_needs(config.assets, config.teacher)
            optimised.append(load_recogniser_asset(config.teacher, config.assets, "teacher"))
            framer.frame(optimised[-1], config.teacher, config.teacher_framing, "teacher_framing")
        checks.enforce([checks.judge_is_teacher(judge, each) for judge in self.judges for each in optimised])
        self.warnings += [f"{each.name}: {note}" for each in (self.recogniser, *self.judges) for note in each.notes]
        self.surrogate = load_surrogate(config, data, self.recogniser, self.judges, device, framer)
        self.warnings += check_strangers(
            {"data.private": settings.private, "data.others": settings.others, "data.evaluation": settings.evaluation},
            assets_in_use(config), config.assets, data.apart, data.held)
        if config.attack.loss.perceptual.most > 0:
            self.warnings.append("the perceptual distance is the one that the attack optimises "
                                 "(attack.loss.perceptual), so it flatters the attack")
        self.calibrators = single_photo_sets(data)
        self._check_attack()

    def _check_attack(self) -> None:
        """Refuse what the attack could not do."""
        config, recogniser, public = self.config, self.recogniser, self.data.public
        for protection in config.compared:
            make_scheme(protection, recogniser.dim, config.seed)
        if config.attack.access == "white-box" and not recogniser.gradients:
            raise UserError(f"attack.access: {recogniser.name} gives no gradients, so there is no white box; take "
                            "attack.access=transfer or scores")
        if "decoder" in config.attack.generators:
            FaceDecoder(recogniser.dim, public.size)  # refuses sizes that it cannot draw
        if public.n_classes < 2:
            raise UserError("data.public: the photos are all of one person; the attack learns to tell people apart")
        self.scheme = make_scheme(config.protection, recogniser.dim, config.seed)
        if "decoder" in config.attack.generators:
            pixel_loss(config.attack.loss.pixel)

    def sets(self) -> dict[str, ImageSet]:
        return self.data.parts

    def train(self, run: RunDir) -> None:
        """Enrol everybody everywhere: recognisers come trained."""
        config = self.config
        self.bench = Bench(self.system(self.recogniser, self.scheme),
                           [self.system(judge) for judge in self.judges], self.data.private_train,
                           self.data.private_heldout, perceptual_metric(config.lpips, assets=config.assets),
                           config.resamples, config.seed)

    def system(self, recogniser: Embedder, scheme: Scheme | None = None) -> System:
        """The enrolled people in a recogniser, by default without protection."""
        plain = make_scheme(NoProtection(), recogniser.dim, self.config.seed)
        return make_system(recogniser.name, recogniser, scheme or plain, self.data, self.calibrators)

    def probe(self) -> list[checks.Flag | None]:
        return look_at(self.config, self.recogniser, self.data.private_heldout, self.device)

    def attack(self, run: RunDir) -> None:
        config, bench = self.config, self.bench
        self.victim = TemplateVictim(self.recogniser, self.scheme, bench.attacked.database, config.attack.access,
                                     config.attack.budget)
        self.inversion = Inversion(config, self.victim, self.means(run), run)
        self.inversion.train()
        self.drawn = self.inversion.draw(self.victim)
        self.arms = arms_of(bench, self.inversion, self.drawn)
        self.reconstructions = self.arms["attack"].pictures

    def means(self, run: RunDir) -> Means:
        """What the adversary has, all of it public; its own recogniser is trained here where it has none."""
        config, settings, surrogate, public = self.config, self.config.attack, self.surrogate, self.data.public
        training = (settings.surrogate_steps, run, config.seed, config.precision, self.device, config.save_every)
        told = None if settings.access == "scores" else self.victim.embed_photos(public.images)
        if settings.access != "white-box" and surrogate is None:
            surrogate = train_surrogate(public, told, *training)
        imitations = []
        if settings.access == "white-box" and told is not None:
            targets = centred(told, center_of(told))
            imitations = [train_surrogate(public, targets, *training, f"imitation-{i}", architecture,
                                          mirrored=True)
                          for i, architecture in enumerate(islice(cycle(RECOGNISERS), settings.imitations), 1)]
        faces = load_tools(config.assets, self.device, config.teacher) if "prior" in settings.generators else None
        if faces is not None:
            self.framer.frame(faces.teacher, config.teacher, config.teacher_framing, "teacher_framing")
        metric = perceptual_metric(config.lpips, assets=config.assets).to(self.device)
        return Means(public, metric, faces, surrogate, told, imitations)

    def results(self) -> dict[str, Any]:
        config, bench, arms, recogniser, queries = (self.config, self.bench, self.arms, self.recogniser,
                                                    self.victim.queries)
        sections = {name: arm_section(bench, arm) for name, arm in arms.items()}
        section: dict[str, Any] = {"headline": HEADLINE, "arms": sections, "metrics": sections["attack"]}
        for name in LEAK_ARMS:
            section[name] = sections[name].get(HEADLINE, dict(UNKNOWN))
        section["leak"] = bench.intervals.leak(arms, HEADLINE)
        section["recovery"] = {"judge": bench.judges[0].name if bench.judges else None, "missing": bench.missing,
                               "rank1": {name: sections[name].get(RANK1, dict(UNKNOWN)) for name in LEAK_ARMS}}
        section["impersonation"] = impersonation(bench, arms)
        section["gain_over"] = {"nearest": bench.intervals.gain(arms["attack"], arms["nearest"], HEADLINE)}
        section["per_identity"] = per_person(bench, arms["attack"])
        section["attacked"], *section["judges"] = (self._described(each) for each in (bench.attacked, *bench.judges))
        section["evaluators"] = []
        section["victim"] = {"name": recogniser.name, "architecture": recogniser.architecture,
                             "n_classes": bench.people, "protection": described(config.protection),
                             "entries": bench.attacked.database.stored.shape[1], "access": config.attack.access}
        section["feature_weight_at_start"] = config.attack.loss.weight.ramp.at_start
        section["protocol"] = protocol(bench, self.calibrators, {
            "access": config.attack.access, "generators": config.attack.generators,
            "protection": described(config.protection), "public": self.data.public.source,
            "private": self.data.private_train.source,
            "judge_weights": [checks.weights_hash(judge.recogniser)[:12] for judge in bench.judges],
            **self.framer.facts()})
        section["recovered_similarity"] = recovered_similarity(bench, self.inversion, self.drawn.recovered)
        section["queries"] = {"forward": queries.forward, "backward": queries.backward,
                              "submitted_per_person": int(self.victim.submitted.max())}
        section["best_attack"] = self.drawn.best
        if (own := self.inversion.means.surrogate) is not None:
            system = self.system(own)  # for the reader alone: enrolled people are strangers to the adversary
            section["surrogate"] = system.section()
            self.warnings += weak_surrogate(system)
        return section

    def _described(self, system: System) -> dict[str, Any]:
        pairs = {} if self.pairs is None else {"pair_accuracy": lfw_accuracy(system.recogniser, self.pairs)}
        return {**system.section(), **pairs}

    def flags(self) -> list[str]:
        bench = self.bench
        return [*([bench.missing] if bench.missing else []),
                *checks.enforce([checks.constant_reconstructions(self.reconstructions)]),
                *(warning for system in (bench.attacked, *bench.judges) for warning in system.warnings()),
                *([self.drawn.note] if self.drawn.note else [])]

    def figures(self, folder: Path) -> dict[str, Any]:
        judges = self.bench.judges
        by = f"the judge ({judges[0].name})" if judges else "the attacked recogniser"
        return {"figures": draw_figures(folder, self.bench, self.arms, list(self.drawn.pictures)),
                "grid": "images/grid.png",
                "grid_caption": f"Numbers: similarity to other photos of the person by {by}."}

    def networks(self) -> dict[str, nn.Module]:
        return {each.name: each for each in (self.recogniser, *self.judges)}


def run_audit(config: TemplateConfig, out: Path, resume: bool = False,
              before_verdict: Callable[[TemplateAudit], None] | None = None) -> dict[str, Any]:
    """Audit stored templates and write ``out``; see `run_steps`."""
    return run_steps(TemplateAudit, config, out, resume, before_verdict)


def look_at(config: TemplateConfig, recogniser: Embedder, photos: ImageSet,
            device: torch.device) -> list[checks.Flag | None]:
    """What would hide a leak of the attacked recogniser from the attack."""
    outside = isinstance(recogniser.network, OutsideNetwork)
    images = spread(photos, PROBED).floats().to("cpu" if outside else device)
    with torch.no_grad():
        constant = constant_flag(recogniser(images))
    gradient = recogniser if config.attack.access == "white-box" else None
    rendered = None if not config.data.rendered_public else checks.Flag(
        "rendered-public", "blind", "the attack learns from rendered faces alone, and the attacked people are not "
        "rendered", "name public photos of the same kind in data.public")
    return [constant, rendered, *function_flags(recogniser, images, gradient)]


def load_surrogate(config: TemplateConfig, data: AuditData, recogniser: Embedder, judges: Sequence[Embedder],
                   device: torch.device, framer: Framer) -> Embedder | None:
    """The adversary's own recogniser, where it needs one and has one already.

    Raises:
        UserError: it cannot be used, or is the one that is attacked or judges.
    """
    name = config.attack.surrogate
    if config.attack.access == "white-box" or name == "train":
        return None
    own_config = RecogniserConfig(model=name, framing=config.attack.surrogate_framing)
    found = load_recogniser(own_config, config.assets, data.public.size, device, "attack.surrogate", framer)
    own = checks.weights_hash(found.network)
    if own == checks.weights_hash(recogniser.network):
        raise UserError(f"attack.surrogate: {name} is the attacked recogniser; with its gradients take "
                        "attack.access=white-box")
    if any(own == checks.weights_hash(judge.network) for judge in judges):
        raise UserError(f"attack.surrogate: {name} also judges; a judge must not be the one that the attack optimises")
    return found


def assets_in_use(config: TemplateConfig) -> list[str]:
    """Names of the packaged networks that the audit builds on."""
    models = [config.recogniser.model, *(judge.model for judge in config.judges)]
    if config.attack.access != "white-box" and config.attack.surrogate != "train":
        models.append(config.attack.surrogate)
    named = [model for model in models if ":" not in model and not Path(model).suffix]
    return named + (["prior", "codec", "attributes", config.teacher] if "prior" in config.attack.generators else [])


def arms_of(bench: Bench, inversion: Inversion, drawn: Drawn) -> dict[str, ArmScores]:
    """Scores of every arm: what was drawn, what needs no drawing, and real photos.

    ``floor`` is the mean public face, all there is without a template; ``nearest`` the public photo whose embedding is
    most like what leaked, which draws nothing.
    """
    public, people = inversion.means.public, bench.people
    nearest = (drawn.recovered.cpu() @ inversion.identities.cpu().T).argmax(1)
    arms = {"floor": score(bench, public.mean().expand(people, -1, -1, -1)),
            "nearest": score(bench, public.floats(nearest)),
            **{name: score(bench, pictures) for name, pictures in drawn.pictures.items()}}
    arms["attack"] = arms[drawn.best]
    arms["ceiling"] = score(bench, bench.photos.floats())
    return arms


def lfw_accuracy(recogniser: Embedder, pairs: Pairs) -> dict[str, Any]:
    """Mean accuracy over the folds of LFW's protocol, with Student's interval over them."""
    seen = embeddings(recogniser, pairs.images, recogniser.name)
    likeness = (seen[pairs.first] * seen[pairs.second]).sum(1)
    found = t_interval(pair_accuracy(likeness, pairs.same, pairs.fold), bounds=(0.0, 1.0))
    return {"value": found.value, "low": found.low, "high": found.high, "n": len(pairs)}


def weak_surrogate(system: System) -> list[str]:
    """A warning where the adversary's own recogniser hardly tells people apart."""
    fmr, tar = system.tar
    if tar >= LOW_TAR:
        return []
    return [f"the adversary's own recogniser accepts only {tar:.0%} of real photos of the right person at FMR {fmr:g}: "
            "the attack is no stronger than that; name a better one (attack.surrogate), train it longer "
            "(attack.surrogate_steps), or give it more public people"]


def recovered_similarity(bench: Bench, inversion: Inversion, recovered: Tensor) -> Json:
    """Mean cosine of the templates that the adversary arrived at to the true, unprotected ones; with its interval."""
    truth = embed(inversion.space, bench.photos.images)
    values = (recovered.cpu() * truth).sum(1).double().numpy()
    return bench.intervals.mean(Values(values, np.arange(len(values))))
