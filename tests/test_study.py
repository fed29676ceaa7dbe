"""Studies: what runs, what is written down, and that neither a kill nor an executor changes a number."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import run_cli
from hypothesis import given
from hypothesis import strategies as st

from latentprint.errors import RunFailed, UserError
from latentprint.study.analyse import summarise, write_outputs
from latentprint.study.claims import (
    Claim,
    Cost,
    Difference,
    Level,
    Matched,
    Share,
    decided_by,
    directed,
    judged,
    ledger,
    verdict,
)
from latentprint.study.definition import Metric, Study, comparisons, matched, matched_name
from latentprint.study.library import STUDIES, find_study
from latentprint.study.notes import CLAIMS
from latentprint.study.outputs import write_statistics
from latentprint.study.pages import BEGIN, END, counted, read_bench, write_claims, write_section
from latentprint.study.plots import band_of
from latentprint.study.rows import at_path, collect, reached, read_rows, series, taken
from latentprint.study.run import open_folder, read_study, run_study
from latentprint.study.tables import Cell, Table, latex, markdown, tables, tex, tidy
from latentprint.study.tasks import (
    FAILURE,
    START,
    Task,
    check,
    complaint,
    kind_of,
    run_task,
    tasks_of,
    write_failure,
)

TINY = Study(
    name="tiny", question="Does noise cost accuracy? 50% of it, at $1 & more?", command="audit feature", preset="tiny",
    settings={"training.epochs": 1}, per_seed={"data.train.first_identity": 100, "data.test.first_identity": 100},
    arms={"plain": {}, "noise_2": {"defences": [{"kind": "noise", "std": 2.0}]},
          "broken": {"training.lr": 1e30, "training.clip_norm": 1e30}},
    reference="plain", seeds=2,
    pairs=[["plain", "noise_2"]], curves={"loss": "loss"}, phases="victim", front=["accuracy", "leak"],
    metrics={"accuracy": Metric(title="accuracy", path="accuracy", share=True),
             "leak": Metric(title="leak", path="leak", share=True),
             "mse": Metric(title="MSE", path="metrics.mse")})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The study run once, in two processes here."""
    folder = tmp_path_factory.mktemp("study") / "loky"
    return folder, run_study(TINY, folder, workers=2)


