"""A training step of stage 2 against its floor: the bare forward and backward of the networks that it runs.

The floor has the same calls on the same shapes in the same precision, with nothing between them: the prior for each
DDIM step of the swap and once for prior preservation, the decoder, and victim, teacher and attribute network on as
many views. What a step adds is losses, views, optimiser, embeddings and logging.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from latentprint.bench.counting import timed
from latentprint.data.procedural import make_people
from latentprint.diffusion.loading import load_tools
from latentprint.diffusion.lora import adapter_parameters
from latentprint.engine.device import autocast, lay_out, pick_device
from latentprint.engine.run import RunDir
from latentprint.label.pairing import pseudo_embeddings, random_pairs
from latentprint.label.presets import FACE_BOX, AttackConfig, LabelConfig
from latentprint.label.progressive import Progressive, StageLoop
from latentprint.label.tools import encode
from latentprint.models.classifiers import build
from latentprint.models.preprocess import Preprocess
from latentprint.victim import Victim

CLASSES, REPEATS = 50, 9


def label_step() -> list[dict[str, Any]]:
    """One row a precision: ``step_ratio`` is a stage-2 step over the floor, the median of pairs timed in turn."""
    return [_row(precision) for precision in ("fp32", "bf16")]


def _row(precision: str) -> dict[str, Any]:
    config = AttackConfig(initial="pseudo")  # the map is learned before any step
    with tempfile.TemporaryDirectory() as folder:
        loop, optimizer = _stage_two(config, Path(folder), precision)
        floor = _floor(loop, precision)

        def step() -> None:
            optimizer.zero_grad(set_to_none=True)
            loss, _ = loop.loss_at(1)
            loss.backward()
            nn.utils.clip_grad_norm_(_parameters(optimizer), 1.0)
            optimizer.step()

        pairs = [(timed(step), timed(floor)) for _ in range(REPEATS + 2)][2:]
    ratios = sorted(a / b for a, b in pairs)
    return {
        "bench": "label-step", "precision": precision, "device": str(loop.o.device), "threads": torch.get_num_threads(),
        "batch": loop.stage.batch, "views": config.augmentations, "ddim_steps": config.ddim_steps,
        "step_ratio": round(statistics.median(ratios), 3), "lowest": round(ratios[0], 3),
        "highest": round(ratios[-1], 3), "step_seconds": round(statistics.median(a for a, _ in pairs), 4),
    }  # fmt: skip


def _stage_two(config: AttackConfig, folder: Path, precision: str) -> tuple[StageLoop, torch.optim.Optimizer]:
    settings = LabelConfig()
    device = pick_device(settings.device)
    public = make_people(range(100_000, 100_060), 2)
    tools = encode(*load_tools(settings.assets, device, settings.teacher), public)
    top, left, bottom, right = FACE_BOX
    victim = lay_out(Victim(build("vgg", CLASSES), CLASSES, preprocess=Preprocess((top, left, bottom, right))), device)
    assert isinstance(victim, Victim)
    pairs = random_pairs(len(public), CLASSES, config.pairs, 0)
    owner = Progressive(tools, config, victim, pairs, pseudo_embeddings(tools.embeddings, pairs),
                        RunDir.open(folder, {}), 0, precision)
    stage = config.stages[-1]
    owner.add_adapters(stage)
    loop = StageLoop(owner, stage, 2)
    parameters = [*adapter_parameters(tools.swapper.prior), *owner.labels.parameters(), *loop.weighting.parameters()]
    return loop, torch.optim.AdamW(parameters, 1e-5)


def _floor(loop: StageLoop, precision: str) -> Callable[[], None]:
    """The networks alone, on inputs made beforehand."""
    o, batch = loop.o, loop.stage.batch
    swapper, device = o.tools.swapper, o.device
    scene = o.tools.scenes.take(torch.arange(batch)).to(device)
    half = o.tools.scenes.take(torch.arange(max(2, batch // 2))).to(device)
    time_ = torch.full((batch,), 500, device=device)
    embedding = o.tools.embeddings[:batch].to(device)
    views = torch.rand(batch * o.config.augmentations, 3, *scene.image.shape[-2:], device=device)

    def prior(s: Any, n: int) -> Tensor:
        tokens = swapper.prior.tokens(embedding[:n], s.seen)
        return swapper.prior(s.latent, time_[:n], s.masked, s.keep, tokens).float().square().mean()

    def run() -> None:
        with autocast(device, precision):  # type: ignore[arg-type]
            for _ in range(o.config.ddim_steps):
                prior(scene, batch).backward()
            prior(half, len(half)).backward()
            latent = scene.latent.clone().requires_grad_(True)
            swapper.codec.decode(latent).float().square().mean().backward()
            for network, x in ((o.victim.logits, views), (o.tools.teacher, views), (o.tools.attributes, scene.image)):
                network(x.clone().requires_grad_(True)).float().square().mean().backward()

    return run


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]
