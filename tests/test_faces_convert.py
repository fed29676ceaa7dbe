"""Packages of real-face networks: what is read of their files, what is refused, and where every command finds what was
made of them."""

from __future__ import annotations

import hashlib
import json
import re
import struct
import tarfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
import pytest
import torch
from face_packages import DLIB, Packages, dlib_integers, dlib_tensor, stored, tarball, trunk, unpacked
from helpers import Run, run_cli
from torch import nn

from latentprint import doctor
from latentprint.checks import weights_hash
from latentprint.config import load_config
from latentprint.errors import UserError
from latentprint.feature import audit as feature_audit
from latentprint.feature import presets as feature_presets
from latentprint.feature.presets import FeatureConfig
from latentprint.label import audit as label_audit
from latentprint.label import presets as label_presets
from latentprint.label.presets import LabelConfig
from latentprint.models import assets
from latentprint.models.assets import find_asset, load_asset, read_index, save_asset, user_assets
from latentprint.models.published import FACE_API, HUMAN, MODELS, PACKAGES, PUBLISHED, how_to_get
from latentprint.models.recognisers import build_recogniser
from latentprint.plugins.faces import convert
from latentprint.plugins.faces.convert import SOURCES, convert_faces
from latentprint.plugins.faces.tensors import read_dlib, read_manifest
from latentprint.template import audit as template_audit
from latentprint.template import presets as template_presets
from latentprint.template.presets import TemplateConfig

LANDMARKS = ("face_landmark_68_model-weights_manifest.json", "face_landmark_68_model.bin")


@pytest.fixture(scope="module")
def packages() -> Packages:
    return Packages()


@pytest.fixture
def small() -> dict[str, bytes]:
    """The landmark network alone."""
    made = trunk(136, "uint8", 1)
    return {LANDMARKS[0]: made.manifest(LANDMARKS[1]), LANDMARKS[1]: made.data}


