"""The tables of the page: from one channel's section of report.json to rows of texts, no markup.

Any key may be missing or of another type: such a cell says "not measured".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from latentprint.report import names
from latentprint.report.grades import Headline
from latentprint.report.values import (
    NOT_MEASURED,
    Measured,
    duration,
    mapping,
    number,
    percent,
    plain,
    scalar,
    sequence,
    text,
)


@dataclass(frozen=True)
class Cell:
    """A table cell: its text, a smaller second line, the number it sorts by, a bar's length in percent.

    ``pill`` is the kind of a mark around the text: "caution".
    """

    shown: str
    small: str = ""
    sort: float | None = None
    bar: float | None = None
    pill: str = ""

    @property
    def missing(self) -> bool:
        return self.shown == NOT_MEASURED


@dataclass(frozen=True)
class Column:
    """A table's column: heading, explanation, and "more" or "less" when one way means a closer attack."""

    label: str
    help: str = ""
    better: str = ""
    is_text: bool = False
    note: str = ""


@dataclass(frozen=True)
class Row:
    """A table's row. ``key`` names its kind for styling (an arm's name)."""

    label: str
    cells: tuple[Cell, ...]
    hint: str = ""
    key: str = ""


@dataclass(frozen=True)
class Table:
    """Columns after the first (the row's own label), and rows."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]

    def __bool__(self) -> bool:
        return bool(self.rows)


def arms_table(name: str, section: Mapping[str, Any]) -> Table:
    """Arms by metrics, with intervals, the known arms in the order of ``names.ARMS`` and first."""
    rows = _arm_metrics(section)
    images = {key: number(mapping(arm).get(N_IMAGES)) for key, arm in mapping(section.get("arms")).items()}
    metrics = _ordered({key for row in rows.values() for key in row}, first=_headline(section))
    notes = {key: _shared_note(row.get(key, Measured()) for row in rows.values()) for key in metrics}
    rows = {key: {metric: replace(item, note="") if notes[metric] else item for metric, item in row.items()}
            for key, row in rows.items()}
    return Table(tuple(_column(key, notes[key]) for key in metrics),
                 tuple(_arm_row(key, name, row, metrics, images.get(key)) for key, row in rows.items()))


def _headline(section: Mapping[str, Any]) -> str:
    return text(section.get("headline"), "headline metric")


def _arm_metrics(section: Mapping[str, Any]) -> dict[str, dict[str, Measured]]:
    """Metrics by arm; what stands only beside ``arms`` (``metrics``, the headline numbers) is filled in."""
    given = {key: _flat_metrics(value) for key, value in mapping(section.get("arms")).items()}
    given["attack"] = _flat_metrics(section.get("metrics")) | given.get("attack", {})
    rows = {key: given.pop(key, {}) for key in names.ARMS} | given
    head = Headline.of(section)
    for key in ("floor", "pseudo_label", "attack", "prior_ceiling", "ceiling"):
        if measured := getattr(head, key):
            rows[key] = {_headline(section): measured} | rows[key]
    return {key: row for key, row in rows.items() if row}


def _shared_note(column: Iterable[Measured]) -> str:
    """The note of a column when all that have one agree: it then stands in the heading, once."""
    found = {item.note for item in column if item.note}
    return found.pop() if len(found) == 1 else ""


def _flat_metrics(raw: object) -> dict[str, Measured]:
    """Metrics of one arm; a metric given per evaluator becomes one entry each, ``"top1 · name"``."""
    flat: dict[str, Measured] = {}
    for key, value in mapping(raw).items():
        if key == N_IMAGES:
            continue
        if isinstance(value, Mapping) and "value" not in value:
            flat |= {f"{key} · {part}": Measured.of(item) for part, item in value.items()}
        else:
            flat[str(key)] = Measured.of(value)
    return flat


def _variant(key: str) -> tuple[str, str]:
    """A metric's name and what tells this one apart: ``top1_resnet`` is ``("top1", "resnet")``."""
    base, _, part = key.partition(" · ")
    if base in names.METRICS or part:
        return base, part
    known = next((name for name in names.METRICS if key.startswith(f"{name}_")), key)
    return known, key[len(known) + 1 :]


def _metric(key: str) -> names.Metric:
    base, part = _variant(key)
    known = names.metric(base)
    return replace(known, label=f"{known.label}, {part.replace('_', ' ')}") if part else known


