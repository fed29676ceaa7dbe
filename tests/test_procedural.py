"""ProceduralFaces: deterministic, batch-independent, identity inside the hole and nuisance outside it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from latentprint.data.procedural import (
    ATTRIBUTE_NAMES,
    IDENTITY_NAMES,
    NUISANCE_NAMES,
    POPULATIONS,
    identity_parameters,
    make_people,
    nuisance_parameters,
    render,
)
from latentprint.errors import UserError


def picture(identity: np.ndarray, nuisance: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    return render(torch.from_numpy(identity).float(), torch.from_numpy(nuisance).float(), 64)


def test_enough_parameters_and_hair_is_nuisance() -> None:
    assert len(IDENTITY_NAMES) >= 20 and len(NUISANCE_NAMES) >= 12
    assert not any("hair" in name for name in IDENTITY_NAMES)
    assert {"hair_tone", "hair_line", "hair_volume"} <= set(NUISANCE_NAMES)
    assert set(ATTRIBUTE_NAMES) <= set(NUISANCE_NAMES)


def test_a_photo_does_not_depend_on_its_batch() -> None:
    whole = make_people(range(3), 3, batch=9)
    parts = make_people(range(3), 3, batch=2)
    alone = make_people([2], 1, image_seed=1)
    assert torch.equal(whole.images, parts.images) and torch.equal(whole.holes, parts.holes)  # type: ignore[arg-type]
    assert torch.equal(whole.images[7], alone.images[0])
    assert whole.names == ("person-000000", "person-000001", "person-000002")


def test_people_differ_and_photos_of_one_differ() -> None:
    data = make_people(range(4), 2)
    flat = data.floats().flatten(1)
    assert (torch.cdist(flat, flat) + 10 * torch.eye(8)).min() > 1.0


def test_outside_the_hole_nothing_tells_who_it_is() -> None:
    """The same photo of two people is equal outside the hole: a masked picture holds no identity."""
    photo = nuisance_parameters([1] * 6, range(6))
    one = identity_parameters([10] * 6)
    other = identity_parameters([11] * 6)
    (a, hole), (b, hole_b) = picture(one, photo), picture(other, photo)
    assert torch.equal(hole, hole_b)
    outside = torch.nn.functional.max_pool2d((hole > 0.01).float(), 3, 1, 1).expand_as(a) == 0
    assert (a - b)[outside].abs().max() < 1e-4  # a fortieth of a grey level: rounding
    assert (a - b)[~outside].abs().mean() > 0.02


@pytest.mark.parametrize("name", IDENTITY_NAMES)
def test_every_identity_parameter_shows(name: str) -> None:
    """Each parameter, moved through its range, changes some pixel of a photo by at least 6 grey levels."""
    base = np.zeros((2, identity_parameters([0]).shape[1]))
    column = IDENTITY_NAMES.index(name)
    base[:, column] = [-1, 1]
    for needed in ("glasses_size", "glasses_dark"):
        if name == needed:
            base[:, IDENTITY_NAMES.index("glasses")] = 1.0
    photo = np.zeros((2, len(NUISANCE_NAMES)))
    photo[:, NUISANCE_NAMES.index("light_x")] = 0.8  # light from the side shows relief
    images, _ = picture(base, photo)
    changed = (images[0] - images[1]).abs().max()
    if name == "freckles":  # they sit at random places, all in the middle of the cheeks here
        assert changed > 0.02
    else:
        assert changed > 6 / 255


@pytest.mark.parametrize("name", NUISANCE_NAMES)
def test_every_nuisance_parameter_but_sensor_noise_shows(name: str) -> None:
    rows = np.zeros((2, len(NUISANCE_NAMES)))
    rows[:, NUISANCE_NAMES.index(name)] = [-0.9, 0.9]
    images, _ = picture(identity_parameters([3, 3]), rows)
    difference = float((images[0] - images[1]).abs().max())
    assert difference == 0 if name == "noise" else difference > 4 / 255


def test_light_comes_from_where_it_says() -> None:
    rows = np.zeros((2, len(NUISANCE_NAMES)))
    rows[:, NUISANCE_NAMES.index("light_x")] = [-1, 1]
    plain = np.zeros((2, identity_parameters([0]).shape[1]))
    images, _ = picture(plain, rows)
    face = images[:, :, 24:52, 16:48].mean(1)
    left, right = face[:, :, :16].mean((1, 2)), face[:, :, 16:].mean((1, 2))
    assert left[0] > right[0] + 0.05 and right[1] > left[1] + 0.05


def test_shifted_population_is_darker_and_wrinkled() -> None:
    seeds = range(30)
    normal, shifted = make_people(seeds, 1), make_people(seeds, 1, population="shifted")
    hole = normal.holes
    assert hole is not None

    def brightness(data: torch.Tensor) -> float:
        return float(data[:, :, 28:48, 20:44].float().mean())

    assert brightness(shifted.images) < brightness(normal.images) - 15
    low, high = POPULATIONS["shifted"].ranges["melanin"]
    drawn = identity_parameters(seeds, "shifted")[:, IDENTITY_NAMES.index("melanin")]
    assert low <= drawn.min() and drawn.max() <= high


def test_identity_is_uniform_and_independent_of_the_photo() -> None:
    rows = identity_parameters(range(2000))
    assert abs(rows.mean()) < 0.01 and abs(rows.var() - 1 / 3) < 0.01
    photos = nuisance_parameters([5] * 2000, range(2000))
    assert abs(np.corrcoef(rows[:, 0], photos[:, 0])[0, 1]) < 0.06


def test_sizes_and_errors() -> None:
    assert make_people([0], 1, size=96).images.shape == (1, 3, 96, 96)
    with pytest.raises(UserError, match="unknown; expected one of default"):
        make_people([0], 1, population="martian")
    with pytest.raises(UserError, match="at least one person"):
        make_people([], 1)
