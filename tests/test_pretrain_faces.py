"""`latentprint pretrain faces`: one command from public photos to a folder that an audit can use."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from face_attributes import save_parts, untrained_attributes
from helpers import run_cli

from latentprint.config import load_config
from latentprint.data.procedural import make_people
from latentprint.data.sources import NpzSource, load
from latentprint.diffusion.loading import load_tools
from latentprint.engine.device import pick_device
from latentprint.errors import UserError
from latentprint.models.assets import load_asset, read_index, save_asset
from latentprint.models.framing import OneForAll, locate
from latentprint.models.recognisers import EmbeddingNetwork
from latentprint.plugins.faces.build import RECOGNISERS, FaceRecogniser
from latentprint.pretrain import faces, prior
from latentprint.pretrain.faces import PRESETS, STAGES, FacesConfig, pretrain

PEOPLE, PHOTOS = 20, 2
MADE = {"teacher", "judge", "landmarks", "expression", *STAGES}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Networks as 'convert faces' writes them, with random weights; faces are found wherever one looks."""
    folder = save_parts(untrained_attributes(), tmp_path_factory.mktemp("published"))
    for name, kind in RECOGNISERS.items():
        torch.manual_seed(len(name))
        save_asset(folder, name, FaceRecogniser(kind), {"kind": "face-recogniser", "architecture": name})
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pack without class names: twenty people with two photos each, but for the first, who has one."""
    path = tmp_path_factory.mktemp("photos") / "public.npz"
    people = make_people(range(PEOPLE), PHOTOS)
    images, labels = people.images.permute(0, 2, 3, 1).numpy(), people.labels.numpy()
    np.savez(path, images=images[1:], labels=labels[1:].astype(np.uint8))
    return path


def config(published: Path, photos: Path, *sets: str) -> FacesConfig:
    settings = [f"assets={published}", f"data={{kind: npz, path: {photos}}}", "threads=1", *sets]
    return load_config(FacesConfig, "tiny", None, settings, "pretrain faces", PRESETS)


@pytest.fixture(scope="module")
def made(published: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an unbroken run makes."""
    out = tmp_path_factory.mktemp("made") / "faces"
    pretrain(config(published, photos), out)
    return out


def test_the_folder_has_all_that_an_audit_needs(made: Path, published: Path) -> None:
    index = read_index(made)
    assert index.keys() == MADE
    assert index["prior"]["needs"] == {name: index[name]["sha256"] for name in ("codec", "attributes", "teacher")}
    assert index["prior"]["embedding_dim"] == 1024 and index["attributes"]["domain"] == "real"
    tools = load_tools(made, pick_device("cpu"))
    assert tools.swapper.prior.embedding_dim == tools.teacher.dim == 1024
    judge, own = load_asset("judge", made).state_dict(), load_asset("dlib", published).state_dict()
    assert all(torch.equal(judge[key], own[key]) for key in own)


def test_the_teacher_is_centred_on_the_public_photos(made: Path, published: Path, photos: Path) -> None:
    teacher, plain = load_asset("teacher", made), load_asset("faceres", published)
    assert isinstance(teacher, FaceRecogniser) and isinstance(plain, FaceRecogniser)
    public = load(NpzSource(path=photos))
    public = public.of_classes(range(PEOPLE - 2))  # two of twenty are kept back
    plain.framing = OneForAll(plain.side, locate(load_asset("landmarks", made), public.images, "").matrix(plain.zoom))
    with torch.no_grad():
        mean = plain.raw(public.floats()).mean(0)
    assert teacher.center is not None and torch.allclose(teacher.center, mean, rtol=1e-4, atol=1e-5)


def test_card_and_pictures_say_what_was_made(made: Path) -> None:
    report = json.loads((made / "report.json").read_text())
    assert report["public"]["people"] == 18 and report["public"]["photos"] == 35
    assert report["held_out"] == {"people": 2, "photos": 4}
    assert set(report["metrics"]) == set(STAGES) and report["metrics"]["prior"]["n"] == 2
    assert report["metrics"]["prior"]["judge_pass_rate"] is None  # two people make no threshold
    assert -1 <= report["metrics"]["prior"]["judge_similarity"] <= 1 and report["metrics"]["codec"]["psnr_db"] > 10
    card = (made / "CARD.md").read_text()
    assert "35 photos of 18 people" in card and f"--set assets={made}" in card and "| judge |" in card
    assert "--set 'data.public=[{kind: npz, path: " in card  # as an audit takes it
    assert {path.name for path in (made / "images").glob("*.png")} == {f"{name}.png" for name in STAGES}


def test_a_killed_run_goes_on_and_ends_alike(made: Path, published: Path, photos: Path, tmp_path: Path,
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    out, real = tmp_path / "faces", prior.prior_loss

    def killed(*given: Any) -> Any:
        if given[3] == 3:  # after the checkpoint of step 2
            raise KeyboardInterrupt
        return real(*given)

    monkeypatch.setattr(prior, "prior_loss", killed)
    with pytest.raises(KeyboardInterrupt):
        pretrain(config(published, photos), out)
    assert "prior" not in read_index(out)
    monkeypatch.setattr(prior, "prior_loss", real)
    pretrain(config(published, photos), out, resume=True)
    assert ({name: record["sha256"] for name, record in read_index(out).items()}
            == {name: record["sha256"] for name, record in read_index(made).items()})
    with pytest.raises(UserError, match="already holds a run"):
        pretrain(config(published, photos), out)


def test_what_cannot_be_is_refused_before_anything_is_written(published: Path, photos: Path, tmp_path: Path,
                                                              capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    with pytest.raises(UserError, match=r"^judge: 'faceres' is the teacher as well"):
        pretrain(config(published, photos, "judge=faceres"), out)
    with pytest.raises(UserError, match=r"latentprint convert faces"):
        pretrain(config(tmp_path, photos), out)
    with pytest.raises(UserError, match=r"^teacher: the asset 'landmarks' is not a recogniser"):
        pretrain(config(published, photos, "teacher=landmarks"), out)
    with pytest.raises(UserError, match=r"^data: the photos have 40 pixels a side; expected a multiple of 16"):
        pretrain(config(published, photos, "data.size=40"), out)
    with pytest.raises(UserError, match=r"^install: the package holds networks of procedural people alone"):
        pretrain(config(published, photos, "codec.install=true"), out)
    code, _, err = run_cli(capsys, "pretrain", "faces", "--preset", "tiny", "--out", str(out))
    assert code == 2 and "data" in err
    assert not out.exists()


def test_presets_are_complete_settings(photos: Path) -> None:
    for preset in ("small", "full"):
        sets = [f"data={{kind: npz, path: {photos}}}"]
        found = load_config(FacesConfig, preset, None, sets, "pretrain faces", PRESETS)
        assert found.prior.mirrored and found.codec.identity_weight > 0
    assert issubclass(FaceRecogniser, EmbeddingNetwork) and faces.SHOWN > 1