def _ordered(keys: set[str], first: str) -> list[str]:
    """The headline, metrics in the order of ``names.METRICS``, unknown ones by name, and variants last."""
    known = list(names.METRICS)

    def place(key: str) -> tuple[bool, bool, int, str]:
        base, part = _variant(key)
        return key != first, bool(part), known.index(base) if base in known else len(known), key

    return sorted(keys, key=place)


def _column(key: str, note: str) -> Column:
    metric = _metric(key)
    return Column(metric.label, metric.help, metric.better, note=note)


def _arm_row(key: str, channel_name: str, row: Mapping[str, Measured], metrics: Sequence[str],
             images: float | None) -> Row:
    arm = names.arm(key, channel_name)
    measured = [row.get(name, Measured()) for name in metrics]
    known = measured[0].n  # n people, said once; without an interval over people n counts something else
    counts = [known, *(None if item.n == known and item.bounds else item.n for item in measured[1:])]
    cells = map(measured_cell, map(_metric, metrics), measured, counts)
    hints = [arm.hint, "" if images is None else f"{images:,.0f} images"]
    return Row(arm.label, tuple(cells), " · ".join(filter(None, hints)), key if key in names.ARMS else "")


def measured_cell(metric: names.Metric, measured: Measured, n: int | None = None) -> Cell:
    """A number of ``metric`` with its interval, note and ``n`` in small print."""
    if not measured:
        return Cell(NOT_MEASURED, measured.note)
    small = [metric.interval(measured), measured.note, "" if n is None else f"n {n:,}"]
    return Cell(metric.show(measured.value), " · ".join(part for part in small if part), measured.value)


def _accuracy_cell(raw: object) -> Cell:
    """A share near 1, where the first decimal matters."""
    measured = Measured.of(raw)
    if measured.value is None:
        return Cell(NOT_MEASURED)
    return Cell(f"{100 * measured.value:.1f}%", names.METRICS["top1"].interval(measured), measured.value)


SHARE = names.Metric("", is_share=True)
DEFENCE = (("Accuracy on held-out photos", "accuracy"), ("Leak", "leak"), ("Attack", "attack"),
           ("Pseudo-label baseline", "pseudo_label"))


def defence_table(section: Mapping[str, Any]) -> Table:
    """The undefended and the defended victim side by side, and the paired differences where they were measured."""
    found = mapping(section.get("defence"))
    undefended = mapping(found.get("undefended"))
    if not undefended:
        return Table((), ())
    head = Headline.of(section)
    before = {**undefended, "accuracy": found.get("undefended_accuracy")}
    after = {"accuracy": Measured.of(found.get("accuracy")), "leak": head.leak, "attack": head.attack,
             "pseudo_label": head.pseudo_label}
    share = names.Metric("", is_share=True)
    shown = {key: share if key in ("accuracy", "leak") else head.metric for _, key in DEFENCE}
    rows = [Row("Undefended", tuple(measured_cell(shown[key], Measured.of(before.get(key))) for _, key in DEFENCE)),
            Row("Defended", tuple(measured_cell(shown[key], after[key]) for _, key in DEFENCE))]
    less, cost = Measured.of(found.get("leak_reduction")), Measured.of(found.get("accuracy_cost"))
    rows.append(Row("Difference", (points_cell(cost, "cost"), points_cell(less, "reduction"), Cell("–"), Cell("–")),
                    "paired, person by person"))
    return Table(tuple(Column(label) for label, _ in DEFENCE), tuple(rows))


def points_cell(difference: Measured, word: str = "") -> Cell:
    """A difference of fractions in percentage points, "3.0 pp cost" or the bare number; with a decimal, as trainings
    differ by less than one."""
    if difference.value is None:
        return Cell(NOT_MEASURED)
    small = "" if difference.bounds is None else " to ".join(f"{100 * end:.1f}" for end in difference.bounds)
    return Cell(f"{100 * difference.value:.1f}{f' pp {word}' if word else ''}", small, difference.value)


N_IMAGES = "n_images"  # a count beside the metrics of an arm
BARRED = "match_rate"
PEOPLE = {
    "match_rate": ("Identity match", True), "similarity": ("Similarity", False),
    "type1": ("SAR type I", True), "type2": ("SAR type II", True), "top1": ("Top-1", True),
    "floor_match_rate": ("Floor", True), "ceiling_match_rate": ("Ceiling", True), "n": ("Images", False),
}


