"""The outcome of a release check as text, and in the formats of pipelines: JUnit XML, SARIF and Markdown."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

from latentprint.errors import UserError
from latentprint.gate.outcome import Outcome

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
RULES = {"leak-above-bound": "A number of an audit is above its bound.",
         "inconclusive": "The audit could not have seen a leak.",
         "warning": "The report of an audit has a warning."}


class Problem(NamedTuple):
    """Why a check does not pass: a key of ``RULES``, the channel, a title and a sentence."""

    rule: str
    channel: str
    title: str
    sentence: str


def problems(outcome: Outcome) -> Iterator[Problem]:
    """Everything that keeps an outcome from passing."""
    for check in outcome.checks:
        if not check.passed:
            yield Problem("leak-above-bound", check.path.partition(".")[0], check.path,
                          f"{check.path} is {check.measured:.4g}, above the bound {check.most:.4g}")
    for channel, sentence in outcome.doubts:
        yield Problem("inconclusive", channel, f"{channel} is conclusive", _printable(sentence))
    for sentence in outcome.warnings:
        yield Problem("warning", "report", "no warnings", _printable(sentence))


def text(outcome: Outcome) -> str:
    """Lines for a terminal; the last one is the verdict."""
    lines = [f"{each.path} = {each.measured:.4g} is {'within' if each.passed else 'ABOVE'} {each.most:.4g}"
             for each in outcome.checks]
    lines += [f"warning: {sentence}" for sentence in outcome.warnings]
    lines += [f"INCONCLUSIVE {channel}: {sentence}" for channel, sentence in outcome.doubts]
    return "\n".join([*lines, f"gate: {outcome.verdict}"])


def junit(outcome: Outcome) -> str:
    """JUnit XML: a test case for each bound that passes and for each problem."""
    found = list(problems(outcome))
    passed = [check for check in outcome.checks if check.passed]
    suite = ElementTree.Element("testsuite", name="latentprint gate", tests=str(len(passed) + len(found)),
                                failures=str(len(found)), errors="0")
    for check in passed:
        ElementTree.SubElement(suite, "testcase", classname=check.path.partition(".")[0], name=check.path)
    for problem in found:
        case = ElementTree.SubElement(suite, "testcase", classname=problem.channel, name=problem.title)
        ElementTree.SubElement(case, "failure", type=problem.rule, message=problem.sentence)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def sarif(outcome: Outcome) -> str:
    """SARIF 2.1.0 (OASIS): a result for each problem; what is above a bound is an error, the rest are warnings."""
    place = [{"physicalLocation": {"artifactLocation": {"uri": (outcome.directory / "report.json").as_posix()}}}]
    results: list[Mapping[str, Any]] = [
        {"ruleId": each.rule, "level": "error" if each.rule == "leak-above-bound" else "warning",
         "message": {"text": each.sentence}, "locations": place} for each in problems(outcome)]
    driver = {"name": "latentprint", "version": metadata.version("latentprint"),
              "rules": [{"id": rule, "shortDescription": {"text": what}} for rule, what in RULES.items()]}
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0",
                       "runs": [{"tool": {"driver": driver}, "results": results}]}, indent=1) + "\n"


def markdown(outcome: Outcome) -> str:
    """A table of the bounds and a list of the other problems, for a comment on a pull request."""
    rows = [f"| `{_cell(each.path)}` | {each.measured:.4g} | {each.most:.4g} | "
            f"{'within' if each.passed else '**above**'} |" for each in outcome.checks]
    others = [f"- {each.rule}, {each.channel}: {_cell(each.sentence)}" for each in problems(outcome)
              if each.rule != "leak-above-bound"]
    return "\n".join([f"### latentprint gate: {outcome.verdict}", "", "| number | measured | bound | |",
                      "|---|---|---|---|", *rows, *(["", *others] if others else []), ""])


def _printable(words: str) -> str:
    """Without control characters, which XML cannot hold."""
    return "".join(each if each.isprintable() else " " for each in words)


def _cell(words: str) -> str:
    """Text of a report in one cell: no line breaks, and nothing that Markdown or HTML would read as markup."""
    plain = " ".join(words.split())
    for mark, instead in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "&#124;"), ("`", "&#96;"),
                          ("[", "&#91;"), ("]", "&#93;"), ("@", "&#64;")):
        plain = plain.replace(mark, instead)
    return plain


def write(outcome: Outcome, name: str, file: Path) -> None:
    """Write a file of the format of that name.

    Raises:
        UserError: it cannot be written.
    """
    try:
        file.write_text(FORMATS[name](outcome), encoding="utf-8")
    except OSError as error:
        raise UserError(f"--{name}: {file} cannot be written: {error.strerror}") from error


#: Option of ``latentprint gate`` -> what it writes.
FORMATS: Mapping[str, Callable[[Outcome], str]] = {"junit": junit, "sarif": sarif, "markdown": markdown}
