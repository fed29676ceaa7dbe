"""Every command takes the presets that its help names, and names those that it takes."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

import pytest
import yaml

from latentprint import cli
from latentprint.cli import main

CHANNELS = ("label", "template", "feature")
JOBS: dict[str, Callable[[], cli.Job]] = {
    **{f"audit {name}": partial(cli._channel, name, "run_compared", "PRESETS") for name in CHANNELS},
    **{f"defend {name}": partial(cli._channel, name, "run_defend", "DEFEND_PRESETS") for name in CHANNELS},
    **{f"pretrain {what}": partial(cli._pretrain, what) for what in ("codec", "recogniser", "prior", "attributes")}}


@pytest.mark.parametrize("command", JOBS)
def test_presets_are_those_of_the_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    presets = JOBS[command]().presets
    assert {"tiny", "small", "full"} <= set(presets)
    assert main([*command.split(), "--help"]) == 0
    shown = re.sub(r"[^\w-]+", " ", capsys.readouterr().out).split()
    assert [name for name in presets if name not in shown] == []
    everywhere = {name for load in JOBS.values() for name in load().presets}
    offered = " ".join(shown[shown.index("--preset"):]).split(" --set ")[0].split()
    assert {name for name in offered if name in everywhere} == set(presets)
    for name in presets:
        assert main([*command.split(), "--preset", name, "--dry-run"]) == 0
        assert isinstance(yaml.safe_load(capsys.readouterr().out), dict)
    assert main([*command.split(), "--preset", "nonsense"]) == 2
    said = capsys.readouterr().err
    assert "unknown preset 'nonsense'; there is " in said and all(name in said for name in presets)
