"""ProceduralFaces: photos of people who do not exist.

A person is a point in an identity space (``IDENTITY_NAMES``: shape, skin, eyes, brows, nose, mouth, beard, marks,
glasses); a photo adds a point in a nuisance space (``NUISANCE_NAMES``: pose, expression, light, hair, clothes,
background, framing, sensor). The two are drawn from separate seeds, so pose, expression and light have exact labels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from latentprint.data.base import ImageSet
from latentprint.data.parameters import (
    ATTRIBUTE_GROUPS,
    ATTRIBUTE_NAMES,
    IDENTITY_NAMES,
    NUISANCE_NAMES,
    POPULATIONS,
    identity_parameters,
    nuisance_parameters,
    population_of,
    sensor_noise,
)
from latentprint.data.renderer import render
from latentprint.errors import UserError
from latentprint.progress import tracked

__all__ = ["ATTRIBUTE_GROUPS", "ATTRIBUTE_NAMES", "IDENTITY_NAMES", "NUISANCE_NAMES", "POPULATIONS",
           "identity_parameters", "make_people", "nuisance_parameters", "render"]


def make_people(identity_seeds: Sequence[int], photos: int, image_seed: int = 0, size: int = 64,
                population: str = "default", batch: int = 64) -> ImageSet:
    """``photos`` photos of each person, grouped by person.

    Args:
        identity_seeds: one integer >= 0 a person; names are ``person-000123``.
        photos: photos of each person; photo j of every person has image seed ``image_seed + j``.
        size: height and width in pixels.
        population: a key of ``POPULATIONS``.
        batch: images rendered at once; has no effect on the result.

    Raises:
        UserError: unknown population, or no people or photos asked for.
    """
    if not identity_seeds or photos < 1:
        raise UserError("procedural faces need at least one person and one photo each")
    who = np.repeat(np.asarray(identity_seeds, dtype=np.int64), photos)
    which = np.tile(np.arange(image_seed, image_seed + photos), len(identity_seeds))
    people = np.repeat(identity_parameters(identity_seeds, population), photos, axis=0)
    nuisance = nuisance_parameters(who.tolist(), which.tolist(), population)
    wrinkles = population_of(population).wrinkles
    images = torch.empty(len(who), 3, size, size, dtype=torch.uint8)
    holes = torch.empty(len(who), 1, size, size, dtype=torch.uint8)
    for start in tracked(range(0, len(who), batch), "rendering faces"):
        part = slice(start, start + batch)
        picture, hole = render(torch.from_numpy(people[part]).float(), torch.from_numpy(nuisance[part]).float(),
                               size, wrinkles)
        grain = np.stack([sensor_noise(int(i), int(j), size)
                          for i, j in zip(who[part], which[part], strict=True)])
        sigma = 0.008 + 0.008 * torch.from_numpy(nuisance[part, NUISANCE_NAMES.index("noise")]).float()
        picture = (picture + sigma[:, None, None, None] * torch.from_numpy(grain)).clamp(0, 1)
        images[part], holes[part] = (picture * 255).round().to(torch.uint8), (hole > 0.5).to(torch.uint8)
    columns = [NUISANCE_NAMES.index(name) for name in ATTRIBUTE_NAMES]
    return ImageSet(
        images=images,
        labels=torch.arange(len(identity_seeds)).repeat_interleave(photos),
        names=tuple(f"person-{seed:06d}" for seed in identity_seeds),
        source=f"procedural ({population})",
        holes=holes,
        attributes=torch.from_numpy(nuisance[:, columns]).float(),
        groups=(population,) * len(identity_seeds),
    )
