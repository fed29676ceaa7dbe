"""From an embedding to a face: a convolutional decoder, the fast generator of the template channel."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from latentprint.errors import UserError
from latentprint.models.blocks import NormResidual

#: Channels of a map are halved as it doubles, down to these.
LEAST_WIDTH = 32


class FaceDecoder(nn.Module):
    """Embeddings ``(B, D)`` of length 1 to images ``(B, 3, size, size)`` in (0, 1).

    A linear map to 4 to 7 pixels a side, then residual units and doublings. The last doubling interpolates: rearranging
    channels into pixels, which is faster, lets a recogniser's gradient draw a grid on the face.

    Args:
        dim: D. size: of the image, a multiple of 16.
        width: channels of the smallest map.

    Raises:
        UserError: another size.
    """

    def __init__(self, dim: int, size: int, width: int = 256) -> None:
        super().__init__()
        if size % 16:
            raise UserError(f"a face decoder draws images whose side is a multiple of 16 pixels, got {size}")
        doublings = (size // 4).bit_length() - 1
        while size % 2**doublings:
            doublings -= 1
        side = size >> doublings
        widths = [max(LEAST_WIDTH, width >> i) for i in range(doublings + 1)]
        layers: list[nn.Module] = [nn.LayerNorm(dim), nn.Linear(dim, width * side * side), nn.SiLU(),
                                   nn.Unflatten(1, (width, side, side)), NormResidual(width, width)]
        for inner, outer in pairwise(widths[:-1]):
            layers += [nn.Upsample(scale_factor=2), NormResidual(inner, outer)]
        last = widths[-2]
        layers += [NormResidual(last, last), nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
                   nn.Conv2d(last, last, 3, 1, 1), nn.GroupNorm(8, last), nn.SiLU(), nn.Conv2d(last, 3, 3, 1, 1)]
        self.body = nn.Sequential(*layers)

    def forward(self, embedding: Tensor) -> Tensor:
        return torch.sigmoid(self.body(embedding))
