"""Published recognisers by name, each behind the preprocessing that its release was trained with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from latentprint.errors import UserError
from latentprint.models.recognisers import EmbeddingNetwork
from latentprint.plugins.arcface.ir import IR
from latentprint.plugins.arcface.iresnet import IResNet
from latentprint.plugins.arcface.mobile import MobileFaceNet

SIDE = 112
#: REFace crops faces aligned as in FFHQ to (top, bottom, left, right) of 256 pixels before its recogniser.
FFHQ_CROP, FFHQ_SIDE = (35, 223, 32, 220), 256

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "ir-se50": lambda: IR(50, squeezed=True),
    "ir-50": lambda: IR(50, squeezed=False),
    "adaface-ir50": lambda: IR(50, squeezed=False, double=True),
    "adaface-ir101": lambda: IR(101, squeezed=False, double=True),
    "iresnet18": lambda: IResNet(18),
    "iresnet34": lambda: IResNet(34),
    "iresnet50": lambda: IResNet(50),
    "iresnet100": lambda: IResNet(100),
    "mobilefacenet": MobileFaceNet,
}
#: Releases trained on blue, green, red.
BGR = frozenset({"adaface-ir50", "adaface-ir101"})
ALIGNMENTS = ("arcface", "ffhq")


class FaceRecogniser(EmbeddingNetwork):
    """A published network behind its release's preprocessing; pictures are RGB.

    Args:
        network: 112 x 112 in [-1, 1] to embeddings.
        alignment: of the pictures. ``arcface``: to five points, as recognisers are trained; the picture is resized.
            ``ffhq``: with head and shoulders around the face, which is cut out as REFace does.
        bgr: the network wants blue first.
    """

    def __init__(self, network: nn.Module, alignment: str, bgr: bool = False) -> None:
        super().__init__()
        self.network, self.alignment, self.bgr = network, alignment, bgr

    def raw(self, x: Tensor) -> Tensor:
        if self.alignment == "ffhq":
            if x.shape[-2] != FFHQ_SIDE:
                x = F.adaptive_avg_pool2d(x, (FFHQ_SIDE, FFHQ_SIDE))
            top, bottom, left, right = FFHQ_CROP
            x = F.adaptive_avg_pool2d(x[..., top:bottom, left:right], (SIDE, SIDE))
        elif x.shape[-1] != SIDE:
            x = F.interpolate(x, (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)
        x = x.flip(1) if self.bgr else x
        return self.network(x * 2 - 1)


def build(record: Mapping[str, Any]) -> FaceRecogniser:
    """The network that an asset's record describes.

    Raises:
        UserError: an architecture or alignment that is not known.
    """
    name, alignment = record["architecture"], record["alignment"]
    if name not in NETWORKS:
        raise UserError(f"recogniser architecture '{name}' is unknown; expected {', '.join(NETWORKS)}")
    if alignment not in ALIGNMENTS:
        raise UserError(f"alignment '{alignment}' is unknown; expected {' or '.join(ALIGNMENTS)}")
    return FaceRecogniser(NETWORKS[name](), alignment, name in BGR)
