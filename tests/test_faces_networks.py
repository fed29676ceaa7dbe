"""Networks of real faces: each against a slow reference, on miniature packages; and against the vectors that the
publishers' own code gave, where the packages are there."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from face_packages import (
    Array,
    Packages,
    blazeface_outputs,
    convolved,
    dlib_embedding,
    faceres_outputs,
    legacy_resized,
    nhwc,
    trunk_outputs,
    unpacked,
)
from torch import Tensor, nn

from latentprint.models.assets import load_asset, read_index
from latentprint.plugins.faces import dlib, faceres
from latentprint.plugins.faces.build import Expression, FaceRecogniser, Landmarks
from latentprint.plugins.faces.convert import convert_faces
from latentprint.plugins.faces.detector import BlazeFace, anchors
from latentprint.plugins.faces.layers import SamePad, conv_of, same_conv

#: A folder that `latentprint convert faces` wrote, for the tests of parity.
CONVERTED = os.environ.get("LATENTPRINT_FACES", "")
published = pytest.mark.skipif(
    not CONVERTED, reason="LATENTPRINT_FACES names no folder that 'latentprint convert faces' wrote")


@pytest.fixture(scope="module")
def packages() -> Packages:
    return Packages()


@pytest.fixture(scope="module")
def assets(packages: Packages, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All networks of the miniature npm packages, converted."""
    folder = tmp_path_factory.mktemp("faces")
    files = unpacked(folder / "packages", {**packages.face_api, **packages.human})
    convert_faces([files], folder / "assets", checked=False)
    return folder / "assets"


def loaded(assets: Path, name: str) -> nn.Module:
    return load_asset(name, assets)


def pictures(n: int, side: int) -> Tensor:
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(side))


def close(found: Tensor, expected: Array, relative: float = 1e-4) -> None:
    """Within a share of the largest value."""
    assert np.abs(found.double().numpy() - expected).max() <= relative * np.abs(expected).max()
    assert np.ptp(expected) > 0.01 * np.abs(expected).max()  # else nothing is compared


# ---- layers ----


@pytest.mark.parametrize(
    ("n", "kernel", "stride", "before", "after"),
    [(112, 3, 2, 0, 1), (7, 3, 2, 1, 1), (256, 5, 2, 1, 2), (5, 5, 2, 2, 2), (16, 2, 2, 0, 0), (9, 3, 1, 1, 1),
     (10, 3, 3, 1, 1), (8, 4, 3, 1, 1), (4, 1, 2, 0, 0)],
)
def test_same_padding_puts_the_odd_pixel_last(n: int, kernel: int, stride: int, before: int, after: int) -> None:
    x = torch.rand(1, 1, n, n + stride) + 1
    padded = SamePad(kernel, stride)(x)
    assert padded.shape == (1, 1, n + before + after, n + stride + before + after)
    assert torch.equal(padded[:, :, before: before + n, before: before + n + stride], x)
    assert padded.count_nonzero() == x.numel()


@pytest.mark.parametrize("n", [7, 8])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (3, 1), (5, 2), (1, 1)])
def test_same_convolutions_are_those_of_tensorflow(n: int, kernel: int, stride: int) -> None:
    made, x = same_conv(3, 5, kernel, stride), pictures(2, n)
    weight, bias = conv_of(made).weight, conv_of(made).bias
    assert bias is not None
    expected = convolved(nhwc(x), weight.detach().double().permute(2, 3, 1, 0).numpy(), stride) + bias.detach().numpy()
    assert np.allclose(nhwc(made(x).detach()), expected, atol=1e-6)


def test_a_row_and_a_column_are_appended_where_the_stride_leaves_one_over() -> None:
    """4 x 4 pixels: the convolution gives 1 x 1, the mean 2 x 2."""
    unit = dlib.Unit(1, 2, True)
    with torch.no_grad():
        for parameter in unit.parameters():
            parameter.zero_()
        assert unit.conv2.bias is not None
        unit.conv2.bias.copy_(torch.tensor([10.0, 20.0]))
        x = torch.arange(16.0).view(1, 1, 4, 4)
        out = unit(x)
    means = torch.tensor([[2.5, 4.5], [10.5, 12.5]])
    corner = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    assert torch.equal(out, torch.stack([means + 10 * corner, 20 * corner])[None])


