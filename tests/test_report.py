"""The report page: its numbers, its words, its safety, and what a real browser makes of it."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from html import unescape
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from latentprint.errors import UserError
from latentprint.report.build import cautions, verdict
from latentprint.report.gauge import gauge
from latentprint.report.grades import GRADES, NO_LEAK, Headline, grade
from latentprint.report.html import render, render_run
from latentprint.report.pictures import load
from latentprint.report.values import Measured, duration, flatten, number, percent, plain, scalar
from latentprint.report.view import brief

EVIL = "<script>alert(1)</script>"
DOCS = Path(__file__).parent.parent / "docs"


def interval(value: float, half: float = 0.07) -> dict[str, Any]:
    return {"value": value, "low": round(value - half, 4), "high": round(value + half, 4), "n": 50}


def arm(match: float, top1: float) -> dict[str, Any]:
    return {
        "identity_match_rate": interval(match, 0.005),
        "top1": interval(top1, 0.005),
        "similarity_judge": {"value": 0.523},
        "frechet": {"value": 31.25, "extractor": "judge-net"},
        "top1_vit": {"value": 0.9},
        "n_images": 500,
    }


def label_section() -> dict[str, Any]:
    arms = {
        "attack": arm(0.74, 0.912),
        "floor": arm(0.02, 0.021),
        "ceiling": arm(0.99, 0.992),
        "pseudo_label": arm(0.41, 0.58),
        "prior_ceiling": arm(0.88, 0.95),
    }
    headline = "identity_match_rate"
    return {
        "headline": headline,
        "leak": {"value": 0.742, "low": 0.664, "high": 0.812},
        "attack": {"value": 0.74, "low": 0.66, "high": 0.81, "n": 50},
        **{key: arms[key][headline] for key in ("floor", "ceiling", "prior_ceiling")},
        "arms": arms,
        "metrics": arms["attack"],
        "per_identity": [
            {"identity": "Ann", "match_rate": 0.3, "similarity": 0.31, "top1": 0.5, "n": 10},
            {"identity": EVIL, "match_rate": 0.9, "similarity": 0.61, "top1": 1.0, "n": 10},
            {"identity": "Cy", "match_rate": None, "similarity": float("nan"), "top1": 0.7, "n": 10},
        ],
        "per_group": [
            {"group": "young", "n": 30, "leak": {"value": 0.8, "low": 0.71, "high": 0.88}, "attack": {"value": 0.79},
             "floor": {"value": 0.01}, "prior_ceiling": {"value": 0.93}, "ceiling": {"value": 0.99},
             "top1": {"value": 0.95}},
            {"group": f"not {EVIL}", "n": 20, "leak": {"value": None}, "attack": {"value": 0.66}},
        ],
        "evaluators": [{"name": "A", "architecture": "resnet", "accuracy": 0.987, "n": 150}],
        "victim": {"architecture": "vgg", "accuracy": 0.993, "n_classes": 50},
        "judge": {
            "name": "judge",
            "thresholds": {"0.01": 0.27, "0.001": 0.42},
            "n_impostor": 120000,
            "tar": {"0.01": 0.998, "0.001": 0.981},
        },
        "teacher": {"name": "teacher", "thresholds": {"0.001": 0.39}, "n_impostor": 120000},
        "protocol": {"name": "label-v1", "bootstrap": {"resamples": 2000}},
        "figures": [{"file": "images/curve.jpg", "title": "Curve & co", "caption": "one < two"}],
        "grid": "images/grid.png",
        "seconds": 1034.0,
        "stages": [{"name": "stage0", "steps": 300, "reason": "step cap", "seconds": 85.0}],
    }


def full_report() -> dict[str, Any]:
    return {
        "schema": 1,
        "channels": {"label": label_section()},
        "warnings": ["few impostor pairs"],
        "manifest": {
            "seed": 7,
            "command": ["latentprint", "audit", "label", "--out", "a b"],
            "versions": {"torch": "2.13"},
        },
    }


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run directory with a report and its two pictures."""
    (tmp_path / "images").mkdir()
    Image.new("RGB", (40, 20), "teal").save(tmp_path / "images/grid.png")
    Image.new("RGB", (30, 30), "red").save(tmp_path / "images/curve.jpg")
    (tmp_path / "report.json").write_text(json.dumps(full_report()), encoding="utf-8")
    return tmp_path


