"""``latentprint audit label``: victim, attack, evaluation and report, each resumable."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from latentprint import checks
from latentprint.auditing.channel import Audit
from latentprint.auditing.run import run_steps
from latentprint.data.base import ImageSet
from latentprint.data.classes import numbered, order_of
from latentprint.data.faceregion import with_holes
from latentprint.data.groups import read_groups
from latentprint.data.people import load_people
from latentprint.data.splits import AuditData
from latentprint.diffusion.loading import load_tools
from latentprint.diffusion.swap import Swapper
from latentprint.engine.device import lay_out, pick_device
from latentprint.engine.run import RunDir
from latentprint.framer import Framer, sets_of
from latentprint.label.adapt import adapt
from latentprint.label.attack import ProgressiveAttack, check_attack, fixed, random_people, sample_seeds
from latentprint.label.baselines.arms import check_baselines, draw_baselines
from latentprint.label.classifiers import Classifier, fit_classifier, is_trained_here, load_classifier
from latentprint.label.defenses import defence_facts, defended
from latentprint.label.embedding import spread_within
from latentprint.label.evaluate import ArmScores, Bench, label_section, protocol, score, score_swaps
from latentprint.label.geometry import geometry_section
from latentprint.label.pictures import draw_figures
from latentprint.label.preprocessings import COMPARED, best_other, preprocessing_flag
from latentprint.label.presets import LabelConfig
from latentprint.label.probe import chance_flag, is_service, probe
from latentprint.label.tools import Tools, encode
from latentprint.label.warm import WarmStart, warm_starts
from latentprint.models.answers import embeddings
from latentprint.models.assets import find_asset, load_recogniser_asset
from latentprint.models.strangers import check_strangers
from latentprint.probes import spread
from latentprint.types import Reconstruction
from latentprint.verification import enrolled
from latentprint.victim import Victim


class LabelAudit(Audit[LabelConfig]):
    """An audit of a classifier: the victim's classes are the private people.

    Attributes:
        data: who is public and private. models: all networks, loaded; those trained here are ready after `train`.
        bench: all that judges. victim: with its accuracy. tools: the adversary's means.
        arms: scores of every arm. drawn: what the attack made. attacked: the attack, trained.
    """

    name = "label"
    bench: Bench
    victim: Classifier
    tools: Tools
    arms: dict[str, ArmScores]
    drawn: Reconstruction
    attacked: ProgressiveAttack
    queries: dict[str, dict[str, int]]

    @classmethod
    def settings(cls, config: LabelConfig) -> dict[str, Any]:
        return {"attack": config.attack.resolved}

    def load(self) -> None:
        self.data, self.warnings = audit_data(self.config)
        self.models = load_models(self.config, self.data)
        self.framer = self.models.framer
        self.warnings += [f"{each.name}: {note}" for each in (self.models.victim, *self.models.evaluators)
                          for note in each.notes]

    def sets(self) -> dict[str, ImageSet]:
        return self.data.parts

    @property
    def comes_trained(self) -> bool:
        return not is_trained_here(self.config.victim)

    def train(self, run: RunDir) -> None:
        """Train what is untrained, calibrate the judge, encode the public photos."""
        config, data, models = self.config, self.data, self.models
        train, heldout, swapper = data.private_train, data.private_heldout, models.swapper
        self.victim = fit_classifier(config, config.victim, models.victim, train, heldout, run, models.starts)
        evaluators = [fit_classifier(config, model, evaluator, train, heldout, run, models.starts)
                      for model, evaluator in zip(config.evaluators, models.evaluators, strict=True)]
        self.warnings += checks.enforce([
            *(checks.evaluator_weak(e.name, e.accuracy) for e in evaluators),
            *(checks.learned_from_optimised(e.name, e.warm, (config.teacher, *config.teachers)) for e in evaluators),
            checks.victim_learned_from_judge(self.victim.warm, config.judge)])
        public = with_holes(data.public)
        adapt(config, swapper, models.teacher, public, run)
        self.tools = encode(swapper, models.teacher, public, models.others, config.attack.gate)
        judge, teacher = (
            enrolled(network, data, name, find_asset(name, config.assets)[1].get("architecture", ""))
            for network, name in ((models.judge, config.judge), (models.teacher, config.teacher)))
        self.bench = Bench(data, evaluators, judge, teacher, self.tools.attributes, config.resamples, config.seed)
        self.warnings += judge.warnings()

    def probe(self) -> list[checks.Flag | None]:
        victim, heldout = self.victim, self.data.private_heldout
        flags = [*probe(victim.victim, spread(heldout, COMPARED)),
                 chance_flag(round(victim.accuracy * victim.n), victim.n, victim.victim.n_classes)]
        if not is_service(victim.victim) and not is_trained_here(self.config.victim) and victim.accuracy < 1:
            flags.append(preprocessing_flag(best_other(victim.victim, self.data.private)))
        return flags

    def attack(self, run: RunDir) -> None:
        """Sample and score every arm; all generated ones share classes, seeds and attribute images."""
        config, bench, tools, victim = self.config, self.bench, self.tools, self.victim.victim
        classes, seeds = sample_seeds(config.seed, victim.n_classes, config.attack.images)
        own = tools.with_prior(copy.deepcopy(tools.swapper.prior))
        self.attacked = attack = ProgressiveAttack(own, config.attack, run, config.seed, config.precision,
                                                   config.save_every)
        self.drawn = drawn = attack(victim, classes, seeds)
        self.reconstructions = drawn.images
        others = {
            "pseudo_label": fixed(tools, config.attack, attack.pseudo),
            **({"mapped": fixed(tools, config.attack, attack.public)} if config.attack.initial == "mapped" else {}),
            "floor": random_people(tools, config.attack),
            "prior_ceiling": fixed(tools, config.attack, bench.teacher.truth),
        }
        self.arms = arms = {"attack": score_swaps(bench, drawn, tools.public)}
        arms["attack_selected"] = arms["attack"].take(drawn.selected.numpy())
        for name, other in others.items():
            arms[name] = score_swaps(bench, other(victim, classes, seeds), tools.public)
        baselines = draw_baselines(config, victim, tools, classes, seeds, drawn.n_backward, run)
        arms |= {name: score_swaps(bench, made, tools.public) for name, made in baselines.items()}
        heldout = bench.data.private_heldout
        arms["ceiling"] = score(bench, heldout.images, heldout.labels, embeddings)
        self.queries = {name: {"forward": made.n_forward, "backward": made.n_backward}
                        for name, made in baselines.items()}

    def results(self) -> dict[str, Any]:
        config, victim, progressive = self.config, self.victim, self.attacked.progressive
        assert progressive is not None
        section = label_section(self.bench, self.arms)
        section["protocol"] = protocol(self.bench, config.attack.images, config.attack.selected, self.framer.facts())
        section["victim"] = {"architecture": victim.architecture, "accuracy": victim.accuracy,
                             "n_classes": victim.victim.n_classes, "n": victim.n, **victim.origin}
        section["stages"] = [vars(result) for result in progressive.results]
        watch = progressive.watch
        section["frechet_bounds"] = {"real_vs_real": watch.real, "prior_vs_real": watch.base,
                                     **({"real_vs_real_missing": watch.real_missing} if watch.real_missing else {})}
        if facts := defence_facts(config, victim.victim):
            section["defence"] = facts
        section["diagnosis"] = [asdict(finding) for finding in progressive.diagnosis()]
        section["geometry"] = geometry_section(progressive.labels, self.attacked.tools, config.seed)
        section["queries"] = {"forward": self.drawn.n_forward, "backward": self.drawn.n_backward}
        section["baseline_queries"] = self.queries
        return section

    def flags(self) -> list[str]:
        ceiling = self.section["ceiling"]["value"]
        warnings = checks.enforce([checks.constant_reconstructions(self.drawn.images),
                                   None if ceiling is None else checks.ceiling_low(ceiling)])
        if skipped := sum(stage["skipped"] for stage in self.section["stages"]):
            warnings.append(f"{skipped} steps of the attack had a non-finite loss or exploding gradient: skipped")
        reason = self.section["metrics"]["frechet"]["reason"]
        return warnings + ([f"no Fréchet distance: {reason}"] if reason else [])

    def figures(self, folder: Path) -> dict[str, Any]:
        return {"figures": draw_figures(folder, self.bench, self.tools, self.arms, self.drawn, self.attacked),
                "grid": "images/grid.png"}

    def networks(self) -> dict[str, nn.Module]:
        bench, tools, attack = self.bench, self.tools, self.attacked
        assert attack.progressive is not None
        return {"victim": self.victim.victim, "teacher": tools.teacher, "judge": bench.judge.network,
                "prior": tools.swapper.prior, "codec": tools.swapper.codec, "attributes": tools.attributes,
                "attack_prior": attack.tools.swapper.prior, "labels": attack.progressive.labels,
                **{e.name: e.victim for e in bench.evaluators},
                **dict(zip(self.config.teachers, tools.teachers.networks[1:], strict=True))}


def run_audit(config: LabelConfig, out: Path, resume: bool = False,
              before_verdict: Callable[[LabelAudit], None] | None = None) -> dict[str, Any]:
    """Audit a classifier and write ``out``; see `run_steps`."""
    return run_steps(LabelAudit, config, out, resume, before_verdict)


def audit_data(config: LabelConfig) -> tuple[AuditData, list[str]]:
    """Load and split the people, and look for overlap with each other and with those that networks were trained on.

    Raises:
        UserError: no public people, too few photos, a person or photo on both sides.
    """
    settings = config.data
    data = load_people(settings, config.seed, settings.n_heldout, settings.n_train, settings.heldout)
    if settings.groups is not None:  # of those who are private after the split
        groups = read_groups(settings.groups, data.private_train.names)
        train, heldout = (replace(part, groups=groups) for part in (data.private_train, data.private_heldout))
        data = replace(data, private_train=train, private_heldout=heldout)
    if any("diversity" in stage.active for stage in config.attack.resolved.stages):
        spread_within(torch.zeros(len(data.public), 1), data.public.labels)  # refuses one photo of each
    data = ordered(data, config.victim.classes)
    found = checks.enforce(checks.photos_of(data))
    shared = check_strangers({"data.private": settings.private, "data.evaluation": settings.evaluation},
                             assets_in_use(config), config.assets, data.apart, data.held)
    return data, [*data.notes, *shared, *found]


def ordered(data: AuditData, classes: list[str] | None) -> AuditData:
    """The private people in the order of the victim's outputs.

    Raises:
        UserError: the outputs are not these people.
    """
    if classes is None:
        return data
    parts = data.private_train, data.private_heldout
    names, source = parts[0].names, parts[0].source
    if (order := numbered(classes, names)) is not None:
        note = f"{source}: the people are called {names[order[0]]} to {names[order[-1]]}, which count victim.classes"
        train, heldout = (replace(part.of_classes(order), names=tuple(classes), notes=(*part.notes, note))
                          for part in parts)
    else:
        train, heldout = (part.of_classes(order_of(classes, names, source)) for part in parts)
    return replace(data, private_train=train, private_heldout=heldout)


@dataclass(frozen=True)
class Models:
    """All networks of an audit, loaded and checked, classifiers perhaps untrained."""

    victim: Victim
    evaluators: list[Victim]
    teacher: nn.Module
    others: list[nn.Module]
    judge: nn.Module
    swapper: Swapper
    framer: Framer
    starts: dict[str, WarmStart]


def load_models(config: LabelConfig, data: AuditData) -> Models:
    """Everything that can fail for the user's sake, before anything is written or trained.

    Raises:
        UserError: an asset, victim or evaluator that cannot be used, or that breaks the rules of ``checks``.
    """
    device = pick_device(config.device)
    swapper, teacher = load_tools(config.assets, device, config.teacher)
    judge, *others = (lay_out(load_recogniser_asset(name, config.assets, setting), device)
                      for name, setting in ((config.judge, "judge"), *((name, "teachers") for name in config.teachers)))
    framer = Framer(sets_of(data), config.assets, device)
    known = dict(zip((config.teacher, *config.teachers), (teacher, *others), strict=True))
    for name, network in known.items():
        framer.frame(network, name, config.teacher_framing, "teacher_framing")
    framer.frame(judge, config.judge, config.judge_framing, "judge_framing")
    train = data.private_train
    victim = defended(load_classifier(config, config.victim, "victim", train), config, len(train), train.size)
    check_attack(config.attack, victim)
    check_baselines(config.baselines, config.attack, victim)
    evaluators = [load_classifier(config, model, f"evaluator-{i + 1}", data.private_train)
                  for i, model in enumerate(config.evaluators)]
    starts = warm_starts(learned_from(config), data.public, known, framer)
    checks.enforce([
        *(checks.judge_is_teacher(judge, each) for each in (teacher, *others)),
        *(checks.evaluator_is_victim(e.name, e, victim) for e in evaluators),
        *(checks.same_architecture(e.name, model.model, config.victim.model, e, victim)
          for e, model in zip(evaluators, config.evaluators, strict=True)),
        *(checks.evaluator_learned_from_judge(e.name, model.warm, config.judge, judge,
                                              starts[model.warm].network if model.warm in starts else None)
          for e, model in zip(evaluators, config.evaluators, strict=True)),
    ])
    return Models(victim, evaluators, teacher, others, judge, swapper, framer, starts)


def assets_in_use(config: LabelConfig) -> list[str]:
    """Names of the trained networks that the audit builds on."""
    return [config.teacher, *config.teachers, config.judge, "prior", "codec", "attributes", *learned_from(config)]


def learned_from(config: LabelConfig) -> list[str]:
    """Names of the recognisers from which networks that are trained here learn first."""
    return [model.warm for model in (config.victim, *config.evaluators)
            if model.warm is not None and model.warm_weights is None and is_trained_here(model)]
