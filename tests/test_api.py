"""Audits from Python: objects in memory, the same sentences as the command line, and a host that is left as it was."""

from __future__ import annotations

import io
import json
import logging
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from helpers import run_cli
from small import save_small, small_networks
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import latentprint as lp
from latentprint.checks import weights_hash
from latentprint.data.procedural import make_people

SIDE = 32
COMMON: dict[str, Any] = {"threads": 1, "device": "cpu", "save_every": 2, "resamples": 1000}
PEOPLE: dict[str, Any] = {"public": {"kind": "procedural", "people": 40, "photos": 2, "first_identity": 100_000,
                                     "size": SIDE},
                          "evaluation": {"kind": "procedural", "people": 24, "photos": 4, "first_identity": 200_000,
                                         "size": SIDE}}
LABEL: dict[str, Any] = {
    **COMMON, **PEOPLE, "size": SIDE, "evaluators": [{"model": "builtin:resnet", "steps": 3, "batch": 6}],
    "attack": {"map_steps": 2, "look_every": 2, "pairs": 3, "sample_steps": 1}}
TEMPLATE: dict[str, Any] = {**COMMON, **PEOPLE, "size": SIDE, "attack": {"recovery_steps": 4, "steps": 4},
                            "data.n_heldout": 1}


def network(outputs: int, channels: int = 8) -> nn.Sequential:
    """A classifier or recogniser of 32-pixel images."""
    torch.manual_seed(outputs)
    return nn.Sequential(nn.Conv2d(3, channels, 8, 8), nn.BatchNorm2d(channels), nn.ReLU(), nn.AdaptiveAvgPool2d(2),
                         nn.Flatten(), nn.Linear(4 * channels, outputs))


def photos(people: int = 3, each: int = 6, first: int = 0) -> tuple[Tensor, Tensor]:
    """Images in [0, 1] and labels."""
    found = make_people(range(people), each, first, SIDE)
    return found.images.float() / 255, found.labels


