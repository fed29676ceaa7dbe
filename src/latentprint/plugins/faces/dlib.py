"""dlib's face recogniser (Davis King 2017, ``dlib_face_recognition_resnet_model_v1``): a residual network of 29
convolutions, 5.6 million parameters, batch norms folded in."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latentprint.plugins.faces.tensors import Weights, conv_filter, read_dlib

SIDE, DIM = 150, 128
#: Of red, green and blue, subtracted from bytes, before they are divided by 255.
MEAN = (122.782, 117.001, 104.298)
#: Stage -> channels in and out of its first block, whether that one halves the picture, blocks.
STAGES = {"32": (32, 32, False, 3), "64": (32, 64, True, 4), "128": (64, 128, True, 3), "256": (128, 256, True, 3)}


class Unit(nn.Module):
    """Two 3x3 convolutions beside a shortcut; ``halved``: the first has stride 2 without padding, the shortcut is a
    2x2 mean, with silent channels appended."""

    def __init__(self, inner: int, outer: int, halved: bool = False) -> None:
        super().__init__()
        self.halved, self.more = halved, outer - inner
        self.conv1 = nn.Conv2d(inner, outer, 3, 2 if halved else 1, 0 if halved else 1)
        self.conv2 = nn.Conv2d(outer, outer, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv2(self.conv1(x).relu())
        if not self.halved:
            return (out + x).relu()
        x = F.pad(F.avg_pool2d(x, 2, 2), (0, 0, 0, 0, 0, self.more))
        short = x.shape[-1] - out.shape[-1]  # of a row and a column, where the stride left over one
        return (F.pad(out, (0, short, 0, short)) + x).relu()


class DlibNetwork(nn.Module):
    """``(B, 3, 150, 150)``, normalised, to ``(B, 128)``, of length 1.35 to 1.55."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 7, 2)
        units = []
        for inner, outer, halved, count in STAGES.values():
            units += [Unit(inner, outer, halved), *(Unit(outer, outer) for _ in range(count - 1))]
        self.units = nn.Sequential(*units, Unit(256, 256, True))
        self.fc = nn.Linear(256, DIM, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.stem(x).relu(), 3, 2)
        return self.fc(self.units(x).mean((2, 3)))


def normalised(x: Tensor) -> Tensor:
    """Pictures ``(B, 3, H, W)`` in [0, 1] as this network and face-api's others were trained on."""
    return x - x.new_tensor(MEAN).view(3, 1, 1) / 255


def _convolutions() -> Iterator[tuple[str, str]]:
    """The network's convolutions in the order of the computation, and face-api's name of each."""
    yield "stem", "conv32_down"
    names = [f"conv{width}_{'down' if halved and i == 0 else i + (not halved)}"
             for width, (_, _, halved, count) in STAGES.items() for i in range(count)]
    for place, name in enumerate([*names, "conv256_down_out"]):
        for part in ("conv1", "conv2"):
            yield f"units.{place}.{part}", f"{name}/{part}"


def from_face_api(tensors: Weights) -> dict[str, Tensor]:
    """The state dict, from face-api's tensors."""
    state: dict[str, Tensor] = {}
    for own, name in _convolutions():
        scale, shift = tensors[f"{name}/scale/weights"], tensors[f"{name}/scale/biases"]
        state |= _folded(own, conv_filter(tensors[f"{name}/conv/filters"]), tensors[f"{name}/conv/bias"], scale, shift)
    return state | {"fc.weight": tensors["fc"].T.contiguous()}


def from_dlib(data: bytes, what: str) -> dict[str, Tensor]:
    """The state dict, from dlib's own file.

    Raises:
        UserError: it holds another network.
    """
    network = DlibNetwork()
    convs = [(name, network.get_submodule(name)) for name, _ in _convolutions()]
    sizes = []
    for _, conv in convs:
        assert isinstance(conv, nn.Conv2d)
        sizes += [conv.weight.numel() + conv.out_channels, 2 * conv.out_channels]
    *parts, last = read_dlib(data, [*sizes, 256 * DIM], what)
    state: dict[str, Tensor] = {}
    for (name, conv), both, scaling in zip(convs, parts[::2], parts[1::2], strict=True):
        assert isinstance(conv, nn.Conv2d)
        weight, bias = both.tensor_split([conv.weight.numel()])
        scale, shift = scaling.chunk(2)
        state |= _folded(name, weight.view_as(conv.weight), bias, scale, shift)
    return state | {"fc.weight": last.view(256, DIM).T.contiguous()}


def _folded(name: str, weight: Tensor, bias: Tensor, scale: Tensor, shift: Tensor) -> dict[str, Tensor]:
    """A convolution that does what this one and the scaling of channels after it do."""
    return {f"{name}.weight": weight * scale.view(-1, 1, 1, 1), f"{name}.bias": torch.addcmul(shift, bias, scale)}
