"""One run of a study: an arm under a seed, in a run directory like any other."""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from latentprint.config import Config, changed, load_config, of_channel
from latentprint.errors import RunFailed, UserError
from latentprint.log import shown
from latentprint.report.html import render_run
from latentprint.study.definition import Study

#: The folder of the first run of a seed, among those of the arms.
START = ".start"
FAILURE = "failure.json"
#: What failed: a training, which is a result of the study, or what it ran on.
Kind = Literal["run", "infrastructure"]


@dataclass(frozen=True)
class Task:
    """An arm under a seed; ``arm`` is `START` for the first run of a seed."""

    study: Study
    arm: str
    seed: int
    folder: Path

    @property
    def out(self) -> Path:
        """Its run directory."""
        return self.folder / "runs" / self.arm / f"seed-{self.seed}"

    @property
    def reported(self) -> bool:
        """Whether it ended well."""
        return (self.out / "report.json").is_file()

    @property
    def failure(self) -> dict[str, Any] | None:
        """What stopped it, if something did: ``error``, and ``kind``, one of `Kind`."""
        if self.reported or not (self.out / FAILURE).is_file():
            return None
        found = json.loads((self.out / FAILURE).read_text())
        return {"kind": "run" if found["error"].startswith("RunFailed") else "infrastructure", **found}

    @property
    def ended(self) -> bool:
        """Whether it ended, well or not."""
        return self.reported or self.failure is not None

    @property
    def done(self) -> bool:
        """Whether there is a result: it ended well, or the training failed. What never ran properly is run again."""
        return self.reported or (self.failure or {}).get("kind") == "run"

    def settings(self) -> Config:
        """Resolved.

        Raises:
            UserError: the study's settings are wrong.
        """
        study = self.study
        channel = study.command.split()[-1]
        config, presets = (of_channel(channel, "presets", name) for name in ("{}Config", "PRESETS"))
        base: Config = load_config(config, study.preset, channel=study.command, presets=presets)
        own: dict[str, Any] = {"seed": self.seed, "threads": 1, **study.settings, **study.seeded(self.seed)}
        if self.arm == START:
            own |= study.start or {}
        else:
            first = self.folder / "runs" / START / f"seed-{self.seed}"
            own |= {key: str(first / file) for key, file in study.uses.items()} | study.arms[self.arm]
        return changed(base, own, f"study {study.name}, arm {self.arm}")


def tasks_of(study: Study, folder: Path) -> tuple[list[Task], list[Task]]:
    """The first runs of the seeds, if any, and the arms'; seeds in order, so that a study cut short has whole ones."""
    seeds = range(study.seeds)
    first = [Task(study, START, seed, folder) for seed in seeds] if study.start is not None else []
    return first, [Task(study, arm, seed, folder) for seed in seeds for arm in study.arms]


def run_task(task: Task) -> str:
    """Run it, or go on with it; returns how it ended: ``done``, or the failure in a sentence.

    The study goes on after a failure, which is written down. That of a training (`RunFailed`) is a result; any other,
    such as wrong settings, a missing file, no memory or no space, says nothing of the arm. With as many threads as
    stand in its settings (one, unless the study says otherwise) a run gives the same numbers wherever it runs.
    """
    if task.done:
        return "done"
    os.environ["LATENTPRINT_QUIET"] = "1"
    (task.out / FAILURE).unlink(missing_ok=True)
    run: Callable[..., Any] = of_channel(task.study.command.split()[-1], "compare", "run_compared")
    try:
        with shown():  # in a process of its own nobody listens yet
            run(task.settings(), task.out, task.out.exists())
        render_run(task.out)
    except (Exception, SystemExit) as error:
        said = f"{type(error).__name__}: {error}"
        trace = traceback.format_exc().splitlines()[-3:]
        write_failure(task.out, {"kind": kind_of(error), "error": said, "trace": trace})
        return said
    return "done"


def kind_of(error: BaseException) -> Kind:
    """Whether a training failed, or what it runs on; a full disk is the latter."""
    return "run" if isinstance(error, RunFailed) and not isinstance(error.__cause__, OSError) else "infrastructure"


def write_failure(out: Path, found: Mapping[str, Any]) -> None:
    """``failure.json`` in one step."""
    out.mkdir(parents=True, exist_ok=True)
    part = out / f"{FAILURE}.part"
    part.write_text(json.dumps(found, indent=1) + "\n")
    part.replace(out / FAILURE)


def check(study: Study, folder: Path) -> None:
    """Resolve the settings of every arm and seed before anything runs.

    Raises:
        UserError: the first that are wrong.
    """
    first, arms = tasks_of(study, folder)
    for task in (*first, *arms):
        try:
            task.settings()
        except UserError as error:
            raise UserError(f"arm '{task.arm}', seed {task.seed}: {error}") from None


def complaint(study: Study, folder: Path) -> UserError | RunFailed | None:
    """One sentence on the runs that did not run properly; None where all have a result."""
    first, arms = tasks_of(study, folder)
    found = [(task, failure) for task in (*first, *arms) if (failure := task.failure) and failure["kind"] != "run"]
    if not found:
        return None
    task, failure = found[0]
    where = f"the first run of seed {task.seed}" if task.arm == START else f"arm '{task.arm}', seed {task.seed}"
    said = (f"study {study.name}: {len(found)} of {len(first) + len(arms)} runs did not run, first {where} "
            f"({failure['error']}); they count neither as success nor as failure, mend what is wrong and use --resume")
    user = all(failure["error"].startswith("UserError") for _, failure in found)
    return UserError(said) if user else RunFailed(said)