class Host:
    """What a host process can see of its own state."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.unchanged = model, False

    def state(self) -> list[Any]:
        return [random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist(),  # noqa: NPY002
                torch.get_num_threads(), torch.is_grad_enabled(), torch.get_default_dtype(),
                logging.getLogger("latentprint").handlers[:], logging.getLogger("latentprint").level,
                weights_hash(self.model), [part.training for part in self.model.modules()],
                [(each.requires_grad, each.grad is None, each.device) for each in self.model.parameters()],
                [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in self.model.modules()],
                [id(each) for each in self.model.parameters()]]


class Audited(NamedTuple):
    report: lp.Report
    printed: str
    before: list[Any]
    after: list[Any]
    logged: list[str]


def audited(host: Host, *words: Any, **arguments: Any) -> Audited:
    """An audit, and what its host saw of it."""
    records: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())  # type: ignore[method-assign]
    log = logging.getLogger("latentprint")
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    before = host.state()
    try:
        with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
            report = lp.audit(*words, model=host.model, preset="tiny", **arguments)
        return Audited(report, out.getvalue() + err.getvalue(), before, host.state(), records)
    finally:
        log.removeHandler(handler)
        log.setLevel(logging.NOTSET)


@pytest.fixture(scope="module")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with small_networks(), pytest.MonkeyPatch.context() as patch:
        patch.delenv("LATENTPRINT_QUIET")
        yield save_small(tmp_path_factory.mktemp("assets"))


@pytest.fixture(scope="module")
def label(assets: Path, tmp_path_factory: pytest.TempPathFactory) -> Audited:
    """A classifier in training mode with a hook, and photos as tensors."""
    model = network(3).train()
    model[0].register_forward_hook(lambda *_: None)
    next(model.parameters()).requires_grad_(False)
    return audited(Host(model), "label", classes=["ann", "bob", "cid"], private=photos(), assets=assets,
                   preprocess={"mean": [0.5], "std": [0.5]}, out=tmp_path_factory.mktemp("label") / "run", **LABEL)


@pytest.fixture(scope="module")
def template(assets: Path, tmp_path_factory: pytest.TempPathFactory) -> Audited:
    """A recogniser and a dataset."""
    return audited(Host(network(16)), "template", private=TensorDataset(*photos(4, 3)), assets=assets,
                   recogniser={"dim": 16}, out=tmp_path_factory.mktemp("template") / "run", **TEMPLATE)


@pytest.fixture(scope="module")
def feature(assets: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Host, lp.Comparison]:
    """A trained network as it is, and with noise, for which a copy is trained further."""
    host = Host(network(3).eval())
    before = host.state()
    found = lp.compare("feature", model=host.model, cut="2", private=photos(), heldout=photos(3, 4, 1000),
                       assets=assets, preset="tiny", out=tmp_path_factory.mktemp("feature") / "run",
                       cases={"plain": {}, "with noise": {"defences": [{"kind": "noise", "std": 0.1}]}},
                       **{**COMMON, "training": {"epochs": 1, "batch": 6}})
    host.unchanged = host.state() == before
    return host, found


CHANNELS = ("label", "template")


# ---- the front door ----


def test_importing_loads_nothing_heavy() -> None:
    code = ("import sys, latentprint; print({'torch', 'numpy', 'pydantic', 'rich', 'yaml'} & set(sys.modules)); "
            "latentprint.UserError, latentprint.load_report; print('torch' in sys.modules)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\nFalse\n"


def test_the_table_of_contents_is_complete() -> None:
    assert set(lp.__all__) == set(lp._HOMES) <= set(dir(lp))
    for name in lp.__all__:
        assert getattr(lp, name).__name__.replace("Defense", "Defence") == name
    assert str(lp.__version__).count(".") == 2
    with pytest.raises(AttributeError, match="no attribute 'adit'"):
        _ = lp.adit


def test_a_classifier_in_memory_is_audited(label: Audited) -> None:
    section = label.report.section
    assert label.report.channel == "label" and section["victim"]["n_classes"] == 3
    assert section["victim"]["architecture"].startswith("memory:Sequential-")
    assert {row["identity"] for row in section["per_identity"]} == {"ann", "bob", "cid"}
    manifest = label.report.data["manifest"]
    assert manifest["command"] == "latentprint.audit('label', ...)" and len(manifest["data"]["private_train"]) == 64
    assert manifest["hashes"]["victim"]


def test_a_recogniser_in_memory_is_audited(template: Audited) -> None:
    section = template.report.section
    assert section["victim"]["architecture"].startswith("memory:Sequential-")
    assert {"attack", "floor", "ceiling"} <= set(section["arms"])


def test_a_network_that_is_cut_keeps_its_weights(feature: tuple[Host, lp.Comparison]) -> None:
    """``plain`` answers as the network in memory does; ``with noise`` was trained from it, and it did not change."""
    host, found = feature
    images, labels = photos(3, 4, 1000)
    with torch.no_grad():
        right = float((host.model(images).argmax(1) == labels).float().mean())
    assert found["plain"].section["victim"]["accuracy"] == pytest.approx(right)
    assert not (found["plain"].path / "networks").exists() and (found["with noise"].path / "networks").is_dir()
    assert host.unchanged
    assert [row["name"] for row in found["plain"].section["variants"]] == ["plain", "with noise"]


def test_cases_stand_side_by_side(feature: tuple[Host, lp.Comparison]) -> None:
    _, found = feature
    assert list(found) == ["plain", "with noise"] and (found.path / "comparison.html").is_file()
    rows = found.table()
    rows = rows if isinstance(rows, list) else rows.to_dict("records")
    assert [row["name"] for row in rows] == list(found)
    assert rows[0]["leak"] == found["plain"].leak.value and rows[1]["accuracy_cost"] is not None
    assert "with noise" in found._repr_html_()


def test_classifiers_are_compared_image_by_image(assets: Path, tmp_path: Path) -> None:
    settings = {**LABEL, "attack": {**LABEL["attack"], "access": "scores", "stages": []}}
    found = lp.compare("label", cases={"narrow": {"model": network(3)}, "wide one": {"model": network(3, 16)}},
                       private=photos(), assets=assets, preset="tiny", out=tmp_path / "run", **settings)
    rows = found["narrow"].section["variants"]
    assert [row["name"] for row in rows] == ["narrow", "wide one"] and rows[1]["leak_reduction"]["n"] == 3
    assert found["wide one"].path == tmp_path / "run" / "variants" / "wide-one"
    victims = [report.section["victim"]["architecture"] for report in found.values()]
    assert len(set(victims)) == 2 and all(each.startswith("memory:Sequential-") for each in victims)


# ---- manners ----


@pytest.mark.parametrize("channel", CHANNELS)
def test_a_host_is_left_as_it_was(channel: str, request: pytest.FixtureRequest) -> None:
    found: Audited = request.getfixturevalue(channel)
    assert found.before == found.after
    assert found.printed == ""
    assert any("begins at step" in line for line in found.logged)
    assert threading.active_count() < 50 and not lp.audit.__globals__["_running"].locked()


def test_audits_after_one_another_give_the_numbers_of_one_alone(label: Audited, template: Audited, assets: Path,
                                                               tmp_path: Path) -> None:
    """Again after two others, by a host that has set everything in PyTorch otherwise."""
    model, private = network(3), photos()
    torch.manual_seed(7)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            again = lp.audit("label", model=model, classes=["ann", "bob", "cid"], private=private, assets=assets,
                             preset="tiny", preprocess={"mean": [0.5], "std": [0.5]}, out=tmp_path / "run", **LABEL)
            assert torch.is_inference_mode_enabled() and torch.is_autocast_enabled("cpu")
        assert torch.get_default_dtype() is torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    sections = [json.loads(json.dumps(report.section)) for report in (label.report, again)]
    for section in sections:
        for key in ("seconds", "stages"):
            section.pop(key)
    assert sections[0] == sections[1]


def test_a_run_goes_on_with_the_same_objects_alone(label: Audited, assets: Path) -> None:
    given = {"classes": ["ann", "bob", "cid"], "private": photos(), "assets": assets, "preset": "tiny",
             "preprocess": {"mean": [0.5], "std": [0.5]}, "out": label.report.path, "resume": True, **LABEL}
    again = lp.audit("label", model=network(3), **given)
    assert again.leak == label.report.leak
    with pytest.raises(lp.UserError, match=r"--resume: .* another configuration \(different: victim\)"):
        lp.audit("label", model=network(3, 16), **given)


def test_two_audits_at_once_are_refused() -> None:
    running = lp.audit.__globals__["_running"]
    with running, pytest.raises(lp.UserError, match="another audit is running in this process"):
        lp.audit("label", preset="tiny")


# ---- one sentence, as the command line has it ----


@pytest.mark.parametrize(("setting", "value"), [("sede", 1), ("attack.steps", 1), ("attack.pairs", "many"),
                                                ("data.private", {"kind": "photos"}), ("resamples", 1)])
def test_a_wrong_setting_is_the_sentence_of_the_command_line(setting: str, value: Any, tmp_path: Path,
                                                            capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run_cli(capsys, "audit", "label", "--preset", "tiny", "--out", str(tmp_path / "a"), "--set",
                           f"{setting}={json.dumps(value)}")
    with pytest.raises(lp.UserError) as raised:
        lp.audit("label", preset="tiny", out=tmp_path / "b", **{setting: value})
    assert code == 2 and err == f"error: {raised.value}\n".replace("(from keyword arguments)", "(from --set)")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("arguments", "said"), [
    ({"model": nn.Linear}, r"audit label: model: Linear is a class; give a network, as in Linear\(\)"),
    ({"model": 3}, "audit label: model: expected an nn.Module, a function of images, or text, got int"),
    ({"private": (torch.rand(4, 3, 8, 8) - 1, torch.arange(4))}, "black is 0; give images in .* before normalisation"),
    ({"private": (torch.rand(4, 3, 8, 8), torch.arange(3))}, r"labels must be one integer or text an image, \(4,\)"),
    ({"private": (torch.rand(4, 3, 8, 8), torch.arange(4)), "classes": ["a", "b"]}, "beyond the 2 class_names"),
    ({"config": lp.FeatureConfig()}, "config: expected LabelConfig, got FeatureConfig"),
    ({"preset": "huge"}, "unknown preset 'huge'"),
    ({"preprocess": nn.Dropout()}, "the step Dropout is not understood; expected Resize, CenterCrop"),
])
def test_what_cannot_be_used_is_refused(arguments: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(lp.UserError, match=said):
        lp.audit("label", **{"preset": "tiny", "out": tmp_path / "run", **arguments})
    assert not (tmp_path / "run").exists()


def test_a_function_cannot_be_cut(tmp_path: Path) -> None:
    with pytest.raises(lp.UserError, match="a function cannot be cut in two"):
        lp.audit("feature", model=lambda images: images, cut="a", out=tmp_path / "run")
    with pytest.raises(lp.UserError, match="unknown channel 'lable'; did you mean 'label'"):
        lp.audit("lable", out=tmp_path / "run")  # type: ignore[arg-type]
    with pytest.raises(lp.UserError, match="cases: give two or more"):
        lp.compare("feature", cases={"one": {}})


def test_a_typed_config_serves_as_settings(tmp_path: Path) -> None:
    config = lp.LabelConfig.model_validate({"data": {"private": {"kind": "folder", "path": tmp_path / "none"}}})
    with pytest.raises(lp.UserError, match="none"):
        lp.audit("label", config=config, out=tmp_path / "run")
    with pytest.raises(lp.UserError, match="'resamples' should be greater than or equal to 1000, not 7"):
        lp.audit("label", config=config, resamples=7, out=tmp_path / "run")


def test_an_object_is_asked_for_where_it_lies(assets: Path, tmp_path: Path,
                                              capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run_cli(capsys, "audit", "label", "--preset", "tiny", "--out", str(tmp_path / "a"), "--set",
                           "victim.model=memory:Net-1234", "--set", f"assets={assets}")
    assert code == 2 and "an object of the Python process that began this run" in err


@pytest.fixture
def function() -> Callable[[Tensor], np.ndarray]:
    model = network(3).eval()

    def predict(images: Tensor) -> np.ndarray:
        assert images.dtype == torch.float32 and 0 <= float(images.min()) <= float(images.max()) <= 1
        return model(images).softmax(1).detach().numpy()

    return predict


def test_a_function_gives_scores_alone(function: Callable[[Tensor], np.ndarray], assets: Path, tmp_path: Path) -> None:
    report = lp.audit("label", model=function, victim={"answers": "probabilities"}, private=photos(), assets=assets,
                      preset="tiny", out=tmp_path / "run", **LABEL)
    section = report.section
    assert section["victim"]["architecture"] == "memory:predict" and section["stages"] == []
    assert section["queries"]["backward"] == 0 and section["queries"]["forward"] > 0


def test_a_function_gives_embeddings_without_gradients(assets: Path, tmp_path: Path) -> None:
    model = network(16).eval()
    report = lp.audit("template", model=lambda images: model(images).detach(), recogniser={"dim": 16},
                      private=photos(4, 3), assets=assets, preset="tiny", out=tmp_path / "run", **TEMPLATE)
    assert report.section["victim"]["architecture"] == "memory:<lambda>"
    assert report.section["queries"]["backward"] == 0 and "surrogate" in report.section
