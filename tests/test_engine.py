"""The engine: a resumed loop is the unbroken one, checkpoints survive a kill, draws depend on nothing but the step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from latentprint.engine.loop import Loop, warm_cosine
from latentprint.engine.run import RunDir
from latentprint.engine.seeds import derive, generator, seeded_noise
from latentprint.engine.state import load_state, save_state
from latentprint.errors import RunFailed, UserError


def make_loop(run: RunDir, steps: int = 12, **options: Any) -> tuple[Loop, nn.Linear]:
    torch.manual_seed(3)
    network = nn.Linear(4, 2)
    optimizer = torch.optim.AdamW(network.parameters(), 0.05)
    return Loop(run, "fit", optimizer, {"network": network}, steps, warm_cosine(steps, 2), save_every=3, log_every=1,
                **options), network


def loss_of(network: nn.Linear) -> Any:
    def loss_at(step: int) -> tuple[Tensor, dict[str, Tensor | float]]:
        x = torch.randn(8, 4, generator=generator(0, "x", step))
        return (network(x) - x[:, :2]).square().mean(), {"step_seen": float(step)}

    return loss_at


def open_run(path: Path, resume: bool = False) -> RunDir:
    return RunDir.open(path, {"a": 1}, resume)


def test_resumed_loop_equals_unbroken_one(tmp_path: Path) -> None:
    whole, network = make_loop(open_run(tmp_path / "whole"))
    whole.fit(loss_of(network))

    class Killed(Exception):
        pass

    broken, half = make_loop(open_run(tmp_path / "broken"))
    inner = loss_of(half)

    def dies(step: int) -> tuple[Tensor, dict[str, Tensor | float]]:
        if step == 8:
            raise Killed
        result: tuple[Tensor, dict[str, Tensor | float]] = inner(step)
        return result

    with pytest.raises(Killed):
        broken.fit(dies)
    resumed, again = make_loop(open_run(tmp_path / "broken", resume=True))
    resumed.fit(loss_of(again))
    for a, b in zip(network.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    lines = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "broken")]
    assert lines[0] == lines[1]


def test_finished_loop_is_not_run_again(tmp_path: Path) -> None:
    loop, network = make_loop(open_run(tmp_path / "run"))
    loop.fit(loss_of(network))
    again, other = make_loop(open_run(tmp_path / "run", resume=True))

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
    save_state(tmp_path / "s", {"x": 2})
    assert load_state(tmp_path / "s") == {"x": 2}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s"]


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
