"""One look for all figures: a transparent ground and middle tones that read on white and on near-black alike.

The report is seen in light and dark schemes and its pictures also stand in READMEs, so a figure cannot know
its ground.
"""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import font_manager
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.rcsetup import cycler
from matplotlib.ticker import NullFormatter

INK = "#78818c"  # contrast about 4 to 1 on white and on #171b21
BLUE, ORANGE, GREEN, RED, VIOLET, TEAL, PINK, OLIVE = PALETTE = (
    "#3f86e0", "#e07b1a", "#2f9d62", "#dc4a3d", "#8d6fd8", "#1a9ba6", "#d1609f", "#94892b")
DPI = 160
LABEL = 44  # letters of a line of a legend
WIDE_SCRIPTS = ("Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "WenQuanYi Zen Hei",
                "Microsoft YaHei", "PingFang SC", "Hiragino Sans")


def _rules() -> Any:
    installed = {font.name for font in font_manager.fontManager.ttflist}
    return {
        "font.family": ["DejaVu Sans", *(name for name in WIDE_SCRIPTS if name in installed)],
        "font.size": 10, "axes.titlesize": 10.5, "axes.titleweight": "bold", "axes.titlelocation": "left",
        "axes.titlepad": 8,
        "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK, "axes.titlecolor": INK,
        "xtick.color": INK, "ytick.color": INK, "legend.frameon": False, "legend.labelcolor": INK,
        "axes.facecolor": "none", "figure.facecolor": "none", "savefig.bbox": None,
        "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True,
        "axes.grid": True, "grid.color": INK, "grid.alpha": 0.22, "grid.linewidth": 0.6,
        "lines.linewidth": 1.6, "axes.prop_cycle": cycler(color=PALETTE), "text.parse_math": False,
    }


@contextmanager
def canvas(path: Path, width: float, height: float, dpi: int = DPI) -> Iterator[Figure]:
    """A figure of ``width`` x ``height`` inches in the house look, written to ``path`` (PNG) at the end.

    Text is never read as mathematics, so a person called ``$x_1$`` keeps the name.
    """
    with matplotlib.rc_context(_rules()), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure = Figure(figsize=(width, height), dpi=dpi)
        FigureCanvasAgg(figure)
        yield figure
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="png", dpi=dpi)


def rows_of_axes(figure: Figure, n: int, columns: int) -> list[Axes]:
    """``n`` axes on a grid of ``columns`` columns; the places left over stay empty."""
    figure.set_layout_engine("constrained")
    grid = figure.add_gridspec(-(-n // columns), columns)
    return [figure.add_subplot(grid[index // columns, index % columns]) for index in range(n)]


def legend(figure: Figure, handles: Sequence[Artist] | None = None, labels: Sequence[str] | None = None) -> None:
    """One legend for all axes of a figure with `rows_of_axes`, above them, never over what is plotted.

    Args:
        handles, labels: what to list; by default each label of the axes once.
    """
    if handles is None or labels is None:
        found = {label: handle for axis in figure.axes
                 for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
        handles, labels = list(found.values()), list(found)
    if not labels:
        return
    lines = [textwrap.fill(label, LABEL) for label in labels]
    longest = max(len(line) for label in lines for line in label.splitlines())
    columns = int(figure.get_figwidth() / (0.085 * longest + 0.55))
    figure.legend(handles, lines, loc="outside upper left", ncols=max(1, min(columns, len(lines), 5)), fontsize=9.5,
                  columnspacing=1.4)


def plain_powers(axis: Axis) -> None:
    """Label a logarithmic axis 0.01, 0.1, 1: matplotlib's own labels are mathematics, which is not parsed here."""
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_formatter(NullFormatter())