def people_table(section: Mapping[str, Any]) -> Table:
    """The per-identity table, the most exposed person first; unknown columns after the known ones."""
    entries = [mapping(entry) for entry in sequence(section.get("per_identity"))]
    entries = [entry for entry in entries if entry]
    known = [key for key in PEOPLE if any(key in entry for entry in entries)]
    extra = sorted({str(key) for entry in entries for key in entry} - set(PEOPLE) - {"identity"})
    keys = known + extra
    entries.sort(key=lambda entry: -(number(entry.get("match_rate")) or 0.0))
    return Table(
        tuple(Column(PEOPLE[key][0] if key in PEOPLE else names.title(key)) for key in keys),
        tuple(Row(text(entry.get("identity"), "(unnamed)"), tuple(_person_cell(key, entry) for key in keys))
              for entry in entries),
    )


def _person_cell(key: str, entry: Mapping[str, Any]) -> Cell:
    raw = entry.get(key)
    value = number(raw) if not isinstance(raw, Mapping) else Measured.of(raw).value
    if value is None:
        return Cell(scalar(raw) if isinstance(raw, str) else NOT_MEASURED)
    if key == "n":
        return Cell(f"{value:,.0f}", sort=value)
    if key in PEOPLE and PEOPLE[key][1]:
        return Cell(percent(value), sort=value, bar=min(max(100 * value, 0), 100) if key == BARRED else None)
    return Cell(plain(value), sort=value)


def _fraction(raw: object) -> Cell:
    return measured_cell(SHARE, Measured.of(raw))


def _difference(raw: object) -> Cell:
    return points_cell(Measured.of(raw))


def _by_name(key: str) -> Callable[[object], Cell]:
    return lambda raw: measured_cell(names.metric(key), Measured.of(raw))


PAIRED = "against the first, image by image"
#: Columns of cases side by side, by the row's key, and how each is shown; those that no row has are left out.
CASES: Mapping[str, tuple[Column, Callable[[object], Cell]]] = {
    "defences": (Column("Defences", is_text=True), lambda raw: Cell(text(raw, "none"))),
    "accuracy": (Column("Accuracy"), _fraction),
    "accuracy_cost": (Column("Accuracy cost (pp)", PAIRED), _difference),
    "bytes": (Column("Bytes sent"), lambda raw: _count_cell(raw)),
    "stored_bits": (Column("Bits stored", "of one template"), lambda raw: _count_cell(raw)),
    "tar": (Column("True accepts", "of real photos at FMR 1e-3"), _fraction),
    "tar_cost": (Column("Accuracy cost (pp)", "of true accepts, paired"), _difference),
    "recovered_similarity": (Column("Template recovered", "cosine of the most likely template", "more"),
                             lambda raw: measured_cell(names.Metric(""), Measured.of(raw))),
    "leak": (Column("Leak", "", "more"), _fraction),
    "leak_reduction": (Column("Leak reduction (pp)", PAIRED), _difference),
    "recovery": (Column("Recovery", names.METRICS["sar_type2_judge"].help, "more"), _fraction),
    "recovery_reduction": (Column("Recovery reduction (pp)", "paired"), _difference),
    "sar_type1": (Column("SAR type I", names.METRICS["sar_type1"].help, "more"), _fraction),
    "sar_type2": (Column("SAR type II", names.METRICS["sar_type2"].help, "more"), _fraction),
    "sar_reduction": (Column("SAR II reduction (pp)", "paired"), _difference),
    "mse": (Column("MSE"), _by_name("mse")),
    "ssim": (Column("SSIM"), _by_name("ssim")),
    "best_attack": (Column("Best attack", is_text=True), lambda raw: Cell(text(raw, NOT_MEASURED))),
}


def cases_table(section: Mapping[str, Any], key: str) -> Table:
    """Cases side by side, the ``variants`` or ``protections`` of a section: utility, leak, differences from the first.
    """
    rows = [row for row in map(mapping, sequence(section.get(key))) if row]
    best = mapping(section.get("recommended")).get("name")
    shown = {name: how for name, how in CASES.items() if any(name in row for row in rows)}
    return Table(tuple(column for column, _ in shown.values()), tuple(
        Row(text(row.get("name"), "(unnamed)"),
            tuple(cell(row[name]) if name in row else Cell("–") for name, (_, cell) in shown.items()),
            "recommended" if row.get("name") == best else "") for row in rows))


