"""A whole template audit, preset ``tiny``: what it writes, that it resumes, its accesses, protections and refusals."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden import check_golden
from helpers import Run
from torch import Tensor

from latentprint.auditing.scores import Values
from latentprint.config import changed, load_config
from latentprint.data.base import ImageSet
from latentprint.data.procedural import make_people
from latentprint.data.splits import AuditData
from latentprint.imitation import Pairs, imitation_loss
from latentprint.metrics.perceptual import perceptual_metric
from latentprint.report.pareto import Point, advice
from latentprint.report.values import Measured
from latentprint.study.template_questions import STUDIES
from latentprint.template.audit import run_audit
from latentprint.template.defenses import Scheme, make_scheme
from latentprint.template.evaluate import (
    HEADLINE,
    IMPERSONATION,
    ArmScores,
    Bench,
    impersonation,
    make_system,
    per_person,
    score,
)
from latentprint.template.presets import PRESETS, RecogniserConfig, TemplateConfig
from latentprint.template.protection import NoiseConfig, NoProtection, PolyProtectConfig
from latentprint.template.recogniser import load_recogniser
from latentprint.verification import STRICT, calibrate_scores, single_photo_sets

CPU = torch.device("cpu")


def section(out: Path) -> dict[str, Any]:
    return json.loads((out / "report.json").read_text())["channels"]["template"]


def test_imitations_judge_every_image_and_the_attacked_recogniser_as_many_as_it_may(run: Run) -> None:
    code, err, out = run("audit template", "attack.imitations=2", "attack.guided=3")
    assert code == 0, err
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert {"imitation-1", "imitation-2", "generator-decoder"} <= {row["phase"] for row in rows}
    steps = PRESETS["tiny"]["attack"]["steps"]
    assert section(out)["queries"]["backward"] == 3 * steps  # of a batch of four


def test_an_audit_writes_what_the_overview_promises_and_resumes_to_the_same_numbers(run: Run) -> None:
    settings = ("attack.generators=[decoder, prior]", "attack.refine_steps=1", "attack.loss.negatives=queue")
    code, err, out = run("audit template", *settings)
    assert code == 0, err
    for name in ("config.yaml", "manifest.json", "metrics.jsonl", "report.json", "report.html", "images/grid.png",
                 "images/sar.png", "images/roc.png", "images/similarity.png", "images/gradients.png"):
        assert (out / name).stat().st_size > 0, name
    found = section(out)
    for key in ("leak", "attack", "floor", "ceiling"):
        assert {"value", "low", "high"} <= set(found[key])
    drawn = {"decoder", "decoder_refined", "prior", "prior_refined"}
    assert set(found["arms"]) == {"floor", "nearest", "attack", "ceiling", *drawn} and found["best_attack"] in drawn
    assert found["arms"]["attack"] == found["arms"][found["best_attack"]] == found["metrics"]
    assert found["headline"] == "sar_type2_judge" and found["recovery"]["judge"] == "judge"
    for key in ("attack", "floor", "ceiling"):  # the judge's, and beside them the attacked system's
        assert found[key] == found["arms"][key]["sar_type2_judge"]
        assert found["impersonation"][key] == found["arms"][key]["sar_type2"]
        assert found["recovery"]["rank1"][key] == found["arms"][key]["reidentification_rate"]
    assert found["impersonation"]["leak"]["value"] is not None and found["recovery"]["missing"] is None
    assert {"match_rate", "similarity", "type1", "type2", "n"} <= set(found["per_identity"][0])
    assert found["arms"]["ceiling"]["sar_type1"]["value"] == 1.0 and found["recovered_similarity"]["value"] > 0.999
    for key in ("sar_type1", "sar_type2", "sar_type1_fmr_0.01", "sar_type2_judge", "reidentification_rate", "psnr"):
        assert key in found["metrics"], key
    assert len(found["per_identity"]) == 5 and found["queries"]["backward"] > 0
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert any("gradient_l2" in row and "gradient_info_nce" in row for row in rows)
    page = (out / "report.html").read_text()
    assert "Mean public face" in page and "SAR type II" in page and "Impersonation of teacher" in page
    assert "by the judge (judge)." in page
    check_golden("template", out)

    code, err, out = run("audit template", *settings, more=("--resume",))
    assert code == 0, err
    again = section(out)
    for each in (found, again):
        each.pop("seconds"), each.pop("queries")
    assert again == found


def test_a_killed_training_goes_on_as_if_nothing_had_happened(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ("attack.loss.negatives=queue",)
    code, err, out = run("audit template", *settings, out="whole")
    assert code == 0, err

    from latentprint.template import train

    real, calls = train.feature_loss, [0]

    def killed(*args: Any) -> Tensor:
        calls[0] += 1
        if calls[0] == 4:
            raise KeyboardInterrupt
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(train, "feature_loss", killed)
        assert run("audit template", *settings, out="cut")[0] == 130
    code, err, cut = run("audit template", *settings, out="cut", more=("--resume",))
    assert code == 0, err
    assert section(cut)["arms"] == section(out)["arms"]


@pytest.mark.parametrize("settings", [
    ("attack.access=transfer", "attack.refine_steps=1", "attack.loss.negatives=hard"),
    ("attack.access=scores", "attack.loss.perceptual.most=0.5", "attack.loss.feature=l2"),
    ("attack.generators=[prior]", "attack.loss.weight.over=progress", "protection={kind: quantise}"),
], ids=lambda settings: settings[0])
def test_every_access_runs(run: Run, settings: tuple[str, ...]) -> None:
    code, err, out = run("audit template", *settings)
    assert code == 0, err
    found = section(out)
    assert found["attack"]["value"] is not None
    own = "scores" in settings[0] or "transfer" in settings[0]
    page = (out / "report.html").read_text()
    assert ("surrogate" in found) == own == bool(re.search(r"<th[^>]*>\s*Surrogate", page))
    if "scores" in settings[0]:
        assert found["queries"]["submitted_per_person"] == 12 and found["queries"]["backward"] == 0
    if "transfer" in settings[0]:
        assert found["queries"]["backward"] == 0  # of the attacked recogniser nobody asked a gradient


def test_protections_are_compared_on_one_page(run: Run) -> None:
    code, err, out = run("defend template", "compared=[{kind: quantise}, {kind: polyprotect}, {kind: quantise}]")
    assert code == 0, err
    table = section(out)["protections"]
    assert [row["name"] for row in table] == ["none", "quantise", "polyprotect"]
    assert [row["stored_bits"] for row in table][:2] == [512 * 32, 512]
    assert "recovery_reduction" not in table[0] and table[1]["recovery_reduction"]["value"] == pytest.approx(
        table[0]["recovery"]["value"] - table[1]["recovery"]["value"])
    assert table[1]["sar_reduction"]["value"] == pytest.approx(
        table[0]["sar_type2"]["value"] - table[1]["sar_type2"]["value"])
    assert "tar_cost" not in table[0] and table[1]["tar_cost"]["value"] == pytest.approx(
        table[0]["tar"]["value"] - table[1]["tar"]["value"])
    assert table[0]["recovered_similarity"]["value"] > 0.999 > table[1]["recovered_similarity"]["value"]
    assert (out / "images/pareto.png").stat().st_size > 0
    check_golden("template-defended", out)
    assert "The adversary knows the protection" in (out / "report.html").read_text()


def test_the_protection_that_is_audited_is_among_those_compared(run: Run) -> None:
    code, err, out = run("defend template", "protection={kind: partial, kept: 0.25}", "compared=[{kind: quantise}]")
    assert code == 0, err
    found = section(out)
    assert [row["name"] for row in found["protections"]] == ["none", "partial (kept 0.25)", "quantise"]
    own = found["protections"][1]
    assert own["stored_bits"] == 512 // 4 * 32 and own["sar_type2"] == found["metrics"]["sar_type2"]
    assert own["recovery"] == found["attack"] and own["leak"] == found["leak"]


# ---- evaluation, with a known answer ----


@pytest.fixture(scope="module")
def people() -> AuditData:
    enrolled = make_people(range(6), 3)
    evaluation = make_people(range(500, 540), 4)
    return AuditData(make_people(range(100, 112), 2), *enrolled.first_photos(1), evaluation)


def bench(people: AuditData, scheme: Scheme) -> Bench:
    teacher = load_recogniser(RecogniserConfig(), None, 64, CPU, "recogniser")
    judge = load_recogniser(RecogniserConfig(model="judge"), None, 64, CPU, "judges.0")
    by = single_photo_sets(people)
    return Bench(make_system("teacher", teacher, scheme, people, by),
                 [make_system("judge", judge, make_scheme(NoProtection(), 512, 0), people, by)],
                 people.private_train, people.private_heldout, perceptual_metric(None), 1000, 0)


@pytest.mark.parametrize("protection", [NoProtection(), PolyProtectConfig(), NoiseConfig(length=0.2)])
def test_real_photos_pass_and_other_peoples_do_not(people: AuditData, protection: Any) -> None:
    judged = bench(people, make_scheme(protection, 512, 0))
    own = score(judged, people.private_train.floats())
    assert own.values["sar_type1"][0].mean() == 1.0 and own.values["reidentification_rate"][0].mean() == 1.0
    assert own.values["sar_type2_judge"][0].mean() > 0.9
    if not isinstance(protection, PolyProtectConfig):  # which costs recognition
        assert own.values["sar_type2"][0].mean() > 0.9
    strangers = score(judged, people.private_train.floats().roll(1, 0))
    assert strangers.values["sar_type1"][0].mean() == 0.0 == strangers.values["sar_type2_judge"][0].mean()


def test_other_photos_are_their_owners_and_the_curve_meets_the_headline(people: AuditData) -> None:
    judged = bench(people, make_scheme(NoProtection(), 512, 0))
    mixed = people.private_train.floats()
    mixed[:3] = mixed[3:]  # the first three show somebody else
    found = score(judged, mixed)
    hits, owners = found.values["sar_type2"]
    assert owners.tolist() == people.private_heldout.labels.tolist()
    assert hits[owners < 3].mean() == 0.0 and hits[owners >= 3].mean() == 1.0
    loose = max(judged.attacked.curve)
    assert found.curve["teacher"][-1] == (found.values["template_similarity"][0] > judged.attacked.curve[loose]).mean()


def test_without_evaluation_people_public_ones_calibrate(people: AuditData) -> None:
    alone = AuditData(people.public, people.private_train, people.private_heldout)
    by = single_photo_sets(alone)
    assert by.people == "public people" and len(by.enrolment) == 12 == len(by.probes)
    judged = bench(alone, make_scheme(NoProtection(), 512, 0))  # 132 strangers: too few for one in a thousand
    assert np.isnan(judged.attacked.calibration.thresholds[STRICT])
    found = score(judged, people.private_train.floats())
    assert np.isnan(found.values["sar_type2"][0]).all()
    rows = per_person(judged, found)
    assert {(row["match_rate"], row["type1"]) for row in rows} == {(None, None)}
    assert all(row["similarity"] > 0.3 for row in rows)


def scores_of(judge: list[float], attacked: list[float]) -> ArmScores:
    owners = np.arange(len(judge))
    return ArmScores({name: Values(np.array(values), owners) for name, values in (
        ("sar_type2_judge", judge), ("sar_type2", attacked), ("sar_type1", attacked),
        ("template_similarity_judge", judge))}, torch.zeros(len(judge), 3, 8, 8), {})


def test_the_leak_is_the_judges_and_impersonation_has_its_own(people: AuditData) -> None:
    """Half of the faces pass the attacked system and none the judge: that system was fooled, no face came back."""
    judged = bench(people, make_scheme(NoProtection(), 512, 0))
    arms = {"attack": scores_of([0, 0, 0, 0], [1, 1, 0, 0]), "floor": scores_of([0] * 4, [0] * 4),
            "ceiling": scores_of([1] * 4, [1] * 4)}
    assert judged.intervals.leak(arms, HEADLINE)["value"] == 0.0
    found = impersonation(judged, arms)
    assert found["leak"]["value"] == 0.5 == found["attack"]["value"] and found["system"] == "teacher"
    assert (found["floor"]["value"], found["ceiling"]["value"], found["type1"]["value"]) == (0.0, 1.0, 0.5)
    assert judged.intervals.gain(arms["attack"], arms["floor"], HEADLINE)["value"] == 0.0
    assert judged.intervals.gain(arms["attack"], arms["floor"], IMPERSONATION)["value"] == 0.5


def test_without_a_judge_there_is_no_headline_and_no_rank(people: AuditData) -> None:
    judged = bench(people, make_scheme(NoProtection(), 512, 0))
    alone = replace(judged, judges=[])
    own = score(alone, people.private_train.floats())
    assert "reidentification_rate" not in own.values and np.isnan(own.arm(HEADLINE).values).all()
    assert own.values["sar_type2"][0].mean() > 0.9
    assert alone.intervals.leak(dict.fromkeys(("attack", "floor", "ceiling"), own), HEADLINE)["value"] is None
    assert {row["match_rate"] for row in per_person(alone, own)} == {None}
    assert alone.missing is not None and "no independent recogniser judges" in alone.missing and judged.missing is None
    few = calibrate_scores(torch.eye(20), torch.arange(20), (1e-2, STRICT))
    weak = replace(judged, judges=[replace(judged.judges[0], calibration=few)])
    assert weak.missing is not None and "needs 1,000 impostor comparisons and has 380" in weak.missing


def test_the_first_judge_decides_whatever_judges_are_called(people: AuditData) -> None:
    judged = bench(people, make_scheme(NoProtection(), 512, 0))
    own, other = judged.judges[0], judged.attacked
    named = replace(judged, judges=[replace(other, name="mine"), own])
    assert list(named.systems) == ["", "_judge", "_judge_as_named"] and named.systems["_judge"].name == "mine"
    assert list(replace(judged, judges=[own, replace(other, name="mine")]).systems) == ["", "_judge", "_mine"]


# ---- what is refused ----


@pytest.mark.parametrize(("settings", "said"), [
    (("recogniser.model=nobody",), "no recogniser 'nobody'"),
    (("recogniser.dim=100",), "got (2, 512); set recogniser.dim"),
    (("judges=[{model: teacher}]",), "judge"),
    (("judges=[{model: judge}, {model: judge}]",), "names must differ"),
    (("attack.access=transfer", "attack.surrogate=judge"), "also judges"),
    (("attack.access=scores", "attack.surrogate=judge"), "also judges"),
    (("attack.access=transfer", "attack.surrogate=teacher"), "take attack.access=white-box"),
    (("attack.access=transfer", "attack.surrogate=nobody"), "attack.surrogate.model: no recogniser 'nobody'"),
    (("data.public.0.people=1", "data.public.0.photos=8"), "all of one person"),
    (("protection={kind: polyprotect, overlap: 5}",), "overlap"),
    (("attack.loss.weight={kind: linear, begin: 0.9, end: 0.1}",), "must begin before"),
    (("data.private.first_identity=1000000",), "was among the people"),
    (("data.n_heldout=3",), "photo"),
    (("data.private.size=32", "data.public.0.size=32", "data.evaluation.size=32", "recogniser.model=teacher",
      "attack.width=48"), "multiple of 32")])
def test_bad_input_is_one_sentence_and_nothing_is_written(run: Run, settings: tuple[str, ...], said: str) -> None:
    code, err, out = run("audit template", *settings)
    assert code == 2 and err.startswith("error: ") and err.count("\n") == 1, err
    assert said in err and not out.exists(), err


def test_nothing_to_compare_and_unknown_templates_are_refused(run: Run) -> None:
    for setting, said in (("compared=[]", "compared is empty"), ("attack.access=scores", "under score access")):
        code, err, out = run("defend template", setting)
        assert code == 2 and said in err and not out.exists(), err


def test_too_few_strangers_leave_the_headline_unmeasured_and_say_so(run: Run) -> None:
    code, err, out = run("audit template", "data.evaluation.people=4", "data.evaluation.photos=2")
    assert code == 0, err
    report = json.loads((out / "report.json").read_text())
    assert report["channels"]["template"]["leak"]["value"] is None
    assert {row["match_rate"] for row in report["channels"]["template"]["per_identity"]} == {None}
    assert any("no threshold at FMR 0.001" in warning for warning in report["warnings"])
    assert report["channels"]["template"]["headline"] == "sar_type2_judge"
    assert "Recovery of the face was not measured, for the judge 'judge' has no threshold at FMR 0.001" in (
        report["channels"]["template"]["verdict"])
    assert "not measured" in (out / "report.html").read_text()


def test_without_judges_the_headline_is_missing(run: Run) -> None:
    code, err, out = run("audit template", "judges=[]")
    assert code == 0, err
    found = section(out)
    assert found["leak"]["value"] is found["attack"]["value"] is None and found["grade"] == "inconclusive"
    assert found["impersonation"]["attack"]["value"] is not None
    assert any("no independent recogniser judges" in warning
               for warning in json.loads((out / "report.json").read_text())["warnings"])


def test_other_photos_may_lie_elsewhere(run: Run, tmp_path: Path) -> None:
    """As in a pack where one column says who smiles."""
    faces = make_people(range(5), 2)
    np.savez(tmp_path / "pack.npz", images=faces.images.permute(0, 2, 3, 1).numpy(), labels=faces.labels.numpy(),
             class_names=np.array(faces.names), smiling=np.tile([0, 1], 5))
    source = "{kind: npz, path: %s, where: {smiling: %d}}"
    code, err, out = run("audit template", f"data.private={source % (tmp_path / 'pack.npz', 0)}",
                         f"data.others={source % (tmp_path / 'pack.npz', 1)}")
    assert code == 0, err
    assert section(out)["protocol"]["other_photos"] == 5
    others = f"data.others={source % (tmp_path / 'pack.npz', 1)}"
    code, err, _ = run("audit template", others, "data.public=[]", out="b")
    assert code == 2 and "data.others" in err


# ---- studies ----


def test_the_notes_studies_run_at_tiny_size(tmp_path: Path) -> None:
    base = load_config(TemplateConfig, "tiny", None, ["attack.steps=2", "resamples=1000"], "study", PRESETS)
    found: dict[str, Mapping[str, Any]] = {}
    for study, arms in STUDIES.items():
        assert len(arms) == {"template-losses": 8, "template-negatives": 3, "template-temperatures": 4}[study]
        name, overrides = list(arms.items())[-1]
        config = changed(base, overrides, name)
        found[study] = run_audit(config, tmp_path / study)["channels"]["template"]
        assert found[study]["attack"]["value"] is not None
    everything = [changed(base, overrides, name) for arms in STUDIES.values() for name, overrides in arms.items()]
    assert len({config.model_dump_json() for config in everything}) == 8 + 3 + 4 - 2  # defaults are in three studies


def test_pairs_are_two_photos_of_a_person() -> None:
    labels = torch.tensor([2, 0, 1, 0, 2, 2, 0])  # person 1 has one photo
    seen: set[tuple[int, int]] = set()
    for seed in range(60):
        first, second = Pairs(labels).draw(3, torch.Generator().manual_seed(seed)).view(2, 3).tolist()
        assert sorted(labels[first].tolist()) == [0, 1, 2] and torch.equal(labels[first], labels[second])
        assert all((a == b) == (labels[a] == 1) for a, b in zip(first, second, strict=True))
        seen |= set(zip(first, second, strict=True))
    assert len(seen) == 6 + 6 + 1  # every ordered pair of different photos comes up


def test_an_imitation_is_told_among_the_batch_and_near() -> None:
    targets = torch.eye(3)
    perfect, told = imitation_loss(5 * targets, targets)
    assert perfect == pytest.approx(math.log(1 + 2 * math.exp(-10)), abs=1e-6) and told["similarity"] == 1.0
    swapped, _ = imitation_loss(targets.roll(1, 0), targets)
    assert swapped == pytest.approx(math.log(2 + math.exp(10)) + 1, abs=1e-3)


def test_the_advice_is_the_least_leak_that_costs_little() -> None:
    listed = [Point(name, Measured(tar), Measured(leak))
              for name, tar, leak in (("none", 0.99, 0.9), ("a", 0.985, 0.5), ("b", 0.9, 0.1))]
    found, alone = advice(listed, 0.01, "true accept rate"), advice(listed[:1], 0.01, "true accept rate")
    assert found == {"name": "a", "because": "of those within 1 point of the true accept rate of none, the one that "
                                             "leaks least"}
    assert alone is not None and alone["because"].startswith("nothing else leaks less")
    listed[1] = Point("a", Measured(0.99), Measured(0.87))
    idle = advice(listed, 0.01, "true accept rate")
    assert idle is not None and idle["name"] == "none" and idle["because"] == (
        "nothing within 1 point of its true accept rate makes a difference; what leaks least, a, still leaks 87%")


def test_image_sets_give_every_persons_first_photos() -> None:
    labels = torch.tensor([1, 0, 1, 0, 1])
    images = torch.arange(5, dtype=torch.uint8).view(5, 1, 1, 1).expand(5, 3, 8, 8)
    first, rest = ImageSet(images, labels, ("a", "b"), "here").first_photos(1)
    assert first.images[:, 0, 0, 0].tolist() == [1, 0] and rest.images[:, 0, 0, 0].tolist() == [3, 2, 4]


def test_a_recogniser_of_ones_own_with_several_outputs_and_without_gradients(tmp_path: Path, run: Run) -> None:
    (tmp_path / "own.py").write_text("""
