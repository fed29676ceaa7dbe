"""Several runs on one self-contained page: their numbers, their curves, and the settings in which they differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from latentprint.errors import UserError
from latentprint.report import names
from latentprint.report.conclusive import reasons, state
from latentprint.report.figures import Row as MetricsRow
from latentprint.report.figures import compared_curves, read_metrics
from latentprint.report.grades import INCONCLUSIVE, Headline
from latentprint.report.html import page, read_report, write_page
from latentprint.report.pictures import Picture, load
from latentprint.report.seeds import matched_table, seeds_of, victims_table
from latentprint.report.tables import Cell, Column, Row, Table, measured_cell
from latentprint.report.values import (
    NOT_MEASURED,
    Measured,
    duration,
    flatten,
    mapping,
    number,
    percent,
    sequence,
    text,
)
from latentprint.report.view import LEAK

ABSENT = "–"
ARMS = ("attack", "floor", "ceiling", "pseudo_label")


@dataclass(frozen=True)
class Run:
    """A finished run: what it is called among those compared, its report, settings and log."""

    name: str
    report: dict[str, Any]
    settings: dict[str, str]
    rows: list[MetricsRow]

    def section(self, channel: str) -> dict[str, Any]:
        return mapping(mapping(self.report.get("channels")).get(channel))


def compare_runs(directories: Sequence[Path], out: Path | None = None) -> Path:
    """Write the comparison of two or more runs and return its path.

    Args:
        out: a file (``.html``), or a folder for comparison.html; None: the first run's folder.

    Raises:
        UserError: a directory is given twice, is no finished run, or the page cannot be written.
    """
    runs = [_read(directory, name) for directory, name in zip(directories, _names(directories), strict=True)]
    target = out or directories[0]
    if target.is_dir() or target.suffix.lower() not in (".html", ".htm"):
        if target.is_file():
            raise UserError(f"--out {target} is a file that is no page; give a name that ends in .html, or a folder")
        try:
            target.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--out {target} cannot be written ({error.strerror})") from error
        target /= "comparison.html"
    write_page(target, render_comparison(runs))
    return target


def render_comparison(runs: Sequence[Run]) -> str:
    """The page as HTML text."""
    channels = list(dict.fromkeys(name for run in runs for name in mapping(run.report.get("channels"))))
    seeds = seeds_of([section for run in runs if (section := run.section("feature"))])
    return page("compare.html.j2", names=[run.name for run in runs], warnings=_warnings(runs, channels),
                tables=[(names.title(channel), numbers_table(runs, channel)) for channel in channels],
                over_seeds=victims_table(seeds), matched=matched_table(seeds), curves=_curves(runs),
                settings=settings_table(runs))


def numbers_table(runs: Sequence[Run], channel: str) -> Table:
    """A row a run: leak, arms on the headline metric, Top-1, the evaluators' accuracy, time; those that a run has."""
    sections = {run.name: section for run in runs if (section := run.section(channel))}
    heads = [Headline.of(section) for section in sections.values()]
    if not heads:  # a channel without numbers, of runs cut short
        return Table((), ())
    metric = heads[0].metric
    columns = [Column("Verdict", is_text=True), Column("Leak", "from floor (0) to ceiling (1)", "more"),
               *(Column(names.arm(arm).label, f"{metric.label}; {names.arm(arm, channel).hint}") for arm in ARMS),
               Column("Top-1", names.METRICS["top1"].help, "more"),
               Column("Evaluators right", "accuracy on real held-out photos"), Column("Time")]
    rows = [tuple(_cells(section, head)) for section, head in zip(sections.values(), heads, strict=True)]
    known = [i for i in range(len(columns)) if not all(row[i].missing or row[i].shown == ABSENT for row in rows)]
    return Table(tuple(columns[i] for i in known),
                 tuple(Row(name, tuple(row[i] for i in known)) for name, row in zip(sections, rows, strict=True)))


def settings_table(runs: Sequence[Run]) -> Table:
    """The settings that are not the same in all runs: a row a setting, a column a run."""
    keys = dict.fromkeys(key for run in runs for key in run.settings)
    rows = [Row(key, tuple(Cell(value) for value in values)) for key in keys
            if len(set(values := [run.settings.get(key, ABSENT) for run in runs])) > 1]
    return Table(tuple(Column(run.name, is_text=True) for run in runs), tuple(rows))


def _cells(section: Mapping[str, Any], head: Headline) -> Iterator[Cell]:
    found = state(section)
    yield Cell(found.words, pill="caution" if found is INCONCLUSIVE else "")
    yield measured_cell(LEAK, head.leak, head.leak.n)
    yield from (measured_cell(head.metric, getattr(head, arm)) for arm in ARMS)
    yield measured_cell(names.METRICS["top1"], _top1(section))
    yield _accuracies(section)
    yield Cell(duration(number(section.get("seconds"))))


def _top1(section: Mapping[str, Any]) -> Measured:
    own = mapping(section.get("metrics")) or mapping(mapping(section.get("arms")).get("attack"))
    return Measured.of(own.get("top1"))


def _accuracies(section: Mapping[str, Any]) -> Cell:
    found = [Measured.of(mapping(entry).get("accuracy")).value for entry in sequence(section.get("evaluators"))]
    return Cell(", ".join(percent(value) for value in found) or ABSENT)


def _warnings(runs: Sequence[Run], channels: Sequence[str]) -> list[str]:
    """Why the numbers of a channel may not compare."""
    found = [f"{run.name}, {channel}: inconclusive. {' '.join(reason.sentence for reason in why)}"
             for channel in channels for run in runs if (why := reasons(run.section(channel))) and run.section(channel)]
    for channel in channels:
        sections = [section for run in runs if (section := run.section(channel))]
        for key, of in (("headline metric", lambda s: text(s.get("headline"))),
                        ("protocol", lambda s: text(mapping(s.get("protocol")).get("hash")))):
            if len({of(section) for section in sections}) > 1:
                found.append(f"{names.title(channel)}: the runs differ in their {key}; numbers compare with caution.")
    return found


def _curves(runs: Sequence[Run]) -> Picture | None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "curves.png"
        compared_curves({run.name: run.rows for run in runs}, path)
        return load(Path(folder), path.name)


def _names(directories: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart."""
    paths = [directory.absolute().resolve().parts for directory in directories]
    twice = next((d for d, parts in zip(directories, paths, strict=True) if paths.count(parts) > 1), None)
    if twice is not None:
        raise UserError(f"{twice}: given twice; a comparison needs different run directories")
    depth = next(n for n in range(1, max(map(len, paths)) + 1) if len({parts[-n:] for parts in paths}) == len(paths))
    return ["/".join(parts[-depth:]) for parts in paths]


def _read(directory: Path, name: str) -> Run:
    settings = {key: "not set" if value == NOT_MEASURED else value
                for key, value in flatten(_settings(directory / "config.yaml"))}
    return Run(name, read_report(directory / "report.json"), settings, read_metrics(directory / "metrics.jsonl"))


def _settings(path: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: not found; expected the config.yaml of a finished run") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise UserError(f"{path}: is not valid YAML ({type(error).__name__})") from error
    if not isinstance(found, Mapping):
        raise UserError(f"{path}: is not a configuration; expected a mapping of settings")
    return mapping(found)
