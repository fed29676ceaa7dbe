"""The figures: what is drawn is what was given, and what was not logged is not drawn."""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

import latentprint.report.html
from latentprint.report import curves, embeddings, figures, plots, sheets
from latentprint.report.style import GREEN, RED

Row = dict[str, Any]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Figure]]:
    """The figures saved during a test."""
    saved: list[Figure] = []
    write = Figure.savefig

    def keep(self: Figure, *args: Any, **options: Any) -> None:
        saved.append(self)
        write(self, *args, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    yield saved


def rows() -> list[Row]:
    victim = [{"phase": "victim", "step": step, "loss": 1.0 - step / 10} for step in range(5)]
    stage0 = [{"phase": "stage0", "step": step, "loss": 2.0, "frechet": float(step)} for step in range(4)]
    stage1 = [
        {
            "phase": "stage1",
            "step": step,
            "loss": 1.0,
            "lambda": step / 3,
            "raw/align": 0.5,
            "weight/cls": 1.0,
            "raw/cls": 0.1,
            "weight/prior": 2.0,
            "raw/prior": 0.2,
        }
        for step in range(4)
    ]
    stage1[2]["loss"] = float("nan")
    return victim + stage0 + stage1


def titled(figure: Figure, title: str) -> Axes:
    return next(axis for axis in figure.axes if axis.get_title(loc="left") == title)


def points(axis: Axes) -> list[list[tuple[float, float]]]:
    """The curves of an axis without its boundary lines."""
    curves = [line.get_xydata() for line in axis.lines if line.get_linestyle() == "-"]
    return [[(float(x), float(y)) for x, y in np.asarray(curve)] for curve in curves]


# ---------------------------------------------------------------------------------------------------- metrics


def test_read_metrics_survives_a_killed_run(tmp_path: Path) -> None:
    good = {"phase": "stage0", "step": 1, "loss": 0.5}
    again = good | {"loss": 0.25}
    lines = [
        json.dumps(good),
        '{"phase": "stage0", "st',
        '{"step": 3}',
        "[1]",
        '{"phase": "stage0"}',
        "",
        "\udcff",
        json.dumps(again),
        json.dumps(good | {"step": 2, "loss": math.nan}),
        '{"phase": "stage1", "step": 2, "lo',
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines), encoding="utf-8", errors="surrogateescape")
    read = figures.read_metrics(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in read] == [1, 2]
    assert read[0]["loss"] == 0.25 and math.isnan(read[1]["loss"])
    assert figures.read_metrics(tmp_path / "none.jsonl") == []


def test_phases_follow_one_another() -> None:
    assert figures.ends(rows()) == {"victim": 4, "stage0": 7, "stage1": 10}


def test_a_side_log_joins_its_stage() -> None:
    order = [("stage0-look", 5), ("stage0", 3), ("stage1", 2), ("stage0", 9), ("victim", 1), ("stage1-look", 1)]
    stages = figures.stage_rows([{"phase": phase, "step": step} for phase, step in order])
    assert [(row["phase"], row["step"]) for row in stages] == [
        ("stage0", 3), ("stage0", 5), ("stage0", 9), ("stage1", 1), ("stage1", 2)
    ]  # fmt: skip


def test_training_curves_draw_every_phase(tmp_path: Path, drawn: list[Figure]) -> None:
    assert figures.training_curves(rows(), tmp_path / "a.png")
    (figure,) = drawn
    assert [axis.get_title(loc="left") for axis in figure.axes] == [
        "models: loss",
        "loss",
        "Fréchet distance",
    ]
    assert points(titled(figure, "models: loss")) == [[(step, 1.0 - step / 10) for step in range(5)]]
    assert points(titled(figure, "loss")) == [[(0, 2), (1, 2), (2, 2), (3, 2)], [(3, 1), (4, 1), (6, 1)]]
    assert points(titled(figure, "Fréchet distance")) == [[(0, 0), (1, 1), (2, 2), (3, 3)]]
    boundaries = [line.get_xdata() for line in titled(figure, "loss").lines if line.get_linestyle() == "--"]
    assert [list(np.asarray(x)) for x in boundaries] == [[3, 3]]


