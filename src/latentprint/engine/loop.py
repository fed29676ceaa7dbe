"""One training loop for everything that is trained here: victims, recognisers, prior, attack stages.

A loop is a function of the step number: what a step draws comes from ``seeds.generator(seed, name, step)``, so a
resumed loop repeats exactly what the unbroken one would have done; so does what draws from torch's global generator,
such as dropout. Processes (``torchrun``) each draw a batch of their own and average gradients; ``accumulate`` in the
run's settings makes one process do the work of several, part after part, with the same result (but for running
statistics, which batches pass through one by one).
"""

from __future__ import annotations

import atexit
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakSet

import torch
from torch import Tensor, nn

from latentprint.engine.device import chosen_device
from latentprint.engine.run import RunDir
from latentprint.engine.seeds import derive, part_number, parts
from latentprint.errors import RunFailed, UserError
from latentprint.log import LOG
from latentprint.progress import progress

if TYPE_CHECKING:
    from accelerate import Accelerator


class Stateful(Protocol):
    """What a checkpoint holds: modules, optimisers, clocks."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any: ...


@dataclass
class Loop:
    """Steps of an optimiser with logging, checkpoints, resume and a bounded tolerance of non-finite steps.

    Attributes:
        run: where metrics and checkpoints go.
        name: the phase, e.g. ``stage1``; also the checkpoint's name.
        optimizer: over the trained parameters alone.
        states: everything that changes besides the optimiser (trained modules, EMA, clocks, log-variances).
        steps: how many.
        schedule: step -> learning-rate factor.
        clip_norm: gradient norms are clipped to this.
        explode_norm: a larger norm counts as an explosion: the step is skipped.
        max_skips: more skipped steps than this fail the run.
        log_every, save_every: in steps.
        mean_of_parts: whether the gradient of a step is the mean over its parts; False: their sum, for an optimiser
            that clips and averages by itself.
    """

    run: RunDir
    name: str
    optimizer: torch.optim.Optimizer
    states: Mapping[str, Stateful]
    steps: int
    schedule: Callable[[int], float] = lambda step: 1.0
    clip_norm: float = 1.0
    explode_norm: float = 1e4
    max_skips: int = 20
    log_every: int = 10
    save_every: int = 100
    mean_of_parts: bool = True
    skipped: int = 0
    step: int = 0
    done: bool = False
    reason: str = "step cap"
    seconds: float = 0.0
    _base_lr: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._base_lr = [group["lr"] for group in self.optimizer.param_groups]

    def fit(self, loss_at: Callable[[int], tuple[Tensor, dict[str, Tensor | float]]],
            after: Callable[[int], str | None] | None = None) -> Loop:
        """Run to the end, or go on from the checkpoint.

        Args:
            loss_at: step -> (scalar loss, values to log).
            after: called with the number of steps done; a returned string ends the loop with that reason.

        Raises:
            RunFailed: more than ``max_skips`` steps were non-finite or exploded.
        """
        note_trained(self.states.values())
        self._restore()
        if not self.done:
            self._run(loss_at, after)
            self.done = True
            _share(self.states.values())
            self._save()
        self._seed("end")
        return self

    def _run(self, loss_at: Callable[[int], tuple[Tensor, dict[str, Tensor | float]]],
             after: Callable[[int], str | None] | None) -> None:
        bar = progress()
        began = time.perf_counter() - self.seconds
        with bar:
            task = bar.add_task(self.name, total=self.steps, completed=self.step)
            while self.step < self.steps and not self.done:
                values = self._one(loss_at)
                self.step += 1
                self.seconds = time.perf_counter() - began
                stop = _agreed(after(self.step) if after else None)
                if stop:
                    self.done, self.reason = True, stop
                if self.step % self.log_every == 0 or self.step == self.steps or self.done:
                    skipped = {"skipped": self.skipped} if self.skipped else {}
                    self.run.log(self.name, self.step, {k: float(v) for k, v in values.items()} | skipped)
                if self.step % self.save_every == 0 and self.step < self.steps and not self.done:
                    self._save()
                bar.update(task, completed=self.step)

    def _one(self, loss_at: Callable[[int], tuple[Tensor, dict[str, Tensor | float]]]) -> dict[str, Tensor | float]:
        factor = self.schedule(self.step)
        for group, lr in zip(self.optimizer.param_groups, self._base_lr, strict=True):
            group["lr"] = lr * factor
        self.optimizer.zero_grad(set_to_none=True)
        values, sound = self._gradients(loss_at)
        if sound:
            norm = self._clip()
            values["grad_norm"] = norm
            if math.isfinite(norm) and norm <= self.explode_norm:
                self.optimizer.step()
                return values
        self._skip()
        return values

    def _gradients(self, loss_at: Callable[[int], tuple[Tensor, dict[str, Tensor | float]]]
                   ) -> tuple[dict[str, Tensor | float], bool]:
        """Mean gradients over the step's parts; values of the last part; whether every loss was finite."""
        count, total, sound = self.accumulate, torch.zeros(()), True
        values: dict[str, Tensor | float] = {}
        for _ in parts(count):
            self._seed(self.step, part_number())
            loss, values = loss_at(self.step)
            total = total.to(loss.device) + loss.detach() / count
            sound = _everywhere(torch.isfinite(loss.detach())) and sound
            if sound:
                accelerator().backward(loss / count if count > 1 and self.mean_of_parts else loss)
        return {"loss": total, **values}, sound

    @property
    def accumulate(self) -> int:
        """Parts of a step that each process computes."""
        return int(self.run.config.get("accumulate", 1))

    def _seed(self, *scope: str | int) -> None:
        """The global generator too depends on the step alone: a network of the user's own may draw from it."""
        torch.manual_seed(derive(int(self.run.config.get("seed", 0)), self.name, "global", *scope))

    def _clip(self) -> float:
        parameters = [p for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        if parameters and accelerator().num_processes > 1:
            _average([p.grad for p in parameters])
        return float(nn.utils.clip_grad_norm_(parameters, self.clip_norm))

    def _skip(self) -> None:
        self.skipped += 1
        self.optimizer.zero_grad(set_to_none=True)
        if self.skipped > self.max_skips:
            raise RunFailed(f"{self.name}: {self.skipped} steps had a non-finite loss or an exploding gradient (more "
                            f"than {self.max_skips}); the last good checkpoint is kept, lower the learning rate")

    def _save(self) -> None:
        self.run.save(self.name, {
            "step": self.step, "done": self.done, "reason": self.reason, "skipped": self.skipped,
            "seconds": self.seconds, "optimizer": self.optimizer.state_dict(),
            "states": {key: state.state_dict() for key, state in self.states.items()},
        })  # fmt: skip
        accelerator().wait_for_everyone()

    def _restore(self) -> None:
        saved = self.run.load(self.name)
        accelerator().wait_for_everyone()  # before the main process may replace what the others are still reading
        if saved is None:
            self.run.cut_log(self.name, 0)
            return
        if lacking := self.states.keys() - saved["states"].keys():
            raise UserError(f"{self.run.path}: the checkpoint of {self.name} was written by another version of this "
                            f"program and lacks {', '.join(sorted(lacking))}; start again in another folder")
        for key, state in self.states.items():
            state.load_state_dict(saved["states"][key])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.step, self.done, self.reason = saved["step"], saved["done"], saved["reason"]
        self.skipped, self.seconds = saved["skipped"], saved["seconds"]
        if not self.done:
            self.run.cut_log(self.name, self.step + 1)


class Alone:
    """What accelerate does for a run of one process, without the global state that it keeps: a host may use its own."""

    num_processes, process_index, is_main_process = 1, 0, True

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def wait_for_everyone(self) -> None:
        """There is nobody to wait for."""

    def reduce(self, tensor: Tensor, how: str) -> Tensor:
        """The sum or mean over one process."""
        return tensor


@cache
def accelerator() -> Accelerator | Alone:
    """The one accelerator of several processes (it keeps global state of its own), on the device that was picked.

    Precision is chosen by ``autocast``. The group of processes is left in order when this one ends: the interpreter
    going down around the group's live threads now and then aborts a run whose work is done.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Alone()
    from accelerate import Accelerator

    made = Accelerator(cpu=chosen_device().type == "cpu")
    atexit.register(made.end_training)
    return made


def _average(gradients: list[Tensor]) -> None:
    """Replace gradients by their mean over processes, in one message."""
    flat = accelerator().reduce(torch.cat([gradient.flatten() for gradient in gradients]), "mean")
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def _share(states: Iterable[Stateful]) -> None:
    """Give every process the main one's modules: running statistics, unlike weights, went separate ways."""
    everyone = accelerator()
    if isinstance(everyone, Alone):
        return
    from accelerate.utils import broadcast

    for module in (state for state in states if isinstance(state, nn.Module)):
        for value in module.state_dict().values():
            value.copy_(broadcast(value.to(everyone.device, copy=True).contiguous()))


def _everywhere(condition: Tensor) -> bool:
    """Whether the condition holds in every process: they must take the same branch."""
    if accelerator().num_processes > 1:
        condition = accelerator().reduce(condition.float(), "mean") == 1
    return bool(condition)


def _agreed(reason: str | None) -> str | None:
    """The main process's word on whether to stop."""
    if accelerator().num_processes > 1:
        from accelerate.utils import broadcast_object_list

        words = [reason]
        broadcast_object_list(words, from_process=0)
        return words[0]
    return reason


def is_main() -> bool:
    """Whether this process writes files."""
    return accelerator().is_main_process


def say(line: str) -> None:
    """Log one line; the main process alone speaks."""
    if is_main():
        LOG.info(line)


def warm_cosine(steps: int, warmup: int = 0, floor: float = 0.02) -> Callable[[int], float]:
    """Learning-rate factor: linear warm-up, then half a cosine from 1 down to ``floor``."""

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        phase = (step - warmup) / max(1, steps - warmup)
        return floor + (1 - floor) * (1 + math.cos(math.pi * min(1.0, phase))) / 2

    return factor


#: Networks trained in this process: what they answer is worth keeping nowhere but in their own run.
_TRAINED: WeakSet[nn.Module] = WeakSet()


def note_trained(things: Iterable[object]) -> None:
    """Remember the networks among ``things``, with all their parts."""
    for thing in things:
        if isinstance(thing, nn.Module):
            _TRAINED.update(thing.modules())


def was_trained(network: nn.Module) -> bool:
    """Whether a part of it was trained in this process."""
    return any(part in _TRAINED for part in network.modules())