class Page(HTMLParser):
    """What a test wants to know of a page: ids, links, pictures, scripts, visible text, table rows."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.images: list[str] = []
        self.loads: list[str] = []
        self.scripts: list[str] = []
        self.csp = ""
        self.rows: list[list[str]] = []
        self.words: list[str] = []
        self._inside: list[str] = []
        self.feed(html)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {key: value or "" for key, value in attrs}
        self.ids += [found[key] for key in ("id",) if key in found]
        self.links += [found.get("href", "")] * (tag == "a")
        self.images += [found.get("src", "")] * (tag == "img")
        self.loads += [value for key, value in found.items() if key in ("src", "href", "srcset", "data", "action")]
        if found.get("http-equiv") == "Content-Security-Policy":
            self.csp = found["content"]
        if tag in ("script", "style"):
            self._inside.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")
            self._inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self._inside and tag == self._inside[-1]:
            self._inside.pop()

    def handle_data(self, data: str) -> None:
        place = self._inside[-1] if self._inside else ""
        self.scripts += [data] * (place == "script")
        self.words += [data] * (place not in ("script", "style"))
        if place in ("th", "td"):
            self.rows[-1][-1] = f"{self.rows[-1][-1]} {data.strip()}".strip()

    def row(self, start: str) -> list[str]:
        return next(row for row in self.rows if row and row[0].startswith(start))


# ------------------------------------------------------------------------------ the page


def test_the_numbers_are_on_the_page(run: Path) -> None:
    page = Page(render(full_report(), run))
    for said in (
        "74 %",
        "95% interval 66–81%",
        "leaks strongly",
        "vgg · 50 people · 99.3% right on held-out",
        "few impostor pairs",
        "Seed: 7",
        "latentprint audit label --out 'a b'",
        "versions.torch 2.13",
        "bootstrap.resamples 2000",
        "17 min 14 s",
        "Curve & co",
        "one < two",
    ):
        assert said in page.text, said
    attack = page.row("Attack every image")
    assert attack[1:] == ["74% 74–74% · n 50", "91% 91–92%", "0.52", "31.2", "90%"]
    assert page.row("Floor")[1:] == ["2% 2–2% · n 50", "2% 2–3%", "0.52", "31.2", "90%"]
    assert attack[0] == "Attack every image, unselected · 500 images"
    assert any(row[-2:] == ["Fréchet distance ↓ judge-net", "Top-1, vit ↑"] for row in page.rows)
    assert page.row("Evaluator") == ["Evaluator", "A", "resnet", "98.7%", "150"]
    assert page.row("Judge") == ["Judge", "judge", "0.27", "99.8%", "0.42", "98.1%", "120,000"]
    assert page.row("Teacher")[2:] == ["–", "–", "0.39", "–", "120,000"]
    assert page.row("stage0") == ["stage0", "300", "1 min 25 s", "step cap"]


def test_distances_of_different_extractors_each_name_theirs(run: Path) -> None:
    report = full_report()
    report["channels"]["label"]["arms"]["floor"]["frechet"] = {"value": 9.0, "extractor": "other"}
    page = Page(render(report, run))
    assert page.row("Floor")[4] == "9.00 other" and page.row("Ceiling")[4] == "31.2 judge-net"
    assert any("Fréchet distance ↓" in row for row in page.rows)


def test_a_distance_says_of_how_many_pictures(run: Path) -> None:
    report = full_report()
    report["channels"]["label"]["arms"]["floor"]["frechet"] |= {"n": 320}
    report["channels"]["label"]["arms"]["ceiling"]["frechet"] |= {"n": 50}  # as many as people: still said
    page = Page(render(report, run))
    assert page.row("Floor")[4] == "31.2 n 320" and page.row("Ceiling")[4] == "31.2 n 50"


def test_the_grid_says_which_pictures_it_shows(run: Path) -> None:
    report = full_report()
    report["channels"]["label"]["grid_caption"] = "Of 8 pictures <one>."
    assert "Of 8 pictures <one>." in Page(render(report, run)).text


def test_the_realised_false_match_rate_stands_beside_the_stated_one(run: Path) -> None:
    report = full_report()
    report["channels"]["label"]["judge"]["realised_fmr"] = {"value": 0.00351, "n": 1140}
    page = Page(render(report, run))
    assert page.row("Judge")[-2:] == ["120,000", "0.35% n 1,140"] and page.row("Teacher")[-1] == "–"
    assert any(row[-1] == "Realised FMR" for row in page.rows)


def test_groups_stand_side_by_side(run: Path) -> None:
    page = Page(render(full_report(), run))
    young, old = (row for row in page.rows if row and row[0] in ("young", f"not {EVIL}"))
    assert young[1:4] == ["30", "80% 71–88%", "79%"] and old[1:4] == ["20", "–", "66%"]
    assert "#label-groups" in page.links


def test_people_are_listed_the_most_exposed_first(run: Path) -> None:
    page = Page(render(full_report(), run))
    names = [row[0] for row in page.rows if row and row[0] in ("Ann", "Cy", EVIL)]
    assert names == [EVIL, "Ann", "Cy"]
    assert page.row("Cy")[1:] == ["–", "–", "70%", "10"]


def test_a_missing_number_is_a_dash_that_says_so(run: Path) -> None:
    html = render(full_report(), run)
    cell = re.search(r'<th scope="row">Cy</th>\s*(<td[^>]*>\s*[^<]*)', html)
    assert cell and 'title="not measured"' in cell[1] and cell[1].endswith("–")


def test_the_verdict_comes_first_and_then_the_warnings(run: Path) -> None:
    html = render(full_report(), run)
    marks = ('id="label-verdict"', 'class="leak"', 'class="warnings"', 'id="label-faces"')
    places = [html.index(mark) for mark in marks]
    assert places == sorted(places)
    several = render(full_report() | {"channels": {"label": label_section(), "other": label_section()}}, run)
    assert several.count('class="warnings"') == 1
    assert "few impostor pairs" in Page(render(full_report() | {"channels": {}}, run)).text


def test_a_number_that_is_to_be_read_with_caution_is_amber(run: Path) -> None:
    little = label_section() | {"leak": {"value": 0.05, "low": 0.01, "high": 0.1}}
    assert '<section class="grade-little">' in render({"channels": {"label": little}}, run)
    doubted = little | {"evaluators": [{"name": "A", "accuracy": 0.8}]}
    html = render({"channels": {"label": doubted}}, run)
    assert '<section class="grade-cautioned">' in html and "read with caution" in html
    unseen = doubted | {"evaluators": [{"name": "A", "accuracy": 0.3}]}
    assert '<section class="grade-inconclusive">' in render({"channels": {"label": unseen}}, run)


def test_reasons_stand_above_the_numbers_each_with_what_to_do(run: Path) -> None:
    probe = {"name": "dropout", "message": "the <victim> answers differently each time", "mend": "call `model.eval()`"}
    html = render({"channels": {"label": label_section() | {"probes": [probe]}}}, run)
    text = Page(html).text
    assert "The leak may be larger than measured The <victim> answers differently each time. What to do: call" in text
    assert "<code>model.eval()</code>" in html and html.index('class="reasons"') < html.index('class="says"')
    assert text.count("answers differently") == 1


def test_impersonation_is_a_second_finding_beside_the_headline(run: Path) -> None:
    assert 'class="second"' not in render(full_report(), run)
    report = full_report()
    report["channels"]["label"]["impersonation"] = {
        "leak": {"value": 0.64, "low": 0.5, "high": 0.75}, "attack": {"value": 0.19, "low": 0.15, "high": 0.24},
        "floor": {"value": 0.003},
        "ceiling": {"value": 0.3}}
    html = render(report, run)
    assert html.index('class="leak"') < html.index('class="second"') < html.index('class="says"')
    said = Page(html).text
    assert "Impersonation of the attacked recogniser 19% 95% interval 15–24%" in said
    assert "floor 0.3%, ceiling 30%, 64% of the way between them" in said and said.count("pass the attacked") == 1


@pytest.mark.parametrize(("caption", "parts"), [
    ("", ("", "")), ("One.", ("One.", "")), ("One. Two. Three.", ("One. Two.", "Three.")), ("x" * 30, ("x" * 30, "")),
    ("x" * 30 + ". Two.", ("x" * 30 + ".", "Two.")),
])  # fmt: skip
def test_a_long_caption_is_shortened_and_nothing_of_it_lost(caption: str, parts: tuple[str, str]) -> None:
    assert brief(caption, most=10) == parts


def test_text_from_data_is_escaped_everywhere(run: Path) -> None:
    report = poisoned(full_report())
    html = render(report, run)
    page = Page(html)
    assert len(page.scripts) == 1 and "alert" not in page.scripts[0]
    assert not re.search(r"<script[^>]*>\s*alert", html)
    assert page.text.count(EVIL) > 20  # shown, as text


def poisoned(value: Any) -> Any:
    """The same structure with every text, and every key of a metric, arm or channel, replaced by markup."""
    if isinstance(value, dict):
        known = {
            "channels",
            "label",
            "arms",
            "attack",
            "manifest",
            "warnings",
            "per_identity",
            "evaluators",
            "victim",
            "judge",
            "teacher",
            "protocol",
            "figures",
            "stages",
            "identity",
            "name",
            "architecture",
        }
        return {key: poisoned(item) for key, item in value.items() if key in known} | {
            f'{EVIL}"{key}': poisoned(item) for key, item in value.items()
        }
    if isinstance(value, list):
        return [poisoned(item) for item in value]
    return EVIL + '" onload="alert(2)' if isinstance(value, str) else value


def test_the_policy_allows_the_pages_own_script_and_nothing_else(run: Path) -> None:
    page = Page(render(full_report(), run))
    digest = base64.b64encode(hashlib.sha256(page.scripts[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page.csp
    assert page.csp.startswith("default-src 'none'; img-src data:;")


def test_nothing_is_loaded_from_anywhere(run: Path) -> None:
    html = render(full_report(), run)
    assert {value.partition(":")[0] for value in Page(html).loads if not value.startswith("#")} == {"data"}
    assert "@import" not in html and "url(" not in html


@pytest.mark.parametrize("channels", [["label"], ["label", "template"], ["", "a b", "a-b", EVIL, "label"], []])
def test_every_link_has_one_target(run: Path, channels: list[str]) -> None:
    page = Page(render(full_report() | {"channels": {name: label_section() for name in channels}}, run))
    assert len(page.ids) == len(set(page.ids))
    assert all(link[1:] in page.ids for link in page.links)
    assert len(page.links) >= 2 + len(channels)


def test_pictures_are_inline_and_whole(run: Path) -> None:
    images = Page(render(full_report(), run)).images
    sizes = []
    for source in images:
        kind, _, data = source.partition(";base64,")
        with Image.open(BytesIO(base64.b64decode(data, validate=True))) as image:
            image.load()
            sizes.append((kind, image.size))
    assert sizes == [("data:image/png", (40, 20)), ("data:image/jpeg", (30, 30))]


def test_only_whole_pictures_inside_the_run_are_taken(run: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside") / "secret.png"
    Image.new("RGB", (4, 4)).save(outside)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(run / "cut.png")
    (run / "cut.png").write_bytes((run / "cut.png").read_bytes()[:2000])
    (run / "text.png").write_text("<svg/>")
    (run / "link.png").symlink_to(outside)
    Image.new("RGB", (4, 4)).save(run / "sneaky.png", format="GIF")
    relative = Path("..") / outside.parent.name / outside.name
    bad = [
        "cut.png",
        "text.png",
        "link.png",
        "sneaky.png",
        "gone.png",
        "images",
        "a\0b",
        str(outside),
        str(relative),
    ]
    assert [name for name in bad if load(run, name)] == []
    report = full_report()
    report["channels"]["label"] |= {"grid": "gone.png", "figures": [{"file": name} for name in bad]}
    page = Page(render(report, run))
    assert page.images == []
    assert page.text.count("is missing or cannot be read") == 1 + len(bad)


def test_an_unknown_channel_gets_a_gauge_and_its_metrics(run: Path) -> None:
    section = {
        "headline": "gaze_error",
        "leak": {"value": 0.2, "low": 0.1, "high": 0.3},
        "attack": interval(12.5, 1),
        "floor": {"value": 10},
        "ceiling": {"value": 22.5},
        "metrics": {"gaze_error": interval(12.5, 1), "top1": {"vgg": interval(0.5), "vit": 0.25}},
    }
    page = Page(render({"channels": {"gaze": section}}, run))
    assert "The attack reaches 12.5 (95% interval 11.5 to 13.5) on gaze error." in page.text
    assert page.row("Attack") == ["Attack", "12.5 11.5–13.5 · n 50", "50% 43–57%", "25%"]
    assert page.row("Floor") == ["Floor", "10.0", "–", "–"]
    assert any(row[:4] == ["", "Gaze error", "Top-1, vgg ↑", "Top-1, vit ↑"] for row in page.rows)


def test_an_empty_report_says_so(run: Path) -> None:
    assert "nothing was measured" in Page(render({}, run)).text
    page = Page(render({"channels": {"label": {}}}, run))
    assert "The attack's headline number was not measured." in page.text and "inconclusive" in page.text
    assert page.text.count("not measured") >= 4


def test_nan_is_not_measured(run: Path) -> None:
    section = label_section() | {"leak": {"value": float("nan"), "low": 0.1, "high": float("inf")}}
    section["arms"]["attack"]["top1"] = {"value": float("nan"), "low": 0.5, "high": 0.6}
    page = Page(render({"channels": {"label": section}}, run))
    assert page.row("Attack every image")[2] == "–"
    assert "The leak could not be measured. What to do: see the warnings" in page.text
    assert not re.search(r"\b(nan|inf)\b", page.text, re.IGNORECASE)


def paths(value: Any, prefix: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*prefix, key)
        yield from paths(item, (*prefix, key))


JUNK: st.SearchStrategy[Any] = st.sampled_from(
    [
        None,
        True,
        -1,
        1e308,
        -1e308,
        10**400,
        float("nan"),
        "",
        "x" * 300,
        "\ud800",
        [],
        {},
        [[]],
        {"value": {}},
        {"": None},
        [{"a": [None]}],
        {"value": "1"},
        [float("inf"), "a"],
    ]
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=st.sampled_from(list(paths(full_report()))), junk=JUNK)
def test_no_junk_breaks_the_page(run: Path, path: tuple[Any, ...], junk: Any) -> None:
    report = copy.deepcopy(full_report())
    parent = report
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = junk
    page = Page(render(report, run))
    assert "What this means" in page.text and len(page.ids) == len(set(page.ids))


# ------------------------------------------------------------------------------ files


def test_render_run_writes_the_page_beside_the_report(run: Path) -> None:
    (run / "report.html").write_text("old")
    assert render_run(run) == run / "report.html"
    assert (run / "report.html").read_text(encoding="utf-8") == render(full_report(), run)
    assert sorted(item.name for item in run.iterdir()) == ["images", "report.html", "report.json"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "not found"),
        ("{", "not valid JSON"),
        ("[]", "is not a report"),
        ('{"schema": 1}', "is not a report"),
        ('{"channels": []}', "is not a report"),
        ('{"channels": {}, "schema": 3}', "schema is 3"),
        ("\0\xff", "not valid JSON"),
    ],
)
def test_a_report_that_cannot_be_read_is_the_users_error(tmp_path: Path, content: str | None, said: str) -> None:
    if content is not None:
        (tmp_path / "report.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=said) as caught:
        render_run(tmp_path)
    assert "report.json" in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "report.html").exists()


def test_a_page_that_cannot_be_written_leaves_nothing_behind(run: Path) -> None:
    (run / "report.html").mkdir()
    with pytest.raises(UserError, match=r"report\.html: cannot be written"):
        render_run(run)
    assert sorted(item.name for item in run.iterdir()) == ["images", "report.html", "report.json"]


# ------------------------------------------------------------------------------ words


def test_the_verdict_reads_as_promised() -> None:
    assert verdict(label_section()) == (
        "Given only this classifier and public photos, the attack drew a face that an independent recogniser "
        "accepts as the right person for 74% of the images (95% interval 66 to 81%). Without the classifier "
        "it would be 2%, and real photos reach 99%. That is 74% of the way from floor to ceiling: this model "
        "leaks strongly."
    )


@pytest.mark.parametrize(
    ("leak", "words"),
    [
        ({"value": 0.65, "low": 0.5}, "leaks strongly"),
        ({"value": 0.649, "low": 0.5}, "leaks substantially"),
        ({"value": 0.35, "low": 0.1}, "leaks substantially"),
        ({"value": 0.349, "low": 0.1}, "leaks moderately"),
        ({"value": 0.10, "low": 0.05}, "leaks moderately"),
        ({"value": 0.099, "low": 0.01}, "leaks little"),
        ({"value": 0.3, "low": 0.0}, "shows no leak to this attack"),
        (-0.1, "shows no leak to this attack"),
        (0.01, "leaks little"),
        (None, "was not measured"),
    ],
)
def test_words_follow_the_leak(leak: object, words: str) -> None:
    assert grade(Measured.of(leak)).words == words


def test_the_documented_words_are_the_ones_used() -> None:
    table = (DOCS / "reading-a-report.md").read_text(encoding="utf-8")
    written = dict(re.findall(r"^\| (leaks \w+) \| (?:from )?([\w. ]+?) \|$", table, re.MULTILINE))
    assert written == {entry.words: f"{entry.least:.2f}" if entry.least else "above 0" for entry in GRADES}
    assert f"| {NO_LEAK.words} |" in table


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"evaluators": [{"name": "B", "accuracy": 0.82}]},
            "Caution: weak evaluators, B (82%).",
        ),
        ({"ceiling": {"value": 0.6}}, "Caution: a low ceiling, 60%."),
        ({"pseudo_label": {"value": 0.76}}, "does not beat the pseudo-label baseline (76%)"),
        (
            {"pseudo_label": {"value": 0.70}},
            "ahead of the pseudo-label baseline (70%), but by less than its own",
        ),
        (
            {"gain_over_pseudo_label": {"value": -0.01, "low": -0.1, "high": 0.1}},
            "does not beat the pseudo-label baseline (41%)",
        ),
        (
            {"gain_over_pseudo_label": {"value": 0.33, "low": 0.0, "high": 0.6}},
            "ahead of the pseudo-label baseline (41%), but by less than its own",
        ),
        ({"prior_ceiling": {"value": 0.80}}, "at the limit of what its prior can draw (80% with"),
        (
            {"leak": {"value": 0.05, "low": -0.02, "high": 0.1}, "arms": {}},
            "but the interval reaches zero: this model shows no leak",
        ),
        (
            {"leak": {"value": -0.05, "low": -0.2, "high": 0.1}},
            "Inconclusive: this audit does not tell whether there is a leak. The attack (74%) does no better",
        ),
        ({"floor": {"value": 0.99}}, "The floor (99%) is not below the ceiling (99%)"),
        ({"floor": None, "arms": {}}, "Without the classifier the rate was not measured"),
    ],
)
def test_the_verdict_says_what_limits_it(change: dict[str, Any], said: str) -> None:
    assert said not in verdict(label_section())
    assert said in verdict(label_section() | change)


def test_pictures_no_judge_accepts_may_still_name_the_person() -> None:
    nothing = label_section() | {"leak": {"value": 0.0, "low": 0.0, "high": 0.05}}
    arms = {"attack": {"top1": {"value": 0.36, "low": 0.2, "high": 0.5}},
            "floor": {"top1": {"value": 0.04, "high": 0.1}}}
    said = "The evaluators name the right person for 36% of the images, where without the model they do for 4%"
    assert said in verdict(nothing | {"arms": arms})
    arms["attack"]["top1"]["low"] = 0.08
    assert "The evaluators name" not in verdict(nothing | {"arms": arms}), "within the floor's interval"
    assert "The evaluators name" not in verdict(label_section()), "where a leak is stated it goes without saying"


def test_a_paired_gain_outweighs_overlapping_intervals() -> None:
    """0.70 lies within the attack's interval, yet picture by picture the attack is surely ahead."""
    section = label_section() | {"pseudo_label": {"value": 0.70}}
    assert "pseudo-label" in verdict(section)
    assert "pseudo-label" not in verdict(section | {"gain_over_pseudo_label": {"value": 0.04, "low": 0.02}})
    assert "pseudo-label" in verdict(section | {"gain_over_pseudo_label": {"value": None, "low": None}})


