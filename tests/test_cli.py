"""The command line: exit codes, one sentence on stderr, and what a command hands to its function."""

from __future__ import annotations

import io
import json
import math
import re
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import pytest
import yaml
from helpers import run_cli, save_untrained
from hypothesis import given
from hypothesis import strategies as st
from packaging.requirements import Requirement
from pydantic import Field
from rich.console import Console

from latentprint import console, doctor
from latentprint.cli import main
from latentprint.config import Config
from latentprint.engine.run import default_folder
from latentprint.errors import RunFailed, UserError
from latentprint.gate.outcome import judge
from latentprint.log import shown
from latentprint.report.gauge import gauge
from latentprint.report.grades import Headline


class FakeConfig(Config):
    """Stands in for a channel's settings."""

    seed: int = Field(0, ge=0, description="seed of everything")
    steps: int = Field(100, ge=1, description="optimiser steps")


FAKE_PRESETS: dict[str, dict[str, Any]] = {"tiny": {"steps": 2}, "small": {}, "demo": {"steps": 3}}
REPORT: dict[str, Any] = {
    "schema": 1,
    "channels": {
        "label": {
            "headline": "identity_match_rate",
            "leak": {"value": 0.5, "low": 0.4, "high": 0.6},
            "attack": {"value": 0.55, "low": 0.46, "high": 0.64, "n": 50},
            "floor": {"value": 0.1, "low": 0.05, "high": 0.15},
            "ceiling": {"value": 1.0, "low": 0.98, "high": 1.0},
            "metrics": {
                "top1": {"value": 0.7, "low": 0.6, "high": 0.8, "n": 50},
                "frechet": {"value": 3.5, "extractor": "judge"},
                "diversity": None,
            },
            "seconds": 12.5,
        }
    },
    "manifest": {},
    "warnings": [],
}


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    (tmp_path / "report.json").write_text(json.dumps(REPORT))
    return tmp_path


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Replace the label audit, the codec's pretraining and the demo by functions that note what they get."""
    noted: list[tuple[Any, ...]] = []

    def audit(config: FakeConfig, out: Path, resume: bool) -> Mapping[str, Any]:
        noted.append((config, out, resume))
        out.mkdir(parents=True, exist_ok=True)
        (out / "report.json").write_text(json.dumps(REPORT))
        return REPORT

    def pretrain(config: FakeConfig, out: Path, resume: bool) -> Mapping[str, Any]:
        noted.append((config, out, resume))
        return {"asset": "codec", "metrics": {"psnr_db": 31.5}}

    fakes: dict[str, dict[str, Any]] = {
        "latentprint.label.compare": {"run_compared": audit},
        "latentprint.label.presets": {"LabelConfig": FakeConfig, "PRESETS": FAKE_PRESETS},
        "latentprint.pretrain.codec": {
            "CodecConfig": FakeConfig,
            "PRESETS": FAKE_PRESETS,
            "pretrain": pretrain,
        },
        "latentprint.bench": {"BENCHES": {"one": lambda: [{"ratio": 1.2}], "two": lambda: [{"ratio": 2.5}]}},
        "latentprint.engine.loop": {"is_main": lambda: True},
    }
    for name, content in fakes.items():
        module = ModuleType(name)
        module.__dict__.update(content)
        monkeypatch.setitem(sys.modules, name, module)
    return noted


def stderr_of(capsys: pytest.CaptureFixture[str], *argv: str, code: int = 2) -> str:
    """Run, expect ``code`` and exactly one line on stderr, and return it."""
    assert main(argv) == code
    captured = capsys.readouterr()
    assert captured.err.endswith("\n") and captured.err.count("\n") == 1
    assert "Traceback" not in captured.err + captured.out
    return captured.err.strip()


# ---- audit and pretrain ----


