"""The benchmark of the surrogates: what it counts, and that its rows hold what they promise."""

from __future__ import annotations

import sys

import pytest
import torch

from latentprint.bench import BENCHES
from latentprint.bench.cem import ROWS, Shape, cem
from latentprint.bench.counting import bytes_of, count, peak_bytes
from latentprint.bench.template_step import LOSSES

TINY = Shape("tiny", 6, 12, 32, 36)


def test_operations_are_counted_with_those_of_the_backward_pass() -> None:
    x = torch.rand(4, 3, requires_grad=True)

    def call() -> None:
        x.exp().t().sum().backward()

    counted = count(call)
    assert counted.computing["exp"] == 1 and counted.computing["mul"] == 1  # the second in the backward pass
    assert counted.views["t"] >= 1 and not set(counted.computing) & set(counted.views)


def test_peak_memory_counts_what_lives_at_once() -> None:
    x = torch.rand(1000)

    def one_after_another() -> None:
        for _ in range(5):
            x.exp()

    def all_at_once() -> None:
        torch.stack([x.exp() for _ in range(5)])

    cpu = torch.device("cpu")
    assert peak_bytes(one_after_another, cpu) == 4000
    assert peak_bytes(all_at_once, cpu) == 10 * 4000
    assert bytes_of([x, x[:10], torch.zeros(2)]) == 4008


@pytest.fixture(scope="module")
def rows() -> list[dict[str, object]]:
    torch.manual_seed(0)
    return cem((TINY,), repeats=1)


def test_every_surrogate_has_a_row_beside_the_published_loop(rows: list[dict[str, object]]) -> None:
    assert BENCHES["cem"] is cem
    assert [row["surrogate"] for row in rows] == [*ROWS, "published"]
    for row in rows:
        assert row["shape"] == "tiny" and row["precision"] in ("fp32", "bf16")
        for key in ("step_ratio", "epoch_ratio", "memory_ratio", "step_seconds"):
            value = row[key]
            assert isinstance(value, float) and value > 0
        assert row["memory_ratio"] > 1  # type: ignore[operator]


def test_operations_stay_within_what_was_planned(rows: list[dict[str, object]]) -> None:
    extra = {str(row["surrogate"]): int(str(row["extra_ops"])) for row in rows}
    assert 20 < extra["kmeans"] <= 60
    assert all(20 < extra[name] <= 200 for name in ROWS)
    assert extra["published"] > 3 * extra["kmeans"]


def test_a_template_step_is_timed_with_every_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules["latentprint.bench.template_step"]  # the package's attribute of that name is the function
    monkeypatch.setattr(module, "REPEATS", 1)
    monkeypatch.setattr(module, "PEOPLE", 20)
    rows = BENCHES["template"]()
    assert [row["loss"] for row in rows] == list(LOSSES)
    assert rows[0]["step_ratio"] == rows[0]["lowest"] == rows[0]["highest"] == 1.0
    assert all(row["over_floor"] > 0 and row["step_seconds"] > 0 for row in rows)
