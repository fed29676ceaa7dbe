"""Progress on stderr: a bar in a terminal, a line a minute elsewhere, nothing when quiet."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator

import pytest
from helpers import run_cli
from rich.console import Console

from latentprint import log
from latentprint import progress as module
from latentprint.keys import describe
from latentprint.label.presets import LabelConfig
from latentprint.log import shown
from latentprint.progress import Lines, progress, tracked


class FakeClock:
    """Seconds that pass by call."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_stage_begins_reports_each_minute_and_ends() -> None:
    clock, lines = FakeClock(), list[str]()
    with Lines(lines.append, clock) as bar:
        task = bar.add_task("stage1", total=100, completed=10)
        for step in range(11, 31):
            clock.now += 10
            bar.update(task, **({"advance": 1} if step % 2 else {"completed": step}))
    assert lines == [
        "stage1: begins at step 10 of 100",
        "stage1: step 16 of 100, 1 min 0 s, about 14 min 0 s left",
        "stage1: step 22 of 100, 2 min 0 s, about 13 min 0 s left",
        "stage1: step 28 of 100, 3 min 0 s, about 12 min 0 s left",
        "stage1: ended at step 30 of 100, 3 min 20 s",
    ]


def test_what_breaks_off_has_no_end() -> None:
    lines: list[str] = []
    with pytest.raises(ValueError, match="broken"), Lines(lines.append, FakeClock()) as bar:
        bar.add_task("stage1", total=2)
        raise ValueError("broken")
    assert lines == ["stage1: begins at step 0 of 2"]


@pytest.fixture
def stderr(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[bool], io.StringIO]]:
    """What a console on stderr shows, which is a terminal or is none."""

    def opened(is_terminal: bool) -> io.StringIO:
        file = io.StringIO()
        console = Console(file=file, force_terminal=is_terminal, width=80)
        monkeypatch.setattr(log, "terminal", lambda: console)
        monkeypatch.setattr(module, "terminal", lambda: console)
        return file

    monkeypatch.delenv("LATENTPRINT_QUIET", raising=False)
    with shown():
        yield opened


def minutes(monkeypatch: pytest.MonkeyPatch, stage: bool) -> list[int]:
    """Work of three items, each of which takes a minute and a half."""
    clock, seen = FakeClock(), []
    monkeypatch.setattr(module.Lines.__init__, "__defaults__", (clock, True))
    for item in tracked([1, 2, 3], "embedding", stage):
        clock.now += 90
        seen.append(item)
    return seen


def test_work_without_an_optimiser_is_reported_too(stderr: Callable[[bool], io.StringIO],
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    file = stderr(False)
    assert minutes(monkeypatch, stage=False) == [1, 2, 3]
    assert file.getvalue().splitlines() == ["embedding: step 1 of 3, 1 min 30 s, about 3 min 0 s left",
                                            "embedding: step 2 of 3, 3 min 0 s, about 1 min 30 s left",
                                            "embedding: step 3 of 3, 4 min 30 s, about 0 s left"]


@pytest.mark.parametrize(("name", "value"), [("LATENTPRINT_QUIET", "1"), ("RANK", "1")])
def test_quiet_and_second_processes_write_nothing(name: str, value: str, stderr: Callable[[bool], io.StringIO],
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    file = stderr(False)
    monkeypatch.setenv(name, value)
    assert minutes(monkeypatch, stage=False) == minutes(monkeypatch, stage=True) == [1, 2, 3]
    assert file.getvalue() == ""


def test_a_terminal_shows_a_bar(stderr: Callable[[bool], io.StringIO]) -> None:
    file = stderr(True)
    with progress() as bar:
        bar.update(bar.add_task("stage1", total=4), completed=3)
    assert "stage1" in file.getvalue() and "3/4" in file.getvalue() and "begins at" not in file.getvalue()


@pytest.mark.parametrize(("seconds", "shown"), [(0.9, False), (1.1, True)])
def test_work_of_some_seconds_has_a_bar_in_a_terminal(seconds: float, shown: bool, monkeypatch: pytest.MonkeyPatch,
                                                      stderr: Callable[[bool], io.StringIO]) -> None:
    file, clock = stderr(True), FakeClock()
    monkeypatch.setattr(module.Later.__init__, "__defaults__", (clock,))
    for _ in tracked(range(2), "judge: 9,678 photos"):
        clock.now += seconds
    assert ("judge: 9,678 photos" in file.getvalue() and "2/2" in file.getvalue()) is shown
    assert (file.getvalue() == "") is not shown


def test_two_bars_at_once_do_no_harm(monkeypatch: pytest.MonkeyPatch, stderr: Callable[[bool], io.StringIO]) -> None:
    file, clock = stderr(True), FakeClock()
    monkeypatch.setattr(module.Later.__init__, "__defaults__", (clock,))
    with progress() as bar:
        task = bar.add_task("stage1", total=2)
        for _ in tracked(range(2), "embedding"):
            clock.now += 3
        bar.update(task, completed=1)
    assert "1/2" in file.getvalue()


def test_piped_keys_stand_on_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run_cli(capsys, "audit", "label", "--help-keys")
    keys = [key.name for key in describe(LabelConfig)]
    assert code == 0 and [line.split()[0] for line in out.splitlines()[1:]] == keys
