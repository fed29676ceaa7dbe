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


PRETRAIN = """
import sys
from pathlib import Path
from latentprint.config import load_config
from latentprint.engine.run import RunDir
from latentprint.pretrain import prior as module

module.swap_metrics = lambda *_: {}  # hundreds of pictures that say nothing here
module.unseen_people = lambda config: None
config = load_config(module.PriorConfig, "tiny", sets=["lr=0.3", "ema=0", f"accumulate={sys.argv[2]}"],
                     presets=module.PRESETS)
module.pretrain(config, Path(sys.argv[1]))
"""

ATTACK = """
import sys
from pathlib import Path
import test_label
from latentprint.engine.loop import is_main
from latentprint.engine.run import RunDir
from latentprint.label.progressive import Progressive

tools, victim = test_label.fresh_tools(), test_label.victim()
stages = [stage.model_copy(update={"lora_lr": 0.01}) for stage in test_label.CONFIG.stages]
config = test_label.CONFIG.model_copy(update={"stages": stages})
pairs = test_label.random_pairs(len(tools.public), 3, config.pairs, 0)
run = RunDir.open(Path(sys.argv[1]), {"accumulate": int(sys.argv[2])}, writes=is_main())
Progressive(tools, config, victim, pairs, test_label.pseudo_embeddings(tools.embeddings, pairs), run, 0).fit()
run.close()
"""

#: Without a configuration file of one's own, and on any free port.
LAUNCH = ["--multi_gpu", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no",
          "--main_process_port", "0"]


def trained(tmp_path: Path, code: str, processes: int, accumulate: int) -> dict[str, torch.Tensor]:
    """What the trainings of a script left, of several processes by ``accelerate launch``, as the docs say."""
    script, out = tmp_path / "script.py", tmp_path / f"{processes}-{accumulate}"
    script.write_text(code)
    group = ["-m", "accelerate.commands.launch", *LAUNCH, "--num_processes", str(processes)] if processes > 1 else []
    done = subprocess.run([sys.executable, *group, str(script), str(out), str(accumulate)], capture_output=True,
                          text=True, check=False,
                          env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent),
                               "ACCELERATE_USE_CPU": "true"})
    assert done.returncode == 0, done.stderr[-3000:]
    files = sorted((out / "checkpoints").glob("*/*.safetensors"))
    return {f"{file.parent.name}/{key}": value for file in files for key, value in load_file(file).items()}


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this PyTorch has no torch.distributed")
@pytest.mark.parametrize(("code", "some"), [(PRETRAIN, "unet.conv_in"), (ATTACK, "lora_B")])
def test_two_processes_are_one_with_two_batches(tmp_path: Path, code: str, some: str) -> None:
    """The same global batch: all that was learned is equal up to the order of sums."""
    alone, two = trained(tmp_path, code, 1, 2), trained(tmp_path, code, 2, 1)
    learned = [key for key, value in alone.items() if some in key and value.is_floating_point()]
    assert learned and alone.keys() == two.keys()
    for key in learned:
        assert torch.allclose(alone[key], two[key], atol=1e-4, rtol=1e-3), key
    single = trained(tmp_path, code, 1, 1)
    assert any(not torch.allclose(alone[key], single[key], atol=1e-3) for key in learned)
