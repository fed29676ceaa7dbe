"""Hooks of MkDocs: files at the root of the repository become pages, and `examples/` goes into the site.

Links between Markdown files are written as a reader of the repository follows them; here they are turned to the site's.
"""

from __future__ import annotations

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


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that lie outside `docs/`, and the examples as plain files."""
    from mkdocs.structure.files import File

    for source, page in PAGES.items():
        if page != "index.md":
            text = turned((ROOT / source).read_text(encoding="utf-8"), source)
            files.append(File.generated(config, page, content=text))
    for example in sorted((ROOT / "examples").glob("*.*")):
        files.append(File.generated(config, f"examples/{example.name}", abs_src_path=str(example)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Turn the links of pages in `docs/`; those of `on_files` are turned already."""
    source = page.file.src_uri
    return markdown if source in PAGES.values() and source != "index.md" else turned(markdown, f"docs/{source}")


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Refuse a page that would load something from the network."""
    from mkdocs.exceptions import PluginError

    if remote := REMOTE.search(output):
        raise PluginError(f"{page.file.src_uri} loads {remote[1]}; the site loads nothing from elsewhere")
    return output
