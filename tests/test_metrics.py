"""Metrics against known answers, slow loops and the well-kept libraries."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import linalg
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from sklearn.metrics import roc_curve
from torch import Tensor
from torch.nn.functional import normalize
from torchmetrics.image.fid import _compute_fid
from torchmetrics.image.kid import poly_mmd

from latentprint.errors import UserError
from latentprint.metrics.distribution import frechet_distance, kernel_distance, prdc
from latentprint.metrics.features import between_class_variance, confidence, diversity, nearest_distance, topk_hits
from latentprint.metrics.geometry import (
    effective_rank,
    embedding_geometry,
    mean_abs_correlation,
    silhouette,
)
from latentprint.metrics.image import mse, psnr, range_fault, ssim
from latentprint.verification import Calibration, above, calibrate, calibrate_pairs, enrol


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def uniform(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


# ---- classification


def test_topk_and_confidence_by_hand() -> None:
    logits = torch.tensor([[3.0, 2.0, 1.0], [0.0, 2.0, 1.0], [0.0, 1.0, 2.0]])
    classes = torch.tensor([0, 2, 0])
    assert topk_hits(logits, classes, 1).tolist() == [True, False, False]
    assert topk_hits(logits, classes, 2).tolist() == [True, True, False]
    assert topk_hits(logits, classes, 3).tolist() == [True, True, True]
    e = math.e
    assert confidence(logits, classes).tolist() == pytest.approx(
        [e**3 / (e**3 + e**2 + e), e / (1 + e**2 + e), 1 / (1 + e + e**2)])


def test_topk_equals_torch_where_nothing_is_tied() -> None:
    logits, classes = normal(200, 12), torch.arange(200) % 12
    for k in (1, 5):
        expected = (logits.topk(k, 1).indices == classes[:, None]).any(1)
        assert 0 < expected.sum() < 200
        assert torch.equal(topk_hits(logits, classes, k), expected)


def test_an_evaluator_that_says_nothing_recognises_nobody() -> None:
    classes = torch.arange(4)
    assert not topk_hits(torch.zeros(4, 10), classes, 5).any()
    assert not topk_hits(torch.full((4, 10), torch.nan), classes, 5).any()


# ---- verification


def people(n_people: int, n_photos: int, spread: float, dim: int = 16) -> tuple[Tensor, Tensor]:
    """Unit embeddings of photos around a centre for each person, and their labels."""
    labels = torch.arange(n_people).repeat_interleave(n_photos)
    centres = normalize(normal(n_people, dim), dim=1)
    return normalize(centres[labels] + spread * normal(len(labels), dim, seed=1), dim=1), labels


def test_enrol_is_the_renormalised_mean_of_unit_embeddings() -> None:
    photos = torch.tensor([[2.0, 0.0], [0.0, 5.0], [0.0, -3.0]])
    templates = enrol(photos, torch.tensor([0, 0, 1]), 2)
    half = math.sqrt(0.5)  # the photo of norm 5 counts no more than that of norm 2
    assert torch.allclose(templates, torch.tensor([[half, half], [0.0, -1.0]]))


def test_enrol_names_the_person_without_a_photo() -> None:
    with pytest.raises(UserError, match="person 1 has no photo"):
        enrol(torch.eye(2), torch.tensor([0, 2]), 3)


def slow_comparisons(probes: Tensor, labels: Tensor, templates: Tensor) -> tuple[list[float], list[float]]:
    genuine: list[float] = []
    impostor: list[float] = []
    for probe, label in zip(probes, labels, strict=True):
        for person, template in enumerate(templates):
            (genuine if person == label else impostor).append(float(probe @ template))
    return genuine, impostor


@pytest.mark.parametrize("rounded", [False, True], ids=["distinct", "tied"])
def test_calibration_is_the_best_point_of_sklearns_roc(rounded: bool) -> None:
    embeddings, labels = people(30, 6, spread=0.2)
    embeddings = normalize(embeddings.double(), dim=1)  # a loop rounds otherwise than a matrix product
    enrolled = torch.arange(len(labels)) % 6 < 3
    templates = enrol(embeddings[enrolled], labels[enrolled], 30)
    probes = embeddings[~enrolled]
    if rounded:  # duplicated probes give tied scores
        probes = probes[torch.arange(len(probes)) // 3 * 3]
    calibration = calibrate(probes, labels[~enrolled], templates, fmrs=(0.1, 1e-2, 1e-3))
    genuine, impostor = slow_comparisons(probes, labels[~enrolled], templates)
    assert (calibration.n_genuine, calibration.n_impostor) == (90, 90 * 29)
    fpr, tpr, _ = roc_curve([1] * 90 + [0] * 90 * 29, genuine + impostor, drop_intermediate=False)
    for fmr, threshold in calibration.thresholds.items():
        assert np.mean([score > threshold + 1e-9 for score in impostor]) <= fmr
        assert calibration.tar[fmr] == pytest.approx(tpr[fpr <= fmr].max(), abs=1e-6)
    assert 0.1 < calibration.tar[1e-3] < calibration.tar[1e-2]


def test_pairs_are_all_unordered_pairs() -> None:
    embeddings, labels = people(12, 5, spread=0.3)
    embeddings = normalize(embeddings.double(), dim=1)
    calibration = calibrate_pairs(embeddings, labels, fmrs=(0.05,))
    genuine: list[float] = []
    impostor: list[float] = []
    for i in range(60):
        for j in range(i + 1, 60):
            (genuine if labels[i] == labels[j] else impostor).append(float(embeddings[i] @ embeddings[j]))
    assert (calibration.n_genuine, calibration.n_impostor) == (len(genuine), len(impostor)) == (120, 1650)
    false_matches = sum(score > calibration.thresholds[0.05] + 1e-9 for score in impostor)
    assert false_matches == 82  # the most that 5% of 1650 allows
    accepted = np.mean(np.array(genuine) > calibration.thresholds[0.05])
    assert calibration.tar[0.05] == pytest.approx(accepted)


def calibration_with_impostors(n: int, fmr: float) -> Calibration:
    """One enrolled person, n strangers, one genuine probe."""
    angles = torch.linspace(0.5, 1.5, n)
    probes = torch.cat([torch.tensor([[1.0, 0.0]]), torch.stack([angles.cos(), angles.sin()], 1)])
    labels = torch.cat([torch.tensor([0]), torch.full((n,), -1)])
    return calibrate(probes, labels, torch.tensor([[1.0, 0.0]]), fmrs=(fmr,))


def test_too_few_impostors_give_no_threshold() -> None:
    calibration = calibration_with_impostors(999, 1e-3)
    assert math.isnan(calibration.thresholds[1e-3]) and math.isnan(calibration.tar[1e-3])
    sentence = "no threshold at FMR 0.001: it needs 1000 impostor comparisons, there are 999"
    assert calibration.warnings == (sentence,)
    assert above(torch.ones(2), calibration.thresholds[1e-3]).isnan().all()  # 0 would look like safety


def test_few_impostors_give_a_threshold_with_a_warning() -> None:
    calibration = calibration_with_impostors(1000, 1e-3)
    second_highest = math.cos(0.5 + 1 / 999)
    assert calibration.thresholds[1e-3] == pytest.approx(second_highest, abs=1e-6)
    assert len(calibration.warnings) == 1 and "uncertain" in calibration.warnings[0]
    assert calibration_with_impostors(9999, 1e-3).warnings
    assert not calibration_with_impostors(10000, 1e-3).warnings


def test_the_allowed_number_of_false_matches_is_not_lost_to_rounding() -> None:
    assert 100 * 0.29 < 29
    calibration = calibration_with_impostors(100, 0.29)
    assert calibration.thresholds[0.29] == pytest.approx(math.cos(0.5 + 29 / 99), abs=1e-6)


def test_a_genuine_score_on_the_threshold_is_not_accepted() -> None:
    """A recogniser that sees everyone alike accepts nobody at any rate below 1."""
    labels = torch.cat([torch.zeros(5, dtype=torch.int64), torch.full((300,), -1)])
    calibration = calibrate(torch.ones(305, 4), labels, torch.ones(1, 4), fmrs=(1e-2, 0.5))
    assert calibration.thresholds == {1e-2: 1.0, 0.5: 1.0} and calibration.tar == {1e-2: 0.0, 0.5: 0.0}


def test_without_genuine_comparisons_the_accept_rate_is_unknown() -> None:
    calibration = calibrate(normal(300, 4), torch.full((300,), -1), torch.eye(4))
    assert math.isnan(calibration.tar[1e-2]) and not math.isnan(calibration.thresholds[1e-2])
    assert any("genuine" in warning for warning in calibration.warnings)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 1000), fmr=st.floats(0.01, 0.5))
def test_the_observed_false_match_rate_never_exceeds_the_one_asked(seed: int, fmr: float) -> None:
    embeddings = (normal(40, 3, seed=seed) * 2).round()  # many ties
    labels = torch.arange(40) % 8
    calibration = calibrate_pairs(embeddings, labels, fmrs=(fmr,))
    unit = normalize(embeddings, dim=1)
    i, j = torch.triu_indices(40, 40, 1)
    impostor = (unit @ unit.T)[i, j][labels[i] != labels[j]]
    assert float((impostor > calibration.thresholds[fmr]).double().mean()) <= fmr + 1e-9


def test_a_similarity_on_the_threshold_is_no_match() -> None:
    assert above(torch.tensor([0.6, 0.7, 0.8]), 0.7).tolist() == [0.0, 0.0, 1.0]


# ---- distribution


def correlated(n: int, dim: int, seed: int) -> Tensor:
    return normal(n, dim, seed=seed) @ normal(dim, dim, seed=seed + 100) + normal(dim, seed=seed + 200)


def test_frechet_distance_is_scipys_and_torchmetrics() -> None:
    a, b = correlated(80, 12, 0).double(), correlated(60, 12, 1).double()
    got = frechet_distance(a, b, "judge")
    cov_a, cov_b = np.cov(a.numpy().T), np.cov(b.numpy().T)
    root = linalg.sqrtm(cov_a @ cov_b).real
    shift = (a.mean(0) - b.mean(0)).square().sum().item()
    assert got.value == pytest.approx(shift + np.trace(cov_a + cov_b - 2 * root), rel=1e-9)
    peer = _compute_fid(a.mean(0), a.T.cov(), b.mean(0), b.T.cov())
    assert got.value == pytest.approx(float(peer), rel=1e-9)
    assert (got.extractor, got.n, got.reason) == ("judge", 60, None)


def test_frechet_distance_of_known_gaussians() -> None:
    x = normal(500, 3).double()
    x = (x - x.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(x.T.cov())).T  # mean 0, covariance I
    scale, shift = torch.tensor([1.0, 2.0, 4.0]).double(), torch.tensor([3.0, 0.0, -4.0]).double()
    got = frechet_distance(x, x * scale + shift, "known")  # |shift|^2 + sum (scale - 1)^2
    assert got.value == pytest.approx(25 + 0 + 1 + 9)
    assert frechet_distance(x, x, "same").value == pytest.approx(0, abs=1e-9)


def test_frechet_distance_is_stable_where_a_covariance_is_singular() -> None:
    a = torch.cat([normal(40, 5), torch.zeros(40, 3)], 1)
    got = frechet_distance(a, a + 1, "flat")
    assert got.value == pytest.approx(8, abs=1e-5)


def test_frechet_distance_of_one_dimension() -> None:
    x = torch.tensor([[0.0], [2.0]])
    assert frechet_distance(x, 3 * x, "line").value == pytest.approx(4 + (3 * 2**0.5 - 2**0.5) ** 2)


def test_frechet_distance_refuses_instead_of_lying() -> None:
    few = frechet_distance(normal(23, 12), normal(100, 12), "judge")
    assert few.value is None and few.n == 23 and few.reason is not None and "24" in few.reason
    assert frechet_distance(normal(24, 12), normal(100, 12), "judge").value is not None
    broken = normal(100, 4)
    broken[3, 1] = torch.nan
    got = frechet_distance(normal(100, 4), broken, "judge")
    assert got.value is None and got.reason is not None and "finite" in got.reason


def test_kernel_distance_is_a_slow_loops_and_torchmetrics() -> None:
    a, b = correlated(9, 4, 0).double(), correlated(9, 4, 1).double()

    def kernel(x: Tensor, y: Tensor) -> float:
        return (float(x @ y) / 4 + 1) ** 3

    def within(x: Tensor) -> float:
        return sum(kernel(x[i], x[j]) for i in range(9) for j in range(9) if i != j) / 72

    slow = within(a) + within(b) - 2 * sum(kernel(x, y) for x in a for y in b) / 81
    assert kernel_distance(a, b) == pytest.approx(slow, rel=1e-9)
    assert kernel_distance(a, b) == pytest.approx(float(poly_mmd(a, b)), rel=1e-9)


def test_kernel_distance_is_unbiased() -> None:
    pairs = [(normal(20, 3, seed=2 * i), normal(30, 3, seed=2 * i + 1)) for i in range(200)]
    estimates = [kernel_distance(a, b) for a, b in pairs]
    error = np.std(estimates) / 200**0.5
    assert abs(np.mean(estimates)) < 3 * error
    assert min(estimates) < 0 < max(estimates)


def slow_prdc(real: Tensor, fake: Tensor, k: int) -> tuple[float, float, float, float]:
    def radius(points: Tensor, i: int) -> float:
        return sorted(float((points[i] - p).norm()) for j, p in enumerate(points) if j != i)[k - 1]

    real_radius = [radius(real, i) for i in range(len(real))]
    fake_radius = [radius(fake, i) for i in range(len(fake))]
    distance = [[float((r - f).norm()) for f in fake] for r in real]
    n, m = range(len(real)), range(len(fake))
    return (
        sum(any(distance[i][j] < real_radius[i] for i in n) for j in m) / len(fake),
        sum(any(distance[i][j] < fake_radius[j] for j in m) for i in n) / len(real),
        sum(sum(distance[i][j] < real_radius[i] for i in n) for j in m) / (k * len(fake)),
        sum(any(distance[i][j] < real_radius[i] for j in m) for i in n) / len(real),
    )


@pytest.mark.parametrize(("n", "m", "k"), [(30, 17, 3), (12, 40, 2)])
def test_prdc_is_a_slow_loops_for_unequal_numbers(n: int, m: int, k: int) -> None:
    real, fake = normal(n, 3).double(), (0.7 * normal(m, 3, seed=1) + 0.9).double()
    got, slow = prdc(real, fake, k), slow_prdc(real, fake, k)
    assert (got.precision, got.recall, got.density, got.coverage) == pytest.approx(slow)
    assert len(set(slow)) == 4, "a case that could hide a swap"


def test_prdc_of_known_cases() -> None:
    points = normal(50, 4)
    same = prdc(points, points, 5)
    assert (same.precision, same.recall, same.coverage) == (1, 1, 1)
    apart = prdc(points, points + 100, 5)
    assert (apart.precision, apart.recall, apart.density, apart.coverage) == (0, 0, 0, 0)
    line = torch.arange(10.0)[:, None]  # radius 1; the open ball of k=1 holds the point itself alone
    on_every_point_twice = line.repeat_interleave(2, 0)
    assert prdc(line, on_every_point_twice, 1).density == 1
    wide = prdc(torch.arange(12.0)[:, None], torch.tensor([[5.0], [5.1], [5.2]]), 1)
    assert wide.precision == 1
    assert (wide.density, wide.coverage) == pytest.approx((5 / 3, 2 / 12))


def test_precision_asks_any_ball_not_the_nearest_points() -> None:
    """The fake is nearest to a tight cluster of small balls, yet inside the wide ball of a lone point."""
    real = torch.tensor([[0.0], [0.01], [0.02], [3.0]])
    fake = torch.tensor([[1.0], [40.0], [60.0]])
    assert prdc(real, fake, 1).precision == pytest.approx(1 / 3)


def test_prdc_needs_neighbours() -> None:
    with pytest.raises(ValueError, match="more than 5 images"):
        prdc(normal(5, 2), normal(9, 2), 5)


# ---- image


def test_pixel_metrics_by_hand() -> None:
    images, references = torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4)
    images[0] += 0.1
    images[1, 0] += 0.3  # a third of the values off by 0.3
    assert mse(images, references).tolist() == pytest.approx([0.01, 0.03])
    assert psnr(images, references).tolist() == pytest.approx([20.0, -10 * math.log10(0.03)])
    assert psnr(references, references).tolist() == [math.inf, math.inf]


def test_image_metrics_are_skimages() -> None:
    references = uniform(3, 3, 24, 20)
    images = (references + 0.2 * normal(3, 3, 24, 20, seed=1)).clamp(0, 1)
    similarity, ratio = ssim(images, references), psnr(images, references)
    for i, (x, y) in enumerate(zip(images.double().numpy(), references.double().numpy(), strict=True)):
        expected = structural_similarity(
            x, y, data_range=1, channel_axis=0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        assert float(similarity[i]) == pytest.approx(expected, abs=1e-5)
        assert float(ratio[i]) == pytest.approx(peak_signal_noise_ratio(y, x, data_range=1), abs=1e-4)


def test_ssim_is_one_an_image_even_for_a_single_one() -> None:
    image = uniform(1, 3, 16, 16)
    assert ssim(image, image).tolist() == pytest.approx([1.0])
    with pytest.raises(ValueError, match="11 pixels"):
        ssim(image[..., :10], image[..., :10])


@pytest.mark.parametrize("metric", [mse, psnr, ssim])
def test_images_out_of_range_are_refused(metric: object) -> None:
    assert callable(metric)
    good = uniform(2, 3, 12, 12)
    for bad, words in ((good * 255, "bytes"), (good * 2 - 1, r"\[-1, 1\]"), (good / 0, "NaN")):
        with pytest.raises(ValueError, match=words):
            metric(bad, good)
        with pytest.raises(ValueError, match="references must"):
            metric(good, bad)
    with pytest.raises(ValueError, match="equal shapes"):
        metric(good, good[:1])


def test_the_ends_of_the_range_are_inside() -> None:
    assert range_fault(torch.tensor([0.0, 1.0])) is None
    assert range_fault(torch.tensor([0.0, 1.0001])) == "values from 0 to 1.0001"


# ---- features


def test_nearest_distance_is_a_slow_loops() -> None:
    queries, query_classes = normal(20, 6), torch.arange(20) % 4
    gallery, labels = normal(30, 6, seed=1), torch.arange(30) % 5
    slow = [min(float((q - g).norm()) for g, label in zip(gallery, labels, strict=True) if label == c)
            for q, c in zip(queries, query_classes, strict=True)]
    got = nearest_distance(queries, query_classes, gallery, labels)
    assert got.tolist() == pytest.approx(slow, rel=1e-4)


def test_nearest_distance_needs_the_class() -> None:
    with pytest.raises(ValueError, match="no image of class 7"):
        nearest_distance(normal(2, 3), torch.tensor([0, 7]), normal(4, 3), torch.zeros(4, dtype=torch.int64))


def test_diversity_is_a_slow_loops() -> None:
    features, labels = normal(14, 5) + 0.5, torch.tensor([0] * 6 + [1] * 7 + [3])
    got = diversity(features, labels, 4)
    for c in (0, 1):
        mine = normalize(features[labels == c], dim=1)
        n = len(mine)
        pairs = [1 - float(mine[i] @ mine[j]) for i in range(n) for j in range(n) if i != j]
        assert float(got[c]) == pytest.approx(np.mean(pairs), abs=1e-6)
    assert got[2:].isnan().all()  # nobody, and a single image


def test_diversity_and_collapse_are_two_numbers() -> None:
    """All people get the same varied faces: diverse within, nothing between; then the reverse."""
    varied = torch.eye(4)
    collapsed, labels = varied.repeat(3, 1), torch.arange(3).repeat_interleave(4)
    assert diversity(collapsed, labels, 3).tolist() == pytest.approx([1, 1, 1])
    assert between_class_variance(collapsed, labels, 3) == pytest.approx(0)
    rigid = varied[:3].repeat_interleave(4, 0)
    assert diversity(rigid, labels, 3).tolist() == pytest.approx([0, 0, 0], abs=1e-9)
    assert between_class_variance(rigid, labels, 3) == pytest.approx(2 / 3)  # 1 - |mean|^2 = 1 - 3 / 9


def test_between_class_variance_weighs_classes_equally_and_leaves_empty_ones_out() -> None:
    features = torch.tensor([[0.0], [0.0], [0.0], [4.0]])
    assert between_class_variance(features, torch.tensor([0, 0, 0, 2]), 5) == pytest.approx(4.0)


# ---- geometry


def test_effective_rank_counts_equal_directions() -> None:
    basis = torch.linalg.qr(normal(10, 10)).Q
    for rank in (1, 4, 10):
        assert effective_rank(basis[:rank]) == pytest.approx(rank, rel=1e-5)
    values = torch.tensor([0.5, 0.3, 0.2])
    entropy = -float((values * values.log()).sum())
    assert effective_rank(torch.diag(7 * values)) == pytest.approx(math.exp(entropy))


def test_correlation_of_known_dimensions() -> None:
    a, b = normal(4000, 2).unbind(1)
    assert mean_abs_correlation(torch.stack([a, -2 * a + 1], 1)) == pytest.approx(1)
    assert mean_abs_correlation(torch.stack([a, b], 1)) < 0.04
    three = torch.stack([a, -a, b, torch.ones(4000)], 1)  # |r| = 1, ~0, ~0; the constant is left out
    expected = np.abs(np.corrcoef(three[:, :3].T.numpy()))[np.triu_indices(3, 1)].mean()
    assert mean_abs_correlation(three) == pytest.approx(expected, rel=1e-4)
    assert math.isnan(mean_abs_correlation(a[:, None]))


def test_silhouette_by_hand() -> None:
    angles = torch.tensor([0.0, 60.0, 180.0]).deg2rad()
    embeddings = torch.stack([angles.cos(), angles.sin()], 1) * torch.tensor([[1.0], [5.0], [2.0]])
    # cosine distances: 0.5 within; 2 and 1.5 to the other class; a class of one scores 0
    assert silhouette(embeddings, torch.tensor([0, 0, 1])) == pytest.approx((0.75 + 2 / 3 + 0) / 3, abs=1e-5)
    assert math.isnan(silhouette(embeddings, torch.tensor([0, 1, 2])))
    assert math.isnan(silhouette(embeddings, torch.tensor([0, 0, 0])))


def test_geometry_of_separated_people() -> None:
    tight, labels = people(8, 5, spread=0.02, dim=8)
    loose, _ = people(8, 5, spread=2.0, dim=8)
    clustered, blurred = embedding_geometry(2 * tight, labels), embedding_geometry(loose, labels)
    assert clustered.mean_norm == pytest.approx(2) and blurred.mean_norm == pytest.approx(1)
    assert clustered.silhouette > 0.9 > 0.2 > blurred.silhouette
    assert clustered.between_class_variance == pytest.approx(
        between_class_variance(2 * tight, labels, 8)) and 1 <= blurred.effective_rank <= 8
    assert clustered.between_class_variance / 4 > 2 * blurred.between_class_variance
