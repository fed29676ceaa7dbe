"""Weights files as people have them: under any key, with any prefix, beside other things; none of them runs code."""

from __future__ import annotations

import argparse
import re
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import Tensor, nn

from latentprint.errors import UserError
from latentprint.models.checkpoints import fit, load_states, load_weights

State = dict[str, Tensor]


def network(seed: int = 0, classes: int = 3) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(4, classes))


def under(prefix: str, state: State) -> State:
    return {prefix + name: value for name, value in state.items()}


FORMS: dict[str, tuple[Callable[[State], Any], str]] = {
    "plain": (lambda s: s, ""),
    "state_dict": (lambda s: {"state_dict": s, "epoch": 3}, ""),
    "data parallel": (lambda s: under("module.", s), r"the names in the file lost 'module\.'"),
    "compiled data parallel": (lambda s: under("_orig_mod.module.", s),
                               r"the names in the file lost '_orig_mod\. and module\.'"),
    "opacus": (lambda s: under("_module.", s), r"lost '_module\.'"),
    "lightning": (lambda s: {"state_dict": under("model.", s), "hyper_parameters": argparse.Namespace(lr=1)},
                  r"lost 'model\.'$"),
    "lightning with a loss": (lambda s: {"state_dict": {**under("net.", s), "loss.weight": torch.ones(3)}},
                              r"lost 'net\.'; 1 others, such as 'loss\.weight', were left out"),
    "lightning, parallel": (lambda s: {"state_dict": under("module.model.", s)}, r"lost 'module\.model\.'$"),
    "compiled inside": (lambda s: {f"{n[0]}._orig_mod{n[1:]}": v for n, v in s.items()}, r"lost '_orig_mod\.'"),
    "model_state_dict": (lambda s: {"optimizer_state_dict": {"state": {"0": torch.ones(1)}}, "model_state_dict": s},
                         "the weights under 'model_state_dict' were taken$"),
    "nested": (lambda s: {"model": {"weights": s}}, r"the weights under 'model\.weights' were taken"),
    "unusual key": (lambda s: {"best": s, "acc": torch.tensor(0.5)}, "the weights under 'best' were taken"),
    "averaged beside plain": (lambda s: {"model_ema": {n: 0 * v for n, v in s.items()}, "net": s},
                              "under 'net' were taken rather than 'model_ema', which fits too"),
    "averaged in one": (lambda s: {"state_dict": {**under("ema_model.", {n: 0 * v for n, v in s.items()}),
                                                  **under("model.", s)}}, r"lost 'model\.'; 9 others"),
    "averaged by torch": (lambda s: {**under("module.", s), "n_averaged": torch.tensor(3)}, r"lost 'module\.'"),
    "half": (lambda s: {n: v.half() if v.is_floating_point() else v for n, v in s.items()},
             "float16 weights are run in float32"),
    "numpy scalar": (lambda s: {"state_dict": s, "acc": np.float64(0.9), "seen": np.arange(3)}, ""),
    "paths": (lambda s: {"state_dict": s, "root": Path("somewhere")}, ""),
    "a counter more": (lambda s: {**s, "4.num_batches_tracked": torch.tensor(1), "0.total_ops": torch.ones(1)}, ""),
    "a counter less": (lambda s: {n: v for n, v in s.items() if "tracked" not in n}, ""),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_checkpoint_is_read_and_what_was_assumed_is_told(form: str, tmp_path: Path) -> None:
    saved, told = FORMS[form]
    source, target = network(), network(1)
    torch.save(saved(dict(source.state_dict())), tmp_path / "w.pt")
    lines = load_weights(target, tmp_path / "w.pt", "it does not fit")
    x = torch.rand(2, 3, 6, 6)
    assert torch.allclose(target.eval()(x), source.eval()(x), atol=1e-2 if form == "half" else 1e-6)
    assert bool(lines) == bool(told)
    if told:
        assert len(lines) == 1 and re.search(told, lines[0]), lines


def test_a_wrapped_network_is_filled_from_the_weights_of_what_it_wraps(tmp_path: Path) -> None:
    source, target = network(), nn.Sequential()
    target.add_module("net", network(1))
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    lines = load_weights(target, tmp_path / "w.safetensors", "it does not fit")
    assert torch.equal(target.state_dict()["net.4.weight"], source.state_dict()["4.weight"])
    assert lines == ["w.safetensors: the names in the file were put under 'net.'"]


class Tied(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        self.body = network(seed)
        self.head: nn.Module = self.body[4]


def test_tied_weights_that_safetensors_saved_once(tmp_path: Path) -> None:
    source, target = Tied(0), Tied(1)
    save_model(source, str(tmp_path / "w.safetensors"))
    assert load_weights(target, tmp_path / "w.safetensors", "it does not fit") == []
    assert torch.equal(target.state_dict()["head.weight"], source.state_dict()["body.4.weight"])
    assert target.head is target.body[4]


def test_weights_that_do_not_fit_are_told_with_counts_and_shapes(tmp_path: Path) -> None:
    state = network(classes=7).state_dict()
    torch.save({"module.x" + name: value for name, value in state.items()}, tmp_path / "w.pt")
    with pytest.raises(UserError, match=r"^no: missing keys '0\.weight', '0\.bias', '1\.weight' and 5 more; extra keys "
                                        r"'module\.x0\.weight', .* and 5 more$"):
        load_weights(network(), tmp_path / "w.pt", "no")
    torch.save(under("module.", state), tmp_path / "w.pt")
    with pytest.raises(UserError, match=r"^no: '4\.weight' is \(7, 4\) and must be \(3, 4\)$"):
        load_weights(network(), tmp_path / "w.pt", "no")
    torch.save({name: value.to(torch.int8) for name, value in network().state_dict().items()}, tmp_path / "w.pt")
    with pytest.raises(UserError, match=r"^no: '0\.weight' holds int8, the network float32$"):
        load_weights(network(), tmp_path / "w.pt", "no")
    torch.save({"student": network().state_dict(), "other": network(1).state_dict()}, tmp_path / "w.pt")
    with pytest.raises(UserError, match="holds several state dicts that fit, 'student', 'other': save the one"):
        load_weights(network(), tmp_path / "w.pt", "no")
    torch.save({"epoch": 3, "lr": 0.1}, tmp_path / "w.pt")
    with pytest.raises(UserError, match="expected tensors by name, found the keys 'epoch', 'lr'"):
        load_states(tmp_path / "w.pt")


@pytest.mark.parametrize(("content", "message"), [
    (b"", r"\.pt is empty: copy"), (b"version https://git-lfs.github.com/spec/v1\noid", "is a Git LFS pointer"),
    (b"\n<!DOCTYPE html><p>404", "is a web page"),
])
def test_what_stands_where_weights_were_meant(content: bytes, message: str, tmp_path: Path) -> None:
    for name in ("w.pt", "w.safetensors"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=message.replace(".pt", Path(name).suffix)):
            load_states(tmp_path / name)
    with pytest.raises(UserError, match="is a folder: name the weights file in it"):
        load_states(tmp_path)


def test_what_only_a_full_pickle_reads_is_refused_by_name(tmp_path: Path) -> None:
    torch.save({"model": network()}, tmp_path / "w.pt")
    with pytest.raises(UserError, match=r"holds a whole pickled network .* needs a full pickle, .*state_dict\(\)"):
        load_states(tmp_path / "w.pt")
    torch.save({"state_dict": network().state_dict(), "args": pytest.MonkeyPatch()}, tmp_path / "w.pt")
    with pytest.raises(UserError, match=r"holds '_pytest\.monkeypatch\.MonkeyPatch' and needs a full pickle"):
        load_states(tmp_path / "w.pt")
    with pytest.warns(FutureWarning):
        torch.jit.save(torch.jit.trace(network().eval(), torch.rand(1, 3, 6, 6)), tmp_path / "w.pt")
    with pytest.raises(UserError, match="is a TorchScript program, not weights: give it as 'model'"):
        load_states(tmp_path / "w.pt")


def test_settings_that_lightning_saves_beside_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class AttributeDict(dict[str, Any]):
        pass

    name = "lightning_fabric.utilities.data"
    AttributeDict.__module__, AttributeDict.__qualname__ = name, "AttributeDict"
    with monkeypatch.context() as patch:
        for i in range(3):
            patch.setitem(sys.modules, name.rsplit(".", i)[0], types.ModuleType(name.rsplit(".", i)[0]))
        sys.modules[name].AttributeDict = AttributeDict  # type: ignore[attr-defined]
        saved = {"state_dict": network().state_dict(), "hyper_parameters": AttributeDict(lr=0.1)}
        torch.save(saved, tmp_path / "w.ckpt")
    assert list(load_states(tmp_path / "w.ckpt")) == ["state_dict"]


def test_names_of_an_inner_part_do_not_fit_by_half() -> None:
    """A prefix counts only where it makes every name of the network fit."""
    state = under("model.", dict(network().state_dict()))
    del state["model.0.bias"]
    assert fit(network(), state).faults == ("missing key '0.bias'",)
