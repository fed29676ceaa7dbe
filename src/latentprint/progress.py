"""Progress of a run: a bar in a terminal, else lines that are logged; none with ``LATENTPRINT_QUIET=1``.

Both reach stderr within `latentprint.log.shown` alone. Outside a terminal (a log file, a cluster's output) a stage is
announced, reported once a minute with the step, the time that has passed and the time left, and ends with a line. Work
that has no optimiser, such as sampling and embedding, is reported once a minute alone; in a terminal its bar appears
once it has taken some seconds.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterable, Sized
from contextlib import suppress
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from rich.errors import LiveError
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from latentprint.log import LOG, is_shown, terminal

#: Seconds between two lines about the same work, and before work that may be short has a bar.
EVERY, SHORT = 60.0, 2.0
T = TypeVar("T")
Clock = Callable[[], float]


class Bar(Protocol):
    """What shows how far several tasks have got: rich's ``Progress`` or `Lines`."""

    def __enter__(self) -> Any: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> Any: ...

    def add_task(self, description: str, *, total: float | None = None, completed: int = 0) -> Any: ...

    def update(self, task_id: Any, *, completed: float | None = None, advance: float | None = None) -> None: ...


class Task:
    """One stage: its name, its steps, and when a line about it was written last."""

    def __init__(self, name: str, total: float | None, completed: float, now: float) -> None:
        self.name, self.total, self.first, self.done = name, total, completed, completed
        self.began = self.last = now

    def line(self, now: float) -> str:
        """How far it is, how long it took and how long the rest will take at this pace."""
        elapsed, passed = now - self.began, self.done - self.first
        left = f", about {duration(elapsed / passed * (self.total - self.done))} left" if self.total and passed else ""
        return f"{self.name}: {self._steps}, {duration(elapsed)}{left}"

    @property
    def _steps(self) -> str:
        return f"step {self.done:g} of {self.total:g}" if self.total else f"step {self.done:g}"


class Lines:
    """Progress as lines: when a task begins, once a minute and when it ends.

    Args:
        write: takes a line. clock: seconds, from anywhere. ends: whether a task's begin and end are written too.
    """

    def __init__(self, write: Callable[[str], None], clock: Clock = time.monotonic, ends: bool = True) -> None:
        self.write, self.clock, self.ends = write, clock, ends
        self.tasks: list[Task] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        for task in self.tasks if self.ends and kind is None else ():
            self.write(f"{task.name}: ended at {task._steps}, {duration(self.clock() - task.began)}")

    def add_task(self, description: str, *, total: float | None = None, completed: int = 0) -> int:
        task = Task(description, total, completed, self.clock())
        self.tasks.append(task)
        if self.ends:
            self.write(f"{task.name}: begins at {task._steps}")
        return len(self.tasks) - 1

    def update(self, task_id: Any, *, completed: float | None = None, advance: float | None = None) -> None:
        task, now = self.tasks[task_id], self.clock()
        task.done = (task.done if completed is None else completed) + (advance or 0)
        if now - task.last >= EVERY:
            task.last = now
            self.write(task.line(now))


class Later:
    """A bar that appears once its work has taken some seconds.

    Args:
        bar: what to show. clock: seconds, from anywhere.
    """

    def __init__(self, bar: Progress, clock: Clock = time.monotonic) -> None:
        self.bar, self.clock, self.began, self.shown = bar, clock, clock(), False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        if self.shown:
            self.bar.stop()

    def add_task(self, description: str, *, total: float | None = None, completed: int = 0) -> TaskID:
        return self.bar.add_task(description, total=total, completed=completed)

    def update(self, task_id: Any, *, completed: float | None = None, advance: float | None = None) -> None:
        self.bar.update(task_id, completed=completed, advance=advance)
        if not self.shown and self.clock() - self.began >= SHORT:
            self.shown = True
            with suppress(LiveError):  # rich before 14.1 shows one bar at a time
                self.bar.start()


def duration(seconds: float) -> str:
    """Seconds as a person says them: 42 s, 12 min 5 s, 2 h 3 min."""
    total = round(seconds)
    if total < 60:
        return f"{total} s"
    return f"{total // 60} min {total % 60} s" if total < 3600 else f"{total // 3600} h {total % 3600 // 60} min"


def _in_terminal() -> bool:
    return is_shown() and terminal().is_terminal


def progress() -> Bar:
    """A bar in a terminal, lines elsewhere; nothing when quiet, nor from any process but the first."""
    if _silent():
        return Progress(disable=True)
    return _bar() if _in_terminal() else Lines(LOG.info)


def _bar() -> Progress:
    columns: Iterable[Any] = (TextColumn("{task.description:<14}"), BarColumn(), MofNCompleteColumn(),
                              TimeElapsedColumn(), TimeRemainingColumn())
    return Progress(*columns, console=terminal(), transient=True)


def tracked(items: Iterable[T], name: str, stage: bool = False,
            total: int | None = None) -> Generator[T, None, None]:
    """Go through ``items``, with a line a minute, or in a terminal a bar that appears after some seconds.

    Args:
        name: of the work. stage: it is one of the run's stages, with a bar from the start, a first and a last line.
        total: how many, of items that cannot be counted.
    """
    with progress() if stage else _unannounced() as bar:
        task = bar.add_task(name, total=len(items) if isinstance(items, Sized) else total)
        for number, item in enumerate(items, 1):
            yield item
            bar.update(task, completed=number)


def _unannounced() -> Bar:
    if _silent():
        return Lines(_nowhere, ends=False)
    return Later(_bar()) if _in_terminal() else Lines(LOG.info, ends=False)


def _silent() -> bool:
    return os.environ.get("LATENTPRINT_QUIET") == "1" or os.environ.get("RANK", "0") != "0"


def _nowhere(line: str) -> None:
    """Takes a line and drops it."""
