"""The engine: a resumed loop is the unbroken one, checkpoints survive a kill, draws depend on nothing but the step."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from latentprint.config import load_config
from latentprint.engine import device as devices
from latentprint.engine import loop as loops
from latentprint.engine.device import pick_device, resolve_precision
from latentprint.engine.loop import Loop, warm_cosine
from latentprint.engine.run import RunDir
from latentprint.engine.seeds import derive, generator, seeded_noise
from latentprint.engine.state import load_state, save_state
from latentprint.errors import RunFailed, UserError
from latentprint.pretrain import common
from latentprint.victim import QueryCounter


class Killed(Exception):
    """Stands for kill -9: nothing after it runs."""


def make_loop(run: RunDir, steps: int = 12, dropout: float = 0.0, **options: Any) -> tuple[Loop, nn.Linear]:
    torch.manual_seed(3)
    network = nn.Linear(4, 2)
    if dropout:
        network.register_forward_pre_hook(lambda _, x: F.dropout(x[0], dropout))
    optimizer = torch.optim.AdamW(network.parameters(), 0.05)
    return Loop(run, "fit", optimizer, {"network": network}, steps, warm_cosine(steps, 2), save_every=3, log_every=1,
                **options), network


def loss_of(network: nn.Module, killed_at: int | None = None) -> Any:
    def loss_at(step: int) -> tuple[Tensor, dict[str, Tensor | float]]:
        if step == killed_at:
            raise Killed
        x = torch.randn(8, 4, generator=generator(0, "x", step))
        return (network(x) - x[:, :2]).square().mean(), {"step_seen": float(step)}

    return loss_at


def open_run(path: Path, resume: bool = False) -> RunDir:
    return RunDir.open(path, {"a": 1}, resume)


def test_a_checkpoint_of_another_version_is_refused_in_a_sentence(tmp_path: Path) -> None:
    broken, half = make_loop(open_run(tmp_path / "run"))
    with pytest.raises(Killed):
        broken.fit(loss_of(half, killed_at=8))
    later, again = make_loop(open_run(tmp_path / "run", resume=True))
    later.states = {**later.states, "queries": nn.Linear(1, 1)}
    with pytest.raises(UserError, match="written by another version of this program and lacks queries"):
        later.fit(loss_of(again))


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_resumed_loop_equals_unbroken_one(dropout: float, tmp_path: Path) -> None:
    """Also with a network that draws from torch's global generator."""
    whole, network = make_loop(open_run(tmp_path / "whole"), dropout=dropout)
    whole.fit(loss_of(network))
    broken, half = make_loop(open_run(tmp_path / "broken"), dropout=dropout)
    with pytest.raises(Killed):
        broken.fit(loss_of(half, killed_at=8))
    resumed, again = make_loop(open_run(tmp_path / "broken", resume=True), dropout=dropout)
    resumed.fit(loss_of(again))
    for a, b in zip(network.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    lines = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "broken")]
    assert lines[0] == lines[1]


@pytest.mark.parametrize("killed_at", [2, 6, 8])
def test_looks_after_the_last_checkpoint_are_forgotten(killed_at: int, tmp_path: Path) -> None:
    """Checkpoints after steps 3, 6, 9 and looks after 2, 4, 6, 8: the one at a restored step stays, later ones go."""
    def fit(name: str, resume: bool = False, killed_at: int | None = None) -> list[str]:
        run = open_run(tmp_path / name, resume)
        loop, network = make_loop(run)
        loop.fit(loss_of(network, killed_at), lambda step: None if step % 2 else run.log("fit-look", step, {"v": step}))
        return (tmp_path / name / "metrics.jsonl").read_text().splitlines()

    with pytest.raises(Killed):
        fit("broken", killed_at=killed_at)
    assert fit("broken", resume=True) == fit("whole")


def test_what_follows_a_loop_draws_the_same_after_a_resume(tmp_path: Path) -> None:
    draws = []
    for resume in (False, True):
        loop, network = make_loop(open_run(tmp_path / "run", resume))
        loop.fit(loss_of(network))
        draws.append(torch.rand(3))
    assert torch.equal(*draws)


def test_finished_loop_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loop, network = make_loop(open_run(tmp_path / "run"))
    loop.fit(loss_of(network))
    again, other = make_loop(open_run(tmp_path / "run", resume=True))
    monkeypatch.setattr(RunDir, "save", lambda *_: pytest.fail("a finished phase must not be saved again"))

    def never(step: int) -> tuple[Tensor, dict[str, Tensor | float]]:
        raise AssertionError("a finished phase must not take a step")

    again.fit(never)
    assert torch.equal(other.weight, network.weight)


