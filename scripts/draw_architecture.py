"""Draw ``docs/pictures/architecture.svg`` from the imports of the package: ``python scripts/draw_architecture.py``.

The upper part is how an audit flows, with the packages that do each step. The lower part is what imports what between
packages: the bands are the layers of ``tests/test_imports.py``, and an arrow that follows from others is left out
(transitive reduction), so the picture changes only where the structure does.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]

from test_imports import EDGES, LAYERS, layer_of, units  # noqa: E402

TARGET = ROOT / "docs" / "pictures" / "architecture.svg"
Graph = Mapping[str, set[str]]
BANDS = ("used by everything", "shared parts", "contracts", "channels", "what a user runs", "front door")
COLOURS = ("#eceff1", "#e3f2fd", "#e8f5e9", "#fff3e0", "#f3e5f5", "#fce4ec")
WIDTH, ROW, BOX, HEIGHT, LEFT = 1000, 58, 88, 26, 130


class Step(NamedTuple):
    """A box of the upper part: its two lines, and the packages that do it."""

    title: str
    detail: str
    units: tuple[str, ...]


FLOW = (
    Step("Settings", "preset, YAML, --set", ("config",)),
    Step("Data", "private, public, held out", ("data",)),
    Step("Victim", "trained or loaded, defended", ("models", "victim", "defense")),
    Step("Probes", "could a leak be seen?", ("checks", "probes")),
    Step("Attack", "and floor, ceiling, baselines", ("attack", "label", "template", "feature")),
    Step("Scores", "judge, evaluators", ("metrics",)),
    Step("Leak", "between floor and ceiling", ("stats",)),
    Step("Report", "report.json, report.html", ("report",)),
)


def packages() -> Graph:
    """Top-level package or module -> those that it imports."""
    return {name: targets - {""} for name, targets in units(EDGES).items() if name}


def reduced(graph: Graph) -> Graph:
    """The same without arrows that follow from others; ``graph`` has no ring."""

    @cache
    def below(name: str) -> frozenset[str]:
        return frozenset(graph[name]).union(*(below(target) for target in graph[name]))

    return {name: {t for t in targets if not any(t in below(other) for other in targets if other != t)}
            for name, targets in graph.items()}  # fmt: skip


def rows(graph: Graph) -> list[list[str]]:
    """Packages from the bottom row to the top: by layer, and within a layer above what they import."""

    @cache
    def depth(name: str) -> int:
        return 1 + max((depth(t) for t in graph[name] if layer_of(t) == layer_of(name)), default=-1)

    places = sorted({(layer_of(name), depth(name)) for name in graph})
    return [sorted(name for name in graph if (layer_of(name), depth(name)) == place) for place in places]


def positions(graph: Graph) -> dict[str, tuple[float, float]]:
    """Centre of each package's box; the y axis points down. Boxes are ordered by the mean place of their neighbours."""
    levels = rows(graph)
    x: dict[str, float] = {}
    for level in levels:
        x.update(_spread(level))
    neighbours = {name: [*targets, *(n for n in graph if name in graph[n])] for name, targets in graph.items()}
    for sweep in range(12):
        for level in levels if sweep % 2 else reversed(levels):
            mean = {name: sum(x[n] for n in neighbours[name]) / max(1, len(neighbours[name])) for name in level}
            x.update(_spread(sorted(level, key=lambda name: (round(mean[name], 6), name))))
    return {name: (x[name], (len(levels) - i - 0.5) * ROW) for i, level in enumerate(levels) for name in level}


def _spread(names: Sequence[str]) -> dict[str, float]:
    step = (WIDTH - LEFT) / len(names)
    return {name: LEFT + (i + 0.5) * step for i, name in enumerate(names)}


def _text(x: float, y: float, text: str, size: int = 12, weight: str = "normal", anchor: str = "middle") -> str:
    return (f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" font-weight="{weight}" '
            f'text-anchor="{anchor}">{text}</text>')


