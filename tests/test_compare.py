"""The comparison of several runs: its numbers, curves and settings, its safety, and what it refuses."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from test_report import Page, full_report

from latentprint.cli import main
from latentprint.errors import UserError
from latentprint.report.compare import compare_runs
from latentprint.report.figures import compared_curves

NAUGHTY = "<script>alert(1)<|script>"  # a slash cannot be in a folder's name


def write_run(folder: Path, leak: float = 0.5, **settings: Any) -> Path:
    report = copy.deepcopy(full_report())
    report["channels"]["label"]["leak"] = {"value": leak, "low": leak - 0.1, "high": leak + 0.1, "n": 50}
    folder.mkdir(parents=True)
    (folder / "report.json").write_text(json.dumps(report))
    config = {"seed": 0, "assets": None, "attack": {"horizon": 60, "stages": [{"lora_lr": 1e-4}]}, **settings}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(leak)))
    return folder


def rows(at: float) -> list[dict[str, Any]]:
    return [{"phase": "stage0", "step": 10, "loss": at}, {"phase": "stage0", "step": 20, "loss": at / 2},
            {"phase": "stage0-look", "step": 20, "frechet": 2.0},
            {"phase": "stage1", "step": 5, "loss": at, "lambda": 0.5, "raw/align": 0.1}]  # fmt: skip


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    return [write_run(tmp_path / "a"), write_run(tmp_path / "b", 0.7, seed=1, assets="mine"),
            write_run(tmp_path / "c & d", 0.3, attack={"horizon": 60, "stages": [{"lora_lr": 2e-4}]})]  # fmt: skip


def test_every_run_has_a_row_of_numbers(runs: list[Path]) -> None:
    page = Page(compare_runs(runs).read_text())
    assert page.row("b") == ["b", "leaks strongly", "70% 60–80% · n 50", "74% 66–81%", "2% 2–2%",
                             "99% 98–99.5%", "41% 40–42%", "91% 91–92%", "99%", "17 min 14 s"]
    assert page.row("a")[2] == "50% 40–60% · n 50" and page.row("c & d")[2] == "30% 20–40% · n 50"
    assert "3 runs: a, b, c & d" in page.text and "differ in their" not in page.text


def test_an_inconclusive_run_is_marked_and_says_why(runs: list[Path]) -> None:
    file = runs[0] / "report.json"
    report = json.loads(file.read_text())
    report["channels"]["label"] |= {"leak": {"value": 0.0, "low": 0.0, "high": 0.02}}
    file.write_text(json.dumps(report))
    html = compare_runs(runs).read_text()
    assert Page(html).row("a")[1] == "inconclusive" and '<span class="pill caution">inconclusive</span>' in html
    assert "a, label: inconclusive. The attack (74%) does no better than the floor (2%)" in Page(html).text
    assert html.index('id="numbers"') < html.index('class="warnings"')


def test_only_settings_that_differ_are_listed(runs: list[Path]) -> None:
    page = Page(compare_runs(runs).read_text())
    assert page.row("seed") == ["seed", "0", "1", "0"]
    assert page.row("assets") == ["assets", "not set", "mine", "not set"]
    assert page.row("attack.stages.0.lora_lr") == ["attack.stages.0.lora_lr", "0.0001", "0.0001", "0.0002"]
    assert "attack.horizon" not in page.text
    (runs[1] / "config.yaml").write_text((runs[0] / "config.yaml").read_text())
    assert "None: the same configuration" in compare_runs(runs[:2]).read_text()


def test_curves_follow_their_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    saved: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *_, **__: saved.append(self))
    assert compared_curves({"one": rows(1.0), "none": [], NAUGHTY: rows(2.0)}, tmp_path / "a.png")
    (figure,) = saved
    axes = {axis.get_title(loc="left"): axis for axis in figure.axes}
    assert list(axes) == ["Fréchet distance", "loss", "lambda", "alignment loss"]
    curves = [np.asarray(line.get_xydata()).tolist() for line in axes["loss"].lines]
    assert curves == [[[10, 1], [20, 0.5]], [[25, 1]], [[10, 2], [20, 1]], [[25, 2]]]  # stages end to end
    assert axes["loss"].lines[0].get_color() == axes["lambda"].lines[0].get_color() != axes["loss"].lines[2].get_color()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["one", NAUGHTY]
    assert not compared_curves({"none": []}, tmp_path / "b.png") and len(saved) == 1


def test_runs_without_logs_still_compare(runs: list[Path]) -> None:
    for run in runs:
        (run / "metrics.jsonl").unlink()
    page = Page(compare_runs(runs).read_text())
    assert "No run logged a curve" in page.text and page.images == []


def test_the_page_is_whole_and_harmless(tmp_path: Path) -> None:
    bad = [write_run(tmp_path / name, seed=NAUGHTY + name) for name in (NAUGHTY, "plain")]
    html = compare_runs(bad).read_text()
    page = Page(html)
    assert page.scripts == [] and "<script" not in html
    assert page.row(NAUGHTY)[0] == NAUGHTY and page.row("seed")[1] == NAUGHTY * 2
    assert page.csp.startswith("default-src 'none'; img-src data:;")
    assert {value.partition(":")[0] for value in page.loads} == {"data"} and len(page.images) == 1


def test_names_are_the_shortest_ends_that_differ(tmp_path: Path) -> None:
    same = [write_run(tmp_path / parent / "run") for parent in ("x", "y")]
    assert "2 runs: x/run, y/run" in Page(compare_runs(same).read_text()).text


def test_other_protocols_are_pointed_out(runs: list[Path]) -> None:
    report = json.loads((runs[0] / "report.json").read_text())
    report["channels"]["label"]["protocol"] = {"hash": "other"}
    (runs[0] / "report.json").write_text(json.dumps(report))
    assert "Label: the runs differ in their protocol" in Page(compare_runs(runs).read_text()).text


@pytest.mark.parametrize(("file", "content", "said"), [
    ("report.json", None, "report.json: not found"), ("report.json", "[]", "is not a report"),
    ("config.yaml", None, "config.yaml: not found"), ("config.yaml", "a: [", "is not valid YAML"),
    ("config.yaml", "- 1", "expected a mapping"), ("config.yaml", "\0", "is not valid YAML"),
])  # fmt: skip
def test_a_folder_that_is_no_run_is_refused_in_a_sentence(runs: list[Path], file: str, content: str | None, said: str,
                                                          capsys: pytest.CaptureFixture[str]) -> None:
    (runs[1] / file).unlink()
    if content is not None:
        (runs[1] / file).write_text(content)
    assert main(["report", *map(str, runs)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {runs[1]}") and said in error and error.count("\n") == 1
    assert not (runs[0] / "comparison.html").exists()


def test_the_command_writes_where_it_is_told(runs: list[Path], tmp_path: Path,
                                             capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", *map(str, runs)]) == 0
    assert capsys.readouterr().out == f"comparison: {runs[0] / 'comparison.html'}\n"
    elsewhere = tmp_path / "elsewhere.html"
    assert main(["report", *map(str, runs), "--out", str(elsewhere)]) == 0 and elsewhere.is_file()
    assert main(["report", *map(str, runs), "--out", str(tmp_path / "no" / "x.html")]) == 2
    assert "cannot be written" in capsys.readouterr().err
    assert main(["report", str(runs[0]), "--out", str(elsewhere)]) == 2
    assert "two run directories" in capsys.readouterr().err
    assert main(["report", str(runs[0] / "gone"), str(runs[0])]) == 2
    with pytest.raises(UserError, match="given twice"):
        compare_runs([runs[0], runs[1], runs[0] / ".." / "a"])