def test_rows_tables_and_failures(finished: tuple[Path, dict[str, Any]]) -> None:
    folder, summary = finished
    with (folder / "rows.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["arm"], row["seed"]) for row in rows] == [(arm, seed) for arm in TINY.arms for seed in "01"]
    report = json.loads((folder / "runs" / "noise_2" / "seed-1" / "report.json").read_text())["channels"]["feature"]
    assert float(rows[3]["mse"]) == report["metrics"]["mse"]["value"]
    assert float(rows[3]["accuracy"]) == report["accuracy"]["value"]
    assert rows[4]["status"] == "failed" and rows[4]["mse"] == "" and rows[4]["error"].startswith("RunFailed: victim: ")
    arms = summary["arms"]
    assert arms["broken"]["runs"] == {"done": 0, "failed": 2, "broken": 0, "missing": 0,
                                      "success": arms["broken"]["runs"]["success"]}
    assert arms["broken"]["runs"]["success"]["value"] == 0 and arms["broken"]["metrics"]["mse"] is None
    gaps = [float(rows[2 + seed]["mse"]) - float(rows[seed]["mse"]) for seed in (0, 1)]
    assert summary["contrasts"]["mse"]["noise_2"]["value"] == pytest.approx(sum(gaps) / 2)
    assert summary["contrasts"]["mse"]["noise_2"]["p"] in (0.5, 1.0)  # of two seeds nothing less can be said
    assert "broken" not in summary["contrasts"]["mse"]
    turned = summary["contrasts"]["mse"]["plain less noise_2"]
    assert turned["value"] == -summary["contrasts"]["mse"]["noise_2"]["value"]
    for name in ("summary.csv", "table.md", "table.tex", "forest.png", "front.png", "curves.png", "arms.png",
                 "study.html"):
        assert (folder / name).stat().st_size > 0
    run = folder / "runs" / "plain" / "seed-0"
    assert "<html" in (run / "report.html").read_text() and not (run / "failure.json").exists()
    page = (folder / "study.html").read_text()
    assert "2 failed, 0 missing" in page and "at $1 &amp; more?" in page
    code = (folder / "table.tex").read_text()
    assert r"50\% of it, at \$1 \& more?" in code and r"noise\_2" in code and r"\toprule" in code


def test_the_page_marks_inconclusive_runs(tmp_path: Path) -> None:
    known = {"floor": {"value": 0.0}, "ceiling": {"value": 1.0}, "attack": {"value": 0.5}}
    for seed, leak in enumerate((-0.1, 0.5)):
        out = tmp_path / "runs" / "plain" / f"seed-{seed}"
        out.mkdir(parents=True)
        section = {**known, "headline": "variance_recovered", "leak": {"value": leak, "low": leak - 0.1,
                                                                       "high": leak + 0.1}, "accuracy": 0.9}
        (out / "report.json").write_text(json.dumps({"schema": 1, "channels": {"feature": section}}))
    write_outputs(TINY, tmp_path)
    html = (tmp_path / "study.html").read_text()
    assert html.count('<span class="pill caution">1 inconclusive</span>') == 1
    assert "plain: seed 0: the attack (50%) does no better than the floor (0%)" in html
    assert html.index('id="numbers"') < html.index("Inconclusive audits")


def same(first: Path, second: Path) -> None:
    for name in ("rows.csv", "summary.csv", "table.md", "table.tex"):
        assert (first / name).read_text() == (second / name).read_text(), name


@pytest.mark.parametrize("executor", ["dask", "ray"])
def test_other_executors_give_the_same_table(finished: tuple[Path, dict[str, Any]], tmp_path: Path,
                                             executor: Any) -> None:
    """On a cluster of two workers on this machine."""
    pytest.importorskip("distributed" if executor == "dask" else "ray")
    found = run_study(TINY, tmp_path / "other", executor, workers=2)
    assert found == finished[1]
    same(finished[0], tmp_path / "other")


def test_a_kill_changes_nothing(finished: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    """Killed at some moment, with all its workers, and gone on with: what had ended is not run again."""
    definition, out = tmp_path / "study.yaml", tmp_path / "killed"
    definition.write_text(yaml.safe_dump(TINY.model_dump(mode="json"), sort_keys=False))
    command = [sys.executable, "-m", "latentprint", "study", "run", str(definition), "--workers", "1", "--out",
               str(out)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True) as run:
        first = out / "runs" / "plain" / "seed-0" / "report.json"
        until = time.monotonic() + 240
        while not first.is_file() and run.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
        os.killpg(run.pid, signal.SIGKILL)
    assert first.is_file() and not (out / "summary.json").exists()
    ended = first.stat().st_mtime_ns
    done = subprocess.run([*command, "--resume"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert first.stat().st_mtime_ns == ended
    same(finished[0], out)
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 2 and "holds a study already; --resume goes on with it" in again.stderr


def test_more_seeds_go_on_and_another_study_does_not(finished: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = finished
    other = TINY.model_copy(update={"settings": {"training.epochs": 2}})
    with pytest.raises(UserError, match="is another study: 'settings' differs"):
        run_study(other, folder, resume=True)
    kept = (folder / "study.yaml").read_text()
    looked = TINY.model_copy(update={"curves": {}, "arms": {**TINY.arms, "new": {}}})
    open_folder(looked, folder, resume=True)  # the same runs, seen otherwise, and one more
    assert list(read_study(folder).arms)[-1] == "new"
    (folder / "study.yaml").write_text(kept)
    changed = TINY.model_copy(update={"arms": {**TINY.arms, "plain": {"training.epochs": 2}}})
    with pytest.raises(UserError, match=r"is another study: 'arms\.plain' differs"):
        open_folder(changed, folder, resume=True)
    more = tasks_of(TINY.model_copy(update={"seeds": 3}), folder)[1]
    assert [task.done for task in more] == [True] * 6 + [False] * 3


def test_settings_of_a_task() -> None:
    study = TINY.model_copy(update={"start": {"training.epochs": 3},
                                    "uses": {"training.start": "networks/v.safetensors"}})
    arm: Any = Task(study, "noise_2", 4, Path("somewhere")).settings()
    assert (arm.seed, arm.threads, arm.training.epochs) == (4, 1, 1) and arm.defences[0].std == 2.0
    assert arm.data.train.first_identity == 400
    assert arm.training.start == Path("somewhere/runs") / START / "seed-4" / "networks/v.safetensors"
    first: Any = Task(study, START, 4, Path("somewhere")).settings()
    moved = study.model_copy(update={"per_seed": {"data.test.first_identity": [500, 10]}})
    assert moved.seeded(4) == {"data.test.first_identity": 540}
    assert first.training.epochs == 3 and first.training.start is None and first.seed == 4


def documented() -> dict[str, Any]:
    """The study in docs/studies.md."""
    text = (Path(__file__).parent.parent / "docs" / "studies.md").read_text()
    found: dict[str, Any] = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])
    return found


def test_the_documented_study_runs_for_every_seed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, told = tmp_path / "mine.yaml", documented()
    path.write_text(yaml.safe_dump(told, sort_keys=False))
    study = find_study(str(path))
    assert study.seeds == 5
    check(study, tmp_path)
    for task in tasks_of(study, tmp_path)[1]:  # train and test show the same people
        settings: Any = task.settings()
        assert settings.data.train.first_identity == settings.data.test.first_identity == 1000 * task.seed
    path.write_text(yaml.safe_dump({**told, "settings": {"training.epochs": 1}, "preset": "tiny"}, sort_keys=False))
    code, _, err = run_cli(capsys, "study", "run", str(path), "--seeds", "2", "--out", str(tmp_path / "out"),
                           "--workers", "2")
    assert code == 0, err
    assert {row["status"] for row in collect(read_study(tmp_path / "out"), tmp_path / "out")} == {"done"}


def test_what_breaks_for_another_reason_is_no_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Settings that only a run finds wrong: said on stderr, in no number, and run again once they are right."""
    path, out = tmp_path / "study.yaml", tmp_path / "out"
    lost = tmp_path / "weights.safetensors"
    arms = {"plain": {}, "lost": {"training.start": str(lost)}}
    path.write_text(yaml.safe_dump({**TINY.model_dump(mode="json"), "arms": arms, "pairs": [], "seeds": 1}))
    command = ("study", "run", str(path), "--out", str(out), "--workers", "1")
    code, printed, err = run_cli(capsys, *command)
    assert code == 2 and "1 of 2 runs did not run, first arm 'lost', seed 0 (UserError: " in err and "--resume" in err
    assert "Traceback" not in err and "0 of 0 (1 did not run)" in printed
    summary = json.loads((out / "summary.json").read_text())
    assert summary["arms"]["lost"]["runs"] == {"done": 0, "failed": 0, "broken": 1, "missing": 0, "success": None}
    assert summary["arms"]["plain"]["runs"]["success"]["value"] == 1.0
    assert "did not run and is in no number" in (out / "study.html").read_text()
    first = (out / "runs" / "plain" / "seed-0" / "report.json").stat().st_mtime_ns
    lost.write_bytes((out / "runs" / "plain" / "seed-0" / "networks" / "victim.safetensors").read_bytes())
    code, _, err = run_cli(capsys, *command, "--resume")
    assert code == 0, err
    assert [row["status"] for row in collect(read_study(out), out)] == ["done", "done"]
    assert (out / "runs" / "plain" / "seed-0" / "report.json").stat().st_mtime_ns == first
    assert not (out / "runs" / "lost" / "seed-0" / FAILURE).exists()


def test_arms_do_not_start_without_their_seeds_first_run(tmp_path: Path) -> None:
    study = TINY.model_copy(update={"start": {"training.start": str(tmp_path / "none.safetensors")}, "seeds": 1,
                                    "uses": {"training.start": "networks/victim.safetensors"}})
    summary = run_study(study, tmp_path / "out", workers=1)
    assert {own["runs"]["missing"] for own in summary["arms"].values()} == {1}
    said = str(complaint(study, tmp_path / "out"))
    assert "1 of 4 runs did not run, first the first run of seed 0 (UserError: " in said


@pytest.mark.parametrize(("error", "kind", "status"), [
    (RunFailed("victim: NaN"), "run", "failed"), (UserError("no file"), "infrastructure", "broken"),
    (MemoryError(), "infrastructure", "broken"), (SystemExit(3), "infrastructure", "broken"),
    (OSError("no space"), "infrastructure", "broken")])
def test_only_a_failed_training_is_a_result(error: BaseException, kind: str, status: str, tmp_path: Path,
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: Any) -> None:
        raise error

    monkeypatch.setattr("latentprint.feature.compare.run_compared", run)
    task = Task(TINY, "plain", 0, tmp_path)
    run_task(task)
    assert task.failure is not None and task.failure["kind"] == kind == kind_of(error)
    assert task.ended and task.done == (kind == "run")
    assert collect(TINY, tmp_path)[0]["status"] == status
    wrong = complaint(TINY, tmp_path)
    assert (wrong is None) == (kind == "run")
    assert wrong is None or isinstance(wrong, UserError) == isinstance(error, UserError)


def test_a_full_disk_is_no_failed_training_and_old_failures_are_read(tmp_path: Path) -> None:
    full = RunFailed("checkpoint could not be written")
    full.__cause__ = OSError(28, "No space left on device")
    assert kind_of(full) == "infrastructure"
    for place, (said, done) in enumerate((("RunFailed: victim: NaN", True), ("UserError: no file", False))):
        task = Task(TINY, "plain", place, tmp_path)
        write_failure(task.out, {"error": said, "trace": []})  # as before there were kinds
        assert task.done == done and task.ended


def test_rows_are_read_as_they_were_written(finished: tuple[Path, dict[str, Any]]) -> None:
    folder, summary = finished
    rows = read_rows(folder / "rows.csv")
    assert rows == collect(TINY, folder) and summarise(TINY, rows) == summary


def test_the_example_resolves(tmp_path: Path) -> None:
    study = find_study(str(Path(__file__).parent.parent / "examples" / "study_cifar.yaml"))
    check(study, tmp_path)
    arm: Any = Task(study, "gmm 16", 2, tmp_path).settings()
    assert [defence.kind for defence in arm.defences] == ["noise", "cem"] and arm.seed == 2


@pytest.mark.parametrize("name", list(STUDIES))
def test_built_in_studies_resolve(name: str, tmp_path: Path) -> None:
    study = find_study(name)
    check(study, tmp_path)
    check(study.model_copy(update={"preset": "tiny", "settings": {}}), tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reference": "none"}, "reference 'none' is none of the arms"),
        ({"uses": {"a": "b"}}, "uses names files of a first run"),
        ({"arms": {"a/b": {}}, "reference": "a/b"}, "cannot be a folder's name"),
        ({"metrics": {"x": {"title": "x"}}}, "needs either a path or a logged value"),
        ({"metrics": {"x": {"title": "x", "logged": "y"}}}, "needs either at_least or at_most"),
        ({"pairs": [["plain", "none"]]}, "pairs names two arms each"),
        ({"front": ["accuracy"]}, "front names two metrics"),
        ({"front": [], "families": {"a": ["plain"]}}, "there is no 'front'"),
        ({"families": {"a": ["plain"], "b": ["none"]}}, "families names arms, not 'none'"),
        ({"seeds": 0}, "greater than or equal to 1"),
        ({"novel": 1}, "novel"),
    ],
)
def test_studies_that_are_none(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump({**TINY.model_dump(mode="json"), **change}))
    with pytest.raises(UserError, match=re.escape(message)):
        find_study(str(path))


def test_studies_that_are_not_there_or_have_wrong_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run_cli(capsys, "study", "run", "anealing")
    assert code == 2 and "did you mean 'annealing'" in err
    code, out, _ = run_cli(capsys, "study", "run", "list")
    assert code == 0 and "template-losses" in out
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump({**TINY.model_dump(mode="json"), "pairs": [],
                                    "arms": {"plain": {}, "odd": {"training.lrr": 1}}}))
    code, _, err = run_cli(capsys, "study", "run", str(path), "--out", str(tmp_path / "out"))
    assert code == 2 and "arm 'odd'" in err and "training.lrr" in err and not (tmp_path / "out").exists()
    code, _, err = run_cli(capsys, "study", "show", str(tmp_path / "nothing"))
    assert code == 2 and "holds no study" in err


# ---- values ----


def test_paths_lead_through_names_that_hold_dots() -> None:
    section = {"groups": {"rate 0.05": {"leak": {"value": 0.3}}, "rate 0": {"seen": 1}}, "rows": [{"a.b": 2}]}
    assert at_path(section, "groups.rate 0.05.leak") == 0.3
    assert at_path(section, "groups.rate 0.seen") == 1
    assert at_path(section, "rows.0.a.b") == 2 and at_path(section, "rows.0.a") is None


def test_values_at_paths_and_times() -> None:
    section = {"a": {"value": 0.5, "low": 0}, "b": [{"c": 2}], "d": {"e": None}, "f (g)": {"h": 3.0}}
    assert [at_path(section, path) for path in ("a", "b.0.c", "d.e", "none.x", "f (g).h", "b.7.c")] == [
        0.5, 2.0, None, None, 3.0, None]
    rows = [{"phase": "victim", "step": 900, "success": 1.0}, {"phase": "stage0", "step": 10},
            {"phase": "stage0-look", "step": 20, "success": 0.1}, {"phase": "stage1", "step": 5, "success": 0.3},
            {"phase": "stage1-look", "step": 30, "success": 0.85}, {"phase": "stage2", "step": 40, "success": 0.9}]
    steps, values, end = series(rows, "success", "stage")
    assert (steps, values, end) == ([20.0, 25.0, 50.0, 90.0], [0.1, 0.3, 0.85, 0.9], 90.0)
    assert series(rows, "success", "stage1") == ([5.0, 30.0], [0.3, 0.85], 30.0)
    assert series(rows, "success", "stage1", 0.25) == ([30.0], [0.85], 30.0)
    assert reached(steps, values, Metric(title="t", logged="success", at_least=0.8)) == 50.0
    assert reached(steps, values, Metric(title="t", logged="success", at_least=0.95)) is None
    assert reached(steps, values, Metric(title="t", logged="success", at_most=0.2)) == 20.0
    assert taken(steps, values, "first") == 0.1 and taken(steps, values, "last") == 0.9
    assert taken(steps, values, "variance") == pytest.approx(0.00125)  # of the two values beyond step 45
    assert taken(range(5), [1.0, 1.0, 11.0, 1.0, 9.0], "spikes") == 1.0
    assert taken(range(9), [8.0, 4.0, 9, 9, 9, 9, 9, 1.0, 2.0], "ratio") == pytest.approx(1.5 / 6)
    assert taken([], [], "last") is None and taken([1.0], [2.0], "variance") is None


def test_bands_are_means_and_intervals_where_all_runs_were_looked_at() -> None:
    band = band_of([([1, 2, 4], [1.0, 5.0, 2.0]), ([1, 3, 4], [3.0, 5.0, 2.0])])
    assert band is not None
    steps, centre, low, high = band
    assert steps.tolist() == [1, 4] and centre.tolist() == [2.0, 2.0]
    assert low[0] == pytest.approx(2 - 12.7062, abs=1e-3) and high.tolist()[1] == 2.0
    assert band_of([([1], [1.0]), ([2], [1.0])]) is None and band_of([]) is None


def test_times_are_censored_not_dropped(tmp_path: Path) -> None:
    study = TINY.model_copy(update={"metrics": {"steps": Metric(title="steps", logged="success", at_least=0.8)}})
    rows = [{"arm": arm, "seed": seed, "status": "done", "error": "", "steps": value, "steps watched": 100.0}
            for arm, values in (("plain", (None, 80.0)), ("noise_2", (20.0, 40.0)))
            for seed, value in enumerate(values)]
    summary = summarise(study, rows)
    plain = summary["arms"]["plain"]["metrics"]["steps"]
    assert 0 < plain["low"] < 90 < plain["high"] < 100
    assert plain | {"low": 0, "high": 0} == {"value": 90.0, "low": 0, "high": 0, "n": 2, "sd": None, "reached": 1,
                                             "horizon": 100.0, "median": 80.0}
    gap = summary["contrasts"]["steps"]["noise_2"]
    assert gap["value"] == pytest.approx(-60.0) and gap["low"] > -100 and (gap["reached"], gap["runs"]) == (3, 4)
    values, differences = tables(study, summary)
    assert "mean up to 100 steps, 1 of 2 reached the threshold" in str(values.body[0][2])
    assert values.head == ["arm", "runs", "steps"] and str(values.body[1][2]).endswith(
        ", 2 of 2 reached the threshold)")
    assert differences.body[0][1].value == "-60" and "mean up to 100 steps" in differences.body[0][1].detail
    by = Difference("tiny", "noise_2", "steps", float("-inf"), 0)
    (row,) = ledger([Claim("1", "n", "sooner", "fewer", by)], {"tiny": summary})
    assert row["note"] == "3 of 4 runs reached it within 100 steps"
    assert collect(study, tmp_path)[0]["status"] == "missing"


def test_a_time_that_no_run_reached_is_no_number(tmp_path: Path) -> None:
    study = TINY.model_copy(update={"metrics": {"steps": Metric(title="steps", logged="success", at_least=0.8)},
                                    "front": []})
    rows = [{"arm": arm, "seed": seed, "status": "done", "error": "", "steps": None, "steps watched": 16.0}
            for arm in ("plain", "noise_2") for seed in (0, 1)]
    summary = summarise(study, rows)
    values, differences = tables(study, summary)
    assert str(values.body[0][2]) == "not reached within 16 steps (0 of 2)"
    assert str(differences.body[0][1]) == "not reached within 16 steps (0 of 4)"
    assert "not reached within 16 steps (0 of 2)" in latex(study, [values])
    assert {(line["value"], line["low"], line["reached"], line["horizon"]) for line in tidy(study, summary)} == {
        (None, None, 0, 16.0)}
    by = Difference("tiny", "noise_2", "steps", float("-inf"), 0)
    (row,) = ledger([Claim("1", "n", "sooner", "fewer", by)], {"tiny": summary})
    assert row["verdict"] == "not measured" and row["measured"] is None
    assert row["note"] == "0 of 4 runs reached it within 16 steps"
    write_statistics(study, summary, tmp_path)  # nothing to plot, and no crash


def test_rates_over_seeds_stay_within_their_range() -> None:
    study = TINY.model_copy(update={"metrics": {
        "rate": Metric(title="rate", path="a", share=True),
        "leak": Metric(title="leak", path="b", share=True, signed=True),
        "spikes": Metric(title="spikes", logged="g", take="spikes")}, "front": []})
    rows = [{"arm": arm, "seed": seed, "status": "done", "error": "", "rate": rate, "leak": leak, "spikes": 0.0}
            for arm, values in (("plain", ((0.42, -0.1), (0.768, 0.5))), ("noise_2", ((1.0, 0.9), (1.0, 0.99))))
            for seed, (rate, leak) in enumerate(values)]
    summary = summarise(study, rows)
    plain, noisy = (summary["arms"][arm]["metrics"] for arm in ("plain", "noise_2"))
    assert 0 < plain["rate"]["low"] < 0.594 < plain["rate"]["high"] < 1
    assert plain["leak"]["low"] < -0.1 and plain["leak"]["high"] < 1 and noisy["leak"]["high"] < 1
    assert (noisy["rate"]["low"], noisy["rate"]["high"]) == (pytest.approx(0.025 ** (1 / 2)), 1.0)
    assert (plain["spikes"]["low"], plain["spikes"]["high"]) == (0, pytest.approx(3.6889 / 2, abs=1e-4))
    assert summary["contrasts"]["rate"]["noise_2"]["low"] > -1


def test_families_are_compared_where_both_keep_as_much() -> None:
    """One curve lies 0.1 above the other in the first seed, 0.3 in the second; the third has no accuracy in common."""
    arms: dict[str, dict[str, Any]] = {"plain": {}, "a 1": {}, "a 2": {}, "b 1": {}, "b 2": {}}
    study = TINY.model_copy(update={"arms": arms, "families": {"a": ["a 1", "a 2"], "b": ["b 1", "b 2"]}, "seeds": 3,
                                    "pairs": []})

    def row(arm: str, seed: int, accuracy: float, leak: float) -> dict[str, Any]:
        return {"arm": arm, "seed": seed, "status": "done", "error": "", "accuracy": accuracy, "leak": leak, "mse": 1.0}

    rows = [row(arm, seed, accuracy, accuracy / 2 + (raised if arm.startswith("b") else 0.0))
            for seed, raised in ((0, 0.1), (1, 0.3))
            for arm, accuracy in (("a 1", 0.8), ("a 2", 0.4), ("b 1", 0.7), ("b 2", 0.5))]
    rows += [row("a 1", 2, 0.9, 0.5), row("b 1", 2, 0.2, 0.5)]
    summary = summarise(study, rows)
    found = summary["matched"]["leak"]["b against a"]
    assert found["value"] == pytest.approx(0.2) and found["n"] == 2 and found["p"] == found["p_holm"] == 0.5
    assert summary["matched"]["accuracy"] == {} and summary["matched"]["mse"]["b against a"]["value"] == 0.0
    equal = tables(study, summary)[-1]
    assert equal.title == "At equal accuracy" and equal.head == ["families", "leak, %", "MSE"]
    assert str(equal.body[0][1]).startswith("+20.0 (")
    line = next(line for line in tidy(study, summary) if line["at_equal"])
    assert (line["arm"], line["less"], line["at_equal"], line["metric"]) == ("b", "a", "accuracy", "leak")
    by = Matched("tiny", "b", "leak", 0, float("inf"), "a")
    (claim,) = ledger([Claim("1", "n", "b leaks more", "more", by)], {"tiny": summary})
    assert claim["measured"] == found["value"] and claim["verdict"] == "not resolved" and claim["unit"] == "points"
    assert verdict(by, 0.2, 0.1, 0.3) == "confirmed" and verdict(by, -0.2, -0.3, -0.1) == "refuted"
    anchored = [*rows[:8], *(row("plain", seed, 0.4, 0.2) for seed in (0, 1))]  # the reference belongs to every curve
    assert summarise(study, anchored)["matched"]["leak"]["b against a"]["value"] < 0.2


def test_cells_cannot_break_tables() -> None:
    assert markdown(["a|b"], [["1"]]).splitlines()[0] == r"| a\|b |"
    assert tex("a_b & 5% of {x}~^\\") == r"a\_b \& 5\% of \{x\}\textasciitilde{}\textasciicircum{}\textbackslash{}"
    numbers = [Cell("1", "0 to 2")] * 5  # four metrics abreast, and one
    wide = Table("T", ["arm", "runs", *"abcde"], [[Cell("x_y"), Cell("2 of 2"), *numbers]])
    code = latex(TINY, [wide])
    assert code.count(r"\begin{tabular}") == 2 and code.count(r"x\_y & 2 of 2 & 1 (0 to 2)") == 2
    assert code.count(r"\\") == 4 and code.count(r"\begin{table}") == 1


# ---- claims ----


INF = float("inf")
LARGER = Difference("s", "a", "m", 0.1, 0.2)


@pytest.mark.parametrize(
    ("by", "found", "expected"),
    [
        (Difference("s", "a", "m", 15, 15, tolerance=7.5), (0.5, 0.1, 1.0), "direction confirmed, size refuted"),
        (Difference("s", "a", "m", 15, 15, tolerance=7.5), (0.5, -0.1, 1.0), "direction not resolved, size refuted"),
        (Difference("s", "a", "m", 15, 15, tolerance=7.5), (9, -1, 20), "not resolved"),
        (Difference("s", "a", "m", 15, 15, tolerance=7.5), (14, 10, 18), "confirmed"),
        (Difference("s", "a", "m", 15, 15, tolerance=7.5), (14, 5, 23), "direction confirmed, size not resolved"),
        (Difference("s", "a", "m", 15, 15, tolerance=7.5), (-2, -3, -1), "refuted"),
        (Difference("s", "a", "m", 0, INF), (0.5, 0.1, 1.0), "confirmed"),
        (Difference("s", "a", "m", -INF, 0), (-3, -5, -1), "confirmed"),
        (Difference("s", "a", "m", -INF, 0), (1, 0.5, 2), "refuted"),
        (Difference("s", "a", "m", -INF, 0), (-1, -3, 1), "not resolved"),
        (Difference("s", "a", "m", -0.03, 0.03), (0.0, -0.02, 0.02), "confirmed"),
        (Difference("s", "a", "m", -0.03, 0.03), (0.1, 0.05, 0.2), "refuted"),
        (Difference("s", "a", "m", -0.03, 0.03), (0.0, -0.05, 0.05), "not resolved"),
        (Level("s", "a", "m", 30, 90), (89.9, 89.85, 89.95), "confirmed"),
        (Level("s", "a", "m", 0.8, 0.9), (0.5, 0.4, 0.6), "refuted"),
        (Level("s", "a", "m", 0.8, 0.9), (0.7, 0.2, 1.0), "not resolved"),
        (Level("s", "a", "m", 1.0, INF), (2, 1.5, 2.5), "confirmed"),
        (Level("s", "a", "m", 1.0, INF), (1.2, 0.5, 1.9), "not resolved"),
        (Cost("b", {}, "x", -INF, 1.0), (1.5, 1.2, 1.8), "refuted"),
        (Level("s", "a", "m", 0, 1), (0.5, None, None), "not resolved"),
        (Level("s", "a", "m", 0, 1), (None, None, None), "not measured"),
        (None, (1, 1, 1), "not yet run"),
    ],
)
def test_verdicts(by: Any, found: Any, expected: str) -> None:
    assert verdict(by, *found) == expected


def test_what_is_tested_is_said() -> None:
    assert decided_by(Difference("s", "a", "m", 0, INF)) == "direction: above 0"
    assert decided_by(Difference("s", "a", "m", 0.15, 0.15, tolerance=0.075), "points") == (
        "direction: above 0; size: 15 ± 7.5 points")
    assert decided_by(Difference("s", "a", "m", -0.02, -0.01), "points") == "direction: below 0; size: -2 to -1 points"
    assert decided_by(Difference("s", "a", "m", -0.03, 0.03)) == "size: -0.03 to 0.03"
    assert decided_by(Level("s", "a", "m", 0.8, INF), "%") == "size: at least 80 %" and decided_by(None) == ""
    assert judged(LARGER, 0.3, 0.4) == {"direction": "confirmed", "size": "larger than claimed"}
    assert judged(Difference("s", "a", "m", -0.2, -0.1), -0.4, -0.3)["size"] == "larger than claimed"
    assert judged(Difference("s", "a", "m", -0.2, -0.1), 0.3, 0.4)["size"] == "smaller than claimed"


FAVOUR = {"refuted": 0, "smaller than claimed": 0, "larger than claimed": 0, "not resolved": 1, "confirmed": 2}
ENDS = st.integers(-40, 40)


@given(ENDS, st.integers(0, 30), st.integers(1, 30), st.integers(0, 20), st.integers(0, 10), st.sampled_from([1, -1]))
def test_worse_evidence_is_never_more_favourable(start: int, width: int, least: int, span: int, shift: int,
                                                 sign: int) -> None:
    """An interval that moves towards 0 and beyond, from within what is claimed or short of it."""
    ends = sorted((sign * least, sign * (least + span)))
    by = Difference("s", "a", "m", ends[0], ends[1], tolerance=least / 2)

    def at(moved: int) -> dict[str, Any]:
        return judged(by, *sorted((sign * (start - moved), sign * (start + width - moved))))

    before, after = at(0), at(shift)
    assert FAVOUR[after["direction"]] <= FAVOUR[before["direction"]]
    if start + width <= least + span + least / 2:  # no part of it exceeds the claimed size
        assert FAVOUR[after["size"]] <= FAVOUR[before["size"]]
    assert before["size"] != "confirmed" or before["direction"] == "confirmed"
    assert before["direction"] != "refuted" or before["size"] == "smaller than claimed"


@given(ENDS, st.integers(0, 30), ENDS, st.integers(0, 30), st.integers(0, 9), st.integers(0, 9))
def test_less_certain_evidence_only_leaves_more_open(start: int, width: int, low: int, span: int, left: int,
                                                     right: int) -> None:
    for by in (Level("s", "a", "m", low, low + span), Difference("s", "a", "m", low, low + span, tolerance=1)):
        narrow, wide = judged(by, start, start + width), judged(by, start - left, start + width + right)
        assert all(wide[part] in (narrow[part], "not resolved") for part in narrow)


@given(ENDS, st.integers(0, 30), ENDS, st.integers(0, 30), st.integers(0, 10))
def test_levels_are_monotone_on_both_sides(start: int, width: int, low: int, span: int, shift: int) -> None:
    by = Level("s", "a", "m", low, low + span, tolerance=2)
    size = judged(by, start, start + width)["size"]
    if start + width <= low + span + 2:
        assert FAVOUR[judged(by, start - shift, start + width - shift)["size"]] <= FAVOUR[size]
    if start >= low - 2:
        assert FAVOUR[judged(by, start + shift, start + width + shift)["size"]] <= FAVOUR[size]


def test_one_measurement_counts_once() -> None:
    summary = {"study": "s", "seeds": 3, "reference": "b", "arms": {}, "titles": {},
               "contrasts": {"t": {"a": {"value": 5.0, "low": 3.0, "high": 7.0, "n": 3}}}}
    claims = [Claim(str(i), "n", "sooner", "fewer", Difference("s", "a", "t", -INF, 0)) for i in range(3)]
    rows = ledger([*claims, Claim("4", "n", "later", "more", Difference("s", "a", "t", 0, INF))], {"s": summary})
    assert counted(rows) == "1 confirmed (on 1 measurement); 3 refuted (on 1 measurement)"


def test_the_ledger_is_read_from_studies_and_from_nothing_else(finished: tuple[Path, dict[str, Any]],
                                                               tmp_path: Path) -> None:
    folder, summary = finished
    raised = Difference("tiny", "noise_2", "mse", 0, float("inf"))
    claims = (Claim("x-1", "x", "noise raises the error | much", "higher", raised),
              Claim("x-2", "x", "accuracy is 100%", "100%", Level("tiny", "plain", "accuracy", 0.99, 1.0)),
              Claim("x-3", "x", "elsewhere", "?", Level("other", "plain", "accuracy", 0, 1)),
              Claim("x-4", "x", "by hand", "?", why="cannot be"))
    rows = write_claims([folder], tmp_path / "out", claims)
    assert json.loads((tmp_path / "out" / "claims.json").read_text()) == {"claims": rows}
    found = summary["contrasts"]["mse"]["noise_2"]
    assert (rows[0]["measured"], rows[0]["low"], rows[0]["n"]) == (found["value"], found["low"], 2)
    assert rows[1]["measured"] == summary["arms"]["plain"]["metrics"]["accuracy"]["value"]
    assert [row["verdict"] for row in rows[2:]] == ["not yet run"] * 2 and rows[2]["measured"] is None
    assert {"id", "source", "claim", "expected", "measured", "low", "high", "n", "verdict", "command"} <= set(rows[0])
    assert r"noise raises the error \| much" in (tmp_path / "out" / "claims.md").read_text()
    page = (tmp_path / "out" / "studies.md").read_text()
    kept = tmp_path / "out" / "studies" / "tiny"
    assert "## tiny" in page and "| noise_2 | 2 of 2 |" in page and "(studies/tiny/curves.png)" in page
    assert "`latentprint study run tiny --seeds 2`" in page and rows[0]["command"].endswith("study run tiny --seeds 2")
    for name in ("rows.csv", "curves.png", "table.tex", "study.yaml"):
        assert (kept / name).read_bytes() == (folder / name).read_bytes()
    assert write_claims([kept], tmp_path / "out", claims) == rows  # without the runs
    assert (tmp_path / "out" / "studies.md").read_text() == page
    assert write_claims([kept], tmp_path / "elsewhere", claims) == rows
    with pytest.raises(UserError, match="given twice"):
        write_claims([folder, folder], tmp_path / "out", claims)
    with pytest.raises(UserError, match="holds no study that has run"):
        write_claims([tmp_path], tmp_path / "out", claims)


def test_shares_pairs_and_costs_in_the_ledger(tmp_path: Path) -> None:
    summary = {"study": "s", "seeds": 4, "reference": "b", "titles": {"t": "steps"},
               "arms": {"a": {"metrics": {"t": {"reached": 4, "n": 4, "value": 10.0}}}},
               "contrasts": {"t": {"a less b": {"value": -3.0, "low": -5.0, "high": -1.0, "n": 4}}}}
    for name, ratio in (("one.json", 1.2), ("two.json", 1.3)):
        rows = [{"bench": "x", "loss": "plain", "ratio": 2.0}, {"bench": "x", "loss": "dear", "ratio": 2 * ratio}]
        (tmp_path / name).write_text(json.dumps({"rows": rows}))
    dear = Cost("x", {"loss": "dear"}, "ratio", 1.0, 2.0, {"loss": "plain"})
    claims = (Claim("1", "n", "always", "100%", Share("s", "a", "t", 0.95, 1.0)),
              Claim("2", "n", "sooner", "-3", Difference("s", "a", "t", -INF, 0, "b")),
              Claim("3", "n", "later", "+3", Difference("s", "a", "t", 0, INF, "b")),
              Claim("4", "n", "dear", "1.25x", dear), Claim("5", "n", "none", "?", Cost("y", {}, "ratio", 0, 1)))
    benches = {"x": [read_bench(tmp_path / name)["x"] for name in ("one.json", "two.json")]}
    found = ledger(claims, {"s": summary}, benches)
    assert (found[0]["unit"], found[1]["unit"]) == ("%", "")
    assert (found[0]["measured"], found[0]["n"]) == (1.0, 4) and found[0]["low"] == pytest.approx(0.025**0.25)
    assert found[0]["verdict"] == "not resolved"  # four of four say little
    assert [row["verdict"] for row in found[1:3]] == ["confirmed", "refuted"]
    assert found[3]["measured"] == pytest.approx(1.25) and found[3]["n"] == 2
    assert found[3]["command"] == "latentprint bench x --json" and found[4]["verdict"] == "not yet run"
    readme = tmp_path / "README.md"
    readme.write_text(f"# a\n{BEGIN}\nold\n{END}\nb\n")
    write_section(readme, found, "docs/claims.md")
    text = readme.read_text()
    assert text.startswith("# a\n") and text.endswith(f"{END}\nb\n") and "old" not in text
    wrong, _, right = text.partition("**Where they were right**")
    assert "| n | later | +3 | direction: above 0 | -3 (-5 to -1), n 4 | a less b: steps | refuted |" in wrong
    assert "| n | sooner | -3 |" in right
    assert [row["of"] for row in found] == ["a: share of runs that reach it, steps", "a less b: steps",
                                            "a less b: steps", "ratio: dear over plain", "ratio: "]
    write_section(readme, found, "docs/claims.md")
    assert readme.read_text() == text
    (tmp_path / "bare.md").write_text("nothing")
    with pytest.raises(UserError, match="no place for results"):
        write_section(tmp_path / "bare.md", found, "x")
    with pytest.raises(UserError, match="is not what `latentprint bench --json` prints"):
        read_bench(readme)


def test_every_claim_names_what_its_study_measures() -> None:
    assert len({claim.id for claim in CLAIMS}) == len(CLAIMS) > 50
    for claim in CLAIMS:
        if claim.by is None:
            assert claim.why, claim.id
            continue
        if isinstance(claim.by, Cost):
            continue
        study = STUDIES[claim.by.study]
        if isinstance(claim.by, Matched):
            assert matched_name(claim.by.arm, claim.by.other) in matched(study), claim.id
            continue
        assert claim.by.arm in study.arms and claim.by.metric in study.metrics, claim.id
        assert not isinstance(claim.by, Difference) or claim.by.key in comparisons(study), claim.id
        assert not isinstance(claim.by, Share) or study.metrics[claim.by.metric].timed, claim.id
        # a tolerance that reached beyond 0 would confirm a size without a direction
        assert not directed(claim.by) or claim.by.tolerance <= min(abs(claim.by.low), abs(claim.by.high)), claim.id
    assert {claim.source[:3] for claim in CLAIMS} == {"000", "001", "002", "004"}
    assert all(row["verdict"] == "not yet run" for row in ledger(CLAIMS, {}))


def test_show_writes_the_tables_again(finished: tuple[Path, dict[str, Any]],
                                      capsys: pytest.CaptureFixture[str]) -> None:
    folder, summary = finished
    (folder / "table.md").unlink()
    code, out, _ = run_cli(capsys, "study", "show", str(folder))
    assert code == 0 and "noise_2" in out and (folder / "table.md").is_file()
    assert write_outputs(TINY, folder) == summary and (folder / "runs" / "broken" / "seed-0" / FAILURE).is_file()