def test_audit_resolves_settings_runs_and_renders(
    calls: list[tuple[Any, ...]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "mine.yaml", tmp_path / "a run é"
    file.write_text("seed: 3\nsteps: 5\n")
    argv = ["audit", "label", "--preset", "tiny", "--config", str(file), "--set", "seed=4"]
    assert main([*argv, "--set", "steps=6", "--out", str(out), "--resume"]) == 0
    assert calls == [(FakeConfig(seed=4, steps=6), out, True)]
    assert (out / "report.html").is_file()
    shown = capsys.readouterr().out
    assert f"report: {out / 'report.html'}\n" in shown
    for text in ("Identity match", "Floor", "10%", "55%", "46–64%", "Leak", "50%", "40–60%"):
        assert text in shown


@pytest.mark.parametrize(
    ("argv", "config", "out"),
    [
        ([], FakeConfig(), "runs/audit-label-small"),
        (["--preset", "tiny"], FakeConfig(steps=2), "runs/audit-label-tiny"),
        (["--config", "mine.yaml"], FakeConfig(seed=3), "runs/audit-label-mine"),
    ],
)
def test_where_a_run_goes_by_default(
    calls: list[tuple[Any, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    argv: list[str], config: FakeConfig, out: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("seed: 3\n")
    assert main(["audit", "label", *argv]) == 0
    assert calls == [(config, Path(out), False)]


def test_pretrain_shows_what_was_recorded(
    calls: list[tuple[Any, ...]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pretrain", "codec", "--preset", "tiny", "--out", str(tmp_path)]) == 0
    assert calls == [(FakeConfig(steps=2), tmp_path, False)]
    assert capsys.readouterr().out.split() == ["psnr_db", "31.5", "run:", str(tmp_path)]


def test_dry_run_prints_the_settings_and_runs_nothing(
    calls: list[tuple[Any, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["audit", "label", "--preset", "tiny", "--set", "seed=4", "--dry-run"]) == 0
    assert yaml.safe_load(capsys.readouterr().out) == {"seed": 4, "steps": 2}
    assert calls == []


def test_help_keys_lists_the_settings(
    calls: list[tuple[Any, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["audit", "label", "--help-keys"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows[1] == ["seed", "whole", "number", ">=", "0", "0", "seed", "of", "everything"]
    assert calls == []


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--set", "sed=1"], "error: audit label: unknown key 'sed' (from --set); did you mean 'seed'?"),
        (["--set", "seed"], 'error: audit label: --set "seed" should be key=value, as in --set seed=1'),
        (["--preset", "tin"], "error: audit label: unknown preset 'tin'; did you mean 'tiny'?"),
        (["--config", "no"], "error: audit label: cannot read the config file no: No such file or directory"),
    ],
)
def test_bad_settings_exit_2_before_anything_runs(
    calls: list[tuple[Any, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], argv: list[str], said: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert stderr_of(capsys, "audit", "label", *argv) == said
    assert calls == []
    assert list(tmp_path.iterdir()) == []


# ---- how a run ends ----


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UserError("victim.weights: two\nlines"), 2, "error: victim.weights: two lines"),
        (RunFailed("too many non-finite steps"), 3, "failed: too many non-finite steps"),
        (KeyboardInterrupt(), 130, "interrupted; a run goes on with --resume"),
        (ValueError("odd"), 70, "unexpected ValueError: odd (LATENTPRINT_TRACEBACK=1 shows where)"),
    ],
)
def test_exit_codes(
    calls: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    error: BaseException, code: int, said: str,
) -> None:  # fmt: skip
    def broken(*_: object) -> NoReturn:
        raise error

    monkeypatch.setattr(sys.modules["latentprint.label.compare"], "run_compared", broken)
    monkeypatch.delenv("LATENTPRINT_TRACEBACK", raising=False)
    assert stderr_of(capsys, "audit", "label", code=code) == said
    monkeypatch.setenv("LATENTPRINT_TRACEBACK", "1")
    assert main(["audit", "label"]) == code
    if code != 130:
        assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("line", ["gate", "no-such", "gate . --bound low --max a=1", "gate .", "demo --x"])
def test_usage_errors_exit_2(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line.split()) == 2
    assert "Usage: latentprint" in capsys.readouterr().err


@pytest.mark.parametrize(("line", "text"), [("--help", "doctor"), ("audit label --help", "--help-keys")])
def test_the_program_starts_and_helps(line: str, text: str) -> None:
    command = [sys.executable, "-m", "latentprint", *line.split()]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert text in done.stdout and done.stderr == ""


# ---- demo, report, bench ----


def test_demo(calls: list[tuple[Any, ...]], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--out", str(tmp_path)]) == 0
    assert main(["demo", "--out", str(tmp_path), "--preset", "tiny", "--resume"]) == 0
    assert calls == [(FakeConfig(steps=3), tmp_path, False), (FakeConfig(steps=2), tmp_path, True)]
    assert f"report: {tmp_path / 'report.html'}" in capsys.readouterr().out


def test_report_renders_again(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(run_dir)]) == 0
    assert capsys.readouterr().out == f"report: {run_dir / 'report.html'}\n"
    assert "Identity match" in (run_dir / "report.html").read_text()


def test_bench(calls: list[tuple[Any, ...]], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench"]) == 0
    assert capsys.readouterr().out.split() == ["one", "two"]
    assert main(["bench", "all", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "rows": [{"bench": "one", "ratio": 1.2}, {"bench": "two", "ratio": 2.5}]}
    assert main(["bench", "two"]) == 0
    assert capsys.readouterr().out.split() == ["two", "ratio", "2.5"]
    assert stderr_of(capsys, "bench", "tow") == "error: unknown benchmark 'tow'; did you mean 'two'?"


# ---- gate ----


@pytest.mark.parametrize(
    ("bounds", "code"),
    [
        (["label.leak=0.5"], 0),
        (["label.leak=0.49"], 1),
        (["label.leak.high=0.59"], 1),
        (["label.metrics.frechet=4", "label.seconds=13"], 0),
        (["label.metrics.top1=0.9", "label.leak=0.2"], 1),
        (["label.leak=0.5", "--bound=high"], 1),
        (["label.leak=0.6", "--bound=high"], 0),
    ],
)
def test_gate(run_dir: Path, bounds: list[str], code: int) -> None:
    flags = [bound if bound.startswith("-") else f"--max={bound}" for bound in bounds]
    assert main(["gate", str(run_dir), *flags]) == code


def test_gate_says_which_number_is_above(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gate", str(run_dir), "--max", "label.leak=0.2", "--max", "label.metrics.top1=0.7"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "label.leak = 0.5 is ABOVE 0.2",
        "label.metrics.top1 = 0.7 is within 0.7",
        "gate: failed",
    ]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["label.leek=0.2"], "--max label.leek: the report has no such number; did you mean 'label.leak'?"),
        (["label=0.2"], "--max label: the report has no such number; there is headline, leak, attack, floor, "
                        "ceiling, metrics, seconds"),
        (["label.metrics.diversity=1"], "--max label.metrics.diversity: the report holds no finite number "
                                        "there, so nothing can be concluded"),
        (["label.headline=1"], "--max label.headline: the report holds no finite number there, so nothing "
                               "can be concluded"),
        (["label.metrics.frechet=1", "--bound=high"],
         "--max label.metrics.frechet: --bound high needs an interval, and this number has none"),
        (["label.leak"], "--max 'label.leak' should be PATH=NUMBER, as in --max label.leak=0.2"),
        (["label.leak=x"], "--max 'label.leak=x' should be PATH=NUMBER, as in --max label.leak=0.2"),
        (["label.leak=nan"], "--max 'label.leak=nan' should be PATH=NUMBER, as in --max label.leak=0.2"),
        (["=1"], "--max '=1' should be PATH=NUMBER, as in --max label.leak=0.2"),
    ],
)  # fmt: skip
def test_gate_concludes_nothing_from_what_is_not_there(
    run_dir: Path, flags: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shaped = [flag if flag.startswith("--") else f"--max={flag}" for flag in flags]
    assert stderr_of(capsys, "gate", str(run_dir), *shaped) == f"error: {said}"


@pytest.mark.parametrize("text", [None, "", "[]", '{"schema": 1}', '{"schema": 1, "channels"', "\x00"])
def test_gate_without_a_report(tmp_path: Path, text: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    if text is not None:
        (tmp_path / "report.json").write_text(text)
    said = stderr_of(capsys, "gate", str(tmp_path), "--max", "label.leak=0.2")
    assert said.startswith(f"error: {tmp_path / 'report.json'}: ")


def write_leak(directory: Path, leak: object) -> None:
    (directory / "report.json").write_text(json.dumps({"schema": 1, "channels": {"label": {"leak": leak}}}))


@pytest.mark.parametrize("leak", [math.nan, math.inf, True, "high", [0.1, 0.2]])
def test_gate_takes_only_finite_numbers(tmp_path: Path, leak: object) -> None:
    write_leak(tmp_path, leak)
    with pytest.raises(UserError, match=r"--max label\.leak: "):
        judge(tmp_path, ["label.leak=1"])


numbers = st.floats(-1e6, 1e6)


@given(value=numbers, high=numbers, most=numbers)
def test_gate_compares_exactly(
    tmp_path_factory: pytest.TempPathFactory, value: float, high: float, most: float
) -> None:
    directory = tmp_path_factory.getbasetemp()
    write_leak(directory, {"value": value, "low": value, "high": high})
    assert judge(directory, [f"label.leak={most!r}"]).checks[0].passed == (value <= most)
    assert judge(directory, [f"label.leak={most!r}"], "high").checks[0].passed == (high <= most)


# ---- what is shown ----


def test_the_line_puts_the_attack_where_the_leak_is() -> None:
    placed = gauge(Headline.of(REPORT["channels"]["label"]))
    assert placed is not None
    drawn = console.line(placed, width=11)
    assert drawn == "├───━●━───┤"


def test_a_summary_of_nothing_measured_does_not_fail() -> None:
    view = Console(width=100, file=io.StringIO(), record=True)
    view.print(*console.summary({"channels": {"[b]new": {"leak": None, "attack": "high"}}}))
    assert re.search(r"\[b\]new.*Leak +not measured", view.export_text(), re.DOTALL)


# ---- doctor ----


@pytest.mark.parametrize(
    ("requirement", "extra", "ok", "hint"),
    [
        ("pytest>=1", "", True, ""),
        ("pytest>=1", "dev", True, ""),
        ("pytest<1", "", False, "pip install 'pytest<1'"),
        ("no-such-thing>=2", "", False, "pip install 'no-such-thing>=2'"),
        ("no-such-thing>=2", "dev", None, "pip install 'latentprint[dev]'"),
    ],
)
def test_doctor_compares_versions(requirement: str, extra: str, ok: bool | None, hint: str) -> None:
    row = doctor.package(Requirement(requirement), extra)
    assert (row.ok, row.hint) == (ok, hint)
    assert row.found == "missing" if "no-such" in requirement else metadata.version("pytest") in row.found


@pytest.mark.parametrize(("ok", "code"), [(True, 0), (None, 0), (False, 1)])
def test_doctor_fails_only_for_what_is_needed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], ok: bool | None, code: int
) -> None:
    rows = [doctor.Row("tools", "[b]thing", "odd", ok, "get one")]
    monkeypatch.setattr(doctor, "examine", lambda assets: rows)
    assert main(["doctor"]) == code
    assert "[b]thing" in (shown := capsys.readouterr().out) and "get one" in shown


def test_doctor_shows_the_cache_and_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATENTPRINT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache" / "answers").mkdir(parents=True)
    (tmp_path / "cache" / "a.pixels").write_bytes(bytes(3 * 2**20))
    (tmp_path / "cache" / "answers" / "b.safetensors").write_bytes(bytes(2**20))
    (row,) = doctor._cache()
    assert row.ok and row.name == str(tmp_path / "cache")
    assert row.found.startswith("3 MiB of prepared photos, 1 MiB of networks' answers")
    monkeypatch.setenv("LATENTPRINT_CACHE", "")
    assert [row.ok for row in doctor._cache()] == [None]
    (tmp_path / "file").touch()
    monkeypatch.setenv("LATENTPRINT_CACHE", str(tmp_path / "file" / "cache"))
    assert [(row.ok, row.found) for row in doctor._cache()] == [(None, "cannot be written")]


def test_doctor_says_who_publishes_what_and_looks_into_a_folder(tmp_path: Path,
                                                                capsys: pytest.CaptureFixture[str]) -> None:
    save_untrained(tmp_path)
    (tmp_path / "judge.safetensors").write_bytes(b"other")
    assert main(["doctor", "--assets", str(tmp_path)]) == 1
    shown = " ".join(capsys.readouterr().out.split())
    assert "huggingface.co/Sanoojan/REFace" in shown
    assert "judge.safetensors is missing or not the file recorded" in shown
    assert main(["doctor", "--assets", str(tmp_path / "none")]) == 2


def test_doctor_checks_the_hash_of_every_asset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch import nn

    from latentprint.models import assets

    record = {"kind": "codec", "command": "latentprint pretrain codec", "metrics": {"psnr_db": 31.2}}
    assets.save_asset(tmp_path, "good", nn.Linear(2, 2), record)
    assets.save_asset(tmp_path, "bad", nn.Linear(2, 2), record).write_bytes(b"other")
    listed = assets.list_assets(tmp_path)
    monkeypatch.setattr(assets, "list_assets", lambda *folder: [] if folder else listed)
    rows = {row.name: row for row in doctor.examine() if row.section == "assets"}
    assert rows["good"].ok is True and "psnr_db 31.2" in rows["good"].found
    assert rows["bad"].ok is False and "latentprint pretrain codec" in rows["bad"].hint


# ---- folders ----


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(capsys, "--version") == (0, f"latentprint {metadata.version('latentprint')}\n", "")


def test_a_second_run_takes_the_next_free_default_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                         capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    base = Path("runs/audit-label-small")
    assert default_folder(base, resume=False) == default_folder(base, resume=True) == base
    for name in ("audit-label-small", "audit-label-small-2"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    assert default_folder(base, resume=False) == base, "an empty folder is free"
    (tmp_path / base / "config.yaml").touch()
    with shown():
        assert default_folder(base, resume=False) == base.with_name("audit-label-small-2")
    assert default_folder(base, resume=True) == base
    (tmp_path / "runs" / "audit-label-small-2" / "config.yaml").touch()
    said = f"run: {base}-2, for {base} holds a run (--resume goes on with the last one)\n"
    assert capsys.readouterr().err == said
    assert default_folder(base, resume=False) == base.with_name("audit-label-small-3")
    assert default_folder(base, resume=True) == base.with_name("audit-label-small-2")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert default_folder(base, resume=False) == base, "processes must agree"


# ---- comparisons in the terminal ----


def interval(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.1, "high": value + 0.1, "n": 8}


@pytest.mark.parametrize(("section", "said"), [
    ({"variants": [{"name": "undefended", "accuracy": interval(0.9), "leak": interval(0.8), "bytes": 1024},
                   {"name": "rate 0.05", "accuracy": interval(0.85), "leak": interval(0.3), "bytes": 1024,
                    "accuracy_cost": interval(0.05), "leak_reduction": interval(0.5)}],
      "recommended": {"name": "rate 0.05", "because": "it leaks least"}},
     ("Victims", "undefended", "rate 0.05", "90%", "85%", "50.0", "1,024", "it leaks least")),
    ({"protections": [{"name": "none", "tar": interval(0.9), "leak": interval(0.6)},
                      {"name": "quantise", "tar": interval(0.7), "tar_cost": interval(0.2), "leak": interval(0.25)}]},
     ("Protections", "none", "quantise", "70%", "20.0", "25%")),
    ({"leak": interval(0.2), "defence": {"accuracy": interval(0.7), "undefended_accuracy": interval(0.8),
                                         "undefended": {"leak": interval(0.4)}, "leak_reduction": interval(0.2)}},
     ("Defence", "Undefended", "Defended", "80%", "40%", "20.0")),
])
def test_what_was_compared_is_shown_in_the_terminal(section: dict[str, Any], said: tuple[str, ...]) -> None:
    view = Console(width=120, record=True, file=io.StringIO())
    view.print(*console.summary({"channels": {"feature": section}}), sep="\n")
    shown = view.export_text()
    for words in said:
        assert words in shown, shown


# ---- comparisons of runs ----


def test_a_comparison_goes_into_a_file_or_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.json").write_text(json.dumps({"schema": 1, "channels": {"label": {}}}))
        (tmp_path / name / "config.yaml").write_text("seed: 0\n")
    runs = ("report", str(tmp_path / "a"), str(tmp_path / "b"), "--out")
    for out, written in (("page.html", "page.html"), ("new/folder", "new/folder/comparison.html"),
                         ("a", "a/comparison.html")):
        code, said, err = run_cli(capsys, *runs, str(tmp_path / out))
        assert (code, said.split()) == (0, ["comparison:", str(tmp_path / written)]), err
        assert (tmp_path / written).is_file()
    (tmp_path / "notes.txt").touch()
    code, _, err = run_cli(capsys, *runs, str(tmp_path / "notes.txt"))
    assert code == 2 and "is a file that is no page" in err and not (tmp_path / "notes.txt").read_text()
