"""What a finished run found: one report, or several side by side. Reads files alone, without PyTorch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from latentprint.errors import UserError
from latentprint.keys import did_you_mean
from latentprint.report import names
from latentprint.report.build import verdict
from latentprint.report.conclusive import reasons, state
from latentprint.report.grades import Headline
from latentprint.report.html import fragment, read_report, render, write_page
from latentprint.report.pictures import load
from latentprint.report.values import Measured, mapping, scalar, sequence, text
from latentprint.report.view import channel as channel_view

#: Lists of report.json by the name under which a table shows them.
_CALLED = {"people": "per_identity"}


@dataclass(frozen=True)
class Estimate:
    """A number with its 95% interval; None: not measured.

    Examples:
        >>> Estimate(0.39, 0.18, 0.63)
        Estimate(value=0.39, low=0.18, high=0.63)
    """

    value: float | None
    low: float | None
    high: float | None

    @classmethod
    def of(cls, raw: object) -> Estimate:
        """From an object of report.json."""
        found = Measured.of(raw)
        return cls(found.value, found.low, found.high)


class Report:
    """The report of a finished run.

    Attributes:
        path: the run directory.
        data: the content of report.json.

    Raises:
        UserError: there is no readable report.
    """

    def __init__(self, path: Path | str) -> None:
        path = Path(path)
        self.path = path.parent if path.suffix == ".json" else path
        self.data = read_report(self.path / "report.json")

    def __repr__(self) -> str:
        return f"<Report of {self.path}: {self.channel}, {self.leak}>"

    @property
    def channel(self) -> str:
        """``label``, ``template`` or ``feature``."""
        return next(iter(self.data["channels"]), "")

    @property
    def section(self) -> dict[str, Any]:
        """The channel's part of report.json."""
        return mapping(self.data["channels"].get(self.channel))

    @property
    def leak(self) -> Estimate:
        """From floor (0) to ceiling (1)."""
        return Estimate.of(self.section.get("leak"))

    @property
    def grade(self) -> str:
        """``none``, ``little``, ``moderate``, ``substantial``, ``strong``, ``inconclusive`` or ``unknown``."""
        return state(self.section).key

    @property
    def verdict(self) -> str:
        """What the numbers say, in sentences."""
        return verdict(self.section)

    @property
    def inconclusive(self) -> list[str]:
        """Why the audit could not have seen a leak, a sentence each; empty where the verdict stands."""
        return [reason.sentence for reason in reasons(self.section)]

    @property
    def warnings(self) -> list[str]:
        """Reasons to distrust the numbers."""
        return [text(warning) for warning in sequence(self.data.get("warnings"))]

    @property
    def tables(self) -> list[str]:
        """The names that `table` takes."""
        called = {key: name for name, key in _CALLED.items()}
        return [called.get(key, key) for key, value in self.section.items() if _rows(value)]

    def table(self, name: str) -> Any:
        """Rows of the report: a pandas DataFrame where pandas is installed, else a list of dictionaries.

        A number with an interval gives the columns ``x``, ``x.low``, ``x.high`` and ``x.n``.

        Args:
            name: ``arms``, ``people``, ``evaluators``, ``variants``, ``protections``, ...; see `tables`.

        Raises:
            UserError: there is no such table.
        """
        rows = _rows(self.section.get(_CALLED.get(name, name)))
        if not rows:
            raise UserError(f"no table '{name}' in {self.path}; {did_you_mean(name, self.tables)}")
        return _frame(rows)

    def save(self, target: Path | str = "report.html") -> Path:
        """Write the page, self-contained, and return its path.

        Raises:
            UserError: it cannot be written.
        """
        target = Path(target)
        write_page(target, render(self.data, self.path))
        return target

    def show(self) -> None:
        """Show the verdict card and the grid in a notebook; elsewhere print what the command line prints."""
        if not _in_notebook(self):
            from rich.console import Console

            from latentprint.console import summary

            Console().print(*summary(self.data), sep="\n")

    def _repr_html_(self) -> str:
        files = [self.section.get("grid")]
        pictures = {name: found for name in files if isinstance(name, str) and (found := load(self.path, name))}
        part = channel_view(self.channel, self.section, pictures)
        return fragment("card.html.j2", part=part, title=names.title(self.channel), verdict=self.verdict)

    def model_index(self, model: str = "model", dataset: str = "private data") -> dict[str, Any]:
        """The block ``model-index`` of a Hugging Face model card, for ``yaml.safe_dump`` or ``huggingface_hub``.

        Args:
            model: the model's name. dataset: what the private data are called.
        """
        section, head = self.section, Headline.of(self.section)
        found = [("leak", "Leak, floor (0) to ceiling (1)", head.leak),
                 *((arm, f"{names.ARMS[arm].label}: {head.metric.label}", getattr(head, arm))
                   for arm in ("attack", "floor", "ceiling"))]
        metrics: list[dict[str, Any]] = [
            {"type": f"latentprint-{kind}", "name": name, "value": each.value,
             **({} if each.bounds is None else {"args": {"low": each.low, "high": each.high, "confidence": 0.95}})}
            for kind, name, each in found if each]
        if (accuracy := Measured.of(mapping(section.get("victim")).get("accuracy"))):
            metrics.append({"type": "accuracy", "name": "Accuracy", "value": accuracy.value})
        return {"model-index": [{"name": model, "results": [{
            "task": {"type": "privacy-audit", "name": f"Privacy audit, {self.channel} channel ({self.grade})"},
            "dataset": {"type": "private", "name": dataset}, "metrics": metrics}]}]}


