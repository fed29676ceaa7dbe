"""The curves of a report, from the rows of metrics.jsonl."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, cycle, islice, product
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from latentprint.report import names
from latentprint.report.sheets import face_grid, samples_strip
from latentprint.report.style import BLUE, INK, ORANGE, PALETTE, canvas, legend, plain_powers, rows_of_axes
from latentprint.report.values import number

__all__ = ["compared_curves", "defence_curves", "face_grid", "from_metrics", "gradient_curves", "read_metrics",
           "samples_strip", "schedule_curves", "training_curves", "weights_over_time"]

Row = dict[str, Any]
Curve = tuple[NDArray[np.float64], NDArray[np.float64]]
FIRST_KEYS = ("loss", "success", "top1", "similarity", "identity", "frechet", "lpips", "perceptual", "grad_norm",
              "attention_entropy", "norm", "distance", "collapse", "alike", "diversity")
MAX_PANELS = 15
LINES: tuple[Literal["-", "--", ":"], ...] = ("-", "--", ":")  # where runs outnumber colours


def read_metrics(path: Path) -> list[Row]:
    """The rows of metrics.jsonl, each ``{"phase", "step", **values}``, in order; no file means no rows.

    A killed run leaves a line cut short, and resuming writes some steps again: unreadable lines are skipped,
    and of two rows for the same phase and step the later stays.
    """
    rows: dict[tuple[str, float], Row] = {}
    if not path.exists():
        return []
    for line in path.read_bytes().splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if not isinstance(row, dict) or not isinstance(row.get("phase"), str):
            continue
        if (step := number(row.get("step"))) is not None:
            rows[row["phase"], step] = row
    return list(rows.values())


def from_metrics(run_dir: Path) -> list[dict[str, str]]:
    """Draw the training, schedule and weight curves of a run into ``images/``, those that were logged.

    Returns:
        entries for the ``figures`` list of report.json: ``{"file", "title", "caption"}``.
    """
    rows = read_metrics(run_dir / "metrics.jsonl")
    wanted = (
        (training_curves, "training_curves", "Training",
         "Victim and evaluators first, then the attack. Dashed lines separate its stages."),
        (schedule_curves, "schedule", "From photo to label",
         "Lambda moves the prior's condition from photo embeddings to label embeddings. Below: the alignment loss."),
        (weights_over_time, "weights", "Loss weights",
         "Learned weights of the losses, and the losses before weighting."),
        (gradient_curves, "gradients", "Gradients of the feature losses",
         "Mean norm, along the sphere, of each loss's gradient at the sampled embeddings. Both are shown, whichever is "
         "trained on."),
        (defence_curves, "defence", "Quantities of the defence",
         "Penalties during the victim's training, and the attention of its surrogate."),
    )
    drawn = []
    for draw, name, title, caption in wanted:
        if draw(rows, run_dir / "images" / f"{name}.png"):
            drawn.append({"file": f"images/{name}.png", "title": title, "caption": caption})
    return drawn


def training_curves(rows: Sequence[Row], path: Path) -> bool:
    """All phases as small panels: victim and evaluators, then each quantity of the attack's stages.

    Returns:
        whether there was anything to draw; without it no file is written.
    """
    stages, models = stage_rows(rows), [row for row in rows if not _is_stage(row)]
    model_panels = [key for key in ("loss", "accuracy") if _logged(models, key)]
    keys = _plain_keys(stages)[: MAX_PANELS - len(model_panels)]
    n = len(model_panels) + len(keys)
    if not n:
        return False
    columns = min(3, n)
    with canvas(path, 3.6 * columns, 2.5 * -(-n // columns)) as figure:
        axes = rows_of_axes(figure, n, columns)
        for axis, key in zip(axes, model_panels, strict=False):
            for phase in _phases(models):
                _line(axis, _curve([row for row in models if row["phase"] == phase], key), phase)
            _finish(axis, f"models: {_title(key)}")
        for axis, key in zip(axes[len(model_panels):], keys, strict=True):
            _staged(axis, stages, [(key, BLUE, "")])
            _finish(axis, _title(key))
        legend(figure)
    return True


def gradient_curves(rows: Sequence[Row], path: Path) -> bool:
    """Gradient lengths of L2 and InfoNCE, a panel a generator, on one logarithmic axis. False (and no file) without."""
    known = (("gradient_l2", BLUE, "L2"), ("gradient_info_nce", ORANGE, "InfoNCE"))
    phases = _phases([row for row in rows if any(_logged([row], key) for key, _, _ in known)])
    if not phases:
        return False
    with canvas(path, 5.6, 2.6 * len(phases)) as figure:
        for axis, phase in zip(rows_of_axes(figure, len(phases), 1), phases, strict=True):
            for key, color, label in known:
                _line(axis, _curve([row for row in rows if row["phase"] == phase], key), label, color)
            axis.set_yscale("log")
            plain_powers(axis.yaxis)
            _finish(axis, phase)
        legend(figure)
    return True


def schedule_curves(rows: Sequence[Row], path: Path) -> bool:
    """Lambda over steps above the alignment loss, stages marked. False (and no file) without either."""
    align = "align" if _logged(rows, "align") else "raw/align"
    known = (("lambda", BLUE, "lambda: weight of the label embedding"), (align, ORANGE, "alignment loss"))
    wanted = {row["phase"] for row in stage_rows(rows) if any(_logged([row], key) for key, _, _ in known)}
    stages = [row for row in stage_rows(rows) if row["phase"] in wanted]
    panels = [panel for panel in known if _logged(stages, panel[0])]
    if not panels:
        return False
    with canvas(path, 5.6, 2.4 * len(panels)) as figure:
        for axis, (key, color, title) in zip(rows_of_axes(figure, len(panels), 1), panels, strict=True):
            _staged(axis, stages, [(key, color, "")])
            _finish(axis, title)
    return True


def weights_over_time(rows: Sequence[Row], path: Path) -> bool:
    """Weights (``weight/*``) above raw losses (``raw/*``), a colour a loss. False (and no file) without."""
    stages = stage_rows(rows)
    found = {str(key) for row in stages for key in row if _logged([row], key)}
    losses = sorted({key.partition("/")[2] for key in found if key.startswith(("weight/", "raw/"))})
    kinds = [kind for kind in ("weight", "raw") if any(f"{kind}/{loss}" in found for loss in losses)]
    if not losses:
        return False
    logged = [row for row in stages if any(str(key).startswith(("weight/", "raw/")) for key in row)]
    with canvas(path, 5.6, 2.6 * len(kinds)) as figure:
        for axis, kind in zip(rows_of_axes(figure, len(kinds), 1), kinds, strict=True):
            _staged(axis, logged, [(f"{kind}/{loss}", PALETTE[index % len(PALETTE)], loss)
                                   for index, loss in enumerate(losses)])
            _finish(axis, "weights" if kind == "weight" else "raw losses")
            one_each = dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))  # not one a stage
            axis.legend(one_each.values(), one_each.keys(), fontsize=9.5, loc="center left", bbox_to_anchor=(1, 0.5))
    return True


#: What every victim logs; all else was logged by a defence.
COMMON = frozenset({"phase", "step", "loss", "accuracy", "task", "grad_norm", "skipped"})


def defence_curves(rows: Sequence[Row], path: Path) -> bool:
    """What defences logged while the victim was trained, a panel a quantity. False (and no file) without any."""
    victim = [row for row in rows if row["phase"] == "victim"]
    keys = list(dict.fromkeys(key for row in victim for key in row if key not in COMMON and _logged([row], key)))
    keys = keys[:MAX_PANELS]
    if not keys:
        return False
    columns = min(3, len(keys))
    with canvas(path, 3.6 * columns, 2.5 * -(-len(keys) // columns)) as figure:
        for axis, key in zip(rows_of_axes(figure, len(keys), columns), keys, strict=True):
            _line(axis, _curve(victim, key), "")
            _finish(axis, _title(key))
    return True


#: Quantities by which runs compare; of those with two names, the first that was logged.
COMPARED = (("frechet",), ("success",), ("identity",), ("loss",), ("lambda",), ("align", "raw/align"))


def compared_curves(runs: Mapping[str, Sequence[Row]], path: Path) -> bool:
    """Curves of several runs, a panel a quantity and a colour a run. False (and no file) without any.

    Args:
        runs: rows of metrics.jsonl by the run's name.
        path: the PNG to write.
    """
    logged = {name: stages for name, rows in runs.items() if (stages := stage_rows(rows))}
    found = {str(key) for stages in logged.values() for row in stages for key in row if _logged([row], key)}
    keys = [next(key for key in known if key in found) for known in COMPARED if found & set(known)]
    if not keys:
        return False
    columns = min(3, len(keys))
    with canvas(path, 3.6 * columns, 2.5 * -(-len(keys) // columns) + 0.25 * -(-len(logged) // 4)) as figure:
        styles = islice(cycle(product(LINES, PALETTE)), len(logged))
        handles = [Line2D([], [], color=color, linestyle=line) for line, color in styles]
        for axis, key in zip(rows_of_axes(figure, len(keys), columns), keys, strict=True):
            for handle, stages in zip(handles, logged.values(), strict=True):
                _run(axis, stages, key, handle)
            axis.set_xlim(0, max(max(ends(stages).values()) for stages in logged.values()) or 1)
            _finish(axis, "alignment loss" if "align" in key else _title(key))
        legend(figure, handles, list(logged))
    return True


def _logged(rows: Iterable[Row], key: str) -> bool:
    """Whether any row has a finite number there: without one there is nothing to plot."""
    return any(number(row.get(key)) is not None for row in rows)


def _is_stage(row: Row) -> bool:
    return str(row["phase"]).startswith("stage")


def _phases(rows: Iterable[Row]) -> list[str]:
    return list(dict.fromkeys(str(row["phase"]) for row in rows))


def _title(key: str) -> str:
    return names.METRICS[key].label if key in names.METRICS else key.replace("_", " ")


def _plain_keys(rows: Iterable[Row]) -> list[str]:
    """Numeric keys with a panel of their own: lambda, alignment and weighted losses have other figures."""
    found = {str(key) for row in rows for key, value in row.items() if number(value) is not None}
    rest = {key for key in found if "/" not in key} - {"step", "phase", "lambda", "align"}
    return [key for key in FIRST_KEYS if key in rest] + sorted(rest - set(FIRST_KEYS))


def _curve(rows: Iterable[Row], key: str, offset: float = 0.0) -> Curve:
    """Steps and finite values of one key."""
    points = [(float(row["step"]) + offset, value) for row in rows
              if (value := number(row.get(key))) is not None]
    steps, values = zip(*points, strict=True) if points else ((), ())
    return np.asarray(steps, float), np.asarray(values, float)


def stage_rows(rows: Sequence[Row]) -> list[Row]:
    """The attack's rows by stage and step; a stage's side log (``stage1-look``) joins its stage.

    What a side log holds is taken from there alone: the stage's own rows repeat it, late, until the next look.
    """
    looks = {str(row["phase"]): set(row) - {"phase", "step"} for row in rows if "-" in str(row["phase"])}
    stages = []
    for row in filter(_is_stage, rows):
        stage, aside, _ = str(row["phase"]).partition("-")
        late = set() if aside else looks.get(f"{stage}-look", set())
        stages.append({key: value for key, value in row.items() if key not in late} | {"phase": stage})
    order = _phases(stages)
    return sorted(stages, key=lambda row: (order.index(row["phase"]), float(row["step"])))


def ends(rows: Sequence[Row]) -> dict[str, float]:
    """Where each phase ends when the phases, whose steps all start at 0, follow one another."""
    steps = {phase: [float(row["step"]) for row in rows if row["phase"] == phase] for phase in _phases(rows)}
    return dict(zip(steps, accumulate(map(max, steps.values())), strict=True))


def _staged(axis: Axes, rows: Sequence[Row], keys: Iterable[tuple[str, str, str]]) -> None:
    """Keys over the stages end to end, boundaries dashed and stages named at the top."""
    keys, start, finish = list(keys), 0.0, ends(rows)
    last = max(finish.values())
    for phase, end in finish.items():
        if start:
            axis.axvline(start, color=INK, linewidth=1, linestyle=(0, (3, 3)), alpha=0.8)
        name = phase if end - start > 0.2 * last else phase.removeprefix("stage")
        axis.annotate(name, (start, 1), xycoords=("data", "axes fraction"), va="top", fontsize=9,
                      xytext=(3, -2), textcoords="offset points")
        part = [row for row in rows if row["phase"] == phase]
        for key, color, label in keys:
            _line(axis, _curve(part, key, start), label, color)
        start = end
    axis.margins(y=0.2)
    if last:
        axis.set_xlim(0, last)


def _run(axis: Axes, rows: Sequence[Row], key: str, look: Line2D) -> None:
    """One key of one run, its stages end to end, a dot where each begins."""
    start = 0.0
    for phase, end in ends(rows).items():
        steps, values = _curve([row for row in rows if row["phase"] == phase], key, start)
        if len(steps):
            axis.plot(steps, values, color=look.get_color(), linestyle=look.get_linestyle(), marker="o", markersize=3.5,
                      markevery=[0], clip_on=False)
        start = end


def _line(axis: Axes, curve: Curve, label: str, color: str | None = None) -> None:
    steps, values = curve
    if len(steps):
        marker = "o" if len(steps) < 3 else ""  # a line of one point cannot be seen
        axis.plot(steps, values, label=label or None, color=color, marker=marker, markersize=3.5)


def _finish(axis: Axes, title: str, xlabel: str = "step") -> None:
    axis.set_title(title)
    axis.set_xlabel(xlabel)
