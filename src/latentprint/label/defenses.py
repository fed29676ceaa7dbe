"""Defences of a classifier that its owner trains: what each changes in training, and what it leaves as it was.

None of these touches the answers, so the attack differentiates through the defended victim as through any other:
what they change is the function that was learned. An adversary who knows the defence adapts the attack all the same;
each class says how.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latentprint.defense import Defense
from latentprint.errors import UserError
from latentprint.keys import did_you_mean
from latentprint.label.classifiers import is_trained_here
from latentprint.label.dpsgd import DPSGD, check_private
from latentprint.label.presets import LabelConfig
from latentprint.label.privacy import plan_privacy
from latentprint.label.protection import BiDOConfig, DPSGDConfig, LabelSmoothingConfig, NoDefence
from latentprint.losses.classification import smoothed_cross_entropy
from latentprint.losses.dependence import normalised_hsic
from latentprint.victim import Victim


class LabelSmoothing(Defense):
    """Trained on smoothed labels; ``strength`` is |alpha|.

    A negative alpha starts at 0, so that the classes separate first, and falls to its value in a line: Struppek et
    al. 2024 (arXiv:2310.06549) wait for half of their epochs and arrive at three quarters. A positive alpha (Szegedy
    et al. 2016, arXiv:1512.00567) holds from the first step.

    An adaptive adversary: negative smoothing makes logits large and gradients of the cross-entropy vanish or point
    away from the class; a loss on logits (margin, Poincare) or on penultimate features does not rest on them.

    Args:
        victim: what to defend.
        config: strength, sign and schedule.
    """

    def __init__(self, victim: Victim, config: LabelSmoothingConfig) -> None:
        super().__init__(victim, config.strength)
        self.config = config

    def alpha(self, progress: float) -> float:
        """The smoothing factor when a share ``progress`` in [0, 1] of the training is done; at most 1."""
        if self.config.sign == "positive":
            return self.strength
        start, full = self.config.start, self.config.full
        if progress < start:
            return 0.0
        return -self.strength * (min(1.0, (progress - start) / (full - start)) if full > start else 1.0)

    def training_loss(self, x: Tensor, y: Tensor, progress: float = 0.0) -> tuple[Tensor, Tensor]:
        if self.strength == 0:
            return super().training_loss(x, y, progress)
        logits = self.logits(x)
        return smoothed_cross_entropy(logits.float(), y, self.alpha(progress)), logits


class BiDO(Defense):
    """Hidden layers made to depend less on the input and more on the label; ``strength`` is lambda_x.

    ``loss = CE + lambda_x sum_j d(x, z_j) - lambda_y sum_j d(z_j, y)`` over the hidden layers j (Peng et al. 2022,
    arXiv:2206.05483, BiDO-HSIC). Here d is HSIC *divided by its largest value* with the median bandwidth, so that
    layers of all widths weigh the same: weights are not those of other implementations, and the defaults are a
    starting point.

    An adaptive adversary: averaging gradients over many random views gives back most of what it takes away
    (arXiv:2509.20177), which the attack's ``augmentations`` do.

    Args:
        victim: what to defend.
        config: strength, ratio and layers.

    Raises:
        UserError: a layer that the network does not have.
    """

    def __init__(self, victim: Victim, config: BiDOConfig) -> None:
        super().__init__(victim, config.strength)
        self.label_ratio = config.label_ratio
        self.layers = hidden_layers(victim.network, victim.n_classes, config.layers)

    def training_loss(self, x: Tensor, y: Tensor, progress: float = 0.0) -> tuple[Tensor, Tensor]:
        if self.strength == 0:
            return super().training_loss(x, y, progress)
        with recorded(self.layers.values()) as hidden:
            loss, logits = super().training_loss(x, y, progress)
        return loss + self.strength * bilateral_dependence(x, y, hidden, self.n_classes, self.label_ratio), logits


def bilateral_dependence(x: Tensor, y: Tensor, hidden: Iterable[Tensor], n_classes: int, label_ratio: float) -> Tensor:
    """``sum_j d(x, z_j) - label_ratio d(z_j, y)``, d the normalised HSIC of the batch: a scalar.

    Args:
        x: ``(B, ...)`` inputs. y: ``(B,)`` int64. hidden: the ``z_j``, each ``(B, ...)``.
    """
    with torch.autocast(x.device.type, enabled=False):  # differences of large squares need float32
        labels = F.one_hot(y, n_classes).float()
        terms = [normalised_hsic(x.float(), z.float()) - label_ratio * normalised_hsic(z.float(), labels)
                 for z in hidden]
    return torch.stack(terms).sum()


def hidden_layers(network: nn.Module, n_classes: int, names: Iterable[str] = ()) -> dict[str, nn.Module]:
    """The layers of these names, or every top-level block: children with weights, containers of blocks opened.

    The last linear layer, with ``n_classes`` outputs, is not hidden and is left out.

    Raises:
        UserError: an unknown name.
    """
    known = {name: layer for name, layer in network.named_modules() if name}
    for name in names:
        if name not in known:
            raise UserError(f"defence.layers: the victim has no layer '{name}'; {did_you_mean(name, known)}")
    return {name: known[name] for name in names} or dict(_blocks(network, n_classes))


def _blocks(network: nn.Module, n_classes: int) -> Iterator[tuple[str, nn.Module]]:
    for name, child in network.named_children():
        if isinstance(child, nn.Sequential) and all(next(part.children(), None) for part in child):
            yield from ((f"{name}.{inner}", part) for inner, part in child.named_children())
        elif next(child.parameters(), None) is not None and getattr(child, "out_features", None) != n_classes:
            yield name, child


@contextmanager
def recorded(layers: Iterable[nn.Module]) -> Iterator[list[Tensor]]:
    """Collects what the layers put out, in the order in which they run, while the context lasts."""
    seen: list[Tensor] = []
    handles = [layer.register_forward_hook(lambda layer, inputs, output: seen.append(output)) for layer in layers]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def defended(victim: Victim, config: LabelConfig, n_photos: int, image_size: int) -> Victim:
    """The victim with the defence of ``config.defence`` around it, before it is trained on ``n_photos`` photos.

    Raises:
        UserError: the victim is not trained here, or the defence does not fit it.
    """
    settings, model = config.defence, config.victim
    if isinstance(settings, NoDefence):
        return victim
    if not is_trained_here(model):
        raise UserError(f"defence.kind={settings.kind} trains the victim, but {model.model} comes trained: leave out "
                        "victim.weights and name a builtin:, timm: or torchvision: architecture")
    defence: Defense
    match settings:
        case LabelSmoothingConfig():
            defence = LabelSmoothing(victim, settings)
        case BiDOConfig():
            defence = BiDO(victim, settings)
        case DPSGDConfig():
            defence = DPSGD(victim, plan_privacy(settings, n_photos, model.batch * config.accumulate, model.steps))
            check_private(defence, image_size)
    defence.name = victim.name  # a role, after which its phase, checkpoint and draws are named
    return defence


def defence_facts(config: LabelConfig, victim: Victim) -> dict[str, Any]:
    """What report.json says of the defence: kind, strength, settings and, of DP-SGD, the privacy spent."""
    settings = config.defence
    if isinstance(settings, NoDefence):
        return {}
    rest = settings.model_dump(mode="json", exclude={"kind", "strength"})
    facts = {"kind": settings.kind, "strength": settings.strength, "settings": rest}
    return facts | (victim.privacy if isinstance(victim, DPSGD) else {})
