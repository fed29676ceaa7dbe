"""A training step of the template channel's decoder by each loss, against the squared distance of embeddings.

The notes (seed 002, section 2) expect InfoNCE at 1.05 and a perceptual loss on top at 1.15 of it. Steps are timed in
turn, on the same batches; beside them stands what the bare networks take, forwards and backwards.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from latentprint.bench.counting import timed
from latentprint.data.procedural import make_people
from latentprint.engine.device import autocast, lay_out, pick_device, resolve_precision
from latentprint.engine.seeds import step_generator
from latentprint.metrics.perceptual import perceptual_metric
from latentprint.models.answers import embeddings
from latentprint.template.generators import DecoderGenerator
from latentprint.template.presets import AttackConfig, LossConfig, RampConfig, RecogniserConfig
from latentprint.template.recogniser import load_recogniser
from latentprint.template.train import Guide, Plan, TrainingSet, negatives_of, step_loss

REPEATS = 9
PEOPLE = 200
PERCEPTUAL = RampConfig(kind="constant", most=1.0)
LOSSES = {
    "l2": LossConfig(feature="l2"),
    "info-nce random": LossConfig(),
    "info-nce hard": LossConfig(negatives="hard"),
    "info-nce queue": LossConfig(negatives="queue"),
    "info-nce random, perceptual": LossConfig(perceptual=PERCEPTUAL),
}


def template_step() -> list[dict[str, Any]]:
    """Rows for each loss: ratios of a step to that with ``l2``, median and range, and to the bare networks."""
    device = pick_device("auto")
    precision = resolve_precision(device, "auto")
    public = make_people(range(100_000, 100_000 + PEOPLE), 2)
    recogniser = load_recogniser(RecogniserConfig(), None, public.size, device, "recogniser")
    targets = embeddings(recogniser, public.images).to(device)
    data = TrainingSet(public, targets, targets, [Guide(recogniser, torch.zeros(recogniser.dim))],
                       perceptual_metric(None).to(device))
    config = AttackConfig()
    torch.manual_seed(0)
    generator = lay_out(DecoderGenerator(torch.zeros(recogniser.dim), public.size, config), device)
    assert isinstance(generator, DecoderGenerator)
    optimizer = torch.optim.AdamW(generator.trained(), 1e-4)

    def stepper(loss: LossConfig) -> Callable[[], None]:
        plan = Plan.of(config.model_copy(update={"loss": loss}), generator.name)
        negatives = negatives_of(data, loss)

        def step() -> None:
            optimizer.zero_grad(set_to_none=True)
            step_loss(generator, data, plan, negatives, 0, step_generator(0, "bench", 0), precision)[0].backward()
            nn.utils.clip_grad_norm_(generator.trained(), 1.0)
            optimizer.step()

        return step

    def floor() -> None:
        with autocast(device, precision):
            drawn = generator.decoder(targets[: config.batch])
            seen: Tensor = recogniser(drawn)
        (drawn.float().mean() + seen.square().mean()).backward()

    calls = {**{name: stepper(loss) for name, loss in LOSSES.items()}, "floor": floor}
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(REPEATS + 1):
        for name, call in calls.items():
            seconds = timed(call)
            if turn:  # the first warms up
                times[name].append(seconds)
    rows = []
    for name in LOSSES:
        ratios = sorted(a / b for a, b in zip(times[name], times["l2"], strict=True))
        rows.append({"bench": "template", "loss": name, "device": str(device), "threads": torch.get_num_threads(),
                     "precision": precision, "batch": config.batch, "step_ratio": round(statistics.median(ratios), 3),
                     "lowest": round(ratios[0], 3), "highest": round(ratios[-1], 3),
                     "over_floor": round(statistics.median(times[name]) / statistics.median(times["floor"]), 3),
                     "step_seconds": round(statistics.median(times[name]), 4)})
    return rows
