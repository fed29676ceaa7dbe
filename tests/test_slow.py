"""Minutes long, run by name (``pytest -m slow``): do the commands reach what the results page says?"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from latentprint.cli import main


@pytest.mark.slow
def test_the_demo_draws_people_that_two_classifiers_and_a_recogniser_know_again(tmp_path: Path) -> None:
    assert main(["demo", "--out", str(tmp_path / "demo")]) == 0
    arms = json.loads((tmp_path / "demo" / "report.json").read_text())["channels"]["label"]["arms"]

    def value(arm: str, metric: str) -> float:
        return arms[arm][metric]["value"]

    assert value("floor", "identity_match_rate") < 0.05 < value("attack", "identity_match_rate")
    assert value("floor", "top1") < 0.2 < 0.8 < value("attack", "top1")
    assert value("attack", "similarity_judge") > value("pseudo_label", "similarity_judge")
    assert value("prior_ceiling", "identity_match_rate") > 0.9
