"""``latentprint audit label``: victim, attack, evaluation and report, each resumable."""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from latentprint import checks
from latentprint.config import config_hash
from latentprint.data.classes import numbered, order_of
from latentprint.data.faceregion import with_holes
from latentprint.data.groups import read_groups
from latentprint.data.people import load_people
from latentprint.data.splits import AuditData
from latentprint.diffusion.loading import load_tools
from latentprint.diffusion.swap import Swapper
from latentprint.engine.device import lay_out, peak_memory, pick_device
from latentprint.engine.loop import is_main, say
from latentprint.engine.run import RunDir, check_out, manifest, now
from latentprint.engine.settings import settled
from latentprint.framer import Framer, sets_of
from latentprint.label.adapt import adapt
from latentprint.label.attack import ProgressiveAttack, check_attack, fixed, random_people, sample_seeds
from latentprint.label.baselines.arms import check_baselines, draw_baselines
from latentprint.label.classifiers import Classifier, fit_classifier, is_trained_here, load_classifier
from latentprint.label.defenses import defence_facts, defended
from latentprint.label.embedding import spread_within
from latentprint.label.evaluate import (
    ArmScores,
    Bench,
    enrolled,
    label_section,
    protocol,
    score,
    score_swaps,
    warnings_of,
)
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
from latentprint.probes import announce, spread
from latentprint.report.build import concluded
from latentprint.types import Reconstruction
from latentprint.victim import Victim


class Audited(NamedTuple):
    """An audit before its verdict: what judged, the victim, every arm's scores and the section of report.json."""

    bench: Bench
    victim: Classifier
    arms: Mapping[str, ArmScores]
    section: dict[str, Any]


def run_audit(config: LabelConfig, out: Path, resume: bool = False,
              before_verdict: Callable[[Audited], None] | None = None) -> dict[str, Any]:
    """Audit a classifier and write ``out``; returns what report.json holds.

    Args:
        before_verdict: sees the results, and may add to their section, before the verdict is written.

    Raises:
        UserError: settings, files or data that cannot be used; nothing is half-written before the data are checked.
        RunFailed: training broke down.
    """
    began = time.perf_counter()
    config, device = settled(config, attack=config.attack.resolved)
    if is_main():
        check_out(out, resume)
    data, warnings = audit_data(config)
    models = load_models(config, data)
    warnings += [f"{each.name}: {note}" for each in (models.victim, *models.evaluators) for note in each.notes]
    for warning in warnings:
        say(warning)
    run = RunDir.open(out, config.model_dump(mode="json"), resume, writes=is_main())
    run.describe(**manifest(config.seed, str(device), precision=config.precision, config_hash=config_hash(config),
                            command=["latentprint", *sys.argv[1:]], data=data.hashes()))
    bench, victim, tools, found = prepare(config, data, models, run)
    warnings += found
    looked = look_at(config, victim, data)
    arms, drawn, attack, queries = draw_arms(config, bench, victim, tools, run)
    section = label_section(bench, arms)
    section["probes"] = checks.probes(looked)
    section["protocol"] = protocol(bench, config.attack.images, config.attack.selected, models.framer.facts())
    section["victim"] = {"architecture": victim.architecture, "accuracy": victim.accuracy,
                         "n_classes": victim.victim.n_classes, "n": victim.n, **victim.origin}
    assert attack.progressive is not None
    section["stages"] = [vars(result) for result in attack.progressive.results]
    watch = attack.progressive.watch
    section["frechet_bounds"] = {"real_vs_real": watch.real, "prior_vs_real": watch.base,
                                 **({"real_vs_real_missing": watch.real_missing} if watch.real_missing else {})}
    if facts := defence_facts(config, victim.victim):
        section["defence"] = facts
    section["diagnosis"] = [asdict(finding) for finding in attack.progressive.diagnosis()]
    section["geometry"] = geometry_section(attack.progressive.labels, attack.tools, config.seed)
    section["queries"] = {"forward": drawn.n_forward, "backward": drawn.n_backward}
    section["baseline_queries"] = queries
    framing, found = models.framer.reported(drawn.images, run.path if is_main() else None)
    section |= framing
    warnings += [*found, *later_flags(section, drawn)]
    if is_main():
        section["figures"] = draw_figures(run.path, bench, tools, arms, drawn, attack)
        section["grid"] = "images/grid.png"
    if before_verdict is not None:
        before_verdict(Audited(bench, victim, arms, section))
    section |= concluded(section)
    section["seconds"] = time.perf_counter() - began
    networks = {"victim": victim.victim, "teacher": tools.teacher, "judge": bench.judge.network,
                "prior": tools.swapper.prior, "codec": tools.swapper.codec, "attributes": tools.attributes,
                "attack_prior": attack.tools.swapper.prior, "labels": attack.progressive.labels,
                **{e.name: e.victim for e in bench.evaluators},
                **dict(zip(config.teachers, tools.teachers.networks[1:], strict=True))}
    run.describe(end=now(), peak_memory_gib=peak_memory(device),
                 hashes={name: checks.weights_hash(network) for name, network in networks.items()})
    report = {"schema": 1, "channels": {"label": section}, "manifest": run.facts,
              "warnings": list(dict.fromkeys(warnings))}
    run.write_json("report.json", report)
    run.close()
    return report


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


