"""Framing: where a face lies, and the chip that a recogniser is given, on faces whose landmarks are known."""

from __future__ import annotations

import copy
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from framed import LAYOUT, Dots, as_uint8, chip_at, drawn_faces
from torch import Tensor, nn

from latentprint.checks import weights_hash
from latentprint.data.warp import mapped, resample, similarity
from latentprint.errors import UserError
from latentprint.models.assets import load_asset
from latentprint.models.content import content
from latentprint.models.framing import (
    CHIP,
    Each,
    Given,
    OneForAll,
    Position,
    expected_points,
    locate,
    look,
)
from latentprint.plugins.faces.build import RECOGNISERS, FaceRecogniser, Landmarks

HOME = chip_at(0.5, 0.52, 0.8)
AT_HOME = Position(mapped(LAYOUT[None], HOME[None])[0], 0.0, 0.0, 1, 1.0)


def faces(*places: tuple[float, float, float, float], size: int = 64) -> Tensor:
    return drawn_faces(torch.stack([chip_at(*each) for each in places]), size)


SEVERAL = ((0.5, 0.5, 0.8, 0.0), (0.45, 0.55, 0.7, 0.2), (0.55, 0.48, 0.9, -0.3))


def slow_resample(x: Tensor, matrix: Tensor, side: int) -> Tensor:
    """A chip ``(3, side, side)`` pixel by pixel, from pixels whose centres lie half a pixel from the edge."""
    size, out = x.shape[-1], torch.zeros(3, side, side, dtype=x.dtype)
    for i in range(side):
        for j in range(side):
            u, v = (matrix[:, :2] @ torch.tensor([(j + 0.5) / side, (i + 0.5) / side], dtype=x.dtype)
                    + matrix[:, 2]).tolist()
            column, row = min(max(u * size - 0.5, 0), size - 1), min(max(v * size - 0.5, 0), size - 1)
            left, top = min(int(column), size - 2), min(int(row), size - 2)
            a, b = column - left, row - top
            four = x[:, top : top + 2, left : left + 2]
            out[:, i, j] = ((1 - b) * ((1 - a) * four[:, 0, 0] + a * four[:, 0, 1])
                            + b * ((1 - a) * four[:, 1, 0] + a * four[:, 1, 1]))
    return out


@pytest.mark.parametrize("turn", [0.0, 0.4, -2.0, math.pi])
@pytest.mark.parametrize("zoom", [1.0, 1.25])
def test_a_similarity_is_recovered_from_the_points_that_it_moved(turn: float, zoom: float) -> None:
    truth = chip_at(0.3, 0.6, 0.45, turn)
    points = mapped(expected_points(zoom)[None], truth[None])
    found, residual = similarity(points, expected_points(zoom))
    assert torch.allclose(found[0], truth, atol=1e-5) and float(residual) < 1e-5


def test_the_residual_is_the_distance_that_no_similarity_removes() -> None:
    """Half the corners of a square 1.2 times as far from its middle, half 0.8 times: the best factor is their mean over
    the mean of their squares, 1 / 1.04, and leaves the root of 1 - 1 / 1.04 of the corners' distance, root 1/2."""
    square = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    bent = square + 0.1 * torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, -1.0], [-1.0, 1.0]])
    found, residual = similarity(bent[None], square)
    assert torch.allclose(found[0], chip_at(0.5, 0.5, 1.04), atol=1e-5)
    assert float(residual) == pytest.approx(math.sqrt((1 - 1 / 1.04) / 2), abs=1e-5)


def test_a_zoomed_chip_shows_more_about_the_same_centre() -> None:
    assert torch.allclose(expected_points(2.0) - 0.5, (torch.tensor(CHIP) - 0.5) / 2)
    assert torch.allclose(expected_points(), torch.tensor(CHIP))


