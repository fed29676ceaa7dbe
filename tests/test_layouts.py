"""Published layouts of image sets, pairs, alignment, and sets larger than memory."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import run_cli
from PIL import Image

from latentprint.data import align, room
from latentprint.data.base import ImageSet
from latentprint.data.folder import load_flat, load_folder, load_nested, load_tiny_imagenet
from latentprint.data.hf import load_hf
from latentprint.data.pairs import load_lfw_pairs
from latentprint.data.sources import FlatSource, HfSource, LfwSource, NestedSource, TinyImageNetSource, load
from latentprint.data.splits import split_people
from latentprint.errors import UserError
from latentprint.verification import pair_accuracy


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATENTPRINT_CACHE", str(tmp_path / "cache"))


def grey(path: Path, value: int, size: int = 16) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size, size), (value, value, value)).save(path)
    return path


def values(data: ImageSet) -> list[int]:
    return data.images[:, 0, 0, 0].tolist()


def test_people_with_few_photos_are_left_out(tmp_path: Path) -> None:
    for person, count in (("ann", 3), ("bob", 1), ("cid", 2)):
        for number in range(count):
            grey(tmp_path / "lfw" / person / f"{person}_{number + 1:04d}.png", 10 * number)
    data = load(LfwSource(path=tmp_path, size=16, min_photos=2))
    assert data.names == ("ann", "cid") and data.labels.tolist() == [0, 0, 0, 1, 1]
    assert values(data) == [0, 10, 20, 0, 10]
    assert load_folder(tmp_path / "lfw", 16, 2, max_people=1).names == ("ann",)
    with pytest.raises(UserError, match="nobody has min_photos = 4 photos; the most is 3"):
        load_folder(tmp_path / "lfw", 16, 4)


def test_folders_of_people_at_any_depth(tmp_path: Path) -> None:
    grey(tmp_path / "actors" / "faces" / "Al" / "1.png", 1)
    grey(tmp_path / "actresses" / "faces" / "Bea" / "1.png", 2)
    grey(tmp_path / "actresses" / "faces" / "Bea" / "2.png", 3)
    data = load(NestedSource(kind="facescrub", path=tmp_path, size=16))
    assert data.names == ("Al", "Bea") and values(data) == [1, 2, 3]
    grey(tmp_path / "actresses" / "faces" / "Al" / "1.png", 4)
    with pytest.raises(UserError, match="two folders are called 'Al'"):
        load_nested(tmp_path, 16)
    (tmp_path / "nobody").mkdir()
    with pytest.raises(UserError, match="no folders with photos in them"):
        load_nested(tmp_path / "nobody", 16)


def test_photos_of_nobody_in_particular(tmp_path: Path) -> None:
    for number in range(5):
        grey(tmp_path / f"{number // 2:05d}" / f"{number:05d}.png", number)
    data = load(FlatSource(kind="ffhq", path=tmp_path, size=16, first=1, count=3))
    assert data.names == ("00000/00001.png", "00001/00002.png", "00001/00003.png") and values(data) == [1, 2, 3]
    with pytest.raises(UserError, match=r"no photos .* from number 9 on"):
        load_flat(tmp_path, 16, 9)


def test_tiny_imagenet(tmp_path: Path) -> None:
    for index, name in enumerate(("n01", "n02")):
        grey(tmp_path / "train" / name / "images" / f"{name}_0.png", 50 + index)
        grey(tmp_path / "val" / "images" / f"val_{index}.png", 100 + index)
    notes = tmp_path / "val" / "val_annotations.txt"
    notes.write_text("val_0.png\tn02\t0\t0\t62\t62\nval_1.png\tn01\t0\t0\t62\t62\n")
    train = load(TinyImageNetSource(path=tmp_path, size=16))
    test = load(TinyImageNetSource(path=tmp_path, size=16, part="test"))
    assert train.names == test.names == ("n01", "n02") and values(train) == [50, 51]
    assert values(test) == [100, 101] and test.labels.tolist() == [1, 0]
    notes.write_text("val_0.png\tn77\t0\t0\t62\t62\n")
    with pytest.raises(UserError, match=r"'val_0\.png n77' is not an image and one of the 2 classes"):
        load_tiny_imagenet(tmp_path, 16, train=False)
    notes.unlink()
    with pytest.raises(UserError, match="missing; it says which class"):
        load_tiny_imagenet(tmp_path, 16, train=False)


def test_hugging_face_datasets_on_disk(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    photos = [Image.new("L" if i == 0 else "RGB", (12, 20), 40 * (i + 1) if i == 0 else (40 * (i + 1),) * 3)
              for i in range(3)]
    features = datasets.Features({"image": datasets.Image(), "who": datasets.ClassLabel(names=["ann", "bob", "cid"])})
    made = datasets.Dataset.from_dict({"image": photos, "who": [2, 0, 2]}, features=features)
    datasets.DatasetDict({"train": made, "test": made.select([0])}).save_to_disk(tmp_path / "two")
    data = load(HfSource(path=tmp_path / "two", size=16, label="who", split="train"))
    assert data.names == ("ann", "cid") and data.labels.tolist() == [1, 0, 1] and values(data) == [40, 80, 120]
    with pytest.raises(UserError, match="split 'None' is not there; expected train, test"):
        load_hf(tmp_path / "two", 16, label="who")
    with pytest.raises(UserError, match="no column 'label'; it has image, who"):
        load_hf(tmp_path / "two", 16, split="test")
    for folder in ("one", "three/data"):
        (tmp_path / folder).mkdir(parents=True)
    made.to_parquet(tmp_path / "one" / "part.parquet")
    assert load_hf(tmp_path / "one", 16, label="who").labels.tolist() == [1, 0, 1]
    made.select([1]).to_parquet(tmp_path / "three" / "data" / "train-00000-of-00001.parquet")
    made.select([2]).to_parquet(tmp_path / "three" / "data" / "test-00000-of-00001.parquet")
    assert values(load_hf(tmp_path / "three", 16, label="who", split="test")) == [120]  # as its publisher split it
    with pytest.raises(UserError, match="split 'None' is not there; expected train, test"):
        load_hf(tmp_path / "three", 16, label="who")
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match="not a dataset on disk"):
        load_hf(tmp_path / "none", 16)


# ---- pairs ----


def test_lfw_pairs(tmp_path: Path) -> None:
    for person, count in (("Ann", 3), ("Bob_Lee", 2)):
        for number in range(1, count + 1):
            path = tmp_path / person / f"{person}_{number:04d}.jpg"
            path.parent.mkdir(exist_ok=True)
            Image.new("RGB", (16, 16), (20 * number, 0, 0)).save(path, quality=100)
    listing = tmp_path / "pairs.txt"
    listing.write_text("2\t1\nAnn\t1\t2\nAnn\t1\tBob_Lee\t2\nBob_Lee\t1\t2\nBob_Lee\t1\tAnn\t3\n")
    pairs = load_lfw_pairs(tmp_path, listing, 16)
    assert len(pairs) == 4 and len(pairs.images) == 5
    assert pairs.same.tolist() == [True, False, True, False] and pairs.fold.tolist() == [0, 0, 1, 1]
    assert pairs.first.tolist() == [0, 0, 3, 3] and pairs.second.tolist() == [1, 4, 4, 2]
    listing.write_text("2\t1\nAnn\t1\t2\n")
    with pytest.raises(UserError, match="1 pairs, but its first line promises 2 x 2 x 1"):
        load_lfw_pairs(tmp_path, listing, 16)
    listing.write_text("1\t1\nAnn\t1\t9\nAnn\t1\tBob_Lee\t2\n")
    with pytest.raises(UserError, match=r"names .*Ann_0009\.jpg, which is not there"):
        load_lfw_pairs(tmp_path, listing, 16)
    listing.write_text("nonsense\n")
    with pytest.raises(UserError, match="not a list of pairs as LFW publishes it"):
        load_lfw_pairs(tmp_path, listing, 16)


def test_pairs_are_judged_by_the_threshold_of_the_other_folds() -> None:
    """By hand, and against every threshold tried in a loop."""
    similarity = torch.tensor([0.9, 0.1, 0.8, 0.2, 0.3, 0.7])
    same = torch.tensor([True, False, True, False, True, False])
    fold = torch.tensor([0, 0, 1, 1, 2, 2])
    # Without the third fold 0.2 and 0.8 part all others: it is judged wrong throughout.
    assert pair_accuracy(similarity, same, fold)[2] == 0
    rng = torch.Generator().manual_seed(0)
    for _ in range(20):
        x, truth = torch.rand(40, generator=rng), torch.rand(40, generator=rng) < 0.5
        folds = torch.arange(40) % 4
        for number, got in enumerate(pair_accuracy(x, truth, folds)):
            rest, held = folds != number, folds == number
            cuts = torch.cat([x[rest] - 1e-4, x[rest] + 1e-4])
            best = max(float(((x[rest] >= cut) == truth[rest]).float().mean()) for cut in cuts)
            reached = {float(((x[held] >= cut) == truth[held]).float().mean()) for cut in cuts
                       if float(((x[rest] >= cut) == truth[rest]).float().mean()) == best}
            assert min(reached) - 0.11 <= got <= max(reached) + 0.11


# ---- alignment ----


def test_alignment_puts_the_five_points_in_place(tmp_path: Path) -> None:
    """A dot at each point of a turned and shifted face ends where recognisers look for it."""
    angle, scale = 0.3, 1.7
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = (align.ARCFACE @ turn.T + np.array([60.0, 20.0])).astype(np.float32)
    picture = np.zeros((260, 300, 3), np.uint8)
    for x, y in points.round().astype(int):
        picture[y - 2 : y + 3, x - 2 : x + 3] = 255
    (tmp_path / "in" / "ann").mkdir(parents=True)
    Image.fromarray(picture).save(tmp_path / "in" / "ann" / "1.png")
    grey(tmp_path / "in" / "bob" / "1.png", 0)
    found, without = align.align_folder(tmp_path / "in", tmp_path / "out",
                                        lambda pixels: points if pixels.max() else None, 112, "arcface")
    assert found == 1 and [path.parent.name for path in without] == ["bob"]
    made = np.asarray(Image.open(tmp_path / "out" / "ann" / "1.png"))
    for x, y in align.ARCFACE.round().astype(int):
        assert made[y - 1 : y + 2, x - 1 : x + 2].max() > 100
    inside = align.places(256, "ffhq") - np.array([32, 35])
    assert np.allclose(inside * 112 / 188, align.ARCFACE, atol=1e-3)
    with pytest.raises(UserError, match="lies inside"):
        align.align_folder(tmp_path / "in", tmp_path / "in" / "out", lambda pixels: None)


def test_the_detector_has_to_be_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("cv2")
    grey(tmp_path / "in" / "1.png", 0)
    arguments = ("align", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--detector")
    code, _, err = run_cli(capsys, *arguments, str(tmp_path / "yunet.onnx"))
    assert code == 2 and "get face_detection_yunet_2023mar.onnx from" in err
    (tmp_path / "broken.onnx").write_bytes(b"nothing")
    code, _, err = run_cli(capsys, *arguments, str(tmp_path / "broken.onnx"))
    assert code == 2 and "not OpenCV's YuNet" in err


# ---- more than memory ----


def test_large_sets_lie_in_files(monkeypatch: pytest.MonkeyPatch) -> None:
    small = torch.randint(0, 256, (6, 3, 8, 8), dtype=torch.uint8)
    data = ImageSet(small, torch.arange(6) % 3, ("a", "b", "c"), "test")
    expected = split_people(data, 1, 1, 0)
    monkeypatch.setenv("LATENTPRINT_IN_MEMORY", "100")
    index = torch.tensor([4, 0, 5])
    assert torch.equal(room.selected(small, index), small[index])
    assert torch.equal(room.selected(small, small[:, 0, 0, 0] > 90), small[small[:, 0, 0, 0] > 90])
    assert torch.equal(room.joined([small, small[:2]]), torch.cat([small, small[:2]]))
    got = split_people(data, 1, 1, 0)
    assert torch.equal(got.private.images, expected.private.images)
    assert all(torch.equal(part.images, expected.parts[name].images) for name, part in got.parts.items())


def test_a_full_disk_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(handle: int, start: int, count: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setenv("LATENTPRINT_IN_MEMORY", "100")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(UserError, match=r"1 MB of images do not fit in .*No space left.*TMPDIR"):
        room.room((2**20,))
    assert not list(tmp_path.iterdir())


MANY = """
import json, resource, sys
import torch
from latentprint.data.base import ImageSet
from latentprint.data.cache import cached
from latentprint.data.room import room
from latentprint.data.splits import split_people
from pathlib import Path

