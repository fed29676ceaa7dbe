"""What all tests share: no cache and no assets outside the test run, one thread a process, no state left behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from helpers import Run

from latentprint.cli import main
from latentprint.log import shown


@pytest.fixture(scope="session", autouse=True)
def own_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Rendered faces and assets of the tests stay in the tests' folder; child processes inherit it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LATENTPRINT_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("LATENTPRINT_ASSETS", str(tmp_path_factory.mktemp("own")))
        yield


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def listening() -> Iterator[None]:
    """What is logged goes to stderr, as on the command line."""
    with shown():
        yield


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """A command with settings; gives exit code, stderr and the run directory."""

    def call(command: str, *settings: str, out: str = "run", more: tuple[str, ...] = ()) -> tuple[int, str, Path]:
        words = [*command.split(), "--preset", "tiny", "--out", str(tmp_path / out), *more]
        for setting in settings:
            words += ["--set", setting]
        return main(words), capsys.readouterr().err, tmp_path / out

    return call
