"""What all channels share: the steps of an audit, values with units, cases side by side, and one set of names."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from latentprint.auditing.channel import Audit
from latentprint.auditing.compare import Case, Comparison, audit_beside, slug
from latentprint.auditing.run import check_steps, run_steps
from latentprint.auditing.scores import UNKNOWN, Intervals, Values, per_unit, protocol
from latentprint.checks import Flag
from latentprint.cli import VICTIM, main
from latentprint.data.base import ImageSet
from latentprint.engine.run import RunDir
from latentprint.engine.settings import RunConfig
from latentprint.errors import UserError
from latentprint.framer import Framer
from latentprint.stats import Arm, difference_interval, rate_interval, rate_leak_interval

CHANNELS = ("label", "template", "feature")
#: Settings that mean the same in every channel.
SHARED = ("seed", "device", "precision", "threads", "assets", "judge", "teacher", "judge_framing", "teacher_framing",
          "resamples", "save_every")


# ---- one set of names ----


@pytest.mark.parametrize("channel", CHANNELS)
def test_every_channel_has_the_same_names_and_abilities(channel: str, tmp_path: Path,
                                                        capsys: pytest.CaptureFixture[str]) -> None:
    presets, compare, audit = (importlib.import_module(f"latentprint.{channel}.{name}")
                               for name in ("presets", "compare", "audit"))
    kind = getattr(audit, f"{channel.capitalize()}Audit")
    assert issubclass(kind, Audit) and kind.name == channel and not kind.__abstractmethods__
    assert all(callable(each) for each in (audit.run_audit, compare.run_compared, compare.run_defend))
    config = getattr(presets, f"{channel.capitalize()}Config")
    missing = [name for name in SHARED if name not in config.model_fields]
    assert not missing or (channel, missing) == ("template", ["judge_framing"])  # there may be several judges
    for command, known in (("audit", presets.PRESETS), ("defend", presets.DEFEND_PRESETS)):
        assert {"tiny", "small", "full"} <= set(known)
        (tmp_path / command).mkdir()
        (tmp_path / command / "config.yaml").touch()
        assert main([command, channel, "--preset", "tiny", "--out", str(tmp_path / command)]) == 2
        assert "already holds a run" in capsys.readouterr().err
        assert main([command, channel, "--preset", "tiny", "--dry-run"]) == 0
        assert "resamples:" in capsys.readouterr().out


@pytest.mark.parametrize("channel", CHANNELS)
def test_a_file_about_the_model_fills_its_group_of_settings(channel: str, tmp_path: Path,
                                                            capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.yaml").write_text("model: net.py:build\nmean: [0.1, 0.2, 0.3]\n")
    (tmp_path / "net.py").touch()
    words = ["audit", channel, "--preset", "tiny", "--victim", str(tmp_path / "mine.yaml"), "--dry-run"]
    assert main(words) == 0
    found = yaml.safe_load(capsys.readouterr().out)[VICTIM[channel]]
    assert found["model"] == f"{tmp_path / 'net.py'}:build" and found["mean"] == [0.1, 0.2, 0.3]
    (tmp_path / "mine.yaml").write_text("weight: w.pt\n")
    assert main(words) == 2
    assert f"(from --victim {tmp_path / 'mine.yaml'})" in capsys.readouterr().err


@pytest.mark.parametrize("channel", ["template", "feature"])  # of label see test_own_victim.py
def test_settings_are_checked_before_anything_is_trained(channel: str, tmp_path: Path,
                                                         capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", channel, "--preset", "tiny", "--check", "--out", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().out
    assert "procedural" in said and "comes trained" in said and not (tmp_path / "run").exists()


# ---- the steps ----


class Toy(Audit[RunConfig]):
    """Writes down which step it is in."""

    name = "toy"
    steps: ClassVar[list[str]] = []
    fault = False

    def load(self) -> None:
        self.steps.append("load")
        self.framer = Framer({"faces": torch.zeros(1, 3, 8, 8, dtype=torch.uint8)}, None, self.device)
        self.warnings.append("loaded")
        if self.fault:
            raise UserError("data: nothing there")

    def sets(self) -> Mapping[str, ImageSet]:
        return {"faces": ImageSet(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.zeros(1).long(), ("a",), "here")}

    def train(self, run: RunDir) -> None:
        assert (run.path / "config.yaml").exists()
        self.steps.append("train")

    def probe(self) -> Sequence[Flag | None]:
        self.steps.append("probe")
        return [None, Flag("deaf", "blind", "it hears nothing", "speak up")]

    def attack(self, run: RunDir) -> None:
        self.steps.append("attack")
        self.reconstructions = torch.zeros(2, 3, 8, 8)

    def results(self) -> dict[str, Any]:
        self.steps.append("results")
        known = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 9}
        return {"headline": "top1", "attack": known, "leak": known, "floor": dict(UNKNOWN), "ceiling": dict(UNKNOWN)}

    def flags(self) -> list[str]:
        assert self.section["headline"] == "top1"
        return ["doubtful", "loaded"]

    def figures(self, folder: Path) -> dict[str, Any]:
        self.steps.append("figures")
        return {"figures": [], "grid": "images/grid.png"}

    def networks(self) -> Mapping[str, nn.Module]:
        return {"victim": nn.Linear(1, 1)}


def test_the_steps_come_in_order_and_the_report_says_what_each_found(tmp_path: Path) -> None:
    Toy.steps.clear()
    report = run_steps(Toy, RunConfig(), tmp_path / "run", False, lambda toy: toy.section.update(more=toy.name))
    assert Toy.steps == ["load", "train", "probe", "attack", "results", "figures"]
    assert report["warnings"] == ["loaded", "doubtful"]
    found = report["channels"]["toy"]
    assert found["more"] == "toy" and found["grid"] == "images/grid.png" and found["seconds"] >= 0
    assert found["probes"] == [{"name": "deaf", "message": "it hears nothing", "mend": "speak up"}]
    assert found["grade"] == "inconclusive" and found["verdict"]
    assert len(report["manifest"]["hashes"]["victim"]) == 64 and set(report["manifest"]["data"]) == {"faces"}
    assert json.loads((tmp_path / "run" / "report.json").read_text())["channels"]["toy"]["leak"]["value"] == 0.5
    with pytest.raises(UserError, match="already holds a run"):
        run_steps(Toy, RunConfig(), tmp_path / "run")


def test_a_check_says_what_was_loaded_and_what_would_hide_a_leak() -> None:
    found = {(row.section, row.name): (row.found, row.ok) for row in check_steps(Toy, RunConfig())}
    assert found == {("data", "faces"): ("1 classes, 1 images of 8 pixels: here", True),
                     ("data", "warning"): ("loaded", None), ("victim", "comes trained"): ("yes", True),
                     ("victim", "deaf"): ("it hears nothing", False)}


def test_nothing_is_written_before_everything_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Toy, "fault", True)
    with pytest.raises(UserError, match="nothing there"):
        run_steps(Toy, RunConfig(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


# ---- values with units ----


class OneArm(dict[str, Values]):
    """Scores by metric."""

    def arm(self, metric: str) -> Values:
        return self[metric]


def of(*values: float) -> OneArm:
    return OneArm(hits=Values(np.array(values), np.arange(len(values)) // 2))


def test_numbers_are_those_of_the_statistics_and_unknown_ones_stay_unknown() -> None:
    intervals = Intervals(1000, 3, ("hit",))
    attack, floor, ceiling, unknown = of(1, 1, 0, 1), of(0, 0, 0, 1), of(1, 1, 1, 1), of(1, np.nan, 0, 0)
    settings: Any = {"n_resamples": 1000, "seed": 3}
    (values, units), other = attack["hits"], floor["hits"].values
    assert intervals.metric("hits", attack["hits"]) == rate_interval(values, units, **settings).to_json()
    assert intervals.metric("size", attack["hits"]) == intervals.mean(attack["hits"]) != intervals.rate(attack["hits"])
    assert intervals.gain(attack, floor, "hits") == difference_interval(values - other, units, **settings).to_json()
    arms = {"attack": attack, "floor": floor, "ceiling": ceiling}
    assert intervals.leak(arms, "hits") == rate_leak_interval(
        *(Arm(*each["hits"]) for each in arms.values()), **settings).to_json()
    assert intervals.rate(unknown["hits"]) == UNKNOWN == intervals.gain(attack, unknown, "hits")
    assert intervals.leak(arms | {"floor": unknown}, "hits") == UNKNOWN
    assert per_unit(unknown["hits"], 3) == [None, 0.0, 0.0]


@pytest.mark.parametrize("bounded", [True, False])
def test_a_reduction_of_the_leak_is_the_difference_of_two(bounded: bool) -> None:
    intervals = Intervals(1000, 0, bounded=bounded)
    ends = {"floor": of(*(0, 0, 0, 1) * 6), "ceiling": of(*(1, 1, 1, 1) * 6)}
    before, after = of(*(1, 1, 0, 1) * 6), of(*(1, 0, 0, 1) * 6)
    leaks = [intervals.leak({"attack": attack, **ends}, "hits")["value"] for attack in (before, after)]
    found = intervals.leak_reduction(*(each["hits"] for each in (before, after, *ends.values())))
    assert found["value"] == pytest.approx(leaks[0] - leaks[1]) == pytest.approx(1 / 3)
    assert found["low"] <= found["value"] <= found["high"]


def test_the_hash_of_a_protocol_is_that_of_its_facts() -> None:
    one, same, other = protocol("x", {"a": 1, "b": 2}), protocol("x", {"b": 2, "a": 1}), protocol("x", {"a": 1, "b": 3})
    assert one == same and one["hash"] != other["hash"] and (one["name"], one["a"]) == ("x", 1)


# ---- side by side ----

COMPARISON = Comparison("variants", "victim", "accuracy", "accuracy", "Accuracy", "Leak", 0.3)


def case(name: str, right: Sequence[float], hits: Sequence[float], attacked: str = "same") -> Case:
    arms = [of(*hits)["hits"], of(*[0.0] * len(hits))["hits"], of(*[1.0] * len(hits))["hits"]]
    return Case(name, of(*right)["hits"], {"value": float(np.mean(hits)), "low": None, "high": None, "n": 2}, arms,
                attacked, {"defences": name})


def test_rows_are_paired_with_the_first_where_the_same_was_attacked() -> None:
    cases = [case("plain", (1, 1, 1, 1), (1, 1, 1, 0)), case("good", (1, 1, 1, 0), (1, 0, 0, 0)),
             case("other", (1, 1), (0, 0, 0, 0), "others")]
    first, second, third = COMPARISON.rows(cases, Intervals(1000, 0))
    assert "leak_reduction" not in first and "accuracy_cost" not in first and first["accuracy"]["value"] == 1.0
    assert (second["leak_reduction"]["value"], second["accuracy_cost"]["value"]) == (0.5, 0.25)
    assert second["defences"] == "good" and third["leak_reduction"] is None and third["accuracy_cost"] is None


def test_the_section_gains_rows_advice_and_the_front(tmp_path: Path) -> None:
    section: dict[str, Any] = {"variant_figures": [{"file": "sheet"}]}
    (tmp_path / "images").mkdir()
    COMPARISON.write(section, [case("plain", (1, 1, 1, 1), (1, 1, 1, 0)), case("good", (1, 1, 1, 0), (1, 0, 0, 0))],
                     Intervals(1000, 0), tmp_path)
    assert [row["name"] for row in section["variants"]] == ["plain", "good"]
    assert section["recommended"]["name"] == "good"
    assert [each["file"] for each in section["variant_figures"]] == ["sheet", "images/pareto.png"]
    assert (tmp_path / "images" / "pareto.png").stat().st_size > 0


def test_several_victims_each_have_a_run_and_are_told_apart_by_name(tmp_path: Path) -> None:
    audited: list[tuple[int, Path]] = []

    def audit(config: RunConfig, out: Path, resume: bool, before: Any) -> dict[str, Any]:
        audited.append((config.seed, out))
        return run_steps(Toy, config, out, resume, before)

    def beside(*names: str) -> dict[str, Any]:
        victims = [(name, RunConfig(seed=seed)) for seed, name in enumerate(names)]
        return audit_beside(audit, victims, "own", tmp_path / "run", False, check=lambda _: None,
                            case=lambda name, toy: case(name, (1, 1), (1, 0)),
                            together=lambda toy, cases: toy.section.update(names=[each.name for each in cases]))

    with pytest.raises(UserError, match="names must hold letters or digits and differ"):
        beside("a b", "own", "a/b")
    found = beside("first", "own", "a last")["channels"]["toy"]
    assert found["names"] == ["first", "own", "a last"]
    run = tmp_path / "run"
    assert audited == [(0, run / "variants" / "first"), (2, run / "variants" / "a-last"), (1, run)]
    assert (run / "variants" / "first" / "report.html").exists() and slug("rate 0.05") == "rate-0.05"
