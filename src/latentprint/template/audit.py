"""``latentprint audit template``: recogniser, attack, evaluation and report, each resumable."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from latentprint import checks
from latentprint.config import config_hash
from latentprint.data.pairs import Pairs, load_lfw_pairs
from latentprint.data.people import load_people
from latentprint.data.splits import AuditData
from latentprint.diffusion.loading import check_needs, load_tools
from latentprint.engine.device import peak_memory
from latentprint.engine.loop import is_main, say
from latentprint.engine.run import RunDir, check_out, manifest, now
from latentprint.engine.settings import settled
from latentprint.errors import UserError
from latentprint.framer import Framer, sets_of
from latentprint.metrics.perceptual import perceptual_metric
from latentprint.metrics.verification import pair_accuracy
from latentprint.models.answers import embeddings
from latentprint.models.assets import load_recogniser_asset
from latentprint.models.face_decoder import FaceDecoder
from latentprint.models.outside import OutsideNetwork
from latentprint.models.recognisers import RECOGNISERS, center_of, centred, embed
from latentprint.models.strangers import check_strangers
from latentprint.probes import announce, constant_flag, function_flags, spread
from latentprint.report.build import concluded
from latentprint.stats import t_interval
from latentprint.template.attack import Drawn, Inversion, Means
from latentprint.template.defenses import Scheme, make_scheme
from latentprint.template.evaluate import (
    HEADLINE,
    LOOSE,
    RANK1,
    STRICT,
    UNKNOWN,
    ArmScores,
    Bench,
    Calibrators,
    arm_section,
    calibrators,
    impersonation,
    leak,
    make_system,
    paired,
    per_person,
    protocol,
    score,
    system_section,
)
from latentprint.template.generators import pixel_loss
from latentprint.template.pictures import draw_figures
from latentprint.template.presets import RecogniserConfig, TemplateConfig
from latentprint.template.protection import NoProtection, described
from latentprint.template.recogniser import Embedder, load_recogniser
from latentprint.template.surrogate import train_surrogate
from latentprint.template.victim import TemplateVictim

#: Photos that the attacked recogniser is tried on.
PROBED = 32
#: True accept rates below which a recogniser hardly tells people apart.
LOW_TAR = 0.5
#: A realised false match rate beyond so many times the stated one is worth a warning.
TOLERANCE = 5


@dataclass(frozen=True)
class Parts:
    """Everything that an audit is made of, before anything is spent."""

    data: AuditData
    by: Calibrators
    recogniser: Embedder
    judges: list[Embedder]
    surrogate: Embedder | None
    scheme: Scheme
    device: torch.device
    framer: Framer
    pairs: Pairs | None = None


class Audited(NamedTuple):
    """An audit before its verdict: what it was made of, the trained attack, what judged, every arm, the section."""

    config: TemplateConfig
    parts: Parts
    inversion: Inversion
    bench: Bench
    arms: Mapping[str, ArmScores]
    section: dict[str, Any]
    folder: Path


def run_audit(config: TemplateConfig, out: Path, resume: bool = False,
              before_verdict: Callable[[Audited], None] | None = None) -> dict[str, Any]:
    """Audit stored templates and write ``out``; returns what report.json holds.

    Args:
        before_verdict: sees the results, and may add to their section, before the verdict is written.

    Raises:
        UserError: settings, files or data that cannot be used; nothing is half-written before they are checked.
        RunFailed: training broke down.
    """
    began = time.perf_counter()
    config, device = settled(config)
    if is_main():
        check_out(out, resume)
    parts, warnings = prepare(config, device)
    run = RunDir.open(out, config.model_dump(mode="json"), resume, writes=is_main())
    run.describe(**manifest(config.seed, str(device), precision=config.precision, config_hash=config_hash(config),
                            command=["latentprint", *sys.argv[1:]], data=parts.data.hashes()))
    looked = look_at(config, parts)
    bench = make_bench(config, parts)
    victim = TemplateVictim(parts.recogniser, parts.scheme, bench.attacked.database, config.attack.access,
                            config.attack.budget)
    inversion = Inversion(config, victim, make_means(config, parts, victim, run), run)
    inversion.train()
    drawn = inversion.draw(victim)
    arms = arms_of(bench, inversion, drawn)
    section = template_section(config, parts, bench, arms)
    section["recovered_similarity"] = recovered_similarity(bench, inversion, drawn.recovered)
    section["queries"] = {"forward": victim.queries.forward, "backward": victim.queries.backward,
                          "submitted_per_person": int(victim.submitted.max())}
    section["best_attack"], section["probes"] = drawn.best, checks.probes(looked)
    if (own := inversion.means.surrogate) is not None:
        described, flags = surrogate_section(config, parts, own)
        section["surrogate"] = described
        warnings += flags
    framing, found = parts.framer.reported(arms["attack"].pictures, run.path if is_main() else None)
    section |= framing
    warnings += [*found, *([bench.missing] if bench.missing else []), *later_flags(bench, arms["attack"].pictures),
                 *([drawn.note] if drawn.note else [])]
    if is_main():
        section["figures"] = draw_figures(run.path, bench, arms, list(drawn.pictures))
        section["grid"] = "images/grid.png"
        by = f"the judge ({bench.judges[0].name})" if bench.judges else "the attacked recogniser"
        section["grid_caption"] = f"Numbers: similarity to other photos of the person by {by}."
    if before_verdict is not None:
        before_verdict(Audited(config, parts, inversion, bench, arms, section, run.path))
    section |= concluded(section)
    section["seconds"] = time.perf_counter() - began
    run.describe(end=now(), peak_memory_gib=peak_memory(device),
                 hashes={each.name: checks.weights_hash(each) for each in (parts.recogniser, *parts.judges)})
    report = {"schema": 1, "channels": {"template": section}, "manifest": run.facts,
              "warnings": list(dict.fromkeys(warnings))}
    run.write_json("report.json", report)
    run.close()
    return report


def look_at(config: TemplateConfig, parts: Parts) -> list[checks.Flag]:
    """What would hide a leak of the attacked recogniser from the attack."""
    recogniser = parts.recogniser
    outside = isinstance(recogniser.network, OutsideNetwork)
    images = spread(parts.data.private_heldout, PROBED).floats().to("cpu" if outside else parts.device)
    with torch.no_grad():
        constant = constant_flag(recogniser(images))
    gradient = recogniser if config.attack.access == "white-box" else None
    rendered = None if not config.data.rendered_public else checks.Flag(
        "rendered-public", "blind", "the attack learns from rendered faces alone, and the attacked people are not "
        "rendered", "name public photos of the same kind in data.public")
    return announce([constant, rendered, *function_flags(recogniser, images, gradient)])


def prepare(config: TemplateConfig, device: torch.device) -> tuple[Parts, list[str]]:
    """Load and check everything that can fail for the user's sake.

    Raises:
        UserError: see `run_audit`.
    """
    settings, own = config.data, config.recogniser
    data = load_people(settings, config.seed, settings.n_heldout, 1, settings.others)
    pairs = None if config.lfw is None else load_lfw_pairs(config.lfw.path, config.lfw.pairs, data.public.size)
    warnings = [*data.notes, *checks.enforce(checks.photos_of(data))]
    framer = Framer({**sets_of(data), **({} if pairs is None else {"lfw": pairs.images})}, config.assets, device)
    recogniser = load_recogniser(own, config.assets, data.public.size, device, "recogniser", framer)
    judges = [load_recogniser(judge, config.assets, data.public.size, device, f"judges.{i}", framer)
              for i, judge in enumerate(config.judges)]
    if len({each.name for each in judges}) < len(judges):
        raise UserError(f"judges: names must differ, got {', '.join(each.name for each in judges)}")
    optimised: list[nn.Module] = [recogniser]
    if "prior" in config.attack.generators:
        check_needs(config.assets, config.teacher)
        optimised.append(load_recogniser_asset(config.teacher, config.assets, "teacher"))
        framer.frame(optimised[-1], config.teacher, config.teacher_framing, "teacher_framing")
    checks.enforce([checks.judge_is_teacher(judge, each) for judge in judges for each in optimised])
    warnings += [f"{each.name}: {note}" for each in (recogniser, *judges) for note in each.notes]
    surrogate = load_surrogate(config, data, recogniser, judges, device, framer)
    warnings += check_strangers(
        {"data.private": settings.private, "data.others": settings.others, "data.evaluation": settings.evaluation},
        assets_in_use(config), config.assets, data.apart, data.held)
    if config.attack.loss.perceptual.most > 0:
        warnings.append("the perceptual distance is the one that the attack optimises (attack.loss.perceptual), so it "
                        "flatters the attack")
    for protection in config.compared:
        make_scheme(protection, recogniser.dim, config.seed)
    if config.attack.access == "white-box" and not recogniser.gradients:
        raise UserError(f"attack.access: {recogniser.name} gives no gradients, so there is no white box; take "
                        "attack.access=transfer or scores")
    if "decoder" in config.attack.generators:
        FaceDecoder(recogniser.dim, data.public.size)  # refuses sizes that it cannot draw
    if data.public.n_classes < 2:
        raise UserError("data.public: the photos are all of one person; the attack learns to tell people apart")
    scheme = make_scheme(config.protection, recogniser.dim, config.seed)
    if "decoder" in config.attack.generators:
        pixel_loss(config.attack.loss.pixel)
    for warning in warnings:
        say(warning)
    return Parts(data, calibrators(data), recogniser, judges, surrogate, scheme, device, framer, pairs), warnings


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


def make_bench(config: TemplateConfig, parts: Parts) -> Bench:
    """Enrol everybody everywhere."""
    attacked = make_system(parts.recogniser.name, parts.recogniser, parts.scheme, parts.data, parts.by)
    judges = [make_system(judge.name, judge, make_scheme(NoProtection(), judge.dim, config.seed), parts.data, parts.by)
              for judge in parts.judges]
    return Bench(attacked, judges, parts.data.private_train, parts.data.private_heldout,
                 perceptual_metric(config.lpips, assets=config.assets), config.resamples, config.seed)


def make_means(config: TemplateConfig, parts: Parts, victim: TemplateVictim, run: RunDir) -> Means:
    """What the adversary has, all of it public; its own recogniser is trained here where it has none."""
    settings, surrogate, public = config.attack, parts.surrogate, parts.data.public
    told = None if settings.access == "scores" else victim.embed_photos(public.images)
    if settings.access != "white-box" and surrogate is None:
        surrogate = train_surrogate(public, told, settings.surrogate_steps, run, config.seed, config.precision,
                                    parts.device, config.save_every)
    imitations = []
    if settings.access == "white-box" and told is not None:
        targets = centred(told, center_of(told))
        imitations = [train_surrogate(public, targets, settings.surrogate_steps, run, config.seed, config.precision,
                                      parts.device, config.save_every, f"imitation-{i}", architecture,
                                      mirrored=settings.degraded > 0)
                      for i, architecture in enumerate(islice(cycle(RECOGNISERS), settings.imitations), 1)]
    faces = load_tools(config.assets, parts.device, config.teacher) if "prior" in settings.generators else None
    if faces is not None:
        parts.framer.frame(faces.teacher, config.teacher, config.teacher_framing, "teacher_framing")
    metric = perceptual_metric(config.lpips, assets=config.assets).to(parts.device)
    return Means(public, metric, faces, surrogate, told, imitations)


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


def template_section(config: TemplateConfig, parts: Parts, bench: Bench,
                     arms: Mapping[str, ArmScores]) -> dict[str, Any]:
    """The channel's section of report.json."""
    sections = {name: arm_section(bench, arm) for name, arm in arms.items()}
    section: dict[str, Any] = {"headline": HEADLINE, "arms": sections, "metrics": sections["attack"]}
    for name in ("attack", "floor", "ceiling"):
        section[name] = sections[name].get(HEADLINE, UNKNOWN)
    section["leak"] = leak(bench, arms)
    section["recovery"] = {"judge": bench.judges[0].name if bench.judges else None, "missing": bench.missing,
                           "rank1": {name: sections[name].get(RANK1, UNKNOWN)
                                     for name in ("attack", "floor", "ceiling")}}
    section["impersonation"] = impersonation(bench, arms)
    section["gain_over"] = {"nearest": paired(bench, arms["attack"], arms["nearest"])}
    section["per_identity"] = per_person(bench, arms["attack"])
    section["attacked"] = system_section(bench.attacked)
    section["judges"] = [system_section(judge) for judge in bench.judges]
    if parts.pairs is not None:
        for entry, system in zip((section["attacked"], *section["judges"]), (bench.attacked, *bench.judges),
                                 strict=True):
            entry["pair_accuracy"] = lfw_accuracy(system.recogniser, parts.pairs)
    section["evaluators"] = []
    section["victim"] = {"name": parts.recogniser.name, "architecture": parts.recogniser.architecture,
                         "n_classes": bench.people, "protection": described(config.protection),
                         "entries": bench.attacked.database.stored.shape[1], "access": config.attack.access}
    section["feature_weight_at_start"] = config.attack.loss.weight.ramp.at_start
    section["protocol"] = protocol(bench, parts.by, {
        "access": config.attack.access, "generators": config.attack.generators,
        "protection": described(config.protection), "public": parts.data.public.source,
        "private": parts.data.private_train.source,
        "judge_weights": [checks.weights_hash(judge.recogniser)[:12] for judge in bench.judges],
        **parts.framer.facts()})
    return section


