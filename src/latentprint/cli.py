"""The command line. Each command imports what it needs when it runs, so that ``--help`` answers at once.

Exit codes: 0 done; 1 ``gate`` found a number above its bound, or ``doctor`` something missing; 2 the user's
input is wrong, in one sentence on stderr, or in the rows that ``--check`` prints; 3 the run broke down; 4 ``gate``
found an audit that could not have seen a leak; 70 a fault of this program; 130 interrupted.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import typer

from latentprint.convert import add_align
from latentprint.convert import app as convert
from latentprint.errors import RunFailed, UserError
from latentprint.findings import Row
from latentprint.log import shown


def _group(help: str, epilog: str | None = None) -> typer.Typer:
    return typer.Typer(help=help, epilog=epilog, no_args_is_help=True, add_completion=False,
                       pretty_exceptions_enable=False, rich_markup_mode="markdown")  # fmt: skip


app = _group(
    "Measure what vision models give away about the people they saw. Start with `latentprint demo`.",
    "For models that you own or may test. The default data is procedural: no real person is in it.",
)
audit = _group("Attack a model as an adversary would and report the leak, from floor (0) to ceiling (1).")
defend = _group("Train a defended model, then audit it.")
pretrain = _group("Train one of the networks that an audit builds on; the packaged ones were made this way.")
study = _group("Run an audit over seeds and settings, with statistics.")
def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"latentprint {metadata.version('latentprint')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True,
                                          help="Print the version, and exit.")] = False,
) -> None:
    """Options of the whole program."""


app.add_typer(convert, name="convert")
add_align(app)
for name, group in {"audit": audit, "defend": defend, "pretrain": pretrain, "study": study}.items():
    app.add_typer(group, name=name)

ConfigFile = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="Settings in YAML, over those of the preset.")
]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="One setting, over all others; repeat for more."),
]
Out = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Run directory, by default runs/COMMAND-PRESET; where that is taken, "
                              "the same with the next free number.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with a run that was cut short: in --out, else in the "
                                      "default folder with the highest number.")]
HelpKeys = Annotated[bool, typer.Option("--help-keys", help="List every setting with its default, and exit.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the resolved settings as YAML, and exit.")]
VictimFile = Annotated[Path | None, typer.Option("--victim", metavar="FILE", help=(
    "A YAML file about your model: the settings below `victim.` (label), `recogniser.` (template) or `split.` "
    "(feature), such as model, weights, mean, std."))]
Check = Annotated[bool, typer.Option("--check", help=(
    "Look at data, victim and budget, say what is found, and exit; where recognisers frame faces, a picture of it goes "
    "to --out, by default runs/COMMAND-check."))]
RunDirectory = Annotated[Path, typer.Argument(metavar="DIR", help="A run directory.")]


#: Presets of every job, and further ones of some.
PRESETS = "tiny for tests, small, full for GPUs"
#: The group of settings about the model under audit, by channel.
VICTIM = {"label": "victim", "template": "recogniser", "feature": "split"}
OF_LABEL = "scores for class probabilities alone, faces for photos of real people, demo"
OF_FEATURE = "cifar10 for that data set"
OF_TEMPLATE = "faces for photos of real people"


class Job(NamedTuple):
    """A command that is a function of typed settings and a run directory."""

    config: type[Any]
    presets: Mapping[str, Mapping[str, Any]]
    run: Callable[[Any, Path, bool], dict[str, Any]]
    check: Callable[[Any, Path], list[Row]] | None = None


def _add_job(
    group: typer.Typer,
    command: str,
    load: Callable[[], Job],
    finish: Callable[[Mapping[str, Any], Path], None],
    help: str,
    presets: str = "",
    victim: str = "",
) -> None:
    """Register ``command`` with the options that all jobs share; audits have two more.

    Args:
        presets: what its ``--preset`` knows beside those that every command has, as help.
        victim: of an audit, the group of settings about the model.
    """
    name = command.replace(" ", "-")
    preset_option = typer.Option("small", metavar="NAME", help=f"{PRESETS}{presets and f'; {presets}'}.")

    def run(
        config: Path | None, preset: str, sets: list[str] | None, out: Path | None, resume: bool, help_keys: bool,
        dry_run: bool, model: Path | None = None, check: bool = False,
    ) -> None:  # fmt: skip
        from rich.console import Console

        from latentprint import console
        from latentprint.config import describe, load_config, to_yaml

        job = load()
        if help_keys:
            table = console.keys_table(describe(job.config))
            console.wide(table).print(table)
            return
        given = [] if model is None else [_victim_settings(victim, model)]
        settings = load_config(job.config, preset, config, sets or (), command, job.presets, given)
        if dry_run:
            typer.echo(to_yaml(settings), nl=False)
            return
        if check:
            assert job.check is not None
            rows = job.check(settings, out or Path("runs") / f"{name}-check")
            Console().print(console.findings_table(rows, "FAULT"))
            if any(row.ok is False for row in rows):
                raise typer.Exit(2)
            return
        from latentprint.engine.run import default_folder

        target = out or default_folder(Path("runs") / f"{name}-{config.stem if config else preset}", resume)
        finish(job.run(settings, target, resume), target)

    register = group.command(command.split()[-1], help=help,
                             epilog=f"`latentprint {command} --preset tiny --set seed=1 --out runs/first`")
    if victim:
        @register
        def checked_command(
            config: ConfigFile = None, preset: str = preset_option, sets: Sets = None, out: Out = None,
            resume: Resume = False, help_keys: HelpKeys = False, dry_run: DryRun = False, model: VictimFile = None,
            check: Check = False,
        ) -> None:  # fmt: skip
            run(config, preset, sets, out, resume, help_keys, dry_run, model, check)
    else:
        @register
        def job_command(
            config: ConfigFile = None, preset: str = preset_option, sets: Sets = None, out: Out = None,
            resume: Resume = False, help_keys: HelpKeys = False, dry_run: DryRun = False,
        ) -> None:  # fmt: skip
            run(config, preset, sets, out, resume, help_keys, dry_run)


def _victim_settings(group: str, path: Path) -> Any:
    """What a YAML file says about a victim, a `Given`; relative paths in it start at its folder."""
    from latentprint.config import read_given
    from latentprint.models.paths import beside

    given = read_given(group, path, "model: my_model.py:build")
    settings, notes = beside(given.content, path.parent)
    for note in notes:
        typer.echo(f"{path}: {note}", err=True)
    return given._replace(content=settings)


def _channel(name: str, run: str, presets: str) -> Job:
    """A job of a channel, all of which have the same names for the same things."""
    from latentprint.config import of_channel

    return Job(of_channel(name, "presets", "{}Config"), of_channel(name, "presets", presets),
               of_channel(name, "compare", run), partial(_check, name))


def _check(name: str, config: Any, out: Path) -> list[Row]:
    if name == "label":
        from latentprint.label.check import check_audit

        return check_audit(config, out)
    from latentprint.auditing.run import check_steps
    from latentprint.config import of_channel

    return check_steps(of_channel(name, "audit", "{}Audit"), config, out)


def _pretrain(what: str) -> Job:
    module = importlib.import_module(f"latentprint.pretrain.{what}")
    return Job(getattr(module, f"{what.capitalize()}Config"), module.PRESETS, module.pretrain)


def _show_report(report: Mapping[str, Any], out: Path) -> None:
    """Render the page and print the summary, in the process that writes."""
    from rich.console import Console

    from latentprint.console import summary
    from latentprint.engine.loop import is_main
    from latentprint.report.html import render_run

    if is_main():
        page = render_run(out)
        Console().print(*summary(report), sep="\n")
        typer.echo(f"report: {page}")


def _show_recorded(result: Mapping[str, Any], out: Path) -> None:
    from rich.console import Console

    from latentprint.console import recorded
    from latentprint.engine.loop import is_main

    if is_main():
        Console().print(recorded(result))
        typer.echo(f"run: {out}")


def _add_channel(name: str, asked: str, defended: str, presets: str = "") -> None:
    """Register ``audit`` and ``defend`` of a channel with their help."""
    _add_job(audit, f"audit {name}", partial(_channel, name, "run_compared", "PRESETS"), _show_report, asked, presets,
             VICTIM[name])
    _add_job(defend, f"defend {name}", partial(_channel, name, "run_defend", "DEFEND_PRESETS"), _show_report, defended,
             presets)


_add_channel(
    "label", "How much a classifier's outputs and gradients give away of the faces of its classes; with `variants`, of "
    "several victims side by side.",
    "What a defence of a classifier costs in accuracy and saves in leak: `defence.kind` label-smoothing (the default, "
    "negative), bido or dp-sgd; `variants` compares several.", OF_LABEL)
_add_channel(
    "template", "How much of a face comes back from the template that a recogniser stored of it: `attack.access` "
    "white-box, transfer or scores, `protection` as templates are stored.",
    "What protections of stored templates cost in recognition and save in leak: noise, quantise, partial, projection, "
    "polyprotect, mlp-hash, each with the adversary who knows it.", OF_TEMPLATE)
_add_channel(
    "feature", "How much of an image the features give away that a device sends to the cloud; with `variants`, of "
    "several networks or cuts side by side.",
    "What defences of sent features cost in accuracy and save in leak: noise, dropout, top-k, nopeek, adversarial, "
    "patrol, vib, cem; `variants` compares several.", OF_FEATURE)
for what, purpose in {
    "codec": "The autoencoder between images and latents.",
    "recogniser": "A face-recognition network: the teacher, or with `--preset judge` the judge.",
    "prior": "The face-swap diffusion prior.",
    "attributes": "The network of pose, expression and light; with `data`, of real faces.",
    "faces": "A prior of real people: codec, attributes and prior from your own public photos, beside published "
             "recognisers (`latentprint convert faces`). Each stage shows the time left; `--resume` goes on where it "
             "stopped.",
}.items():
    _add_job(pretrain, f"pretrain {what}", partial(_pretrain, what), _show_recorded, purpose,
             presets="judge, cosface, adaface for other recognisers" if what == "recogniser" else "")


@study.command("run", epilog="`latentprint study run annealing --out runs/annealing`, and `--resume` after a kill")
def study_run(
    name: Annotated[str, typer.Argument(metavar="NAME|FILE", help="A study or its YAML file; 'list' names all.")],
    seeds: Annotated[int | None, typer.Option(min=1, help="Seeds 0, 1, ... so many; by default its own.")] = None,
    executor: Annotated[Literal["loky", "dask", "ray"], typer.Option(help="Processes here, or a cluster.")] = "loky",
    workers: Annotated[int | None, typer.Option(min=1, help="How many at once; by default one a core.")] = None,
    address: Annotated[str | None, typer.Option(help="Of a dask scheduler or ray head; by default one here.")] = None,
    preset: Annotated[str | None, typer.Option(metavar="NAME", help="Another size of the audit, such as tiny.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="By default runs/study-NAME.")] = None,
    resume: Resume = False,
) -> None:
    """Run an audit over arms and seeds; every run is an ordinary run directory, and what is missing is run alone."""
    from rich.console import Console

    from latentprint.console import rows_table
    from latentprint.study.library import STUDIES, find_study
    from latentprint.study.run import run_study
    from latentprint.study.tasks import complaint

    if name == "list":
        Console().print(rows_table("studies", [{"name": each.name, "arms": len(each.arms), "seeds": each.seeds,
                                                "question": each.question} for each in STUDIES.values()]))
        return
    found = find_study(name)
    changes: dict[str, Any] = {"seeds": seeds or found.seeds}
    if preset is not None:  # another size: the study's own is not wanted
        changes |= {"preset": preset, "settings": {}}
    target = out or Path("runs") / f"study-{found.name}"
    chosen = found.model_copy(update=changes)
    run_study(chosen, target, executor, workers, resume, address)
    _show_study(target)
    if (wrong := complaint(chosen, target)) is not None:
        raise wrong


@study.command("show")
def study_show(directory: Annotated[Path, typer.Argument(metavar="DIR", help="A study's folder.")]) -> None:
    """Write the tables of a study again, from the runs that have ended, and print them."""
    _show_study(directory)


@study.command("claims", epilog="`latentprint study claims runs/study-annealing runs/study-losses --out docs/results`")
def study_claims(
    directories: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Folders of studies.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where claims.md and .json go.")] = Path("docs/results"),
    bench: Annotated[list[Path] | None, typer.Option(metavar="FILE", help="What `bench --json` printed; several runs "
                                                     "of it give intervals.")] = None,
    readme: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the results section of this file, "
                                                "between its marks.")] = None,
) -> None:
    """What the design notes expected, what these studies measured, and the verdict."""
    from latentprint.study.notes import CLAIMS
    from latentprint.study.pages import write_claims, write_section

    rows = write_claims(directories, out, CLAIMS, bench or ())
    if readme is not None:
        write_section(readme, rows, os.path.relpath(out / "claims.md", readme.parent))
    measured = sum(row["verdict"] != "not yet run" for row in rows)
    typer.echo(f"claims: {out / 'claims.md'}, {measured} of {len(rows)} measured")


def _show_study(folder: Path) -> None:
    from latentprint.study.analyse import write_outputs
    from latentprint.study.run import read_study

    write_outputs(read_study(folder), folder)
    typer.echo((folder / "table.md").read_text(), nl=False)
    typer.echo(f"study: {folder / 'study.html'}")


@app.command()
def demo(
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Run directory, by default runs/demo; where that is "
                                             "taken, the same with the next free number.")] = None,
    preset: Annotated[str | None, typer.Option(metavar="NAME", help="Another size, such as tiny.")] = None,
    resume: Resume = False,
) -> None:
    """The main job on procedural faces, some minutes on two CPU cores: ends with a report to open."""
    from latentprint.config import load_config
    from latentprint.engine.run import default_folder

    target = out or default_folder(Path("runs/demo"), resume)
    job = _channel("label", "run_compared", "PRESETS")
    settings = load_config(job.config, preset or "demo", None, (), "demo", job.presets)
    _show_report(job.run(settings, target, resume), target)


@app.command()
def report(
    directories: Annotated[list[Path] | None, typer.Argument(metavar="DIR...", help="Run directories.")] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of report.json, and end.")] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE|DIR", help="Where a comparison goes: a file, or a folder to hold "
                                  "comparison.html; by default the first DIR.")
    ] = None,
) -> None:
    """Write report.html again from report.json and the run's files; of several runs, comparison.html."""
    from latentprint.report.compare import compare_runs
    from latentprint.report.html import render_run
    from latentprint.report.schema import json_schema

    if schema:
        typer.echo(json.dumps(json_schema(), indent=1))
    elif not directories:
        raise UserError("DIR: give a run directory, or two and more for a comparison")
    elif len(directories) > 1:
        typer.echo(f"comparison: {compare_runs(directories, out)}")
    elif out is not None:
        raise UserError("--out is for a comparison: give two run directories or more")
    else:
        typer.echo(f"report: {render_run(directories[0])}")


