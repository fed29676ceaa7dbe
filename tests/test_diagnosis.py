"""Diagnosis: each rule fires on a log that shows its fault and is silent beside it; looks, geometry and pictures."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from test_label import CONFIG, N_CLASSES, fresh_tools, progressive, victim
from test_report import EVIL, Page, label_section

from latentprint.config import load_config
from latentprint.engine.loop import Loop, say
from latentprint.engine.run import RunDir
from latentprint.errors import RunFailed
from latentprint.label.attack import ProgressiveAttack, sample_seeds
from latentprint.label.diagnosis import Finding, Levels, diagnose, latest
from latentprint.label.geometry import geometry_section, one_a_person
from latentprint.label.pictures import tsne
from latentprint.label.presets import PRESETS, AttackConfig, LabelConfig
from latentprint.label.progressive import StageLoop
from latentprint.label.samples import keep_sample, read_samples
from latentprint.label.stages import HAND_OVER
from latentprint.metrics.features import between_class_similarity
from latentprint.metrics.geometry import class_angles, embedding_geometry
from latentprint.report.embeddings import angle_heatmaps, class_order, norm_histogram
from latentprint.report.figures import stage_rows
from latentprint.report.html import render

Row = dict[str, Any]
LEVELS = Levels(real=0.5, base=1.0, jump=0.3, spread=0.9)
FAR = Levels(real=0.5, base=3.0, jump=1.0, spread=0.9)
SOUND = {"frechet": 0.8, "collapse": 0.85, "attention_entropy": 0.74}


def look(stage: int, step: int, **seen: float) -> Row:
    return {"phase": f"stage{stage}-look", "step": step, **SOUND, **seen}


def looks(stage: int, key: str, values: list[float], **seen: float) -> list[Row]:
    return [look(stage, 20 * n, **{**seen, key: value}) for n, value in enumerate(values, start=1)]


def handed_over(lam: float = 1.0) -> list[Row]:
    return [{"phase": "stage1", "step": 60, "lambda": lam}]


def steps(key: str, values: list[float]) -> list[Row]:
    return [{"phase": "stage2", "step": 10 * n, key: value} for n, value in enumerate(values, start=1)] + [
        look(2, 10 * len(values) + 10, success=1.0)]


#: rule: (a log that shows the fault, logs beside it that do not, levels, settings that mend it)
CASES: dict[str, tuple[list[Row], list[list[Row]], Levels, list[str]]] = {
    "frechet-stuck": (looks(0, "frechet", [3.1, 2.99]), [looks(0, "frechet", [3.1, 2.8]),
                                                         looks(0, "frechet", [3.1])], FAR,
                      ["attack.stages.0.lora_lr=0.0002", "attack.stages.0.min_steps=80", "attack.stages.0.steps=80"]),
    "align-stuck": ([*handed_over(0.6), *looks(1, "distance", [0.9, 0.88, 0.87])],
                    [[*handed_over(0.6), *looks(1, "distance", [0.9, 0.88, 0.8])],
                     [*handed_over(0.6), *looks(1, "distance", [0.3, 0.3, 0.3])],
                     [*handed_over(0.3), *looks(1, "distance", [0.9, 0.88, 0.87])]], LEVELS, ["attack.beta=2"]),
    "frechet-jump": (looks(1, "frechet", [1.1, 1.5]), [looks(1, "frechet", [1.25, 1.5, 1.75]),
                                                       looks(2, "frechet", [0.8, 1.5])], LEVELS,
                     ["attack.horizon=90", "attack.stages.1.steps=180"]),
    "low-success": ([*handed_over(), look(2, 150, success=0.4), look(2, 300, success=0.6)],
                    [[*handed_over(), look(2, 150, success=0.4), look(2, 280, success=0.6)],
                     [*handed_over(), look(2, 300, success=0.85)]], LEVELS,
                    ["attack.stages.1.min_steps=120", "attack.stages.2.steps=600"]),
    "collapse": (looks(2, "collapse", [0.5, 0.17]), [looks(2, "collapse", [0.5, 0.19]),
                                                     looks(0, "collapse", [0.17]),
                                                     looks(2, "alike", [0.45])], LEVELS,
                 ["attack.stages.2.losses.align=2"]),
    "gradients": (steps("grad_norm", [1, 5, 20, 40, 80]), [steps("grad_norm", [1, 5, 20, 40, 9]),
                                                           steps("grad_norm", [20, 30, 40, 50]),
                                                           steps("skipped", [1, 2])], LEVELS,
                  ["attack.stages.2.lora_lr=5e-05", "attack.stages.2.embedding_lr=0.0015"]),
    "attention": ([look(1, 20, attention_entropy=0.99)], [[look(1, 20, attention_entropy=0.95)]], LEVELS,
                  ["attack.stages.1.lora_lr=0.0002"]),
}  # fmt: skip


def found(rows: list[Row], levels: Levels = LEVELS, config: AttackConfig | None = None) -> list[Finding]:
    return diagnose(rows, config or AttackConfig(), levels)


@pytest.mark.parametrize("rule", CASES)
def test_each_rule_fires_on_its_fault_and_is_silent_beside_it(rule: str) -> None:
    faulty, sound, levels, settings = CASES[rule]
    (finding,) = found(faulty, levels)
    assert finding.rule == rule and finding.stage == str(faulty[-1]["phase"]).removesuffix("-look")
    assert [word.rstrip(";") for word in finding.advice.split() if word.startswith("attack.")] == settings
    for rows in sound:
        assert found(rows, levels) == []


@pytest.mark.parametrize("rule", CASES)
def test_advice_can_be_typed_and_changes_what_it_names(rule: str) -> None:
    faulty, _, levels, _ = CASES[rule]
    (finding,) = found(faulty, levels)
    settings = [word.rstrip(";") for word in finding.advice.split() if "=" in word]
    assert settings
    before = load_config(LabelConfig, "small", None, (), "audit label", PRESETS)
    for setting in settings:
        after = load_config(LabelConfig, "small", None, [setting], "audit label", PRESETS)
        assert after != before, setting


def test_other_faults_of_the_same_kind() -> None:
    (alike,) = found(looks(2, "alike", [0.2, 0.7]))
    assert alike.rule == "collapse" and "one person" in alike.said and alike.step == 40
    (skipped,) = found(steps("skipped", [1, 3]))
    assert skipped.rule == "gradients" and skipped.said.startswith("3 steps")
    (single,) = found([look(1, 20, attention_entropy=0.01)])
    assert "--set attack.stages.1.lora_lr=5e-05" in single.advice
    (mixed,) = found(looks(1, "collapse", [0.1]))
    assert mixed.advice.endswith("--set attack.beta=2")
    (paired,) = found(looks(1, "collapse", [0.1]), config=AttackConfig(pairing="random"))
    assert paired.advice.endswith("--set attack.pairing=confidence")


def test_diversity_is_raised_where_it_is_on() -> None:
    (finding,) = found(looks(2, "collapse", [0.1]), config=AttackConfig(loss="C").resolved)
    assert "--set attack.stages.2.losses.diversity=0.2" in finding.advice


def test_a_stage_that_never_asks_the_victim_owes_no_success() -> None:
    config = AttackConfig(arm="two-stage").resolved
    rows = [{"phase": "stage0-look", "step": config.stages[0].steps, **SOUND, "success": 0.02}]
    assert found(rows, config=config) == []
    alone = found([look(2, 300, success=0.1)])  # no stage 1 in the log to stay longer in
    assert alone[0].advice == "raise the embedding's learning rate: --set attack.stages.2.embedding_lr=0.006"


def test_a_finding_is_kept_once_as_it_first_was() -> None:
    rows = looks(2, "collapse", [0.5, 0.17, 0.1, 0.6])
    (finding,) = found(rows)
    assert finding.step == 40 and "0.17" in finding.said
    assert [len(latest(rows[:n], AttackConfig(), LEVELS)) for n in range(1, 5)] == [0, 1, 0, 0]


def test_logs_with_gaps_say_nothing() -> None:
    nothing = {"frechet": None, "collapse": None, "attention_entropy": None, "success": None}
    rows = [{"phase": phase, "step": 300, **nothing} for phase in ("stage0-look", "stage1-look", "stage2-look")]
    assert found([]) == [] and found(rows) == []
    assert found([{"phase": "victim", "step": 1, "grad_norm": 1e9}, *rows], Levels(*[math.nan] * 4)) == []


@pytest.mark.usefixtures("listening")
def test_findings_are_said_once_during_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    owner = progressive(tmp_path / "run", CONFIG.model_copy(update={"look_every": 1, "initial": "pseudo"}))
    loop = StageLoop(owner, HAND_OVER.model_copy(update={"steps": 9}), 1)
    seen = owner.watch.look("mixed", owner.labels)
    monkeypatch.setattr(owner.watch, "look", lambda *_: type(seen)(**{**vars(seen), "attention_entropy": 0.999}))
    loop.after(1)
    said = capsys.readouterr().err
    assert said.startswith("stage1, step 1: attention reads all identity tokens alike")
    loop.after(2)
    assert capsys.readouterr().err == ""
    assert [finding.rule for finding in owner.diagnosis()] == ["attention"]


@pytest.mark.usefixtures("listening")
def test_what_is_said_is_never_markup(capsys: pytest.CaptureFixture[str]) -> None:
    say("[red]a[/red] b")
    assert capsys.readouterr().err == "[red]a[/red] b\n"


def test_skipped_steps_are_logged_once_there_are_any(tmp_path: Path) -> None:
    run = RunDir.open(tmp_path, {})
    weight = torch.nn.Parameter(torch.ones(1))

    def loss_at(step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor | float]]:
        return weight.sum() * (math.nan if step >= 2 else 1.0), {}

    loop = Loop(run, "stage0", torch.optim.SGD([weight], 0.1), {}, 9, max_skips=3, log_every=1)
    with pytest.raises(RunFailed):
        loop.fit(loss_at)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row.get("skipped") for row in rows] == [None, None, 1, 2, 3]


# ---------------------------------------------------------------------------------------------------- the page


def test_the_page_shows_findings_and_geometry_escaped(tmp_path: Path) -> None:
    finding = {"rule": "collapse", "stage": "stage2", "step": 40, "said": EVIL, "advice": f"--set {EVIL}"}
    geometry = {"compared": "4 and 4", "label": {"mean_norm": 1.36}, "teacher": {"mean_norm": 1.0, f"x{EVIL}": 3.5}}
    section = label_section() | {"diagnosis": [finding], "geometry": geometry}
    page = Page(render({"channels": {"label": section}}, tmp_path))
    assert page.row("stage2") == ["stage2", "40", EVIL, f"--set {EVIL}"]
    assert page.row("Mean norm") == ["Mean norm", "1.36", "1.00"]
    assert page.row(f"X{EVIL}") == [f"X{EVIL}", "–", "3.50"] and "4 and 4." in page.text
    assert len(page.scripts) == 1 and "alert" not in page.scripts[0]


@pytest.mark.parametrize(("diagnosis", "said"), [([], True), (None, False), ("x", False)])
def test_nothing_to_mend_is_said_only_after_a_look(tmp_path: Path, diagnosis: object, said: bool) -> None:
    section = label_section() | {"diagnosis": diagnosis}
    assert ("No problem found" in Page(render({"channels": {"label": section}}, tmp_path)).text) == said


# ---------------------------------------------------------------------------------------------------- looks


def test_similarity_between_classes_agrees_with_all_pairs() -> None:
    features, labels = torch.randn(12, 5), torch.tensor([0, 0, 1, 1, 1, 2, 3, 3, 3, 3, 5, 5])
    unit = torch.nn.functional.normalize(features.double(), dim=1)
    pairs = [float(unit[i] @ unit[j]) for i in range(12) for j in range(12) if labels[i] != labels[j]]
    assert between_class_similarity(3 * features, labels, 6) == pytest.approx(sum(pairs) / len(pairs))
    assert math.isnan(between_class_similarity(features, torch.zeros(12, dtype=torch.long), 1))


def test_looks_see_pictures_that_are_alike_and_photos_redrawn(tmp_path: Path,
                                                              monkeypatch: pytest.MonkeyPatch) -> None:
    owner = progressive(tmp_path, CONFIG.model_copy(update={"initial": "pseudo"}))
    watch = owner.watch
    warm, label = watch.look("image", owner.labels), watch.look("label", owner.labels)
    assert warm.perceptual > 0 and math.isnan(warm.alike) and "alike" not in warm.values()
    assert math.isnan(label.perceptual) and math.isfinite(label.alike)
    assert 0 <= watch.levels.spread <= 1
    photos = watch.tools.public.images[watch.scene_index]
    monkeypatch.setattr(watch, "_draw", lambda wanted: photos[: len(wanted)])
    assert watch.look("image", owner.labels).perceptual == 0  # photos redrawn exactly
    monkeypatch.setattr(watch, "_draw", lambda wanted: photos[:1].expand(len(wanted), -1, -1, -1))
    assert watch.look("label", owner.labels).alike == pytest.approx(1, abs=1e-4)  # one person everywhere


def test_the_strip_is_the_same_after_a_resume(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"look_every": 2, "initial": "pseudo", "stages": CONFIG.stages[:2]})
    classes, seeds = sample_seeds(0, N_CLASSES, config.images)
    strips = []
    for _ in range(2):  # the second time every stage is there already
        attack = ProgressiveAttack(fresh_tools(), config, RunDir.open(tmp_path, {}, resume=True), 0)
        attack(victim(), classes, seeds)
        strips.append(read_samples(tmp_path))
    assert attack.progressive is not None
    total = sum(result.steps for result in attack.progressive.results)
    assert list(strips[0])[:2] == [0, 2] and list(strips[0])[-1] == total and list(strips[0]) == list(strips[1])
    assert all(np.array_equal(strips[0][step], strips[1][step]) for step in strips[0])
    assert strips[0][0].shape == (N_CLASSES, 64, 64, 3) and not np.array_equal(strips[0][0], strips[0][total])


def test_samples_are_kept_pixel_for_pixel_and_thinned_evenly(tmp_path: Path) -> None:
    pictures = torch.randint(0, 256, (3, 3, 8, 8), dtype=torch.uint8)
    for step in range(0, 1100, 100):
        keep_sample(tmp_path, step, pictures)
    kept = read_samples(tmp_path, most=3)
    assert list(kept) == [0, 500, 1000]
    assert np.array_equal(kept[500], pictures.permute(0, 2, 3, 1).numpy())
    assert len(read_samples(tmp_path)) == 11 and read_samples(tmp_path / "none") == {}


# ---------------------------------------------------------------------------------------------------- geometry


def test_one_photo_of_each_of_so_many_people() -> None:
    labels = torch.tensor([2, 2, 0, 1, 0, 3, 3])
    assert one_a_person(labels, 9).tolist() == [2, 3, 0, 5]
    assert one_a_person(labels, 2).tolist() == [2, 5]


def test_geometry_compares_equally_many_vectors(tmp_path: Path) -> None:
    owner = progressive(tmp_path, CONFIG.model_copy(update={"initial": "pseudo"}))
    with torch.no_grad():
        owner.labels.table.weight.mul_(2)
    section = geometry_section(owner.labels, owner.tools)
    assert section["compared"].startswith(f"{N_CLASSES} label embeddings")
    assert section["label"]["mean_norm"] == pytest.approx(2, rel=1e-4)
    assert section["teacher"]["mean_norm"] == pytest.approx(1, rel=1e-4)
    assert set(section["label"]) == set(section["teacher"]) >= {"effective_rank", "mean_angle", "least_angle"}
    assert 1 <= section["label"]["effective_rank"] <= N_CLASSES and "silhouette" not in section["label"]


def test_clouds_of_photos_and_of_random_directions_are_described_whole(tmp_path: Path) -> None:
    owner = progressive(tmp_path, CONFIG.model_copy(update={"initial": "pseudo"}))
    section, n = geometry_section(owner.labels, owner.tools), len(owner.tools.public.labels)
    photos, noise = section["photos"], section["random"]
    expected = embedding_geometry(owner.tools.embeddings, owner.tools.public.labels)
    assert photos["silhouette"] == pytest.approx(expected.silhouette, abs=1e-4)
    assert photos["effective_rank"] == pytest.approx(expected.effective_rank, rel=1e-4)
    assert f"then {n} public photos" in section["compared"]
    # Random directions in 512 dimensions: at right angles, give or take 1 / sqrt(512), and of nearly full rank.
    assert noise["mean_angle"] == pytest.approx(90, abs=0.5) and noise["sd_angle"] == pytest.approx(2.53, abs=0.3)
    assert 0.9 * n < noise["effective_rank"] <= n and "silhouette" not in noise


def test_angles_between_classes_of_a_known_answer() -> None:
    angles = class_angles(torch.tensor([[2.0, 0.0], [0.0, 1.0], [-3.0, 0.0], [1.0, 1.0]]))
    expected = [[0, 90, 180, 45], [90, 0, 90, 45], [180, 90, 0, 135], [45, 45, 135, 0]]
    assert torch.allclose(angles, torch.tensor(expected, dtype=torch.float64), atol=1e-5)


def test_like_classes_are_put_side_by_side() -> None:
    angles = np.full((6, 6), 90.0)
    for a, b in ((0, 3), (1, 4), (2, 5)):
        angles[a, b] = angles[b, a] = 10.0
    np.fill_diagonal(angles, 0)
    order = class_order(angles).tolist()
    assert sorted(order) == list(range(6))
    assert {frozenset(order[i : i + 2]) for i in (0, 2, 4)} == {frozenset(p) for p in ((0, 3), (1, 4), (2, 5))}
    assert class_order([[0, 1], [1, 0]]).tolist() in ([0, 1], [1, 0])


@pytest.mark.parametrize("n", [2, 40])
def test_tsne_is_seeded_and_takes_few_points(n: int) -> None:
    points = torch.nn.functional.normalize(torch.randn(2 * n, 16), dim=1)
    flat = tsne(points)
    assert flat.shape == (2 * n, 2) and np.isfinite(flat).all()
    assert np.array_equal(flat, tsne(points))


def test_figures_of_the_embedding_space_are_written(tmp_path: Path) -> None:
    angles = class_angles(torch.randn(5, 8)).numpy()
    angle_heatmaps(angles, angles, tmp_path / "angles.png")
    norm_histogram(np.ones(5), np.linspace(0.8, 1.2, 9), tmp_path / "norms.png")
    norm_histogram(np.ones(2), np.ones(2), tmp_path / "same.png")
    for file in tmp_path.iterdir():
        with Image.open(file) as image:
            assert np.asarray(image.convert("RGBA"))[..., 3].max() == 255, file.name


def test_curves_take_what_looks_saw_from_the_looks_alone() -> None:
    """A stage's rows repeat the last look's values until the next: drawn, they would be a staircase."""
    rows = [{"phase": "stage1-look", "step": 20, "frechet": 1.0}, {"phase": "stage1", "step": 30, "frechet": 1.0},
            {"phase": "stage1-look", "step": 40, "frechet": 2.0},
            {"phase": "stage1", "step": 40, "frechet": 1.0, "loss": 3.0}]  # fmt: skip
    assert [(row["step"], row["frechet"]) for row in stage_rows(rows) if "frechet" in row] == [(20, 1.0), (40, 2.0)]
    assert [row["step"] for row in stage_rows(rows) if "loss" in row] == [40]