COST = {
    "bytes_float32": ("Sent for an image, 32 bits a value", " bytes"),
    "bytes_float16": ("Sent for an image, 16 bits a value", " bytes"),
    "bytes_int8": ("Sent for an image, 8 bits a value", " bytes"),
    "edge_macs": ("Multiply-accumulates on the device", ""), "cloud_macs": ("Multiply-accumulates in the cloud", ""),
    "edge_parameters": ("Parameters on the device", ""), "cloud_parameters": ("Parameters in the cloud", ""),
    "edge_milliseconds": ("Time on the device, one image", " ms"), "device": ("Measured on", ""),
}  # fmt: skip


def cost_rows(section: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """What a split costs, as lines of name and value."""
    cost = mapping(section.get("cost"))
    return tuple((label, f"{_amount(cost[key])}{unit}") for key, (label, unit) in COST.items()
                 if cost.get(key) not in (None, ""))


def _amount(raw: object) -> str:
    value = number(raw)
    if value is None:
        return text(raw, NOT_MEASURED)
    return f"{value:,.0f}" if value == round(value) else plain(value)


def _count_cell(raw: object) -> Cell:
    value = number(raw)
    return Cell(NOT_MEASURED) if value is None else Cell(f"{value:,.0f}", sort=value)


GROUP = ("leak", "attack", "floor", "prior_ceiling", "ceiling")


def groups_table(section: Mapping[str, Any]) -> Table:
    """Leak and headline by group of people, with intervals over the people of the group."""
    rows = [mapping(entry) for entry in sequence(section.get("per_group"))]
    metric, share = names.metric(_headline(section)), names.Metric("", is_share=True)
    labels = ("Leak", *(f"{names.arm(key, 'label').label}" for key in GROUP[1:]), names.METRICS["top1"].label)
    shown = (share, *[metric] * (len(GROUP) - 1), names.METRICS["top1"])
    return Table(
        (Column("People"), *map(Column, labels)),
        tuple(Row(text(row.get("group"), "(unnamed)"),
                  (Cell(scalar(row.get("n"))), *(measured_cell(unit, Measured.of(row.get(key)))
                                                 for unit, key in zip(shown, (*GROUP, "top1"), strict=True))))
              for row in rows if row),
    )


def models_table(section: Mapping[str, Any]) -> Table:
    """The victim and the evaluators with their accuracy on real held-out photos."""
    rows = [("Victim", mapping(section.get("victim")))]
    pictures = "images" if rows[0][1].get("people") is False else "photos"
    rows += [("Evaluator", mapping(entry)) for entry in sequence(section.get("evaluators"))]
    warm = any("warm" in row for _, row in rows)
    return Table(
        (Column("Name", is_text=True), Column("Architecture", is_text=True),
         *[Column("Learned first from", is_text=True)] * warm, Column(f"Accuracy on held-out {pictures}"), Column("n")),
        tuple(Row(role, (Cell(text(row.get("name"), "–")), Cell(text(row.get("architecture"), "–")),
                         *[Cell(text(row.get("warm"), "–"))] * warm, _accuracy_cell(row.get("accuracy")),
                         Cell(scalar(row.get("n")) if "n" in row else "–")))
              for role, row in rows if row),
    )


def recognisers_table(section: Mapping[str, Any]) -> Table:
    """Each recogniser's threshold and true-accept rate at each false-match rate, and the impostor pairs."""
    rows = [(role, mapping(section.get(key))) for role, key in (("Judge", "judge"), ("Teacher", "teacher"),
                                                                ("Attacked", "attacked"))]
    rows += [("Judge", mapping(entry)) for entry in sequence(section.get("judges"))]
    rows += [("Surrogate", mapping(section["surrogate"]))] if section.get("surrogate") else []
    rows = [(role, row) for role, row in rows if row]
    found = {rate for _, row in rows for part in ("thresholds", "tar") for rate in mapping(row.get(part))}
    rates = sorted(found, key=lambda rate: (-_rate(rate), rate))
    said = [key for key in ("name", "architecture") if any(key in row for _, row in rows)]
    columns = [Column(names.title(key), is_text=True) for key in said]
    for rate in rates:
        columns += [Column(f"Threshold, FMR {rate}"), Column(f"TAR, FMR {rate}")]
    realised = any("realised_fmr" in row for _, row in rows)
    paired = any("pair_accuracy" in row for _, row in rows)
    last = [Column("Impostor pairs"), *[Column("Realised FMR", "fraction of real photos of private people that pass as "
                                               "another private person, at the strictest threshold")] * realised,
            *[Column("LFW accuracy", "fraction of pairs classified correctly, mean over the ten folds")] * paired]
    return Table((*columns, *last),
                 tuple(Row(role, (*_recogniser_cells(row, said, rates), *[_realised_cell(row)] * realised,
                                  *[measured_cell(names.Metric("", is_share=True),
                                                  Measured.of(row.get("pair_accuracy")))] * paired))
                       for role, row in rows if row))


def _rate(rate: str) -> float:
    try:
        return float(rate)
    except ValueError:
        return 0.0


def _recogniser_cells(row: Mapping[str, Any], said: Iterable[str], rates: Iterable[str]) -> tuple[Cell, ...]:
    cells = [Cell(text(row.get(key), "–")) for key in said]
    for rate in rates:
        cells.append(Cell(plain(Measured.of(mapping(row.get("thresholds")).get(rate)).value)))
        cells.append(_accuracy_cell(mapping(row.get("tar")).get(rate)))
    pairs = number(row.get("n_impostor"))
    return (*cells, Cell(NOT_MEASURED if pairs is None else f"{pairs:,.0f}"))


def _realised_cell(row: Mapping[str, Any]) -> Cell:
    """A share near 0, where the second decimal matters."""
    measured = Measured.of(row.get("realised_fmr"))
    if measured.value is None:
        return Cell(NOT_MEASURED)
    return Cell(f"{measured.value:.2%}", "" if measured.n is None else f"n {measured.n:,}", measured.value)


GEOMETRY = {
    "mean_norm": "Mean norm", "mean_angle": "Mean angle of two, degrees", "sd_angle": "Spread of angles, degrees",
    "least_angle": "Least angle of two, degrees", "between_class_variance": "Variance",
    "effective_rank": "Effective rank", "mean_abs_correlation": "Correlation of dimensions", "silhouette": "Silhouette",
}  # fmt: skip
#: Which clouds of embeddings are described, side by side.
CLOUDS = {"label": "Label embeddings", "teacher": "Public photos", "photos": "Several photos a person",
          "random": "Random directions"}


def geometry_table(section: Mapping[str, Any]) -> Table:
    """Numbers of the label embeddings beside those of public photos."""
    geometry = mapping(section.get("geometry"))
    named = {side: name for side, name in CLOUDS.items() if side in geometry}
    sides = [mapping(geometry[side]) for side in named]
    found = [key for side in sides for key in side]
    keys = [key for key in GEOMETRY if key in found] + sorted(set(found) - set(GEOMETRY))
    return Table(
        tuple(Column(name) for name in named.values()),
        tuple(Row(GEOMETRY.get(key, names.title(key)), tuple(Cell(plain(number(side.get(key)))) for side in sides))
              for key in keys),
    )


def findings_table(section: Mapping[str, Any]) -> Table:
    """What the rules found amiss in training: when, what and which setting to change."""
    rows = [mapping(entry) for entry in sequence(section.get("diagnosis"))]
    return Table(
        (Column("Step"), Column("Finding", is_text=True), Column("Setting to change", is_text=True)),
        tuple(Row(text(row.get("stage"), "(unnamed)"),
                  (Cell(scalar(row.get("step"))), Cell(text(row.get("said"), NOT_MEASURED)),
                   Cell(text(row.get("advice"), NOT_MEASURED))))
              for row in rows if row),
    )


def stages_table(section: Mapping[str, Any]) -> Table:
    """The attack's stages: how long each ran and why it ended."""
    rows = [mapping(entry) for entry in sequence(section.get("stages"))]
    return Table(
        (Column("Steps"), Column("Time"), Column("Stopped because", is_text=True)),
        tuple(Row(text(row.get("name"), "(unnamed)"),
                  (Cell(scalar(row.get("steps"))), Cell(duration(number(row.get("seconds")))),
                   Cell(text(row.get("reason"), NOT_MEASURED))))
              for row in rows if row),
    )
