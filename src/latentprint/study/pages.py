"""Pages of the ledger: the notes' expectations beside what was measured, the studies' tables, a README's section."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from latentprint.engine.state import write_text
from latentprint.errors import UserError
from latentprint.study.analyse import summarise
from latentprint.study.claims import Claim, Verdict, ledger, ran
from latentprint.study.outputs import SUMMARY, write_statistics
from latentprint.study.rows import read_rows
from latentprint.study.run import DEFINITION, read_study
from latentprint.study.tables import markdown, section

#: Between these two lines of a README the section lies that is generated.
BEGIN, END = "<!-- claims: begin -->", "<!-- claims: end -->"
ROWS = "rows.csv"
#: What of a study is kept beside the ledger: enough to write it again, there or later with further studies.
KEPT = (DEFINITION, SUMMARY, ROWS, "summary.csv", "table.tex", "forest.png", "curves.png", "front.png")
#: Of these, what the page of studies shows.
SHOWN = ("curves", "front")
#: Said of all verdicts together.
BY_CHANCE = ("Each verdict rests on a 95% interval over seeds, and none is corrected for the others: a few of those "
             "that are resolved will be so by chance.")
#: What the verdicts mean.
RULES = ("A *direction* is confirmed where the interval lies on the claimed side of 0, and refuted where it lies on "
         "the other. A *size* is confirmed where the interval lies within the claimed range, widened by the "
         "tolerance, and refuted where it lies outside. Otherwise it is not resolved. The column *tested* says which "
         "of them a claim is decided by. Claims may rest on the same measurement.")
#: Beside the section of a README, the verdicts that are listed and how they are introduced.
LISTED: Mapping[str, Sequence[Verdict]] = {
    "**Where the design notes were wrong**, measured on procedural people at 32 and 64 pixels:":
        ("refuted", "direction not resolved, size refuted"),
    "**Where they were right in direction and wrong in size**:": ("direction confirmed, size refuted",),
    "**Where they were right**:": ("confirmed", "direction confirmed, size not resolved"),
}
#: How the page of studies begins.
STUDIES_HEAD = """# Studies

Written by `latentprint study claims`, no number by hand. Means over seeds with Student's 95% interval, of rates on the
logit scale ([how](../statistics.md)); differences over the same seeds, with p of the sign-flip test after Holm's
correction. A time that some runs did not reach is a mean up to the steps that were watched.

"""


def read_bench(path: Path) -> dict[str, list[Mapping[str, Any]]]:
    """By name of a bench the rows that ``latentprint bench --json`` printed into a file.

    Raises:
        UserError: the file holds no such thing.
    """
    found: dict[str, list[Mapping[str, Any]]] = {}
    try:
        for row in json.loads(path.read_text())["rows"]:
            found.setdefault(row["bench"], []).append(row)
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{path} is not what `latentprint bench --json` prints") from None
    return found


def write_claims(folders: Sequence[Path], out: Path, claims: Sequence[Claim],
                 benches: Sequence[Path] = ()) -> list[dict[str, Any]]:
    """``claims.json`` and ``claims.md`` from the studies in ``folders`` and files of benches, and ``studies.md`` with
    the studies' own tables and pictures, which ``studies/`` keeps; returns the rows.

    A folder below ``studies/`` does as well as the study's own: the ledger can be written again without the runs.
    Statistics are made from the rows each time.

    Raises:
        UserError: a folder holds no finished study, or two hold the same one, or a file holds no bench.
    """
    timed: dict[str, list[list[Mapping[str, Any]]]] = {}
    for path in benches:
        for name, found in read_bench(path).items():
            timed.setdefault(name, []).append(found)
    summaries: dict[str, Mapping[str, Any]] = {}
    for folder in folders:
        if not (folder / ROWS).is_file():
            raise UserError(f"{folder} holds no study that has run: no {ROWS}")
        summary = summarise(read_study(folder), read_rows(folder / ROWS))
        if summary["study"] in summaries:
            raise UserError(f"{folder}: the study '{summary['study']}' is given twice")
        summaries[summary["study"]] = summary
    rows = ledger(claims, summaries, timed)
    out.mkdir(parents=True, exist_ok=True)
    for folder, name in zip(folders, summaries, strict=True):
        keep(folder, out / "studies" / name)
        write_statistics(read_study(folder), summaries[name], out / "studies" / name)
    write_text(out / "claims.json", json.dumps({"claims": rows}, indent=1) + "\n")
    write_text(out / "claims.md", _page(rows, summaries))
    write_text(out / "studies.md", STUDIES_HEAD + "\n".join(_study_part(out, name) for name in summaries))
    return rows


def keep(folder: Path, place: Path) -> None:
    """Copy what is `KEPT` of a study, in place of what was; nothing to do for one that lies there."""
    if folder.resolve() == place.resolve():
        return
    place.mkdir(parents=True, exist_ok=True)
    for name in KEPT:
        (place / name).unlink(missing_ok=True)
        if (folder / name).is_file():
            shutil.copyfile(folder / name, place / name)


def _study_part(out: Path, name: str) -> str:
    """A study's tables, in Markdown, and its pictures."""
    folder = out / "studies" / name
    study, summary = read_study(folder), json.loads((folder / SUMMARY).read_text())
    parts = [f"## {name}\n\n{study.question}\n\n"
             f"`{ran(summary)}`: {study.command}, preset {study.preset} with the study's own sizes "
             f"([definition](studies/{name}/{DEFINITION}), [every run](studies/{name}/rows.csv), "
             f"[LaTeX](studies/{name}/table.tex)).\n"]
    parts.append(section(study, summary))
    parts += [f"![{name}: {shown}](studies/{name}/{shown}.png)\n" for shown in SHOWN
              if (folder / f"{shown}.png").is_file()]
    return "\n".join(parts)