def _box(x: float, y: float, width: float, height: float, fill: str) -> str:
    return (f'<rect x="{x - width / 2:.1f}" y="{y - height / 2:.1f}" width="{width:.1f}" height="{height:.1f}" rx="4" '
            f'fill="{fill}" stroke="#455a64"/>')


def _flow(graph: Graph) -> Iterable[str]:
    """The upper part, in two rows of boxes.

    Raises:
        SystemExit: a step names a package that is gone.
    """
    if gone := sorted({unit for step in FLOW for unit in step.units} - set(graph)):
        raise SystemExit(f"scripts/draw_architecture.py: FLOW names {', '.join(gone)}, which the package no longer has")
    half = len(FLOW) // 2
    step = WIDTH / half
    for i, box in enumerate(FLOW):
        x, y = (i % half + 0.5) * step, 84 + 110 * (i // half)
        yield _box(x, y, step - 50, 72, "#ffffff")
        yield _text(x, y - 14, box.title, 15, "bold")
        yield _text(x, y + 5, box.detail)
        yield _text(x, y + 24, " ".join(box.units), 11).replace("<text", '<text class="where"')
        if i % half:
            yield f'<path d="M{x - step + (step - 50) / 2:.1f} {y:.1f}H{x - (step - 50) / 2 - 4:.1f}" class="way"/>'
    yield f'<path d="M{WIDTH - step / 2:.1f} 120V139H{step / 2:.1f}V154" class="way"/>'


def _imports(graph: Graph, top: float) -> Iterable[str]:
    """The lower part: bands, then arrows, then boxes over them."""
    at = positions(graph)
    for layer, (title, colour) in enumerate(zip(BANDS, COLOURS, strict=True)):
        ys = [y for name, (_, y) in at.items() if layer_of(name) == layer]
        first, last = top + min(ys) - ROW / 2, top + max(ys) + ROW / 2
        yield f'<rect x="0" y="{first:.1f}" width="{WIDTH}" height="{last - first:.1f}" fill="{colour}"/>'
        yield _text(10, (first + last) / 2 + 4, title, 13, "bold", "start")
    for name in sorted(graph):
        for target in sorted(graph[name]):
            (x, y), (u, v) = at[name], at[target]
            y, v = top + y + HEIGHT / 2, top + v - HEIGHT / 2 - 3
            bend = (v - y) / 2
            curve = f"M{x:.1f} {y:.1f}C{x:.1f} {y + bend:.1f} {u:.1f} {v - bend:.1f} {u:.1f} {v:.1f}"
            yield f'<path d="{curve}" class="import"/>'
    for name in sorted(graph):
        x, y = at[name]
        yield _box(x, top + y, BOX, HEIGHT, "#ffffff")
        yield _text(x, top + y + 4, name)


def svg() -> str:
    """The picture of the code as it is."""
    if len(BANDS) != len(LAYERS):
        raise SystemExit("BANDS in scripts/draw_architecture.py: one title for each of LAYERS in tests/test_imports.py")
    graph = reduced(packages())
    top = 290
    height = top + ROW * len(rows(graph))
    style = ("text{font-family:sans-serif;fill:#212121}.where{fill:#1565c0}path{fill:none}"
             ".import{stroke:#607d8b;stroke-opacity:.55;marker-end:url(#tip)}.way{stroke:#1565c0;stroke-width:2;marker-end:url(#end)}")
    marker = ('<marker id="{}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="{}" markerHeight="{}" '
              'orient="auto"><path d="M0 0L8 4L0 8Z" style="fill:{}"/></marker>')
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        'aria-label="The steps of an audit, and what imports what between packages">',
        f"<style>{style}</style>",
        f"<defs>{marker.format('tip', 6, 6, '#607d8b')}{marker.format('end', 5, 5, '#1565c0')}</defs>",
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        _text(10, 30, "How an audit flows", 17, "bold", "start"),
        *_flow(graph),
        _text(10, top - 14, "What imports what", 17, "bold", "start"),
        *_imports(graph, top),
        "</svg>", "",
    ])  # fmt: skip


if __name__ == "__main__":
    TARGET.write_text(svg(), encoding="utf-8")
    print(f"wrote {TARGET.relative_to(ROOT)}")
