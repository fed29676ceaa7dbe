"""What the terminal shows after a run: where the attack lies between floor and ceiling; what was recorded."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from latentprint.findings import Row
from latentprint.keys import REQUIRED, Key
from latentprint.report.build import verdict
from latentprint.report.conclusive import state
from latentprint.report.gauge import Gauge, gauge
from latentprint.report.grades import INCONCLUSIVE, Headline
from latentprint.report.impersonation import Impersonation
from latentprint.report.names import ARMS, title
from latentprint.report.tables import Table as Compared
from latentprint.report.tables import cases_table, defence_table
from latentprint.report.values import flatten, mapping, scalar
from latentprint.report.view import LEAK, recommendation

#: Columns of a comparison that fit into a terminal.
MOST_COLUMNS = 6
_ROWS = ("floor", "pseudo_label", "attack", "prior_ceiling", "ceiling")


def summary(report: Mapping[str, Any]) -> Iterator[RenderableType]:
    """For every channel of a report: the arms on its headline metric, the leak between them, the victims, defences or
    protections that were compared, the verdict."""
    for name, section in mapping(report.get("channels")).items():
        head = Headline.of(mapping(section))
        yield _arms(title(name), head)
        if (placed := gauge(head)) is not None:
            at_ends = placed.floor_at == 0 and placed.ceiling_at == 100
            yield Text(f"  floor {line(placed)} ceiling" if at_ends else f"  {line(placed)}  ├ floor, ┤ ceiling")
        if (second := Impersonation.of(mapping(section))) is not None:
            yield Text(f"  {second.title}", style="bold")
        yield from comparisons(mapping(section))
        yield Text(verdict(mapping(section)), style="yellow" if state(mapping(section)) is INCONCLUSIVE else "")


def comparisons(section: Mapping[str, Any]) -> Iterator[RenderableType]:
    """What a ``defend`` command, or ``variants``, compared, and which is recommended."""
    tables = {"Victims": cases_table(section, "variants"), "Protections": cases_table(section, "protections"),
              "Defence": defence_table(section)}
    for heading, found in tables.items():
        if found:
            yield _compared(heading, found)
    if said := recommendation(mapping(section.get("recommended"))):
        yield Text(f"  {said}")


def _compared(heading: str, found: Compared) -> Table:
    """A table of the page with its most telling columns; intervals stand below their numbers."""
    shown = slice(0, MOST_COLUMNS)
    table = Table(title=Text(heading), title_justify="left", box=None, padding=(0, 1))
    table.add_column("")
    for column in found.columns[shown]:
        table.add_column(column.label, justify="left" if column.is_text else "right")
    for row in found.rows:
        cells = ["\n".join(filter(None, (cell.shown, cell.small))) for cell in row.cells[shown]]
        table.add_row(Text(row.label), *map(Text, cells), style="bold" if row.hint == "recommended" else "")
    return table


def _arms(name: str, head: Headline) -> Table:
    table = Table(title=Text(f"{name}: {head.metric.label}"), title_justify="left", box=None, padding=(0, 2))
    for column in ("", "value", "95% interval"):
        table.add_column(column, justify="right" if column else "left")
    for arm in _ROWS:
        if measured := getattr(head, arm):
            shown, interval = head.metric.show(measured.value), head.metric.interval(measured)
            table.add_row(ARMS[arm].label, shown, interval, style="bold" if arm == "attack" else "")
    table.add_row("Leak", LEAK.show(head.leak.value), LEAK.interval(head.leak), style="bold")
    return table


def line(placed: Gauge, width: int = 41) -> str:
    """The gauge in characters: ├ floor, ┤ ceiling, ━ the attack's interval, ● the attack."""

    def column(at: float) -> int:
        return round(at / 100 * (width - 1))

    cells = ["─"] * width
    if placed.interval is not None:
        low, high = map(column, placed.interval)
        cells[low : high + 1] = "━" * (high + 1 - low)
    cells[column(placed.floor_at)], cells[column(placed.ceiling_at)] = "├", "┤"
    if placed.attack_at is not None:
        cells[column(placed.attack_at)] = "●"
    return "".join(cells)


def recorded(result: Mapping[str, Any]) -> Table:
    """The metrics of a pretraining, or everything it returned when it names none."""
    table = Table(box=None, show_header=False, padding=(0, 2))
    for key, value in flatten(result.get("metrics", result)):
        table.add_row(Text(key), Text(value))
    return table


def keys_table(keys: list[Key]) -> Table:
    """The settings of a command, for ``--help-keys``. Keys are never broken over lines."""
    table = Table(box=None, padding=(0, 1))
    for column in ("key", "type", "default", "meaning"):
        table.add_column(column, overflow="fold", no_wrap=column == "key")
    for key in keys:
        default = "required" if key.default is REQUIRED else json.dumps(key.default, default=str)
        table.add_row(*(Text(cell) for cell in (key.name, key.type, default, key.help)))
    return table


def wide(renderable: RenderableType) -> Console:
    """A console on stdout to print it on: as wide as it is where no terminal ends the line."""
    console = Console()
    if not console.is_terminal:
        needed = Measurement.get(console, console.options.update(width=10**6), renderable).maximum
        console.width = max(console.width, needed)
    return console


def rows_table(name: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    """The rows of a benchmark; every key is a column."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    table = Table(title=Text(name), title_justify="left", box=None, padding=(0, 2))
    for column in columns:
        table.add_column(Text(column))
    for row in rows:
        table.add_row(*(Text(scalar(row.get(key))) for key in columns))
    return table


def findings_table(rows: Sequence[Row], wrong: str = "MISSING") -> Table:
    """What ``doctor`` or a check found; the mark says there, wrong, or absent but optional."""
    table = Table(box=None, show_header=False, padding=(0, 1))
    section = ""
    for row in rows:
        if row.section != section:
            section = row.section
            table.add_row("", Text(section, style="bold"))
        mark = {True: "ok", False: wrong, None: "-"}[row.ok]
        table.add_row(mark, Text(row.name), Text(f"{row.found}{row.hint and f': {row.hint}'}"))
    return table
