"""Curves over the false match rate: how many real photos, and how many reconstructions, a recogniser accepts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike, NDArray

from latentprint.report.style import INK, PALETTE, canvas, legend, plain_powers, rows_of_axes

Floats = NDArray[np.float64]
#: Points of a ROC curve.
POINTS = 200


def share_curves(curves: Mapping[str, tuple[Sequence[float], Floats]], marked: float, label: str, path: Path) -> bool:
    """Rates in [0, 1] by false match rate, a line a name; NaN, where there was no threshold, is left out.

    Args:
        curves: name to (false match rates, rates). marked: the rate at which headlines are. label: of the second ones.

    Returns:
        whether there was anything to draw; without it no file is written.
    """
    if not any(np.isfinite(np.asarray(shares)).any() for _, shares in curves.values()):
        return False
    with canvas(path, 5.6, 3.6) as figure:
        (axis,) = rows_of_axes(figure, 1, 1)
        for (name, (rates, shares)), colour in zip(curves.items(), PALETTE * len(curves), strict=False):
            x, y = np.asarray(rates), np.asarray(shares)
            known = np.isfinite(y)
            axis.plot(x[known], 100 * y[known], color=colour, label=name, marker="o", markersize=3)
        _by_rate(axis, marked, f"{label}, %")
        legend(figure)
    return True


def rate_curves(scores: Mapping[str, tuple[ArrayLike, ArrayLike]], marked: float, path: Path) -> bool:
    """True accept rate by false match rate, a line a name, from (genuine, impostor) similarities.

    Returns:
        whether there was anything to draw; without it no file is written.
    """
    scores = {name: pair for name, pair in scores.items() if all(len(np.asarray(part)) for part in pair)}
    if not scores:
        return False
    with canvas(path, 5.6, 3.6) as figure:
        (axis,) = rows_of_axes(figure, 1, 1)
        for (name, (genuine, impostor)), colour in zip(scores.items(), PALETTE * len(scores), strict=False):
            own, others = np.sort(np.asarray(genuine)), np.sort(np.asarray(impostor))
            rates = np.geomspace(max(1e-5, 1 / max(1, len(others))), 0.1, POINTS)
            thresholds = others[np.clip(np.ceil(len(others) * (1 - rates)).astype(int) - 1, 0, len(others) - 1)]
            accepted = 1 - np.searchsorted(own, thresholds, side="right") / max(1, len(own))
            axis.plot(rates, 100 * accepted, color=colour, label=name)
        _by_rate(axis, marked, "true accept rate, %")
        legend(figure)
    return True


def _by_rate(axis: Axes, marked: float, label: str) -> None:
    axis.axvline(marked, color=INK, linewidth=1, linestyle="--")
    axis.set(xscale="log", xlabel="false match rate", ylabel=label, ylim=(-3, 103))
    plain_powers(axis.xaxis)
