"""The pages: links lead somewhere, names exist in the code, and every page leads on."""

from __future__ import annotations

import doctest
import re
import runpy
import shlex
from importlib import import_module
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import typer
import yaml
from test_imports import EDGES, layer_of, units

from latentprint.cli import app
from latentprint.config import Config

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), *ROOT.glob("*.md")])
LINK = re.compile(r"\]\((?![a-z]+:)([^)\s]+)\)")
REMOTE = re.compile(r"""(?:src|href)=["']https?:|url\(["']?https?:""")
DRAW = "python scripts/draw_architecture.py"


def prose(page: Path) -> str:
    """Text without code blocks."""
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)


def anchors(page: Path) -> set[str]:
    """Of a page's headings, as GitHub and MkDocs both make them."""
    found = re.findall(r"^#+ (.+)$", prose(page), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in found}


def broken(page: Path) -> list[str]:
    """Links of a page to files or headings that are not there."""
    wrong = []
    for link in LINK.findall(prose(page)):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            wrong.append(link)
    return wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    assert broken(page) == []


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# One, two\n\n[a](#one-two) [b](#three) [c](no.md) [d](https://x.org)\n```\n[e](none.md)\n```\n")
    assert broken(page) == ["#three", "no.md"]


def navigation() -> list[str]:
    """Paths of the site's pages."""
    def leaves(node: Any) -> list[str]:
        if isinstance(node, str):
            return [node]
        return [leaf for child in (node.values() if isinstance(node, dict) else node) for leaf in leaves(child)]

    return leaves(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"])


def test_the_site_has_every_page() -> None:
    of_root = {"contributing.md", "security.md", "changelog.md", "settings.md"}  # made by scripts/site_hooks.py
    assert sorted(navigation()) == sorted({page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")} | of_root)


def test_the_site_loads_nothing_from_elsewhere() -> None:
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert settings["theme"]["font"] is False and settings["strict"] is True
    assert not {"extra_javascript", "extra_css"} & set(settings)
    assert [page.name for page in PAGES if REMOTE.search(prose(page))] == []


@pytest.mark.parametrize("page", [page for page in navigation() if not page.startswith("results/")
                                  and page not in ("contributing.md", "security.md", "changelog.md", "settings.md")])
def test_every_page_ends_with_the_next_step(page: str) -> None:
    last = (DOCS / page).read_text(encoding="utf-8").rstrip().split("\n\n")[-1]
    assert last.startswith("Next: ") and LINK.search(last)


def test_the_reference_names_modules_that_exist() -> None:
    named = [name for page in sorted((DOCS / "api").glob("*.md"))
             for name in re.findall(r"^::: latentprint\.?(\S*)$", page.read_text(encoding="utf-8"), re.M)]
    assert len(named) > 30 and len(set(named)) == len(named)
    assert [name for name in named if name not in EDGES] == []


def test_contributing_names_what_exists() -> None:
    """Dotted names are importable, and paths below the package are files."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    dotted = sorted(set(re.findall(r"`latentprint\.([\w.]+)`", text)))
    paths = sorted(set(re.findall(r"`((?:src/latentprint|tests|scripts|examples|docs)/[\w/.\-]+)`", text)))
    assert dotted and paths
    for name in dotted:
        module = import_module("latentprint." + (name if name in EDGES else name.rpartition(".")[0]))
        assert name in EDGES or hasattr(module, name.rpartition(".")[2]), name
    assert [path for path in paths if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("module", ["api", "registry", "results"])
def test_examples_of_the_reference_run(module: str) -> None:
    tried = doctest.testmod(import_module(f"latentprint.{module}"))
    assert tried.attempted and not tried.failed


def test_the_picture_shows_the_code() -> None:
    drawn = runpy.run_path(str(ROOT / "scripts" / "draw_architecture.py"))
    same = drawn["svg"]() == drawn["TARGET"].read_text(encoding="utf-8")
    assert same, f"the structure has changed: run `{DRAW}` and commit the picture"


def test_the_picture_is_whole_and_points_downwards() -> None:
    drawn = runpy.run_path(str(ROOT / "scripts" / "draw_architecture.py"))
    graph = drawn["packages"]()
    assert set(graph) == set(units(EDGES)) - {""}
    assert all(layer_of(target) <= layer_of(name) for name, targets in graph.items() for target in targets)
    at, few = drawn["positions"](drawn["reduced"](graph)), drawn["reduced"](graph)
    assert all(at[target][1] > at[name][1] for name, targets in few.items() for target in targets)
    texts = [node.text for node in ElementTree.fromstring(drawn["svg"]()).iter() if node.tag.endswith("text")]
    assert set(graph) <= set(texts)


def test_reduction_keeps_what_can_be_reached() -> None:
    drawn = runpy.run_path(str(ROOT / "scripts" / "draw_architecture.py"))
    chain = {"a": {"b", "c"}, "b": {"c"}, "c": set()}
    assert drawn["reduced"](chain) == {"a": {"b"}, "b": {"c"}, "c": set()}


def commands(text: str) -> list[list[str]]:
    """Words of each `latentprint` command in code blocks, fenced or indented; a backslash joins lines."""
    text = re.sub(r"\\\n\s*", "", text)
    lines = [line.strip() for block in re.findall(r"^```(?:bash)?\n(.*?)^```", text, re.S | re.M)
             for line in block.splitlines()]  # fmt: skip
    lines += re.findall(r"^    (latentprint .+)$", text, re.M)
    return [shlex.split(line, comments=True) for line in lines if re.match(r"latentprint \w", line)]


def wrong_words(words: list[str]) -> list[str]:
    """Of a command: its name where there is none such, or options that it does not have."""
    command: Any = typer.main.get_command(app)
    rest = words[1:]
    while rest and not rest[0].startswith("--") and (inner := getattr(command, "commands", None)):
        if rest[0] not in inner:
            return [rest[0]]
        command, rest = inner[rest[0]], rest[1:]
    options = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    return [word for word in rest if word.startswith("--") and word.split("=")[0] not in options]


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page.read_text(encoding="utf-8"))],
                         ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_and_options_exist(page: Path) -> None:
    assert [wrong for words in commands(page.read_text(encoding="utf-8")) for wrong in wrong_words(words)] == []


def test_a_wrong_command_is_found() -> None:
    text = ("```\nlatentprint audit label --prest tiny  # x\nlatentprint adit\n```\n\n"
            "    latentprint gate runs/x \\\n      --max a=1\n")
    assert [wrong_words(words) for words in commands(text)] == [["--prest"], ["adit"], []]


@pytest.mark.parametrize(
    ("source", "link", "on_the_site"),
    [
        ("CONTRIBUTING.md", "docs/architecture.md#layout", "architecture.md#layout"),
        ("docs/studies.md", "../examples/study_cifar.yaml", "examples/study_cifar.yaml"),
        ("docs/tutorials/study.md", "../../CONTRIBUTING.md", "../contributing.md"),
        ("docs/results/README.md", "../pictures/a.png", "../pictures/a.png"),
        ("docs/results/README.md", "real.md", "real.md"),
        ("docs/api/index.md", "#here", "#here"),
        ("docs/label.md", "https://x.org/a.md", "https://x.org/a.md"),
    ],
)
def test_links_of_the_repository_become_links_of_the_site(source: str, link: str, on_the_site: str) -> None:
    hooks = runpy.run_path(str(ROOT / "scripts" / "site_hooks.py"))
    assert hooks["turned"](f"see [a]({link}).", source) == f"see [a]({on_the_site})."


def test_remote_parts_of_a_page_are_found() -> None:
    remote = runpy.run_path(str(ROOT / "scripts" / "site_hooks.py"))["REMOTE"]
    assert remote.search('<p><img alt="x" src="https://x.org/a.png">')[1] == "https://x.org/a.png"
    assert remote.search("<script src=https://x.org/a.js></script>")
    assert not remote.search('<a href="https://x.org">x</a> <script src="assets/a.js"></script>')


def derived(cls: type[Any]) -> set[type[Any]]:
    """Every class below ``cls``."""
    return {below for child in cls.__subclasses__() for below in (child, *derived(child))}


def test_the_page_of_settings_has_every_class() -> None:
    hooks = runpy.run_path(str(ROOT / "scripts" / "site_hooks.py"))
    listed = [name for names in hooks["settings_classes"](ROOT / "src" / "latentprint").values() for name in names]
    classes = {getattr(import_module(name.rpartition(".")[0]), name.rpartition(".")[2]) for name in listed}
    assert len(classes) == len(listed) > 60
    assert classes == {cls for cls in derived(Config) if cls.__module__.startswith("latentprint.")}
    assert all(f"::: {name}\n" in hooks["settings_page"](ROOT / "src" / "latentprint") for name in listed)
