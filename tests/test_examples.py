"""The examples run as a reader would run them."""

from __future__ import annotations

import json
import math
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import run_cli
from small import save_small, small_networks

from latentprint.data.procedural import make_people
from latentprint.models.assets import save_asset
from latentprint.plugins.faces.build import RECOGNISERS, FaceRecogniser
from latentprint.registry import find_callable

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_the_hand_over_without_a_face(tmp_path: Path) -> None:
    """Noise for photos and three steps of everything: it trains both arms and says how their drawings are named."""
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 10
    np.savez(tmp_path / "pack.npz", images=rng.integers(0, 256, (60, 32, 32, 3), dtype=np.uint8), labels=labels,
             class_names=np.array([f"class {i}" for i in range(10)]), split=(np.arange(60) >= 40).astype(np.uint8))
    command = [sys.executable, str(EXAMPLES / "handover_cifar.py"), str(tmp_path / "pack.npz"), "--out",
               str(tmp_path / "run"), "--scale", "0.001", "--seeds", "1", "--images", "10"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for arm in ("hand-over", "labels alone"):
        shares = [float(x) for x in re.findall(r"([\d.]+)% \(", said.split(f"{arm}: ")[1].splitlines()[0])]
        assert len(shares) == 3 and all(0 <= share <= 100 for share in shares)
    assert (tmp_path / "run" / "checkpoints").is_dir()


def run_example(name: str, *arguments: str) -> str:
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("name", ["own_classifier", "protect_split", "measure_templates", "add_loss", "add_surrogate",
                                  "verify_faces"])
def test_short_examples_are_short(name: str) -> None:
    assert len((EXAMPLES / f"{name}.py").read_text().splitlines()) <= 80


def test_a_stock_resnet_is_audited_from_its_own_script(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    people = make_people(range(6), 6)
    np.savez(tmp_path / "pack.npz", images=people.images.permute(0, 2, 3, 1).numpy(), labels=people.labels.numpy(),
             class_names=np.array(people.names))
    run_example("own_classifier.py", str(tmp_path / "pack.npz"), "--out", str(tmp_path / "own"), "--people", "4",
                "--heldout", "2", "--epochs", "1")
    data = f"data={{private: {{kind: npz, path: {tmp_path / 'pack.npz'}}}, n_private: 4}}"
    victim = ("--preset", "tiny", "--set", data, "--victim", str(tmp_path / "own" / "victim.yaml"))
    _, out, _ = run_cli(capsys, "audit", "label", *victim, "--check")
    assert "own_classifier.py:build, 4 classes, white-box access" in " ".join(out.split())
    code, _, err = run_cli(capsys, "audit", "label", *victim, "--out", str(tmp_path / "run"))
    assert code == 0, err
    report = json.loads((tmp_path / "run" / "report.json").read_text())["channels"]["label"]
    assert report["victim"]["n_classes"] == 4 and report["victim"]["architecture"].endswith("own_classifier.py:build")


def test_models_in_memory_are_audited_in_a_dozen_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                      capsys: pytest.CaptureFixture[str]) -> None:
    """As it stands, but for the preset, with networks of the shipped shapes that are small."""
    source = (EXAMPLES / "in_memory.py").read_text()
    assert len(source.splitlines()) <= 12 and source.count('out="runs/') == 3
    monkeypatch.chdir(tmp_path)
    with small_networks():
        monkeypatch.setattr("latentprint.models.assets.PACKAGED", save_small(tmp_path / "assets"))
        exec(compile(source.replace('out="runs/', 'preset="tiny", out="runs/'), "in_memory.py", "exec"), {})
    said = capsys.readouterr().out
    for channel in ("label", "template", "feature"):
        assert f"{channel.capitalize()}: " in said
        section = json.loads((tmp_path / "runs" / channel / "report.json").read_text())["channels"][channel]
        assert section["victim"]["architecture"].startswith("memory:ResNet-")


@pytest.mark.parametrize("name", ["protect_split.py", "measure_templates.py"])
def test_examples_end_in_a_report(tmp_path: Path, name: str) -> None:
    said = run_example(name, "--preset", "tiny", "--out", str(tmp_path / "runs" / "one"))
    assert "rich.table" not in said and "95% interval" in said
    assert "report: " in said and (tmp_path / "runs" / "one" / "report.html").is_file()


def test_faces_are_verified_by_a_recogniser_of_real_faces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                          capsys: pytest.CaptureFixture[str]) -> None:
    """One of the published shape with random weights, on whole pictures: no networks are asked for faces."""
    save_asset(tmp_path / "assets", "dlib", FaceRecogniser(RECOGNISERS["dlib"]),
               {"kind": "face-recogniser", "architecture": "dlib"})
    people = make_people(range(3), 2, size=32)
    np.savez(tmp_path / "pack.npz", images=people.images.permute(0, 2, 3, 1).numpy(), labels=people.labels.numpy())
    monkeypatch.setattr(sys, "argv", ["verify_faces.py", str(tmp_path / "pack.npz"), "--size", "32", "--assets",
                                      str(tmp_path / "assets"), "--recogniser", "dlib", "--framing", "given"])
    runpy.run_path(str(EXAMPLES / "verify_faces.py"), run_name="__main__")
    said = capsys.readouterr().out
    assert said.startswith("6 photos of 3 people, 32 pixels\ndlib given: ") and "at FMR 0.001" in said


