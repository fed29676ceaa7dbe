"""The features a classifier's last layer sees, for any classifier."""

from __future__ import annotations

from torch import Tensor, nn

from latentprint.errors import UserError


def penultimate(module: nn.Module, x: Tensor) -> Tensor:
    """The ``(B, D)`` input of the last layer for preprocessed images ``(B, 3, H, W)``, differentiable.

    From the module's own ``features`` method where it has one, as the built-in classifiers do (a *submodule*
    of that name, as in torchvision's VGG, is something else); through timm's ``forward_head``; else whatever
    enters the last linear layer.

    Raises:
        UserError: none of the three is there.
    """
    own = getattr(module, "features", None)
    if callable(own) and not isinstance(own, nn.Module):
        return own(x)
    stem, head = getattr(module, "forward_features", None), getattr(module, "forward_head", None)
    if callable(stem) and callable(head):
        return head(stem(x), pre_logits=True)
    linear = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
    if not linear:
        name = type(module).__name__
        raise UserError(f"{name} shows no penultimate features: give it a method features(x)")
    return _entering(linear[-1], module, x)


def class_directions(module: nn.Module, n_classes: int) -> Tensor:
    """Rows of the last linear layer less their mean, ``(C, D)``: where the features of each class point.

    In a classifier trained to the end the centred class means of the penultimate features are parallel to them
    (neural collapse, Papyan et al. 2020).

    Raises:
        UserError: there is no linear layer with ``n_classes`` outputs.
    """
    heads = [layer for layer in module.modules() if isinstance(layer, nn.Linear) and layer.out_features == n_classes]
    if not heads:
        raise UserError(f"{type(module).__name__} has no linear layer with {n_classes} outputs to read directions off")
    weight = heads[-1].weight.detach()
    return weight - weight.mean(0)


def _entering(layer: nn.Module, module: nn.Module, x: Tensor) -> Tensor:
    seen: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        module(x)
    finally:
        handle.remove()
    return seen[-1].flatten(1)
