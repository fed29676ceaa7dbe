"""The three-stage hand-over without a face: CIFAR-10's classes for a generator that listens to an image encoder.

    python examples/handover_cifar.py cifar10.npz --out runs/handover

The pack holds `images`, `labels`, `class_names` and `split` (0 train, 1 test). A small diffusion model learns to draw
what an encoder's embedding says. Then embeddings of the ten labels are learned, from random ones, in two ways of equal
length: handed over from the encoder's (image, mixed, label), or alone from the first step. An independent classifier
names what is drawn. Goes on where it stopped when it is called again.
"""

from __future__ import annotations

import argparse
import copy
from bisect import bisect
from collections.abc import Callable
from functools import partial
from itertools import accumulate
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from latentprint.data.base import ImageSet
from latentprint.data.npz import load_npz
from latentprint.diffusion.prior import TRAIN_STEPS, clean_and_noise, schedule, signal_and_noise
from latentprint.engine.device import autocast, pick_device, resolve_precision
from latentprint.engine.loop import Loop, Stateful, warm_cosine
from latentprint.engine.run import RunDir
from latentprint.engine.seeds import derive, generator, seeded_noise, step_generator
from latentprint.handover import HandOver, LabelEmbedding, Source
from latentprint.losses.denoising import prior_mse
from latentprint.models.classifiers import Classifier, build

DIM, TOKENS, WIDTH, CLASSES = 256, 4, 128, 10
DEVICE = pick_device("auto")
PRECISION = resolve_precision(DEVICE, "auto")
#: Share of the steps that each source gets.
ARMS: dict[str, tuple[tuple[Source, float], ...]] = {
    "hand-over": (("image", 0.1), ("mixed", 0.5), ("label", 0.4)), "labels alone": (("label", 1.0),)}


class Generator(nn.Module):
    """v-prediction at 16 x 16 x 12 (2 x 2 pixels a place), conditioned by cross-attention over four tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.unet = UNet2DConditionModel(
            sample_size=16, in_channels=12, out_channels=12, layers_per_block=1, block_out_channels=(64, WIDTH),
            cross_attention_dim=WIDTH, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), attention_head_dim=4)
        self.tokens = nn.Linear(DIM, TOKENS * WIDTH)
        self.schedule = schedule()

    def forward(self, noisy: Tensor, timestep: Tensor, embedding: Tensor) -> Tensor:
        tokens = self.tokens(embedding * DIM**0.5).view(-1, TOKENS, WIDTH)
        return self.unet(noisy, timestep, tokens).sample

    def error(self, images: Tensor, embedding: Tensor, rng: torch.Generator) -> Tensor:
        clean = F.pixel_unshuffle(images * 2 - 1, 2)
        timestep = torch.randint(TRAIN_STEPS, (len(images),), generator=rng).to(images.device)
        noise = torch.randn(clean.shape, generator=rng).to(images.device)
        a, s = signal_and_noise(self.schedule, timestep, noise)
        return prior_mse(self(a * clean + s * noise, timestep, embedding).float(), a * noise - s * clean)

    @torch.no_grad()
    def draw(self, embedding: Tensor, seeds: Tensor, steps: int = 10) -> Tensor:
        self.schedule.set_timesteps(steps)
        x = seeded_noise(seeds, (12, 16, 16), embedding.device)
        times = self.schedule.timesteps.to(embedding.device)
        for i, t in enumerate(times):
            clean, noise = clean_and_noise(self.schedule, x, self(x, t.expand(len(x)), embedding).float(),
                                           t.expand(len(x)))
            if i + 1 < len(times):
                a, s = signal_and_noise(self.schedule, times[i + 1].expand(len(x)), x)
                x = a * clean + s * noise
        return F.pixel_shuffle(clean, 2).add(1).div(2).clamp(0, 1)


def batch_of(data: ImageSet, name: str, seed: int, step: int, n: int) -> tuple[Tensor, Tensor, torch.Generator]:
    """Photos, half of them mirrored, and labels."""
    rng = step_generator(seed, name, step)
    index = torch.randint(len(data), (n,), generator=rng)
    x = data.floats(index)
    x = torch.where(torch.rand(n, 1, 1, 1, generator=rng) < 0.5, x.flip(3), x)
    return x.to(DEVICE), data.labels[index].to(DEVICE), rng


def fit(run: RunDir, name: str, modules: dict[str, nn.Module], rates: list[float], steps: int,
        loss: Callable[[int], Tensor], states: dict[str, Stateful] | None = None) -> None:
    """At constant rates where there is further state: what follows goes on from it."""
    optimizer = torch.optim.AdamW([{"params": list(m.parameters()), "lr": lr}
                                   for m, lr in zip(modules.values(), rates, strict=True)], weight_decay=1e-2)

    def loss_at(step: int) -> tuple[Tensor, dict[str, Tensor | float]]:
        with autocast(DEVICE, PRECISION):
            return loss(step), {}

    rate = (lambda step: 1.0) if states else warm_cosine(steps, 20)
    Loop(run, name, optimizer, {**modules, **(states or {})}, steps, rate).fit(loss_at)


def classifier(run: RunDir, data: ImageSet, name: str, architecture: str, steps: int) -> Classifier:
    """The encoder's trunk, or the judge."""
    torch.manual_seed(derive(0, name))
    network = build(architecture, CLASSES).to(DEVICE)

    def loss(step: int) -> Tensor:
        x, y, _ = batch_of(data, name, 0, step, 64)
        return F.cross_entropy(network(x * 2 - 1).float(), y)

    fit(run, name, {"network": network}, [2e-3], steps, loss)
    return network.eval().requires_grad_(False)


