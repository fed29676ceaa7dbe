"""What a procedural face is made of: identity and nuisance parameters, and populations as ranges of them.

Every draw depends on (identity seed, image seed) alone: neither batch size nor order matters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from latentprint.errors import UserError

IDENTITY_NAMES = (
    "face_width", "face_height", "jaw_taper", "chin_square", "melanin", "undertone", "eye_spacing", "eye_size",
    "eye_aspect", "eye_tilt", "eye_height", "iris_hue", "iris_light", "iris_size", "brow_thickness", "brow_height",
    "brow_tilt", "brow_arch", "brow_dark", "nose_length", "nose_width", "nose_bridge", "mouth_width", "lip_thickness",
    "lip_redness", "mouth_height", "beard", "moustache", "freckles", "mole_x", "mole_y", "mole_size", "second_mole_x",
    "second_mole_y", "blush", "eye_shadow", "glasses", "glasses_size", "glasses_dark", "ears",
)  # fmt: skip
NUISANCE_NAMES = (
    "yaw", "pitch", "roll", "smile", "mouth_open", "eye_open", "brow_raise", "light_x", "light_y", "light_contrast",
    "gaze", "scale", "shift_x", "shift_y", "exposure", "warmth", "hair_tone", "hair_hue", "hair_line", "hair_volume",
    "hair_side", "hair_part", "background_hue", "background_light", "background_tilt", "clothes_hue", "clothes_light",
    "noise", "blur",
)  # fmt: skip
ATTRIBUTE_GROUPS: Mapping[str, tuple[str, ...]] = {
    "pose": ("yaw", "pitch", "roll"),
    "expression": ("smile", "mouth_open", "eye_open", "brow_raise"),
    "light": ("light_x", "light_y", "light_contrast"),
}
ATTRIBUTE_NAMES = tuple(name for group in ATTRIBUTE_GROUPS.values() for name in group)
N_FRECKLES = 14


@dataclass(frozen=True)
class Population:
    """Ranges of a population: ``name -> (low, high)`` in the unit range [-1, 1] of a parameter; others span it all.

    ``wrinkles`` in [0, 1] adds an age-like texture. The photos of a population share its ``pose_scale``.
    """

    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    wrinkles: float = 0.0
    pose_scale: float = 1.0


POPULATIONS: Mapping[str, Population] = {
    "default": Population(),
    "palette": Population({"melanin": (0.3, 1.0), "undertone": (0.0, 1.0)}),
    "aged": Population({"melanin": (-1.0, 1.0)}, wrinkles=1.0),
    "posed": Population(pose_scale=1.6),
    "shifted": Population({"melanin": (0.2, 1.0), "undertone": (-0.2, 1.0)}, wrinkles=0.7, pose_scale=1.3),
}


def identity_parameters(identity_seeds: Sequence[int], population: str = "default") -> np.ndarray:
    """``(P, len(IDENTITY_NAMES) + 2 * N_FRECKLES)`` in [-1, 1], one row a person; freckle positions come last."""
    ranges = population_of(population).ranges
    rows = np.stack([_draw(0, seed, 0, len(IDENTITY_NAMES) + 2 * N_FRECKLES) for seed in identity_seeds])
    for name, (low, high) in ranges.items():
        column = IDENTITY_NAMES.index(name)
        rows[:, column] = low + (rows[:, column] + 1) / 2 * (high - low)
    return rows


def nuisance_parameters(identity_seeds: Sequence[int], image_seeds: Sequence[int],
                        population: str = "default") -> np.ndarray:
    """``(N, len(NUISANCE_NAMES))`` in [-1, 1] (pose may reach ``pose_scale``), one row a photo."""
    rows = np.stack([_draw(1, i, j, len(NUISANCE_NAMES)) for i, j in zip(identity_seeds, image_seeds, strict=True)])
    rows[:, :3] *= population_of(population).pose_scale
    return rows


def sensor_noise(identity_seed: int, image_seed: int, size: int) -> np.ndarray:
    """``(3, size, size)`` standard normal float32."""
    return _generator(2, identity_seed, image_seed).standard_normal((3, size, size), dtype=np.float32)


def population_of(name: str) -> Population:
    """The population of that name; raises UserError when there is none."""
    if name not in POPULATIONS:
        raise UserError(f"population: {name!r} is unknown; expected one of {', '.join(POPULATIONS)}")
    return POPULATIONS[name]


def _generator(stream: int, first: int, second: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=[first, (stream << 48) + second]))


def _draw(stream: int, first: int, second: int, count: int) -> np.ndarray:
    return _generator(stream, first, second).uniform(-1, 1, count)