# ---- whole networks against the reference ----


def test_dlibs_recogniser(assets: Path, packages: Packages) -> None:
    recogniser, x = loaded(assets, "dlib"), pictures(2, 150)
    assert isinstance(recogniser, FaceRecogniser)
    expected = dlib_embedding(packages.written["dlib"].values, nhwc(x))
    close(recogniser.raw(x), expected)
    unit = recogniser(x)
    assert torch.allclose(unit.norm(dim=1), torch.ones(2)) and unit.shape == (2, recogniser.dim) == (2, 128)


def test_dlibs_own_file_gives_the_same_network(packages: Packages, assets: Path, tmp_path: Path) -> None:
    """Both at once: dlib's floats are preferred to face-api's bytes, which here stand for the same numbers."""
    files = unpacked(tmp_path / "packages", {**packages.models, **packages.face_api})
    convert_faces([files], tmp_path / "own", checked=False)
    assert "face-recognition-models 0.3.0" in read_index(tmp_path / "own")["dlib"]["source"]
    own, other = load_asset("dlib", tmp_path / "own").state_dict(), load_asset("dlib", assets).state_dict()
    assert own.keys() == other.keys() and len(own) == 59
    for key, value in own.items():
        assert torch.allclose(value, other[key], atol=1e-6), key


def test_faceres(assets: Path, packages: Packages) -> None:
    recogniser, x = loaded(assets, "faceres"), pictures(2, 90)
    assert isinstance(recogniser, FaceRecogniser) and recogniser.dim == 1024
    network = recogniser.network
    assert isinstance(network, faceres.FaceresNetwork)
    values = packages.written["faceres"].values
    embedding, ages, genders = faceres_outputs(values, nhwc(x) * 255)
    close(network(x * 255), embedding)
    for found, expected in zip(network.age_and_gender(network(x * 255)), (ages, genders), strict=True):
        assert np.allclose(found.numpy(), expected, atol=1e-5)
    # As it was trained, the colours are the other way round, and a mean is subtracted.
    as_trained = nhwc(x)[..., ::-1] * 255 - np.array([103.939, 116.779, 123.68])
    close(network(recogniser.prepare(x)), faceres_outputs(values, as_trained)[0])


@pytest.mark.parametrize("name", ["landmarks", "expression"])
def test_landmarks_and_expressions(assets: Path, packages: Packages, name: str) -> None:
    network, x = loaded(assets, name), pictures(2, 112)
    expected = trunk_outputs(packages.written[name].values, nhwc(x))
    if name == "landmarks":
        assert isinstance(network, Landmarks)
        close(network(x), expected.reshape(2, 68, 2))
    else:
        assert isinstance(network, Expression)
        powers = np.exp(expected)
        assert np.allclose(network(x).numpy(), powers / powers.sum(1, keepdims=True), atol=1e-5)


def test_the_detector(assets: Path, packages: Packages) -> None:
    network, x = loaded(assets, "detector"), pictures(2, 64) * 2 - 1
    assert isinstance(network, BlazeFace)
    reference = blazeface_outputs(packages.written["detector"].values, nhwc(x))
    for found, expected in zip(network(x), reference, strict=True):
        close(found, expected)
    assert anchors().shape == (896, 2)
    assert anchors()[[0, 1, 2, 511, 512, 517, 518, 895]].tolist() == [
        [8, 8], [8, 8], [24, 8], [248, 248], [16, 16], [16, 16], [48, 16], [240, 240]]


# ---- gradients ----