def test_a_sound_audit_has_no_cautions_and_an_old_verdict_is_written_anew(run: Path) -> None:
    """A verdict of an earlier version may have reassured where this one does not."""
    assert cautions(label_section()) == []
    section = label_section() | {"verdict": "Shows no leak.", "evaluators": [{"accuracy": 0.5}]}
    text = Page(render({"channels": {"label": section}}, run)).text
    assert "Shows no leak." not in text and "Given only this classifier" in text
    assert "read with caution" in text


def test_the_gauge_places_the_attack_at_its_leak() -> None:
    section = {
        "headline": "top1",
        "floor": 0.2,
        "ceiling": 0.7,
        "attack": {"value": 0.45, "low": 0.4, "high": 0.5},
        "prior_ceiling": 0.65,
        "arms": {"pseudo_label": {"top1": {"value": 0.3}}},
    }
    line = gauge(Headline.of(section))
    assert line is not None
    assert (line.floor_at, line.attack_at, line.ceiling_at, line.interval) == (0, 50, 100, (40, 60))
    assert [(tick.label, tick.shown, tick.at, tick.left) for tick in line.ticks] == [
        ("Pseudo-label", "30%", 20, False),
        ("Prior ceiling", "65%", 90, True),
    ]


def test_the_gauge_stretches_instead_of_clipping() -> None:
    line = gauge(Headline.of({"floor": 0.0, "ceiling": 0.5, "attack": {"value": -0.25, "low": -0.5, "high": 0.0}}))
    assert line is not None
    assert (line.attack_at, line.interval, line.floor_at, line.ceiling_at) == (25, (0, 50), 50, 100)
    assert gauge(Headline.of({"floor": 0.5, "ceiling": 0.5, "attack": 0.5})) is None
    assert gauge(Headline.of({"floor": 0.5, "attack": 0.5})) is None


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (0.742, "74%"),
        (0.0, "0%"),
        (-0.0, "0%"),
        (1.0, "100%"),
        (0.9999, "100%"),
        (0.996, "99.6%"),
        (0.99, "99%"),
        (0.004, "0.4%"),
        (0.0001, "0%"),
        (-0.004, "-0.4%"),
        (-0.0001, "0%"),
        (1.2, "120%"),
        (None, "not measured"),
    ],
)
def test_percentages(value: float | None, written: str) -> None:
    assert percent(value) == written


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (0.0, "0"),
        (0.5234, "0.52"),
        (0.0312, "0.031"),
        (12.34, "12.3"),
        (1240.4, "1,240"),
        (-3.2, "-3.20"),
        (0.0001, "1.00e-04"),
        (2e7, "2.00e+07"),
        (None, "not measured"),
    ],
)
def test_plain_numbers(value: float | None, written: str) -> None:
    assert plain(value) == written