def write_section(readme: Path, rows: Sequence[Mapping[str, Any]], link: str) -> None:
    """Put what came out between the two marks of a Markdown file: first of all where the notes were wrong.

    Raises:
        UserError: the file has no such marks.
    """
    try:
        before, _, rest = readme.read_text().partition(BEGIN)
        _, mark, after = rest.partition(END)
    except OSError as error:
        raise UserError(f"{readme} cannot be read ({error.strerror})") from None
    if not mark:
        raise UserError(f"{readme} has no place for results: it needs the lines {BEGIN} and {END}")
    write_text(readme, f"{before}{BEGIN}\n{_section(rows, link)}{END}{after}")


def _section(rows: Sequence[Mapping[str, Any]], link: str) -> str:
    def table(verdicts: Sequence[Verdict]) -> str:
        found = [row for row in rows if row["verdict"] in verdicts]
        body = [[row["source"], row["claim"], row["expected"], row["tested"], _cell(row), row["of"], row["verdict"]]
                for row in found]
        head = ["note", "claim", "expected", "tested", "measured", "of", "verdict"]
        return markdown(head, body) if body else ""

    parts = [f"Of {len(rows)} numbers that the design notes expect: {counted(rows)} ([all of them]({link})). {RULES} "
             f"{BY_CHANCE}\n"]
    parts += [f"{title}\n\n{found}" for title, verdicts in LISTED.items() if (found := table(verdicts))]
    return "\n".join(parts)


def counted(rows: Sequence[Mapping[str, Any]]) -> str:
    """How many claims have each verdict, and on how many measurements they rest."""
    parts = []
    for verdict in get_args(Verdict):
        found = [row for row in rows if row["verdict"] == verdict]
        measured = len({row["measurement"] for row in found if row["measured"] is not None})
        if found:
            of = f" (on {measured} measurement{'s' if measured > 1 else ''})" if measured else ""
            parts.append(f"{len(found)} {verdict}{of}")
    return "; ".join(parts)


def _page(rows: Sequence[Mapping[str, Any]], summaries: Mapping[str, Mapping[str, Any]]) -> str:
    sizes = "".join(f"- `{name}`: {found['command']}, preset {found['preset']}, {found['seeds']} seeds\n"
                    for name, found in summaries.items())
    body = [[row["id"], row["source"], row["claim"], row["expected"], row["tested"], _cell(row), row["of"],
             row["direction"] or "–", row["size"] or "–", row["verdict"],
             "; ".join(part for part in (f"`{row['command']}`" if row["command"] else "", row["note"]) if part)]
            for row in rows]
    head = ["id", "source", "claim", "expected", "tested", "measured", "of", "direction", "size", "verdict",
            "command, note"]
    return (f"# The notes' expectations, measured\n\nWritten by `latentprint study claims`, no number by hand. "
            f"{len(rows)} claims: {counted(rows)}. Measured values are means over seeds with Student's 95% interval "
            "([how](../statistics.md)); differences are to the study's reference arm unless another is named. The "
            f"notes expect them of real faces at 512 pixels, here people are procedural. {RULES} {BY_CHANCE}\n\n"
            f"{sizes}\n" + markdown(head, body))


def _cell(row: Mapping[str, Any]) -> str:
    if row["measured"] is None:
        return "–"
    scale, unit = (100, f" {row['unit']}") if row["unit"] else (1, "")
    value, low, high = (None if row[key] is None else f"{scale * row[key]:.3g}" for key in ("measured", "low", "high"))
    ends = f" ({low} to {high})" if low is not None and high is not None else ""
    return f"{value}{ends}{unit}, n {row['n']}"
