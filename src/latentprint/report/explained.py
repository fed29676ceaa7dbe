"""Gates and penalties of a surrogate, as plots."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from latentprint.report.style import BLUE, canvas, rows_of_axes


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
        axis.set_xlabel("penalty, before it is weighed")
