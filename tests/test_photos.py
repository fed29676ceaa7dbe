"""Folders of photos as users have them: what is read, what is passed over, and what is said of it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import run_cli
from numpy.typing import NDArray
from PIL import Image

from latentprint import checks
from latentprint.data import align
from latentprint.data.alignment import flat_ones
from latentprint.data.base import ImageSet, concatenate
from latentprint.data.cache import fingerprint
from latentprint.data.folder import load_flat, load_folder, load_nested
from latentprint.data.hf import load_hf
from latentprint.data.listing import suffixes
from latentprint.data.pixels import read_photos
from latentprint.data.sources import FlatSource
from latentprint.data.splits import AuditData
from latentprint.data.values import Span, joint, reading, to_bytes, white_of
from latentprint.errors import UserError
from latentprint.pretrain.codec import CodecConfig
from latentprint.pretrain.common import people_of, unseen_people


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATENTPRINT_CACHE", str(tmp_path / "cache"))


def pixels(seed: int, *shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def photo(path: Path, seed: int = 0, size: int = 12) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(seed, size, size, 3)).save(path)
    return path


@pytest.fixture
def people(tmp_path: Path) -> Path:
    """Two people with two photos each."""
    for index, name in enumerate(("ann/0.png", "ann/1.png", "bob/0.png", "bob/1.png")):
        photo(tmp_path / "photos" / name, index)
    return tmp_path / "photos"


# ---- formats ----


def test_every_raster_format_is_read_and_nothing_that_starts_a_program(tmp_path: Path) -> None:
    assert {".jpg", ".png", ".webp", ".bmp", ".gif", ".pgm", ".ppm", ".tif", ".tiff", ".jp2", ".tga"} <= suffixes()
    assert not {".eps", ".ps", ".pdf", ".mpg", ".h5", ".wmf"} & suffixes()
    for index, name in enumerate(("a.PNG", "b.Tif", "c.tiff", "d.ppm", "e.bmp", "f.tga")):
        photo(tmp_path / "ann" / name, index)
    data = load_folder(tmp_path, 12)
    assert torch.equal(data.images.permute(0, 2, 3, 1), torch.stack([torch.from_numpy(pixels(i, 12, 12, 3))
                                                                     for i in range(6)]))
    assert data.notes == ()


def test_grey_pgm_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "s1").mkdir()
    Image.fromarray(pixels(1, 12, 12)).save(tmp_path / "s1" / "1.pgm")
    assert torch.equal(load_folder(tmp_path, 12).images[0], torch.from_numpy(pixels(1, 12, 12)).expand(3, -1, -1))


def test_of_an_animation_the_first_image_is_read_and_that_is_noted(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (12, 12), (value, 0, 0)) for value in (40, 200)]
    (tmp_path / "ann").mkdir()
    for name in ("1.gif", "2.tif"):
        frames[0].save(tmp_path / "ann" / name, save_all=True, append_images=frames[1:])
    data = load_folder(tmp_path, 12)
    assert data.images[:, 0, 0, 0].tolist() == [40, 40]
    assert data.notes == (f"{tmp_path}: 2 files hold several images; the first is taken",)


@pytest.mark.parametrize(("content", "fault"), [
    (b"", "the file is empty"), (b"<html>404</html>", "the file is a web page"),
    (b"\n<!DOCTYPE html>", "the file is a web page"),
    (b"\0\0\0\x18ftypheic\0\0", "the file is HEIC, whatever it is called; convert .*"),
    (b"12345678", "its content is of no known image format")])
def test_what_is_no_image_is_named_with_its_fault(people: Path, content: bytes, fault: str) -> None:
    (people / "bob" / "3.jpg").write_bytes(content)
    with pytest.raises(UserError, match=rf"3\.jpg: not a readable image \({fault}\); replace or delete it"):
        load_folder(people, 12)


# ---- what is passed over ----


def test_clutter_is_passed_over_and_counted(people: Path) -> None:
    before = load_folder(people, 12)
    assert before.notes == ()
    for name in (".DS_Store", "Thumbs.db", "readme.txt", "stray.png.part", "ann/._0.png", "ann/desktop.ini",
                 "ann/notes.txt", "ann/list.csv"):
        (people / name).write_bytes(b"x")
    (people / "__MACOSX" / "ann").mkdir(parents=True)
    photo(people / "__MACOSX" / "ann" / "0.png")
    (people / ".ipynb_checkpoints").mkdir()
    (people / "zoe").mkdir()
    (people / "bob" / "broken.png").symlink_to("/nowhere/at/all.png")
    photo(people / "stray.png", 8)
    data = load_folder(people, 12)
    assert torch.equal(data.images, before.images) and data.names == ("ann", "bob")
    assert data.notes == (
        f"{people}: 4 photos of 2 people read; passed over: 6 hidden or system entries, 4 files that are no images "
        "(.txt, .part, .csv), 1 broken link (broken.png), 1 photo in no person's folder (stray.png), 1 folder without "
        "photos (zoe)",)


def test_links_that_go_in_circles_are_not_followed(people: Path) -> None:
    (people / "ann" / "again").symlink_to(people)
    (people / "ann" / "self").symlink_to("self")
    for load in (load_folder, load_nested):
        data = load(people, 12)
        assert (data.names, len(data)) == (("ann", "bob"), 4)
        assert "1 broken link (self)" in data.notes[0] and "1 link to a folder that holds it (again)" in data.notes[0]
    assert len(load_flat(people, 12)) == 4


def test_linked_people_are_read_and_their_changes_seen(people: Path, tmp_path: Path) -> None:
    (people / "ann").rename(tmp_path / "elsewhere")
    (people / "ann").symlink_to(tmp_path / "elsewhere")
    assert load_folder(people, 12).names == ("ann", "bob")
    before = fingerprint(people)
    os.utime(tmp_path / "elsewhere" / "0.png", ns=(1, 1))
    assert fingerprint(people) != before


def test_people_one_folder_deeper_are_read_where_there_is_one_such_folder(people: Path, tmp_path: Path) -> None:
    (tmp_path / "set" / "data").mkdir(parents=True)
    (tmp_path / "set" / "data" / "empty").mkdir()
    people.rename(tmp_path / "set" / "data" / "train")
    data = load_folder(tmp_path / "set", 12)
    assert data.names == ("ann", "bob") and data.source == str(tmp_path / "set" / "data" / "train")
    assert data.notes[0].endswith(f"no photos in its folders; the people are read from {tmp_path / 'set' / 'data'}")
    photo(tmp_path / "set" / "data" / "test" / "ann" / "0.png")
    with pytest.raises(UserError, match=r"data: no photos in its folders, but in theirs; give one of them as path, as "
                                        r".*/test, or take kind: nested"):
        load_folder(tmp_path / "set", 12)


def test_photos_below_a_person_are_counted_or_refused(people: Path) -> None:
    photo(people / "ann" / "album" / "9.png", 9)
    assert "1 photo in a folder inside a person's (9.png)" in load_folder(people, 12).notes[0]
    photo(people / "cid" / "album" / "9.png", 10)
    with pytest.raises(UserError, match=r"cid: no photos in this folder, but 1 photo in folders below.*kind: nested"):
        load_folder(people, 12)


def test_photos_that_cannot_be_read_are_not_lost_with_their_person(people: Path) -> None:
    (people / "ann" / "3.HEIC").write_bytes(b"x")
    assert "1 photo in a format that cannot be read (.heic)" in load_folder(people, 12).notes[0]
    (people / "cid").mkdir()
    (people / "cid" / "1.HEIC").write_bytes(b"x")
    for load in (load_folder, load_nested):
        with pytest.raises(UserError, match=r"cid: only 1 photo in a format that cannot be read here \(\.HEIC\); "
                                            "convert to"):
            load(people, 12)


def test_people_who_are_left_out_by_settings_are_counted(people: Path) -> None:
    photo(people / "cid" / "0.png", 7)
    assert load_folder(people, 12, 2, 1).notes == (
        f"{people}: 2 photos of 1 person read; left out: 1 person with fewer than min_photos = 2 photos; left out: 1 "
        "person beyond max_people = 1",)


def test_folders_without_people_say_what_to_give(people: Path, tmp_path: Path) -> None:
    for load in (load_folder, load_nested, load_flat):
        with pytest.raises(UserError, match="nowhere: expected a folder that can be read"):
            load(tmp_path / "nowhere", 12)
    with pytest.raises(UserError, match=r"ann: no subfolders with photos, but 2 photos in the folder itself; .*"
                                        "give the folder above; kind: flat"):
        load_folder(people / "ann", 12)
    (tmp_path / "none" / "ann").mkdir(parents=True)
    (tmp_path / "none" / "ann" / "a.txt").write_text("x")
    with pytest.raises(UserError, match=r"none: no photos in its 1 folder; expected one folder for each person.*"
                                        r"\(passed over: 1 file that is no image \(\.txt\)\)"):
        load_folder(tmp_path / "none", 12)


def test_two_unicode_forms_of_one_name_are_named(people: Path) -> None:
    (people / "ann").rename(people / "Jos\u00e9")
    (people / "bob").rename(people / "Jose\u0301")
    for load in (load_folder, load_nested):
        with pytest.raises(UserError, match="two folders are called 'José', in two Unicode forms"):
            load(people, 12)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems allow text alone in names")
def test_names_in_another_encoding_become_text(people: Path) -> None:
    (people / "ann").rename(people / "Jos\udce9")
    (people / "z\udce9").mkdir()
    data = load_folder(people, 12)
    assert data.names == ("Jos\\xe9", "bob") and "1 folder without photos (z\\xe9)" in data.notes[0]
    assert "\\xe9/0.png" in load_flat(people, 12).names[0]
    json.dumps([data.names, data.notes, load_flat(people, 12).names], ensure_ascii=False).encode()


def test_odd_names_are_names(people: Path) -> None:
    names = ["dan, the [1]", "Bob O'Neil", 'say "x"', "v. 0.05", "小明", "evé 🙂", "007", "1.5", "-1"]
    for index, name in enumerate(names):
        photo(people / name / "0.png", index)
    assert set(load_folder(people, 12).names) == {"ann", "bob", *names}


# ---- values beyond bytes ----


@pytest.mark.parametrize(("span", "white"), [
    (Span(True, 0, 65535), 65535), (Span(True, 0, 17000), 65535), (Span(True, 3, 4000), 4095),
    (Span(True, 0, 900), 1023), (Span(True, 0, 255), 255), (Span(True, 0, 0), 255), (Span(False, 0, 1), 1),
    (Span(False, 0.2, 0.3), 1),
    (Span(False, 0, 254.7), 255), (Span(False, 0, 60000), 65535)])
def test_what_white_is(span: Span, white: float) -> None:
    assert white_of(span, "x") == white


@pytest.mark.parametrize(("span", "message"), [
    (Span(False, 0, 1.7), "x: pixel values from 0 to 1.7 do not show whether white is 1 or 255; save them"),
    (Span(True, 0, 1), "do not show whether white is 1 or 255"), (Span(False, -1, 1), "from -1 to 1, but black is 0"),
    (Span(False, 0, float("nan")), "not finite"), (Span(False, 0, float("inf")), "not finite"),
    (Span(True, 0, 70000), "beyond 16 bits")])
def test_what_white_could_be_is_refused(span: Span, message: str) -> None:
    with pytest.raises(UserError, match=message):
        white_of(span, "x")


def test_spans_are_joined_by_kind() -> None:
    spans = joint([Span(True, 3, 9), Span(False, 0, 1), Span(True, 1, 5), Span(False, 0.5, float("nan"))])
    assert spans[True] == Span(True, 1, 9) and np.isnan(spans[False].high)
    assert reading(Span(True, 1, 4000), 4095) == "values from 1 to 4000 read as 12-bit (white is 4095)"
    assert reading(Span(False, 0, 0.9), 1.0) == "values from 0 to 0.9 read as fractions (white is 1)"
    assert to_bytes(np.array([0, 0.5, 1, 1.2]), 1.0).tolist() == [0, 128, 255, 255]


def deep(path: Path, values: NDArray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return path


def test_deep_photos_are_scaled_by_their_common_range(tmp_path: Path) -> None:
    """A dark photo keeps its darkness: the range is that of all photos of its kind."""
    grey = pixels(3, 12, 12)
    grey[0, 0] = 255
    paths = [deep(tmp_path / "bright.png", grey.astype(np.uint16) * 257),
             deep(tmp_path / "dark.png", (grey // 8).astype(np.uint16) * 257),
             deep(tmp_path / "whole.tif", grey.astype(np.int32) * 257),
             deep(tmp_path / "float.tif", grey.astype(np.float32) / 255),
             deep(tmp_path / "half.tif", grey.astype(np.float32) / 510)]
    images, notes = read_photos(paths, 12, "set")
    for image, expected in zip(images, (grey, grey // 8, grey, grey, np.rint(grey / 2)), strict=True):
        assert torch.equal(image, torch.from_numpy(expected.astype(np.uint8)).expand(3, -1, -1))
    assert notes == ("set: 3 photos hold whole numbers beyond bytes; values from 0 to 65535 read as 16-bit (white is "
                     "65535)",
                     "set: 2 photos hold floats; values from 0 to 1 read as fractions (white is 1)")
    paths.append(deep(tmp_path / "beyond.tif", grey.astype(np.float32) / 100))
    with pytest.raises(UserError, match=r"set: pixel values from 0 to 2\.55 do not show whether white is 1 or 255"):
        read_photos(paths, 12, "set")


def test_deep_photos_of_a_dataset_on_disk(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    grey = pixels(3, 12, 12)
    grey[0, 0] = 255
    shown = [Image.fromarray(values.astype(np.uint16) * 257) for values in (grey, grey // 8)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["ann"])})
    datasets.Dataset.from_dict({"image": shown, "label": [0, 0]}, features=features).save_to_disk(tmp_path / "one")
    data = load_hf(tmp_path / "one", 12)
    assert torch.equal(data.images[1, 0], torch.from_numpy(grey // 8))
    assert "2 photos hold whole numbers beyond bytes" in data.notes[0]


def test_aligned_copies_of_photos_that_differ_in_the_ending_alone(tmp_path: Path) -> None:
    grey = pixels(3, 40, 40)
    grey[0, 0] = 255
    photo(tmp_path / "in" / "1.png", size=40)
    deep(tmp_path / "in" / "1.tif", grey.astype(np.int32) * 257)
    seen: list[NDArray[np.uint8]] = []

    def detect(shown: NDArray[np.uint8]) -> NDArray[np.float32]:
        seen.append(shown)
        return align.places(40, "arcface")

    assert align.align_folder(tmp_path / "in", tmp_path / "out", detect, 40, "arcface") == (2, [])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["1.png", "1.tif.png"]
    assert np.array_equal(seen[1][..., 0], grey)


# ---- flat images, and what the audits report ----


def of(values: list[int], names: tuple[str, ...], labels: list[int], notes: tuple[str, ...] = ()) -> ImageSet:
    """Images of noise around a value; 0 and 255 are flat."""
    noise = torch.from_numpy(pixels(1, len(values), 3, 8, 8)).int() // 4
    images = torch.stack([torch.full((3, 8, 8), value) if value in (0, 255) else value + each
                          for value, each in zip(values, noise, strict=True)])
    return ImageSet(images.clamp(0, 255).to(torch.uint8), torch.tensor(labels), names, "set", notes=notes)


def test_flat_ones() -> None:
    images = of([0, 255, 100, 20, 200], ("a",), [0] * 5).images
    nearly = torch.stack([torch.full((3, 8, 8), 100), torch.zeros(3, 8, 8)]).to(torch.uint8)
    nearly[:, 0, 0, 0] = 110
    dark = (torch.from_numpy(pixels(2, 1, 3, 8, 8)) // 16)  # 12 bits read as 16
    assert flat_ones(torch.cat([images, nearly, dark])).tolist() == [True, True, False, False, False, True, True, True]
    assert flat_ones(images[:0]).tolist() == []


def test_flat_images_are_warned_of_or_refused() -> None:
    assert checks.flat_images(of([90, 100, 110], ("a", "b"), [0, 0, 1])) is None
    some = checks.flat_images(of([90, 0, 100, 110, 90], ("a", "b"), [0, 0, 0, 1, 1]))
    assert some is not None and (some.level, some.message) == (
        "warning", "set: 1 of 5 images are nearly all of one value, black or white, the first of 'a'")
    one = of([90, 100, 110, 90, 0], ("a", "b"), [0, 0, 0, 0, 1])
    with pytest.raises(UserError, match="all of 'b' are: replace them, or leave this person out"):
        checks.enforce([checks.flat_images(one)])
    lenient = checks.flat_images(one, every_class=False)
    assert lenient is not None and lenient.level == "warning"
    with pytest.raises(UserError, match="set: 2 of 3 images are nearly all of one value"):
        checks.enforce([checks.flat_images(of([0, 255, 90], ("a", "b"), [0, 0, 1]), every_class=False)])


def test_notes_stay_with_images_and_reach_the_audit() -> None:
    first, second = of([90] * 4, ("a", "b"), [0, 0, 1, 1], ("n1", "n2")), of([60] * 2, ("c", "d"), [0, 1], ("n2", "n3"))
    assert first.take(torch.tensor([0])).notes == first.of_classes([1]).notes == ("n1", "n2")
    assert concatenate(first, second).notes == ("n1", "n2", "n3")
    train, heldout = first.take(torch.tensor([0, 2])), first.take(torch.tensor([1, 3]))
    assert AuditData(second, train, heldout).notes == ("n1", "n2", "n3")


def test_a_photo_of_two_people_is_warned_of() -> None:
    data = of([90, 60, 40, 120], ("a", "b"), [0, 0, 1, 1])
    data.images[2] = data.images[0]
    train, heldout = data.take(torch.tensor([0, 3])), data.take(torch.tensor([1, 2]))
    assert AuditData(of([200, 210], ("c", "d"), [0, 1]), train, heldout).validate()[-1] == (
        "set: 1 photo is given as of two people, the first as 'a' and as 'b': one of the two is wrong")


@pytest.mark.usefixtures("listening")
def test_a_codec_learns_from_single_photos(people: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (people / "list.csv").write_text("x")
    config = CodecConfig(photos=1, size=32, data=FlatSource(path=people, size=32))
    pool, unseen = people_of(config), unseen_people(config)
    assert len(pool) == pool.n_classes == 3 and pool.counts().tolist() == [1] * 3
    assert len(unseen) == unseen.n_classes == 1 and not set(pool.names) & set(unseen.names)
    assert "passed over: 1 file that is no image (.csv)" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(UserError, match=r"size: 64, and the pictures of .* have 32 pixels"):
        people_of(config.model_copy(update={"size": 64}))


def test_attributes_of_photos_need_the_networks_that_measure_them(people: Path, tmp_path: Path,
                                                            capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run_cli(capsys, "pretrain", "attributes", "--preset", "tiny", "--set",
                           f"data={{kind: folder, path: {people}}}", "--out", str(tmp_path / "out"))
    assert code == 2 and "measured by networks of landmarks and of expression" in err
    assert "latentprint convert faces" in err and not (tmp_path / "out").exists()
