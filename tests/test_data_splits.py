"""Splits never share a person, and the overlap check finds people and photos that are in two places."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.fft import dctn
from torch import Tensor

from latentprint.data.base import ImageSet
from latentprint.data.npz import load_npz
from latentprint.data.overlap import (
    NEAR_BITS,
    NEAR_CORRELATION,
    check_overlap,
    near_duplicates,
    perceptual_hash,
    photo_digests,
)
from latentprint.data.procedural import make_people
from latentprint.data.splits import AuditData, from_parts, split_people
from latentprint.errors import UserError


def numbered(counts: Sequence[int], prefix: str = "p", first: int = 0) -> ImageSet:
    """People with so many photos each; every photo carries its own number in its first two pixels."""
    n = sum(counts)
    number = torch.arange(first, first + n)
    images = torch.zeros(n, 3, 8, 8, dtype=torch.uint8)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = number // 256, number % 256
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    return ImageSet(images, labels, tuple(f"{prefix}{i:02d}" for i in range(len(counts))), prefix)


def numbers(part: ImageSet) -> list[int]:
    pixels = part.images[:, 0, 0, :2].long()
    return (pixels[:, 0] * 256 + pixels[:, 1]).tolist()


def photos_by_person(part: ImageSet) -> dict[str, set[int]]:
    found: dict[str, set[int]] = {name: set() for name in part.names}
    for label, number in zip(part.labels.tolist(), numbers(part), strict=True):
        found[part.names[label]].add(number)
    return found


def parts_of(data: AuditData) -> list[ImageSet]:
    return [
        part for part in (data.public, data.private_train, data.private_heldout, data.evaluation) if part is not None
    ]


@st.composite
def tasks(draw: st.DrawFn) -> tuple[ImageSet, int, int, int, int]:
    """A set with a split that it allows: (data, n_private, n_heldout, n_evaluation, seed)."""
    counts = draw(st.lists(st.integers(1, 6), min_size=3, max_size=9))
    n_heldout = draw(st.integers(1, 3))
    enough = sum(count > n_heldout for count in counts)
    if not enough:
        counts, enough = [*counts, n_heldout + 1], 1
    n_private = draw(st.integers(1, min(enough, len(counts) - 1)))
    n_evaluation = draw(st.integers(0, len(counts) - n_private - 1))
    return numbered(counts), n_private, n_heldout, n_evaluation, draw(st.integers(0, 2**32 - 1))


@given(tasks())
@settings(max_examples=60, deadline=None)
def test_split_is_disjoint_complete_and_as_asked(task: tuple[ImageSet, int, int, int, int]) -> None:
    data, n_private, n_heldout, n_evaluation, seed = task
    split = split_people(data, n_private, n_heldout, seed, n_evaluation)
    photos = [number for part in parts_of(split) for number in numbers(part)]
    assert sorted(photos) == list(range(len(data)))  # every photo is somewhere, and only once
    people = [
        split.public.names,
        split.private_train.names,
        split.evaluation.names if split.evaluation else (),
    ]
    assert sorted(name for names in people for name in names) == sorted(data.names)
    assert (len(people[1]), len(people[2])) == (n_private, n_evaluation)
    assert split.private_heldout.counts().tolist() == [n_heldout] * n_private
    own = photos_by_person(data)
    for part in parts_of(split):
        assert all(photos <= own[name] for name, photos in photos_by_person(part).items())


@given(tasks(), st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_split_does_not_depend_on_the_order_of_people(
    task: tuple[ImageSet, int, int, int, int], random: Random
) -> None:
    data, n_private, n_heldout, n_evaluation, seed = task
    order = list(range(data.n_classes))
    random.shuffle(order)
    one = split_people(data, n_private, n_heldout, seed, n_evaluation)
    other = split_people(data.of_classes(order), n_private, n_heldout, seed, n_evaluation)
    for a, b in zip(parts_of(one), parts_of(other), strict=True):
        assert photos_by_person(a) == photos_by_person(b)


def test_seed_decides_people_and_photos() -> None:
    data = numbered([5] * 12)
    again, same, other = (split_people(data, 4, 2, seed, 3) for seed in (1, 1, 2))
    assert [numbers(part) for part in parts_of(again)] == [numbers(part) for part in parts_of(same)]
    assert again.private_train.names != other.private_train.names
    held = {tuple(numbers(split_people(data, 11, 2, seed).private_heldout)) for seed in range(5)}
    assert len(held) == 5


def test_every_person_is_private_about_equally_often() -> None:
    data = numbered([3] * 8)
    often = torch.zeros(8)
    for seed in range(200):
        often[[int(name[1:]) for name in split_people(data, 2, 1, seed).private_train.names]] += 1
    assert often.min() > 25  # 50 expected, standard deviation 6
    assert often.max() < 75


def test_people_with_few_photos_stay_public() -> None:
    split = split_people(numbered([1, 5, 2, 5, 3]), 2, 3, seed=0)
    assert split.private_train.names == ("p01", "p03")
    assert split.public.names == ("p00", "p02", "p04")


def test_training_photos_can_be_capped() -> None:
    capped = from_parts(numbered([1]), numbered([10, 4], "q"), 3, seed=0, n_train=4)
    assert capped.private_train.counts().tolist() == [4, 1]
    free = from_parts(numbered([1]), numbered([10, 4], "q"), 3, seed=0)
    assert numbers(capped.private_heldout) == numbers(free.private_heldout)  # the cap leaves the held-out photos


def test_orl_protocol() -> None:
    split = split_people(numbered([10] * 40), n_private=20, n_heldout=3, seed=0)
    assert (
        split.private_train.counts().unique().tolist(),
        split.private_heldout.counts().unique().tolist(),
    ) == ([7], [3])
    assert (len(split.public), split.evaluation) == (200, None)


def test_columns_travel_with_their_photos() -> None:
    data = numbered([4, 4, 4])
    number = torch.arange(12)
    data = replace(data, attributes=number[:, None].float(), holes=number.view(12, 1, 1, 1).expand(-1, 1, 8, 8).byte())
    for part in parts_of(split_people(data, 1, 2, seed=5, n_evaluation=1)):
        assert part.attributes is not None
        assert part.holes is not None
        assert part.attributes[:, 0].tolist() == part.holes[:, 0, 0, 0].tolist() == numbers(part)


@pytest.mark.parametrize(
    ("counts", "n_private", "n_heldout", "n_evaluation", "message"),
    [
        ([4, 0, 4], 1, 1, 0, "person 'p01' has 0 photos"),
        ([1, 1, 4], 2, 1, 0, "only 1 have the 2 photos needed .* has 1"),
        ([3, 3, 3], 1, 3, 0, "only 0 have the 4 photos needed"),
        ([4, 4, 4], 3, 1, 0, "3 people cannot give 3 private and 0"),
        ([4, 4, 4], 1, 1, 2, "3 people cannot give 1 private and 2 for evaluation"),
        ([4, 4, 4], 9, 1, 0, "3 people cannot give 9"),
        ([4, 4, 4], 0, 1, 0, "n_private must be at least 1"),
        ([4, 4, 4], 1, 0, 0, "n_heldout must be at least 1"),
        ([4, 4, 4], 1, 1, -1, "n_evaluation must be 0 or more"),
    ],
)
def test_impossible_splits(counts: list[int], n_private: int, n_heldout: int, n_evaluation: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        split_people(numbered(counts), n_private, n_heldout, 0, n_evaluation)


def test_parts_from_different_sources() -> None:
    public, private, judge = numbered([2, 2]), numbered([4, 5], "q", 100), numbered([1], "r", 200)
    data = from_parts(public, private, 2, seed=3, evaluation=judge)
    assert data.private_train.counts().tolist() == [2, 3]
    assert sorted(numbers(data.private)) == sorted(numbers(private))
    assert (data.public, data.evaluation) == (public, judge)
    with pytest.raises(UserError, match=r"person 'q01' has 1 photo; every person needs at least 3 \(2 held out"):
        from_parts(public, numbered([4, 1], "q"), 2, seed=0)
    with pytest.raises(UserError, match=r"person 'P00' \(and 1 more\) is in both"):
        from_parts(public, numbered([4, 4], "P", 100), 2, seed=0)
    with pytest.raises(UserError, match="person 'p00' is in both"):
        from_parts(public, private, 2, seed=0, evaluation=numbered([1], "p", 300))
    with pytest.raises(UserError, match=r"images are \(3, 8, 8\) but those of"):
        from_parts(make_people([1], 1, size=16), private, 2, seed=0)


def test_audit_data_cannot_be_wrong() -> None:
    public, private = numbered([2, 2]), numbered([4, 4], "q", 100)
    with pytest.raises(UserError, match="must be of the same people"):
        AuditData(public, private, private.of_classes([0]))
    with pytest.raises(UserError, match="person 'q01' has 0 photos; every person needs at least 1 held out"):
        AuditData(public, private, private.take(private.labels == 0))
    with pytest.raises(UserError, match="no photos"):
        AuditData(public.of_classes([]), private, private)


# ---- overlap ----


@cache
def faces(first: int, people: int, photos: int = 3) -> ImageSet:
    return make_people(range(first, first + people), photos, size=64)


def copies(images: Tensor, change: str) -> Tensor:
    if change == "bright":
        return (images.float() * 1.15 + 8).clamp(0, 255).byte()
    if change == "half":
        half = torch.nn.functional.interpolate(images, scale_factor=0.5, mode="bilinear", antialias=True)
        return torch.nn.functional.interpolate(half, scale_factor=2.0, mode="bilinear")
    return torch.stack([_jpeg(image) for image in images])


def _jpeg(image: Tensor) -> Tensor:
    buffer = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(buffer, "JPEG", quality=60)
    return torch.from_numpy(np.array(Image.open(buffer))).permute(2, 0, 1)


def test_different_people_do_not_overlap() -> None:
    assert check_overlap(faces(0, 12), faces(50, 8)) == []


def test_equal_photos_are_refused_under_any_name() -> None:
    public, private = faces(0, 4), faces(50, 2)
    stolen = replace(public, images=torch.cat([public.images[:-1], private.images[4:5]]))
    with pytest.raises(
        UserError, match=r"photos that are in both .*: 1, the first as 'person-000003' and as 'person-000051'"
    ):
        check_overlap(stolen, private)


def test_names_are_compared_without_case_or_composition() -> None:
    public, private = faces(0, 1), faces(1, 1)
    with pytest.raises(UserError, match="person 'ZO\u00cb' is in both"):
        check_overlap(replace(public, names=("zoe\u0308",)), replace(private, names=("ZO\u00cb",)))


@pytest.mark.parametrize("change", ["bright", "half", "jpeg"])
def test_altered_copies_are_counted(change: str) -> None:
    public, private = faces(0, 10), faces(50, 5)
    taken = public.images[[0, 7, 20]]
    private = replace(private, images=torch.cat([private.images[:12], copies(taken, change)]))
    assert near_duplicates(private.images, public.images).tolist() == [False] * 12 + [True] * 3
    (warning,) = check_overlap(public, private)
    assert "3 of 15 photos" in warning
    assert "the first of 'person-000054'" in warning


def test_perceptual_hash_is_the_sign_of_a_cosine_transform() -> None:
    grey = np.random.default_rng(0).integers(0, 256, (20, 32, 32), dtype=np.uint8)
    coefficients = dctn(grey.astype(np.float64), axes=(1, 2))[:, 1:9, 1:9].reshape(20, 64)
    bits = perceptual_hash(torch.from_numpy(grey)[:, None].expand(-1, 3, -1, -1))
    clear = np.abs(coefficients) > 1  # single precision decides the others
    assert clear.mean() > 0.99
    assert np.array_equal(bits.numpy()[clear], (coefficients > 0)[clear])


def test_near_duplicates_are_near_in_bits_and_in_colour() -> None:
    a = faces(0, 10).images
    noise = torch.randn(len(a), 3, 8, 8, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(noise, size=64, mode="bicubic")
    scale = torch.linspace(0, 60, len(a)).view(-1, 1, 1, 1)
    b = (a + scale * smooth).clamp(0, 255).byte()  # from a copy to a ruin
    apart = (perceptual_hash(a) != perceptual_hash(b)).sum(1).numpy()
    thumbnails = [x.reshape(-1, 3, 8, 8, 8, 8).double().mean((3, 5)).flatten(1).numpy() for x in (a, b)]
    alike = [np.corrcoef(x, y)[0, 1] for x, y in zip(*thumbnails, strict=True)]
    expected = [bits <= NEAR_BITS and r >= NEAR_CORRELATION for bits, r in zip(apart, alike, strict=True)]
    found = [bool(near_duplicates(a[i : i + 1], b[i : i + 1])) for i in range(len(a))]
    assert found == expected
    assert 3 < sum(found) < 27


def test_tinted_copies_are_other_photos() -> None:
    a = faces(0, 4).images
    tinted = a.roll(1, dims=1)  # colours exchanged: much the same in grey
    assert not near_duplicates(a, tinted).any()
    assert near_duplicates(a, a).all()
    assert near_duplicates(a, a[:0]).tolist() == [False] * 12
    assert near_duplicates(a[:0], a).tolist() == []


def test_photo_digests_tell_photos_apart() -> None:
    images = faces(0, 2).images
    changed = images.clone()
    changed[2, 1, 5, 5] ^= 1
    equal = [a == b for a, b in zip(photo_digests(images), photo_digests(changed), strict=True)]
    assert equal == [True, True, False, True, True, True]


def test_validate_warns_about_held_out_photos_that_are_trained_on() -> None:
    people = faces(50, 3, photos=4)
    assert from_parts(faces(0, 3), people, 2, seed=0).validate() == []
    doubled = replace(people, images=people.images[[0, 0, 0, 0, 4, 5, 6, 7, 8, 9, 10, 11]])
    (warning,) = from_parts(faces(0, 3), doubled, 2, seed=0).validate()
    assert warning.startswith("2 of 6 held-out images")


def test_validate_looks_at_all_parts() -> None:
    public, private, judge = faces(0, 3), faces(50, 3), faces(80, 2)
    assert from_parts(public, private, 1, seed=0, evaluation=judge).validate() == []
    for part in (public, private):
        stolen = replace(judge, images=torch.cat([judge.images[:-1], part.images[:1]]))
        with pytest.raises(UserError, match="photos that are in both"):
            from_parts(public, private, 1, seed=0, evaluation=stolen).validate()


@pytest.mark.parametrize(("name", "n_private", "n_heldout"), [("orl_64.npz", 20, 3), ("london_64.npz", 50, 1)])
def test_real_faces_do_not_alarm(name: str, n_private: int, n_heldout: int) -> None:
    folder = os.environ.get("LATENTPRINT_DATA")
    if not folder or not (Path(folder) / name).is_file():
        pytest.skip(f"LATENTPRINT_DATA is not set or has no {name}")
    data = load_npz(Path(folder) / name, 64)
    for seed in range(3):
        assert split_people(data, n_private, n_heldout, seed).validate() == []
