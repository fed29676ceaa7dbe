"""Flags that distrust our own numbers.

A check looks at one thing that would make an audit's numbers mean less than they seem to. Most return a
``Flag``, or None when all is well, for ``enforce`` and ``probes`` to gather; those about what nothing can run with
raise.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from latentprint.data.alignment import ALIGNED, FEWEST, alignment, flat_ones
from latentprint.data.base import ImageSet
from latentprint.data.cache import bytes_of
from latentprint.data.splits import AuditData
from latentprint.errors import UserError
from latentprint.metrics.image import range_fault


@dataclass(frozen=True)
class Flag:
    """Something that weakens an audit (warning), that would hide a leak from it (blind), or that voids it (error).

    Attributes:
        message: one sentence for the reader, without a full stop.
        mend: of a blind one, what to set or to do about it.
    """

    name: str
    level: Literal["warning", "blind", "error"]
    message: str
    mend: str = ""


def enforce(flags: Iterable[Flag | None]) -> list[str]:
    """The warnings' sentences, in order.

    Raises:
        UserError: a flag is an error; its sentence, and those of all other errors.
    """
    raised = [flag for flag in flags if flag]
    errors = [flag.message for flag in raised if flag.level == "error"]
    if errors:
        raise UserError("; ".join(errors))
    return [flag.message for flag in raised if flag.level == "warning"]


def probes(flags: Iterable[Flag | None]) -> list[dict[str, str]]:
    """The blind flags as report.json keeps them (``probes`` of a section): `latentprint.report.conclusive` reads them.
    """
    return [{"name": flag.name, "message": flag.message, "mend": flag.mend} for flag in flags
            if flag and flag.level == "blind"]


def weights_hash(module: nn.Module) -> str:
    """SHA-256 (hex) over the sorted names, types, shapes and bytes of a module's state."""
    digest = hashlib.sha256()
    for name, tensor in sorted(_tensors(module).items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(bytes_of(tensor))
    return digest.hexdigest()


def evaluator_is_victim(name: str, evaluator: nn.Module, victim: nn.Module) -> Flag | None:
    """Error when evaluator ``name`` is the victim itself or has its weights, whatever wraps them."""
    if not _same_model(evaluator, victim):
        return None
    return Flag("evaluator-is-victim", "error",
                f'evaluator "{name}" is the victim itself or a copy of its weights: choose another one')


def same_architecture(name: str, evaluator_architecture: str, victim_architecture: str,
                      evaluator: nn.Module | None = None, victim: nn.Module | None = None) -> Flag | None:
    """Error when evaluator ``name`` has the victim's architecture: one image could fool both.

    By what the architectures are called and, with the modules given, by their layers: two names may build one network.
    """
    if evaluator_architecture == victim_architecture:
        said = f"and the victim are both {victim_architecture}"
    elif evaluator is not None and victim is not None and layers(evaluator) == layers(victim) != []:
        said = f"({evaluator_architecture}) has the same layers as the victim ({victim_architecture})"
    else:
        return None
    return Flag("same-architecture", "error", f'evaluator "{name}" {said}: choose another kind')


def layers(module: nn.Module) -> list[tuple[str, list[tuple[int, ...]]]]:
    """Class name and parameter shapes of each layer that has parameters, in order, whatever wraps them."""
    shapes = ((type(part).__name__, [tuple(p.shape) for p in part.parameters(recurse=False)])
              for part in module.modules())
    return [(kind, own) for kind, own in shapes if own]


def judge_is_teacher(judge: nn.Module, teacher: nn.Module) -> Flag | None:
    """Error when the recogniser that judges is the one the attack optimised."""
    if not _same_model(judge, teacher):
        return None
    return Flag("judge-is-teacher", "error",
                "the judge is the teacher that the attack optimises, or a copy of it: choose another one")


def evaluator_learned_from_judge(name: str, warm: str | None, judge_name: str, judge: nn.Module,
                                 source: nn.Module | None = None) -> Flag | None:
    """Error when evaluator ``name`` learned from the judge: it would repeat the judge and say nothing of its own.

    Args:
        warm: the asset that it learned from. judge_name: the judge's. source: the network of ``warm``, where loaded.
    """
    if warm is None or not (warm == judge_name or (source is not None and _same_model(source, judge))):
        return None
    return Flag("evaluator-learned-from-judge", "error",
                f'evaluator "{name}" would learn from {warm}, which judges, and repeat what the judge says: set its '
                "warm to another recogniser, or to null")


def learned_from_optimised(name: str, warm: str | None, optimised: Iterable[str]) -> Flag | None:
    """Warning when evaluator ``name`` learned first from a recogniser that the attack optimises.

    Args:
        warm: the asset that it learned from. optimised: the attack's assets.
    """
    if warm is None or warm not in optimised:
        return None
    return Flag("evaluator-learned-from-teacher", "warning",
                f'evaluator "{name}" learned first from {warm}, which the attack optimises: it may also name those '
                f"reconstructions right that suit {warm} alone, and the judge's numbers weigh more")


def victim_learned_from_judge(warm: str | None, judge_name: str) -> Flag | None:
    """Warning when the victim learned first from the judge (names of assets): its gradients tell of the judge."""
    if warm is None or warm != judge_name:
        return None
    return Flag("victim-learned-from-judge", "warning",
                f"the victim learned first from {warm}, which judges: reconstructions that please the victim may "
                "please the judge for that alone")


def evaluator_weak(name: str, accuracy: float, at_least: float = 0.9) -> Flag | None:
    """Warning when an evaluator's accuracy on held-out photos, in [0, 1], is below the bound."""
    if accuracy >= at_least:
        return None
    return Flag("evaluator-weak", "warning",
                f'evaluator "{name}" recognises {accuracy:.1%} of held-out photos (below {at_least:.0%}): '
                "the evaluators' numbers mean little")


def ceiling_low(ceiling: float, at_least: float = 0.8) -> Flag | None:
    """Warning when real held-out photos reach less than the bound on the headline metric, both in [0, 1]."""
    if ceiling >= at_least:
        return None
    return Flag("ceiling-low", "warning",
                f"real held-out photos reach only {ceiling:.1%} (below {at_least:.0%}): "
                "the scale of the leak is short and its value uncertain")


def zero_gradient(gradients: Tensor, at_most: float = 0.05) -> Flag | None:
    """Blind when more than a share of the samples get no gradient from the victim.

    Args:
        gradients: ``(B, ...)`` of the attack's loss on the victim, by sample.
    """
    share = float((gradients.flatten(1).abs().amax(1) == 0).double().mean())
    if share <= at_most:
        return None
    return Flag("no-gradient", "blind",
                f"the victim gives no gradient for {share:.0%} of the samples, so an attack by gradients learns "
                "nothing from it", "remove what cuts the gradient (no_grad, NumPy, argmax or rounding inside the "
                "model), or audit its scores: attack.access=scores, attack.stages=[]")


def unaligned(images: Tensor, name: str) -> Flag | None:
    """Warning when faces ``(N, 3, H, W)`` uint8 look unaligned, which recognisers do not forgive.

    Procedural faces are rendered in place; of few pictures it cannot be told.

    Args:
        name: their source.
    """
    rendered = all(part.startswith("procedural (") for part in name.split(" + "))
    if rendered or len(images) < FEWEST or (found := alignment(images)) >= ALIGNED:
        return None
    return Flag("unaligned", "warning",
                f"{name}: these do not look like aligned faces (a picture correlates with the mean of many others by "
                f"{found:.2f}, aligned ones by {ALIGNED} or more): recognisers read them badly; `latentprint align` "
                "aligns them")


def flat_images(data: ImageSet, every_class: bool = True) -> Flag | None:
    """Warning when images are of nearly one value, nearly black or nearly white; error when most of them are.

    Args:
        every_class: all images of one class are an error as well.
    """
    flat = flat_ones(data.images)
    if not flat.any():
        return None
    first = data.names[int(data.labels[flat.nonzero()[0, 0]])]
    found = (f"{data.source}: {int(flat.sum())} of {len(data)} images are nearly all of one value, black or white, "
             f"the first of '{first}'")
    if 2 * int(flat.sum()) > len(data):
        return Flag("flat-images", "error", f"{found}: look at them, and at how their values are stored")
    counts = data.counts()
    whole = ((torch.bincount(data.labels[flat], minlength=data.n_classes) == counts) & (counts > 0)).nonzero()
    if every_class and len(whole):
        return Flag("flat-images", "error", f"{found}; all of '{data.names[int(whole[0, 0])]}' are: replace them, or "
                    "leave this person out")
    return Flag("flat-images", "warning", found)


def photos_of(data: AuditData) -> list[Flag | None]:
    """What the photos of an audit show before anything is trained: flat or unaligned ones."""
    others = [part for part in (data.public, data.evaluation) if part is not None]
    train, heldout = data.private_train, data.private_heldout
    return [flat_images(train), flat_images(heldout, every_class=False),
            *(flat_images(part, every_class=False) for part in others), unaligned(train.images, train.source)]


def constant_reconstructions(images: Tensor, at_least: float = 1 / 255) -> Flag | None:
    """Warning when reconstructions hardly differ from each other; a single one has nothing to differ from.

    Args:
        images: ``(B, 3, H, W)`` in [0, 1].
        at_least: standard deviation over the batch, averaged over pixels; one grey level by default.
    """
    spread = float(images.std(0, correction=0).mean())
    if len(images) < 2 or spread >= at_least:
        return None
    return Flag("constant-reconstructions", "warning",
                f"the reconstructions hardly differ from each other (standard deviation {spread:.4f}): "
                "the attack has collapsed to one face")


def victim_outputs(n_outputs: int, n_classes: int) -> None:
    """Raises UserError when the victim does not answer with one number a class."""
    if n_outputs != n_classes:
        raise UserError(f"the victim has {n_outputs} outputs but there are {n_classes} classes: "
                        "it needs one output a class")


def nan_weights(module: nn.Module, name: str) -> None:
    """Raises UserError naming the first tensor of the module's state that is not finite."""
    for key, tensor in _tensors(module).items():
        if not tensor.isfinite().all():
            raise UserError(f'{name}: the weights "{key}" contain NaN or infinite values')


def image_range(images: Tensor, name: str) -> None:
    """Raises UserError when images, any float shape, are not finite and within [0, 1]."""
    if fault := range_fault(images):
        raise UserError(f"{name}: images must lie in [0, 1], got {fault}")


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """A module's state without the extra state that is no tensor."""
    return {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}


def _same_model(first: nn.Module, second: nn.Module) -> bool:
    """The same object, or the same parameters under any names (a wrapper renames them and adds buffers)."""
    mine, other = _parameter_digests(first), _parameter_digests(second)
    return first is second or (bool(mine) and mine == other)


def _parameter_digests(module: nn.Module) -> list[bytes]:
    return sorted(hashlib.sha256(bytes_of(p)).digest() for p in module.parameters())