class Comparison(Mapping[str, Report]):
    """Several reports by the names of their cases.

    Attributes:
        path: the folder, which holds ``comparison.html``.
    """

    def __init__(self, path: Path, reports: Mapping[str, Report]) -> None:
        self.path, self._reports = path, dict(reports)

    def __getitem__(self, name: str) -> Report:
        return self._reports[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._reports)

    def __len__(self) -> int:
        return len(self._reports)

    def table(self) -> Any:
        """A row a case: leak, accuracy, grade; in label and feature also the differences from the first case."""
        paired = {row.get("name"): row for row in sequence(next(iter(self.values())).section.get("variants"))}
        keys = ("leak_reduction", "accuracy_cost")
        return _frame([{"name": name, **_flat({
            "leak": report.section.get("leak"),
            "accuracy": report.section.get("accuracy", mapping(report.section.get("victim")).get("accuracy")),
            **{key: value for key, value in mapping(paired.get(name)).items() if key in keys}}), "grade": report.grade}
            for name, report in self.items()])

    def show(self) -> None:
        """Show the cards of all cases in a notebook; elsewhere print the table of all."""
        if not _in_notebook(self):
            from rich.console import Console

            from latentprint.console import rows_table, summary

            first = next(iter(self.values()))
            if first.section.get("variants"):
                Console().print(*summary(first.data), sep="\n")
            else:
                rows = self.table()
                Console().print(rows_table(str(self.path), rows if isinstance(rows, list) else rows.to_dict("records")))

    def _repr_html_(self) -> str:
        return "".join(Markup("<h3>{}</h3>").format(name) + report._repr_html_() for name, report in self.items())


def load_report(path: Path | str) -> Report:
    """The report of a finished run.

    Args:
        path: a run directory, or the report.json in it.

    Raises:
        UserError: there is no readable report.
    """
    return Report(path)


def _rows(value: object) -> list[dict[str, Any]]:
    """A list of objects, or objects by name, as flat rows; else none."""
    if isinstance(value, list) and value and all(isinstance(row, Mapping) for row in value):
        return [_flat(row) for row in value]
    if isinstance(value, Mapping) and value and all(isinstance(row, Mapping) for row in value.values()):
        return [{"name": name, **_flat(row)} for name, row in value.items()]
    return []


def _flat(row: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Objects within a row as columns ``a.b``; the value of an interval stands under its own name."""
    flat: dict[str, Any] = {}
    for key, value in row.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            inner = _flat(value, f"{name}.")
            flat |= {name if column == f"{name}.value" else column: each for column, each in inner.items()}
        else:
            flat[name] = scalar(value) if isinstance(value, list) else value
    return flat


def _frame(rows: list[dict[str, Any]]) -> Any:
    try:
        import pandas
    except ImportError:
        return rows
    return pandas.DataFrame(rows)


def _in_notebook(thing: object) -> bool:
    """Show it where IPython has a display for HTML; whether it has."""
    try:
        from IPython import get_ipython
        from IPython.display import display
    except ImportError:
        return False
    shell = get_ipython()
    if shell is None or not hasattr(shell, "kernel"):
        return False
    display(thing)
    return True
