"""Attributes of real faces: pose from landmarks of known poses, signs, light of known direction, gradients."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from face_attributes import landmarks_of, save_parts, untrained_attributes
from scipy.stats import rankdata
from torch import Tensor

from latentprint.data.parameters import N_FRECKLES
from latentprint.data.procedural import ATTRIBUTE_NAMES, IDENTITY_NAMES, NUISANCE_NAMES, make_people, render
from latentprint.data.warp import resample
from latentprint.errors import UserError
from latentprint.losses.perceptual import feature_distance
from latentprint.metrics.perceptual import EmbeddedDistance, perceptual_metric
from latentprint.models.assets import load_asset, save_asset
from latentprint.models.attributes import AttributeNetwork, in_batches, mirrored
from latentprint.plugins.faces.attributes import FaceAttributes, composed, sources
from latentprint.plugins.faces.build import Expression, Landmarks
from latentprint.plugins.faces.geometry import (
    MIRRORED,
    POSE_UNIT,
    expression_columns,
    light_columns,
    pose_columns,
    weak_perspective,
)

COLUMN = {name: i for i, name in enumerate(ATTRIBUTE_NAMES)}

@pytest.mark.parametrize("pose", [(0, 0, 0), (20, 0, 0), (-35, 12, 5), (10, -20, -40), (0, 0, 170)])
def test_poses_are_found_whatever_the_place_and_the_scale(pose: tuple[float, float, float]) -> None:
    for scale, shift in ((0.0046, 0.0), (0.001, 0.3)):
        found = weak_perspective(landmarks_of(*pose, scale)[None] + shift)
        assert torch.allclose(found.angles.rad2deg(), torch.tensor([pose], dtype=torch.float64), atol=1e-6)
        assert found.scale.item() == pytest.approx(scale)
    for turn in (0.0, 7.0):  # of the chip in which they were found
        units = torch.tensor([pose[0], pose[1], pose[2] + turn], dtype=torch.float64) / torch.tensor(POSE_UNIT)
        columns = pose_columns(found, torch.tensor([math.radians(turn)], dtype=torch.float64))[0]
        assert torch.allclose(columns, 4 * (units / 4).tanh(), atol=1e-6)


def test_the_convention_is_that_of_rendered_faces() -> None:
    """What lies in the middle of a face moves right with yaw and down with pitch; the eye on the right moves down with
    roll; the side that the light comes from is bright."""
    identity = torch.zeros(1, len(IDENTITY_NAMES) + 2 * N_FRECKLES)

    def rendered(**photo: float) -> Tensor:
        nuisance = torch.tensor([[photo.get(name, 0.0) for name in NUISANCE_NAMES]])
        return render(identity, nuisance, 64)[0].mean((0, 1))

    def moved(photo: Tensor, axis: int, columns: slice = slice(22, 42)) -> int:
        misses = [(photo.roll(-by, axis)[24:44, columns] - rendered()[24:44, columns]).square().mean()
                  for by in range(-6, 7)]
        return int(torch.stack(misses).argmin()) - 6

    assert moved(rendered(yaw=0.5), 1) > 0 > moved(rendered(yaw=-0.5), 1)
    assert moved(rendered(pitch=0.7), 0) > 0 > moved(rendered(pitch=-0.7), 0)
    assert moved(rendered(roll=0.7), 0, slice(36, 50)) > 0 > moved(rendered(roll=0.7), 0, slice(14, 28))
    face = rendered(light_x=0.8)[24:48, 16:48]
    assert face[:, 16:].mean() > face[:, :16].mean() + 0.05
    below, above = (rendered(light_y=sign)[24:48, 16:48] for sign in (1.0, -1.0))
    assert (below[12:] - above[12:]).mean() > (below[:12] - above[:12]).mean() + 0.05


def test_mirrored_landmarks_change_yaw_and_roll_alone() -> None:
    points = torch.stack([landmarks_of(15, 5, 8), landmarks_of(-4, -9, 3)])
    logits = torch.randn(2, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    other = points[:, list(MIRRORED)] * torch.tensor([-1.0, 1.0]) + torch.tensor([1.0, 0.0])
    first, second = weak_perspective(points), weak_perspective(other)
    assert torch.allclose(second.angles, first.angles * torch.tensor([-1, 1, -1]))
    assert torch.allclose(expression_columns(points, first, logits), expression_columns(other, second, logits))
    assert sorted(MIRRORED) == list(range(68)) and all(MIRRORED[MIRRORED[i]] == i for i in range(68))
    assert mirrored(torch.ones(1, 10)).tolist() == [[-1, 1, -1, 1, 1, 1, 1, -1, 1, 1]]


@pytest.mark.parametrize(("column", "moves"), [
    (0, {48: (-6, 0), 54: (6, 0)}), (1, dict.fromkeys((65, 66, 67), (0, 5))),
    (2, dict.fromkeys((40, 41, 46, 47), (0, 2))), (3, dict.fromkeys(range(17, 27), (0, -4)))])
def test_each_movement_of_the_face_has_its_column(column: int, moves: dict[int, tuple[float, float]]) -> None:
    """A wider mouth, an open one, wider eyes and raised brows, of a turned face."""
    before, logits = landmarks_of(10, 5, 20), torch.zeros(1, 7, dtype=torch.float64)
    after, turn = before.clone(), math.radians(20)
    for index, (right, down) in moves.items():
        after[index] += 0.0046 * torch.tensor([right * math.cos(turn) - down * math.sin(turn),
                                              right * math.sin(turn) + down * math.cos(turn)])
    pose = weak_perspective(before[None])
    step = expression_columns(after[None], pose, logits) - expression_columns(before[None], pose, logits)
    assert step[0, column] > 0.1
    others = step[0, [i for i in range(4) if i != column]].abs()
    assert others.max() < 0.12  # the gap between eyes and brows is measured from the eyes
    happy = logits + torch.nn.functional.one_hot(torch.tensor([1]), 7) * 4
    step = expression_columns(before[None], pose, happy) - expression_columns(before[None], pose, logits)
    assert step[0, 0] > 0.1 and step[0, 1:].abs().max() == 0


def test_light_comes_from_where_the_face_is_bright() -> None:
    points = landmarks_of(0, 0, 0).float()[None]
    line = (torch.arange(112) + 0.5) / 112
    flat = torch.full((1, 3, 112, 112), 0.5)
    neutral = light_columns(flat, points)[0]
    to_the_right = flat * torch.exp(1.2 * (line - 0.5))
    right, left = light_columns(to_the_right, points)[0], light_columns(to_the_right.flip(3), points)[0]
    below = light_columns(flat * torch.exp(1.2 * (line - 0.5))[:, None], points)[0]
    assert neutral[0].abs() < 1e-5 and right[0] > 0.3 and torch.allclose(left[0], -right[0], atol=1e-2)
    assert below[1] > neutral[1] + 0.3 and below[0].abs() < 1e-4
    assert right[2] > neutral[2] + 0.1 and torch.allclose(left[2], right[2], atol=1e-2)
    dimmer = light_columns(to_the_right * 0.7, points)[0]
    assert torch.allclose(dimmer, right, atol=0.05)  # a darker photo is not another light


# ---- the network ----


def test_gradients_are_those_of_central_differences() -> None:
    network = untrained_attributes().double()
    g = torch.Generator().manual_seed(1)
    x = torch.rand(1, 3, 64, 64, dtype=torch.float64, generator=g).mul(0.2).add(0.4)
    place, weight = network.place(x), torch.randn(1, 10, dtype=torch.float64, generator=g)
    leaf = x.clone().requires_grad_(True)
    (network.read(leaf, place)[0] * weight).sum().backward()
    assert leaf.grad is not None and leaf.grad.isfinite().all()
    through = x.clone().requires_grad_(True)
    (network(through) * weight).sum().backward()
    assert torch.equal(leaf.grad, through.grad)  # type: ignore[arg-type]
    for _ in range(2):
        direction = torch.randn(x.shape, dtype=torch.float64, generator=g)
        step = 1e-6 * direction
        ends = [(network.read(x + sign * step, place)[0] * weight).sum() for sign in (1, -1)]
        expected = float(ends[0] - ends[1]) / 2e-6
        assert float((leaf.grad * direction).sum()) == pytest.approx(expected, rel=1e-2, abs=1e-6)


def test_gradients_of_every_column() -> None:
    points = landmarks_of(8, 3, 4)[None].requires_grad_(True)
    logits = torch.linspace(-1, 1, 7, dtype=torch.float64)[None].requires_grad_(True)
    chip = torch.rand(1, 3, 112, 112, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    pose = pose_columns(weak_perspective(points), torch.zeros(1, dtype=torch.float64))
    columns = torch.cat([pose, expression_columns(points, weak_perspective(points), logits),
                         light_columns(chip, points)], 1)[0]
    for column, name in zip(columns, ATTRIBUTE_NAMES, strict=True):
        (found,) = torch.autograd.grad(column, points, retain_graph=True)
        assert found.isfinite().all() and found.abs().sum() > 0, name
    assert torch.autograd.gradcheck(lambda p: weak_perspective(p).angles, points)
    assert torch.autograd.gradcheck(lambda p, z: expression_columns(p, weak_perspective(p), z), (points, logits))


def test_pictures_do_not_depend_on_their_batch_or_on_half_precision() -> None:
    network = untrained_attributes()
    x = torch.rand(3, 3, 96, 96, generator=torch.Generator().manual_seed(2))
    together = network(x)
    assert torch.allclose(together, torch.cat([network(each[None]) for each in x]), atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.allclose(network(x), together, atol=1e-4)
    assert together.abs().max() <= 4
    for odd in (torch.zeros(1, 3, 64, 64), torch.ones(1, 3, 40, 40)):
        assert network(odd).isfinite().all()


def test_features_are_those_of_the_landmark_network() -> None:
    network = untrained_attributes()
    x = torch.rand(2, 3, 64, 64)
    maps = network.depths(x)
    assert [tuple(each.shape) for each in maps] == [(2, 64, 28, 28), (2, 128, 14, 14), (2, 256, 7, 7)]
    assert torch.allclose(network.landmarks.network.fc(network.pooled(x)).view(2, 68, 2), network.landmarks(x),
                          atol=1e-5)
    metric = EmbeddedDistance(network)
    assert metric.name == "perceptual distance (landmark network)"
    assert torch.allclose(metric.distance(x, x.flip(0)), feature_distance(maps, [each.flip(0) for each in maps]))


def test_it_is_composed_of_two_assets_and_is_one(tmp_path: Path) -> None:
    network, x = untrained_attributes(), torch.rand(2, 3, 64, 64)
    made = composed(save_parts(network, tmp_path))
    assert torch.equal(made(x), network(x)) and not any(p.requires_grad for p in made.parameters())
    assert set(sources(tmp_path)) == {"landmarks", "expression"}
    save_asset(tmp_path, "attributes", made, {"kind": "face-attributes", "domain": "real"}, half=False)
    assert torch.equal(load_asset("attributes", tmp_path)(x), network(x))
    assert perceptual_metric(None, assets=tmp_path).name == "perceptual distance (landmark network)"
    save_asset(tmp_path, "attributes", AttributeNetwork(), {"kind": "attributes", "domain": "real"})
    assert perceptual_metric(None, assets=tmp_path).name == "perceptual distance (attribute network of real faces)"


def test_what_it_cannot_be_composed_of(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"'landmarks' is published.*latentprint convert faces"):
        composed(tmp_path / "empty")
    save_asset(tmp_path, "landmarks", Landmarks(), {"kind": "face-landmarks"})
    with pytest.raises(UserError, match=r"'expression' is published.*latentprint convert faces"):
        composed(tmp_path)
    save_asset(tmp_path, "landmarks", Expression(), {"kind": "face-expression"})
    save_asset(tmp_path, "expression", Expression(), {"kind": "face-expression"})
    with pytest.raises(UserError, match="asset 'landmarks' is a face-expression"):
        composed(tmp_path)


# ---- the published networks, on photos ----


@pytest.fixture(scope="module")
def published() -> FaceAttributes:
    folder = os.environ.get("LATENTPRINT_FACES")
    if folder is None:
        pytest.skip("LATENTPRINT_FACES is not set: no published networks of real faces")
    return composed(Path(folder))


@pytest.fixture(scope="module")
def london() -> tuple[Tensor, Tensor]:
    """Photos of the Face Research Lab London Set (DeBruine and Jones 2017, CC BY 4.0), and who smiles."""
    path = Path(os.environ.get("LATENTPRINT_DATA", "")) / "london_64.npz"
    if "LATENTPRINT_DATA" not in os.environ or not path.is_file():
        pytest.skip("LATENTPRINT_DATA is not set or has no london_64.npz")
    with np.load(path) as pack:
        return torch.from_numpy(pack["images"]).permute(0, 3, 1, 2), torch.from_numpy(pack["smiling"]).long()


@pytest.fixture(scope="module")
def read(published: FaceAttributes, london: tuple[Tensor, Tensor]) -> Tensor:
    return in_batches(published, london[0], batch=64)


def area_under_curve(score: Tensor, positive: Tensor) -> float:
    ranks, n = torch.from_numpy(rankdata(score.numpy())), int(positive.sum())
    return float((ranks[positive == 1].sum() - n * (n + 1) / 2) / (n * (len(positive) - n)))


def test_smiles_of_londoners(london: tuple[Tensor, Tensor], read: Tensor) -> None:
    assert area_under_curve(read[:, COLUMN["smile"]], london[1]) >= 0.95
    assert read.abs().max() < 1.5 and read[:, :3].mean(0).abs().max() < 0.3  # they look into the camera


def test_mirrored_and_recropped_londoners(published: FaceAttributes, london: tuple[Tensor, Tensor],
                                          read: Tensor) -> None:
    few = torch.arange(0, len(read), 3)
    x, before = london[0][few].float() / 255, read[few]
    other = torch.cat([published(part) for part in x.flip(3).split(64)])
    turn = math.radians(10)
    linear = 0.9 * torch.tensor([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    place = torch.cat([linear, torch.tensor([[0.53], [0.52]]) - linear @ torch.tensor([[0.5], [0.5]])], 1)
    cropped = torch.cat([published(part) for part in resample(x, place[None], 64).split(64)])
    cropped[:, COLUMN["roll"]] += 10 / POSE_UNIT[2]
    for name, after, least in (("mirrored", mirrored(other), 0.75), ("recropped", cropped, 0.75)):
        assert (after - before).square().mean(0).sqrt().max() < 0.3, name
        for column in ("yaw", "pitch", "smile", "mouth_open", "brow_raise", "light_y"):
            pair = torch.stack([before[:, COLUMN[column]], after[:, COLUMN[column]]])
            assert torch.corrcoef(pair)[0, 1] > least, (name, column)


def test_turned_faces_in_the_renderers_convention(published: FaceAttributes) -> None:
    """The networks do not know rendered faces well, but which way these turn they tell."""
    faces = make_people(range(30), 3)
    assert faces.attributes is not None
    columns, seen = published.measure(faces.floats())
    assert seen.float().mean() > 0.3
    for column, least in (("yaw", 0.6), ("roll", 0.3), ("light_x", 0.5)):
        pair = torch.stack([columns[seen, COLUMN[column]], faces.attributes[seen, COLUMN[column]]])
        assert torch.corrcoef(pair)[0, 1] > least, column
