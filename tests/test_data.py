"""Loaders, cache and sources: the values they read, and what they say about damaged or missing input."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import random
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import TypeAdapter, ValidationError
from torch import Tensor
from torchvision.datasets import CIFAR10, CelebA

from latentprint.data.base import ImageSet
from latentprint.data.cache import cached, default_cache_dir, fingerprint
from latentprint.data.faceregion import default_hole, with_holes
from latentprint.data.folder import load_folder
from latentprint.data.npz import load_npz
from latentprint.data.pixels import decode_photo, decode_photos, resize_square
from latentprint.data.sources import DataSource, FolderSource, NpzSource, ProceduralSource, load
from latentprint.data.vision import load_celeba, load_cifar
from latentprint.errors import UserError


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep the tests out of the user's cache."""
    monkeypatch.setenv("LATENTPRINT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def pack_path(name: str) -> Path:
    """A real image pack, or skip."""
    folder = os.environ.get("LATENTPRINT_DATA")
    if not folder:
        pytest.skip("LATENTPRINT_DATA is not set: no real image packs")
    path = Path(folder) / name
    if not path.is_file():
        pytest.skip(f"{name} is not in the folder LATENTPRINT_DATA")
    return path


def pixels(seed: int, *shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def photo(seed: int, height: int = 20, width: int = 20) -> Image.Image:
    return Image.fromarray(pixels(seed, height, width, 3))


def smooth(height: int, width: int) -> Image.Image:
    return photo(3, 5, 5).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def people(tmp_path: Path) -> Path:
    """Three people with 2, 1 and 3 photos in a path with spaces and accents."""
    root = tmp_path / "çà et là 顔"
    for person, count in (("zoë", 2), ("Ann Lee", 1), ("李", 3)):
        (root / person).mkdir(parents=True)
        for index in range(count):
            photo(10 * len(person) + index).save(root / person / f"{index}.png")
    return root


# ---- pixels ----


def test_photo_of_the_asked_size_is_unchanged(tmp_path: Path) -> None:
    photo(1).save(tmp_path / "a.png")
    assert torch.equal(decode_photo(tmp_path / "a.png", 20).permute(1, 2, 0), torch.from_numpy(pixels(1, 20, 20, 3)))


def test_centre_crop_takes_the_middle(tmp_path: Path) -> None:
    photo(2, 20, 30).save(tmp_path / "wide.png")
    middle = torch.from_numpy(pixels(2, 20, 30, 3))[:, 5:25].permute(2, 0, 1)
    assert torch.equal(decode_photo(tmp_path / "wide.png", 20), middle)
    wide = torch.from_numpy(pixels(2, 20, 30, 3)).permute(2, 0, 1).unsqueeze(0)
    assert torch.equal(resize_square(wide, 20)[0], middle)


def test_resize_is_antialiased(tmp_path: Path) -> None:
    stripes = np.zeros((64, 64, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    Image.fromarray(stripes).save(tmp_path / "stripes.png")
    from_file = decode_photo(tmp_path / "stripes.png", 16)
    from_array = resize_square(torch.from_numpy(stripes).permute(2, 0, 1).unsqueeze(0), 16)[0]
    for resized in (from_file, from_array):  # without antialiasing every pixel would be black or white
        assert (resized[:, :, 2:-2].float() - 127.5).abs().max() < 4


def test_files_and_arrays_are_resized_alike(tmp_path: Path) -> None:
    picture = smooth(40, 40)
    picture.save(tmp_path / "a.png")
    array = torch.from_numpy(np.array(picture)).permute(2, 0, 1).unsqueeze(0)
    for size in (17, 64):
        difference = decode_photo(tmp_path / "a.png", size).int() - resize_square(array, size)[0].int()
        assert difference.abs().max() <= 2


def test_grey_palette_alpha_cmyk_and_sixteen_bits_become_rgb(tmp_path: Path) -> None:
    grey = pixels(4, 16, 16)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    Image.fromarray(grey).convert("P").save(tmp_path / "palette.png")
    expected = torch.from_numpy(grey).expand(3, -1, -1)
    for name in ("grey.png", "deep.png", "palette.png"):
        assert torch.equal(decode_photo(tmp_path / name, 16), expected), name
    rgba = np.zeros((16, 16, 4), dtype=np.uint8)
    rgba[:8] = (200, 100, 50, 255)  # the upper half is opaque, the lower a transparent black
    Image.fromarray(rgba).save(tmp_path / "alpha.png")
    decoded = decode_photo(tmp_path / "alpha.png", 16)
    assert decoded[:, 0, 0].tolist() == [200, 100, 50]
    assert decoded[:, 15, 0].tolist() == [255, 255, 255]
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "cmyk.jpg")
    assert (decode_photo(tmp_path / "cmyk.jpg", 16).float().mean((1, 2)) - torch.tensor([255.0, 0, 0])).abs().max() < 9


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # stored turned: to be shown after a quarter turn clockwise
    photo(5).save(tmp_path / "turned.png", exif=exif)
    upright = torch.from_numpy(np.rot90(pixels(5, 20, 20, 3), k=-1).copy()).permute(2, 0, 1)
    assert torch.equal(decode_photo(tmp_path / "turned.png", 20), upright)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.95])
def test_a_truncated_photo_is_named(tmp_path: Path, suffix: str, share: float) -> None:
    whole = tmp_path / f"whole{suffix}"
    photo(6, 40, 40).save(whole)
    assert decode_photo(whole, 8).shape == (3, 8, 8)
    broken = tmp_path / f"broken é{suffix}"
    broken.write_bytes(whole.read_bytes()[: int(share * whole.stat().st_size)])
    with pytest.raises(UserError, match=rf"broken é\{suffix}: not a readable image"):
        decode_photo(broken, 8)


def test_many_photos_keep_their_order(tmp_path: Path) -> None:
    paths = [tmp_path / f"{index}.bmp" for index in range(30)]
    for index, path in enumerate(paths):
        Image.new("RGB", (8, 8), (index, 2 * index, 3 * index)).save(path)
    assert decode_photos(paths * 20, 8)[:, 2, 0, 0].tolist() == list(range(0, 90, 3)) * 20  # with progress bar


# ---- folders ----


def test_folder_has_a_class_for_each_subfolder(people: Path) -> None:
    (people / ".hidden").mkdir()
    (people / "notes.txt").write_text("not a person")
    (people / "zoë" / "notes.txt").write_text("not a photo")
    (people / "zoë" / "._0.png").write_text("not a photo")
    photo(99).save(people / "zoë" / "2.JPG", "JPEG")
    data = load_folder(people, 20)
    assert data.names == ("Ann Lee", "zoë", "李")
    assert data.labels.tolist() == [0, 1, 1, 1, 2, 2, 2]
    assert torch.equal(data.images[1], decode_photo(people / "zoë" / "0.png", 20))
    assert data.source == str(people)


def test_folder_names_are_composed(tmp_path: Path) -> None:
    (tmp_path / "zoe\u0308").mkdir()  # as some file systems write it
    photo(0).save(tmp_path / "zoe\u0308" / "a.png")
    assert load_folder(tmp_path, 8).names == ("zo\u00eb",)


def test_folder_errors_name_the_place(people: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere: expected a folder"):
        load_folder(tmp_path / "nowhere", 8)
    with pytest.raises(UserError, match=r"0\.png: expected a folder"):
        load_folder(people / "zoë" / "0.png", 8)
    with pytest.raises(UserError, match="zoë: no subfolders"):
        load_folder(people / "zoë", 8)
    (people / "empty one").mkdir()
    (people / "empty one" / "bad.png").write_bytes(b"\x89PNG")
    with pytest.raises(UserError, match=r"bad\.png: not a readable image"):
        load_folder(people, 8)


# ---- packs ----


def pack(**changes: Any) -> dict[str, Any]:
    """Six 12 x 12 images of three classes; a change to None leaves the key out."""
    whole = {
        "images": pixels(7, 6, 12, 12, 3),
        "labels": np.array([0, 0, 1, 1, 2, 2], dtype=np.uint8),
        "class_names": np.array(["a", "b", "c"]),
        "split": np.array([0, 1, 0, 1, 1, 1], dtype=np.uint8),
    }
    return {key: value for key, value in {**whole, **changes}.items() if value is not None}


def saved(path: Path, arrays: Mapping[str, Any]) -> Path:
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)
    return path


def test_pack_values(tmp_path: Path) -> None:
    data = load_npz(saved(tmp_path / "päck 1.npz", pack()), 12)
    assert torch.equal(data.images.permute(0, 2, 3, 1), torch.from_numpy(pixels(7, 6, 12, 12, 3)))
    assert data.images.is_contiguous()
    assert (data.labels.tolist(), data.names) == ([0, 0, 1, 1, 2, 2], ("a", "b", "c"))


def test_grey_pack_gets_three_equal_channels_and_another_size(tmp_path: Path) -> None:
    grey = np.full((6, 10, 14), 77, dtype=np.uint8)
    names = np.array([b"a", "b\u00e9".encode(), b"c"])
    data = load_npz(saved(tmp_path / "grey.npz", pack(images=grey, class_names=names)), 24)
    assert data.images.shape == (6, 3, 24, 24)
    assert data.images.unique().tolist() == [77]
    assert data.names == ("a", "b\u00e9", "c")


def test_where_keeps_images_and_the_classes_that_have_any(tmp_path: Path) -> None:
    data = load_npz(saved(tmp_path / "pack.npz", pack()), 12, {"split": 0})
    assert torch.equal(data.images.permute(0, 2, 3, 1), torch.from_numpy(pixels(7, 6, 12, 12, 3))[[0, 2]])
    assert (data.labels.tolist(), data.names) == ([0, 1], ("a", "b"))
    assert data.source.endswith("pack.npz split=0")


@pytest.mark.parametrize(
    ("changes", "where", "message"),
    [
        ({"images": None}, {}, "no key 'images'"),
        ({"labels": None}, {}, "no key 'labels'"),
        ({}, {"fold": 1}, "no key 'fold' in the pack; it has images, labels, class_names, split"),
        ({}, {"split": 7}, "no image has split = 7"),
        ({"split": np.zeros(5, dtype=np.uint8)}, {"split": 0}, "split must be one integer an image"),
        ({"images": pixels(0, 6, 12)}, {}, r"images: expected \(N, H, W\)"),
        ({"images": pixels(0, 0, 12, 12)}, {}, "holds no images"),
        ({"labels": np.zeros(5, dtype=np.uint8)}, {}, "labels must be one integer or text an image"),
        ({"labels": np.full(6, 0.5)}, {}, r"6 of 6 images \(row 0, 1, 2, ... 5: 0.5\) are no whole numbers"),
        ({"labels": np.full(6, 3)}, {}, r"\(row 0, 1, 2, ... 5: 3\) are beyond the 3 class_names"),
        ({"labels": np.array([0, 0, -1, -7, 1, 2])}, {}, r"2 of 6 images \(row 2, 3: -1, -7\) are negative: leave"),
        ({"class_names": np.array(["a", "b", "a"])}, {}, "names are not unique, 'a' is there twice"),
        ({"class_names": np.array(3)}, {}, "class_names must be a list of texts"),
        ({"class_names": np.array("abc")}, {}, "class_names must be a list of texts"),
        ({"class_names": np.array(["a", None, "c"], dtype=object)}, {}, "an array of Python objects"),
    ],
)
def test_bad_packs(tmp_path: Path, changes: dict[str, Any], where: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=rf"bad\.npz.*{message}"):
        load_npz(saved(tmp_path / "bad.npz", pack(**changes)), 12, where)


def test_missing_truncated_and_foreign_packs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.npz: no such file"):
        load_npz(tmp_path / "none.npz", 12)
    whole = saved(tmp_path / "whole.npz", pack()).read_bytes()
    damaged = bytearray(whole)
    damaged[200:260] = bytes(60)
    array = io.BytesIO()
    np.save(array, np.zeros(3))
    contents = [
        whole[: len(whole) // 2],
        whole[:-1],
        b"",
        bytes(damaged),
        pickle.dumps({"images": 1}),
    ]
    for content in contents:
        (tmp_path / "bad.npz").write_bytes(content)
        with pytest.raises(UserError, match=r"bad\.npz: not a readable \.npz pack"):
            load_npz(tmp_path / "bad.npz", 12)
    (tmp_path / "bad.npz").write_bytes(array.getvalue())
    with pytest.raises(UserError, match=r"bad\.npz: one array without names"):
        load_npz(tmp_path / "bad.npz", 12)
    with pytest.raises(UserError, match="not a readable"):
        load_npz(tmp_path, 12)


@pytest.mark.parametrize(
    ("name", "where", "images", "classes", "grey"),
    [
        ("orl_64.npz", {}, 400, 40, True),
        ("london_64.npz", {"smiling": 1}, 102, 102, False),
        ("cifar10_small.npz", {"split": 1}, 2000, 10, False),
    ],
)
def test_real_packs(name: str, where: dict[str, int], images: int, classes: int, grey: bool) -> None:
    data = load_npz(pack_path(name), 32, where)
    assert data.images.shape == (images, 3, 32, 32)
    assert data.counts().tolist() == [images // classes] * classes
    assert torch.equal(data.images[:, 0], data.images[:, 2]) is grey


# ---- torchvision's sets ----


def fake_cifar(root: Path, monkeypatch: pytest.MonkeyPatch) -> NDArray[np.uint8]:
    """Small files in CIFAR-10's format under its names, with torchvision's MD5s set to theirs."""
    folder = root / CIFAR10.base_folder
    folder.mkdir(parents=True)
    stored = pixels(8, 12, 3, 32, 32)

    def write(name: str, content: dict[str, Any]) -> str:
        data = pickle.dumps(content)
        (folder / name).write_bytes(data)
        return hashlib.md5(data).hexdigest()

    lists: dict[str, list[list[str]]] = {"train_list": [], "test_list": []}
    for index, name in enumerate([f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]):
        part = slice(2 * index, 2 * index + 2)
        md5 = write(name, {"data": stored[part].reshape(2, -1), "labels": [index, 9]})
        lists["test_list" if name == "test_batch" else "train_list"].append([name, md5])
    meta = {**CIFAR10.meta, "md5": write("batches.meta", {"label_names": [f"class {i}" for i in range(10)]})}
    for key, value in {**lists, "meta": meta}.items():
        monkeypatch.setattr(CIFAR10, key, value)
    return stored


def test_cifar_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = torch.from_numpy(fake_cifar(tmp_path, monkeypatch))
    every = load_cifar("cifar10", tmp_path, 32)
    assert torch.equal(every.images, stored)
    assert every.labels.tolist() == [0, 9, 1, 9, 2, 9, 3, 9, 4, 9, 5, 9]
    assert every.names[9] == "class 9"
    assert torch.equal(load_cifar("cifar10", tmp_path, 32, "test").images, stored[10:])
    train = load_cifar("cifar10", tmp_path, 16, "train")
    assert torch.equal(train.images, resize_square(stored[:10], 16))


def test_cifar_says_what_is_missing_or_altered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError) as caught:
        load_cifar("cifar100", tmp_path, 32)
    published = "train (md5 16019d7e3df5f24257cddd939b257f8d)", "eb9058c3a382ffc7106e4002c42a8d85"
    for expected in (*published, "cs.toronto.edu/~kriz/cifar.html", str(tmp_path / "cifar-100-python")):
        assert expected in str(caught.value)
    fake_cifar(tmp_path, monkeypatch)
    batch = tmp_path / CIFAR10.base_folder / "data_batch_3"
    batch.write_bytes(batch.read_bytes() + b".")
    with pytest.raises(UserError, match=r"not as published.*data_batch_3") as caught:
        load_cifar("cifar10", tmp_path, 32)
    assert "data_batch_2" not in str(caught.value)


def fake_celeba(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nine photos: person 7 has four, person 2 three, person 30 two."""
    folder = root / CelebA.base_folder
    (folder / "img_align_celeba").mkdir(parents=True)
    names = [f"{index:06d}.jpg" for index in range(1, 10)]
    who = [7, 2, 30, 7, 7, 2, 2, 30, 7]
    for index, name in enumerate(names):
        Image.new("RGB", (18, 22), (20 * index, 0, 0)).save(folder / "img_align_celeba" / name, quality=100)
    tables = {
        "identity_CelebA.txt": [f"{name} {person}" for name, person in zip(names, who, strict=True)],
        "list_eval_partition.txt": [f"{name} 0" for name in names],
    }
    for name, columns in (("bbox", 4), ("landmarks_align", 10), ("attr", 40)):
        values = " ".join(["1"] * columns)
        header = ["9", " ".join(f"column{index}" for index in range(columns))]
        tables[f"list_{name}_celeba.txt"] = header + [f"{photo_name} {values}" for photo_name in names]
    files = []
    for name, lines in tables.items():
        text = "\n".join(lines) + "\n"
        (folder / name).write_text(text)
        files.append(("", hashlib.md5(text.encode()).hexdigest(), name))
    monkeypatch.setattr(CelebA, "file_list", files)
    return folder


def test_celeba_people_with_enough_photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_celeba(tmp_path, monkeypatch)
    data = load_celeba(tmp_path, 18, min_photos=3)
    assert data.names == ("celeba-00002", "celeba-00007")
    assert data.labels.tolist() == [1, 0, 1, 1, 0, 0, 1]
    shown = torch.tensor([0, 20, 60, 80, 100, 120, 160])  # JPEG: to within a few grey levels
    assert (data.images[:, 0, 9, 9].int() - shown).abs().max() <= 3
    assert load_celeba(tmp_path, 8, min_photos=3, max_people=1).names == ("celeba-00002",)


def test_celeba_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"celeba: missing in .*identity_CelebA\.txt.*mmlab\.ie\.cuhk\.edu\.hk"):
        load_celeba(tmp_path, 8)
    folder = fake_celeba(tmp_path, monkeypatch)
    with pytest.raises(UserError, match="min_photos = 5 photos; the most is 4"):
        load_celeba(tmp_path, 8, min_photos=5)
    (folder / "img_align_celeba" / "000004.jpg").unlink()
    with pytest.raises(UserError, match=r"000004\.jpg"):
        load_celeba(tmp_path, 8, min_photos=3)
    shutil.rmtree(folder / "img_align_celeba")
    with pytest.raises(UserError, match=r"missing folder .*img_align_celeba"):
        load_celeba(tmp_path, 8, min_photos=3)


# ---- cache ----


def small_set(seed: int = 0) -> ImageSet:
    images = torch.from_numpy(pixels(seed, 4, 3, 8, 8))
    attributes = torch.arange(8.0).view(4, 2)
    return ImageSet(
        images,
        torch.tensor([0, 1, 1, 0]),
        ("å", "b"),
        "test",
        default_hole(8).expand(4, -1, -1, -1),
        attributes,
        ("north", "süd"),
        ("two files passed over", "labels are names"),
    )


def same(a: ImageSet, b: ImageSet) -> bool:
    def equal(x: Tensor | None, y: Tensor | None) -> bool:
        return (x is y) if x is None or y is None else torch.equal(x, y)

    fields = ("images", "labels", "holes", "attributes")
    texts = ("names", "source", "groups", "notes")
    return all(equal(getattr(a, f), getattr(b, f)) for f in fields) and all(
        getattr(a, text) == getattr(b, text) for text in texts
    )


def counted(data: ImageSet) -> tuple[Callable[[], ImageSet], list[int]]:
    calls: list[int] = []

    def make() -> ImageSet:
        calls.append(1)
        return data

    return make, calls


def test_cache_gives_back_what_was_made_once(own_cache: Path) -> None:
    for data in (
        small_set(),
        ImageSet(torch.zeros(1, 3, 4, 4, dtype=torch.uint8), torch.zeros(1).long(), ("x",), "y"),
    ):
        make, calls = counted(data)
        key = {"source": data.source, "n": 1}
        assert all(same(cached(key, make, own_cache), data) for _ in range(3))
        assert len(calls) == 1
        cached(dict(reversed(key.items())), make, own_cache)  # the order of the keys is no part of the key
        assert len(calls) == 1
        cached({**key, "n": 2}, make, own_cache)
        assert len(calls) == 2
        cached(key, make, None)
        assert len(calls) == 3
    assert {file.suffix for file in own_cache.iterdir()} == {".safetensors", ".pixels"}  # nothing half-written is left


def test_damaged_cache_is_made_anew(own_cache: Path) -> None:
    make, calls = counted(small_set())
    cached({}, make, own_cache)
    header, pixels = sorted(own_cache.iterdir(), key=lambda file: file.suffix == ".pixels")
    for entry in (header, pixels):
        whole = entry.read_bytes()
        flipped = bytearray(whole)
        flipped[-5] ^= 1  # one bit of one label, or of one pixel
        for content in (b"", whole[:50], whole[:-1], bytes(flipped), random.Random(0).randbytes(300)):
            entry.unlink()  # what is mapped elsewhere stays as it is
            entry.write_bytes(content)
            before = len(calls)
            with pytest.warns(UserWarning, match="damaged and will be made anew"):
                assert same(cached({}, make, own_cache), small_set())
            assert len(calls) == before + 1
            assert entry.read_bytes() == whole


def test_unwritable_cache_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    make, calls = counted(small_set())
    with pytest.warns(UserWarning, match="cannot be kept"):
        assert same(cached({}, make, tmp_path / "file" / "cache"), small_set())
    assert len(calls) == 1


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, own_cache: Path) -> None:
    assert default_cache_dir() == own_cache
    monkeypatch.setenv("LATENTPRINT_CACHE", "")
    assert default_cache_dir() is None
    monkeypatch.delenv("LATENTPRINT_CACHE")
    assert default_cache_dir() == Path.home() / ".cache" / "latentprint"


def test_fingerprint_follows_the_files(people: Path) -> None:
    seen = {fingerprint(people), fingerprint(people / "nowhere"), fingerprint(people / "zoë" / "0.png")}
    assert len(seen) == 3
    assert fingerprint(people) in seen
    os.utime(people / "zoë" / "1.png", ns=(1, 1))
    seen.add(fingerprint(people))
    (people / "李" / "0.png").rename(people / "李" / "9.png")
    seen.add(fingerprint(people))
    (people / "zoë" / "0.png").unlink()
    seen.add(fingerprint(people))
    assert len(seen) == 6


# ---- sources ----

SOURCE: TypeAdapter[Any] = TypeAdapter(DataSource)


def test_kind_decides_the_source() -> None:
    source = SOURCE.validate_json('{"kind": "npz", "path": "a b.npz", "where": {"split": 1}}')
    assert source == NpzSource(path=Path("a b.npz"), where={"split": 1})
    assert SOURCE.validate_json('{"kind": "cifar100", "path": "x", "part": "test"}').kind == "cifar100"
    bad = (
        '{"kind": "npz"}',
        '{"kind": "ftp", "path": "x"}',
        '{"kind": "folder", "path": "x", "size": 4}',
        '{"kind": "procedural", "path": "x"}',
        '{"kind": "celeba", "path": "x", "max_people": 0}',
    )
    for text in bad:
        with pytest.raises(ValidationError):
            SOURCE.validate_json(text)


def test_load_folder_source_again_after_a_change(people: Path, own_cache: Path) -> None:
    source = FolderSource(path=people, size=20)
    first = load(source)
    assert same(first, load_folder(people, 20))
    assert same(load(source), first)
    assert len(list(own_cache.glob("*.safetensors"))) == 1
    photo(77).save(people / "Ann Lee" / "1.png")
    assert load(source).counts().tolist() == [2, 2, 3]


def test_load_npz_and_missing_sources(tmp_path: Path) -> None:
    path = saved(tmp_path / "pack.npz", pack())
    assert same(load(NpzSource(path=path, size=12, where={"split": 1})), load_npz(path, 12, {"split": 1}))
    with pytest.raises(UserError, match="no such file"):
        load(NpzSource(path=tmp_path / "none.npz"))
    with pytest.raises(UserError, match=r"cifar10: missing in .*md5"):
        load(SOURCE.validate_python({"kind": "cifar10", "path": tmp_path / "none"}))


def test_load_procedural_people_by_seed() -> None:
    source = ProceduralSource(people=3, photos=2, first_identity=40, size=16)
    data = load(source)
    assert data.names == ("person-000040", "person-000041", "person-000042")
    assert data.counts().tolist() == [2, 2, 2]
    assert data.holes is not None
    later = load(source.model_copy(update={"people": 1, "first_identity": 42}))
    assert torch.equal(later.images, data.images[4:])


# ---- face region ----


@pytest.mark.parametrize("size", [32, 64, 101])
def test_default_hole_is_an_ellipse_over_the_face(size: int) -> None:
    hole = default_hole(size)
    assert (hole.shape, hole.dtype, hole.unique().tolist()) == ((1, size, size), torch.uint8, [0, 1])
    assert torch.equal(hole, hole.flip(2))
    area = hole.float().mean().item()
    assert area == pytest.approx(torch.pi * 0.42 * 0.41, abs=0.01)  # the whole ellipse lies inside the picture
    at = {
        "brow": (0.32, 0.25),
        "eye": (0.43, 0.2),
        "nose": (0.6, 0.5),
        "mouth": (0.78, 0.4),
        "chin": (0.95, 0.5),
    }
    assert all(hole[0, int(y * size), int(x * size)] for y, x in at.values())
    corners = {"hair": (0.08, 0.5), "shoulder": (0.97, 0.1), "background": (0.1, 0.1)}
    assert not any(hole[0, int(y * size), int(x * size)] for y, x in corners.values())


def test_holes_are_added_where_there_are_none() -> None:
    data = ImageSet(torch.zeros(2, 3, 16, 16, dtype=torch.uint8), torch.tensor([0, 0]), ("a",), "test")
    filled = with_holes(data)
    assert filled.holes is not None
    assert torch.equal(filled.holes, torch.stack([default_hole(16)] * 2))
    assert filled.take(torch.tensor([1])).holes is not None
    assert with_holes(filled) is filled