def led(run: RunDir, data: ImageSet, arm: str, seed: int, steps: int, start: Generator, encoder: Classifier,
        judge: Classifier, images: int, looks: int = 3) -> list[float]:
    """Judge's accuracy on drawings by label, in percent, after each third of the steps."""
    name = f"{arm.replace(' ', '-')}-{seed}"
    generator_ = copy.deepcopy(start).train()
    torch.manual_seed(derive(seed, "labels"))
    labels = LabelEmbedding(torch.randn(CLASSES, DIM, generator=generator(seed, "start"))).to(DEVICE)
    ends = list(accumulate(share for _, share in ARMS[arm]))
    sources = [ARMS[arm][bisect(ends[:-1], (step + 0.5) / steps)][0] for step in range(steps)]
    over = HandOver(labels, horizon=0.8 * max(1, sources.count("mixed")))

    def loss(step: int) -> Tensor:
        x, y, rng = batch_of(data, f"hand-over-{seed}", seed, step, 32)
        with torch.no_grad():
            teacher = F.normalize(encoder.features(x * 2 - 1).float(), dim=1)
        over.step(sources[step])
        condition = over.condition(y, teacher)
        total = generator_.error(x, condition.embedding, rng).mean()
        if sources[step] == "mixed":
            losses = condition.losses(teacher)
            total = total + (1 - over.lam) * losses["align"].mean() + 0.1 * losses["norm"].mean()
        return total

    def going_on(done: int, step: int) -> Tensor:
        return loss(done + step)

    classes = torch.arange(images, device=DEVICE) % CLASSES
    found = []
    for look in range(1, looks + 1):
        fit(run, f"{name}-{look}", {"generator": generator_, "labels": labels}, [1e-4, 3e-3], steps // looks,
            partial(going_on, (look - 1) * (steps // looks)), {"over": over})
        drawn = generator_.eval().draw(labels(classes).detach(), torch.arange(images))
        generator_.train()
        found.append(100 * float((judge(drawn * 2 - 1).argmax(1) == classes).float().mean()))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="The hand-over on CIFAR-10.")
    parser.add_argument("pack", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/handover"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="of all step counts")
    parser.add_argument("--images", type=int, default=300, help="drawn to be named")
    given = parser.parse_args()
    n = {name: max(3, round(given.scale * steps))
         for name, steps in {"encoder": 1500, "judge": 1500, "generator": 1800, "arm": 300}.items()}
    run = RunDir.open(given.out, {"seed": 0, "scale": given.scale}, given.out.exists())
    data, test = load_npz(given.pack, 32, {"split": 0}), load_npz(given.pack, 32, {"split": 1})
    encoder = classifier(run, data, "encoder", "resnet", n["encoder"])
    judge = classifier(run, data, "judge", "vgg", n["judge"])
    torch.manual_seed(0)
    start = Generator().to(DEVICE)

    def loss(step: int) -> Tensor:
        x, _, rng = batch_of(data, "generator", 0, step, 32)
        with torch.no_grad():
            teacher = F.normalize(encoder.features(x * 2 - 1).float(), dim=1)
        return start.error(x, teacher, rng).mean()

    fit(run, "generator", {"generator": start}, [1e-3], n["generator"], loss)
    with torch.no_grad():
        hits = (judge(test.floats(torch.arange(len(test))).to(DEVICE) * 2 - 1).argmax(1).cpu() == test.labels)
        some = torch.arange(len(test))[: given.images]
        seen = F.normalize(encoder.features(test.floats(some).to(DEVICE) * 2 - 1).float(), dim=1)
        copied = judge(start.eval().draw(seen, some) * 2 - 1).argmax(1).cpu() == test.labels[some]
    print(f"judge on real test photos: {100 * float(hits.float().mean()):.1f}%")
    print(f"judge on drawings from embeddings of test photos: {100 * float(copied.float().mean()):.1f}%")
    for arm in ARMS:
        rows = torch.tensor([led(run, data, arm, seed, n["arm"], start, encoder, judge, given.images)
                             for seed in range(given.seeds)])
        print(f"{arm}: " + ", ".join(f"{rows[:, i].mean():.1f}% ({rows[:, i].min():.1f} to {rows[:, i].max():.1f})"
                                     for i in range(rows.shape[1])) + " after each third of the steps")


if __name__ == "__main__":
    main()