@pytest.fixture
def as_published(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, bytes]], None]:
    """Let these files be the published ones."""

    def call(files: dict[str, bytes]) -> None:
        def sums(source: convert.Source) -> tuple[tuple[str, str], ...]:
            return tuple((name, hashlib.sha256(files[name]).hexdigest() if name in files else sha256)
                         for name, sha256 in source.files)

        monkeypatch.setattr(convert, "SOURCES", tuple(each._replace(files=sums(each)) for each in SOURCES))

    return call


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder of assets."""
    monkeypatch.setenv("LATENTPRINT_ASSETS", str(tmp_path / "own"))
    return tmp_path / "own"


# ---- tensors in files ----


def test_tensors_of_a_manifest_follow_one_another_at_any_byte() -> None:
    rng = np.random.default_rng(0)
    parts = [stored("bytes", (3, 1), "uint8", rng, around=2.0), stored("floats", (2, 2), "float32", rng),
             stored("one", (1,), "uint8", rng), stored("halves", (5,), "float16", rng),
             stored("axes", (2,), "int32", rng), stored("scalar", (), "float32", rng),
             stored("none", (0, 4), "float32", rng)]
    entries, data = [entry for entry, _, _ in parts], b"".join(data for _, data, _ in parts)
    groups = [{"paths": ["a.bin"], "weights": entries[:3]}, {"paths": ["b.bin"], "weights": entries[3:]}]
    for text in (json.dumps(groups), json.dumps({"weightsManifest": groups, "modelTopology": {}})):
        found = read_manifest(text.encode(), data, "some.bin")
        assert sorted(found) == ["bytes", "floats", "halves", "none", "one", "scalar"]  # integers are no weights
        for entry, _, values in parts:
            if entry["dtype"] != "int32":
                assert found[entry["name"]].dtype == torch.float32 and found[entry["name"]].shape == values.shape
                assert np.allclose(found[entry["name"]].numpy(), values, atol=1e-6)


def test_integers_stored_in_bytes_are_no_weights_and_take_one_byte_each() -> None:
    quantised = {"dtype": "uint8", "scale": 3, "min": 1}
    entries = [{"name": "shape", "shape": [2], "dtype": "int32", "quantization": quantised},
               {"name": "x", "shape": [1], "dtype": "float32"}]
    found = read_manifest(json.dumps([{"weights": entries}]).encode(), b"\x01\x02" + struct.pack("<f", 1.5), "some.bin")
    assert {name: value.tolist() for name, value in found.items()} == {"x": [1.5]}


@pytest.mark.parametrize(
    ("text", "data", "message"),
    [
        (b"[]", b"1", "its manifest describes 0 bytes, the file has 1"),
        (b'[{"weights": [{"name": "x", "shape": [2], "dtype": "float32"}]}]', b"1234",
         "(describes 8 bytes, the file has 4|not a weights manifest)"),
        (b"{", b"", "not a weights manifest"),
        (b"<html>", b"", "not a weights manifest"),
        (b'{"weights": []}', b"", "not a weights manifest"),
        (b'[{"weights": [{"name": "x", "shape": [1], "dtype": "complex4"}]}]', b"1234", "not a weights manifest"),
        (b'[{"weights": [{"name": "x", "shape": "all", "dtype": "float32"}]}]', b"1234", "not a weights manifest"),
        (b"\xff\xfe\x00", b"", "not a weights manifest"),
        (b"3", b"", "not a weights manifest"),
    ],
)
def test_manifests_that_are_none(text: bytes, data: bytes, message: str) -> None:
    with pytest.raises(UserError, match=f"some.bin: .*{message}"):
        read_manifest(text, data, "some.bin")


def test_dlibs_tensors_are_found_between_settings_and_empty_ones() -> None:
    first, second = np.arange(6.0), np.array([-1.5, 2.5])
    decoy = dlib_tensor((2, 1, 1, 1), np.array([7.0, 7.0]))
    stream = (b"\x01\x05con_4\x01\x02\x01\x02" + dlib_tensor((6, 1, 1, 1), first) + dlib_integers(3, 0, 70_000)
              + dlib_tensor((0, 0, 0, 0)) + b"\x81\x18" + dlib_tensor((1, 2, 1, 1), second) + decoy)
    found = read_dlib(stream, [6, 2], "some.dat")
    assert [value.tolist() for value in found] == [first.tolist(), second.tolist()]
    for cut, size in ((len(stream) - len(decoy) - 1, 2), (40, 6)):
        with pytest.raises(UserError, match=rf"some\.dat: no tensor of {size} entries after byte \d+; is it dlib's"):
            read_dlib(stream[:cut], [6, 2], "some.dat")


# ---- packages to assets ----


def test_every_network_of_all_packages(packages: Packages, tmp_path: Path) -> None:
    """A compressed tarball, a plain one and a folder; dlib's own weights are preferred to those in bytes."""
    paths = [tarball(tmp_path / "face-api.tgz", packages.face_api), tarball(tmp_path / "human.tar", packages.human),
             unpacked(tmp_path / "models", packages.models)]
    written = convert_faces(paths, tmp_path / "assets", checked=False)
    assert sorted(path.name for path in (tmp_path / "assets").iterdir()) == sorted(
        ["assets.json", *(f"{name}.safetensors" for name in PUBLISHED)])
    assert {path.stem for path in written} == set(PUBLISHED) and convert.missing(tmp_path / "assets") == []
    index = read_index(tmp_path / "assets")
    assert {name: index[name]["source"] for name in PUBLISHED} == {
        "dlib": str(MODELS), "faceres": str(HUMAN), "landmarks": str(FACE_API), "expression": str(FACE_API),
        "detector": str(HUMAN)}
    for name in PUBLISHED:
        module = load_asset(name, tmp_path / "assets")
        assert all(value.isfinite().all() for value in module.state_dict().values())
        assert index[name]["terms"] and index[name]["published"].keys() <= {n for s in SOURCES for n, _ in s.files}
        assert index[name]["metrics"] == {} and index[name]["preprocessing"]["side"] in (150, 224, 112, 256)
    assert index["faceres"]["preprocessing"]["colours"] == "bgr"
    assert index["faceres"]["framing"]["zoom"] == 1.2 and index["dlib"]["framing"]["points"]["base of the nose"] == [
        0.482, 0.56]
    assert 0.99 < index["dlib"]["measured"]["london"]["tar_at_fmr_1e-3"] <= 1