def test_after_ends_the_loop_and_the_reason_survives(tmp_path: Path) -> None:
    loop, network = make_loop(open_run(tmp_path / "run"))
    loop.fit(loss_of(network), lambda step: "enough" if step == 5 else None)
    assert (loop.step, loop.reason) == (5, "enough")
    again, _ = make_loop(open_run(tmp_path / "run", resume=True))
    again.fit(loss_of(network))
    assert (again.step, again.reason) == (5, "enough")


def test_non_finite_steps_are_skipped_counted_and_bounded(tmp_path: Path) -> None:
    loop, network = make_loop(open_run(tmp_path / "run"), max_skips=2)
    inner = loss_of(network)
    before: list[Tensor] = []

    def sometimes(step: int) -> tuple[Tensor, dict[str, Tensor | float]]:
        loss, values = inner(step)
        if step in (4, 6):
            before.append(network.weight.detach().clone())
            return loss * torch.nan, values
        if step in (5, 7):
            assert torch.equal(before[-1], network.weight), "a skipped step must not move the weights"
        return loss, values

    loop.fit(sometimes)
    assert loop.skipped == 2
    failing, other = make_loop(open_run(tmp_path / "fails"), max_skips=2)
    with pytest.raises(RunFailed, match=r"fit: 3 steps had a non-finite loss"):
        failing.fit(lambda step: (other.weight.sum() * torch.inf, {}))


def test_explosion_is_a_skipped_step(tmp_path: Path) -> None:
    loop, network = make_loop(open_run(tmp_path / "run"), steps=1, explode_norm=1.0)
    before = network.weight.detach().clone()
    loop.fit(lambda step: (1e6 * network.weight.sum(), {}))
    assert loop.skipped == 1
    assert torch.equal(before, network.weight)


def test_state_round_trip_keeps_every_kind(tmp_path: Path) -> None:
    state = {"a": torch.arange(3), "b": {1: [torch.ones(2), 2.5, None]}, "c": (True, "x"), "d": {}}
    save_state(tmp_path / "s", state)
    back = load_state(tmp_path / "s")
    assert back is not None
    assert torch.equal(back["a"], state["a"])  # type: ignore[arg-type]
    assert back["b"][1][1:] == [2.5, None] and torch.equal(back["b"][1][0], torch.ones(2))
    assert back["c"] == (True, "x") and back["d"] == {}


def test_a_kill_between_renames_is_healed(tmp_path: Path) -> None:
    save_state(tmp_path / "s", {"x": 1})
    (tmp_path / "s").rename(tmp_path / "s.old")
    (tmp_path / "s.new").mkdir()
    assert load_state(tmp_path / "s") == {"x": 1}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s.new", "s.old"], "other processes may be reading it"
    save_state(tmp_path / "s", {"x": 2})
    assert load_state(tmp_path / "s") == {"x": 2}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s"]


def test_the_old_state_outlives_a_second_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_state(tmp_path / "s", {"x": 1})
    (tmp_path / "s").rename(tmp_path / "s.old")

    def full_disk(*_: Any) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patch, pytest.raises(RunFailed, match="no space left"):
        patch.setattr(Path, "rename", full_disk)
        save_state(tmp_path / "s", {"x": 2})
    assert load_state(tmp_path / "s") == {"x": 1}


def test_damaged_checkpoint_is_one_sentence(tmp_path: Path) -> None:
    save_state(tmp_path / "s", {"x": torch.ones(4)})
    (tmp_path / "s" / "state.safetensors").write_bytes(b"short")
    with pytest.raises(UserError, match="is damaged"):
        load_state(tmp_path / "s")


def test_run_directory_refuses_what_would_mix_runs(tmp_path: Path) -> None:
    open_run(tmp_path / "run")
    with pytest.raises(UserError, match="already holds a run"):
        open_run(tmp_path / "run")
    with pytest.raises(UserError, match=r"another configuration \(different: a\)"):
        RunDir.open(tmp_path / "run", {"a": 2}, resume=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        open_run(tmp_path / "file" / "run")
    assert (tmp_path / "file").read_text() == ""


def test_json_has_no_nan(tmp_path: Path) -> None:
    run = open_run(tmp_path / "run")
    run.write_json("x.json", {"a": float("nan"), "b": [float("inf"), 1.5]})
    run.log("p", 1, {"v": float("nan"), "w": 2.0})
    assert json.loads((run.path / "x.json").read_text()) == {"a": None, "b": [None, 1.5]}
    assert json.loads((run.path / "metrics.jsonl").read_text()) == {"phase": "p", "step": 1, "v": None, "w": 2.0}


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 2**62), min_size=1, max_size=6))
def test_noise_of_a_sample_depends_on_its_seed_alone(seeds: list[int]) -> None:
    together = seeded_noise(torch.tensor(seeds), (2, 3))
    for i, seed in enumerate(seeds):
        assert torch.equal(together[i], seeded_noise(torch.tensor([seed]), (2, 3))[0])


