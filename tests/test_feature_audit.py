"""A whole feature audit, preset ``tiny``: what it writes, that it resumes, what it refuses; victims compared."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden import check_golden
from helpers import Run, save_untrained
from PIL import Image
from pydantic import TypeAdapter
from safetensors.torch import load_file

from latentprint.auditing.compare import Case, Comparison, leak_reduction
from latentprint.auditing.scores import Intervals, Values
from latentprint.config import load_config
from latentprint.engine.run import RunDir
from latentprint.errors import RunFailed
from latentprint.feature.build import load_images, make_victim
from latentprint.feature.defenses.adversarial import Adversarial
from latentprint.feature.presets import PRESETS, FeatureConfig, TrainingConfig
from latentprint.feature.protection import DefenceConfig, described
from latentprint.feature.train import Epochs, accuracy_hits, milestones, train_split
from latentprint.report.pareto import Point, _clusters, front, pareto_plot, ranges, recommended
from latentprint.report.values import Measured

CEM = "{kind: cem, warm_up: 0.0, surrogate: {kind: %s}}"


def section(out: Path) -> dict[str, Any]:
    return json.loads((out / "report.json").read_text())["channels"]["feature"]


def test_an_audit_writes_what_the_overview_promises(run: Run) -> None:
    code, err, out = run("audit feature", "attacks=[decoder, optimise]", "defences=[{kind: noise, std: 0.1}]")
    assert code == 0, err
    for name in ("config.yaml", "manifest.json", "metrics.jsonl", "report.json", "report.html", "images/grid.png",
                 "images/sent.png", "networks/victim.safetensors"):
        assert (out / name).stat().st_size > 0, name
    found = section(out)
    for key in ("leak", "attack", "floor", "ceiling"):
        assert {"value", "low", "high"} <= set(found[key])
    assert set(found["arms"]) == {"decoder", "optimise", "attack", "floor", "ceiling"}
    assert found["floor"]["value"] == 0.0 and found["ceiling"]["value"] == 1.0
    arm = found["arms"][found["best_attack"]]
    assert found["leak"] == found["attack"] == arm["variance_recovered"]
    floor = found["arms"]["floor"]
    assert arm["variance_recovered"]["value"] == pytest.approx(1 - arm["mse"]["value"] / floor["mse"]["value"])
    assert found["cost"]["bytes_float32"] == 4 * 8 * 8 * 8 and found["victim"]["cut"] == "encode"
    assert {"value", "chance"} <= set(found["reidentification"]) and found["reidentification"]["chance"] == 0.25
    assert found["queries"]["optimise"]["n_backward"] > 0
    page = (out / "report.html").read_text()
    assert "2,048 bytes" in page and "Pictures" in page
    check_golden("feature", out)


def test_a_finished_run_taken_up_again_gives_the_same_numbers(run: Run) -> None:
    settings = ("attacks=[decoder, gan]", "defences=[{kind: noise}, " + CEM % "gated" + "]")
    first = run("audit feature", *settings)
    before = section(first[2])
    code, err, out = run("audit feature", *settings, more=("--resume",))
    assert code == 0, err
    after = section(out)
    for each in (before, after):
        del each["seconds"], each["cost"]["edge_milliseconds"]
    assert after == before


def test_weights_of_a_run_serve_another(run: Run) -> None:
    first = run("audit feature")[2]
    code, err, out = run("audit feature", f"split.weights={first}/networks/victim.safetensors", out="second")
    assert code == 0, err
    assert section(out)["accuracy"] == section(first)["accuracy"] and section(out)["leak"] == section(first)["leak"]
    assert "victim" not in (out / "metrics.jsonl").read_text() if (out / "metrics.jsonl").exists() else True


def test_training_begins_from_the_weights_of_an_undefended_run(run: Run) -> None:
    first = run("audit feature")[2]
    start = f"training.start={first}/networks/victim.safetensors"
    # a rate of almost 0 leaves the weights where they began
    code, err, out = run("audit feature", start, "training.lr=1e-12", "training.epochs=1", "defences=[{kind: noise}]",
                         out="second")
    assert code == 0, err
    before, after = (load_file(each / "networks" / "victim.safetensors") for each in (first, out))
    moved = [name for name in before if before[name].is_floating_point() and "running" not in name
             and not torch.allclose(before[name], after[name], atol=1e-6)]
    assert before.keys() == after.keys() and not moved
    code, err, out = run("audit feature", start, "split.bottleneck=4", out="third")
    assert code == 2 and "training.start" in err and not out.exists()


@pytest.mark.parametrize("name", ["kmeans", "gmm", "slot", "gated"])
def test_a_surrogate_of_a_trained_network_is_fitted_before_the_first_step(name: str, tmp_path: Path) -> None:
    sets = [f"defences=[{{kind: noise}}, {CEM % name}]", "training.epochs=1", "training.augment=none"]
    config = load_config(FeatureConfig, "tiny", None, sets, "audit feature", PRESETS)
    images = load_images(config.data)[0]
    logged = {}
    for start in (None, tmp_path / "weights.safetensors"):
        victim, _ = make_victim(config, images.train)
        run = RunDir.open(tmp_path / ("cold" if start is None else "warm"), {})
        train_split(victim, images.train, config.training.model_copy(update={"start": start}), run, 0, "fp32")
        run.close()
        logged[start] = json.loads((run.path / "metrics.jsonl").read_text().splitlines()[0])["cem"]
    cold, warm = logged.values()
    # k-means and mixtures ask nothing before a fit; a density that remembers the classes' means asks less
    assert cold == 0 < warm if name in ("kmeans", "gmm") else 0 < warm < cold


def test_every_defence_trains_and_is_attacked(run: Run) -> None:
    kinds = {"noise": "", "dropout": "", "top-k": "", "nopeek": "", "adversarial": ", blocks: 0, first_steps: 1",
             "patrol": ", at: 0.5", "vib": ""}
    variants = ", ".join(f"{kind}: {{defences: [{{kind: {kind}{more}}}]}}" for kind, more in kinds.items())
    code, err, out = run("audit feature", f"variants={{{variants}}}")
    assert code == 0, err
    table = section(out)["variants"]
    assert [row["name"] for row in table] == ["as configured", *kinds]
    assert [row["defences"].split("(")[0] for row in table] == ["", *kinds]
    assert "leak_reduction" not in table[0] and all(row["leak_reduction"] for row in table[1:])
    best = section(out)["recommended"]
    assert best == {} if section(out)["grade"] == "inconclusive" else best["name"] in {row["name"] for row in table}


def test_every_surrogate_defends(run: Run) -> None:
    names = ("kmeans", "gmm", "slot", "gated")
    variants = ", ".join(f"{name}: {{defences: [{{kind: noise}}, {CEM % name}]}}" for name in names)
    code, err, out = run("defend feature", f"variants={{{variants}}}")
    assert code == 0, err
    table = section(out)["variants"]
    assert [row["name"] for row in table] == ["undefended", "defended", *names]
    assert [row["defences"] for row in table][2:] == [f"noise + cem({name}, warm_up 0)" for name in names]
    assert [row["surrogate"] for row in table] == ["", "kmeans", *names]
    assert {row["without_cem"] for row in table} == {"", "noise"}
    assert [each["file"] for each in section(out)["variant_figures"]] == ["images/victims.png", "images/pareto.png"]
    check_golden("feature-defended", out)
    sheet = Image.open(out / "images" / "victims.png")
    assert sheet.height > 7 * 96  # the images and six victims, a row each
    assert "Accuracy against leak" in (out / "report.html").read_text()
    for name in names:
        log = (out / "variants" / name / "metrics.jsonl").read_text()
        assert '"cem"' in log and '"intra_class_mse"' in log
        drawn = {path.stem for path in (out / "variants" / name / "images").glob("*.png")}
        assert "class_penalty" in drawn and ("attention" in drawn) == (name in ("slot", "gated"))


def test_defences_are_described_by_what_is_not_as_it_comes() -> None:
    found = TypeAdapter(list[DefenceConfig]).validate_python(
        [{"kind": "noise", "std": 0.1}, {"kind": "dropout", "rescaled": True},
         {"kind": "cem", "weight": 64, "surrogate": {"kind": "gated", "mode": "joint", "hinge": {"beta": 2}}}])
    assert described(found) == "noise(std 0.1) + dropout(rescaled on) + cem(gated, mode joint, hinge beta 2, weight 64)"
    assert described([]) == ""


def test_cuts_are_compared(run: Run) -> None:
    code, err, out = run("audit feature", "variants={shallow: {split.cut: pool1}, flat: {split.bottleneck: null}}")
    assert code == 0, err
    assert [(row["cut"], row["bytes"]) for row in section(out)["variants"]] == [
        ("encode", 4 * 8 * 8 * 8), ("pool1", 4 * 8 * 16 * 16), ("encode", 4 * 128 * 8 * 8)]


# ---- training ----


def test_every_trained_parameter_gets_a_gradient_and_the_victim_is_frozen_after(tmp_path: Path) -> None:
    sets = ["defences=[{kind: noise}, {kind: vib}, {kind: cem, warm_up: 0.0, surrogate: {kind: slot, mode: joint}}]",
            "training.epochs=1"]
    config = load_config(FeatureConfig, "tiny", None, sets, "audit feature", PRESETS)
    images = load_images(config.data)[0]
    victim, _ = make_victim(config, images.train)
    before = {name: value.clone() for name, value in victim.named_parameters()}
    train_split(victim, images.train, config.training, RunDir.open(tmp_path, {}), 0, "fp32")
    stuck = [name for name, value in victim.named_parameters() if torch.equal(value, before[name])]
    assert not [name for name in stuck if "bias" not in name], stuck
    assert not victim.training and not any(p.requires_grad for p in victim.parameters())


def test_a_penalty_of_weight_0_is_the_undefended_training_bit_for_bit(tmp_path: Path) -> None:
    def trained(name: str, *sets: str) -> dict[str, torch.Tensor]:
        config = load_config(FeatureConfig, "tiny", None, sets, "audit feature", PRESETS)
        images = load_images(config.data)[0]
        victim, _ = make_victim(config, images.train)
        train_split(victim, images.train, config.training, RunDir.open(tmp_path / name, {}), 0, "fp32")
        return {**{f"edge.{k}": v for k, v in victim.edge.state_dict().items()},
                **{f"cloud.{k}": v for k, v in victim.cloud.state_dict().items()}}

    plain = trained("plain")
    for name, defence in {"cem": "{kind: cem, weight: 0.0, surrogate: {kind: gated}}", "nopeek":
                          "{kind: nopeek, weight: 0.0}", "adversarial": "{kind: adversarial, weight: 0.0}"}.items():
        other = trained(name, f"defences=[{defence}]")
        assert all(torch.equal(value, other[key]) for key, value in plain.items()), name


def test_batches_are_without_replacement_and_a_function_of_the_step() -> None:
    epochs = Epochs(10, 3, 2, seed=1)
    assert (epochs.length, epochs.steps) == (3, 6)
    first = torch.cat([epochs.batch(step) for step in range(3)])
    assert len(first.unique()) == 9
    assert torch.equal(Epochs(10, 3, 2, seed=1).batch(4), epochs.batch(4))
    assert not torch.equal(torch.cat([epochs.batch(step) for step in range(3, 6)]), first)


def test_the_learning_rate_warms_up_and_drops_at_its_milestones() -> None:
    config = TrainingConfig(milestones=[0.5, 0.75], gamma=0.2, warm_up=0.1)
    factor = milestones(config, 100)
    assert factor(0) == pytest.approx(0.1) and factor(9) == factor(49) == 1.0
    assert factor(50) == pytest.approx(0.2) and factor(75) == pytest.approx(0.04)


def test_nan_features_end_the_training_with_a_clear_failure(tmp_path: Path) -> None:
    config = load_config(FeatureConfig, "tiny", None, ["training.epochs=20"], "audit feature", PRESETS)
    images = load_images(config.data)[0]
    victim, _ = make_victim(config, images.train)
    with torch.no_grad():
        next(victim.edge.parameters()).fill_(float("nan"))
    with pytest.raises(RunFailed, match="non-finite loss"):
        train_split(victim, images.train, config.training, RunDir.open(tmp_path, {}), 0, "fp32")


def test_accuracy_is_measured_with_the_defences_on() -> None:
    config = load_config(FeatureConfig, "tiny", None, ["defences=[{kind: noise, std: 1000.0}]"], "audit feature",
                         PRESETS)
    images = load_images(config.data)[0]
    victim, _ = make_victim(config, images.train)
    victim.freeze()
    noisy = torch.stack([victim(images.test.floats(), torch.Generator().manual_seed(s)).argmax(1) for s in range(5)])
    assert (noisy != noisy[0]).any()
    assert torch.equal(accuracy_hits(victim, images.test, 1, "fp32"), accuracy_hits(victim, images.test, 1, "fp32"))


# ---- comparison ----


def point(name: str, accuracy: float, leak: float) -> Point:
    return Point(name, Measured(accuracy), Measured(leak))


def test_the_front_and_the_recommendation() -> None:
    points = [point("plain", 0.90, 0.9), point("good", 0.895, 0.5), point("worse", 0.89, 0.6), point("far", 0.6, 0.1),
              point("unknown", 0.99, 0.0)]
    points[-1] = Point("unknown", Measured(), Measured(0.0))
    assert [p.name for p in front(points)] == ["far", "good", "plain"]
    assert [recommended(points, points[0], cost).name for cost in (0.0, 0.01, 0.5)] == [  # type: ignore[union-attr]
        "plain", "good", "far"]
    assert recommended(points, points[-1], 0.1) is None


def test_points_that_coincide_share_a_label() -> None:
    assert ranges([3, 1, 2, 5]) == "1–3, 5" and ranges([4]) == "4"
    points = [point("a", 0.90, 0.9), point("b", 0.90, 0.899), point("c", 0.6, 0.1), point("d", 0.75, 0.9)]
    assert [[p.name for p in cluster] for cluster in _clusters(points)] == [["a", "b"], ["c"], ["d"]]
    wide = [Point("a", Measured(0.25, 0.0, 0.8), Measured(-0.86, -1.6, -0.5)),
            Point("b", Measured(0.25), Measured(-0.87))]
    assert len(_clusters(wide)) == 1, "intervals stretch the plot"


def test_a_difference_of_leaks_is_the_leak_of_the_difference() -> None:
    rng = np.random.default_rng(0)
    floor, units = rng.uniform(1, 2, 40), np.arange(40)
    errors = {name: floor * share for name, share in (("before", 0.25), ("after", 0.75))}
    before, after = (Case(name, Values(np.ones(9), np.arange(9)), {"value": 1 - e.sum() / floor.sum()},
                          [Values(values, units) for values in (-e, -floor, 0 * floor)], "same")
                     for name, e in errors.items())
    intervals = Intervals(1000, 0, bounded=False)
    saved = leak_reduction(before, after, intervals)
    assert saved is not None and saved["value"] == pytest.approx(0.5) and saved["low"] == pytest.approx(0.5)
    comparison = Comparison("variants", "victim", "accuracy", "accuracy", "Accuracy", "Leak", 0.01)
    assert comparison.rows([before, after], intervals)[1]["accuracy_cost"]["value"] == 0.0
    assert leak_reduction(before, replace(after, attacked="other"), intervals) is None


# ---- bad input ----


@pytest.mark.parametrize(("settings", "fragments"), [
    (("split.cut=poool1",), ("poool1", "pool1")),
    (("split.model=builtin:vgg19",), ("vgg19", "builtin:vgg11")),
    (("split.model=torchvision:resnet18",), ("split.cut", "name the last layer")),
    (("defences=[{kind: noise, std: 0.0}, {kind: cem}]",), ("noise", "above 0")),
    (("defences=[{kind: cem, surrogate: {kind: gmm}}]",), ("noise", "above 0")),
    (("defences=[{kind: noise}, {kind: noise}]",), ("noise", "twice")),
    (("training.batch=64",), ("training.batch", "32")),
    (("data.test={kind: procedural, people: 3, photos: 4, image_seed: 1000, size: 32}",), ("the same classes",)),
    (("data.test={kind: procedural, people: 4, photos: 4, image_seed: 1000, size: 48}",), ("one size",)),
    (("variants={a: {defence: []}}",), ("variants.a", "defences")),
    (("variants={undefended: {seed: 1}}",), ("variants",)),
    (("attacks=[]",), ("attacks",)),
])  # fmt: skip
def test_bad_input_is_one_sentence_and_writes_nothing(run: Run, settings: tuple[str, ...],
                                                      fragments: tuple[str, ...]) -> None:
    code, err, out = run("defend feature" if "undefended" in settings[0] else "audit feature", *settings)
    assert code == 2 and err.startswith("error: ") and err.count("\n") == 1, err
    for fragment in fragments:
        assert fragment in err, err
    assert not (out / "config.yaml").exists()


def test_defend_without_a_defence_says_so(run: Run) -> None:
    code, err, _ = run("defend feature", "defences=[]")
    assert code == 2 and "audit feature" in err


def test_unbounded_features_under_noise_are_warned_of(run: Run) -> None:
    code, err, out = run("audit feature", "split.bounded=none", "defences=[{kind: noise}]")
    assert code == 0, err
    assert any("bounded" in each for each in json.loads((out / "report.json").read_text())["warnings"])


def test_packaged_networks_that_are_missing_are_named(run: Run, tmp_path: Path) -> None:
    assets = save_untrained(tmp_path / "assets")
    (assets / "judge.safetensors").unlink()
    code, err, _ = run("audit feature", f"assets={assets}")
    assert code == 2 and "judge" in err


def test_nobody_reads_parameters_better_than_certified(run: Run) -> None:
    """On procedural faces, whose parameters have a known entropy."""
    for std in (0.05, 1.0):
        code, err, out = run("audit feature", f"defences=[{{kind: noise, std: {std}}}]", "attacked=null",
                             "data.train={kind: procedural, people: 4, photos: 60, size: 32}",
                             "data.test={kind: procedural, people: 4, photos: 30, image_seed: 1000, size: 32}",
                             out=f"noise-{std:g}")
        assert code == 0, err
        found = section(out)["certificate"]
        assert 0 < found["mse_floor"] <= min(found["readers"].values()) and found["mse_prior"] == pytest.approx(1 / 3)
    assert found["mse_floor"] > 0.1 and not found["reason"]


def test_without_noise_nothing_is_certified(run: Run) -> None:
    found = section(run("audit feature")[2])["certificate"]
    assert found["mse_floor"] == 0.0 and "no noise" in found["reason"]


def test_an_adversary_of_a_trained_network_learns_before_the_first_step(tmp_path: Path) -> None:
    """From random weights the network is left alone for as long; its messages are those of the defended victim."""
    adversarial = "{kind: adversarial, blocks: 0, width: 8, first_steps: 3, bound: 0.0, weight: 1.0}"
    config = load_config(FeatureConfig, "tiny", None, [f"defences=[{{kind: noise}}, {adversarial}]"], "audit feature",
                         PRESETS)
    images = load_images(config.data)[0]
    acted = {}
    for start in (None, tmp_path / "weights.safetensors"):
        victim, _ = make_victim(config, images.train)
        defence = victim.defences[1]
        assert isinstance(defence, Adversarial)
        seen: list[int] = []
        real = defence.penalty
        defence.penalty = lambda step, real=real, seen=seen: (  # type: ignore[method-assign, misc]
            found if (found := real(step)) is None else seen.append(step.number) or found)
        run = RunDir.open(tmp_path / f"run-{start is None}", {})
        train_split(victim, images.train, config.training.model_copy(update={"start": start}), run, 0, "fp32")
        run.close()
        acted[start] = seen
        assert defence.taken == 4 + (0 if start is None else 3)  # two epochs of two steps
        assert int(defence.state_dict()["_extra_state"]) == defence.taken
    cold, warm = acted.values()
    assert cold == [3] and warm == [0, 1, 2, 3]


def test_many_victims_are_numbered_beside_a_list(tmp_path: Path) -> None:
    """A list beside the plot makes the picture wider; few points carry their names."""
    def drawn(n: int) -> tuple[int, int]:
        points = [Point(f"victim {i}", Measured(0.5 + i / 50), Measured(0.1 + i / 50)) for i in range(n)]
        assert pareto_plot(points, tmp_path / f"{n}.png", "Leak")
        with Image.open(tmp_path / f"{n}.png") as picture:
            return picture.size

    assert drawn(9)[0] < drawn(10)[0] and drawn(10)[1] < drawn(30)[1]


@pytest.mark.parametrize(("body", "message"), [
    ("raise RuntimeError('height 32 is not 224')", r"m\.py:Net cannot take two 32x32 images: height 32 is not 224; "),
    ("return {'logits': self.head(x.mean((2, 3)))}", r"m\.py:Net answers with a dict, .* one tensor: let its forward"),
])
def test_networks_that_cannot_be_cut_are_told_in_a_sentence(run: Run, tmp_path: Path, body: str, message: str) -> None:
    (tmp_path / "m.py").write_text("from torch import nn\nclass Net(nn.Module):\n    def __init__(self, n):\n"
                                   "        super().__init__()\n        self.head = nn.Linear(3, n)\n"
                                   f"    def forward(self, x):\n        {body}\n")
    code, err, _ = run("audit feature", f"split.model={tmp_path / 'm.py'}:Net", "split.cut=head")
    assert code == 2 and re.search(message, err), err


def test_a_vision_transformer_of_another_size_is_told_in_a_sentence(run: Run) -> None:
    code, err, _ = run("audit feature", "split.model=timm:vit_tiny_patch16_224", "split.cut=blocks.0")
    assert code == 2 and "cannot take two 32x32 images: Input height (32) doesn't match model (224)" in err
