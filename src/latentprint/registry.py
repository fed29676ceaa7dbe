"""Attacks, defences, surrogates, losses, networks and data sources by a name of their own.

Wherever a setting takes ``FILE.py:NAME`` or ``PACKAGE.MODULE:NAME`` it takes ``plugin:NAME``. A package makes its names
known to every process by an entry point of the group ``latentprint.plugins``, whose module registers them; such modules
are imported when a name is looked up for the first time.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, TypeVar

import torch
from pydantic import AfterValidator, StringConstraints

from latentprint import memory
from latentprint.errors import UserError, useful_line
from latentprint.keys import did_you_mean
from latentprint.memory import recall

#: Before a registered name in a setting, and the group of entry points.
PREFIX, GROUP = "plugin:", "latentprint.plugins"
F = TypeVar("F", bound=Callable[..., Any])
M = TypeVar("M")
_registered: dict[str, Callable[..., Any]] = {}
_imported: set[str] = set()


def register(name: str) -> Callable[[F], F]:
    """A decorator that makes a class or function known as ``plugin:NAME``.

    Examples:
        >>> @register("blurred")
        ... def blurred(n_classes): ...
        >>> find("blurred") is blurred
        True

    Raises:
        ValueError: another object has the name already.
    """

    def keep(made: F) -> F:
        if (known := _registered.setdefault(name, made)) is not made and _where(known) != _where(made):
            raise ValueError(f"the plug-in name '{name}' is taken by {known.__module__}.{known.__qualname__}")
        _registered[name] = made  # a module that is run again, as in a notebook, replaces its own
        return made

    return keep


def find(name: str) -> Callable[..., Any]:
    """What is registered as ``plugin:NAME``.

    Raises:
        UserError: nothing is, or a package of the group cannot be imported.
    """
    if name not in _registered:
        _import_packages()
    if name not in _registered:
        raise UserError(f"no plug-in '{name}'; {did_you_mean(name, _registered)}")
    return _registered[name]


def _import_packages() -> None:
    for entry in metadata.entry_points(group=GROUP):
        if entry.value not in _imported:
            try:
                entry.load()
            except Exception as error:  # whatever another package raises
                raise UserError(f"the plug-in package '{entry.name}' ({entry.value}) cannot be imported: "
                                f"{useful_line(error)}") from error
            _imported.add(entry.value)


def _known(spec: str) -> str:
    find(spec.removeprefix(PREFIX))
    return spec


#: ``plugin:NAME`` beside the names that a setting lists; one that nobody registered is refused with the settings.
PluginName = Annotated[str, StringConstraints(pattern=f"^{PREFIX}."), AfterValidator(_known)]


def _where(made: Callable[..., Any]) -> tuple[str, str]:
    return made.__module__, made.__qualname__


# ---- what a setting names ----


def find_callable(spec: str) -> Callable[..., Any]:
    """What ``FILE.py:NAME``, ``PACKAGE.MODULE:NAME`` or ``plugin:NAME`` names.

    Raises:
        UserError: the spec is none of them, its file or module fails to run, or it has no such callable.
    """
    if spec.startswith(PREFIX):
        return find(spec.removeprefix(PREFIX))
    if spec.startswith(memory.PREFIX):
        held: Callable[..., Any] = recall(spec.removeprefix(memory.PREFIX))
        return held
    source, _, name = spec.rpartition(":")
    if not source or not name:
        raise UserError(f"'{spec}' is none of FILE.py:NAME, PACKAGE.MODULE:NAME and plugin:NAME")
    namespace = _python_file(Path(source)) if source.endswith(".py") else _importable(source)
    found: Callable[..., Any] | None = getattr(namespace, name, None)
    if not callable(found):
        raise UserError(f"{source} has no callable '{name}'")
    return found


def made_by(spec: str, kind: type[M], *given: Any, **options: Any) -> M:
    """What the callable of a spec makes of its arguments.

    Raises:
        UserError: see `find_callable`; or it fails, or makes something that is no ``kind``.
    """
    factory = find_callable(spec)
    try:
        with settings_kept():
            made = factory(*given, **options)
    except (Exception, SystemExit) as error:
        raise UserError(f"{spec} failed: {raised(error)}") from error
    if not isinstance(made, kind):
        raise UserError(f"{spec} made {type(made).__name__}, expected {kind.__name__}")
    return made


@contextmanager
def settings_kept() -> Iterator[None]:
    """PyTorch's gradient mode and default type as they were, whatever the user's own code does to them."""
    grad, dtype = torch.is_grad_enabled(), torch.get_default_dtype()
    try:
        yield
    finally:
        torch.set_grad_enabled(grad)
        torch.set_default_dtype(dtype)


def _python_file(path: Path) -> Any:
    if not path.is_file():
        raise UserError(f"no file {path}")
    found = importlib.util.spec_from_file_location(path.stem, path)
    assert found is not None and found.loader is not None  # a .py file always has a loader
    namespace = importlib.util.module_from_spec(found)
    try:
        with settings_kept():
            found.loader.exec_module(namespace)
    except (Exception, SystemExit) as error:
        raise UserError(f"{path} failed to run: {raised(error)}") from error
    return namespace


def _importable(source: str) -> Any:
    try:
        with settings_kept():
            return importlib.import_module(source)
    except (Exception, SystemExit) as error:
        raise UserError(f"cannot import '{source}': {raised(error)}") from error


def raised(error: BaseException) -> str:
    """The type of an exception and what it says."""
    if isinstance(error, SystemExit):
        return "it ends the program (sys.exit); keep what a script does under `if __name__ == \"__main__\":`"
    kind, line = type(error).__name__, useful_line(error)
    return line if line.startswith(kind) else f"{kind}: {line}"
