"""Several processes: gradients are averaged, one process writes, all end with the same weights."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

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
network = nn.Linear(3, 1)
optimizer = torch.optim.SGD(network.parameters(), 0.1)
run = RunDir.open(out, {}, writes=is_main())

def loss_at(step):
    x = torch.randn(5, 3, generator=step_generator(0, "x", step))
    loss = (network(x) - x.sum(1, keepdim=True)).square().mean()
    # one process alone meets a bad loss: both must skip the step
    bad = step == 2 and accelerator().process_index == 1
    return loss * (float("nan") if bad else 1.0), {}

loop = Loop(run, "fit", optimizer, {"network": network}, 4, clip_norm=1e9, log_every=1)
loop.fit(loss_at, lambda step: "main says so" if step == 3 and is_main() else None)
save_file({"weight": network.weight.detach(), "bias": network.bias.detach(),
           "told": torch.tensor([loop.step, loop.skipped])},
          out.with_name(f"{accelerator().process_index}.safetensors"))
"""


def reference() -> tuple[torch.Tensor, torch.Tensor]:
    """The same by hand: two shares of a batch, gradients averaged, step 2 skipped, stopped after three."""
    from latentprint.engine.seeds import generator

    torch.manual_seed(0)
    network = torch.nn.Linear(3, 1)
    for step in (0, 1):
        network.zero_grad()
        for scope in ([], ["process 1"]):
            x = torch.randn(5, 3, generator=generator(0, "x", step, *scope))
            ((network(x) - x.sum(1, keepdim=True)).square().mean() / 2).backward()
        with torch.no_grad():
            for p in network.parameters():
                assert p.grad is not None
                p.sub_(0.1 * p.grad)
    return network.weight.detach(), network.bias.detach()


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this PyTorch has no torch.distributed")
def test_two_processes_average_their_gradients(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    done = subprocess.run([*launch, str(tmp_path / "run")], capture_output=True, text=True, check=False,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    results = [load_file(tmp_path / f"{rank}.safetensors") for rank in (0, 1)]
    weight, bias = reference()
    for result in results:
        assert torch.allclose(result["weight"], weight, atol=1e-6)
        assert torch.allclose(result["bias"], bias, atol=1e-6)
        assert result["told"].tolist() == [3, 1]
    assert (tmp_path / "run" / "metrics.jsonl").read_text().count("\n") == 3
