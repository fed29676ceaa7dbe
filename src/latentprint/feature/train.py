"""Training of a split victim with its defences on: one backward pass for the task and all penalties."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from latentprint.data.augment import warped
from latentprint.data.base import ImageSet
from latentprint.engine.device import Precision, autocast
from latentprint.engine.loop import Loop, Stateful
from latentprint.engine.run import RunDir
from latentprint.engine.seeds import generator, step_generator
from latentprint.errors import UserError
from latentprint.feature.defense import Step, Trained
from latentprint.feature.graph import modes_kept
from latentprint.feature.presets import TrainingConfig
from latentprint.feature.victim import SplitVictim

PHASE = "victim"
#: Images at a time where nothing is learned.
PASS = 256


def train_split(victim: SplitVictim, data: ImageSet, config: TrainingConfig, run: RunDir, seed: int,
                precision: Precision, save_every: int = 100, started: bool = False) -> None:
    """SGD on cross-entropy through what is sent, plus what each defence adds; the victim is frozen afterwards.

    The published code runs a backward pass for the penalty and another for the task, and adds the edge network's
    gradients; a penalty depends on the edge alone, so the sum of both losses has the same gradient in one pass.

    Args:
        started: the victim has learned before, and surrogates are fitted before the first step.

    Raises:
        UserError: fewer images than a batch.
        RunFailed: training broke down.
    """
    epochs = Epochs(len(data), config.batch, config.epochs, seed)
    optimizer = torch.optim.SGD(trained_groups(victim.train()), config.lr, config.momentum,
                                weight_decay=config.weight_decay)
    schedule = milestones(config, epochs.steps)
    states: dict[str, Stateful] = {"model": victim}
    for i, defence in enumerate(victim.defences):
        states |= {f"{i}-{name}": state for name, state in defence.states().items()}

    def shown_at(step: int) -> tuple[Tensor, Tensor]:
        index, rng = epochs.batch(step), step_generator(seed, PHASE, step)
        images = augmented(data.floats(index).to(victim.device), config.augment, rng)
        return images, data.labels[index].to(victim.device)

    @torch.no_grad()
    def sent_at(step: int) -> tuple[Tensor, Tensor]:
        images, _ = shown_at(step)
        with modes_kept(victim), autocast(victim.device, precision):
            victim.eval()
            return images, victim.sent(victim.features(images))

    def loss_at(step: int) -> tuple[Tensor, dict[str, Tensor | float]]:
        if step == 0 and (started or config.start is not None):
            for defence in victim.defences:
                defence.begin(Trained(partial(clean_features, victim, data, precision), sent_at))
        images, labels = shown_at(step)
        with autocast(victim.device, precision):
            features = victim.features(images)
            sent = victim.sent(features)
            logits = victim.cloud(sent).float()
        loss = F.cross_entropy(logits, labels)
        values: dict[str, Tensor | float] = {"task": loss.detach(),
                                             "accuracy": (logits.detach().argmax(1) == labels).float().mean()}
        shown = Step(images, labels, features, sent, step, step // epochs.length, step / epochs.steps,
                     config.lr * schedule(step))
        for defence in victim.defences:
            defence.before_step(shown)
            if (added := defence.penalty(shown)) is not None:
                loss = loss + added[0]
                values |= added[1]
        return loss, values

    def after(step: int) -> None:
        if step % epochs.length == 0:
            for defence in victim.defences:
                defence.after_epoch(step // epochs.length - 1, victim.edge)

    Loop(run, PHASE, optimizer, states, epochs.steps, schedule, clip_norm=config.clip_norm,
         save_every=save_every).fit(loss_at, after)
    victim.freeze()


def trained_groups(victim: SplitVictim) -> list[dict[str, Any]]:
    """Parameter groups of the victim's optimiser: edge, cloud and what defences train jointly, with gradient on.

    Nothing else of the victim is touched: whether a surrogate or an adversary has gradients is its own affair, and a
    density with gradient would pass the encoder another gradient than that of a given density.
    """
    groups: list[dict[str, Any]] = [{"params": [*victim.edge.parameters(), *victim.cloud.parameters()]}]
    groups += [dict(group) for defence in victim.defences for group in defence.joint_parameters()]
    for group in groups:
        group["params"] = [parameter.requires_grad_(True) for parameter in group["params"]]
    return groups


@torch.no_grad()
def clean_features(victim: SplitVictim, data: ImageSet, precision: Precision) -> tuple[Tensor, Tensor]:
    """Features of all images ``(N, *F)`` as the edge network makes them in use, where it is, and labels ``(N,)``."""
    parts = []
    with modes_kept(victim), autocast(victim.device, precision):
        victim.eval()
        for index in torch.arange(len(data)).split(PASS):
            parts.append(victim.features(data.floats(index).to(victim.device)).float())
    return torch.cat(parts), data.labels.to(victim.device)


class Epochs:
    """Batches without replacement; what is left of an epoch after its last full batch waits for the next.

    Raises:
        UserError: fewer images than a batch.
    """

    def __init__(self, n: int, batch: int, epochs: int, seed: int) -> None:
        if n < batch:
            raise UserError(f"training.batch: {batch} images a step, but there are only {n} to train on")
        self.n, self.size, self.seed = n, batch, seed
        self.length = n // batch
        self.steps = self.length * epochs
        self._order: tuple[int, Tensor] | None = None

    def batch(self, step: int) -> Tensor:
        """Indices ``(batch,)`` of the images of a step; a function of the step alone."""
        epoch, place = divmod(step, self.length)
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, torch.randperm(self.n, generator=generator(self.seed, "epoch", epoch))
        return self._order[1][place * self.size : (place + 1) * self.size]


def milestones(config: TrainingConfig, steps: int) -> Callable[[int], float]:
    """Learning-rate factor: a short linear warm-up, then a drop by ``gamma`` at each milestone, a share of them."""
    drops = [round(share * steps) for share in config.milestones]
    warm = max(1, round(config.warm_up * steps))
    return lambda step: min(1.0, (step + 1) / warm) * config.gamma ** bisect_right(drops, step)


def augmented(images: Tensor, how: str, rng: torch.Generator) -> Tensor:
    """Images as the victim's owner shows them in training: shifted, turned by up to 15 degrees, mirrored."""
    if how == "none":
        return images
    return warped(images, rng, turn=0.26, shift=0.125 if how == "shift-turn-mirror" else 0.0,
                  mirror=True).clamp(0, 1)


@torch.no_grad()
def accuracy_hits(victim: SplitVictim, data: ImageSet, seed: int, precision: Precision) -> Tensor:
    """1 where the answer to what is sent is right, else 0: ``(N,)`` float32 on the CPU. Defences are on."""
    hits = []
    for i, index in enumerate(torch.arange(len(data)).split(PASS)):
        with autocast(victim.device, precision):
            logits = victim(data.floats(index).to(victim.device), generator(seed, "accuracy", i))
        hits.append((logits.float().argmax(1).cpu() == data.labels[index]).float())
    return torch.cat(hits)
