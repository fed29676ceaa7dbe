"""What all tests share: no cache outside the test run, one thread a process, no state left behind."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Rendered faces of the tests stay in the tests' folder; child processes inherit it."""
    before = os.environ.get("LATENTPRINT_CACHE")
    os.environ["LATENTPRINT_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["LATENTPRINT_CACHE"]
    else:
        os.environ["LATENTPRINT_CACHE"] = before


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)
