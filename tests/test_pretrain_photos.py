"""The attribute network learns on photos what the published networks measure in them, however they are shown."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from face_attributes import save_parts, untrained_attributes
from helpers import run_cli
from PIL import Image
from torch import Tensor

from latentprint.data.base import ImageSet
from latentprint.data.procedural import ATTRIBUTE_NAMES, make_people
from latentprint.engine.run import RunDir
from latentprint.errors import UserError
from latentprint.models.assets import PACKAGED, load_asset, read_index
from latentprint.models.attributes import AttributeNetwork, agreement, mirrored
from latentprint.plugins.faces.attributes import FaceAttributes
from latentprint.plugins.faces.geometry import POSE_UNIT
from latentprint.pretrain import photos
from latentprint.pretrain.attributes import AttributesConfig, begun
from latentprint.pretrain.photos import MeasuredPhotos, measure_photos, measured, views

ROLL, YAW = ATTRIBUTE_NAMES.index("roll"), ATTRIBUTE_NAMES.index("yaw")


def dots(angle: Tensor, size: int = 64) -> Tensor:
    """Pictures ``(N, 3, size, size)`` uint8 with a bright eye on either side, turned clockwise by angles (radians)."""
    line = (torch.arange(size) + 0.5) / size - 0.5
    y, x = torch.meshgrid(line, line, indexing="ij")
    eyes = [torch.exp(-((x - side * 0.18 * angle.cos()[:, None, None]) ** 2
                        + (y - side * 0.18 * angle.sin()[:, None, None]) ** 2) / 0.004) for side in (-1, 1)]
    return (torch.stack(eyes).sum(0) * 200).round().to(torch.uint8)[:, None].expand(-1, 3, -1, -1).contiguous()


def angle_of(x: Tensor) -> Tensor:
    """The turn of the principal axis of what is bright, in radians."""
    weight = x.mean(1).clamp_min(0.15) - 0.15
    line = torch.arange(x.shape[-1]).float()
    y, x_ = torch.meshgrid(line, line, indexing="ij")
    total = weight.sum((1, 2))
    cx, cy = (weight * x_).sum((1, 2)) / total, (weight * y).sum((1, 2)) / total
    dx, dy = x_ - cx[:, None, None], y - cy[:, None, None]
    return 0.5 * torch.atan2(2 * (weight * dx * dy).sum((1, 2)), (weight * (dx**2 - dy**2)).sum((1, 2)))


def test_views_have_the_attributes_of_what_they_show() -> None:
    angle = torch.linspace(-0.3, 0.3, 24)
    attributes = torch.randn(24, 10)
    attributes[:, ROLL] = angle.rad2deg() / POSE_UNIT[2]
    known = MeasuredPhotos(dots(angle), attributes)
    x, truth = views(known, torch.arange(24), torch.Generator().manual_seed(0))
    assert x.shape == (24, 3, 64, 64) and x.min() >= 0 and x.max() <= 1
    turned = truth[:, ROLL] * math.radians(POSE_UNIT[2])
    assert (turned.abs() - angle.abs()).abs().max() > 0.05  # they are shown at other angles
    assert (angle_of(x) - turned).abs().max() < 0.03
    flipped = truth[:, YAW] == -attributes[:, YAW]
    assert 4 <= int(flipped.sum()) <= 20
    rest = [i for i in range(10) if i != ROLL]
    assert torch.equal(truth[~flipped][:, rest], attributes[~flipped][:, rest])
    assert torch.equal(truth[flipped][:, rest], mirrored(attributes[flipped])[:, rest])
    again, _ = views(known, torch.arange(24), torch.Generator().manual_seed(0))
    assert torch.equal(x, again)


def test_a_photo_and_its_mirror_image_measure_opposite_sides() -> None:
    network, faces = untrained_attributes(), make_people(range(3), 2)
    first, seen = measured(network, faces.images, batch=4)
    second, _ = measured(network, faces.images.flip(3))
    assert seen.all() and torch.allclose(second, mirrored(first), atol=1e-4)
    alone = network(faces.floats())
    other = network(faces.floats().flip(3))
    assert torch.allclose(first, (alone + mirrored(other)) / 2, atol=1e-4)


class Half(FaceAttributes):
    """Sees a face in pictures whose first pixel is bright; their attributes are the brightness of it."""

    calls = 0

    def measure(self, x: Tensor) -> tuple[Tensor, Tensor]:
        Half.calls += 1
        bright = x[:, 0, 0, [0, -1]].amax(1)
        return bright[:, None].expand(-1, 10), bright > 0.5


def marked(bright: list[int]) -> ImageSet:
    faces = make_people(range(len(bright) // 2), 2, size=32)
    images = faces.images.clone()
    images[:, :, 0, 0] = images[:, :, 0, -1] = torch.tensor(bright, dtype=torch.uint8)[:, None]
    return replace(faces, images=images)


@pytest.mark.usefixtures("listening")
def test_photos_are_measured_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, run = marked([200 + i for i in range(30)] + [10] * 10), RunDir.open(tmp_path, {"seed": 0})
    Half.calls = 0
    known = measure_photos(run, "measured", Half(), data, 1000)
    assert "a face is found in 30 of 40 photos of procedural" in " ".join(capsys.readouterr().err.split())
    assert torch.equal(known.images, data.images[:30])
    assert torch.allclose(known.attributes[:, 1], torch.arange(200, 230) / 255)  # yaw changes its sign
    calls, run = Half.calls, RunDir.open(tmp_path, {"seed": 0}, resume=True)
    assert torch.equal(measure_photos(run, "measured", Half(), data, 1000).attributes, known.attributes)
    assert Half.calls == calls
    few = measure_photos(run, "few", Half(), data, 20)
    assert len(few.images) == 15 and torch.equal(few.images[1], data.images[2])


def test_photos_of_which_too_few_show_a_face(tmp_path: Path) -> None:
    run = RunDir.open(tmp_path, {"seed": 0})
    with pytest.raises(UserError, match=r"a face is found in 4 of 10 photos of .*at least 50% are needed"):
        measure_photos(run, "measured", Half(), marked([200] * 4 + [10] * 6), 1000)


def test_agreement_is_a_correlation() -> None:
    truth = torch.randn(50, 10)
    found = agreement(torch.cat([truth[:, :5], -truth[:, 5:]], 1), truth)
    assert list(found) == list(ATTRIBUTE_NAMES) and [*found.values()] == [1.0] * 5 + [-1.0] * 5
    assert set(agreement(torch.zeros(5, 10), truth[:5]).values()) == {None}


# ---- the command ----


@pytest.fixture
def people(tmp_path: Path) -> Path:
    """Six people with one or two photos each."""
    faces = make_people(range(6), 2)
    for i, (image, label) in enumerate(zip(faces.images, faces.labels, strict=True)):
        folder = tmp_path / "people" / f"{int(label)}"
        folder.mkdir(parents=True, exist_ok=True)
        if label < 5 or i % 2:
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{i}.png")
    return tmp_path / "people"


def pretrained(capsys: pytest.CaptureFixture[str], out: Path, *settings: str, more: tuple[str, ...] = ()) -> str:
    words = ["pretrain", "attributes", "--preset", "tiny", "--out", str(out), *more]
    for setting in settings:
        words += ["--set", setting]
    code, _, err = run_cli(capsys, *words)
    assert code == 0, err
    return err


def test_a_network_is_made_of_photos(people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                     monkeypatch: pytest.MonkeyPatch) -> None:
    parts = save_parts(untrained_attributes(), tmp_path / "parts")
    settings = (f"data={{kind: folder, path: {people}}}", f"assets={parts}", "batch=8")
    pretrained(capsys, tmp_path / "run", *settings)
    record = read_index(tmp_path / "run" / "assets")["attributes"]
    hashes = {name: each["sha256"] for name, each in read_index(parts).items()}
    assert record["kind"] == "attributes" and record["domain"] == "real" and record["measured_by"] == hashes
    assert record["metrics"]["photos"] == 1 and set(record["metrics"]["correlation"]) == set(ATTRIBUTE_NAMES)
    loaded = load_asset("attributes", tmp_path / "run" / "assets")
    assert isinstance(loaded, AttributeNetwork) and loaded.name == "attribute network of real faces"
    monkeypatch.setattr(photos, "measured", None)  # measured already
    pretrained(capsys, tmp_path / "run", *settings, more=("--resume",))
    assert read_index(tmp_path / "run" / "assets")["attributes"]["sha256"] == record["sha256"]


def test_it_may_begin_with_the_packaged_weights() -> None:
    packaged = load_asset("attributes", PACKAGED).state_dict()
    for start, same in (("packaged", True), ("new", False)):
        network = begun(AttributesConfig(start=start), "real")  # type: ignore[arg-type]
        assert torch.equal(network.state_dict()["head.1.weight"], packaged["head.1.weight"]) is same
        assert network.name == "attribute network of real faces" and all(p.requires_grad for p in network.parameters())


def test_the_composed_network_is_an_asset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = untrained_attributes()
    parts = save_parts(network, tmp_path / "parts")
    pretrained(capsys, tmp_path / "run", "network=composed", f"assets={parts}")
    record = read_index(tmp_path / "run" / "assets")["attributes"]
    assert record["kind"] == "face-attributes" and record["domain"] == "real" and "people" not in record["config"]
    x = make_people(range(2), 1).floats()
    loaded = load_asset("attributes", tmp_path / "run" / "assets")
    assert isinstance(loaded, FaceAttributes) and torch.allclose(loaded(x), network(x), atol=0.05)
