"""What reconstructions are scored by: the share of variance recovered, published PSNR, LPIPS and re-identification."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from skimage.metrics import mean_squared_error, peak_signal_noise_ratio
from torch import Tensor
from torch.nn.functional import normalize

from latentprint.errors import UserError
from latentprint.losses.perceptual import DEPTH_WEIGHTS, EPSILON
from latentprint.metrics import perceptual
from latentprint.metrics.image import psnr
from latentprint.metrics.perceptual import LPIPS, EmbeddedDistance, perceptual_metric
from latentprint.metrics.reconstruction import psnr_per_batch, reidentification, variance_recovered
from latentprint.models.attributes import AttributeNetwork


def pictures(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


# ---- variance recovered ----


def test_the_mean_image_recovers_nothing_and_the_photos_everything() -> None:
    photos = pictures(9, 3, 8, 8)
    mean = photos.mean(0)
    assert variance_recovered(mean.expand_as(photos), photos, mean).share == 0
    assert variance_recovered(photos, photos, mean).share == 1
    assert variance_recovered(photos.flip(0), photos, mean).share < 0


def test_a_reconstruction_half_way_recovers_three_quarters_of_every_image() -> None:
    photos = pictures(9, 3, 8, 8)
    mean = photos.mean(0)
    recovered = variance_recovered((photos + mean) / 2, photos, mean)
    assert recovered.share == pytest.approx(0.75, abs=1e-6)
    assert torch.allclose(recovered.per_image, torch.full((9,), 0.75), atol=1e-5)


def test_it_is_the_coefficient_of_determination_and_not_the_mean_of_ratios() -> None:
    photos, drawn = pictures(20, 3, 8, 8), pictures(20, 3, 8, 8, seed=1) * 0.1 + 0.5
    mean = pictures(3, 8, 8, seed=2)
    photos[0] = (mean + 1e-3).clamp(0, 1)  # near the mean image: its own ratio is of the order of -1e4
    recovered = variance_recovered(drawn, photos, mean)
    pairs = list(zip(drawn.numpy(), photos.numpy(), strict=True))
    error = sum(mean_squared_error(b, a) for a, b in pairs)
    floor = sum(mean_squared_error(b, mean.numpy()) for _, b in pairs)
    assert recovered.share == pytest.approx(1 - error / floor, abs=1e-6)
    assert float(recovered.per_image.mean()) < -100 < recovered.share


def test_its_interval_resamples_people_and_both_terms_together() -> None:
    photos, mean = pictures(60, 3, 4, 4), pictures(3, 4, 4, seed=2)
    weight = pictures(60, seed=3)[:, None, None, None]
    recovered = variance_recovered(photos + weight * (mean - photos), photos, mean)
    people = np.arange(60) // 6
    interval = recovered.interval(people, n_resamples=500, seed=5)
    assert interval.value == pytest.approx(recovered.share) and interval.n == 10
    rng, shares = np.random.default_rng(0), []
    for _ in range(2000):
        rows = np.concatenate([np.flatnonzero(people == p) for p in rng.integers(10, size=10)])
        shares.append(1 - float(recovered.errors[rows].sum() / recovered.floor[rows].sum()))
    spread = np.quantile(shares, 0.975) - np.quantile(shares, 0.025)
    assert interval.high - interval.low == pytest.approx(1.25 * spread, rel=0.15)  # wider for only ten people
    half = variance_recovered((photos + mean) / 2, photos, mean).interval(people, n_resamples=200)
    assert half.low == pytest.approx(0.75, abs=1e-5) and half.high == pytest.approx(0.75, abs=1e-5)


def test_photos_without_variance_are_refused() -> None:
    photos = pictures(1, 3, 8, 8).expand(4, 3, 8, 8)
    with pytest.raises(ValueError, match="no variance"):
        variance_recovered(photos, photos, photos[0])
    with pytest.raises(ValueError, match="range of"):
        variance_recovered(photos, photos - 0.9, photos[0])


# ---- PSNR as published ----


@given(st.integers(1, 11), st.integers(1, 12))
def test_published_psnr_is_that_of_batches_weighted_by_size(n: int, batch: int) -> None:
    images, photos = pictures(n, 3, 4, 4), pictures(n, 3, 4, 4, seed=1)
    images[0] = photos[0] + (images[0] - photos[0]) / 50  # one good reconstruction
    total = 0.0
    for start in range(0, n, batch):
        part = slice(start, start + batch)
        whole = peak_signal_noise_ratio(photos[part].numpy(), images[part].numpy(), data_range=1.0)
        total += whole * len(photos[part])
    assert psnr_per_batch(images, photos, batch) == pytest.approx(total / n, rel=1e-5)
    assert psnr_per_batch(images, photos, 1) == pytest.approx(float(psnr(images, photos).mean()), rel=1e-5)


def test_published_psnr_is_below_the_mean_of_the_images() -> None:
    images, photos = pictures(8, 3, 4, 4), pictures(8, 3, 4, 4, seed=1)
    images[:4] = photos[:4] + (images[:4] - photos[:4]) / 30
    assert psnr_per_batch(images, photos) < float(psnr(images, photos).mean()) - 5
    assert psnr_per_batch(photos, photos) == math.inf


# ---- perceptual distances ----


@pytest.fixture(scope="module")
def alexnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights in the form in which torchvision's are published."""
    torch.manual_seed(3)
    features = torchvision.models.alexnet(weights=None).features
    path = tmp_path_factory.mktemp("weights") / "alexnet.safetensors"
    save_file({f"features.{name}": value for name, value in features.state_dict().items()}, path)
    return path