def test_the_command_writes_to_the_users_folder_and_says_what_is_missing(
        small: dict[str, bytes], as_published: Callable[[dict[str, bytes]], None], own: Path, tmp_path: Path,
        capsys: pytest.CaptureFixture[str]) -> None:
    as_published(small)
    path = tarball(tmp_path / "vladmandic-face-api-1.7.15.tgz", small)
    code, out, err = run_cli(capsys, "convert", "faces", str(path))
    assert code == 0, err
    assert f"landmarks: {own / 'landmarks.safetensors'}, 1 MiB, from @vladmandic/face-api 1.7.15 (npm), MIT" in out
    assert "missing: faceres; to have it, type: npm pack @vladmandic/human@3.3.6; latentprint convert faces" in out
    assert "missing: landmarks" not in out and "use: " not in out  # no recogniser
    code, out, err = run_cli(capsys, "convert", "faces", str(path), "--out", str(tmp_path / "there"))
    assert code == 0 and str(tmp_path / "there" / "landmarks.safetensors") in out
    assert read_index(own) == read_index(tmp_path / "there")  # the same files give the same assets
    rows = {row.name: row for row in doctor.examine() if row.section in (f"your assets in {own}", "real faces")}
    assert rows["landmarks"].ok is True and "from @vladmandic/face-api 1.7.15" in rows["landmarks"].found
    assert rows["dlib"].ok is None and rows["dlib"].hint == how_to_get("dlib")
    (own / "landmarks.safetensors").write_bytes(b"other")
    rows = {row.name: row for row in doctor.examine() if row.section == f"your assets in {own}"}
    assert rows["landmarks"].ok is False and "latentprint convert faces" in rows["landmarks"].hint


def test_of_several_files_of_one_name_the_published_one_is_taken(
        small: dict[str, bytes], as_published: Callable[[dict[str, bytes]], None], tmp_path: Path) -> None:
    as_published(small)
    other = {**small, LANDMARKS[1]: small[LANDMARKS[1]][::-1]}
    paths = [unpacked(tmp_path / "one", other), unpacked(tmp_path / "two", small), unpacked(tmp_path / "three", other)]
    assert len(convert_faces(paths, tmp_path / "assets")) == 1
    with pytest.raises(UserError, match="its SHA-256 differs"):
        convert_faces(paths[::2], tmp_path / "assets")


def damaged(change: Callable[[dict[str, bytes]], object]) -> Callable[[Path, dict[str, bytes]], Path]:
    """A tarball of files that were changed."""
    def make(folder: Path, files: dict[str, bytes]) -> Path:
        change(files)
        return tarball(folder / "package.tgz", files)

    return make


def cut(folder: Path, files: dict[str, bytes], name: str = "package.tgz", share: float = 0.5) -> Path:
    path = tarball(folder / name, files)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    return path


def garbled(folder: Path, files: dict[str, bytes]) -> Path:
    path = tarball(folder / "package.tgz", files)
    data = bytearray(path.read_bytes())
    data[20:84] = bytes(64)
    path.write_bytes(bytes(data))
    return path


def text(folder: Path, files: dict[str, bytes]) -> Path:
    (folder / "package.tgz").write_text("<!DOCTYPE html>")
    return folder / "package.tgz"


def empty(folder: Path, files: dict[str, bytes]) -> Path:
    (folder / "node_modules").mkdir()
    return folder / "node_modules"