def lfw_accuracy(recogniser: Embedder, pairs: Pairs) -> dict[str, Any]:
    """Mean accuracy over the folds of LFW's protocol, with Student's interval over them."""
    seen = embeddings(recogniser, pairs.images, recogniser.name)
    likeness = (seen[pairs.first] * seen[pairs.second]).sum(1)
    found = t_interval(pair_accuracy(likeness, pairs.same, pairs.fold), bounds=(0.0, 1.0))
    return {"value": found.value, "low": found.low, "high": found.high, "n": len(pairs)}


def surrogate_section(config: TemplateConfig, parts: Parts, own: Embedder) -> tuple[dict[str, Any], list[str]]:
    """How well the adversary's own recogniser tells people apart, and a warning where it hardly does.

    Only the report's reader sees this: enrolled people are strangers to the adversary.
    """
    found = system_section(make_system(own.name, own, make_scheme(NoProtection(), own.dim, config.seed), parts.data,
                                       parts.by))
    fmr = LOOSE if math.isnan(found["tar"][f"{STRICT:g}"]) else STRICT
    tar = found["tar"][f"{fmr:g}"]
    if tar >= LOW_TAR:
        return found, []
    return found, [f"the adversary's own recogniser accepts only {tar:.0%} of real photos of the right person at FMR "
                   f"{fmr:g}: the attack is no stronger than that; name a better one (attack.surrogate), train it "
                   "longer (attack.surrogate_steps), or give it more public people"]


