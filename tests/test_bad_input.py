"""Every bad input of a label audit: one sentence on stderr, exit code 2, nothing half-written."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import save_untrained
from PIL import Image
from safetensors.torch import save_file

from latentprint.cli import main
from latentprint.data.procedural import make_people
from latentprint.engine.run import RunDir
from latentprint.errors import UserError
from latentprint.models.classifiers import build


@pytest.fixture(scope="session")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_untrained(tmp_path_factory.mktemp("assets"))


@pytest.fixture
def people(tmp_path: Path) -> Path:
    """A folder 'Æ faces' of four people with four photos each."""
    folder = tmp_path / "Æ faces"
    data = make_people(range(4), 4)
    for image, label in zip(data.images, data.labels, strict=True):
        person = folder / data.names[int(label)]
        person.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(person / f"{len(list(person.iterdir()))}.png")
    return folder


Run = Callable[..., tuple[int, str, Path]]


@pytest.fixture
def run(tmp_path: Path, assets: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Audit with settings; gives exit code, stderr and the run directory."""

    def call(*settings: str, out: Path | None = None, preset: str = "tiny") -> tuple[int, str, Path]:
        target = out or tmp_path / "run"
        words = ["audit", "label", "--preset", preset, "--out", str(target), "--set", f"assets={assets}"]
        for setting in settings:
            words += ["--set", setting]
        return main(words), capsys.readouterr().err, target

    return call


def expect(result: tuple[int, str, Path], *fragments: str) -> None:
    code, err, out = result
    assert code == 2, err
    assert err.startswith("error: ") and err.count("\n") == 1, err
    assert "Traceback" not in err
    for fragment in fragments:
        assert fragment in err, f"{fragment!r} not in {err!r}"
    assert not (out / "config.yaml").exists(), "nothing may be half-written"


def folder_data(people: Path) -> tuple[str, ...]:
    return (f"data.private={{kind: folder, path: '{people}'}}",)


def test_unknown_key(run: Run) -> None:
    expect(run("attack.pairz=3"), "attack.pairz", "attack.pairs")


def test_wrong_type(run: Run) -> None:
    expect(run("attack.images=many"), "attack.images", "many")


def test_out_of_range(run: Run) -> None:
    expect(run("attack.rank=0"), "attack.rank")


def test_unknown_preset(run: Run) -> None:
    expect(run(preset="huge"), "huge", "small")


def test_missing_file(run: Run, tmp_path: Path) -> None:
    expect(run(f"data.private={{kind: npz, path: '{tmp_path}/none.npz'}}"), "none.npz")


def test_truncated_image(run: Run, people: Path) -> None:
    photo = people / "person-000001" / "2.png"
    photo.write_bytes(photo.read_bytes()[:-400])
    expect(run(*folder_data(people)), "2.png")


def test_a_person_of_flat_photos(run: Run, people: Path) -> None:
    for photo in (people / "person-000001").iterdir():
        Image.new("L", (64, 64), 3).save(photo)
    expect(run(*folder_data(people)), "images are nearly all of one value", "all of 'person-000001' are")