def half(folder: Path, files: dict[str, bytes]) -> Path:
    return tarball(folder / "package.tgz", {LANDMARKS[1]: files[LANDMARKS[1]]})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (damaged(lambda files: files.update({LANDMARKS[1]: bytes(len(files[LANDMARKS[1]]))})),
         "face_landmark_68_model.bin is not the file of @vladmandic/face-api 1.7.15 (npm), MIT: its SHA-256 differs "
         "from the published one; get the package again: npm pack @vladmandic/face-api@1.7.15"),
        (damaged(lambda files: files.update({LANDMARKS[0]: b"[]"})), "manifest.json is not the file of"),
        (lambda folder, files: folder / "nowhere.tgz", "nowhere.tgz: no such file or folder"),
        (text, "package.tgz: not a tarball, or a damaged one"),
        (cut, "package.tgz: not a tarball, or a damaged one"),
        (lambda folder, files: cut(folder, files, "package.tar"), "package.tar: not a tarball, or a damaged one"),
        (lambda folder, files: cut(folder, files, share=0), "package.tgz: not a tarball, or a damaged one"),
        (garbled, "package.tgz: not a tarball, or a damaged one"),
        (empty, "none of the files"),
        (half, "none of the files"),
    ],
)
def test_what_is_no_package_is_refused_in_a_sentence(
        make: Callable[[Path, dict[str, bytes]], Path], message: str, small: dict[str, bytes],
        as_published: Callable[[dict[str, bytes]], None], own: Path, tmp_path: Path,
        capsys: pytest.CaptureFixture[str]) -> None:
    as_published(small)
    code, out, err = run_cli(capsys, "convert", "faces", str(make(tmp_path, dict(small))))
    assert code == 2 and out == "" and err.count("\n") == 1 and message in err, err
    assert not own.exists()


def test_nothing_is_written_where_one_of_several_networks_is_damaged(
        small: dict[str, bytes], as_published: Callable[[dict[str, bytes]], None], tmp_path: Path) -> None:
    """The landmarks are whole, the expressions are not."""
    made = trunk(7, "float32", 2)
    names = [name.replace("landmark_68", "expression") for name in LANDMARKS]
    files = {**small, names[0]: made.manifest(names[1]), names[1]: made.data}
    as_published(files)
    path = unpacked(tmp_path / "package", {**files, names[1]: made.data[:-1]})
    with pytest.raises(UserError, match=re.escape(f"{names[1]} is not the file of")):
        convert_faces([path], tmp_path / "assets")
    with pytest.raises(UserError, match=r"its manifest describes \d+ bytes, the file has \d+|not a weights manifest"):
        convert_faces([path], tmp_path / "assets", checked=False)
    assert not (tmp_path / "assets").exists()


def without(name: str) -> Callable[[list[dict[str, Any]]], None]:
    def change(entries: list[dict[str, Any]]) -> None:
        next(entry for entry in entries if entry["name"] == name)["name"] = "other"

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("dense2/conv1/bias"), "face_landmark_68_model.bin: has no tensor 'dense2/conv1/bias'"),
        (without("fc/bias"), "has no tensor 'fc/bias'"),
        (lambda entries: entries[0].update(shape=[3, 3, 32, 3]), "is not landmarks: .*must be"),
    ],
)
def test_another_network_in_the_files(change: Callable[[list[dict[str, Any]]], None], message: str,
                                      small: dict[str, bytes], tmp_path: Path) -> None:
    groups = json.loads(small[LANDMARKS[0]])
    change(groups[0]["weights"])
    path = unpacked(tmp_path / "package", {**small, LANDMARKS[0]: json.dumps(groups).encode()})
    with pytest.raises(UserError, match=message):
        convert_faces([path], tmp_path / "assets", checked=False)
    assert not (tmp_path / "assets").exists()


def test_members_are_read_by_name_and_never_unpacked(small: dict[str, bytes], tmp_path: Path) -> None:
    """Names that lead out of the archive, links and folders do no harm."""
    (tmp_path / "in").mkdir()
    with tarfile.open(tmp_path / "in" / "package.tar", "w") as archive:
        for name, data in (("../../evil.txt", b"x"), ("/etc/evil.txt", b"x"), *(
                (f"../../{name}", data) for name, data in small.items())):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, BytesIO(data))
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE):
            member = tarfile.TarInfo(f"package/{DLIB}")
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
    written = convert_faces([tmp_path / "in" / "package.tar"], tmp_path / "out", checked=False)
    assert [path.name for path in written] == ["landmarks.safetensors"]
    assert {path.name for path in tmp_path.rglob("*")} == {"in", "package.tar", "out", "assets.json",
                                                           "landmarks.safetensors"}


def test_giants_are_passed_over(small: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert, "LARGEST", len(small[LANDMARKS[1]]) - 1)
    for path in (tarball(tmp_path / "package.tgz", small), unpacked(tmp_path / "package", small)):
        with pytest.raises(UserError, match="none of the files"):
            convert_faces([path], tmp_path / "assets", checked=False)


