"""The same victims under several seeds: means over seeds, and surrogates against each other at equal accuracy.

From the ``variants`` of several reports of the feature channel. The unit that varies is the seed, the whole training:
intervals are Student's over seeds, and differences are taken within a seed first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from latentprint.metrics.matched import Point, mean_gap
from latentprint.report import names
from latentprint.report.tables import Cell, Column, Row, Table, measured_cell, points_cell
from latentprint.report.values import Measured, mapping, sequence, text
from latentprint.stats import t_interval
from latentprint.stats.seeds import UNBOUNDED, Bounds

SHARE = names.Metric("", is_share=True)
REFERENCE = "kmeans"
VALUES = ("mse", "leak")


class Beside(NamedTuple):
    """See `_beside`; ``sent`` in bytes."""

    cut: str
    sent: float | None
    defences: str


Variant = Mapping[str, Any]
Seeds = Sequence[Mapping[str, Variant]]
EMPTY = Table((), ())
#: Metrics of a victim, and the bounds of each.
WITHIN: Mapping[str, Bounds] = {"leak": (-math.inf, 1.0), "mse": (0.0, math.inf), "ssim": (-1.0, 1.0)}


def seeds_of(sections: Sequence[Mapping[str, Any]]) -> Seeds:
    """Of each report its victims by name, those that all reports have; nothing for fewer than two reports."""
    found = [{text(row["name"]): row for raw in sequence(section.get("variants")) if "name" in (row := mapping(raw))}
             for section in sections]
    if len(found) < 2:
        return []
    shared = [name for name in found[0] if all(name in rows for rows in found)]
    return [{name: rows[name] for name in shared} for rows in found] if shared else []


def victims_table(seeds: Seeds) -> Table:
    """A row a victim, means over seeds; what CEM costs is against the victim whose other defences are the same."""
    if not seeds:
        return EMPTY
    columns = (Column("Defences", is_text=True), Column("Accuracy"),
               Column("Accuracy cost of CEM (pp)",
                      "accuracy of the same defences without CEM, minus this one's, by seed"),
               Column("Leak", "variance recovered by the best attack", "less"), Column("MSE"), Column("SSIM"))
    return Table(columns, tuple(_victim(seeds, name) for name in seeds[0]))


def _victim(seeds: Seeds, name: str) -> Row:
    without = _without_cem(seeds[0], name)
    cost = _over(seeds, lambda rows: _difference(_value(rows[without], "accuracy"), _value(rows[name], "accuracy")),
                 (-1.0, 1.0)) if without else Measured()
    metrics = (SHARE, names.metric("mse"), names.metric("ssim"))
    cells = (measured_cell(metric, _over(seeds, lambda rows, key=key: _value(rows[name], key), bounds))  # type: ignore[misc]
             for metric, (key, bounds) in zip(metrics, WITHIN.items(), strict=True))
    return Row(name, (Cell(text(seeds[0][name].get("defences"), "none")),
                      measured_cell(SHARE, _over(seeds, lambda rows: _value(rows[name], "accuracy"), (0.0, 1.0))),
                      points_cell(cost) if cost else Cell("–"), *cells))


def matched_table(seeds: Seeds) -> Table:
    """Each surrogate against k-means at equal accuracy: MSE and leak of one curve minus the other's, by seed.

    A surrogate's curve joins its victims, of whatever weight, and the one with the same other defences and no CEM.
    """
    if not seeds:
        return EMPTY
    families = dict.fromkeys((_beside(row), surrogate) for row in seeds[0].values()
                             if (surrogate := text(row.get("surrogate"))) not in ("", REFERENCE))
    rows = [row for base, surrogate in families if (row := _matched(seeds, base, surrogate))]
    columns = (Column("Beside", is_text=True), Column("Sent", "bytes of one image's features"),
               Column("MSE difference", "at equal accuracy, mean over the shared range", "less"),
               Column("Leak difference (pp)", "at equal accuracy, mean over the shared range", "more"), Column("Seeds"))
    return Table(columns, tuple(rows)) if rows else EMPTY


def _beside(row: Variant) -> Beside:
    """All that a victim is but its surrogate: where it is cut, how much it sends, and its other defences."""
    return Beside(text(row.get("cut")), Measured.of({"value": row.get("bytes")}).value, text(row.get("without_cem")))


def _matched(seeds: Seeds, base: Beside, surrogate: str) -> Row | None:
    if not any(_family(seeds[0], base, REFERENCE, "mse", anchored=False)):
        return None
    mse, leak = (_over(seeds, lambda rows, key=key: mean_gap(  # type: ignore[misc]
        _family(rows, base, surrogate, key), _family(rows, base, REFERENCE, key))) for key in VALUES)
    sent = "–" if base.sent is None else f"{base.sent:,.0f}"
    return Row(surrogate, (Cell(base.defences or "none"), Cell(sent), _signed(mse), points_cell(leak),
                           Cell(f"{mse.n or 0} of {len(seeds)}")))


def _family(rows: Mapping[str, Variant], base: Beside, surrogate: str, key: str, anchored: bool = True) -> list[Point]:
    """The points of a curve; ``anchored`` adds the victim without CEM."""
    wanted = {surrogate, ""} if anchored else {surrogate}
    found = ((_value(row, "accuracy"), _value(row, key)) for row in rows.values()
             if _beside(row) == base and text(row.get("surrogate")) in wanted)
    return [Point(accuracy, value) for accuracy, value in found if accuracy is not None and value is not None]


def _without_cem(rows: Mapping[str, Variant], name: str) -> str | None:
    """The victim with the same other defences and no CEM, of one that has CEM."""
    own = rows[name]
    if not text(own.get("surrogate")):
        return None
    return next((other for other, row in rows.items() if not text(row.get("surrogate"))
                 and _beside(row) == _beside(own)), None)


def _over(seeds: Seeds, value: Callable[[Mapping[str, Variant]], float | None],
          bounds: Bounds = UNBOUNDED) -> Measured:
    """Mean over the seeds that have the value, with its interval within ``bounds``."""
    found = [number for rows in seeds if (number := value(rows)) is not None]
    return Measured.of(t_interval(found, bounds=bounds).to_json()) if found else Measured()


def _value(row: Variant, key: str) -> float | None:
    return Measured.of(row.get(key)).value


def _difference(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else before - after


def _signed(difference: Measured) -> Cell:
    """A difference of squared errors, which are some hundredths."""
    if difference.value is None:
        return Cell("–")
    small = "" if difference.bounds is None else " to ".join(f"{end:+.4f}" for end in difference.bounds)
    return Cell(f"{difference.value:+.4f}", small, difference.value)