def test_an_empty_folder_is_no_person_and_the_terminal_says_so(run: Run, people: Path,
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise UserError("stopped here")

    (people / "nobody").mkdir()
    monkeypatch.setattr(RunDir, "open", stopped)
    code, err, _ = run(*folder_data(people))
    assert code == 2 and "error: stopped here" in err
    assert "16 photos of 4 people read; passed over: 1 folder without photos (nobody)" in " ".join(err.split())


def test_class_with_one_photo(run: Run, people: Path) -> None:
    for index in (1, 2, 3):
        (people / "person-000002" / f"{index}.png").unlink()
    expect(run(*folder_data(people)), "person-000002", "1 photo")


def test_public_and_private_share_a_person(run: Run) -> None:
    expect(run("data.public=[{kind: procedural, people: 5, photos: 3, first_identity: 3}]"), "person-000003")


def test_public_photo_of_a_private_person_under_another_name(run: Run, people: Path) -> None:
    other = people.parent / "public"
    (other / "stranger").mkdir(parents=True)
    for index in range(3):
        (other / "stranger" / f"{index}.png").write_bytes((people / "person-000001" / f"{index}.png").read_bytes())
    expect(run(*folder_data(people), f"data.public=[{{kind: folder, path: '{other}'}}]"), "stranger")


def test_victim_with_the_wrong_number_of_outputs(run: Run, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import torch\ndef net(n_classes):\n"
        "    return torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 7))\n")
    expect(run(f"victim.model={tmp_path}/mine.py:net"), "7 outputs", "4 classes")


def test_evaluator_equal_to_the_victim(run: Run, tmp_path: Path) -> None:
    torch.manual_seed(0)
    save_file({k: v.contiguous() for k, v in build("vgg", 4).state_dict().items()}, tmp_path / "v.safetensors")
    same = f"{{model: 'builtin:vgg', weights: '{tmp_path}/v.safetensors'}}"
    expect(run(f"victim={same}", f"evaluators=[{same}]"), "is the victim itself")


def test_evaluator_of_the_victims_architecture(run: Run) -> None:
    expect(run("evaluators=[{model: 'builtin:vgg'}]"), "are both builtin:vgg")


def test_judge_that_is_the_teacher(run: Run) -> None:
    expect(run("judge=teacher"), "the judge is the teacher")


def test_nan_in_the_victims_weights(run: Run, tmp_path: Path) -> None:
    state = {k: v.contiguous() for k, v in build("vgg", 4).state_dict().items()}
    state["head.weight"][0, 0] = torch.nan
    save_file(state, tmp_path / "nan.safetensors")
    expect(run(f"victim.weights={tmp_path}/nan.safetensors"), "victim", "head.weight", "NaN")


def test_pickled_weights_are_refused(run: Run, tmp_path: Path) -> None:
    torch.save(build("vgg", 4), tmp_path / "whole.pt")
    expect(run(f"victim.weights={tmp_path}/whole.pt"), "whole.pt", "pickle")


def test_unwritable_output_folder(run: Run, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    expect(run(out=tmp_path / "taken" / "run"), "taken", "is a file")
    expect(run(out=Path("/proc/latentprint")), "/proc")


def test_second_run_into_the_same_folder(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("seed: 1\n")
    code, err, _ = run()
    assert code == 2 and "already holds a run" in err


def test_unknown_asset_and_damaged_asset(run: Run, assets: Path, tmp_path: Path) -> None:
    expect(run("teacher=nobody"), "nobody")
    expect(run(f"assets={tmp_path}/nowhere"), "nowhere", "is not a folder")
    copied = save_untrained(tmp_path / "copied", seed=1)
    (copied / "codec.safetensors").write_bytes(b"0" * 100)
    expect(run(f"assets={copied}"), "codec", "recorded")


def test_diversity_needs_two_photos_of_somebody(run: Run) -> None:
    """What real photos of one person vary by cannot be told from one photo each."""
    expect(run("attack.loss=C", "data.public=[{kind: procedural, people: 6, photos: 1, first_identity: 500}]"),
           "diversity", "several photos")


def test_groups_that_leave_a_person_out(run: Run, people: Path, tmp_path: Path) -> None:
    (tmp_path / "groups.csv").write_text("name,group\nperson-000000,young\n")
    expect(run(*folder_data(people), f"data.groups={tmp_path}/groups.csv"), "person 'person-000001' has no group")


def test_a_population_that_does_not_exist(run: Run) -> None:
    expect(run("data.private.population=[default, martian]"), "population", "martian", "palette")


def test_a_baseline_whose_library_is_missing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found before anything is trained, not when its turn comes."""
    monkeypatch.setitem(sys.modules, "art.attacks.inference.model_inversion.mi_face", None)
    expect(run("baselines=[art-mi-face]"), "art-mi-face", "pip install 'latentprint[art]'")