def test_small_readers() -> None:
    unusable: list[object] = [True, "1", None, float("nan"), float("inf"), 10**400, []]
    assert [number(item) for item in unusable] == [None] * 7 and number(3) == 3.0
    assert [duration(x) for x in (None, 41.6, 725.0, 7380.0)] == [
        "not measured",
        "42 s",
        "12 min 5 s",
        "2 h 3 min",
    ]
    assert scalar([1, True, None, "a\nb"]) == "1, yes, not measured, a b"
    assert list(flatten({"a": {"b": 1, "c": {}}, "d": [{"e": 2}]})) == [
        ("a.b", "1"),
        ("a.c", "none"),
        ("d.0.e", "2"),
    ]


# ------------------------------------------------------------------------------ the browser

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--virtual-time-budget=5000",
)
WATCH = """window.troubles = [];
addEventListener("error", (event) => troubles.push(String(event.message)));
addEventListener("securitypolicyviolation", (event) => troubles.push(event.violatedDirective));"""
CHECK = """addEventListener("load", () => {
  const people = () => [...document.querySelectorAll(".sortable tbody th")].map((cell) => cell.textContent);
  const heads = [...document.querySelectorAll("table.sortable thead button")];
  const click = (text) => (heads.find((head) => head.textContent === text).click(), people());
  const box = (selector) => document.querySelector(selector).getBoundingClientRect();
  const images = [...document.images];
  const links = [...document.querySelectorAll('a[href^="#"]')];
  document.body.dataset.check = JSON.stringify({
    troubles, images: images.length, shown: images.filter((image) => image.naturalWidth > 0).length,
    links: links.length, broken: links.filter((a) => !document.getElementById(a.hash.slice(1))).length,
    overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    scripted: document.documentElement.className, unsorted: people(),
    falling: click("Similarity"), rising: click("Similarity"), named: click("Person"),
    cut: [...document.querySelectorAll(".scroll, .tall")].filter((part) => part.scrollWidth > part.clientWidth + 2
      && !(part.hasAttribute("data-more") && part.previousElementSibling?.className === "swipe")).length,
    hints: document.querySelectorAll(".swipe:not([hidden])").length,
    attackAt: (box(".dot").x + box(".dot").width / 2 - box(".rail").x) / box(".rail").width,
  });
});"""