def test_resampling_equals_a_slow_reference() -> None:
    x = torch.rand(3, 3, 12, 12, dtype=torch.float64)
    matrices = torch.stack([chip_at(*each) for each in SEVERAL]).double()
    chips = resample(x, matrices, 15)
    for one, matrix, chip in zip(x, matrices, chips, strict=True):
        assert torch.allclose(chip, slow_resample(one, matrix, 15), atol=1e-9)
    assert torch.allclose(resample(x, torch.eye(2, 3)[None], 12), x, atol=1e-9), "the whole picture at its size"


def test_mixed_precision_does_not_move_the_chip() -> None:
    x, matrix, shown = torch.rand(1, 3, 64, 64), chip_at(0.4567, 0.5432, 0.8, 0.1)[None], faces(*SEVERAL)
    with torch.autocast("cpu", torch.bfloat16):
        chip = resample(x, matrix, 64)
        found = look(Dots(), shown)
    assert torch.equal(chip, resample(x, matrix, 64)) and torch.equal(found.points, look(Dots(), shown).points)


def test_what_lies_outside_repeats_the_edge() -> None:
    x = torch.arange(4.0).view(1, 1, 1, 4).expand(1, 3, 4, 4).contiguous()
    chip = resample(x, chip_at(0.5, 0.5, 3.0)[None], 12)
    assert chip[..., :4].unique().tolist() == [0.0] and chip[..., -4:].unique().tolist() == [3.0]


def test_a_chip_does_not_depend_on_its_neighbours() -> None:
    """Of large pictures each is shrunk by its own scale."""
    x = torch.rand(4, 3, 96, 96)
    matrices = torch.stack([chip_at(0.5, 0.5, side) for side in (0.2, 0.9, 0.5, 0.95)])
    together = resample(x, matrices, 16)
    for one, matrix, chip in zip(x, matrices, together, strict=True):
        assert torch.equal(resample(one[None], matrix[None], 16)[0], chip)


def test_a_picture_with_more_pixels_than_its_chip_is_averaged() -> None:
    x = torch.rand(1, 3, 256, 256)
    chip = resample(x, torch.eye(2, 3)[None], 16)
    assert float((chip - torch.nn.functional.avg_pool2d(x, 16)).abs().mean()) < 0.02, "single pixels differ by 0.25"


def test_landmarks_are_found_in_turned_and_shifted_faces_and_not_in_noise_or_grey() -> None:
    found = look(Dots(), faces(*SEVERAL))
    truth = mapped(LAYOUT.expand(3, -1, -1), torch.stack([chip_at(*each) for each in SEVERAL]))
    assert float((found.points - truth).abs().max()) < 0.01 and found.seen.all()
    assert not look(Dots(), torch.rand(4, 3, 64, 64)).seen.any()
    assert not look(Dots(), torch.full((2, 3, 64, 64), 0.5)).seen.any()


def test_points_that_the_second_look_finds_elsewhere_are_no_face() -> None:
    class Wandering(nn.Module):
        """A perfect face at the same place of whatever it is shown, which is never the same twice."""

        def forward(self, x: Tensor) -> Tensor:
            return mapped(LAYOUT.expand(len(x), -1, -1), chip_at(0.6, 0.6, 0.9)[None].expand(len(x), -1, -1))

    found = look(Wandering(), torch.rand(2, 3, 64, 64))
    assert float(found.residual.max()) < 1e-5 and float(found.moved.min()) > 0.1 and not found.seen.any()


def test_one_for_all_equals_each_on_pictures_that_are_all_alike() -> None:
    x = faces(*(((0.45, 0.55, 0.7, 0.1),) * 3))
    position = locate(Dots(), as_uint8(x), "three faces")
    for zoom in (1.0, 1.2):
        each = Each(20, Dots(), position, zoom)
        assert torch.allclose(OneForAll(20, position.matrix(zoom))(x), each(x), atol=0.02)
    chips = Each(64, Dots(), AT_HOME)(faces(*SEVERAL))
    assert float((look(Dots(), chips).five - expected_points()).abs().max()) < 0.01, "every face is in its place"


def test_given_is_the_whole_picture() -> None:
    x = torch.rand(2, 3, 16, 16)
    assert Given(16)(x) is x and Given(24)(x).shape == (2, 3, 24, 24)
    assert torch.equal(Given(16).matrices(x)[0], torch.eye(2, 3))


