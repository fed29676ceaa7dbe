"""A whole label audit, preset ``tiny``: what it writes, and that a killed one ends like an unbroken one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from golden import check_golden

from latentprint.cli import main
from latentprint.config import load_config
from latentprint.data.procedural import make_people
from latentprint.label.presets import PRESETS, LabelConfig

SETTINGS = ["seed=3", "attack.stages.0.steps=8", "attack.stages.1.steps=8", "attack.stages.2.steps=8",
            "attack.stages.0.min_steps=8", "attack.stages.1.min_steps=8", "attack.stages.2.min_steps=8",
            "attack.look_every=3", "threads=1", "resamples=1000", "attack.horizon=6"]  # fmt: skip


def command(out: Path, *more: str) -> list[str]:
    words = [sys.executable, "-m", "latentprint", "audit", "label", "--preset", "tiny", "--out", str(out)]
    for setting in SETTINGS:
        words += ["--set", setting]
    return [*words, *more]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def run(out: Path, *more: str) -> None:
    done = subprocess.run(command(out, *more), env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def kill_in(out: Path, phase: str, *more: str) -> None:
    """Start, wait until ``phase`` has a checkpoint of an unfinished stage, kill -9."""
    checkpoint = out / "checkpoints" / phase / "state.json"
    with subprocess.Popen(command(out, *more), env=environment(), stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 200
        while not checkpoint.exists():
            assert process.poll() is None, "ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (out / "report.json").exists()


def test_real_people_from_one_pack_with_an_adapted_prior(tmp_path: Path) -> None:
    """The way of examples/orl.yaml: people of one pack split, nobody left to calibrate, codec and prior adapted."""
    data = make_people(range(14), 6)
    np.savez(tmp_path / "pack.npz", images=data.images.permute(0, 2, 3, 1).numpy(),
             labels=data.labels.numpy().astype(np.uint8), class_names=np.array(data.names))
    words = ["audit", "label", "--preset", "tiny", "--out", str(tmp_path / "run")]
    for setting in (f"data.private={{kind: npz, path: '{tmp_path}/pack.npz'}}", "data.n_private=4", "data.public=[]",
                    "data.evaluation=null", "adapt.codec_steps=2", "adapt.prior_steps=2", "adapt.batch=4"):
        words += ["--set", setting]
    assert main(words) == 0
    label = json.loads((tmp_path / "run" / "report.json").read_text())["channels"]["label"]
    assert len(label["per_identity"]) == 4 and label["protocol"]["calibration"] == "private and public people"
    phases = {json.loads(line)["phase"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()}
    assert {"adapt-codec", "adapt-prior"} <= phases


def test_the_example_is_a_valid_configuration() -> None:
    config = load_config(LabelConfig, "small", Path(__file__).parent.parent / "examples" / "orl.yaml", (),
                         "audit label", PRESETS)
    assert config.data.n_private == 20 and config.adapt.prior_steps > 0


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("audit") / "unbroken run"
    run(out)
    return out


def numbers(report: Mapping[str, Any]) -> dict[str, Any]:
    """All that must repeat: everything but clocks and the command line."""
    section = json.loads(json.dumps(report["channels"]["label"]))
    del section["seconds"]
    for stage in section["stages"]:
        del stage["seconds"]
    return {"label": section, "warnings": report["warnings"], "hashes": report["manifest"]["hashes"]}


def test_kill_9_in_every_stage_and_resume_gives_the_same_numbers(unbroken: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    kill_in(out, "stage0")
    kill_in(out, "stage1", "--resume")
    kill_in(out, "stage2", "--resume")
    run(out, "--resume")
    first, second = (json.loads((folder / "report.json").read_text()) for folder in (unbroken, out))
    assert numbers(first) == numbers(second)
    lines = [(folder / "metrics.jsonl").read_text().splitlines() for folder in (unbroken, out)]
    assert lines[0] == lines[1]


def test_report_json_has_what_the_overview_promises(unbroken: Path) -> None:
    check_golden("label", unbroken)
    report = json.loads((unbroken / "report.json").read_text())
    assert report["schema"] == 2
    label = report["channels"]["label"]
    for key in ("leak", "attack", "floor", "ceiling", "prior_ceiling"):
        assert {"value", "low", "high"} <= set(label[key])
    metrics = label["metrics"]
    for key in ("top1", "top5", "identity_match_rate", "mean_confidence", "feature_distance", "diversity"):
        assert {"value", "low", "high", "n"} <= set(metrics[key]), key
        assert metrics[key]["low"] <= metrics[key]["value"] <= metrics[key]["high"]
    assert "extractor" in metrics["frechet"]
    assert len(label["per_identity"]) == 4
    assert {e["architecture"] for e in label["evaluators"]} == {"builtin:resnet", "builtin:mixer"}
    assert len(label["protocol"]["hash"]) == 12
    assert set(label["arms"]) == {"attack", "attack_selected", "pseudo_label", "mapped", "floor", "prior_ceiling",
                                  "ceiling"}
    assert label["arms"]["attack"]["n_images"] == 8 and label["arms"]["attack_selected"]["n_images"] == 4
    assert 0.1 < report["manifest"]["peak_memory_gib"]["ram"] < 6
    assert report["manifest"]["seed"] == 3 and report["manifest"]["end"] >= report["manifest"]["start"]


def test_arithmetic_of_the_report(unbroken: Path) -> None:
    """The per-person table averages to the headline, and the leak is what its parts say."""
    label = json.loads((unbroken / "report.json").read_text())["channels"]["label"]
    rows = label["per_identity"]
    assert sum(row["match_rate"] for row in rows) / len(rows) == pytest.approx(label["attack"]["value"])
    floor, ceiling, attack = (label[key]["value"] for key in ("floor", "ceiling", "attack"))
    if ceiling > floor:
        assert label["leak"]["value"] == pytest.approx((attack - floor) / (ceiling - floor))
    else:
        assert label["leak"]["value"] is None


def test_run_directory_is_complete(unbroken: Path) -> None:
    for name in ("config.yaml", "manifest.json", "metrics.jsonl", "report.json", "report.html"):
        assert (unbroken / name).stat().st_size > 0
    assert {"grid.png", "similarity.png", "embeddings.png"} <= {p.name for p in (unbroken / "images").iterdir()}
    assert list((unbroken / "tensorboard").iterdir())
    config = yaml.safe_load((unbroken / "config.yaml").read_text())
    assert config["seed"] == 3 and config["attack"]["stages"][2]["steps"] == 8
    phases = {json.loads(line)["phase"] for line in (unbroken / "metrics.jsonl").read_text().splitlines()}
    assert {"victim", "evaluator-1", "stage0", "stage1", "stage2", "stage2-look"} <= phases


def test_the_page_shows_the_people_and_the_numbers(unbroken: Path) -> None:
    page = (unbroken / "report.html").read_text()
    assert "person-000000" in page and page.count("data:image/png;base64,") >= 5
    assert "http://" not in page.replace("http://www.w3.org", "") and "https://" not in page