def test_scopes_give_unrelated_seeds() -> None:
    seeds = {derive(seed, name, step) for seed in range(3) for name in ("a", "b") for step in range(10)}
    assert len(seeds) == 60
    assert derive(0, "a", 11) != derive(0, "a1", 1)


def test_warm_cosine_known_values() -> None:
    factor = warm_cosine(12, warmup=2, floor=0.0)
    assert [factor(0), factor(1), factor(2)] == [0.5, 1.0, 1.0]
    assert factor(7) == pytest.approx(0.5)
    assert factor(12) == pytest.approx(0.0)


def test_queries_survive_a_checkpoint(tmp_path: Path) -> None:
    save_state(tmp_path / "s", QueryCounter(7, 3).state_dict())
    counter, saved = QueryCounter(1, 1), load_state(tmp_path / "s")
    assert saved is not None
    counter.load_state_dict(saved)
    assert counter == QueryCounter(7, 3)


# ---- device and precision ----


@pytest.fixture
def three_gpus(monkeypatch: pytest.MonkeyPatch) -> list[torch.device]:
    """A machine with three GPUs; the list holds those made current."""
    current: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    monkeypatch.setattr(devices, "_chosen", None)
    return current


def test_each_process_takes_its_own_gpu(three_gpus: list[torch.device], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert pick_device("auto") == torch.device("cuda", 0)
    monkeypatch.setenv("LOCAL_RANK", "2")
    assert pick_device("cuda") == torch.device("cuda", 2)
    assert three_gpus == [torch.device("cuda", 0), torch.device("cuda", 2)]
    monkeypatch.setenv("LOCAL_RANK", "3")
    with pytest.raises(UserError, match=r"process 4 of this machine finds only 3 GPU"):
        pick_device("auto")
    assert pick_device("cpu") == torch.device("cpu")


def test_processes_talk_over_the_picked_device(three_gpus: list[torch.device],
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("accelerate.Accelerator", lambda cpu: SimpleNamespace(cpu=cpu, end_training=lambda: None))
    monkeypatch.setenv("WORLD_SIZE", "2")
    build: Callable[[], Any] = loops.accelerator.__wrapped__
    assert build().cpu is False  # nothing picked: what auto takes
    pick_device("cpu")
    assert build().cpu is True


@pytest.mark.parametrize("fast", [True, False])
def test_auto_precision_is_what_the_hardware_computes(fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "has_bf16", lambda device: fast)
    cpu = torch.device("cpu")
    assert [resolve_precision(cpu, p) for p in ("fp32", "bf16", "auto")] == ["fp32", "bf16", "bf16" if fast else "fp32"]
    with devices.autocast(cpu, "auto"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == (torch.bfloat16 if fast else torch.float32)


# ---- the record of a pretraining ----


class Settings(common.PretrainConfig):
    name: str = "teacher"
    margin: float = 0.4
    levels: tuple[int, ...] = (1, 2)
    note: str | None = "some"


def test_recorded_command_makes_the_same_settings_again() -> None:
    presets = {"small": {}, "judge": {"name": "judge", "margin": 0.3}}
    sets = ["margin=0.4", "lr=1e-5", "levels=[3]", "note=null", "precision=bf16", "install=true", "device=cpu"]
    config = load_config(Settings, "judge", None, sets, presets=presets)
    command = common.command_of(config, "latentprint pretrain x --preset judge")
    assert command == ("latentprint pretrain x --set lr=1.0e-05 --set precision=bf16 --set name=judge "
                       "--set 'levels=[3]' --set note=null")
    again = load_config(Settings, "small", None, shlex.split(command)[4::2], presets=presets)
    assert again == config.model_copy(update={"install": False, "device": "auto"})
    assert common.command_of(Settings(), "latentprint pretrain x") == "latentprint pretrain x"


def test_manifest_of_a_pretraining_begins_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def manifest() -> Any:
        return json.loads((tmp_path / "manifest.json").read_text())

    config = Settings(device="cpu", seed=5)
    monkeypatch.setattr("latentprint.engine.run.now", lambda: "first")
    common.open_run(config, tmp_path, resume=False)
    assert manifest()["start"] == "first" and "end" not in manifest()
    monkeypatch.setattr("latentprint.engine.run.now", lambda: "later")
    run = common.open_run(config, tmp_path, resume=True)
    monkeypatch.setattr(common, "now", lambda: "2030-01-02T03:04:05Z")
    result = common.finish(run, config, "codec", "x", nn.Linear(2, 2), "latentprint pretrain x", lambda module: {})
    assert (manifest()["start"], manifest()["end"]) == ("first", "2030-01-02T03:04:05Z")
    assert (manifest()["seed"], manifest()["device"]) == (5, "cpu")
    assert result["command"] == "latentprint pretrain x --set seed=5" and result["made"] == "2030-01-02"
