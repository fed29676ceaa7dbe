"""Several processes: gradients are averaged, one process writes, all end with the same weights and statistics."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

SCRIPT = """
import sys
from pathlib import Path
import torch
from torch import nn
from latentprint.engine.loop import Loop, accelerator, is_main
from latentprint.engine.run import RunDir
from latentprint.engine.seeds import step_generator
from safetensors.torch import save_file

out = Path(sys.argv[1])
torch.manual_seed(0)
network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
optimizer = torch.optim.SGD(network.parameters(), 0.1)
reduce, reduced = accelerator().reduce, []
accelerator().reduce = lambda tensor, how: reduced.append(tensor.numel()) or reduce(tensor, how)
run = RunDir.open(out, {}, writes=is_main())

def loss_at(step):
    x = torch.randn(5, 3, generator=step_generator(0, "x", step))
    loss = (network(x) - x.sum(1, keepdim=True)).square().mean()
    # one process alone meets a bad loss: both must skip the step
    bad = step == 2 and accelerator().process_index == 1
    return loss * (float("nan") if bad else 1.0), {}

loop = Loop(run, "fit", optimizer, {"network": network}, 4, clip_norm=1e9, log_every=1)
loop.fit(loss_at, lambda step: "main says so" if step == 3 and is_main() else None)
ended = {name: value.clone() for name, value in network.state_dict().items()}

# a finished phase, left by a kill between two renames: every process finds it
kept = out / "checkpoints" / "fit"
if is_main():
    kept.rename(kept.with_name("fit.old"))
accelerator().wait_for_everyone()
again = Loop(run, "fit", optimizer, {"network": network}, 4).fit(None)
save_file({**ended, "told": torch.tensor([loop.step, loop.skipped, again.step]),
           "reduced": torch.tensor(reduced)},
          out.with_name(f"{accelerator().process_index}.safetensors"))
run.close()
"""


def reference() -> dict[str, torch.Tensor]:
    """By hand: a batch each, gradients averaged, step 2 skipped, stopped after three, statistics of process 0."""
    from latentprint.engine.seeds import generator

    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    for step in (0, 1, 2):
        twin = copy.deepcopy(network)
        for module, scope in ((network, []), (twin, ["process 1"])):
            x = torch.randn(5, 3, generator=generator(0, "x", step, *scope))
            module.zero_grad()
            (module(x) - x.sum(1, keepdim=True)).square().mean().backward()
        with torch.no_grad():
            for p, q in zip(network.parameters(), twin.parameters(), strict=True):
                assert p.grad is not None and q.grad is not None
                p.sub_(0.1 * (p.grad + q.grad) / 2 if step < 2 else torch.zeros(()))
    return network.state_dict()


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this PyTorch has no torch.distributed")
def test_two_processes_average_their_gradients(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    done = subprocess.run([*launch, str(tmp_path / "run")], capture_output=True, text=True, check=False,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    results = [load_file(tmp_path / f"{rank}.safetensors") for rank in (0, 1)]
    expected = reference()
    for result in results:
        for name, value in expected.items():
            assert torch.allclose(result[name], value, atol=1e-6), name
        assert result["told"].tolist() == [3, 1, 3]
        # a word on each loss, and all 29 gradients in one message in the two steps that were not skipped
        assert result["reduced"].tolist() == [1, 29, 1, 29, 1]
    assert (tmp_path / "run" / "metrics.jsonl").read_text().count("\n") == 3