def test_schedule_and_weights(tmp_path: Path, drawn: list[Figure]) -> None:
    assert figures.schedule_curves(rows(), tmp_path / "a.png")
    assert figures.weights_over_time(rows(), tmp_path / "b.png")
    schedule, weights = drawn
    assert points(schedule.axes[0]) == [[(step, step / 3) for step in range(4)]]
    assert points(titled(schedule, "alignment loss")) == [[(step, 0.5) for step in range(4)]]
    assert points(titled(weights, "weights")) == [[(s, 1.0) for s in range(4)], [(s, 2.0) for s in range(4)]]
    assert points(titled(weights, "raw losses")) == [
        [(s, 0.5) for s in range(4)],
        [(s, 0.1) for s in range(4)],
        [(s, 0.2) for s in range(4)],
    ]
    legend = titled(weights, "weights").get_legend()
    assert legend is not None and [text.get_text() for text in legend.get_texts()] == ["cls", "prior"]


def test_a_loss_of_an_early_stage_is_named_once(tmp_path: Path, drawn: list[Figure]) -> None:
    early = {"phase": "stage0", "step": 2, "weight/prior": 1.0, "weight/perceptual": 3.0}
    late = {"phase": "stage1", "step": 5, "weight/prior": 2.0}
    figures.weights_over_time([early, late], tmp_path / "a.png")
    (axis,) = drawn[0].axes
    legend = axis.get_legend()
    assert legend is not None and [text.get_text() for text in legend.get_texts()] == ["perceptual", "prior"]
    assert sorted(points(axis)) == [[(2, 1)], [(2, 3)], [(7, 2)]]


def test_from_metrics_draws_what_was_logged(tmp_path: Path) -> None:
    assert figures.from_metrics(tmp_path) == []
    (tmp_path / "metrics.jsonl").write_text("\n".join(json.dumps(row) for row in rows()[:9]))
    entries = figures.from_metrics(tmp_path)
    assert [entry["file"] for entry in entries] == ["images/training_curves.png"]
    assert [file.name for file in (tmp_path / "images").iterdir()] == ["training_curves.png"]
    (tmp_path / "metrics.jsonl").write_text("\n".join(json.dumps(row) for row in rows()))
    for entry in (all_entries := figures.from_metrics(tmp_path)):
        with Image.open(tmp_path / entry["file"]) as image:
            assert image.mode == "RGBA" and image.getpixel((0, 0)) == (
                255,
                255,
                255,
                0,
            )  # no ground of its own
    assert len(all_entries) == 3


def test_embeddings_are_joined_person_by_person(tmp_path: Path, drawn: list[Figure]) -> None:
    label, teacher = (
        np.array([[0.0, 1.0], [2.0, 3.0], [5.0, 5.0]]),
        np.array([[1.0, 1.0], [2.0, 2.0], [4.0, 5.0]]),
    )
    plots.embedding_plot(label, teacher, tmp_path / "a.png")
    joins, marks = drawn[0].axes[0].lines[:3], drawn[0].axes[0].lines[3:]
    assert [np.asarray(line.get_xydata()).tolist() for line in joins] == np.stack([label, teacher], 1).tolist()
    assert [np.asarray(line.get_xydata()).tolist() for line in marks] == [teacher.tolist(), label.tolist()]


def test_histogram_counts_each_group_in_percent(tmp_path: Path, drawn: list[Figure]) -> None:
    plots.similarity_histogram([0.8, 0.9, np.nan], np.zeros(50), np.array([]), 0.4, tmp_path / "a.png")
    axis = drawn[0].axes[0]
    tops = [float(np.asarray(patch.get_path().vertices)[:, 1].max()) for patch in axis.patches]
    assert tops == [
        pytest.approx(100),
        pytest.approx(50),
    ]  # strangers share a bin, the two genuine pairs do not
    labels = axis.get_legend_handles_labels()[1]
    assert set(labels) == {"impostors", "same person, real photos", "threshold 0.40"}
    assert list(np.asarray(axis.lines[0].get_xdata())) == [0.4, 0.4]