def prepare(config: LabelConfig, data: AuditData, models: Models,
            run: RunDir) -> tuple[Bench, Classifier, Tools, list[str]]:
    """Train what is untrained, calibrate the judge, encode the public photos."""
    train, heldout, swapper = data.private_train, data.private_heldout, models.swapper
    victim = fit_classifier(config, config.victim, models.victim, train, heldout, run, models.starts)
    evaluators = [fit_classifier(config, model, evaluator, train, heldout, run, models.starts)
                  for model, evaluator in zip(config.evaluators, models.evaluators, strict=True)]
    found = checks.enforce([*(checks.evaluator_weak(e.name, e.accuracy) for e in evaluators),
                            *(checks.learned_from_optimised(e.name, e.warm, (config.teacher, *config.teachers))
                              for e in evaluators),
                            checks.victim_learned_from_judge(victim.warm, config.judge)])
    public = with_holes(data.public)
    adapt(config, swapper, models.teacher, public, run)
    tools = encode(swapper, models.teacher, public, models.others, config.attack.gate)
    judge, teacher = (
        enrolled(network, data, name, find_asset(name, config.assets)[1].get("architecture", ""))
        for network, name in ((models.judge, config.judge), (models.teacher, config.teacher)))
    bench = Bench(data, evaluators, judge, teacher, tools.attributes, config.resamples, config.seed)
    return bench, victim, tools, [*found, *warnings_of(bench.judge)]


def look_at(config: LabelConfig, victim: Classifier, data: AuditData) -> list[checks.Flag]:
    """What would hide a leak of this victim from the attack."""
    flags = [*probe(victim.victim, spread(data.private_heldout, COMPARED)),
             chance_flag(round(victim.accuracy * victim.n), victim.n, victim.victim.n_classes)]
    if not is_service(victim.victim) and not is_trained_here(config.victim) and victim.accuracy < 1:
        flags.append(preprocessing_flag(best_other(victim.victim, data.private)))
    return announce(flags)


def draw_arms(
    config: LabelConfig, bench: Bench, victim: Classifier, tools: Tools, run: RunDir,
) -> tuple[dict[str, ArmScores], Reconstruction, ProgressiveAttack, dict[str, dict[str, int]]]:
    """Pictures and scores of every arm, and the queries of the baselines.

    All generated arms share classes, seeds and attribute images.
    """
    classes, seeds = sample_seeds(config.seed, victim.victim.n_classes, config.attack.images)
    own = tools.with_prior(copy.deepcopy(tools.swapper.prior))
    attack = ProgressiveAttack(own, config.attack, run, config.seed, config.precision, config.save_every)
    drawn = attack(victim.victim, classes, seeds)
    others = {
        "pseudo_label": fixed(tools, config.attack, attack.pseudo),
        **({"mapped": fixed(tools, config.attack, attack.public)} if config.attack.initial == "mapped" else {}),
        "floor": random_people(tools, config.attack),
        "prior_ceiling": fixed(tools, config.attack, bench.teacher.truth),
    }
    arms = {"attack": score_swaps(bench, drawn, tools.public)}
    arms["attack_selected"] = arms["attack"].take(drawn.selected.numpy())
    for name, other in others.items():
        arms[name] = score_swaps(bench, other(victim.victim, classes, seeds), tools.public)
    baselines = draw_baselines(config, victim.victim, tools, classes, seeds, drawn.n_backward, run)
    arms |= {name: score_swaps(bench, made, tools.public) for name, made in baselines.items()}
    heldout = bench.data.private_heldout
    arms["ceiling"] = score(bench, heldout.images, heldout.labels, embeddings)
    queries = {name: {"forward": made.n_forward, "backward": made.n_backward} for name, made in baselines.items()}
    return arms, drawn, attack, queries


def later_flags(section: dict[str, Any], drawn: Reconstruction) -> list[str]:
    """Warnings that only the results can raise."""
    ceiling = section["ceiling"]["value"]
    flags = [checks.constant_reconstructions(drawn.images),
             checks.ceiling_low(ceiling) if ceiling is not None and np.isfinite(ceiling) else None]
    warnings = checks.enforce(flags)
    skipped = sum(stage["skipped"] for stage in section["stages"])
    if skipped:
        warnings.append(f"{skipped} steps of the attack had a non-finite loss or exploding gradient: skipped")
    reason = section["metrics"]["frechet"]["reason"]
    return warnings + ([f"no Fréchet distance: {reason}"] if reason else [])