def test_each_takes_the_mean_framing_where_no_face_is_found() -> None:
    x = torch.cat([faces(*SEVERAL[:2]), torch.rand(1, 3, 64, 64)])
    framing = Each(20, Dots(), AT_HOME)
    matrices = framing.matrices(x)
    assert torch.allclose(matrices[2], HOME, atol=1e-6) and not torch.allclose(matrices[0], HOME, atol=1e-3)
    assert torch.allclose(framing(x)[2], OneForAll(20, HOME)(x[2:])[0], atol=1e-5)


def test_each_refuses_pictures_below_32_pixels() -> None:
    framing = Each(20, Dots(), AT_HOME)
    assert framing(torch.rand(1, 3, 32, 32)).shape == (1, 3, 20, 20)
    with pytest.raises(UserError, match="each needs pictures of at least 32 pixels a side, got 31"):
        framing(torch.rand(1, 3, 31, 31))


class Fixed(nn.Module):
    """The same landmarks whatever it sees, chips being shown in place: so that differences leave them alone."""

    def forward(self, x: Tensor) -> Tensor:
        return LAYOUT.to(x).expand(len(x), -1, -1)


@pytest.mark.parametrize("framing", [
    Given(7), OneForAll(7, chip_at(0.45, 0.55, 0.7, 0.2)), OneForAll(3, chip_at(0.5, 0.5, 0.9)),
    Each(7, Fixed(), AT_HOME, 1.3)], ids=["given", "auto", "shrunk", "each"])
def test_the_gradient_by_the_pictures_is_that_of_differences(framing: nn.Module) -> None:
    size = 32 if isinstance(framing, Each) else 8
    x = torch.rand(1, 1, size, size, dtype=torch.float64).expand(1, 3, -1, -1).contiguous().requires_grad_()
    assert torch.autograd.gradcheck(framing, (x,), fast_mode=True)


def test_no_gradient_flows_through_the_landmarks() -> None:
    x, weight = faces(*SEVERAL), torch.rand(3, 3, 20, 20)
    framing = Each(20, Dots(), AT_HOME)
    matrices = framing.matrices(x)
    gradients = []
    for chips in (framing, lambda pictures: resample(pictures, matrices, 20)):
        pictures = x.clone().requires_grad_()
        gradients.append(torch.autograd.grad((chips(pictures) * weight).sum(), pictures)[0])
    assert torch.equal(*gradients) and float(gradients[0].abs().max()) > 0


def test_framing_is_no_part_of_a_networks_weights() -> None:
    """So that the check that a judge is not the teacher sees through two framings."""
    landmarks = Dots()
    made = [nn.Sequential(framing, nn.Flatten(), nn.Linear(1, 2)) for framing in (
        Given(4), OneForAll(4, HOME), Each(4, landmarks, AT_HOME))]
    for network in made:
        network[2].load_state_dict(made[0][2].state_dict())
    assert len({weights_hash(network) for network in made}) == 1
    assert len({len(list(network.parameters())) for network in made}) == 1
    made[2].double()
    assert landmarks.weight.dtype == torch.float64 and made[2][0].expected.dtype == torch.float64, "they move together"
    assert copy.deepcopy(made[2])[0].landmarks is not landmarks


def test_kept_answers_are_told_apart_by_framing() -> None:
    """What is kept on disk about photos is found again by all that it depends on, where the chips lie included."""
    network = FaceRecogniser(RECOGNISERS["dlib"]).eval()
    landmarks, other = Landmarks().eval(), Landmarks().eval()
    seen = []
    for framing in (Given(150), OneForAll(150, HOME), OneForAll(150, chip_at(0.5, 0.5, 0.8)),
                    Each(150, landmarks, AT_HOME), Each(150, other, AT_HOME), Each(150, landmarks, AT_HOME, 1.2)):
        network.framing = framing.eval()
        seen.append(content(network))
    assert None not in seen and len(set(seen)) == len(seen)