import torch
from torch import nn
class Own(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.net = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, dim))
    def forward(self, x):
        return {"pooler_output": self.net(x), "other": self.net(-x)}
class Frozen(Own):
    @torch.no_grad()
    def forward(self, x):
        return self.net(x)
""")
    config = RecogniserConfig(model=f"{tmp_path / 'own.py'}:Own", dim=32)
    found = load_recogniser(config, None, 64, CPU, "recogniser")
    x = torch.rand(3, 3, 64, 64)
    state = found.network.state_dict()
    pooled = torch.nn.functional.adaptive_avg_pool2d(2 * x - 1, 4).flatten(1)
    expected = pooled @ state["network.net.2.weight"].T + state["network.net.2.bias"]
    assert torch.allclose(found(x), torch.nn.functional.normalize(expected), atol=1e-5)
    assert found.gradients and "'pooler_output' is taken as the embeddings" in found.notes[0]
    other = load_recogniser(config.model_copy(update={"output": "other"}), None, 64, CPU, "recogniser")
    assert other.notes == () and not torch.allclose(other(x), found(x))
    assert not load_recogniser(config.model_copy(update={"model": f"{tmp_path / 'own.py'}:Frozen"}), None, 64, CPU,
                               "recogniser").gradients
    code, err, _ = run("audit template", f"recogniser.model={tmp_path / 'own.py'}:Frozen", "recogniser.dim=32")
    assert code == 2 and "gives no gradients, so there is no white box; take attack.access=transfer" in err
