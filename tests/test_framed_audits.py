"""Framing in every channel: settings, refusals, report and ``--check``, on stand-ins that find a face everywhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from framed import Tiny, Whole
from helpers import Run
from PIL import Image
from small import SMALL_FEATURE, SMALL_LABEL, SMALL_TEMPLATE

from latentprint.cli import main
from latentprint.models.assets import BUILDERS, save_asset


@pytest.fixture
def assets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with landmarks and with two recognisers that frame, beside the packaged networks."""
    for kind in ("whole", "tiny"):
        monkeypatch.setitem(BUILDERS, kind, f"test_framed_audits:{kind}")
    folder = tmp_path / "assets"
    save_asset(folder, "landmarks", Whole(), {"kind": "whole"})
    for seed, name in enumerate(("one", "two")):
        save_asset(folder, name, Tiny(seed), {"kind": "tiny", "architecture": name})
    return folder


def whole(record: dict[str, Any]) -> Whole:
    return Whole()


def tiny(record: dict[str, Any]) -> Tiny:
    return Tiny()


def settings(assets: Path, sets: dict[str, object]) -> list[str]:
    return [f"{key}={value}" for key, value in {"assets": assets, "device": "cpu", **sets}.items()]


def report_of(folder: Path, channel: str) -> tuple[dict[str, Any], list[str]]:
    report = json.loads((folder / "report.json").read_text())
    return report["channels"][channel], report["warnings"]


def names(section: dict[str, Any]) -> list[str]:
    return [f"{each['name']} {each['setting']} {each['framing']}" for each in section["framing"]["recognisers"]]


def test_templates(run: Run, assets: Path) -> None:
    code, err, folder = run("audit template", *settings(assets, {
        **SMALL_TEMPLATE, "recogniser.model": "one", "judges": "[{model: two, framing: each}]"}))
    assert code == 0, err
    section, _ = report_of(folder, "template")
    assert names(section) == ["one recogniser.framing auto", "two judges.0.framing each"]
    assert [each["name"] for each in section["framing"]["sets"]] == ["data.public", "data.private", "data.evaluation",
                                                                     "reconstructions"]
    assert all(each["found"] == 1 for each in section["framing"]["sets"])
    assert section["protocol"]["framing"] == ["one (recogniser.framing): auto", "two (judges.0.framing): each"]
    with Image.open(folder / section["framing"]["sheet"]) as sheet:
        assert sheet.height > 12 * 144, "four sets, as photos and as two crops"
    page = (folder / "report.html").read_text()
    assert "one (recogniser.framing): one crop for all images" in page and "each image by its own landmarks" in page


def test_features(run: Run, assets: Path) -> None:
    code, err, folder = run("audit feature", *settings(assets, {**SMALL_FEATURE, "judge": "one"}))
    assert code == 0, err
    section, _ = report_of(folder, "feature")
    assert names(section) == ["one judge_framing auto"]
    assert [each["name"] for each in section["framing"]["sets"]] == ["data.train", "data.test", "reconstructions"]
    assert (folder / "images" / "framing.png").is_file()


def label_settings(assets: Path) -> list[str]:
    return settings(assets, {**SMALL_LABEL, "judge": "two", "judge_framing": "each", "attack.access": "scores",
                             "attack.stages": "[]"})


def test_the_check_of_labels(assets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [word for each in label_settings(assets) for word in ("--set", each)]
    main(["audit", "label", "--preset", "tiny", "--out", str(tmp_path / "check"), "--check", *words])
    shown = " ".join(capsys.readouterr().out.split())
    assert "judge_framing" in shown and "two, each" in shown and "faces found in 100%" in shown
    assert (tmp_path / "check" / "framing.png").is_file()


def test_labels(run: Run, assets: Path) -> None:
    code, err, folder = run("audit label", *label_settings(assets))
    assert code == 0, err
    section, _ = report_of(folder, "label")
    assert names(section) == ["two judge_framing each"]
    assert section["protocol"]["framing"] == ["two (judge_framing): each"]
    assert [each["name"] for each in section["framing"]["sets"]][-1] == "reconstructions"


@pytest.mark.parametrize(("command", "sets", "words"), [
    ("audit label", {"teacher_framing": "auto"}, "teacher_framing: auto is for recognisers that say where they expect "
     "the face, and teacher does not"),
    ("audit feature", {"judge_framing": "each"}, "judge_framing: each is for recognisers"),
    ("audit template", {"recogniser.framing": "auto"}, "recogniser.framing: auto is for recognisers"),
    ("audit template", {"judges": "[{model: one, framing: each}]", "data.private.size": 24, "data.public.0.size": 24,
                        "data.evaluation.size": 24}, "judges.0.framing: each needs images of at least 32 pixels"),
])
def test_what_cannot_be_framed_so_is_refused(run: Run, assets: Path, command: str, sets: dict[str, object],
                                             words: str) -> None:
    code, err, folder = run(command, *settings(assets, sets))
    assert code == 2 and words in err and not folder.exists()


def test_nothing_is_said_of_framing_where_no_recogniser_has_one(run: Run) -> None:
    code, err, folder = run("audit feature", *[f"{key}={value}" for key, value in SMALL_FEATURE.items()])
    assert code == 0, err
    section, _ = report_of(folder, "feature")
    assert "framing" not in section and "framing" not in section["protocol"]
    assert not (folder / "images" / "framing.png").exists() and ">Framing<" not in (folder / "report.html").read_text()
