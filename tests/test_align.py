"""``latentprint align``: where faces are found, and the pictures that are cut."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from framed import LAYOUT, Dots, as_uint8, chip_at, drawn_faces
from helpers import run_cli
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from latentprint.data.align import ARCFACE, DLIB, aligned, places
from latentprint.data.warp import mapped
from latentprint.models.assets import save_asset
from latentprint.models.framing import expected_points, look
from latentprint.plugins.faces.build import Landmarks
from latentprint.plugins.faces.detector import SIDE, BlazeFace, anchors
from latentprint.plugins.faces.find import FIVE, ROUGH, VIEWS, FaceFinder, squared


class Finds(nn.Module):
    """A detector of `drawn_faces`, sure of one view and one anchor alone."""

    def __init__(self, view: int = 1, anchor: int = 700, score: float = 3.0) -> None:
        super().__init__()
        self.view, self.anchor, self.score = view, anchor, score

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        assert x.shape == (len(VIEWS), 3, SIDE, SIDE) and -1 <= float(x.min()) <= float(x.max()) <= 1
        logits, numbers = torch.full((len(x), 896), -5.0), torch.zeros(len(x), 896, 16)
        logits[self.view, self.anchor] = self.score
        points = Dots()((x + 1) / 2).detach()[self.view]
        four = torch.stack([points[[36, 39]].mean(0), points[[42, 45]].mean(0), points[33], points[33]])
        numbers[self.view, self.anchor, 4:12] = (four * SIDE - anchors()[self.anchor]).flatten()
        return logits, numbers


def photo(chip: Tensor, size: int = 96) -> NDArray[np.uint8]:
    return as_uint8(drawn_faces(chip[None], size))[0].permute(1, 2, 0).contiguous().numpy()


def eyes_of(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """``(2, 2)`` in shares of a square picture's side."""
    points = Dots()(torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255)[0].detach()
    return np.stack([points[[36, 39]].mean(0).numpy(), points[[42, 45]].mean(0).numpy()])


@pytest.mark.parametrize("shape", [(96, 96), (96, 150), (150, 96)])
def test_the_networks_find_a_face_in_pictures_of_any_shape(shape: tuple[int, int]) -> None:
    chip = chip_at(0.5, 0.5, 0.5, 0.2)
    pixels = np.zeros((*shape, 3), np.uint8)
    pixels[-96:, -96:] = photo(chip)
    found = FaceFinder(Finds(), Dots())(pixels)
    truth = mapped(LAYOUT[None], chip[None])[0] * 96 + torch.tensor([shape[1] - 96.0, shape[0] - 96.0])
    assert found is not None
    for point, indices in zip(found, FIVE, strict=True):
        assert np.abs(point - truth[list(indices)].mean(0).numpy()).max() < 1


def test_a_photo_without_a_face_is_said_to_be_one() -> None:
    pixels = photo(chip_at(0.5, 0.5, 0.5))
    assert FaceFinder(Finds(score=-0.1), Dots())(pixels) is None, "the detector is unsure"
    noise = np.random.default_rng(0).integers(0, 255, (96, 96, 3), dtype=np.uint8)
    assert FaceFinder(Finds(), Dots())(noise) is None, "the landmarks are none"


def test_large_photos_are_looked_at_smaller() -> None:
    square, side = squared(np.zeros((1500, 3000, 3), np.uint8))
    assert square.shape == (1, 3, 1024, 1024) and side == 3000
    square, side = squared(np.full((3, 5, 3), 255, np.uint8))
    assert square.shape == (1, 3, 5, 5) and side == 5 and bool((square == 1).all())


@pytest.mark.parametrize("zoom", [1.0, 1.3])
def test_the_default_framing_is_dlibs_chip_and_around(zoom: float) -> None:
    """A chip is cut so that a recogniser's own framing is the whole picture, or a part about its middle."""
    chip = chip_at(0.45, 0.55, 0.5, -0.3)
    five = mapped(LAYOUT[None], chip[None])[0]
    points = torch.cat([five[[36, 39]].mean(0, keepdim=True), five[[42, 45]].mean(0, keepdim=True),
                        mapped(torch.from_numpy(DLIB[2:])[None], chip[None])[0]])
    made = aligned(photo(chip), (points * 96).numpy(), places(80, "dlib", zoom), 80)
    assert made is not None
    wanted = (np.array([[0.3015, 0.2985], [0.663, 0.3035]]) - 0.5) / zoom + 0.5
    assert np.abs(eyes_of(made) - wanted).max() < 0.01
    found = look(Dots(), torch.from_numpy(made).permute(2, 0, 1)[None].float() / 255)
    assert float((found.five - expected_points(zoom)).abs().max()) < 0.015


def test_a_small_face_of_a_large_photo_is_averaged_and_one_at_the_edge_repeats_it() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (600, 600, 3), dtype=np.uint8)
    made = aligned(pixels, ARCFACE * 5, places(28, "arcface"), 28)  # the picture is 560 of the photo's pixels
    assert made is not None and abs(float(made.mean()) - 127) < 4 and float(made.std()) < 10, "single pixels: 74"
    pixels[:] = 0
    pixels[:, -1] = 200
    made = aligned(pixels, ARCFACE + 540, places(112, "arcface"), 112)
    assert made is not None and (made[:, -40:] == 200).all() and (made[:, :40] == 0).all()


def test_points_that_no_face_has_are_none() -> None:
    pixels = np.zeros((50, 50, 3), np.uint8)
    assert aligned(pixels, np.full((5, 2), 20.0, np.float32), places(112, "arcface"), 112) is None
    spread = np.random.default_rng(0).normal(0, 1e5, (5, 2)).astype(np.float32)
    assert aligned(pixels, spread, places(112, "arcface"), 112) is None


def test_a_command_without_networks_says_how_to_get_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    Image.fromarray(photo(chip_at(0.5, 0.5, 0.5))).save(tmp_path / "in" / "1.png")
    arguments = ("align", str(tmp_path / "in"), "--out", str(tmp_path / "out"))
    code, _, err = run_cli(capsys, *arguments)
    assert code == 2 and "detector" in err
    code, _, err = run_cli(capsys, *arguments, "--framing", "ffhq", "--zoom", "2")
    assert code == 2 and "--zoom is for --framing dlib" in err


def test_the_command_lists_photos_without_faces(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Untrained networks of the published shapes find nothing."""
    save_asset(tmp_path / "assets", "detector", BlazeFace(), {"kind": "face-detector", "architecture": "detector"})
    save_asset(tmp_path / "assets", "landmarks", Landmarks(), {"kind": "face-landmarks", "architecture": "landmarks"})
    (tmp_path / "in").mkdir()
    for name in ("1.png", "2.png"):
        Image.fromarray(photo(chip_at(0.5, 0.5, 0.5))).save(tmp_path / "in" / name)
    code, out, _ = run_cli(capsys, "align", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--assets",
                           str(tmp_path / "assets"))
    assert code == 0 and f"0 aligned, no face found in 2, the first {tmp_path / 'in' / '1.png'}" in out


def test_the_published_detector_says_where_nothing_is() -> None:
    folder = os.environ.get("LATENTPRINT_FACES", "")
    if not folder:
        pytest.skip("LATENTPRINT_FACES names no folder that 'latentprint convert faces' wrote")
    from latentprint.plugins.faces.find import face_finder

    finder = face_finder(Path(folder))
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    assert finder(noise) is None and finder(np.full((64, 64, 3), 128, np.uint8)) is None
    assert ROUGH.shape == (4, 2)
