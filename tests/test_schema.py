"""The types of report.json, and the JSON Schema made from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from latentprint.cli import main
from latentprint.report.html import read_report
from latentprint.report.schema import json_schema, misfit

ROOT = Path(__file__).parent
PUBLISHED = ROOT.parent / "docs" / "report.schema.json"


def golden(name: str) -> dict[str, Any]:
    """A report as an audit writes it, but for the clocks."""
    kept = json.loads((ROOT / "golden" / f"{name}.json").read_text())
    channels = {channel: {**section, "seconds": 1.0} for channel, section in kept["channels"].items()}
    return {"schema": 2, "channels": channels, "manifest": {}, "warnings": kept["warnings"]}


KEPT = sorted(file.stem for file in (ROOT / "golden").glob("*.json"))


@pytest.mark.parametrize("name", KEPT)
def test_reports_fit_the_types_and_the_published_schema(name: str) -> None:
    report = golden(name)
    assert misfit(json.dumps(report)) == ""
    Draft202012Validator(json.loads(PUBLISHED.read_text())).validate(report)


@pytest.mark.parametrize(("change", "where"), [
    ({"leak": {"low": 0.1}}, "leak.value"),
    ({"leak": "39%"}, "leak"),
    ({"grade": "green"}, "grade"),
    ({"verdict": None}, "verdict"),
    ({"evaluators": [{"name": "a", "architecture": "b"}]}, "evaluators.0.accuracy"),
    ({"figures": [{"file": "a.png", "title": "A"}]}, "figures.0.caption"),
    ({"seconds": -1.0}, "seconds"),
])
def test_what_does_not_fit_is_named(change: dict[str, Any], where: str) -> None:
    report = golden("label")
    report["channels"]["label"] |= change
    assert misfit(json.dumps(report)).startswith(f"report.json does not fit its schema at channels.label.{where}")
    validator = Draft202012Validator(json.loads(PUBLISHED.read_text()))
    assert not validator.is_valid(report)


def test_further_keys_are_allowed_and_another_channel_is_not() -> None:
    report = golden("feature")
    report["channels"]["feature"]["spectrum"] = [1, 2, 3]
    assert misfit(json.dumps(report)) == ""
    report["channels"]["gradient"] = report["channels"]["feature"]
    assert "channels.gradient" in misfit(json.dumps(report))


def test_the_published_schema_is_made_from_the_types(capsys: pytest.CaptureFixture[str]) -> None:
    Draft202012Validator.check_schema(json_schema())
    assert json.loads(PUBLISHED.read_text()) == json_schema(), "latentprint report --schema > docs/report.schema.json"
    assert main(["report", "--schema"]) == 0
    assert json.loads(capsys.readouterr().out) == json_schema()


@pytest.mark.parametrize("schema", [1, 2])
def test_both_schemas_are_read(schema: int, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(json.dumps(golden("label") | {"schema": schema}))
    assert read_report(tmp_path / "report.json")["channels"]["label"]["headline"] == "identity_match_rate"
    assert main(["report", str(tmp_path)]) == 0 and (tmp_path / "report.html").exists()
    assert main(["gate", str(tmp_path), "--max", "label.leak=1"]) == 4  # a tiny audit is inconclusive


def test_a_report_needs_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report"]) == 2
    assert capsys.readouterr().err == "error: DIR: give a run directory, or two and more for a comparison\n"
