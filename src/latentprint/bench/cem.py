"""A training step and an epoch with each conditional-entropy surrogate, against the same without.

The network is the published one, VGG11 with batch normalisation cut after its second pooling, and so are the shapes:
CIFAR-10 and FaceScrub. Steps are timed in turn, one without and one with, on the same batch. The published form of the
penalty, a Python loop, stands beside ours.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from latentprint.bench.counting import bytes_of, count, peak_bytes, timed
from latentprint.bench.published_cem import published_penalty, two_passes
from latentprint.engine.device import Precision, autocast, lay_out, pick_device, resolve_precision
from latentprint.feature.split import split
from latentprint.models.split_networks import DEFAULT_CUT, vgg11
from latentprint.surrogates import GatedSurrogate, GMMSurrogate, KMeansSurrogate, SlotSurrogate, Surrogate
from latentprint.surrogates.bank import by_class
from latentprint.surrogates.clustering import kmeans

NOISE_STD, WEIGHT, REPEATS = 0.025, 16.0, 5
#: Steps over which operations that come once in a while are averaged.
COUNTED_STEPS = 16


@dataclass(frozen=True)
class Shape:
    """Of a data set. ``size`` in pixels, ``samples`` in an epoch."""

    name: str
    n_classes: int
    batch: int
    size: int
    samples: int

    @property
    def feature_shape(self) -> tuple[int, int, int]:
        return 8, self.size // 4, self.size // 4


SHAPES = (Shape("cifar10", 10, 128, 32, 50_000), Shape("facescrub", 530, 256, 48, 39_969))

#: Row -> the surrogate, given the shape of features and the number of classes.
ROWS: dict[str, Callable[[tuple[int, int, int], int], Surrogate]] = {
    "kmeans": lambda shape, n: KMeansSurrogate(shape, n, NOISE_STD),
    "gmm": lambda shape, n: GMMSurrogate(shape, n, NOISE_STD),
    "slot": lambda shape, n: SlotSurrogate(shape, n, NOISE_STD),
    "slot-frozen": lambda shape, n: SlotSurrogate(shape, n, NOISE_STD, mode="frozen"),
    "gated": lambda shape, n: GatedSurrogate(shape, n, NOISE_STD),
    "gated-frozen": lambda shape, n: GatedSurrogate(shape, n, NOISE_STD, mode="frozen"),
}


def cem(shapes: tuple[Shape, ...] = SHAPES, repeats: int = REPEATS) -> list[dict[str, Any]]:
    """One row a surrogate and shape.

    ``step_ratio`` and ``epoch_ratio`` (with what happens between epochs) are over the undefended in the same precision;
    ``extra_ops`` are eager operations a step beyond it, the noise left out, and ``extra_views`` those that only look at
    memory in another way; ``memory_ratio`` of the
    bytes held at most; ``speedup`` is the published step in fp32 over this one in the preset's precision.
    """
    device = pick_device("auto")
    return [row for shape in shapes for row in _rows(shape, device, repeats)]


def _rows(shape: Shape, device: torch.device, repeats: int) -> list[dict[str, Any]]:
    plain = Trainer(shape, device, "fp32")
    published = _row("published", plain, plain.published_step(), plain.second_pass(), repeats)
    preset = Trainer(shape, device, resolve_precision(device, "auto"))
    rows = []
    for name, make in ROWS.items():
        surrogate = make(shape.feature_shape, shape.n_classes).to(device)
        preset.prepare(surrogate)
        between = timed(surrogate.refresh)
        row = _row(name, preset, preset.step(surrogate), between, repeats, surrogate)
        rows.append({**row, "speedup": round(published["step_seconds"] / row["step_seconds"], 2)})
    return [*rows, published]


def _row(name: str, trainer: Trainer, step: Callable[[], None], between: float, repeats: int,
         surrogate: Surrogate | None = None) -> dict[str, Any]:
    shape, undefended = trainer.shape, trainer.step(None)
    pairs = [(timed(step), timed(undefended)) for _ in range(repeats + 1)][1:]
    seconds, base = (statistics.median(times) for times in zip(*pairs, strict=True))
    steps = shape.samples // shape.batch
    ops, views = _extra_operations(step, undefended) if surrogate is None else _operations(trainer, surrogate)
    static = trainer.static_bytes()
    own = bytes_of([*surrogate.parameters(), *surrogate.buffers()]) if surrogate else 0
    peaks = [peak_bytes(s, trainer.device) for s in (step, undefended)]
    ratios = sorted(a / b for a, b in pairs)
    return {
        "surrogate": name, "shape": shape.name, "device": str(trainer.device), "threads": torch.get_num_threads(),
        "precision": trainer.precision, "step_ratio": round(statistics.median(ratios), 3),
        "lowest": round(ratios[0], 3), "highest": round(ratios[-1], 3),
        "epoch_ratio": round((steps * seconds + between) / (steps * base), 3), "extra_ops": round(ops),
        "extra_views": round(views), "memory_ratio": round((static + own + peaks[0]) / (static + peaks[1]), 3),
        "step_seconds": round(seconds, 4),
    }  # fmt: skip


def _extra_operations(step: Callable[[], None], undefended: Callable[[], None]) -> tuple[float, float]:
    one, other = count(step), count(undefended)
    return one.computing.total() - other.computing.total(), one.views.total() - other.views.total()


def _operations(trainer: Trainer, surrogate: Surrogate) -> tuple[float, float]:
    """Of the surrogate's part of a step, on average: some of it comes once in a while."""
    z = torch.rand(trainer.shape.batch, *trainer.shape.feature_shape, device=trainer.device)
    counted = count(lambda: [trainer.penalty(surrogate, z.requires_grad_()).backward()
                             for _ in range(COUNTED_STEPS)])
    return counted.computing.total() / COUNTED_STEPS, counted.views.total() / COUNTED_STEPS


