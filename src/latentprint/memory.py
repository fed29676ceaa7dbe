"""Objects of a Python process that settings can name while one call lasts: networks, functions, sets of images.

A setting holds ``memory:ResNet-1f2e3d4c5b6a`` or ``{"kind": "memory", "name": ...}``. The name ends in a digest of the
object's content, so that a run is resumed with the same object alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any

from latentprint.errors import UserError

#: Before the name of a network or function in a setting.
PREFIX = "memory:"
_held: ContextVar[Mapping[str, Any]] = ContextVar("held", default=MappingProxyType({}))


@contextmanager
def held(objects: Mapping[str, Any]) -> Iterator[None]:
    """Settings may name these objects within it."""
    token = _held.set(objects)
    try:
        yield
    finally:
        _held.reset(token)


def recall(name: str) -> Any:
    """The object of that name.

    Raises:
        UserError: no object of this call has it.
    """
    if name not in _held.get():
        raise UserError(f"'{PREFIX}{name}' is an object of the Python process that began this run: call "
                        "latentprint.audit there again, with the same object and resume=True")
    return _held.get()[name]