# ---------------------------------------------------------------------------------------------------- sheets


def faces(n: int, size: int, seed: int) -> sheets.Images:
    return np.random.default_rng(seed).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def pixels(path: Path) -> sheets.Images:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGBA"))


def test_the_grid_shows_every_pixel_at_its_place(tmp_path: Path) -> None:
    stacks = [faces(4, 32, seed) for seed in range(3)]
    real, attribute, drawn = stacks
    figures.face_grid(
        real,
        attribute,
        drawn,
        ["a", "$b$", "名\n字", "d" * 99],
        [0.5, 0.1, float("nan"), 1],
        [True, False, False, True],
        tmp_path / "grid.png",
    )
    sheet = pixels(tmp_path / "grid.png")
    zoom, side, margin = 4, 128, sheets.MARGIN
    block = 3 * side + 2 * sheets.GAP + sheets.BETWEEN
    for person in range(4):
        top = margin + sheets.HEAD + (person // 3) * (side + sheets.FOOT)
        for place, stack in enumerate(stacks):
            left = margin + (person % 3) * block + place * (side + sheets.GAP)
            shown = sheet[top : top + side, left : left + side]
            assert (shown[..., 3] == 255).all()
            np.testing.assert_array_equal(shown[::zoom, ::zoom, :3], stack[person])
            np.testing.assert_array_equal(shown[zoom - 1 :: zoom, zoom - 1 :: zoom, :3], stack[person])


def test_the_grid_says_who_was_matched(tmp_path: Path, drawn: list[Figure]) -> None:
    same = faces(2, 64, 0)
    figures.face_grid(same, same, same, ["Ann", "x" * 50], [0.567, float("nan")], [True, False], tmp_path / "g.png")
    said = {text.get_text(): text.get_color() for text in drawn[0].texts}
    assert said["0.57 ✓"] == GREEN and said["– ✗"] == RED
    figures.face_grid(same[:1], same[:1], same[:1], ["Ann"], [0.5], [None], tmp_path / "g.png")  # no threshold
    assert "0.50" in {text.get_text() for text in drawn[1].texts}
    assert "Ann" in said and any(len(name) < 50 and name.endswith("x…") for name in said)
    assert list(said)[:3] == ["real photo", "attribute image", "reconstruction"]


def test_samples_run_from_left_to_right(tmp_path: Path) -> None:
    early, late = faces(2, 48, 1), faces(2, 48, 2)
    figures.samples_strip({500: late, 0: early}, tmp_path / "strip.png")
    sheet, side = pixels(tmp_path / "strip.png"), 96
    top, left = sheets.MARGIN + sheets.HEAD, sheets.MARGIN
    for row in range(2):
        y = top + row * (side + sheets.GAP)
        np.testing.assert_array_equal(sheet[y : y + side : 2, left : left + side : 2, :3], early[row])
        x = left + side + sheets.GAP
        np.testing.assert_array_equal(sheet[y : y + side : 2, x : x + side : 2, :3], late[row])


def test_a_table_across_has_a_row_a_version(tmp_path: Path, drawn: list[Figure]) -> None:
    real, drawing = faces(3, 48, 1), faces(3, 48, 2)
    sheets.picture_table({"image": real, "decoder": drawing}, tmp_path / "grid.png", {"decoder": ["1", "2", "3"]},
                         across=True)
    sheet, side = pixels(tmp_path / "grid.png"), 96
    for thing in range(3):
        x = sheets.MARGIN + sheets.SIDE + thing * (side + sheets.GAP)
        for version, images in enumerate((real, drawing)):
            y = sheets.MARGIN + version * (side + sheets.GAP + sheets.CAPTION)
            np.testing.assert_array_equal(sheet[y : y + side : 2, x : x + side : 2, :3], images[thing])
    assert [text.get_text() for text in drawn[0].texts] == ["image", "decoder", "1", "2", "3"]


@pytest.mark.parametrize(
    "bad", [np.zeros((2, 8, 8, 3)), np.zeros((2, 3, 8, 8), np.uint8), np.zeros((1, 8, 8, 3), np.uint8)]
)
def test_sheets_refuse_other_arrays(tmp_path: Path, bad: Any) -> None:
    good = np.zeros((2, 8, 8, 3), np.uint8)
    with pytest.raises(ValueError, match="uint8 of one shape"):
        figures.face_grid(good, good, bad, ["a", "b"], [1, 1], [True, True], tmp_path / "g.png")
    with pytest.raises(ValueError, match="uint8 of one shape"):
        figures.samples_strip({0: good, 1: bad}, tmp_path / "g.png")
    with pytest.raises(ValueError, match="each of the 2"):
        figures.face_grid(good, good, good, ["a"], [1, 1], [True, True], tmp_path / "g.png")
    assert not (tmp_path / "g.png").exists()


def test_the_report_package_leaves_pyplot_alone() -> None:
    for file in Path(latentprint.report.html.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
            assert not any("pyplot" in name for name in [*names, module]), file.name


def test_defence_curves_show_what_defences_logged_alone(tmp_path: Path, drawn: list[Figure]) -> None:
    logged = [{"phase": "victim", "step": step, "loss": 1.0, "accuracy": 0.5, "cem": 3.0 - step / 10,
               **({"cem_gates": 0.1} if step % 2 else {})} for step in range(10)]
    assert figures.defence_curves(logged, tmp_path / "defence.png")
    axes = drawn[0].axes
    assert [axis.get_title("left") or axis.get_title() for axis in axes] == ["cem", "cem gates"]
    assert axes[0].lines[0].get_ydata().tolist() == [3.0 - step / 10 for step in range(10)]  # type: ignore[union-attr]
    assert len(axes[1].lines[0].get_xdata()) == 5  # type: ignore[arg-type]
    assert not figures.defence_curves(rows(), tmp_path / "nothing.png")
    assert not (tmp_path / "nothing.png").exists()


def test_a_picture_table_has_a_row_a_thing_and_a_column_a_version(tmp_path: Path) -> None:
    shades = {name: np.full((3, 8, 8, 3), shade, np.uint8) for name, shade in (("real", 40), ("made", 200))}
    sheets.picture_table(shades, tmp_path / "table.png", {"made": ["1 dB", "2 dB", "3 dB"]})
    picture = np.asarray(Image.open(tmp_path / "table.png").convert("RGB"))
    for shade in (40, 200):
        assert (picture == shade).all(2).sum() >= 3 * 96 * 96
    with pytest.raises(ValueError, match="at least one column"):
        sheets.picture_table({}, tmp_path / "no.png")
    with pytest.raises(ValueError, match="caption for each of the 3"):
        sheets.picture_table(shades, tmp_path / "no.png", {"made": ["1 dB"]})


def test_gates_and_penalties_of_classes(tmp_path: Path, drawn: list[Figure]) -> None:
    gates = np.array([[0.0, 0.25, 1.0], [0.25, 0.25, 0.5]], np.float32)
    plots.gates_plot({"dimension_gate": gates, "snr_gate": 1 - gates}, tmp_path / "gates.png")
    panels = drawn[0].axes[:4]
    assert [panel.get_title(loc="left") for panel in panels[:2]] == ["dimension gate", "snr gate"]
    assert np.array_equal(np.asarray(panels[0].images[0].get_array()), gates)
    heights = [patch.get_height() for patch in panels[2].patches]  # type: ignore[attr-defined]
    assert sum(heights) == pytest.approx(100) and max(heights) == pytest.approx(50)  # three of six are 0.25
    plots.penalty_bars({"cat": 0.5, "$dog$": 0.25}, tmp_path / "bars.png")
    assert [patch.get_width() for patch in drawn[1].axes[0].patches] == [0.5, 0.25]  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="at least one"):
        plots.gates_plot({}, tmp_path / "none.png")


def test_legends_lie_outside_what_is_plotted(tmp_path: Path, drawn: list[Figure]) -> None:
    xy = np.random.default_rng(0).normal(size=(20, 2))
    names = ("judge", "a recogniser whose name is long enough for a second line of the legend", "third")
    plots.embedding_plot(xy, xy + 1, tmp_path / "a.png")
    plots.similarity_histogram(xy[:, 0], xy[:, 1], xy[:, 0], 0.4, tmp_path / "b.png")
    embeddings.norm_histogram(xy[:, 0], xy[:, 1], tmp_path / "c.png")
    curves.rate_curves(dict.fromkeys(names, (xy[:, 0], xy[:, 1])), 1e-3, tmp_path / "d.png")
    curves.share_curves({name: ([1e-3, 1e-2], np.array([0.0, 1.0])) for name in names}, 1e-3, "SAR", tmp_path / "e.png")
    figures.training_curves(rows(), tmp_path / "f.png")
    figures.gradient_curves([{"phase": "stage0", "step": 1, "gradient_l2": 1.0}], tmp_path / "g.png")
    figures.weights_over_time(rows(), tmp_path / "h.png")
    assert len(drawn) == 8
    for figure in drawn:
        legends = [*figure.legends, *filter(None, (axis.get_legend() for axis in figure.axes))]
        assert legends
        for box in (legend.get_window_extent() for legend in legends):
            assert not any(axis.get_window_extent().overlaps(box) for axis in figure.axes)
            assert box.x0 >= 0 and box.x1 <= figure.bbox.width and box.y1 <= figure.bbox.height


def test_nothing_to_plot_makes_no_figure(tmp_path: Path) -> None:
    nothing = np.array([])
    assert not plots.similarity_histogram(nothing, [np.nan], nothing, 0.4, tmp_path / "a.png")
    assert not curves.share_curves({"a": ([1e-3], np.array([np.nan]))}, 1e-3, "SAR", tmp_path / "b.png")
    assert not curves.rate_curves({"a": (nothing, nothing)}, 1e-3, tmp_path / "c.png")
    unknown = [{"phase": phase, "step": 1, **dict.fromkeys(
        ("loss", "accuracy", "lambda", "align", "gradient_l2", "weight/cls", "cem"))} for phase in ("victim", "stage0")]
    for plot in (figures.training_curves, figures.schedule_curves, figures.gradient_curves, figures.weights_over_time,
                 figures.defence_curves):
        assert not plot(unknown, tmp_path / "d.png")
    assert not figures.compared_curves({"a": unknown}, tmp_path / "e.png")
    assert plots.similarity_histogram([0.5], nothing, nothing, np.nan, tmp_path / "f.png"), "a threshold may be missing"
    assert [file.name for file in tmp_path.iterdir()] == ["f.png"]


def test_bars_of_zero_are_not_on_the_edge(tmp_path: Path, drawn: list[Figure]) -> None:
    plots.penalty_bars({"a": 0.0, "b": 0.0}, tmp_path / "a.png")
    plots.penalty_bars({"a": 0.0, "b": 2.0}, tmp_path / "b.png")
    for figure, most in zip(drawn, (0.0, 2.0), strict=True):
        low, high = figure.axes[0].get_xlim()
        assert low < 0 and high > most


def test_logarithmic_axes_are_labelled_with_plain_numbers(tmp_path: Path, drawn: list[Figure]) -> None:
    values = np.linspace(0, 1, 50)
    curves.rate_curves({"judge": (values, values)}, 1e-3, tmp_path / "a.png")
    figures.gradient_curves([{"phase": "stage0", "step": step, "gradient_l2": 10.0 ** -step} for step in range(4)],
                            tmp_path / "b.png")
    rates, gradients = drawn
    for axis in (rates.axes[0].xaxis, gradients.axes[0].yaxis):
        labels = [label.get_text() for label in axis.get_ticklabels(which="both") if label.get_text()]
        assert labels and "0.1" in labels and not any("$" in label for label in labels)