def recovered_similarity(bench: Bench, inversion: Inversion, recovered: Tensor) -> dict[str, Any] | None:
    """Mean cosine of the templates that the adversary arrived at to the true, unprotected ones; with its interval."""
    truth = embed(inversion.space, bench.photos.images)
    values = (recovered.cpu() * truth).sum(1).double().numpy()
    return bench.mean(values, torch.arange(len(values)).numpy())


def later_flags(bench: Bench, pictures: Tensor) -> list[str]:
    """Warnings that only calibration and results can raise."""
    warnings = checks.enforce([checks.constant_reconstructions(pictures)])
    for system in (bench.attacked, *bench.judges):
        warnings += [f"{system.name}: {warning}" for warning in system.calibration.warnings]
        strict, loose = system.calibration.tar[STRICT], system.calibration.tar[LOOSE]
        tar = loose if math.isnan(strict) else strict
        if tar < LOW_TAR:
            warnings.append(f"{system.name} accepts only {tar:.0%} of real photos of the right person: it hardly tells "
                            "people apart, or its preprocessing is not the one it was trained with")
        if (realised := system.realised_fmr) is not None and realised > TOLERANCE * STRICT:
            warnings.append(f"{system.name} takes enrolled people for each other in {realised:.1%} of pairs, not in "
                            f"{STRICT:.1%}: those who set its threshold are unlike them, so success rates flatter")
    return warnings
