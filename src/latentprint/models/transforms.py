"""The settings of `latentprint.models.preprocess` in what torchvision and timm call a transform."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from latentprint.errors import UserError

#: Steps that change the type of an image alone.
_CONVERSIONS = frozenset({"ToTensor", "MaybeToTensor", "PILToTensor", "MaybePILToTensor", "ToImage", "ToPureTensor",
                          "ToDtype", "ConvertImageDtype", "ToNumpy", "Identity"})
_RESIZES = frozenset({"Resize", "ResizeKeepRatio"})
_EXPECTED = ("Resize, CenterCrop, Normalize, Grayscale and conversions to tensors, as in evaluation, or settings such "
             "as mean and std")


def settings_of(transform: Any) -> dict[str, Any]:
    """``crop``, ``input_size``, ``mean``, ``std`` and ``colours`` of a preprocessing.

    Interpolation is bilinear with antialiasing whatever the transform says.

    Args:
        transform: these settings themselves; the dictionary of ``timm.data.resolve_data_config``; or a torchvision or
            timm transform for evaluation, made of resizing, a central crop, normalisation and conversions.

    Raises:
        UserError: another step, such as a random one, or an image that is not square.
    """
    if isinstance(transform, Mapping):
        return _of_timm(transform) if isinstance(transform.get("input_size"), tuple | list) else dict(transform)
    if hasattr(transform, "resize_size") and hasattr(transform, "crop_size"):  # of torchvision's weights
        resize, crop = _side(transform.resize_size), _side(transform.crop_size)
        return _settings(crop, crop / resize, transform.mean, transform.std)
    size, fraction, settings = None, 1.0, _settings(None, 1.0, [0.0], [1.0])
    for step in _steps(transform):
        match type(step).__name__:
            case name if name in _RESIZES:
                size = _side(step.size)
            case "CenterCrop":
                if size is None or _side(step.size) > size:
                    raise UserError("preprocess: CenterCrop must follow a Resize to as many pixels or more: otherwise "
                                    "what it cuts depends on the size of each image")
                fraction, size = fraction * _side(step.size) / size, _side(step.size)
            case "Normalize":
                settings |= {"mean": _numbers(step.mean), "std": _numbers(step.std)}
            case "Grayscale" if step.num_output_channels == 1:
                settings["colours"] = "grey"
            case name if name not in _CONVERSIONS:
                raise UserError(f"preprocess: the step {name} is not understood; expected {_EXPECTED}; any other step "
                                f"can be a part of the model, as in nn.Sequential({name}(...), model)")
    return settings | {"input_size": size, "crop": _box(fraction)}


def _of_timm(config: Mapping[str, Any]) -> dict[str, Any]:
    """Of ``timm.data.resolve_data_config``: an image is cut by ``crop_pct`` about its centre, unless it is squashed."""
    channels, size = config["input_size"][0], _side(config["input_size"][1:])
    fraction = 1.0 if config.get("crop_mode") == "squash" else float(config.get("crop_pct") or 1.0)
    found = _settings(size, fraction, config["mean"], config["std"])
    return found | ({"colours": "grey"} if channels == 1 else {})


def _settings(size: int | None, fraction: float, mean: Sequence[float], std: Sequence[float]) -> dict[str, Any]:
    return {"input_size": size, "crop": _box(fraction), "mean": _numbers(mean), "std": _numbers(std)}


def _steps(transform: Any) -> Iterator[Any]:
    """The steps of a transform in order, those inside others too."""
    inner = getattr(transform, "transforms", None)
    if inner is None and type(transform).__name__ == "Sequential":
        inner = list(transform)
    if inner is None:
        yield transform
    else:
        for each in inner:
            yield from _steps(each)


def _box(fraction: float) -> list[float]:
    """Top, left, bottom, right of a central square."""
    return [(1 - fraction) / 2, (1 - fraction) / 2, (1 + fraction) / 2, (1 + fraction) / 2]


def _numbers(values: Any) -> list[float]:
    return [float(value) for value in values]


def _side(size: Any) -> int:
    sides = {int(side) for side in (size if isinstance(size, Sequence) else [size])}
    if len(sides) != 1:
        raise UserError(f"preprocess: expected square images, got {tuple(size)}")
    return sides.pop()
