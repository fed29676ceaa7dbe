"""From one channel's section of report.json to what its part of the page shows, without markup."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from latentprint.report import names
from latentprint.report.build import cautions, numbers
from latentprint.report.conclusive import Reason, doubts, reasons, state
from latentprint.report.framing import FramingView, framing_view
from latentprint.report.gauge import Gauge, gauge
from latentprint.report.grades import INCONCLUSIVE, Grade, Headline
from latentprint.report.impersonation import Impersonation
from latentprint.report.pictures import Picture
from latentprint.report.tables import (
    Table,
    arms_table,
    cases_table,
    cost_rows,
    defence_table,
    findings_table,
    geometry_table,
    groups_table,
    models_table,
    people_table,
    recognisers_table,
    stages_table,
)
from latentprint.report.values import duration, flatten, mapping, number, percent, sequence, text

CAPTION = 170  # letters: three lines of a figure that takes half the page


class Units(NamedTuple):
    """What there is several of: classes, pictures, and what intervals are over."""

    classes: str
    pictures: str
    resampled: str


UNITS = {True: Units("people", "photos", "people"), False: Units("classes", "images", "images")}
LEAK = names.Metric("Leak", is_share=True)


@dataclass(frozen=True)
class Figure:
    """A picture beside the text that explains it; ``picture`` is None when the file cannot be shown.

    ``caption`` is at most two or three lines, and ``more`` the rest of a longer one.
    """

    file: str
    title: str
    caption: str
    picture: Picture | None
    more: str = ""

    @property
    def is_wide(self) -> bool:
        """Whether the picture needs a row of its own."""
        return self.picture is not None and self.picture.is_wide


@dataclass(frozen=True)
class Channel:
    """Everything the page shows of one channel."""

    id: str
    name: str
    question: str
    victim: str
    units: Units
    head: Headline
    grade: Grade
    impersonation: Impersonation | None
    doubts: tuple[Reason, ...]
    numbers: str
    cautions: tuple[str, ...]
    gauge: Gauge | None
    grid: Figure | None
    figures: tuple[Figure, ...]
    defence: Table
    defence_settings: tuple[tuple[str, str], ...]
    variants: Table
    protections: Table
    variant_figures: tuple[Figure, ...]
    recommended: str
    cost: tuple[tuple[str, str], ...]
    arms: Table
    groups: Table
    people: Table
    models: Table
    recognisers: Table
    framing: FramingView
    stages: Table
    diagnosed: bool
    findings: Table
    geometry: Table
    compared: str
    protocol: tuple[tuple[str, str], ...]
    seconds: str

    @property
    def is_label(self) -> bool:
        return self.name == "label"

    @property
    def is_feature(self) -> bool:
        return self.name == "feature"

    @property
    def is_template(self) -> bool:
        return self.name == "template"

    @property
    def is_inconclusive(self) -> bool:
        return self.grade is INCONCLUSIVE

    @property
    def colour(self) -> str:
        """The key of the number's colour: of its grade, but amber where it is to be read with caution."""
        return "cautioned" if self.cautions and not self.is_inconclusive else self.grade.key

    @property
    def models_title(self) -> str:
        """Of the table of networks."""
        return "Recognisers" if self.is_template else "Judges" if self.is_label else "Models"

    @property
    def leak_shown(self) -> str:
        """The leak in percent, without the sign."""
        return percent(self.head.leak.value, sign=False)

    @property
    def leak_interval(self) -> str:
        """The leak's interval, or an empty string."""
        return LEAK.interval(self.head.leak)

    @property
    def column_help(self) -> list[tuple[str, str]]:
        """What each column of the arms table means, where that is known."""
        return [(column.label, column.help) for column in self.arms.columns if column.help]

    @property
    def parts(self) -> list[tuple[str, str]]:
        """Id suffix and title of the parts that this channel has, in the page's order."""
        optional = [("defence", "Defence", self.defence_settings), ("variants", "Victims", self.variants),
                    ("protections", "Protections", self.protections),
                    ("faces", "Pictures" if self.is_feature else "Faces", self.grid),
                    ("arms", "Numbers", self.arms),
                    ("groups", "Groups", self.groups), ("people", "Each person", self.people),
                    ("models", self.models_title, self.models or self.recognisers),
                    ("framing", "Framing", self.framing), ("cost", "Cost", self.cost),
                    ("training", "Training", self.figures or self.stages or self.diagnosed or self.geometry),
                    ("protocol", "Protocol", self.protocol)]
        return [(key, title) for key, title, content in optional if content]


