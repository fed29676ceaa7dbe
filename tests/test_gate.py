"""What a release check writes for pipelines: JUnit XML, SARIF and Markdown, each read back."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from jsonschema import Draft202012Validator

from latentprint.cli import main

RELEASE = Path(__file__).parent.parent / "examples" / "release"
LEAK = {"value": 0.3, "low": 0.2, "high": 0.4}


def run(folder: Path, warnings: Sequence[str] = (), **section: Any) -> Path:
    """A run directory whose label channel saw a leak of 30%, or what ``section`` says instead."""
    seen = {"attack": LEAK, "floor": {"value": 0.0}, "ceiling": {"value": 1.0}, "leak": LEAK, **section}
    (folder / "report.json").write_text(json.dumps({"schema": 1, "channels": {"label": seen}, "warnings": [*warnings]}))
    return folder


def gate(folder: Path, *flags: str) -> tuple[int, ElementTree.Element, dict[str, Any], str]:
    files = ["--junit", str(folder / "gate.xml"), "--sarif", str(folder / "gate.sarif"), "--markdown",
             str(folder / "gate.md")]
    code = main(["gate", str(folder), *flags, *files])
    return (code, ElementTree.parse(folder / "gate.xml").getroot(), json.loads((folder / "gate.sarif").read_text()),
            (folder / "gate.md").read_text())


def test_a_number_within_its_bound_is_a_test_case_that_passes(tmp_path: Path,
                                                              capsys: pytest.CaptureFixture[str]) -> None:
    code, suite, sarif, markdown = gate(run(tmp_path), "--max", "label.leak=0.35")
    assert code == 0 and capsys.readouterr().out.splitlines()[-1] == "gate: passed"
    assert (suite.get("tests"), suite.get("failures")) == ("1", "0") and suite.find("*/failure") is None
    assert [case.attrib for case in suite] == [{"classname": "label", "name": "label.leak"}]
    assert sarif["version"] == "2.1.0" and sarif["runs"][0]["results"] == []
    assert markdown.startswith("### latentprint gate: passed\n")
    assert "| `label.leak` | 0.3 | 0.35 | within |" in markdown.splitlines()


def test_a_number_above_its_bound_fails_in_every_format(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, suite, sarif, markdown = gate(run(tmp_path), "--max", "label.leak=0.2", "--max", "label.floor=0.1")
    assert code == 1 and "gate: failed" in capsys.readouterr().out
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    failure = suite.find("testcase[@name='label.leak']/failure")
    assert failure is not None and failure.get("message") == "label.leak is 0.3, above the bound 0.2"
    (result,) = sarif["runs"][0]["results"]
    assert result["ruleId"] == "leak-above-bound" and result["level"] == "error"
    place = result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
    assert Path(place) == tmp_path / "report.json"
    rules = [rule["id"] for rule in sarif["runs"][0]["tool"]["driver"]["rules"]]
    assert result["ruleId"] in rules and len(rules) == len(set(rules))
    assert "| `label.leak` | 0.3 | 0.2 | **above** |" in markdown and "within" in markdown


def test_an_audit_that_could_not_have_seen_a_leak_passes_in_no_format(tmp_path: Path,
                                                                     capsys: pytest.CaptureFixture[str]) -> None:
    nothing = {"value": 0.0, "low": 0.0, "high": 0.01}
    blind = run(tmp_path, ceiling=nothing, attack=nothing, leak=nothing)
    code, suite, sarif, markdown = gate(blind, "--max", "label.leak=0.5")
    assert code == 4 and capsys.readouterr().out.splitlines()[-1] == "gate: inconclusive"
    assert {each.get("type") for each in suite.iter("failure")} == {"inconclusive"}
    assert {each["level"] for each in sarif["runs"][0]["results"]} == {"warning"}
    assert markdown.startswith("### latentprint gate: inconclusive") and "\n- inconclusive, label: " in markdown


def test_words_of_a_report_are_no_markup(tmp_path: Path) -> None:
    nasty = "a | b\n<img src=x> @everyone [x](y) `z` \x00\x1b[31m & more"
    code, suite, _, markdown = gate(run(tmp_path, warnings=[nasty]), "--max", "label.leak=1", "--strict")
    assert code == 1  # a warning fails under --strict
    failure = suite.find("*/failure")
    assert failure is not None and "<img src=x>" in str(failure.get("message"))  # escaped in the file, read back here
    line = markdown.splitlines()[-1]
    assert line.startswith("- warning, report: a &#124; b &lt;img src=x&gt; &#64;everyone &#91;x&#93;(y) &#96;z&#96;")


def test_sarif_has_the_shape_that_the_standard_asks_for(tmp_path: Path) -> None:
    """The required keys and types of SARIF 2.1.0, sections 3.13 to 3.27."""
    text = {"type": "object", "required": ["text"], "properties": {"text": {"type": "string"}}}
    result = {"type": "object", "required": ["message", "ruleId", "level"], "properties": {
        "message": text, "level": {"enum": ["none", "note", "warning", "error"]}}}
    driver = {"type": "object", "required": ["name", "rules"], "properties": {"name": {"type": "string"}}}
    schema = {"type": "object", "required": ["version", "runs"], "properties": {
        "version": {"const": "2.1.0"},
        "runs": {"type": "array", "minItems": 1, "items": {
            "type": "object", "required": ["tool", "results"], "properties": {
                "tool": {"type": "object", "required": ["driver"], "properties": {"driver": driver}},
                "results": {"type": "array", "items": result}}}}}}
    _, _, sarif, _ = gate(run(tmp_path, warnings=["careful"]), "--max", "label.leak=0.1", "--strict")
    Draft202012Validator(schema).validate(sarif)
    assert len(sarif["runs"][0]["results"]) == 2


def test_a_file_that_cannot_be_written_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = tmp_path / "no" / "such" / "gate.xml"
    assert main(["gate", str(run(tmp_path)), "--max", "label.leak=1", "--junit", str(missing)]) == 2
    assert capsys.readouterr().err.startswith(f"error: --junit: {missing} cannot be written: ")


def test_the_release_script_audits_and_gates(tmp_path: Path) -> None:
    (tmp_path / "latentprint").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m latentprint "$@"\n')
    (tmp_path / "latentprint").chmod(0o755)
    out = tmp_path / "release"
    path = f"{tmp_path}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "OUT": str(out), "BOUND": "label.leak=0.9"}
    done = subprocess.run(["sh", str(RELEASE / "gate.sh"), "--preset", "tiny"], env=environment, capture_output=True,
                          text=True, check=False)
    assert done.returncode == 1, done.stderr  # --strict: a tiny audit has warnings
    assert done.stdout.splitlines()[-1] == "gate: failed"
    assert (out / "gate.md").read_text().startswith("### latentprint gate: failed")
    assert ElementTree.parse(out / "gate.xml").getroot().get("failures") != "0"
    assert json.loads((out / "gate.sarif").read_text())["version"] == "2.1.0"


def test_workflow_and_hook_call_what_there_is() -> None:
    workflow = yaml.safe_load((RELEASE / "github.yml").read_text())
    steps = workflow["jobs"]["gate"]["steps"]
    gate_step = next(step for step in steps if "gate.sh" in step.get("run", ""))
    script = (RELEASE / "gate.sh").read_text()
    assert all(f"${{{name}" in script or f'"${name}"' in script for name in gate_step["env"])
    written = {step["with"]["sarif_file"] for step in steps if "sarif" in step.get("uses", "")}
    assert written == {f"{gate_step['env']['OUT']}/gate.sarif"} and '"$OUT/gate.sarif"' in script
    (repository,) = yaml.safe_load((RELEASE / "pre-commit.yaml").read_text())["repos"]
    (hook,) = repository["hooks"]
    assert main([*shlex.split(hook["entry"])[1:3], "--help"]) == 0 and "--check --victim" in hook["entry"]
