"""Plots that are no curves over steps: embeddings, similarities, and a surrogate's gates and penalties."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from latentprint.report.style import BLUE, GREEN, INK, ORANGE, RED, canvas, legend, rows_of_axes


def embedding_plot(label_xy: ArrayLike, teacher_xy: ArrayLike, path: Path) -> None:
    """Label embeddings against the teacher's embeddings of the same people; a long line between is a miss.

    Args:
        label_xy: ``(C, 2)`` coordinates of the label embeddings, for instance by PCA fitted on both sets.
        teacher_xy: ``(C, 2)`` coordinates of the teacher's class means, row i the same person as row i above.
        path: the PNG to write.
    """
    label, teacher = np.asarray(label_xy, float), np.asarray(teacher_xy, float)
    with canvas(path, 5.6, 4.8) as figure:
        (axis,) = rows_of_axes(figure, 1, 1)
        axis.plot(*np.stack([label, teacher]).transpose(2, 0, 1), color=INK, alpha=0.45, linewidth=0.9)
        axis.plot(*teacher.T, "o", color=BLUE, markersize=5.5, label="true embedding (teacher)")
        axis.plot(*label.T, "X", color=ORANGE, markersize=6.5, label="label embedding")
        axis.set_aspect("equal", adjustable="datalim")
        axis.grid(False)
        axis.spines[:].set_visible(False)
        axis.tick_params(labelbottom=False, labelleft=False, length=0)
        legend(figure)


def similarity_histogram(genuine: ArrayLike, impostor: ArrayLike, reconstructions: ArrayLike,
                         threshold: float, path: Path) -> bool:
    """Cosine similarities of real pairs of one person, of strangers, and of reconstructions to their person.

    Args:
        genuine, impostor, reconstructions: 1-D arrays of similarities in [-1, 1]; any may be empty.
        threshold: the judge's similarity threshold, drawn as a line; NaN, where there was none, is left out.
        path: the PNG to write.

    Returns:
        whether there was anything to draw; without it no file is written.
    """
    groups = ((impostor, INK, "impostors"), (genuine, GREEN, "same person, real photos"),
              (reconstructions, ORANGE, "reconstructions"))
    data = [(values[np.isfinite(values)], color, label) for raw, color, label in groups
            for values in (np.asarray(raw, float).ravel(),)]
    if not any(len(values) for values, _, _ in data):
        return False
    marked = [threshold] if np.isfinite(threshold) else []
    everything = np.concatenate([values for values, _, _ in data] + [np.array(marked)])
    bins = np.linspace(everything.min() - 0.02, everything.max() + 0.02, 61).tolist()
    with canvas(path, 5.6, 3.4) as figure:
        (axis,) = rows_of_axes(figure, 1, 1)
        for values, color, label in data:
            if len(values):
                axis.hist(values, bins, weights=np.full(len(values), 100 / len(values)), color=color,
                          alpha=0.55, label=label, histtype="stepfilled")
        for at in marked:
            axis.axvline(at, color=RED, linewidth=1.8, linestyle="--", label=f"threshold {at:.2f}")
        axis.set_ylabel("% of the group")
        axis.set_xlabel("cosine similarity")
        legend(figure)
    return True


def gates_plot(gates: Mapping[str, NDArray[np.float32]], path: Path) -> None:
    """Of each kind of gate ``(C, D)`` in [0, 1] a heat map, a row a class, above its histogram.

    Raises:
        ValueError: no gates.
    """
    if not gates:
        raise ValueError("gates_plot needs at least one kind of gate")
    with canvas(path, 4.6 * len(gates), 5.2) as figure:
        axes = rows_of_axes(figure, 2 * len(gates), len(gates))
        for above, below, (name, values) in zip(axes, axes[len(gates):], gates.items(), strict=False):
            drawn = above.imshow(values, aspect="auto", vmin=0, vmax=1, cmap="viridis", interpolation="nearest")
            above.set(title=name.replace("_", " "), xlabel="dimension", ylabel="class")
            above.grid(False)
            figure.colorbar(drawn, ax=above)
            below.hist(values.ravel(), bins=np.linspace(0, 1, 41).tolist(), color=BLUE,
                       weights=np.full(values.size, 100 / values.size))
            below.set(xlabel="gate", ylabel="% of dimensions", xlim=(0, 1))


def penalty_bars(penalties: Mapping[str, float], path: Path) -> None:
    """What each class costs, by name, as bars."""
    with canvas(path, 5.6, 0.8 + 0.28 * len(penalties)) as figure:
        (axis,) = rows_of_axes(figure, 1, 1)
        axis.barh(list(penalties), list(penalties.values()), color=BLUE, height=0.7)
        axis.invert_yaxis()
        axis.grid(axis="y", visible=False)
        axis.axvline(0, color=INK, linewidth=0.9)
        axis.set_xlim(*_with_room(list(penalties.values())))
        axis.set_xlabel("penalty, before weighting")


def _with_room(values: Sequence[float]) -> tuple[float, float]:
    """Limits of an axis on which no bar from 0 ends at the edge, bars of 0 not lying on it either."""
    low, high = min(0.0, *values), max(0.0, *values)
    room = 0.05 * (high - low) or 1.0
    return low - room, high + room
