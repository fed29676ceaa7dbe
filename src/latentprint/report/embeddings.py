"""Figures of an embedding space: how long its vectors are, and the angles between its classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.cluster.hierarchy import leaves_list, linkage, optimal_leaf_ordering
from scipy.spatial.distance import squareform

from latentprint.report.style import BLUE, ORANGE, canvas, legend, rows_of_axes


def class_order(angles: ArrayLike) -> NDArray[np.int64]:
    """Classes in an order that puts near ones side by side: leaves of average linkage on ``(C, C)`` angles."""
    distances = squareform(np.asarray(angles, float), checks=False)
    tree = linkage(distances, "average")
    return np.asarray(leaves_list(optimal_leaf_ordering(tree, distances)), np.int64)


def angle_heatmaps(label: ArrayLike, true: ArrayLike, path: Path) -> None:
    """Angles between classes, learned beside true, both in the order that clusters the true people.

    Args:
        label, true: ``(C, C)`` degrees, the same classes in both, at least two.
        path: the PNG to write.
    """
    label, true = np.asarray(label, float), np.asarray(true, float)
    order, apart = class_order(true), ~np.eye(len(true), dtype=bool)
    low, high = (float(found(np.concatenate([label[apart], true[apart]]))) for found in (np.min, np.max))
    with canvas(path, 5.6, 2.9) as figure:
        axes = rows_of_axes(figure, 2, 2)
        for axis, angles, title in zip(axes, (true, label), ("true people (teacher)", "label embeddings"), strict=True):
            shown = np.where(apart, angles, np.nan)[np.ix_(order, order)]
            image = axis.imshow(shown, vmin=low, vmax=high, cmap="viridis", interpolation="nearest")
            axis.set_title(title)
            axis.grid(False)
            axis.spines[:].set_visible(False)
            axis.tick_params(labelbottom=False, labelleft=False, length=0)
        bar = figure.colorbar(image, ax=axes, shrink=0.82, aspect=26)
        bar.outline.set_visible(False)
        bar.set_label("degrees")


def norm_histogram(label: ArrayLike, teacher: ArrayLike, path: Path) -> None:
    """Norms of label embeddings and of the teacher's, before normalisation, each in a unit of its own.

    Args:
        label, teacher: 1-D norms, as multiples of what counts as 1 for them.
        path: the PNG to write.
    """
    groups = ((np.asarray(teacher, float), BLUE, "teacher, public photos"),
              (np.asarray(label, float), ORANGE, "label embeddings"))
    both = np.concatenate([values for values, _, _ in groups])
    margin = 0.02 + 0.05 * float(np.ptp(both))
    bins = np.linspace(both.min() - margin, both.max() + margin, 41).tolist()
    with canvas(path, 5.6, 3.4) as figure:
        (axis,) = rows_of_axes(figure, 1, 1)
        for values, color, name in groups:
            axis.hist(values, bins, weights=np.full(len(values), 100 / len(values)), color=color, alpha=0.55,
                      label=name, histtype="stepfilled")
        axis.set_ylabel("% of the group")
        axis.set_xlabel("norm")
        legend(figure)