class Trainer:
    """Network, optimiser and one batch."""

    def __init__(self, shape: Shape, device: torch.device, precision: Precision) -> None:
        torch.manual_seed(0)
        self.shape, self.device, self.precision = shape, device, precision
        parts = split(vgg11(shape.n_classes, image_size=shape.size), DEFAULT_CUT,
                      torch.zeros(2, 3, shape.size, shape.size))
        edge, cloud = parts.edge.to(device), parts.cloud.to(device)
        images = torch.rand(shape.batch, 3, shape.size, shape.size, device=device)
        if precision == "bf16":
            lay_out(edge, device)
            lay_out(cloud, device)
            images = images.contiguous(memory_format=torch.channels_last)
        self.edge, self.cloud, self.images = edge, cloud, images
        self.labels = torch.randint(shape.n_classes, (shape.batch,), device=device)
        self.parameters = [*self.edge.parameters(), *self.cloud.parameters()]
        self.optimizer = torch.optim.SGD(self.parameters, 1e-3, momentum=0.9, weight_decay=5e-4)

    def step(self, surrogate: Surrogate | None) -> Callable[[], None]:
        """A training step, undefended without a surrogate."""

        def run() -> None:
            self.optimizer.zero_grad(set_to_none=True)
            with autocast(self.device, self.precision):
                z = self.edge(self.images)
                sent = z if surrogate is None else torch.add(z, torch.randn_like(z), alpha=NOISE_STD)
                loss = F.cross_entropy(self.cloud(sent), self.labels)
            if surrogate is not None:
                loss = loss + self.penalty(surrogate, z)
            loss.backward()
            self.optimizer.step()

        return run

    def penalty(self, surrogate: Surrogate, z: Tensor) -> Tensor:
        """All that a surrogate adds to a step but the sum with the task's loss."""
        surrogate.observe(z.detach(), self.labels)
        surrogate.learn(z.detach(), self.labels)
        return WEIGHT * surrogate(z, self.labels).loss

    def published_step(self) -> Callable[[], None]:
        """With the loop, and two backward passes."""
        s = self.shape
        surrogate = KMeansSurrogate(s.feature_shape, s.n_classes, NOISE_STD)
        self.prepare(surrogate.to(self.device))
        encoder, others = list(self.edge.parameters()), list(self.cloud.parameters())

        def run() -> None:
            self.optimizer.zero_grad(set_to_none=True)
            z = self.edge(self.images)
            penalty = published_penalty(z, self.labels, surrogate.fit_result, s.samples / s.n_classes, NOISE_STD)
            sent = z + NOISE_STD * torch.randn_like(z)
            two_passes(penalty, lambda: F.cross_entropy(self.cloud(sent), self.labels), encoder, others, WEIGHT)
            self.optimizer.step()

        return run

    @torch.no_grad()
    def second_pass(self) -> float:
        """Seconds between two epochs in the published code: features of all data once more, and k-means on them.

        One batch is timed for all. In its favour, the images are there already and all classes are clustered at once.
        """
        s = self.shape
        steps = s.samples // s.batch
        self.edge.eval()
        self.edge(self.images)
        one = timed(lambda: self.edge(self.images))
        self.edge.train()
        y = self.labels.repeat(steps)
        data = by_class(torch.rand(len(y), math.prod(s.feature_shape), device=self.device), y, s.n_classes)
        return steps * one + timed(lambda: kmeans(data, data.features[:, :5]))

    @torch.no_grad()
    def prepare(self, surrogate: Surrogate) -> None:
        """Fill what the surrogate keeps with features like the batch's, and fit it: a batch then meets all clusters."""
        if not surrogate.refreshes:
            return
        z = self.edge(self.images.float()).float()
        n = max(10_000, 64 * self.shape.n_classes)
        for _ in range(2):  # the second is there for a refresh to be timed
            near = z[torch.randint(len(z), (n,), device=self.device)]
            surrogate.observe(near + 0.1 * z.std() * torch.randn_like(near),
                              torch.arange(n, device=self.device) % self.shape.n_classes)
            if not surrogate.get_buffer("fitted").any():
                surrogate.refresh()

    def static_bytes(self) -> int:
        """Of weights, what the optimiser keeps of them, and the batch."""
        kept = [t for state in self.optimizer.state.values() for t in state.values() if isinstance(t, Tensor)]
        return bytes_of([*self.parameters, *kept, self.images])