@app.command(epilog="`latentprint gate runs/demo --max label.leak=0.2 --max label.metrics.top1=0.5`")
def gate(
    directory: RunDirectory,
    most: Annotated[
        list[str], typer.Option("--max", metavar="PATH=NUMBER", help="The most allowed; repeat for more.")
    ],
    bound: Annotated[
        Literal["value", "high"], typer.Option(help="The measured value, or the upper end of its interval.")
    ] = "value",
    strict: Annotated[bool, typer.Option("--strict", help="Fail on every warning of the report, too.")] = False,
    junit: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write JUnit XML.")] = None,
    sarif: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write SARIF 2.1.0.")] = None,
    markdown: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write Markdown, for a comment on a pull request.")
    ] = None,
) -> None:
    """Exit 1 when a number of an audit is above its bound, 4 when the audit could not have seen a leak.

    For the release checks of models: a number within its bound passes only when the audit is conclusive.
    """
    from latentprint.gate.formats import text, write
    from latentprint.gate.outcome import judge

    outcome = judge(directory, most, bound, strict)
    for name, file in {"junit": junit, "sarif": sarif, "markdown": markdown}.items():
        if file is not None:
            write(outcome, name, file)
    typer.echo(text(outcome))
    if outcome.exit_code:
        raise typer.Exit(outcome.exit_code)


