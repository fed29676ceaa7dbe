"""Reports as Python objects: estimates, tables, cards, model cards; of a page that a run has written."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import latentprint as lp

SECTION: dict[str, Any] = {
    "headline": "identity_match_rate", "leak": {"value": 0.39, "low": 0.18, "high": 0.63, "n": 20},
    "attack": {"value": 0.5, "low": 0.4, "high": 0.6, "n": 20}, "floor": {"value": 0.18, "low": 0.1, "high": 0.2},
    "ceiling": {"value": 1.0, "low": 0.99, "high": 1.0},
    "arms": {"attack": {"top1": {"value": 0.5, "low": 0.4, "high": 0.6, "n": 20}, "seeds": [1, 2]},
             "floor": {"top1": {"value": None, "low": None, "high": None, "n": 0}}},
    "per_identity": [{"identity": "<b>ann</b>", "match_rate": 0.5}],
    "victim": {"architecture": "<script>alert(1)</script>", "accuracy": 0.9, "n_classes": 20},
    "grid": "images/grid.png"}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    (folder / "images").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(folder / "images" / "grid.png")
    report = {"schema": 1, "channels": {"label": SECTION}, "manifest": {}, "warnings": ["look <here>"]}
    (folder / "report.json").write_text(json.dumps(report))
    return folder


def test_a_report_has_its_numbers(run: Path) -> None:
    report = lp.load_report(run)
    assert report.leak == lp.Estimate(0.39, 0.18, 0.63) and report.channel == "label"
    assert repr(report.leak) == "Estimate(value=0.39, low=0.18, high=0.63)"
    assert report.grade == "substantial" and report.warnings == ["look <here>"] and report.inconclusive == []
    assert "leak" in report.verdict
    assert lp.load_report(str(run / "report.json")).data == report.data
    with pytest.raises(lp.UserError, match="not found; expected the report"):
        lp.load_report(run / "images")


def test_tables_are_rows_without_pandas(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    report = lp.load_report(run)
    assert report.table("arms") == [
        {"name": "attack", "top1": 0.5, "top1.low": 0.4, "top1.high": 0.6, "top1.n": 20, "seeds": "1, 2"},
        {"name": "floor", "top1": None, "top1.low": None, "top1.high": None, "top1.n": 0}]
    assert report.table("people") == [{"identity": "<b>ann</b>", "match_rate": 0.5}]
    assert report.tables == ["arms", "people"]
    with pytest.raises(lp.UserError, match=r"no table 'arm' in .*; did you mean 'arms'"):
        report.table("arm")


def test_tables_are_data_frames_with_pandas(run: Path) -> None:
    pandas = pytest.importorskip("pandas")
    frame = lp.load_report(run).table("arms")
    assert isinstance(frame, pandas.DataFrame)
    assert frame.set_index("name")["top1.high"]["attack"] == 0.6


def test_a_card_is_escaped_and_shows_the_grid(run: Path) -> None:
    card = lp.load_report(run)._repr_html_()
    assert "39%" in card and "18" in card and "63" in card and "leaks substantially" in card
    assert "<script" not in card and "&lt;script&gt;" in card
    assert len(re.findall(r'<img src="data:image/png;base64,', card)) == 1
    assert card.count("<div") == card.count("</div>")
    (run / "images" / "grid.png").unlink()
    assert "<img" not in lp.load_report(run)._repr_html_()


def test_a_page_is_saved_where_it_is_wanted(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = lp.load_report(run)
    page = report.save(tmp_path / "elsewhere.html")
    assert page.read_text().lstrip().startswith("<!") and "base64" in page.read_text()
    report.show()
    assert "Leak" in capsys.readouterr().out
    with pytest.raises(lp.UserError, match="cannot be written"):
        report.save(tmp_path / "none" / "page.html")


def test_a_model_card_takes_the_numbers(run: Path) -> None:
    entry, = lp.load_report(run).model_index("face-classifier", "staff photos")["model-index"]
    result, = entry["results"]
    assert entry["name"] == "face-classifier" and result["dataset"] == {"type": "private", "name": "staff photos"}
    metrics = {metric["type"]: metric for metric in result["metrics"]}
    assert metrics["latentprint-leak"]["value"] == 0.39
    assert metrics["latentprint-leak"]["args"] == {"low": 0.18, "high": 0.63, "confidence": 0.95}
    assert metrics["latentprint-attack"]["value"] == 0.5 and metrics["accuracy"]["value"] == 0.9
    assert all({"type", "name", "value"} <= set(metric) for metric in result["metrics"])


def test_nothing_measured_is_nothing_claimed(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(json.dumps({"schema": 1, "channels": {"feature": {}}}))
    report = lp.load_report(tmp_path)
    assert report.leak == lp.Estimate(None, None, None) and report.tables == []
    assert "not measured" in report._repr_html_()
    assert report.model_index()["model-index"][0]["results"][0]["metrics"] == []