def watched(html: str) -> str:
    """The page with two scripts added, allowed by their hashes; its policy stays as strict as it is."""
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in (WATCH, CHECK)]
    html = html.replace("script-src ", "script-src " + "".join(f"'sha256-{digest}' " for digest in digests))
    html = html.replace("<title>", f"<script>{WATCH}</script><title>")
    return html.replace("</body>", f"<script>{CHECK}</script></body>")


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium binary on this machine")
def test_a_browser_shows_the_page_without_trouble(run: Path, tmp_path: Path) -> None:
    page = run / "check ü.html"
    page.write_text(watched(render_run(run).read_text(encoding="utf-8")), encoding="utf-8")
    command = [
        str(CHROMIUM),
        *FLAGS,
        f"--user-data-dir={tmp_path / 'profile'}",
        "--window-size=500,900",
        "--dump-dom",
        page.as_uri(),
    ]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    found = re.search(r'data-check="([^"]*)"', dom)
    assert found
    check = json.loads(unescape(found[1]))
    assert check.pop("hints") > 0, "at 500 pixels the table of arms is wider than its card"
    assert check.pop("attackAt") == pytest.approx((0.74 - 0.02) / (0.99 - 0.02), abs=0.005)
    assert check == {
        "troubles": [],
        "cut": 0,
        "images": 2,
        "shown": 2,
        "links": 10,
        "broken": 0,
        "overflow": 0,
        "scripted": "js",
        "unsorted": [EVIL, "Ann", "Cy"],
        "falling": [EVIL, "Ann", "Cy"],
        "rising": ["Ann", EVIL, "Cy"],
        "named": [EVIL, "Ann", "Cy"],
    }


