"""Recovery of the face and impersonation of the attacked system: two findings, two numbers, one headline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from test_report import Page

from latentprint.console import summary
from latentprint.report.build import verdict
from latentprint.report.conclusive import reasons, state
from latentprint.report.html import render
from latentprint.report.impersonation import Impersonation, disagreement
from latentprint.report.tables import arms_table, cases_table, people_table


def measured(value: float | None, low: float | None = None, high: float | None = None) -> dict[str, Any]:
    return {"value": value, "low": value if low is None else low, "high": value if high is None else high, "n": 100}


def section(recovered: float | None, impersonated: float, ceiling: float = 0.41) -> dict[str, Any]:
    """As of a run on real faces: what the attacked network accepts, the judge does not."""

    def leak(value: float | None, ceiling: float) -> dict[str, Any]:
        return measured(None) if value is None else measured(value / ceiling, 0.8 * value / ceiling,
                                                             1.1 * value / ceiling)

    return {"headline": "sar_type2_judge", "attack": measured(recovered), "floor": measured(0.0),
            "ceiling": measured(ceiling), "leak": leak(recovered, ceiling),
            "recovery": {"judge": "sface", "missing": None,
                         "rank1": {"attack": measured(0.12), "floor": measured(0.01), "ceiling": measured(0.91)}},
            "impersonation": {"metric": "sar_type2", "system": "faceres", "attack": measured(impersonated),
                              "floor": measured(0.0), "ceiling": measured(0.30), "leak": leak(impersonated, 0.30)}}


def shown(report: dict[str, Any]) -> str:
    console = Console(width=400)
    with console.capture() as captured:
        console.print(*summary(report), sep="\n")
    return captured.get()


def test_the_headline_is_the_judges_and_impersonation_stands_beside_it() -> None:
    found = section(0.003, 0.19)
    said = verdict(found)
    assert state(found).key == "inconclusive" and said.startswith("Inconclusive")
    assert "independent judge accepts as the person, against another photo, for 0.3% of the comparisons" in said
    assert "ranks the right one first for 12% of the reconstructions (for the enrolled photos 91%)" in said
    assert ("The reconstructions pass the attacked recogniser for 19% of the person's other photos (95% interval 19 to "
            "19%; floor 0%, ceiling 30%, 63% of the way between them): impersonation of this system") in said
    report = {"schema": 1, "channels": {"template": found}, "manifest": {}, "warnings": []}
    assert "Impersonation of faceres: 19%" in shown(report)
    page = Page(render(report, Path("nowhere"))).text
    assert "Impersonation of faceres 19% 95% interval 19–19%" in page
    assert page.count("pass the attacked recogniser for 19%") == 1
    assert "Recovery of the face" in shown(report) and "leaks substantially" not in shown(report)


@pytest.mark.parametrize(("recovered", "impersonated", "grade", "disagree"), [
    (0.20, 0.19, "substantial", False), (0.20, 0.001, "substantial", True), (0.003, 0.19, "inconclusive", False),
    (0.003, 0.001, "little", False)])
def test_the_verdict_says_where_the_two_findings_disagree(recovered: float, impersonated: float, grade: str,
                                                          disagree: bool) -> None:
    found = section(recovered, impersonated)
    assert state(found).key == grade
    assert bool(disagreement(found)) is disagree is ("The two findings disagree" in verdict(found))
    assert [reason.name for reason in reasons(found)] == ["judge-disagrees"] * (grade == "inconclusive")
    assert ("independent judge in 0.3%" in verdict(found)) is (grade == "inconclusive")


def test_a_missing_headline_is_never_the_attacked_systems() -> None:
    found = section(None, 0.19)
    found["recovery"] |= {"missing": "recovery of the face was not measured, for no independent recogniser judges"}
    said = verdict(found)
    assert said.startswith("Inconclusive: the attack's headline number was not measured. Recovery of the face was not "
                           "measured, for no independent recogniser judges.")
    assert "pass the attacked recogniser for 19%" in said and state(found).key == "inconclusive"


def test_reports_from_before_the_two_were_told_apart_read_as_they_did() -> None:
    old = {"headline": "sar_type2", "attack": measured(0.19), "floor": measured(0.0), "ceiling": measured(0.3),
           "leak": measured(0.63), "per_identity": [{"identity": "a", "match_rate": 0.5, "type1": 1.0, "n": 2}],
           "protections": [{"name": "none", "stored_bits": 16, "tar": measured(0.9), "leak": measured(0.6),
                            "sar_type1": measured(0.8), "sar_type2": measured(0.2)},
                           {"name": "noise", "stored_bits": 16, "tar": measured(0.8), "tar_cost": measured(0.1),
                            "leak": measured(0.3), "sar_type1": measured(0.4), "sar_type2": measured(0.1),
                            "sar_reduction": measured(0.1)}]}
    assert Impersonation.of(old) is None and "SAR type II" in verdict(old) and "impersonation" not in verdict(old)
    assert [column.label for column in cases_table(old, "protections").columns] == [
        "Bits stored", "True accepts", "Accuracy cost (pp)", "Leak", "SAR type I", "SAR type II",
        "SAR II reduction (pp)"]
    assert [cell.shown for cell in cases_table(old, "protections").rows[0].cells][2] == "–"
    assert [column.label for column in people_table(old).columns] == ["Identity match", "SAR type I", "Images"]
    arms = {"attack": {key: measured(0.1) for key in ("sar_type2", "sar_type2_judge", "sar_type2_sface")}}
    labels = [column.label for column in arms_table("template", old | {"arms": arms}).columns]
    assert labels[:3] == ["SAR type II", "Recovery of the face", "SAR type II, sface"]
