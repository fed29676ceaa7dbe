"""The model under audit, behind the one door through which an attack may reach it.

A `Victim` sees images in [0, 1], does its own preprocessing, counts what it is asked, and releases no more
than its `Access` grants. It is frozen: an attack moves images, never the victim.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latentprint.checks import nan_weights, victim_outputs
from latentprint.engine.loop import say
from latentprint.errors import UserError, useful_line
from latentprint.losses.classification import cross_entropy
from latentprint.models.foreign import Form, adapted, bare
from latentprint.models.loading import load_network
from latentprint.models.outside import OutsideNetwork
from latentprint.models.penultimate import logits_and_penultimate, penultimate
from latentprint.models.preprocess import Preprocess
from latentprint.types import Access, AccessDenied, Bounds

Answers = Literal["logits", "probabilities", "log-probabilities", "sigmoid"]
#: A probability of less counts as this much, for its logarithm to be finite.
LEAST_PROBABILITY = 1e-12
#: A sigmoid's output counts as at least this, and at most 1 less this.
SIGMOID_EPS = 1e-7
NO_GRADIENTS = ("an ONNX file or a service answers with scores alone, and the attack's stages need gradients: take "
                "--preset scores, or attack.access=scores and attack.stages=[]")


@dataclass
class QueryCounter:
    """What a victim has been asked so far, in images: answers, and gradients of answers. Part of a checkpoint."""

    forward: int = 0
    backward: int = 0

    def count_backward(self, n: int) -> None:
        self.backward += n

    def state_dict(self) -> dict[str, int]:
        return {"forward": self.forward, "backward": self.backward}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.forward, self.backward = state_dict["forward"], state_dict["backward"]


class Victim(nn.Module):
    """A classifier under audit.

    Args:
        module: ``(B, 3, H', W')`` preprocessed images to logits ``(B, C)``. Taken over: frozen, in eval mode.
        n_classes: C.
        preprocess: from images in [0, 1] to what ``module`` takes; by default [-1, 1] at the given size.
        access: what an attack gets.
        name: for messages and reports.
        answers: what ``module`` gives: logits, probabilities or their logarithms. (The latter two are logits up to a
            constant, which is all that is ever asked of logits.)
        notes: what was assumed in loading it, a line each, for reports.

    Raises:
        UserError: white-box access to a network that gives no gradients.
    """

    bounds = Bounds(0.0, 1.0)
    """The range of an image, for attacks."""
    frozen: bool

    def __init__(
        self,
        module: nn.Module,
        n_classes: int,
        *,
        preprocess: Preprocess | None = None,
        access: Access = Access.WHITE_BOX,
        name: str = "victim",
        answers: Answers = "logits",
        notes: Sequence[str] = (),
    ) -> None:
        super().__init__()
        if access is Access.WHITE_BOX and isinstance(bare(module), OutsideNetwork):
            raise UserError(f"{name}: {NO_GRADIENTS}")
        self.module, self.answers, self.notes = module, answers, tuple(notes)
        self.n_classes = n_classes
        self.preprocess = preprocess or Preprocess()
        self.access = access
        self.name = name
        self.queries = QueryCounter()
        self.freeze()

    # ---- what an attack may call ----

    def forward(self, x: Tensor) -> Tensor:
        """Query the victim.

        Args:
            x: ``(B, 3, H, W)`` in [0, 1].

        Returns:
            ``(B, C)``: logits, differentiable, under white-box access; log-probabilities without gradient
            under score access; a one-hot row of the predicted class under label access. ``argmax`` and, but
            for label access, ``softmax`` mean the same in all three.
        """
        if self.access is Access.WHITE_BOX:
            return self._counted(self.logits, x)
        with torch.no_grad():
            logits = self._counted(self.logits, x)
            if self.access is Access.SCORES:
                return logits.log_softmax(1)
            return F.one_hot(logits.argmax(1), self.n_classes).to(logits)

    def features(self, x: Tensor) -> Tensor:
        """Penultimate features of ``(B, 3, H, W)`` images in [0, 1], ``(B, D)``, differentiable.

        Raises:
            AccessDenied: without white-box access.
        """
        if self.access is not Access.WHITE_BOX:
            raise AccessDenied(f"{self.name} grants {self.access.value} access: no features")
        return self._counted(self.penultimate, x)

    def logits_and_features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Both in one query, ``(B, C)`` and ``(B, D)``, differentiable.

        Raises:
            AccessDenied: without white-box access.
        """
        if self.access is not Access.WHITE_BOX:
            raise AccessDenied(f"{self.name} grants {self.access.value} access: no features")
        # One tensor, so that a backward pass through either or both counts once.
        both = self._counted(lambda images: torch.cat(self.logits_and_penultimate(images), 1), x)
        return both[:, : self.n_classes], both[:, self.n_classes :]

    @torch.no_grad()
    def confidence(self, x: Tensor) -> Tensor:
        """The class probabilities that the answer implies, ``(B, C)``; one-hot under label access."""
        released = self(x)
        return released if self.access is Access.LABELS else released.softmax(1)

    # ---- what a defence overrides, and training uses ----

    def logits(self, x: Tensor) -> Tensor:
        """Logits ``(B, C)`` of images in [0, 1], uncounted and whatever the access: not for attacks."""
        return self._read(self.module(self.preprocess(x)))

    def penultimate(self, x: Tensor) -> Tensor:
        """Penultimate features ``(B, D)`` of images in [0, 1], uncounted: not for attacks."""
        return penultimate(self.module, self.preprocess(x))

    def logits_and_penultimate(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Both, ``(B, C)`` and ``(B, D)``, uncounted: not for attacks."""
        answer, features = logits_and_penultimate(self.module, self.preprocess(x))
        return self._read(answer), features

    def _read(self, answer: Tensor) -> Tensor:
        match self.answers:
            case "probabilities":
                return answer.clamp_min(LEAST_PROBABILITY).log()
            case "sigmoid":
                return answer.float().logit(SIGMOID_EPS)
            case _:
                return answer

    def training_loss(self, x: Tensor, y: Tensor, progress: float = 0.0) -> tuple[Tensor, Tensor]:
        """What its owner minimises in training: cross-entropy, unless a defence says otherwise.

        Args:
            x: ``(B, 3, H, W)`` in [0, 1].
            y: ``(B,)`` int64.
            progress: share of the training that is done, in [0, 1).

        Returns:
            The loss of each sample, ``(B,)``, and the logits ``(B, C)`` it was taken of.
        """
        logits = self.logits(x)
        return cross_entropy(logits.float(), y), logits

    @property
    def known(self) -> nn.Module | None:
        """All that answers depend on, for `latentprint.models.answers`; None where there is more, such as a defence."""
        return nn.ModuleList([self.preprocess, self.module]).eval() if type(self) is Victim and self.frozen else None

    @property
    def network(self) -> nn.Module:
        """The bare classifier, whatever defends it and in whatever form it takes images."""
        return bare(self.module)

    def freeze(self) -> Self:
        """Eval mode for good, and no gradient for the weights. The state of every new victim."""
        self._set_frozen(True)
        return self.requires_grad_(False).eval()

    def unfreeze(self) -> Self:
        """Let the victim be trained: by its owner, with a defence on, before `freeze`."""
        self._set_frozen(False)
        return self.requires_grad_(True).train()

    def train(self, mode: bool = True) -> Self:
        return super().train(mode and not self.frozen)

    @property
    def device(self) -> torch.device:
        """Where images must lie."""
        return self.preprocess.mean.device

    def _set_frozen(self, frozen: bool) -> None:
        """Of this victim and of any that it wraps."""
        for module in self.modules():
            if isinstance(module, Victim):
                module.frozen = frozen

    def _counted(self, answer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        n, queries = len(x), self.queries
        queries.forward += n
        out = answer(x)
        if out.requires_grad:
            out.register_hook(lambda _: queries.count_backward(n))
        return out


def load_victim(
    spec: str,
    n_classes: int,
    *,
    image_size: int,
    weights: Path | None = None,
    preprocess: Preprocess | None = None,
    access: Access | None = Access.WHITE_BOX,
    name: str | None = None,
    answers: Answers = "logits",
    service: Mapping[str, Any] | None = None,
    form: Form | None = None,
    setting: str = "victim",
) -> Victim:
    """A victim from the user's words, tried once before anything is spent on it; what was assumed is printed.

    Args:
        spec: see `latentprint.models.loading`.
        image_size: side in pixels of the images it will be asked about.
        weights: a state dict to load.
        access: None: all that it can give, which of a network outside this process is scores.
        service: how to ask one, see `HttpNetwork`.
        form: what is known of how it takes images and answers; None: nothing.
        setting: where its settings are, for messages.

    Raises:
        UserError: it cannot be loaded, or `check_victim` finds it unusable.
    """
    loaded, preprocess = load_network(spec, n_classes, weights, service), preprocess or Preprocess()
    nan_weights(loaded.network, setting)
    module, notes = loaded.network, [*loaded.notes]
    if not spec.startswith("builtin:"):
        module, found = adapted(module, preprocess(_noise(image_size)), n_classes, form or Form(), "logits", setting)
        notes += found
    granted = access or (Access.SCORES if isinstance(bare(module), OutsideNetwork) else Access.WHITE_BOX)
    victim = Victim(module, n_classes, preprocess=preprocess, access=granted, name=name or spec, answers=answers,
                    notes=notes)
    check_victim(victim, image_size)
    for note in notes:
        say(f"{setting}: {note}")
    return victim


@torch.no_grad()
def check_victim(victim: Victim, image_size: int) -> None:
    """Ask a victim about two images of noise.

    Raises:
        UserError: weights that are not finite, no answer at this image size, one that is not ``(2, C)``, or
            one that is not finite.
    """
    nan_weights(victim, victim.name)
    try:
        answer = victim.logits(_noise(image_size).to(victim.device))
    except UserError:
        raise
    except Exception as error:  # whatever the user's own code raises, or a service says
        size = f"{image_size}x{image_size}"
        raise UserError(f"{victim.name} cannot take two {size} images: {useful_line(error)}") from error
    if not isinstance(answer, Tensor) or answer.ndim != 2 or len(answer) != 2:
        got = tuple(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
        expected = f"logits (2, {victim.n_classes})"
        raise UserError(f"{victim.name} must answer two images with {expected}, got {got}")
    victim_outputs(answer.shape[1], victim.n_classes)
    if not answer.isfinite().all():
        raise UserError(f"{victim.name} answers noise with NaN or infinite logits")


def _noise(image_size: int) -> Tensor:
    return torch.rand(2, 3, image_size, image_size, generator=torch.Generator().manual_seed(0))