def test_victims_of_a_comparison_and_their_cost(run: Path) -> None:
    share = {"value": 0.9, "low": 0.88, "high": 0.92}
    report = full_report()
    report["channels"] = {"feature": {
        "headline": "variance_recovered", "leak": {"value": 0.4, "low": 0.3, "high": 0.5}, "attack": {"value": 0.4},
        "floor": {"value": 0.0}, "ceiling": {"value": 1.0},
        "cost": {"bytes_float32": 2048, "edge_macs": 21233664, "edge_milliseconds": 0.68, "device": "a chip"},
        "recommended": {"name": EVIL, "because": "it leaks least"},
        "variants": [{"name": "undefended", "defences": "", "accuracy": share, "bytes": 2048, "leak": {"value": 0.9},
                      "mse": {"value": 0.004}, "ssim": {"value": 0.8}, "best_attack": "decoder"},
                     {"name": EVIL, "defences": "noise + cem(gated)", "accuracy": share, "bytes": 2048,
                      "leak": {"value": 0.4}, "accuracy_cost": {"value": 0.01, "low": 0.0, "high": 0.02},
                      "leak_reduction": {"value": 0.5, "low": 0.4, "high": 0.6}, "best_attack": "gan"}]}}
    page = Page(render(report, run))
    plain, defended = (next(row for row in page.rows if row and row[0].startswith(name))
                       for name in ("undefended", EVIL))
    assert plain[1:6] == ["none", "90% 88–92%", "–", "2,048", "90%"]
    assert defended[1] == "noise + cem(gated)" and defended[3] == "1.0 0.0 to 2.0"
    assert defended[6] == "50.0 40.0 to 60.0" and "recommended" in defended[0]
    assert "Take <script>" in page.text and "21,233,664" in page.text and "0.68 ms" in page.text
    assert "#feature-variants" in page.links and "#feature-cost" in page.links
    report["channels"]["feature"]["victim"] = {"name": "vgg11", "architecture": "vgg11", "cut": "encode",
                                               "people": False, "n_classes": 10, "accuracy": 0.55}
    page = Page(render(report, run))
    assert "Victim: vgg11 · cut after encode · 10 classes · 55% right on held-out images" in page.text
    assert "people" not in page.text.partition("It does not mean")[0].partition("What this means")[0]
