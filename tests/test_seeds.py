"""Several seeds of one comparison: means, and surrogates at equal accuracy, by hand."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from test_compare import write_run
from test_report import Page

from latentprint.report.compare import compare_runs
from latentprint.report.seeds import matched_table, seeds_of, victims_table


def row(name: str, accuracy: float, mse: float, surrogate: str = "", base: str = "noise") -> dict[str, Any]:
    return {"name": name, "cut": "encode", "defences": f"{base} + {surrogate}" if surrogate else base,
            "surrogate": surrogate, "without_cem": base, "bytes": 2048, "accuracy": {"value": accuracy},
            "leak": {"value": 1 - 10 * mse},
            "mse": {"value": mse}, "ssim": {"value": 0.5}}


def seed(shift: float) -> dict[str, Any]:
    """Noise alone, k-means at two weights on a line of slope -0.2, and gated 0.01 above that line at its end."""
    return {"variants": [row("plain", 0.80, 0.02 + shift), row("k 16", 0.75, 0.03 + shift, "kmeans"),
                         row("k 64", 0.70, 0.04 + shift, "kmeans"), row("g", 0.70, 0.05 + shift, "gated"),
                         row("other", 0.60, 0.9, "gated", "dropout")]}


def test_means_over_seeds_and_what_cem_costs() -> None:
    table = {each.label: each.cells for each in victims_table(seeds_of([seed(0.0), seed(0.01)])).rows}
    # accuracies are the same in both seeds; MSE 0.02 and 0.03
    assert table["plain"][1].shown == "80%" and table["plain"][2].shown == "–"
    assert table["plain"][4].shown == "0.025"
    assert table["g"][2].shown == "10.0" and table["k 16"][2].shown == "5.0"
    assert table["other"][2].shown == "–"  # nothing without CEM beside it


def test_a_surrogate_is_compared_where_both_reached_the_accuracy() -> None:
    (found,) = matched_table(seeds_of([seed(0.0), seed(0.01)])).rows  # dropout has no k-means to compare with
    assert found.label == "gated" and found.cells[0].shown == "noise"
    # the excess grows from 0 at 80% to 0.01 at 70%: 0.005 in the mean, in both seeds
    assert found.cells[1].shown == "2,048"
    assert found.cells[2].sort == pytest.approx(0.005)
    assert found.cells[3].sort == pytest.approx(-0.05)
    assert found.cells[4].shown == "2 of 2"


def test_one_run_has_no_seeds_and_victims_that_one_lacks_are_left_out() -> None:
    assert not victims_table(seeds_of([seed(0.0)]))
    fewer = copy.deepcopy(seed(0.0))
    fewer["variants"] = fewer["variants"][:2]
    assert [each.label for each in victims_table(seeds_of([seed(0.0), fewer])).rows] == ["plain", "k 16"]
    assert not matched_table(seeds_of([seed(0.0), fewer]))


def test_broken_rows_do_not_break_the_page() -> None:
    broken = {"variants": [{"name": "plain", "accuracy": "high"}, {"surrogate": "gated"}, 3]}
    (found,) = victims_table(seeds_of([broken, broken])).rows
    assert found.cells[1].shown == "not measured"
    assert not matched_table(seeds_of([broken, broken]))


def test_the_page_of_several_runs_shows_both(tmp_path: Path) -> None:
    runs = []
    for i, shift in enumerate((0.0, 0.01)):
        folder = write_run(tmp_path / f"s{i}", seed=i)
        report = json.loads((folder / "report.json").read_text())
        report["channels"] = {"feature": seed(shift)}
        (folder / "report.json").write_text(json.dumps(report))
        runs.append(folder)
    page = Page(compare_runs(runs).read_text())
    assert page.row("plain")[2].startswith("80%")
    assert page.row("gated")[5] == "2 of 2"
    assert "Surrogates against k-means at equal accuracy" in page.text