@app.command()
def bench(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Which, or all.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The rows as JSON.")] = False,
) -> None:
    """The project's benchmarks: ratios measured side by side in one run. Without a name, list them."""
    from rich.console import Console

    from latentprint.bench import BENCHES
    from latentprint.console import rows_table
    from latentprint.keys import did_you_mean

    if name is None:
        typer.echo("\n".join(BENCHES))
    elif name != "all" and name not in BENCHES:
        raise UserError(f"unknown benchmark '{name}'; {did_you_mean(name, BENCHES)}")
    else:
        rows = {each: BENCHES[each]() for each in (BENCHES if name == "all" else [name])}
        if as_json:
            typer.echo(json.dumps({"rows": [{"bench": each, **row} for each, found in rows.items() for row in found]},
                                  indent=1))
        else:
            Console().print(*(rows_table(each, found) for each, found in rows.items()))


@app.command()
def doctor(
    assets: Annotated[Path | None, typer.Option(metavar="DIR", help="A folder of assets to look at as well.")] = None,
) -> None:
    """What is installed, which devices and assets there are, what is missing and how to get it."""
    from rich.console import Console

    from latentprint.console import findings_table
    from latentprint.doctor import examine

    if assets is not None and not assets.is_dir():
        raise UserError(f"--assets {assets} is not a folder")
    rows = examine(assets)
    Console().print(findings_table(rows))
    if any(row.ok is False for row in rows):
        raise typer.Exit(1)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; a traceback only with ``LATENTPRINT_TRACEBACK=1``."""
    try:
        with shown():
            app(args=argv, prog_name="latentprint")
    except SystemExit as end:  # how typer always returns
        code = end.code if isinstance(end.code, int) else 0
        return _fail("interrupted; a run goes on with --resume", code) if code == 130 else code
    except UserError as error:
        return _fail(f"error: {error}", 2)
    except RunFailed as error:
        return _fail(f"failed: {error}", 3)
    except Exception as error:
        return _fail(f"unexpected {type(error).__name__}: {error} (LATENTPRINT_TRACEBACK=1 shows where)", 70)
    return 0


def _fail(message: str, code: int) -> int:
    if os.environ.get("LATENTPRINT_TRACEBACK") == "1":
        traceback.print_exc()
    print(" ".join(message.split()), file=sys.stderr)
    return code
