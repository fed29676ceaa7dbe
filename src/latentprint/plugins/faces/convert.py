"""From the packages that publish real-face networks to assets: nothing is downloaded, no code of theirs is run."""

from __future__ import annotations

import hashlib
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from latentprint.errors import UserError
from latentprint.models.assets import read_index, save_asset
from latentprint.models.checkpoints import fill
from latentprint.models.published import FACE_API, HUMAN, MODELS, PUBLISHED, Package
from latentprint.plugins.faces import detector, dlib, faceres, trunk
from latentprint.plugins.faces.build import build
from latentprint.plugins.faces.card import facts
from latentprint.plugins.faces.tensors import Weights, read_manifest

#: The largest file wanted has 22 MB; what claims to be far larger is none of them.
LARGEST = 2**26


class Source(NamedTuple):
    """A published network: the asset it becomes, its files with their SHA-256, and how their tensors are renamed.

    ``read`` takes the files' bytes and what to call them in messages.
    """

    asset: str
    kind: str
    package: Package
    files: tuple[tuple[str, str], ...]
    read: Callable[[Sequence[bytes], str], dict[str, Tensor]]
    terms: str


def _manifest(rename: Callable[[Weights], dict[str, Tensor]]) -> Callable[[Sequence[bytes], str], dict[str, Tensor]]:
    return lambda files, what: rename(read_manifest(files[0], files[1], what))


def _face_api(name: str, manifest: str, weights: str) -> tuple[tuple[str, str], ...]:
    return ((f"{name}-weights_manifest.json", manifest), (f"{name}.bin", weights))


#: In the order of preference: of two that make one asset, the first that is there.
SOURCES = (
    Source("dlib", "face-recogniser", MODELS, (
        ("dlib_face_recognition_resnet_model_v1.dat",
         "55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30"),),
        lambda files, what: dlib.from_dlib(files[0], what),
        "weights by Davis King, public domain; trained on FaceScrub, VGG-Face and web images, which have their own "
        "terms"),
    Source("dlib", "face-recogniser", FACE_API, _face_api(
        "face_recognition_model", "cbaffa501b0b9275a12b63357a6843e7e30c054e1c9151e1a5f879b26e32986b",
        "b413e420d6840b2775fba32008db6f3cddb07d485967fb42cfcf379c16a8c589"), _manifest(dlib.from_face_api),
        "dlib's weights in bytes; trained on FaceScrub, VGG-Face and web images, which have their own terms"),
    Source("faceres", "face-recogniser", HUMAN, (
        ("faceres.json", "5b83d49c0385d2e68a05122441b94226313677cae9fcc40b9587ad50079eb4df"),
        ("faceres.bin", "2c7d2d62b76c97528b736527aa09d310ea71743c9e3e79fb6c62d4b2d73af79b")),
        _manifest(faceres.from_human),
        "converted from av-savchenko/HSE_FaceRec_tf; trained on VGGFace2 and IMDB faces, which have their own terms"),
    Source("landmarks", "face-landmarks", FACE_API, _face_api(
        "face_landmark_68_model", "ca4886639f86e99b39fed0c155f81b63317225773bd9616716e887b0153389c9",
        "4611ef65c87d836d03d684b30eec4d195d8b219fa1dd58fc58945831c6b9299b"), _manifest(trunk.from_face_api),
        "trained on about 35,000 faces that the publisher does not name"),
    Source("expression", "face-expression", FACE_API, _face_api(
        "face_expression_model", "5b349c17c7836da506e03422cd6461c74085d8bb2713ad4114647dc5d28174c8",
        "9a9840f2cf1f4c7eab95f197512569345c00d2426754d4608b92af30e0300f3d"), _manifest(trunk.from_face_api),
        "trained on public sets and web images that the publisher does not name"),
    Source("detector", "face-detector", HUMAN, (
        ("blazeface.json", "cd7bbfc078270572beb39f9e5ae67aadbd50b5e67cff37e6d4f6b3ea39312e5f"),
        ("blazeface.bin", "dc9a97fdc50bc43216554bdd69aa3e7b9361a519ee7bdd996a2f69a98a6f9b72")),
        _manifest(detector.from_human), "BlazeFace, by Google"),
)
#: Recognisers and landmarks look at a network inside; the detector is one itself.
_INSIDE = {"face-recogniser", "face-landmarks", "face-expression"}


