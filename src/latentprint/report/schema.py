"""What a report.json holds, as types: schema 2.

The published JSON Schema, ``docs/report.schema.json``, is made from them (``latentprint report --schema``). Further
keys are allowed everywhere: a channel may report more. Schema 1 has the same keys at the same places, and is read too.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

#: What is written, and what is read.
SCHEMA, READ = 2, (1, 2)

Number = float | None


class _Part(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)


class Estimate(_Part):
    """A number with its 95% interval. ``null``: not measured, and where there is one, ``reason`` says why."""

    value: Number = Field(description="the estimate")
    low: Number = Field(None, description="lower end of the 95% interval")
    high: Number = Field(None, description="upper end of the 95% interval")
    n: int | None = Field(None, ge=0, description="how many people, pairs or images, as `protocol.interval` says")
    reason: str | None = Field(None, description="why nothing was measured")


class Person(_Part):
    """The results of one person."""

    identity: str = Field(description="the person's name in the data")


class Evaluator(_Part):
    """A model that judges reconstructions by class."""

    name: str
    architecture: str
    accuracy: Number = Field(description="on held-out photos, in [0, 1]")


class Reason(_Part):
    """Why the audit could not have seen a leak."""

    name: str
    message: str
    mend: str = Field(description="what to do about it")


class Figure(_Part):
    """An image of the run directory."""

    file: str
    title: str
    caption: str


class Protocol(_Part):
    """What two reports must share to be compared."""

    name: str
    hash: str = Field(description="of everything else in this object")


class Section(_Part):
    """One channel. ``leak = (attack - floor) / (ceiling - floor)`` on the metric ``headline``."""

    headline: str = Field(description="key of `metrics` that leak, attack, floor and ceiling are about")
    leak: Estimate
    attack: Estimate
    floor: Estimate = Field(description="what anybody reaches without the model")
    ceiling: Estimate = Field(description="what real data reach")
    metrics: dict[str, Estimate | int] = Field(description="of the attack that is reported")
    arms: dict[str, dict[str, Estimate | int]] = Field(description="the same metrics of every arm: attacks, baselines, "
                                                                   "floor, ceiling")
    grade: Literal["none", "little", "moderate", "substantial", "strong", "inconclusive", "unknown"]
    verdict: str = Field(description="the conclusion in sentences")
    inconclusive: list[Reason] = Field(description="empty where the audit could have seen a leak")
    per_identity: list[Person] = Field([], description="by person, where there are people")
    evaluators: list[Evaluator]
    protocol: Protocol
    figures: list[Figure] = []
    grid: str | None = Field(None, description="file of the image that shows originals beside reconstructions")
    seconds: float = Field(ge=0, description="wall-clock time of the audit")


class Report(_Part):
    """A report.json."""

    schema_: Literal[2] = Field(alias="schema")
    channels: dict[Literal["label", "template", "feature"], Section]
    manifest: dict[str, Any] = Field(description="versions, seeds, hashes of data and weights, device, times")
    warnings: list[str] = Field(description="reasons to distrust the numbers")


def misfit(text: str) -> str:
    """The first place where the text of a report.json does not fit, in one sentence; empty where it fits."""
    try:
        Report.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        return f"report.json does not fit its schema at {'.'.join(map(str, first['loc']))}: {first['msg']}"
    return ""


def json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of `Report`."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Report.model_json_schema(by_alias=True)}