def test_a_loss_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = EXAMPLES / "add_loss.py"
    code, _, err = run_cli(capsys, "audit", "template", "--preset", "tiny", "--set",
                           f"attack.loss.pixel={own}:charbonnier", "--out", str(tmp_path / "template"))
    assert code == 0, err
    code, _, err = run_cli(capsys, "defend", "feature", "--preset", "tiny", "--set",
                           f"defences=[{{kind: custom, made_by: '{own}:Decorrelated', options: {{weight: 2}}}}]",
                           "--out", str(tmp_path / "feature"))
    assert code == 0, err
    rows = [json.loads(line) for line in (tmp_path / "feature" / "metrics.jsonl").read_text().splitlines()]
    assert any("correlation" in row for row in rows)
    for spec, said in ((f"{own}:none", "has no callable 'none'"), ("nothing", "is none of FILE.py:NAME,"),
                       (f"{own}:charbonnier", "made Tensor, expected FeatureDefense|charbonnier failed: TypeError")):
        code, _, err = run_cli(capsys, "defend", "feature", "--preset", "tiny", "--set",
                               f"defences=[{{kind: custom, made_by: '{spec}'}}]", "--out", str(tmp_path / "none"))
        assert code == 2 and re.search(said, err) and not (tmp_path / "none").exists()
    code, _, err = run_cli(capsys, "audit", "template", "--preset", "tiny", "--set", "attack.loss.pixel=l3")
    assert code == 2 and "expected l1, mse or such a function" in err


def test_the_loss_of_the_example_is_what_it_says() -> None:
    own = find_callable(f"{EXAMPLES / 'add_loss.py'}:charbonnier")
    x = torch.zeros(1, 3, 2, 2)
    assert float(own(x, x + 3.0)) == pytest.approx(3.0, abs=1e-5) and float(own(x, x)) == pytest.approx(1e-3)


def test_a_surrogate_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = EXAMPLES / "add_surrogate.py"
    surrogate = find_callable(f"{own}:Spread")((2,), 3, 0.1, gamma=0.01)
    z = torch.tensor([[0.0, 0.0], [2.0, 4.0], [1.0, 1.0]], requires_grad=True)
    found = surrogate(z, torch.tensor([0, 0, 2]))
    variance = (1.0 + 4.0) / 2
    expected = (math.log(variance + 0.01) - math.log(0.02)) / 2  # the class of one sample costs nothing
    assert float(found.loss) == pytest.approx(expected, rel=1e-5)
    found.loss.backward()
    assert z.grad is not None and z.grad[:2].abs().min() > 0 and z.grad[2].abs().sum() == 0
    spec = f"surrogate: {{kind: custom, made_by: '{own}:Spread', options: {{gamma: 0.001}}}}"
    code, _, err = run_cli(capsys, "defend", "feature", "--preset", "tiny", "--set",
                           f"defences=[{{kind: noise}}, {{kind: cem, warm_up: 0, {spec}}}]", "--out",
                           str(tmp_path / "run"))
    assert code == 0, err
    code, _, err = run_cli(capsys, "defend", "feature", "--preset", "tiny", "--set",
                           f"defences=[{{kind: cem, {spec}}}]", "--out", str(tmp_path / "none"))
    assert code == 2 and "Spread measures features against the noise" in err