count, side = int(sys.argv[1]), 64
torch.ones(2000, 2000) @ torch.ones(2000, 2000)  # what threads and libraries take for themselves
def data_bytes():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmData")).split()[1]) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (data_bytes() + int(sys.argv[2]) * 2**20,) * 2)

def make():
    images = room((count, 3, side, side))
    for part in images.split(4096):
        part.copy_(torch.randint(0, 256, part.shape, dtype=torch.uint8))
    labels = torch.arange(count) // 20
    return ImageSet(images, labels, tuple(f"p{i:06d}" for i in range(count // 20)), "many")

make_again = cached({"n": count}, make, Path(sys.argv[3]))
data = cached({"n": count}, lambda: 1 / 0, Path(sys.argv[3]))
split = split_people(data, count // 400, 4, 0)
print(json.dumps({"private": len(split.private), "public": len(split.public), "warnings": split.validate(),
                  "megabytes": data.images.numel() / 2**20}))
"""


def run_many(tmp_path: Path, count: int, megabytes: int) -> dict[str, object]:
    done = subprocess.run([sys.executable, "-c", MANY, str(count), str(megabytes), str(tmp_path / "cache")],
                          capture_output=True, text=True, check=False,
                          env={**os.environ, "OMP_NUM_THREADS": "1", "LATENTPRINT_IN_MEMORY": "1000000",
                               "TMPDIR": str(tmp_path)})
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, object] = json.loads(done.stdout)
    return found


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of memory are Linux's")
@pytest.mark.parametrize(
    ("count", "megabytes"),
    [(40_000, 400), pytest.param(200_000, 1600, marks=[pytest.mark.slow, pytest.mark.timeout(900)])],
)
def test_splits_and_overlap_checks_in_bounded_memory(tmp_path: Path, count: int, megabytes: int) -> None:
    """The images alone are more than the process is allowed to hold; splits would hold them twice over."""
    found = run_many(tmp_path, count, megabytes)
    assert found["private"] == count // 20 and found["public"] == count - count // 20 and found["warnings"] == []
    assert float(str(found["megabytes"])) > megabytes
