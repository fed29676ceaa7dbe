"""Image packs as users have them: what is read, what is noted, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from latentprint.data.arrays import images_of, labels_of
from latentprint.data.npz import keys_of, load_npz
from latentprint.errors import UserError

PIXELS = np.random.default_rng(5).integers(0, 256, (6, 12, 10, 3), dtype=np.uint8)
PIXELS[0, 0, 0] = (0, 128, 255)
LABELS = np.array([0, 0, 1, 1, 2, 2])
NAMES = np.array(["ann", "bob", "cid"])


# ---- images ----


@pytest.mark.parametrize(("array", "notes"), [
    (PIXELS, []),
    (PIXELS.transpose(0, 3, 1, 2), ["colours come first, (N, C, H, W)"]),
    (PIXELS / 255, ["values from 0 to 1 read as fractions (white is 1)"]),
    ((PIXELS / 255).astype(np.float32).transpose(0, 3, 1, 2),
     ["colours come first, (N, C, H, W)", "values from 0 to 1 read as fractions (white is 1)"]),
    (PIXELS.astype(np.float32), ["values from 0 to 255 read as 8-bit (white is 255)"]),
    (PIXELS.astype(np.int64), ["values from 0 to 255 read as 8-bit (white is 255)"]),
    (PIXELS.astype(np.uint16) * 257, ["values from 0 to 65535 read as 16-bit (white is 65535)"]),
    (np.concatenate([PIXELS, np.full_like(PIXELS[..., :1], 255)], 3),
     ["the fourth channel read as opacity over white"])])
def test_colour_images_in_usual_layouts(array: NDArray, notes: list[str]) -> None:
    images, found = images_of(array, "pack: images")
    assert images.dtype == np.uint8 and np.array_equal(images, PIXELS) and found == notes


@pytest.mark.parametrize(("array", "notes"), [
    (PIXELS[..., 0], []), (PIXELS[..., :1], ["one channel read as grey"]),
    (PIXELS[:, None, :, :, 0], ["colours come first, (N, C, H, W)", "one channel read as grey"])])
def test_grey_images_in_usual_layouts(array: NDArray, notes: list[str]) -> None:
    images, found = images_of(array, "pack: images")
    assert np.array_equal(images, np.repeat(PIXELS[..., :1], 3, 3)) and found == notes


def test_what_is_transparent_becomes_white() -> None:
    image = np.zeros((1, 8, 8, 4), np.uint8)
    image[..., :3], image[0, :4, :, 3], image[0, 4, :, 3] = (200, 100, 50), 255, 51
    for array in (image, image / 255):
        seen = images_of(array, "x")[0][0, :, 0].tolist()
        assert seen[0] == [200, 100, 50] and seen[4] == [244, 224, 214] and seen[7] == [255, 255, 255]


@pytest.mark.parametrize(("array", "message"), [
    (np.zeros((6, 3, 12, 3), np.uint8), r"shape \(6, 3, 12, 3\) could have its colours first or last; save"),
    (np.zeros((6, 12, 12, 2), np.uint8), r"expected \(N, H, W\), \(N, H, W, 3\) or \(N, 3, H, W\); got uint8"),
    (np.zeros((6, 144), np.uint8), r"expected \(N, H, W\)"),
    (np.zeros((6, 12, 12), bool), "must be numbers"), (np.array(["a.jpg"]), "must be numbers"),
    (PIXELS / 127.5 - 1, "from -1 to 1, but black is 0; save them"),
    (PIXELS / 100, r"from 0 to 2\.55 do not show whether white is 1 or 255"),
    (np.where(PIXELS == 0, np.nan, PIXELS / 255), "not finite")])
def test_images_that_could_mean_two_things_are_refused(array: NDArray, message: str) -> None:
    with pytest.raises(UserError, match=f"pack: images.*{message}"):
        images_of(array, "pack: images")


# ---- labels ----


@pytest.mark.parametrize(("labels", "names", "expected", "notes"), [
    (LABELS, NAMES, NAMES, []),
    (LABELS.astype(np.uint8)[:, None], NAMES, NAMES, ["labels are one column"]),
    (LABELS.astype(np.float32), NAMES, NAMES, []),
    (LABELS, NAMES.astype(bytes), NAMES, []),
    (LABELS, NAMES[:, None], NAMES, []),
    (LABELS, np.array([7, 8, 9]), ["7", "8", "9"], []),
    (LABELS + 1, NAMES, NAMES, ["labels from 1 to 3 count the 3 class_names from 1"]),
    (np.eye(3)[LABELS], NAMES, NAMES, ["labels are rows with a single 1, whose place is the class"]),
    (NAMES[LABELS], NAMES, NAMES, ["labels are the people's names"]),
    (NAMES[LABELS].astype(bytes), NAMES, NAMES, ["labels are the people's names"]),
    (NAMES[LABELS], None, NAMES, ["labels are the people's names, which are in alphabetical order"]),
    (LABELS * 10 + 7, None, ["7", "17", "27"],
     ["no class_names, so the people are called by their labels, 7, 17, 27"])])
def test_labels_in_usual_forms(labels: NDArray, names: NDArray | None, expected: list[str], notes: list[str]) -> None:
    found = labels_of(labels, names, 6, "pack")
    assert found.labels.dtype == np.int64 and found.labels.tolist() == LABELS.tolist()
    assert found.names == tuple(expected) and found.notes == notes


def test_named_labels_keep_the_order_of_the_names() -> None:
    found = labels_of(np.array(["b", "Jose\u0301"]), np.array(["Jos\u00e9", "b"]), 2, "pack")
    assert found.labels.tolist() == [1, 0] and found.names == ("Jos\u00e9", "b")


@pytest.mark.parametrize(("labels", "names", "message"), [
    (np.array([0, 0, 1, -1, 2, 2]), NAMES, r"1 of 6 images \(row 3: -1\) are negative: leave these images out"),
    (np.array([0, 0, 1, -1, 2, 2]), None, "are negative"),
    (np.array([0, 0, 1, 1, 2, 5]), NAMES, r"1 of 6 images \(row 5: 5\) are beyond the 3 class_names"),
    (np.array([1, 1, 1, 1, 3, 3]), NAMES, r"\(row 4, 5: 3\) are beyond"),  # from 1, or a name short: not for us to say
    (np.array([0, 0, 1, 1, 2, 2.5]), NAMES, r"\(row 5: 2\.5\) are no whole numbers"),
    (np.array([0, 0, 1, 1, 2, np.nan]), NAMES, r"\(row 5: nan\) are no whole numbers"),
    (np.array(["ann", "bob", "zed", "ann", "ann", "zed"]), NAMES, r"2 of 6 images \(row 2, 5: zed\) are not among"),
    (np.zeros((6, 2)), NAMES, "labels must be one integer or text an image"),
    (np.zeros(5, int), NAMES, "labels must be one integer or text an image"),
    (LABELS, np.array([0.5, 1, 2]), "class_names must be a list of texts")])
def test_labels_that_fit_no_person_are_refused_with_their_rows(labels: NDArray, names: NDArray | None,
                                                               message: str) -> None:
    with pytest.raises(UserError, match=f"pack: .*{message}"):
        labels_of(labels, names, 6, "pack")


# ---- files ----


@pytest.mark.parametrize(("files", "keys"), [
    (["labels", "images", "class_names", "X", "split"], ("images", "labels", "class_names")),
    (["X", "y"], ("X", "y", None)), (["x", "y", "classes"], ("x", "y", "classes")),
    (["data", "targets"], ("data", "targets", None)), (["Images", "Labels"], ("Images", "Labels", None)),
    (["images", "data", "target", "target_names"], ("images", "target", "target_names"))])
def test_what_the_arrays_are_called(files: list[str], keys: tuple[str, str, str | None]) -> None:
    assert tuple(keys_of(files, Path("p.npz"))) == keys


@pytest.mark.parametrize(("files", "message"), [
    (["x_train", "y_train"], r"no key 'images' in the pack \(or x, data\); it has x_train, y_train"),
    (["images"], r"no key 'labels' in the pack \(or y, targets, target\)"), ([], "it has none"),
    (["X", "data", "y"], "X and data could each be the images; keep one or call it 'images'")])
def test_arrays_that_could_be_others_are_refused(files: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        keys_of(files, Path("p.npz"))


def saved(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def test_a_pack_under_other_names_is_read_with_one_note(tmp_path: Path) -> None:
    path = saved(tmp_path / "p.npz", X=(PIXELS / 255).transpose(0, 3, 1, 2), y=LABELS, fold=LABELS)
    data = load_npz(path, 10)
    assert torch.equal(data.images, torch.from_numpy(PIXELS[:, 1:11]).permute(0, 3, 1, 2))
    assert data.names == ("0", "1", "2") and data.labels.tolist() == LABELS.tolist()
    assert data.notes == (
        f"{path}: 'X' read as images; 'y' read as labels; colours come first, (N, C, H, W); values from 0 to 1 read as "
        "fractions (white is 1); no class_names, so the people are called by their labels, 0, 1, 2",)
    assert load_npz(path, 10, {"fold": 2}).names == ("2",)
    assert load_npz(saved(tmp_path / "q.npz", images=PIXELS, labels=LABELS, class_names=NAMES), 10).notes == ()


def test_one_array_is_no_pack(tmp_path: Path) -> None:
    with (tmp_path / "p.npz").open("wb") as file:
        np.save(file, PIXELS)
    with pytest.raises(UserError, match=r"one array without names \(\.npy\), and a pack holds images and labels"):
        load_npz(tmp_path / "p.npz", 8)


@pytest.mark.parametrize("key", ["images", "labels", "class_names"])
def test_python_objects_are_never_loaded(tmp_path: Path, key: str) -> None:
    arrays = {"images": PIXELS, "labels": LABELS, "class_names": NAMES}
    path = saved(tmp_path / "p.npz", **{**arrays, key: arrays[key].astype(object)})
    with pytest.raises(UserError, match=rf"{key} is an array of Python objects, which are pickled"):
        load_npz(path, 10)
