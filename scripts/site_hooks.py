"""Hooks of MkDocs: files at the root of the repository become pages, `examples/` goes into the site, and a page lists
all settings.

Links between Markdown files are written as a reader of the repository follows them; here they are turned to the site's.
"""

from __future__ import annotations

import ast
from pathlib import Path
from posixpath import dirname, normpath, relpath
from re import Match, compile
from typing import Any

ROOT = Path(__file__).parent.parent
PAGES = {"CONTRIBUTING.md": "contributing.md", "SECURITY.md": "security.md", "CHANGELOG.md": "changelog.md",
         "README.md": "index.md"}  # fmt: skip
REMOTE = compile(r"""<(?:script|img|iframe|source)\b[^>]*\bsrc="?(https?:[^">\s]+)""")
LINK = compile(r"(?<=\]\()(?![a-z]+:|#)([^)#\s]+)")


def site_path(path: str) -> str:
    """Path below the repository's root -> path below the site's root: ``docs/label.md`` -> ``label.md``."""
    return PAGES.get(path) or path.removeprefix("docs/")


def turned(text: str, source: str) -> str:
    """Markdown of the repository's file ``source`` with its relative links turned to the site's."""
    here = dirname(site_path(source)) or "."

    def target(link: Match[str]) -> str:
        path = normpath(f"{dirname(source) or '.'}/{link[1]}")
        return relpath(site_path(path), here)

    return LINK.sub(target, text)


SETTINGS = """# Settings

Every setting of every command, from the classes that validate them. `latentprint audit label --help-keys` lists those
of one command with their values in a preset. A nested setting is written with dots: `--set victim.steps=100`.
"""


def settings_classes(package: Path) -> dict[str, list[str]]:
    """Part of the package -> dotted names of its classes that derive from `Config`, in the order of the files."""
    defined: list[tuple[str, str, set[str]]] = []
    for file in sorted(package.rglob("*.py")):
        module = ".".join(file.relative_to(package.parent).with_suffix("").parts)
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                defined.append((module, node.name, {base.id for base in node.bases if isinstance(base, ast.Name)}))
    known = {"Config"}
    while more := {name for _, name, bases in defined if bases & known} - known:
        known |= more
    parts: dict[str, list[str]] = {}
    for module, name, bases in defined:
        if bases & known:
            parts.setdefault(module.split(".")[1], []).append(f"{module}.{name}")
    return parts


def settings_page(package: Path) -> str:
    """Markdown of the page that lists all settings, a part for each folder of the package."""
    options = "    options: {heading_level: 3, inherited_members: true, show_root_full_path: false, show_bases: false}"
    return SETTINGS + "".join(f"\n## {part.capitalize()}\n" + "".join(f"\n::: {name}\n{options}\n" for name in names)
                              for part, names in settings_classes(package).items())


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that lie outside `docs/`, the page of settings, and the examples as plain files."""
    from mkdocs.structure.files import File

    for source, page in PAGES.items():
        if page != "index.md":
            text = turned((ROOT / source).read_text(encoding="utf-8"), source)
            files.append(File.generated(config, page, content=text))
    files.append(File.generated(config, "settings.md", content=settings_page(ROOT / "src" / "latentprint")))
    for example in sorted((ROOT / "examples").glob("*.*")):
        files.append(File.generated(config, f"examples/{example.name}", abs_src_path=str(example)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Turn the links of pages in `docs/`; those of `on_files` are turned already."""
    source = page.file.src_uri
    made = {*PAGES.values(), "settings.md"} - {"index.md"}
    return markdown if source in made else turned(markdown, f"docs/{source}")


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Refuse a page that would load something from the network."""
    from mkdocs.exceptions import PluginError

    if remote := REMOTE.search(output):
        raise PluginError(f"{page.file.src_uri} loads {remote[1]}; the site loads nothing from elsewhere")
    return output