def slow_lpips(path: Path, a: Tensor, b: Tensor) -> float:
    """Equation 1 of the paper for one pair, from torchvision's layers and the published linear weights."""
    from safetensors.torch import load_file
    from torchmetrics.functional.image import lpips as library

    features = torchvision.models.alexnet(weights=None).features
    features.load_state_dict({name.removeprefix("features."): value for name, value in load_file(path).items()})
    linear = torch.load(Path(library.__file__).parent / "lpips_models/alex.pth", map_location="cpu")
    mean, std = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    maps = [((2 * x - 1) - mean[:, None, None]) / std[:, None, None] for x in (a, b)]
    total, layer = 0.0, 0
    for module in features:
        maps = [module(x[None])[0] for x in maps]
        if isinstance(module, torch.nn.ReLU):
            first, second = (normalize(x, dim=0) for x in maps)
            weights = linear[f"lin{layer}.model.1.weight"].flatten()
            total += float((weights[:, None, None] * (first - second) ** 2).sum(0).mean())
            layer += 1
    assert layer == 5
    return total


@torch.no_grad()
def test_lpips_is_its_equation(alexnet: Path) -> None:
    images, photos = pictures(3, 3, 64, 64), pictures(3, 3, 64, 64, seed=1)
    metric = perceptual_metric(alexnet)
    distances = metric(images, photos, batch=2)
    assert distances.tolist() == pytest.approx([slow_lpips(alexnet, a, b) for a, b in zip(images, photos, strict=True)],
                                               rel=1e-4)
    assert torch.equal(metric(photos, photos), torch.zeros(3))
    assert not any(p.requires_grad for p in metric.parameters()) and not metric.training


