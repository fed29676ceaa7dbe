"""A face whose landmarks are known at any pose, and networks of landmarks and expression with random weights."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from latentprint.models.assets import save_asset
from latentprint.plugins.faces.attributes import FaceAttributes
from latentprint.plugins.faces.geometry import RIGID

#: What `RIGID` lacks of a face, landmark to millimetres.
SOFT = {48: (-25, 70), 54: (25, 70), 51: (0, 63), 57: (0, 77), 8: (0, 112), 2: (-65, 43), 14: (65, 43), 5: (-45, 92),
        11: (45, 92), 41: (-35, 5), 46: (35, 5), 40: (-26, 5), 47: (26, 5), 37: (-35, -2), 44: (35, -2), 38: (-26, -2),
        43: (26, -2), **{i: (6 * (i - 62), 68) for i in (61, 62, 63)}, **{i: (6 * (66 - i), 70) for i in (65, 66, 67)},
        **{17 + i: (-54 + 10 * i, -18) for i in range(5)},
        **{26 - i: (54 - 10 * i, -18) for i in range(5)}}  # fmt: skip


def landmarks_of(yaw: float, pitch: float, roll: float, scale: float = 0.0046) -> Tensor:
    """``(68, 2)`` of the mean face by the renderer's formula, angles in degrees, about where the chip of
    `FaceAttributes` has it; landmarks without a place lie at the root of the nose."""
    y, p, r = (math.radians(angle) for angle in (yaw, pitch, roll))
    face = torch.zeros(68, 3, dtype=torch.float64)
    for index, place in RIGID.items():
        face[index] = torch.tensor(place)
    for index, (right, down) in SOFT.items():
        face[index] = torch.tensor([right, down, 0.0])
    # u = s cos y - z sin y, front = s sin y + z cos y, v = t cos p - front sin p, solved for what is seen: s and t.
    u, v, w = face.unbind(1)
    t, front = v * math.cos(p) + w * math.sin(p), w * math.cos(p) - v * math.sin(p)
    s = u * math.cos(y) + front * math.sin(y)
    seen = torch.stack([s * math.cos(r) - t * math.sin(r), s * math.sin(r) + t * math.cos(r)], 1)
    return torch.tensor([0.486, 0.326]) + scale * seen


def untrained_attributes(seed: int = 0, yaw: float = 8.0) -> FaceAttributes:
    """Random weights; landmarks about the mean face, wherever one looks."""
    torch.manual_seed(seed)
    network = FaceAttributes()
    with torch.no_grad():
        for part in (network.landmarks.network, network.expression.network):
            for parameter in part.parameters():
                parameter.mul_(1.2)
        network.landmarks.network.fc.weight.mul_(0.1)
        network.landmarks.network.fc.bias.copy_(landmarks_of(yaw, 3, 4).float().flatten())
    return network.eval().requires_grad_(False)


def save_parts(network: FaceAttributes, folder: Path) -> Path:
    """The two assets that it can be composed of."""
    save_asset(folder, "landmarks", network.landmarks, {"kind": "face-landmarks"}, half=False)
    save_asset(folder, "expression", network.expression, {"kind": "face-expression"}, half=False)
    return folder
