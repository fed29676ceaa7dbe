"""A study as data: which audit, which arms, which numbers, how many seeds, and what the question is."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from latentprint.config import Config
from latentprint.errors import UserError

Command = Literal["audit label", "audit template", "audit feature"]
Take = Literal["when", "first", "last", "variance", "spikes", "ratio"]
Overrides = dict[str, Any]


class Metric(Config):
    """A number of a run's report.json, or the step at which a logged value first passed a bound."""

    title: str = Field(description="what it is called in tables")
    path: str = Field("", description="dotted path below the channel in report.json")
    logged: str = Field("", description="in place of a path: a value of metrics.jsonl")
    take: Take = Field("when", description="logged: the step at which it passes the bound, the first, the last, the "
                       "variance over the last half, how many exceed ten times the median, or the mean of the last "
                       "quarter over that of the first")
    phases: str = Field("", description="logged: how the phases begin whose steps count, in place of the study's")
    skip: float = Field(0.0, ge=0, lt=1, description="logged: the share of these steps that is left out at first")
    at_least: float | None = Field(None, description="logged: the time is when the value is this high")
    at_most: float | None = Field(None, description="logged: ... or this low")
    share: bool = Field(False, description="shown in percent: a rate, within 0 and 1")
    signed: bool = Field(False, description="share: may lie below 0, as variance recovered does")
    less_is_more: bool = Field(False, description="lower is better, for the reader")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if bool(self.path) == bool(self.logged):
            raise ValueError(f"metric '{self.title}' needs either a path or a logged value")
        if self.timed and (self.at_least is None) == (self.at_most is None):
            raise ValueError(f"metric '{self.title}' needs either at_least or at_most")
        return self

    @property
    def timed(self) -> bool:
        """Whether it is a time, which a run that never reached the bound only limits."""
        return bool(self.logged) and self.take == "when"

    @property
    def bounds(self) -> tuple[float, float]:
        """What its values lie within."""
        return ((-math.inf, 1.0) if self.signed else (0.0, 1.0)) if self.share else (-math.inf, math.inf)


class Study(Config):
    """See the module. Settings are dotted keys, as in ``--set``."""

    name: str = Field(pattern=r"[a-z0-9][a-z0-9-]*", description="also the default folder")
    question: str = Field(description="what it asks, in a sentence")
    command: Command = Field(description="the audit that every run is")
    preset: str = Field("small", description="of that audit")
    settings: Overrides = Field({}, description="of every run")
    per_seed: dict[str, int | Annotated[list[int], Field(min_length=2, max_length=2)]] = Field({}, description=(
        "settings that are the seed times this; of two numbers, the first and the seed times the second"))

    def seeded(self, seed: int) -> dict[str, int]:
        """What of the settings is a seed's own."""
        pairs = {key: [0, given] if isinstance(given, int) else given for key, given in self.per_seed.items()}
        return {key: first + factor * seed for key, (first, factor) in pairs.items()}

    start: Overrides | None = Field(None, description="settings of a first run for each seed, whose files the arms use")
    uses: dict[str, str] = Field({}, description="settings of an arm -> file in the folder of its seed's first run")
    arms: dict[str, Overrides] = Field(min_length=1, description="what differs, by name")
    reference: str = Field(description="the arm that the others are compared with")
    metrics: dict[str, Metric] = Field(min_length=1, description="numbers to compare, by a short name")
    pairs: list[list[str]] = Field([], description="further comparisons: the first arm less the second")
    curves: dict[str, str] = Field({}, description="values of metrics.jsonl to draw over the steps -> titles")
    phases: str = Field("stage", description="how the phases of metrics.jsonl begin whose steps count")
    front: list[str] = Field([], description="two metrics that are shares, one to keep and one to lose: drawn "
                             "against each other")
    families: dict[str, list[str]] = Field({}, description=(
        "arms that differ in a weight alone, by name of the family: the first is what the others are compared with, "
        "metric by metric, at equal values of the first metric of 'front'; the reference belongs to all"))
    seeds: int = Field(3, ge=1, description="0, 1, ... so many")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.reference not in self.arms:
            raise ValueError(f"reference '{self.reference}' is none of the arms {', '.join(self.arms)}")
        if self.uses and self.start is None:
            raise ValueError("uses names files of a first run, and there is no 'start'")
        if odd := [name for name in self.arms if "/" in name or name.startswith(".")]:
            raise ValueError(f"arm '{odd[0]}' cannot be a folder's name")
        for pair in self.pairs:
            if len(pair) != 2 or pair[0] == pair[1] or not set(pair) <= set(self.arms):
                raise ValueError(f"pairs names two arms each, not {pair}")
        if self.front and (len(self.front) != 2 or not set(self.front) <= set(self.metrics)):
            raise ValueError(f"front names two metrics, not {self.front}")
        if self.families and not self.front:
            raise ValueError("families are compared along the front, and there is no 'front'")
        if odd := [arm for arms in self.families.values() for arm in arms if arm not in self.arms]:
            raise ValueError(f"families names arms, not '{odd[0]}'")
        return self


def comparisons(study: Study) -> dict[str, tuple[str, str]]:
    """What is compared, first less second: every arm with the reference under its name, and the pairs."""
    return {**{arm: (arm, study.reference) for arm in study.arms if arm != study.reference},
            **{difference_name(*pair): (pair[0], pair[1]) for pair in study.pairs}}


def difference_name(first: str, second: str) -> str:
    """The key of a pair among the comparisons."""
    return f"{first} less {second}"


def matched_name(family: str, reference: str) -> str:
    """The key of two families among the comparisons at equal accuracy."""
    return f"{family} against {reference}"


def matched(study: Study) -> dict[str, tuple[str, str]]:
    """Which families are compared, first less second."""
    first, *others = study.families or [""]
    return {matched_name(family, first): (family, first) for family in others}


def study_of(told: Any, where: str) -> Study:
    """A study from plain values.

    Raises:
        UserError: it is not one.
    """
    try:
        return Study.model_validate(told)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise UserError(f"{where}: {key + ': ' if key else ''}{first['msg'].removeprefix('Value error, ')}") from None
