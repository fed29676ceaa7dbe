"""Plug-ins by name: registered here, or by an installed package, and wherever a setting names a callable."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from small import small_networks

import latentprint as lp
from latentprint import registry
from latentprint.models.loading import load_network
from latentprint.registry import find, find_callable, made_by, register

PACKAGE = Path(__file__).parent.parent / "examples" / "plugin_package"


@pytest.fixture(autouse=True)
def nothing_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registered", {})
    monkeypatch.setattr(registry, "_imported", set())


def install(folder: Path, entry_points: str) -> None:
    """What an installer leaves beside a package."""
    info = folder / "latentprint_blur-0.1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: latentprint-blur\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text(f"[{registry.GROUP}]\n{entry_points}\n")


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The example package, as its own pyproject.toml says."""
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]
    entries = project["entry-points"][registry.GROUP]
    install(tmp_path / "site", "\n".join(f"{name} = {value}" for name, value in entries.items()))
    monkeypatch.delitem(sys.modules, "latentprint_blur", raising=False)
    for folder in (tmp_path / "site", PACKAGE / "src"):
        monkeypatch.syspath_prepend(str(folder))
    yield
    sys.modules.pop("latentprint_blur", None)


def test_one_decorator_makes_a_name_known() -> None:
    @register("mine")
    def mine(n_classes: int) -> torch.nn.Module:
        return torch.nn.Linear(1, n_classes)

    assert find("mine") is mine and find_callable("plugin:mine") is mine
    assert made_by("plugin:mine", torch.nn.Module, 3).out_features == 3
    with pytest.raises(lp.UserError, match="plugin:mine made Linear, expected Surrogate"):
        made_by("plugin:mine", lp.Surrogate, 3)  # type: ignore[type-abstract]
    with pytest.raises(lp.UserError, match="no plug-in 'mien'; did you mean 'mine'"):
        find("mien")
    with pytest.raises(ValueError, match=r"the plug-in name 'mine' is taken by test_registry\.test_one"):
        register("mine")(find)
    register("mine")(mine)  # a cell of a notebook that is run again


def test_a_package_is_imported_when_a_name_is_looked_up(installed: None) -> None:
    assert find("nearest").__module__ == "latentprint_blur"
    network = load_network("plugin:pooled", 16).network
    assert network(torch.rand(2, 3, 32, 32)).shape == (2, 16)


def test_a_package_that_breaks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_plugin.py").write_text("raise ImportError('libblur.so is missing')")
    install(tmp_path, "broken = broken_plugin")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(lp.UserError, match=r"'broken' \(broken_plugin\) cannot be imported: libblur.so is missing"):
        find("blur")


def test_a_name_that_nobody_registered_is_refused_with_the_settings(tmp_path: Path) -> None:
    for channel, key in (("feature", "attacks"), ("label", "baselines")):
        with pytest.raises(lp.UserError, match=f"audit {channel}: no plug-in 'nearst'"):
            lp.audit(channel, preset="tiny", out=tmp_path / "run", **{key: ["plugin:nearst"]})  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()


def test_attack_defence_surrogate_and_source_of_a_package_in_one_audit(installed: None, tmp_path: Path) -> None:
    """On two classes of stripes the nearest known image has the waves of the one that was sent."""
    def source(seed: int) -> dict[str, object]:
        return {"kind": "custom", "made_by": "plugin:stripes", "options": {"classes": 2, "seed": seed}, "size": 32}

    with small_networks():
        report = lp.audit("feature", preset="tiny", out=tmp_path / "run", data={"train": source(0), "test": source(1)},
                          split={"model": "builtin:resnet20"}, attacks=["plugin:nearest"], people=False, threads=1,
                          training={"epochs": 1, "batch": 8}, device="cpu", defences=[
                              {"kind": "noise", "std": 0.01},
                              {"kind": "custom", "made_by": "plugin:blur", "options": {"side": 3}},
                              {"kind": "cem", "warm_up": 0, "surrogate": {"kind": "custom",
                                                                          "made_by": "plugin:spread"}}])
    section = report.section
    assert section["best_attack"] == "plugin:nearest" and section["queries"]["plugin:nearest"]["n_backward"] == 0
    assert [each["kind"] for each in section["defences"]] == ["noise", "custom", "cem"]
    assert section["victim"]["n_classes"] == 2 and report.leak.value is not None and report.leak.value > 0