def convert_faces(paths: Sequence[Path], out: Path, checked: bool = True) -> list[Path]:
    """Write every network whose files are found into the folder ``out``; returns the assets' files.

    Nothing is written before all files have been read and every network has taken its weights.

    Args:
        paths: tarballs of the packages, as ``npm pack`` and ``pip download`` write them, or folders with them unpacked.
        checked: refuse files with another SHA-256 than the published ones.

    Raises:
        UserError: a path is neither, nothing is found, a file is another than was published, or ``out`` cannot be
            written.
    """
    published = {name: sha256 for source in SOURCES for name, sha256 in source.files}
    found = _collected(paths, published)
    made = []
    for source in _chosen(found):
        files = [found[name] for name, _ in source.files]
        if checked:
            for (name, expected), data in zip(source.files, files, strict=True):
                if hashlib.sha256(data).hexdigest() != expected:
                    raise UserError(f"{name} is not the file of {source.package}: its SHA-256 differs from the "
                                    f"published one; get the package again: {source.package.get}")
        made.append((source, *_network(source, files)))
    if not made:
        raise UserError(f"{', '.join(map(str, paths))}: none of the files {', '.join(sorted(published))} is there; "
                        "'latentprint doctor' says which packages have them")
    try:
        return [save_asset(out, source.asset, module, record, half=False) for source, module, record in made]
    except OSError as error:
        raise UserError(f"assets cannot be written to {out}: {error.strerror or error}") from None


def missing(folder: Path) -> list[str]:
    """Published assets that a folder does not have."""
    there = read_index(folder)
    return [name for name in PUBLISHED if name not in there]


def _chosen(found: Mapping[str, bytes]) -> Iterator[Source]:
    """Of each asset the first source all of whose files are there."""
    taken = set()
    for source in SOURCES:
        if source.asset not in taken and all(name in found for name, _ in source.files):
            taken.add(source.asset)
            yield source


def _network(source: Source, files: Sequence[bytes]) -> tuple[nn.Module, dict[str, object]]:
    name = source.files[-1][0]
    record = {"kind": source.kind, "architecture": source.asset, "source": str(source.package), "terms": source.terms,
              "command": f"latentprint convert faces {source.package.archive}", "metrics": {},
              "published": dict(source.files), **facts(source.asset)}
    module = build(record)
    inner = module.network if source.kind in _INSIDE else module
    assert isinstance(inner, nn.Module)
    try:
        state = source.read(files, name)
    except KeyError as error:
        raise UserError(f"{name}: has no tensor {error}; it is another network than that of {source.package}") from None
    fill(inner, state, f"{name} is not {source.asset}")
    return module, record


def _collected(paths: Sequence[Path], published: Mapping[str, str]) -> dict[str, bytes]:
    """Wanted files by name; of several of one name the first that is the published one, else the first."""
    found: dict[str, bytes] = {}
    for path in paths:
        for name, data in _files(path, published):
            if name not in found or hashlib.sha256(found[name]).hexdigest() != published[name]:
                right = hashlib.sha256(data).hexdigest() == published[name]
                found[name] = data if right else found.get(name, data)
    return found


def _files(path: Path, wanted: Iterable[str]) -> list[tuple[str, bytes]]:
    """Wanted files of a folder or of a tarball, where members are read by name and never unpacked."""
    names = set(wanted)
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    try:
        if path.is_dir():
            files = (file for file in sorted(path.rglob("*")) if file.name in names and file.is_file())
            return [(file.name, file.read_bytes()) for file in files if file.stat().st_size <= LARGEST]
        with tarfile.open(path) as archive:
            return [(Path(member.name).name, _member(archive, member)) for member in archive
                    if member.isfile() and Path(member.name).name in names and member.size <= LARGEST]
    except (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        kind = "cannot be read" if path.is_dir() else "not a tarball, or a damaged one"
        raise UserError(f"{path}: {kind} ({error}); give what 'npm pack' or 'pip download' wrote, or a folder with it "
                        "unpacked") from None


def _member(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = archive.extractfile(member)
    assert stream is not None  # it is a file
    return stream.read()