def test_a_folder_that_cannot_be_written(small: dict[str, bytes], as_published: Callable[[dict[str, bytes]], None],
                                         own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                         capsys: pytest.CaptureFixture[str]) -> None:
    as_published(small)
    path, file = str(unpacked(tmp_path / "package", small)), tmp_path / "file"
    file.write_text("mine")
    for words, message in ((["--out", str(file)], f"{file} is a file; expected a folder"),
                           (["--out", str(file / "below")], f"assets cannot be written to {file / 'below'}: ")):
        code, _, err = run_cli(capsys, "convert", "faces", path, *words)
        assert code == 2 and message in err and err.count("\n") == 1, err
    monkeypatch.setenv("LATENTPRINT_ASSETS", "")
    code, _, err = run_cli(capsys, "convert", "faces", path)
    assert code == 2 and "LATENTPRINT_ASSETS is empty" in err and "--out DIR" in err
    assert file.read_text() == "mine"


def test_a_killed_write_leaves_the_old_asset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_asset(tmp_path, "codec", nn.Linear(2, 2), {"kind": "codec"})
    before = (tmp_path / "codec.safetensors").read_bytes()

    def killed(weights: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(assets, "save_file", killed)
    with pytest.raises(KeyboardInterrupt):
        save_asset(tmp_path, "codec", nn.Linear(2, 2), {"kind": "codec"})
    assert (tmp_path / "codec.safetensors").read_bytes() == before
    assert assets.list_assets(tmp_path)[0]["ok"]


# ---- where they are found ----


def test_the_users_folder_is_the_last_that_is_looked_into(own: Path, tmp_path: Path) -> None:
    given = tmp_path / "given"
    for folder, size in ((given, 3), (own, 4)):
        for name in ("teacher", "dlib"):
            save_asset(folder, name, nn.Linear(2, size), {"kind": "codec"})
    assert find_asset("dlib", given)[0] == given / "dlib.safetensors"
    assert find_asset("dlib")[0] == own / "dlib.safetensors" and assets.has_asset("dlib")
    assert find_asset("teacher")[0].parent == assets.PACKAGED != own
    assert assets.asset_folders(given) == [given, assets.PACKAGED, own]


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_error_names_the_commands(name: str, own: Path) -> None:
    package = FACE_API if name in FACE_API.assets else HUMAN
    with pytest.raises(UserError, match=re.escape(f"asset '{name}' is published elsewhere and not converted yet; type: "
                                                  f"{package.get}; latentprint convert faces {package.archive}")):
        load_asset(name)
    assert not assets.has_asset(name)


def test_where_the_users_folder_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(platformdirs, "user_data_dir", lambda name, appauthor: str(tmp_path / name))
    monkeypatch.delenv("LATENTPRINT_ASSETS")
    assert user_assets() == tmp_path / "latentprint" / "assets"
    monkeypatch.setenv("LATENTPRINT_ASSETS", "~/faces")
    assert user_assets() == Path.home() / "faces"
    monkeypatch.setenv("LATENTPRINT_ASSETS", "")
    assert user_assets() is None and assets.asset_folders() == [assets.PACKAGED]


def test_doctor_says_how_to_get_each_package(own: Path) -> None:
    rows = [row for row in doctor.examine() if row.section == "published elsewhere"]
    for package, command in zip(PACKAGES, (
            "npm pack @vladmandic/face-api@1.7.15", "npm pack @vladmandic/human@3.3.6",
            "pip download --no-deps face-recognition-models==0.3.0"), strict=True):
        row = next(row for row in rows if row.name == ", ".join(package.assets))
        assert row.hint == f"{command}; latentprint convert faces {package.archive}"
        assert package.name in row.found and package.licence in row.found and "terms of their own" in row.found
    assert {name for package in PACKAGES for name in package.assets} == set(PUBLISHED)
    assert {source.asset for source in SOURCES} == set(PUBLISHED)
    assert all(source.asset in source.package.assets for source in SOURCES)


# ---- in audits ----


def embedding(name: str, folder: Path, architecture: str = "convnext", seed: int = 1) -> None:
    """A small recogniser in the place of a published one."""
    torch.manual_seed(seed)
    save_asset(folder, name, build_recogniser(architecture, 128),
               {"kind": "recogniser", "architecture": architecture, "dim": 128})


def test_every_channel_takes_recognisers_by_name(own: Path) -> None:
    embedding("dlib", own)
    embedding("faceres", own, "iresnet", 2)
    cpu = torch.device("cpu")
    template = load_config(TemplateConfig, "tiny", None, ["judge=dlib", "recogniser.model=faceres"], "audit template",
                           template_presets.PRESETS)
    parts = template_audit.TemplateAudit(template, cpu)
    assert [each.name for each in (parts.recogniser, *parts.judges)] == ["faceres", "dlib"]
    assert parts.recogniser.dim == parts.judges[0].dim == 128
    feature = load_config(FeatureConfig, "tiny", None, ["judge=dlib"], "audit feature", feature_presets.PRESETS)
    judge = feature_audit.FeatureAudit(feature, cpu).judge
    assert judge is not None and weights_hash(judge) == weights_hash(load_asset("dlib"))
    label = load_config(LabelConfig, "tiny", None, ["judge=dlib"], "audit label", label_presets.PRESETS)
    models = label_audit.load_models(label, label_audit.audit_data(label)[0])
    assert weights_hash(models.judge) == weights_hash(load_asset("dlib"))


def test_a_short_name_for_the_first_judge() -> None:
    def judges(*sets: str) -> list[tuple[str, int | None]]:
        config = load_config(TemplateConfig, "tiny", None, sets, "audit template", template_presets.PRESETS)
        assert config.judge is None and load_config(TemplateConfig, None, None, [], "again") == TemplateConfig()
        return [(each.model, each.input_size) for each in config.judges]

    assert judges() == [("judge", None)]
    assert judges("judge=dlib") == judges("judge=dlib", "judges=[]") == [("dlib", None)]
    assert judges("judge=dlib", "judges.0.input_size=96") == [("dlib", 96)]
    assert judges("judges=[{model: a, input_size: 80}, {model: b}]", "judge=dlib") == [("dlib", 80), ("b", None)]
    with pytest.raises(UserError, match="'judge' should be text, not 3"):
        judges("judge=3")


@pytest.mark.parametrize(
    ("command", "setting", "name"),
    [("audit label", "judge", "judge"), ("audit label", "teachers", "teachers"), ("audit feature", "judge", "judge"),
     ("audit template", "judge", "judges.0.model"), ("audit template", "recogniser.model", "recogniser.model"),
     ("pretrain prior", "judge", "judge"), ("pretrain prior", "teacher", "teacher")],
)
def test_other_networks_are_no_recognisers(command: str, setting: str, name: str, own: Path, run: Run) -> None:
    for asset, message in (("codec", f"{name}: the asset 'codec' is not a recogniser"),
                           ("dlib", "asset 'dlib' is published elsewhere and not converted yet; type: npm pack")):
        code, err, out = run(command, f"{setting}={'[' + asset + ']' if setting == 'teachers' else asset}", out=asset)
        assert code == 2 and message in err and err.strip().count("\n") == 0, err
        assert "pretrain" in command or not out.exists()


# ---- what ships ----


def test_the_package_ships_networks_of_procedural_people_alone() -> None:
    """No weight that has seen a real face, and no picture, is in the package."""
    folder, index = assets.PACKAGED, read_index()
    assert set(index) == {"attributes", "codec", "judge", "prior", "teacher"}
    for name, record in index.items():
        data = record["config"].get("data")
        assert data is None or data["kind"] == "procedural", name
        assert record["config"].get("base") is None and record["config"].get("assets") is None, name
        assert not {"published", "source", "terms", "measured"} & record.keys(), name
        assert record["command"].startswith("latentprint pretrain "), name
    shipped = {path.name for path in folder.iterdir()}
    assert shipped == {"assets.json", *(record["file"] for record in index.values())}
    allowed = {".py", ".j2", ".css", ".js", ".typed", ".html", ".svg", ".md", ".pyc", ""}
    others = [path for path in folder.parent.rglob("*") if path.is_file() and path.parent != folder
              and path.suffix not in allowed]
    assert others == []