def test_a_sets_position_is_the_mean_of_its_faces() -> None:
    places = [(0.5 + 0.1 * i, 0.5, 0.6, 0.0) for i in (-1, 0, 1)]
    position = locate(Dots(), as_uint8(torch.cat([faces(*places), torch.rand(1, 3, 64, 64)])), "faces")
    assert torch.allclose(position.matrix(), chip_at(0.5, 0.5, 0.6), atol=0.01)
    assert position.found == 0.75 and position.n == 4 and position.residual < 0.005
    assert position.spread == pytest.approx(2 * 0.1 / 3 / 0.6, rel=0.05), "in the chip's units"
    assert position.side == pytest.approx(0.6, abs=0.01)
    wider = position.matrix(1.5)
    assert float(wider[:, 0].norm()) == pytest.approx(0.9, abs=0.02)


class NearSighted(Dots):
    """Finds faces whose eyes lie a fifth of the picture apart, and nothing in others."""

    def forward(self, x: Tensor) -> Tensor:
        points = super().forward(x)
        near = (points[:, 36] - points[:, 45]).norm(dim=1) > 0.25
        return torch.where(near[:, None, None], points, torch.full_like(points, 0.5))


def test_a_few_faces_found_in_whole_photos_say_where_to_look_for_the_others() -> None:
    small, large = (0.5, 0.5, 0.45, 0.0), (0.5, 0.5, 0.55, 0.0)
    x = faces(*(small,) * 4, large)
    assert look(NearSighted(), x).seen.tolist() == [False] * 4 + [True]
    position = locate(NearSighted(), as_uint8(x), "faces")
    assert position.found == 1 and position.side == pytest.approx(0.47, abs=0.01)
    assert Each(20, NearSighted(), position).matrices(x)[0, :, 0].norm() == pytest.approx(0.45, abs=0.01)


def test_photos_that_are_turned_in_different_ways_are_refused() -> None:
    x = faces((0.5, 0.5, 0.7, 0.0), (0.5, 0.5, 0.7, math.pi))
    with pytest.raises(UserError, match=r"the mean face of data\.public is none \(residual 0\.\d\d, at most 0\.04\)"):
        locate(Dots(), as_uint8(x), "data.public")


@pytest.mark.parametrize("kind", ["noise", "grey"])
def test_sets_without_faces_are_refused(kind: str) -> None:
    images = torch.rand(6, 3, 64, 64) if kind == "noise" else torch.full((6, 3, 64, 64), 0.5)
    with pytest.raises(UserError, match=r"faces are found in 0% of 6 photos of data\.public"):
        locate(Dots(), as_uint8(images), "data.public")


@pytest.fixture(scope="module")
def published() -> nn.Module:
    folder = os.environ.get("LATENTPRINT_FACES", "")
    if not folder:
        pytest.skip("LATENTPRINT_FACES names no folder that 'latentprint convert faces' wrote")
    return load_asset("landmarks", Path(folder))


def test_the_published_landmarks_find_no_face_in_noise_or_grey(published: nn.Module) -> None:
    assert int(look(published, torch.rand(8, 3, 64, 64)).seen.sum()) <= 1, "2% of noise pictures pass"
    assert not look(published, torch.full((1, 3, 64, 64), 0.5)).seen.any()


def test_the_published_landmarks_frame_real_faces(published: nn.Module) -> None:
    """Twelve faces of the London set, six neutral ones with eyes higher in the picture than the smiling ones."""
    with np.load(Path(__file__).parent / "faces_london.npz") as pack:
        images = torch.from_numpy(pack["images"]).permute(0, 3, 1, 2).contiguous()
    position = locate(published, images, "London")
    assert position.found == 1 and position.residual < 0.01 and 0.8 < position.side < 1.0
    assert 0.03 < position.spread < 0.08, "the two kinds of photos are cut differently"
    x = images.float() / 255
    chips = Each(112, published, position)(x)
    assert float((look(published, chips).five - expected_points()).norm(dim=2).mean()) < 0.02
    alike = OneForAll(112, position.matrix())(x)
    assert float((look(published, alike).five - expected_points()).norm(dim=2).mean()) > 0.03
