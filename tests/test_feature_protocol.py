"""Who is known and who is attacked, scores of an image, and the choice of the best attack."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from latentprint.data.base import ImageSet
from latentprint.engine.seeds import generator
from latentprint.errors import UserError
from latentprint.feature.evaluate import best_attack, halves, score
from latentprint.feature.protocol import Protocol, balanced, divide
from latentprint.metrics.image import mse, psnr, ssim
from latentprint.metrics.reconstruction import variance_recovered

PROTOCOLS: tuple[Protocol, ...] = ("train_time", "infer_time", "class_disjoint")


def photos(n: int, classes: int, seed: int, size: int = 4) -> ImageSet:
    rng = generator(seed, "photos")
    return ImageSet(torch.randint(256, (n, 3, size, size), generator=rng).to(torch.uint8), torch.arange(n) % classes,
                    tuple(f"class {i}" for i in range(classes)), f"photos {seed}")


TRAIN, TEST = photos(60, 6, 0), photos(40, 6, 1)


# ---- protocols ----


def test_train_time_knows_the_training_set_and_attacks_the_test_set() -> None:
    roles = divide("train_time", TRAIN, TEST)
    assert roles.known_part == "train" and roles.known.tolist() == list(range(60))
    assert roles.attacked.tolist() == list(range(40))
    assert (roles.class_overlap, roles.repeated) == (1.0, 0)


def test_infer_time_knows_the_first_nine_tenths_of_the_test_set() -> None:
    roles = divide("infer_time", TRAIN, TEST)
    assert roles.known_part == "test" and roles.known.tolist() == list(range(36))
    assert roles.attacked.tolist() == [36, 37, 38, 39] and roles.class_overlap == 1.0


def test_infer_time_on_a_sorted_set_attacks_classes_that_nobody_knows() -> None:
    sorted_test = TEST.take(TEST.labels.argsort(stable=True))
    assert divide("infer_time", TRAIN, sorted_test).class_overlap == 1.0  # four of the six of the last class
    few = ImageSet(TEST.images, torch.tensor([0] * 36 + [5] * 4), TEST.names, "sorted")
    assert divide("infer_time", TRAIN, few).class_overlap == 0.0


@given(st.integers(0, 50), st.floats(0.01, 0.99))
@settings(max_examples=40, deadline=None)
def test_class_disjoint_shares_no_class_and_leaves_none_out(seed: int, share: float) -> None:
    roles = divide("class_disjoint", TRAIN, TEST, seed=seed, attacked_share=share)
    known, attacked = set(TRAIN.labels[roles.known].tolist()), set(TEST.labels[roles.attacked].tolist())
    assert not known & attacked and known | attacked == set(range(6)) and known and attacked
    assert len(attacked) == min(5, max(1, round(6 * share)))
    assert roles.known_part == "train" and roles.class_overlap == 0.0
    assert len(roles.known) == 10 * len(known)


def test_class_disjoint_depends_on_the_seed() -> None:
    chosen = {tuple(divide("class_disjoint", TRAIN, TEST, seed=seed).attacked.tolist()) for seed in range(8)}
    assert len(chosen) > 3


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_known_copies_of_attacked_images_are_left_out(protocol: Protocol) -> None:
    before = divide(protocol, TRAIN, TEST)
    known_set = TEST if before.known_part == "test" else TRAIN
    images, copied = known_set.images.clone(), before.known[[2, 5]]
    images[copied] = TEST.images[before.attacked[:2]]
    changed = ImageSet(images, known_set.labels, known_set.names, known_set.source)
    after = divide(protocol, *((TRAIN, changed) if before.known_part == "test" else (changed, TEST)))
    assert after.repeated == 2 and torch.equal(after.attacked, before.attacked)
    assert set(before.known.tolist()) - set(after.known.tolist()) == set(copied.tolist())


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_sample_is_part_of_the_attacked(protocol: Protocol) -> None:
    whole, some = divide(protocol, TRAIN, TEST), divide(protocol, TRAIN, TEST, n_attacked=3)
    assert len(some.attacked) == 3 and set(some.attacked.tolist()) <= set(whole.attacked.tolist())
    assert torch.equal(some.known, whole.known) and some.attacked.tolist() == sorted(some.attacked.tolist())
    assert torch.equal(some.attacked, divide(protocol, TRAIN, TEST, n_attacked=3).attacked)


@given(st.lists(st.integers(0, 4), max_size=40), st.integers(0, 50), st.integers(0, 3))
@settings(max_examples=80, deadline=None)
def test_a_balanced_sample_takes_from_the_classes_in_turn(labels: list[int], n: int, seed: int) -> None:
    given_labels = torch.tensor(labels, dtype=torch.int64)
    index = balanced(given_labels, n, seed)
    assert len(index) == min(n, len(labels)) == len(set(index.tolist()))
    assert index.tolist() == sorted(index.tolist())
    counts, most = torch.bincount(given_labels[index], minlength=5), torch.bincount(given_labels, minlength=5)
    level = int(counts.max())
    assert all(counts[c] >= min(int(most[c]), level - 1) for c in range(5))


def test_a_balanced_sample_depends_on_the_seed() -> None:
    labels = torch.arange(40) % 4
    chosen = [tuple(balanced(labels, 6, seed).tolist()) for seed in range(6)]
    assert len(set(chosen)) == 6
    extra = {tuple(torch.bincount(labels[list(one)], minlength=4).tolist()) for one in chosen}
    assert len(extra) > 1  # who gives one more is drawn too


@pytest.mark.parametrize(("train", "test", "protocol", "more", "said"), [
    (TRAIN, photos(40, 5, 1), "train_time", {}, "photos 0 and photos 1 must have the same classes"),
    (TRAIN, photos(40, 6, 1, 8), "train_time", {}, r"has images of \(3, 4, 4\), photos 1 of \(3, 8, 8\)"),
    (TRAIN, TEST, "train_time", {"n_attacked": 0}, "n_attacked must be at least 1, got 0"),
    (TRAIN, TEST, "class_disjoint", {"attacked_share": 1.0}, "attacked_share must lie between 0 and 1"),
    (TRAIN, TEST.take(torch.arange(1)), "infer_time", {}, "leave 0 known and 1 attacked"),
    (TRAIN, TEST.take(torch.arange(0)), "train_time", {}, "60 known and 0 attacked"),
    (TEST, TEST, "train_time", {}, "leave 0 known and 40 attacked images"),
    (photos(6, 1, 0), photos(6, 1, 1), "class_disjoint", {}, "leave 6 known and 0 attacked"),
])
def test_sets_that_no_protocol_can_divide_are_refused(train: ImageSet, test: ImageSet, protocol: Protocol,
                                                      more: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        divide(protocol, train, test, **more)


# ---- scores ----


def pictures(n: int = 7, size: int = 16) -> tuple[Tensor, Tensor]:
    references = torch.rand(n, 3, size, size, generator=generator(0))
    images = (references + 0.1 * torch.randn(n, 3, size, size, generator=generator(1))).clamp(0, 1)
    return images, references


def test_scores_are_those_of_each_image() -> None:
    images, references = pictures()
    found = score(images, references, {"worst": lambda a, b: (a - b).abs().flatten(1).amax(1)}, batch=3)
    assert set(found) == {"mse", "psnr", "ssim", "worst"}
    for i in range(7):
        one = images[i : i + 1], references[i : i + 1]
        for name, metric in (("mse", mse), ("psnr", psnr), ("ssim", ssim)):
            assert found[name][i] == pytest.approx(float(metric(*one)), rel=1e-5)
        assert found["worst"][i] == pytest.approx(float((one[0] - one[1]).abs().max()))
    assert all(values.dtype == np.float64 and values.shape == (7,) for values in found.values())
    assert "ssim" not in score(*pictures(size=8))
    assert np.isinf(score(references, references)["psnr"]).all()


def test_the_mean_psnr_is_not_that_of_the_mean_error() -> None:
    references = torch.full((2, 3, 16, 16), 0.5)
    images = references + torch.tensor([0.4, 0.004]).view(2, 1, 1, 1)
    found = score(images, references)
    assert found["psnr"].mean() == pytest.approx((-20 * np.log10(0.4) - 20 * np.log10(0.004)) / 2, rel=1e-4)
    assert found["psnr"].mean() > -10 * np.log10(found["mse"].mean()) + 10


def test_the_best_attack_is_chosen_on_one_half_and_reported_on_the_other() -> None:
    _, x = pictures(20)
    chosen_on, reported_on = halves(20, 3)
    near, far = (x + 0.01).clamp(0, 1), (x + 0.2).clamp(0, 1)
    lucky, solid = far.clone(), near.clone()
    lucky[reported_on], solid[reported_on] = x[reported_on], far[reported_on]  # best where it must not count
    best = best_attack({"lucky": lucky, "solid": solid, "mean": x.mean(0).expand_as(x)}, x, x.mean(0), seed=3)
    assert best.name == "solid" and best.recovered["solid"] > best.recovered["lucky"] > best.recovered["mean"]
    assert torch.equal(best.chosen_on, chosen_on) and torch.equal(best.reported_on, reported_on)
    assert np.array_equal(best.scores["mse"], score(far[reported_on], x[reported_on])["mse"])
    for name, images in (("lucky", lucky), ("solid", solid)):
        expected = variance_recovered(images[chosen_on], x[chosen_on], x.mean(0)).share
        assert best.recovered[name] == expected


@given(st.integers(0, 60), st.integers(0, 5))
@settings(max_examples=30, deadline=None)
def test_halves_share_nothing_and_leave_nothing_out(n: int, seed: int) -> None:
    first, second = halves(n, seed)
    assert len(first) == n // 2 and sorted(first.tolist() + second.tolist()) == list(range(n))


def test_bad_scores_are_refused() -> None:
    images, references = pictures()
    mean = references.mean(0)
    with pytest.raises(ValueError, match="as many images as references, at least 1, got 7 and 6"):
        score(images, references[:6])
    with pytest.raises(ValueError, match="got 0 and 0"):
        score(images[:0], references[:0])
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        score(images + 1, references)
    with pytest.raises(ValueError, match="at least 1 attack and 2 images, got 0 and 7"):
        best_attack({}, references, mean)
    with pytest.raises(ValueError, match="got 1 and 1"):
        best_attack({"a": images[:1]}, references[:1], mean)
    with pytest.raises(ValueError, match=r"a drew \(6, 3, 16, 16\), expected \(7, 3, 16, 16\)"):
        best_attack({"a": images[:6]}, references, mean)
