"""report.json and a run's pictures as one self-contained page.

The page needs nothing but itself: styles, script and pictures are inline, a Content-Security-Policy forbids
every request and every script but its own, and all text from data is escaped.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shlex
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from latentprint.errors import UserError
from latentprint.report.build import LOW_CEILING, LOW_EVALUATOR_ACCURACY
from latentprint.report.grades import GRADES, INCONCLUSIVE, NO_LEAK
from latentprint.report.pictures import load
from latentprint.report.schema import READ
from latentprint.report.values import NOT_MEASURED, flatten, mapping, percent, scalar, sequence, text
from latentprint.report.view import channel, picture_names

TEMPLATES = Path(__file__).parent / "templates"


def render(report: Mapping[str, Any], run_dir: Path) -> str:
    """The report page as HTML text.

    Args:
        report: the content of report.json. Any key may be missing, of another type or NaN: "not measured".
        run_dir: where the pictures named in the report lie. Only PNG and JPEG files inside it are taken in.
    """
    sections = {name: mapping(section) for name, section in mapping(report.get("channels")).items()}
    files = {name for section in sections.values() for name in picture_names(section)}
    pictures = {name: picture for name in files if (picture := load(run_dir, name))}
    channels = [channel(name, section, pictures, index)
                for index, (name, section) in enumerate(sections.items())]
    manifest = mapping(report.get("manifest"))
    script = (TEMPLATES / "report.js").read_text(encoding="utf-8").strip()
    return page(
        "report.html.j2", channels=channels,
        warnings=[scalar(warning) for warning in sequence(report.get("warnings"))],
        manifest=list(flatten(manifest)),
        commands=_commands(manifest, list(sections)),
        seed=scalar(manifest.get("seed", manifest.get("seeds"))),
        grades=[*reversed(GRADES)], no_leak=NO_LEAK, inconclusive=INCONCLUSIVE,
        low_accuracy=percent(LOW_EVALUATOR_ACCURACY), low_ceiling=percent(LOW_CEILING),
        not_measured=NOT_MEASURED, percent=percent,
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def render_run(directory: Path) -> Path:
    """Write ``report.html`` from ``report.json`` and the pictures of a run directory, and return its path.

    Raises:
        UserError: report.json is missing, is not a report, or the page cannot be written.
    """
    target = directory / "report.html"
    write_page(target, render(read_report(directory / "report.json"), directory))
    return target


def page(template: str, **content: Any) -> str:
    """A template of this folder in the house style, filled in; all text in it is escaped."""
    style = Markup((TEMPLATES / "report.css").read_text(encoding="utf-8").strip())
    return _environment().get_template(template).render(style=style, **content)


def fragment(template: str, **content: Any) -> str:
    """A template of this folder that stands in the page of another, with styles of its own; text in it is escaped."""
    return _environment().get_template(template).render(not_measured=NOT_MEASURED, **content)


def write_page(target: Path, html: str) -> None:
    """Replace ``target`` atomically.

    Raises:
        UserError: it cannot be written.
    """
    partial = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        partial.write_bytes(html.encode("utf-8", errors="replace"))  # JSON may hold lone surrogates
        partial.replace(target)
    except OSError as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise UserError(f"{target}: cannot be written ({error.strerror})") from error


def read_report(path: Path) -> dict[str, Any]:
    """The content of a report.json.

    Raises:
        UserError: the file is missing, unreadable, not JSON or not a report of this schema.
    """
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: not found; expected the report.json of a finished run") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is not valid JSON ({error})") from error
    if not isinstance(report, dict) or not isinstance(report.get("channels"), dict):
        raise UserError(f'{path}: is not a report; expected an object with the key "channels"')
    if report.get("schema") not in READ:
        known = " and ".join(map(str, READ))
        raise UserError(f"{path}: schema is {report.get('schema')!r}; this version reads schema {known}")
    return report


def _commands(manifest: Mapping[str, Any], channels: list[str]) -> list[str]:
    """What to type to get the same numbers: the run's own command, else its saved configuration run again."""
    given = manifest.get("command", manifest.get("argv"))
    if isinstance(given, list | tuple) and given:
        return [shlex.join(str(part) for part in given)]
    if isinstance(given, str) and given.strip():
        return [text(given)]
    return [f"latentprint audit {shlex.quote(name)} --config config.yaml --out again" for name in channels]


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True,
                              lstrip_blocks=True, undefined=jinja2.StrictUndefined)
