"""Imports go one way, from what a user runs down to what all share; a channel never imports another."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import latentprint.errors

ROOT = Path(latentprint.errors.__file__).parent
CHANNELS = frozenset({"label", "template", "feature"})
LAYERS = (
    {"errors", "findings", "types", "stats", "keys", "complaints", "log", "memory", "progress", "registry"},
    {"config", "plugins", "data", "models", "losses", "schedules", "metrics", "diffusion", "engine",
     "surrogates", "report", "verification"},
    {"victim", "attack", "defense", "checks", "probes", "handover", "framer", "imitation", "objects", "auditing"},
    CHANNELS,
    {"pretrain", "bench", "gate", "doctor", "console", "convert", "study", "results"},
    {"api", "cli", "__main__"},
)
TORCH_FREE = ("errors", "keys", "stats", "config", "report", "gate", "results")
Graph = Mapping[str, set[str]]


def modules(root: Path) -> dict[str, Path]:
    """Dotted name below the package -> file; ``""`` is the package itself."""
    files = {file.relative_to(root).with_suffix("").as_posix(): file for file in root.rglob("*.py")}
    return {name.removesuffix("__init__").strip("/").replace("/", "."): file for name, file in files.items()}


def imported(file: Path) -> Iterator[str]:
    """Absolute names of everything a file imports, at any depth; ``from a import b`` gives ``a.b``."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file.name}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def graph(root: Path) -> dict[str, set[str]]:
    """Module -> modules of the package that it imports."""
    files = modules(root)
    return {name: set(_inside(imported(file), files)) - {name} for name, file in files.items()}


def _inside(names: Iterable[str], files: Mapping[str, Path]) -> Iterator[str]:
    for name in names:
        top, _, rest = name.partition(".")
        if top == ROOT.name:
            parent = rest.rpartition(".")[0]
            yield rest if rest in files else parent  # the last part is a name inside the parent


def layer_of(module: str) -> int:
    """A new unit has to be given its place in ``LAYERS``."""
    unit = module.partition(".")[0]
    found = [level for level, units in enumerate(LAYERS) if unit in units]
    assert found, f"say in LAYERS where '{unit}' belongs"
    return found[0]


def wrong_way(edges: Graph) -> list[str]:
    """Imports from a higher layer, or from another channel."""
    pairs = [(a, b) for a, targets in edges.items() for b in targets if a and b]
    return [f"{a} imports {b}" for a, b in pairs if layer_of(b) > layer_of(a) or _between_channels(a, b)]


def _between_channels(a: str, b: str) -> bool:
    first, second = a.partition(".")[0], b.partition(".")[0]
    return first != second and {first, second} <= CHANNELS


def cycle(edges: Graph) -> list[str]:
    """Modules that import each other in a ring, or nothing."""
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def units(edges: Graph) -> dict[str, set[str]]:
    """The same between the top-level units: ``models``, ``data``, ..."""
    merged: dict[str, set[str]] = {}
    for a, targets in edges.items():
        unit = a.partition(".")[0]
        merged.setdefault(unit, set()).update({b.partition(".")[0] for b in targets} - {unit})
    return merged


def reach(edges: Graph, start: Iterable[str]) -> set[str]:
    """Everything that importing ``start`` may load, the packages on the way included."""
    seen: set[str] = set()
    todo = list(start)
    while todo:
        module = todo.pop()
        if module not in seen:
            seen.add(module)
            todo += [*edges[module], *([module.rpartition(".")[0]] if "." in module else [])]
    return seen


EDGES = graph(ROOT)
TORCH = {name for name, file in modules(ROOT).items() if "torch" in {n.split(".")[0] for n in imported(file)}}


def test_imports_point_downwards() -> None:
    assert len(EDGES) > 40
    assert wrong_way(EDGES) == []


def test_modules_and_units_form_no_ring() -> None:
    assert cycle(EDGES) == []
    assert cycle(units(EDGES)) == []


@pytest.mark.parametrize("unit", TORCH_FREE)
def test_no_torch_within_reach(unit: str) -> None:
    start = [name for name in EDGES if name.partition(".")[0] == unit]
    assert start and len(TORCH) > 10
    assert reach(EDGES, start) & TORCH == set()


def test_the_command_line_loads_nothing_heavy() -> None:
    code = "import sys, latentprint.cli; print({'torch', 'numpy', 'matplotlib', 'jinja2'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A small package of the same name in which nothing is wrong yet."""
    root = tmp_path / ROOT.name
    for name in ("errors", "models/net", "data/__init__", "label/audit", "feature/audit", "cli"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).with_suffix(".py").write_text("from latentprint.errors import UserError\n")
    (root / "errors.py").write_text("class UserError(Exception): ...\n")
    return root


@pytest.mark.parametrize(
    ("file", "line", "found"),
    [
        ("models/net.py", "from latentprint import cli", ["models.net imports cli"]),
        ("models/net.py", "def f():\n  import latentprint.label.audit", ["models.net imports label.audit"]),
        ("label/audit.py", "import latentprint.feature.audit", ["label.audit imports feature.audit"]),
        ("label/audit.py", "from latentprint.models import net", []),
        ("cli.py", "import latentprint.label.audit", []),
    ],
)
def test_the_rule_finds_what_breaks_it(package: Path, file: str, line: str, found: list[str]) -> None:
    assert wrong_way(graph(package)) == []
    (package / file).write_text(line)
    assert wrong_way(graph(package)) == found


def test_a_ring_is_found(package: Path) -> None:
    (package / "models/net.py").write_text("import latentprint.data")
    assert cycle(units(graph(package))) == []
    (package / "data/__init__.py").write_text("from latentprint.models import net")
    assert set(cycle(graph(package))) == {"models.net", "data"}
    assert set(cycle(units(graph(package)))) == {"models", "data"}


def test_a_unit_without_a_layer_is_refused(package: Path) -> None:
    (package / "novel.py").write_text("import latentprint.errors")
    with pytest.raises(AssertionError, match="'novel'"):
        wrong_way(graph(package))
