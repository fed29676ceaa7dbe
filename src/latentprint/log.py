"""The logger ``latentprint``, through which everything speaks: silent in a library until its host listens."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

LOG = logging.getLogger("latentprint")
LOG.addHandler(logging.NullHandler())  # Python would print warnings that nobody listens to


@cache
def terminal() -> Console:
    """The one console on stderr: only lines that go through the console of a progress bar leave it whole."""
    from rich.console import Console

    return Console(stderr=True)


class _Shown(logging.Handler):
    """Prints on the console."""

    def emit(self, record: logging.LogRecord) -> None:
        from rich.text import Text

        terminal().print(Text(record.getMessage()), soft_wrap=True)


@contextmanager
def shown(wanted: bool = True) -> Iterator[None]:
    """Within it, where ``wanted``, what is logged goes to stderr as on the command line, with bars in a terminal."""
    if not wanted or is_shown():
        yield
        return
    handler, level = _Shown(), LOG.level
    LOG.addHandler(handler)
    LOG.setLevel(logging.INFO)
    try:
        yield
    finally:
        LOG.removeHandler(handler)
        LOG.setLevel(level)


def is_shown() -> bool:
    """Whether what is logged goes to stderr."""
    return any(isinstance(handler, _Shown) for handler in LOG.handlers)