def channel(name: str, section: Mapping[str, Any], pictures: Mapping[str, Picture],
            index: int = 0) -> Channel:
    """The view of one channel.

    Args:
        name: the channel's key in report.json.
        section: its value; any key may be missing or of another type.
        pictures: by file name as the section spells it.
        index: the channel's place in the report, which keeps ids unique.
    """
    head = Headline.of(section)
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    figures = [_figure(mapping(entry), pictures) for entry in sequence(section.get("figures"))]
    return Channel(
        id=slug if slug and index == 0 else f"{slug or 'channel'}-{index}",
        name=name,
        question=names.CHANNELS.get(name, "What the model gives away"),
        victim=victim_line(mapping(section.get("victim"))),
        units=UNITS[shows_people(mapping(section.get("victim")))],
        head=head,
        grade=state(section),
        impersonation=Impersonation.of(section),
        doubts=tuple(reasons(section) or doubts(section)),
        numbers=numbers(section),
        cautions=tuple(cautions(section)),
        gauge=gauge(head),
        grid=_grid(section, pictures),
        figures=tuple(figure for figure in figures if figure.file),
        defence=defence_table(section),
        defence_settings=defence_settings(mapping(section.get("defence"))),
        variants=cases_table(section, "variants"),
        protections=cases_table(section, "protections"),
        variant_figures=tuple(figure for entry in sequence(section.get("variant_figures"))
                              if (figure := _figure(mapping(entry), pictures)).file),
        recommended=recommendation(mapping(section.get("recommended"))),
        cost=cost_rows(section),
        arms=arms_table(name, section),
        groups=groups_table(section),
        people=people_table(section),
        models=Table((), ()) if name == "template" else models_table(section),
        recognisers=recognisers_table(section),
        framing=framing_view(section, pictures),
        stages=stages_table(section),
        diagnosed=isinstance(section.get("diagnosis"), list),
        findings=findings_table(section),
        geometry=geometry_table(section),
        compared=text(mapping(section.get("geometry")).get("compared")),
        protocol=tuple(flatten(section.get("protocol"))),
        seconds=duration(number(section.get("seconds"))),
    )


def defence_settings(found: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Kind, strength, settings and privacy of the defence, without the numbers of the table beside them."""
    compared = ("accuracy", "undefended_accuracy", "accuracy_cost", "undefended", "leak_reduction")
    return tuple(flatten({key: value for key, value in found.items() if key not in compared}))


def recommendation(found: Mapping[str, Any]) -> str:
    """Which victim to take and why, or an empty string."""
    name = text(found.get("name"))
    return f"Take {name}: {text(found.get('because'))}." if name else ""


def picture_names(section: Mapping[str, Any]) -> list[str]:
    """The picture files that a section refers to."""
    listed = [mapping(entry).get("file") for key in ("figures", "variant_figures")
              for entry in sequence(section.get(key))]
    listed.append(mapping(section.get("framing")).get("sheet"))
    return [name for name in (section.get("grid"), *listed) if isinstance(name, str) and name]


def victim_line(victim: Mapping[str, Any]) -> str:
    """The victim in one line: architecture, cut, classes, accuracy; what is unknown is left out."""
    n_classes, accuracy = number(victim.get("n_classes")), number(victim.get("accuracy"))
    parts = list(dict.fromkeys((text(victim.get("name")), text(victim.get("architecture")))))
    cut, what = text(victim.get("cut")), UNITS[shows_people(victim)]
    parts.append(f"cut after {cut}" if cut else "")
    protection = text(victim.get("protection"))
    parts.append(f"templates stored with {protection}" if protection not in ("", "none") else "")
    parts.append("" if n_classes is None else f"{int(n_classes)} {what.classes}")
    parts.append("" if accuracy is None else f"{percent(accuracy)} right on held-out {what.pictures}")
    return " · ".join(part for part in parts if part) or "victim not described"


def shows_people(victim: Mapping[str, Any]) -> bool:
    """Whether the images show people, a class each; they do unless the report says otherwise."""
    return victim.get("people") is not False


def _figure(entry: Mapping[str, Any], pictures: Mapping[str, Picture]) -> Figure:
    file = entry.get("file")
    file = file if isinstance(file, str) else ""
    caption, more = brief(text(entry.get("caption")))
    return Figure(file, text(entry.get("title"), file), caption, pictures.get(file), more)


def _grid(section: Mapping[str, Any], pictures: Mapping[str, Picture]) -> Figure | None:
    file = section.get("grid")
    if not isinstance(file, str) or not file:
        return None
    caption, more = brief(text(section.get("grid_caption")))
    return Figure(file, "Faces", caption, pictures.get(file), more)


def brief(caption: str, most: int = CAPTION) -> tuple[str, str]:
    """A caption's first sentences up to ``most`` letters, at least one of them, and the rest."""
    sentences = re.split(r"(?<=[.;]) ", caption)
    first = 1
    while first < len(sentences) and len(" ".join(sentences[: first + 1])) <= most:
        first += 1
    return " ".join(sentences[:first]), " ".join(sentences[first:])
