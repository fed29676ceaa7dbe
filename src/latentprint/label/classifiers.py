"""Victims and evaluators: train them on the private people, or take the user's own, and measure them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from latentprint.data.base import ImageSet
from latentprint.data.pixels import as_floats
from latentprint.engine.device import autocast, lay_out, pick_device
from latentprint.engine.loop import Loop, warm_cosine
from latentprint.engine.run import RunDir
from latentprint.engine.seeds import derive, step_generator
from latentprint.errors import RunFailed
from latentprint.label.dpsgd import DPSGD, train_privately
from latentprint.label.presets import LabelConfig, ModelConfig
from latentprint.label.views import random_views
from latentprint.label.warm import WarmStart, take_over, warm_up
from latentprint.models.foreign import Form
from latentprint.models.preprocess import Preprocess
from latentprint.progress import tracked
from latentprint.types import Access
from latentprint.victim import Victim, load_victim

_TRAINABLE = ("builtin:", "timm:", "torchvision:")


@dataclass(frozen=True)
class Classifier:
    """A victim or evaluator with what the report says of it.

    Attributes:
        accuracy: on ``n`` held-out photos. warm: the recogniser that it learned from first, if any.
    """

    victim: Victim
    name: str
    architecture: str
    accuracy: float
    n: int
    warm: str | None = None

    @property
    def origin(self) -> dict[str, str]:
        """What report.json says of where it learned first; empty where it did not."""
        return {} if self.warm is None else {"warm": self.warm}


def load_classifier(config: LabelConfig, model: ModelConfig, name: str, data: ImageSet) -> Victim:
    """The model as given: with its weights, or a named architecture about to be trained.

    Raises:
        UserError: it cannot be loaded, has another number of outputs, or weights that are not finite.
    """
    torch.manual_seed(derive(config.seed, name))
    top, left, bottom, right = model.crop
    access = Access(config.attack.access) if name == "victim" else None  # evaluators show whatever they can
    number = name.removeprefix("evaluator-")
    setting = "victim" if name == "victim" else f"evaluators.{int(number) - 1}" if number.isdigit() else name
    look = Preprocess((top, left, bottom, right), model.input_size, model.mean, model.std, model.colours, model.scale)
    victim = load_victim(model.model, data.n_classes, image_size=data.size, weights=model.weights, name=name,
                         preprocess=look, access=access, answers=model.answers,
                         service=model.service.model_dump(), setting=setting,
                         form=Form(model.output, model.layout, model.fixed_batch))
    if model.warm_weights is not None and model.warm is not None:
        take_over(victim, model.warm_weights, model.warm, setting)
    return victim


def fit_classifier(config: LabelConfig, model: ModelConfig, victim: Victim, train: ImageSet, heldout: ImageSet,
                   run: RunDir, starts: Mapping[str, WarmStart] = MappingProxyType({})) -> Classifier:
    """Train it on the private people if it is a named architecture without weights, and measure it.

    What was trained is kept as ``networks/NAME.safetensors`` in the run, which ``weights`` of another run may name.

    Args:
        starts: see `warm.warm_starts`.

    Raises:
        RunFailed: training broke down.
    """
    device = pick_device(config.device)
    lay_out(victim, device)
    if model.warm is not None and model.warm_weights is None and is_trained_here(model):
        warm_up(config, model, victim, starts[model.warm], run, device)
    if isinstance(victim, DPSGD) and victim.strength > 0:
        train_privately(config, model, victim, train, run, device)
    elif is_trained_here(model):
        train_classifier(config, model, victim.name, victim, train, run, device)
    if is_trained_here(model):
        run.save_weights(victim.name, victim.network)
    answers = scores(victim, heldout.images)
    if is_trained_here(model) and not answers.isfinite().all():
        raise RunFailed(f"{victim.name}: trained until its answers are NaN or infinite; lower its learning rate lr")
    right = (answers.argmax(1) == heldout.labels).float()
    return Classifier(victim, victim.name, model.model, float(right.mean()), len(right), model.warm)


def is_trained_here(model: ModelConfig) -> bool:
    """Whether it is a named architecture without weights."""
    return model.weights is None and model.model.startswith(_TRAINABLE)


def hits(victim: Victim, photos: ImageSet) -> Tensor:
    """1 where the victim's first guess is right, else 0: ``(N,)`` float32."""
    return (scores(victim, photos.images).argmax(1) == photos.labels).float()


def train_classifier(config: LabelConfig, model: ModelConfig, name: str, victim: Victim, data: ImageSet, run: RunDir,
                     device: torch.device) -> None:
    """Its `training_loss` (cross-entropy) on augmented photos; the victim is frozen again afterwards."""
    victim.unfreeze()
    optimizer = torch.optim.AdamW(victim.parameters(), model.lr, weight_decay=5e-2)

    def loss_at(step: int) -> tuple[Tensor, dict[str, Tensor | float]]:
        rng = step_generator(config.seed, name, step)
        index = torch.randint(len(data), (model.batch,), generator=rng)
        x = random_views(data.floats(index).to(device), 1, rng, model.augment, model.mirror).clamp(0, 1)
        y = data.labels[index].to(device)
        with autocast(device, config.precision):
            loss, logits = victim.training_loss(x, y, step / model.steps)
        return loss.mean(), {"accuracy": (logits.argmax(1) == y).float().mean()}

    Loop(run, name, optimizer, {"model": victim}, model.steps, warm_cosine(model.steps, 50), clip_norm=5.0,
         save_every=config.save_every).fit(loss_at)
    victim.freeze()


@torch.no_grad()
def scores(victim: Victim, images: Tensor, batch: int = 256) -> Tensor:
    """Logits of uint8 or [0, 1] images, ``(N, C)`` on the CPU, not counted as queries."""
    return torch.cat([victim.logits(as_floats(part).to(victim.device)).float().cpu()
                      for part in tracked(images.split(batch), f"{victim.name}: {len(images):,} images")])


@torch.no_grad()
def penultimate(victim: Victim, images: Tensor, batch: int = 256) -> Tensor:
    """Penultimate features, ``(N, D)`` on the CPU."""
    return torch.cat([victim.penultimate(as_floats(part).to(victim.device)).float().cpu()
                      for part in tracked(images.split(batch), f"{victim.name}: {len(images):,} images")])
