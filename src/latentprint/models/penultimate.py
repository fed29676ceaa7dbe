"""The features a classifier's last layer sees, for any classifier, and where in them its classes lie."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from latentprint.errors import UserError
from latentprint.models.foreign import ForeignNetwork, bare


def penultimate(module: nn.Module, x: Tensor) -> Tensor:
    """The ``(B, D)`` features of preprocessed images ``(B, 3, H, W)``, differentiable; see `logits_and_penultimate`."""
    return logits_and_penultimate(module, x)[1]


def logits_and_penultimate(module: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """A classifier's ``(B, C)`` logits and the ``(B, D)`` input of its last layer, in one forward pass if that goes.

    What enters the last linear layer with as many outputs as the module; without such a layer, the module's own
    ``features`` method (a *submodule* of that name, as in torchvision's VGG, is something else) or timm's
    ``forward_head``; of a module that shows none of these, such as a TorchScript file, the logits.
    """
    if isinstance(module, ForeignNetwork):
        logits, features = module.in_pieces(x, lambda piece: _both(module.network, piece, module.read))
        return logits, features
    return _both(module, x, lambda answer, _: answer)


def _both(module: nn.Module, x: Tensor, read: Callable[[Any, int], Tensor]) -> tuple[Tensor, Tensor]:
    """See `logits_and_penultimate`; ``read`` makes logits of what the module answers to so many images."""
    seen: dict[nn.Module, Tensor] = {}
    handles = [layer.register_forward_pre_hook(lambda layer, inputs: seen.update({layer: inputs[0]}))
               for layer in module.modules() if isinstance(layer, nn.Linear)]
    try:
        logits = read(module(x), len(x))
    finally:
        for handle in handles:
            handle.remove()
    heads = [layer for layer in seen if layer.out_features == logits.shape[1]]
    if heads:
        return logits, seen[heads[-1]].flatten(1)
    if _shows_features(module):
        return logits, module.features(x)  # type: ignore[operator]
    if hasattr(module, "forward_head"):
        return logits, module.forward_head(module.forward_features(x), pre_logits=True)  # type: ignore[operator]
    return logits, logits


def class_directions(module: nn.Module, n_classes: int) -> Tensor:
    """Rows of the last linear layer less their mean, ``(C, D)``: where the features of each class point.

    In a classifier trained to the end the centred class means of the penultimate features are parallel to them
    (neural collapse, Papyan et al. 2020). Where `penultimate` has but the logits, their axes.

    Raises:
        UserError: the module has features of its own and no linear layer with ``n_classes`` outputs.
    """
    module = bare(module)
    heads = [layer for layer in module.modules() if isinstance(layer, nn.Linear) and layer.out_features == n_classes]
    if not heads and (_shows_features(module) or hasattr(module, "forward_head")):
        raise UserError(f"{type(module).__name__} has no linear layer with {n_classes} outputs to read directions off")
    weight = heads[-1].weight.detach() if heads else torch.eye(n_classes)
    return weight - weight.mean(0)


def _shows_features(module: nn.Module) -> bool:
    own = getattr(module, "features", None)
    return callable(own) and not isinstance(own, nn.Module)