@pytest.mark.parametrize(("name", "side"), [("dlib", 64), ("faceres", 48), ("landmarks", 40), ("expression", 112)])
def test_gradients_are_those_of_central_differences(assets: Path, name: str, side: int) -> None:
    """In a random direction, in float64; of faceres without the enlargement to 224 pixels, which takes seconds."""
    network = loaded(assets, name).double()
    output: Callable[[Tensor], Tensor] = network
    if isinstance(network, FaceRecogniser):  # embeddings of unit length are float32
        output = network.raw
        if name == "faceres":
            network.framing = nn.Identity()  # type: ignore[assignment]
    x = pictures(1, side).double().requires_grad_()
    weight = torch.randn_like(output(x))
    towards = torch.randn_like(x)

    def value(x: Tensor) -> Tensor:
        return (output(x) * weight).sum()

    (gradient,) = torch.autograd.grad(value(x), x)
    with torch.no_grad():
        step = 1e-8  # a larger one crosses kinks of ReLU
        numeric = (value(x + step * towards) - value(x - step * towards)) / (2 * step)
    assert gradient.isfinite().all() and gradient.abs().max() > 0
    assert float((gradient * towards).sum()) == pytest.approx(float(numeric), rel=1e-3)


# ---- parity with the publishers' code ----


@pytest.fixture(scope="module")
def golden() -> dict[str, Array]:
    """Twelve faces of the Face Research Lab London Set (DeBruine and Jones 2017, CC BY 4.0) and what the packages'
    JavaScript answered, tfjs 4.22.0 on the CPU; ``dlib128_float``: dlib 20.0.1 at its own size."""
    with np.load(Path(__file__).parent / "faces_london.npz") as found:
        return dict(found)


def answer(name: str, golden: dict[str, Array], side: int, network: Callable[[Tensor], Tensor]) -> Array:
    """Of the pictures, enlarged as TensorFlow.js does."""
    x = torch.from_numpy(legacy_resized(golden["images"], side)).permute(0, 3, 1, 2).float()
    with torch.no_grad():
        return network(x / 255 if name != "faceres" else x).numpy()


def worst(found: Array, expected: Array) -> float:
    return float(np.abs(found - expected).max())


@published
def test_dlib_answers_as_published(golden: dict[str, Array]) -> None:
    """Bytes: to 1e-5. Floats: 0.04 from those in the mean, and nearly what dlib itself answers."""
    recogniser = load_asset("dlib", Path(CONVERTED))
    assert isinstance(recogniser, FaceRecogniser)
    found = answer("dlib", golden, dlib.SIDE, recogniser.raw)
    if "face-api" in read_index(Path(CONVERTED))["dlib"]["source"]:
        assert worst(found, golden["dlib128_js64"]) < 1e-5
    else:
        assert np.linalg.norm(found - golden["dlib128_js64"], axis=1).max() < 0.05
        x = torch.from_numpy(golden["images"]).permute(0, 3, 1, 2).float()
        larger = nn.functional.interpolate(x, (dlib.SIDE, dlib.SIDE), mode="bilinear", align_corners=False)
        assert worst(recogniser.raw(larger.round() / 255).detach().numpy(), golden["dlib128_float"]) < 1e-3


@published
def test_faceres_answers_as_published(golden: dict[str, Array]) -> None:
    network = getattr(load_asset("faceres", Path(CONVERTED)), "network", None)
    assert isinstance(network, faceres.FaceresNetwork)
    assert worst(answer("faceres", golden, faceres.SIDE, network), golden["faceres1024_js64"]) < 1e-5
    with torch.no_grad():
        ages, genders = network.age_and_gender(torch.from_numpy(golden["faceres1024"]))
    assert worst(ages.numpy(), golden["age100"]) < 1e-5 and worst(genders.numpy(), golden["gender1"]) < 1e-5


@published
@pytest.mark.parametrize(("name", "key"), [("landmarks", "landmarks68_js64"), ("expression", "expression7_js64")])
def test_landmarks_and_expressions_answer_as_published(golden: dict[str, Array], name: str, key: str) -> None:
    network = load_asset(name, Path(CONVERTED))
    assert worst(answer(name, golden, 112, network), golden[key]) < 1e-5


def test_the_golden_file_is_small_and_names_its_source(golden: dict[str, Array]) -> None:
    assert (Path(__file__).parent / "faces_london.npz").stat().st_size < 400_000
    assert golden["images"].shape == (12, 64, 64, 3) and "CC BY 4.0" in str(golden["credit"])