def test_weights_other_than_the_published_are_named_so(alexnet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert LPIPS(alexnet).name == "LPIPS formula (alex, weights of alexnet.safetensors)"
    digest = hashlib.sha256(alexnet.read_bytes()).hexdigest()
    monkeypatch.setitem(perceptual.FILES, "alex", f"alexnet-owt-{digest[:8]}.pth")
    assert LPIPS(alexnet).name == "LPIPS (alex)"


def test_loading_lpips_leaves_the_random_numbers_alone(alexnet: Path) -> None:
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    LPIPS(alexnet)
    assert torch.equal(torch.rand(1), expected)


def test_lpips_says_which_file_is_missing_or_wrong(tmp_path: Path, alexnet: Path) -> None:
    with pytest.raises(UserError, match=r"expected vgg16-397923af.pth from https://download.pytorch.org/models/"):
        LPIPS(tmp_path / "none.pth", "vgg")
    with pytest.raises(UserError, match=r"holds no 'features.0.weight'"):
        LPIPS(_saved(tmp_path, {"classifier.weight": torch.zeros(2)}))
    state = torchvision.models.alexnet(weights=None).features.state_dict()
    wrong = {f"features.{name}": value for name, value in state.items()} | {"features.0.weight": torch.zeros(2)}
    with pytest.raises(UserError, match="other shapes"):
        LPIPS(_saved(tmp_path, wrong))


def _saved(folder: Path, state: dict[str, Tensor]) -> Path:
    save_file(state, folder / "wrong.safetensors")
    return folder / "wrong.safetensors"


@torch.no_grad()
def test_the_embedded_distance_is_the_same_formula_on_another_network() -> None:
    network = AttributeNetwork().eval()
    images, photos = pictures(2, 3, 64, 64), pictures(2, 3, 64, 64, seed=1)
    metric = EmbeddedDistance(network)
    assert metric.name == "perceptual distance (attribute network)" and "LPIPS" not in metric.name
    expected = [0.0, 0.0]
    for a, b, weight in zip(network.depths(images), network.depths(photos), DEPTH_WEIGHTS, strict=True):
        for i in range(2):
            first, second = (x[i] / (x[i].square().sum(0) + EPSILON).sqrt() for x in (a, b))
            expected[i] += weight * float((first - second).square().sum(0).mean())
    assert metric(images, photos).tolist() == pytest.approx(expected, rel=1e-5)
    assert metric(pictures(2, 3, 32, 32), pictures(2, 3, 32, 32)).tolist() == [0, 0]  # any size
    with pytest.raises(ValueError, match="in \\[0, 1\\]"):
        metric(images * 2 - 1, photos)


@torch.no_grad()
def test_without_weights_the_shipped_network_orders_distortions() -> None:
    metric = perceptual_metric(None)
    assert metric.name == "perceptual distance (attribute network)" and not metric.training
    photo = pictures(1, 3, 64, 64) * 0.2 + torch.linspace(0, 0.8, 64)
    near, far = ((photo + amount * pictures(1, 3, 64, 64, seed=4)).clamp(0, 1) for amount in (0.02, 0.4))
    assert 0 < float(metric(near, photo)) < float(metric(far, photo))


# ---- re-identification ----


def slow_rank_1(query: Tensor, person: int, gallery: Tensor, people: list[int]) -> bool:
    cosines = [float(query @ photo / (query.norm() * photo.norm())) for photo in gallery]
    return people[max(range(len(people)), key=cosines.__getitem__)] == person


@given(st.integers(0, 50))
def test_reidentification_is_the_nearest_photo_in_a_loop(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    centres = torch.randn(5, 4, generator=rng, dtype=torch.float64)
    shown, asked = torch.arange(15) % 5, torch.arange(20) % 5
    gallery = centres[shown] + 0.5 * torch.randn(15, 4, generator=rng, dtype=torch.float64)
    queries = 3 * (centres[asked] + torch.randn(20, 4, generator=rng, dtype=torch.float64))
    hits = reidentification(queries, asked, gallery, shown)
    assert hits.tolist() == [slow_rank_1(q, int(p), gallery, shown.tolist())
                             for q, p in zip(queries, asked, strict=True)]


def test_photos_find_their_people_and_a_constant_finds_nobody() -> None:
    gallery, people = torch.eye(6), torch.arange(6)
    assert reidentification(gallery + 0.1, people, gallery, people).all()
    assert not reidentification(gallery.roll(1, 0), people, gallery, people).any()
    assert not reidentification(torch.ones(6, 6), people, gallery, people).any()
    assert not reidentification(torch.full((6, 6), torch.nan), people, gallery, people).any()


def test_a_person_without_a_photo_in_the_gallery_is_named() -> None:
    with pytest.raises(ValueError, match="no photo of person 3"):
        reidentification(torch.eye(2), torch.tensor([0, 3]), torch.eye(2), torch.tensor([0, 1]))
