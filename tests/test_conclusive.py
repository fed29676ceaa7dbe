"""When an audit is inconclusive: each reason from its numbers, in verdict, page, terminal, JSON and gate."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from test_report import Page, label_section

from latentprint.cli import main
from latentprint.console import summary
from latentprint.report.build import concluded, verdict
from latentprint.report.conclusive import doubts, reasons, state
from latentprint.report.grades import INCONCLUSIVE, LOW
from latentprint.report.html import render

GREEN = ("leaks little", "shows no leak to this attack")
NOTHING: dict[str, Any] = {"leak": {"value": 0.01, "low": -0.01, "high": 0.04, "n": 50}}
PROBE: dict[str, Any] = {"probes": [{"name": "no-gradient", "message": "no gradient reaches the images",
                                     "mend": "remove no_grad"}]}
FOOLED = {"leak": {"value": 0.6, "low": 0.4, "high": 0.8}, "attack": {"value": 0.19}}
#: Changes of a sound section in which little was found, and the reason that each gives.
CASES: dict[str, dict[str, Any]] = {
    "no-gradient": PROBE,
    "no-room": {"floor": {"value": 0.99}},
    "not-measured": {"leak": None},
    "ceiling-weak": {"ceiling": {"value": 0.29}, "prior_ceiling": {"value": 0.2}},
    "judge-confuses": {"judge": {"realised_fmr": {"value": 0.16, "n": 900}}},
    "evaluators-weak": {"evaluators": [{"accuracy": 0.2}, {"accuracy": 0.49}]},
    "prior-ceiling": {"prior_ceiling": {"value": 0.49}},
    "at-floor": {"leak": {"value": 0.0, "low": 0.0, "high": 0.03}},
    "judge-disagrees": {"impersonation": FOOLED},
    "too-few": {"leak": {"value": 0.05, "low": 0.0, "high": 0.36, "n": 8}},
}


def little(**changes: Any) -> dict[str, Any]:
    section = label_section()
    section["arms"]["attack"]["top1"] = section["arms"]["floor"]["top1"]
    return section | NOTHING | changes


def test_a_sound_audit_that_found_little_is_conclusive() -> None:
    assert doubts(little()) == [] and state(little()).key == "none"
    assert concluded(little())["inconclusive"] == [] and "shows no leak to this attack" in verdict(little())


@pytest.mark.parametrize("name", CASES)
def test_each_reason_is_found_and_named_everywhere_and_nothing_is_green(name: str, tmp_path: Path) -> None:
    section = little(**CASES[name])
    assert [reason.name for reason in reasons(section)] == [name]
    said = reasons(section)[0].sentence
    assert said.endswith(".") and said in verdict(section) and verdict(section).startswith("Inconclusive")
    result = concluded(section)
    assert result["grade"] == "inconclusive" and result["inconclusive"][0].keys() == {"name", "message", "mend"}
    report = {"schema": 1, "channels": {"label": section}}
    html = render(report, tmp_path)
    assert 'class="grade-inconclusive"' in html and "pill caution" in html
    assert not any(f'<p class="pill">{word}' in html for word in GREEN)
    shown, reason = re.sub(r"[`\s]", "", Page(html).text), reasons(section)[0]
    for part in (reason.message[1:], f"What to do: {reason.mend}."):
        assert re.sub(r"[`\s]", "", part) in shown
    view = Console(record=True, width=2000, file=(tmp_path / "out").open("w"))
    view.print(*summary(report), sep="\n")
    assert said in view.export_text() and not any(word in view.export_text() for word in GREEN)


@pytest.mark.parametrize("name", CASES)
def test_gate_passes_no_inconclusive_audit(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    section = little(**CASES[name]) | {"seconds": 1.0}
    (tmp_path / "report.json").write_text(json.dumps({"schema": 1, "channels": {"label": section}}))
    assert main(["gate", str(tmp_path), "--max", "label.seconds=2"]) == 4
    assert f"INCONCLUSIVE label: {doubts(section)[0].sentence}" in capsys.readouterr().out
    assert main(["gate", str(tmp_path), "--max", "label.seconds=0.5"]) == 1, "above its bound whatever else"


def test_gate_strict_fails_on_warnings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = {"schema": 1, "channels": {"label": little()}, "warnings": ["few impostor pairs"]}
    (tmp_path / "report.json").write_text(json.dumps(report))
    assert main(["gate", str(tmp_path), "--max", "label.leak=0.2"]) == 0
    assert main(["gate", str(tmp_path), "--max", "label.leak=0.2", "--strict"]) == 1
    assert "warning: few impostor pairs" in capsys.readouterr().out


def test_a_leak_that_was_shown_stays_shown_but_gate_does_not_pass_it(tmp_path: Path) -> None:
    """What hides a leak hides none that was found; it may hide more of it, which a bound has to know."""
    section = label_section() | PROBE
    assert reasons(section) == [] and state(section).key == "strong"
    assert "The leak may be larger than measured. No gradient reaches the images: remove no_grad." in verdict(section)
    (tmp_path / "report.json").write_text(json.dumps({"schema": 1, "channels": {"label": section}}))
    assert main(["gate", str(tmp_path), "--max", "label.leak=0.9"]) == 4
    short = label_section() | {"ceiling": {"value": 0.2}}
    assert state(short) is INCONCLUSIVE, "the scale itself is in doubt"


def test_an_attack_that_worked_on_an_undefended_model_is_believed_when_it_fails_on_a_defended_one() -> None:
    failed = CASES["at-floor"]
    leaky, tight = ({"leak": {"value": v, "low": v - 0.1, "high": v + 0.1}} for v in (0.5, 0.05))
    assert reasons(little(**failed, defence={"undefended": leaky})) == []
    assert reasons(little(**failed, variants=[leaky, failed])) == []
    assert [r.name for r in reasons(little(**failed, defence={"undefended": tight}))] == ["at-floor"]
    assert [r.name for r in reasons(little(**failed, variants=[tight, leaky]))] == ["at-floor"]


def test_a_leak_without_a_lower_end_is_inconclusive_whatever_its_value() -> None:
    """Few people may leave the scale from floor to ceiling without a length: the ends are null."""
    for value in (0.05, 0.9):
        section = label_section() | {"leak": {"value": value, "low": None, "high": None, "n": 4}}
        assert [reason.name for reason in reasons(section)] == ["too-few"], value
        assert state(section) is INCONCLUSIVE
    assert state(label_section() | {"leak": {"value": 0.9}}).key == "strong", "no interval was asked for"


@pytest.mark.parametrize("end", ["floor", "ceiling"])
def test_a_leak_whose_scale_is_missing_is_inconclusive(end: str) -> None:
    section = little(**{end: None})
    del section["arms"][end]
    assert [reason.name for reason in reasons(section)] == ["not-measured"]


def test_an_inconclusive_audit_recommends_nothing() -> None:
    best = {"recommended": {"name": "noise", "because": "it leaks least"}}
    assert concluded(little(**CASES["at-floor"], **best))["recommended"] == {}
    assert "recommended" not in concluded(little(**best)) and "recommended" not in concluded(little(**PROBE))


def test_evidence_that_the_judge_does_not_see_is_a_disagreement() -> None:
    section = little()
    section["arms"]["attack"]["top1"] = {"value": 0.4, "low": 0.3, "high": 0.5}
    assert [reason.name for reason in reasons(section)] == ["judge-disagrees"]
    seen = little(reidentification={"value": 0.3, "low": 0.2, "high": 0.4, "chance": 0.02})
    assert [reason.name for reason in reasons(seen)] == ["judge-disagrees"]
    unseen = little(reidentification={"value": 0.03, "low": 0.01, "high": 0.06, "chance": 0.02})
    assert reasons(unseen) == []
    weak = little(impersonation={"leak": {"value": 0.05, "low": 0.01, "high": 0.1}, "attack": {"value": 0.05}})
    assert reasons(weak) == []


@given(st.dictionaries(st.sampled_from(["probes", "leak", "floor", "ceiling", "prior_ceiling", "evaluators", "arms",
                                        "variants", "defence", "impersonation", "reidentification", "attack"]),
                       st.sampled_from([None, 3, "x", [], {}, [{}], {"value": "1"}, {"leak": 4}, [["a"]],
                                        {"value": 0.5, "low": 0.4, "high": 0.6}])))
def test_a_section_of_any_shape_is_never_green_with_a_reason(changes: dict[str, Any]) -> None:
    section = little() | changes
    assert (state(section) is INCONCLUSIVE) == bool(reasons(section))
    if doubts(section):
        assert state(section).key not in LOW
