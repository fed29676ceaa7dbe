"""Networks of one's own as they come: several outputs, channels last, a batch baked in, half precision, one channel."""

from __future__ import annotations

import re
import sys
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from latentprint.errors import UserError, useful_line
from latentprint.models.foreign import ForeignNetwork, Form, adapted
from latentprint.models.loading import load_network
from latentprint.models.outside import OnnxNetwork
from latentprint.models.penultimate import logits_and_penultimate
from latentprint.models.preprocess import Preprocess
from latentprint.types import Access
from latentprint.victim import load_victim

N, SIDE = 4, 8


class Net(nn.Module):
    """``form`` makes of its logits what it answers, ``before`` of its images what it looks at."""

    def __init__(self, form: Callable[[Tensor, Tensor], Any] = lambda z, h: z,
                 before: Callable[[Tensor], Tensor] = lambda x: x) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head, self.form, self.before = nn.Conv2d(3, 6, 3, 2), nn.Linear(6, N), form, before

    def forward(self, x: Tensor) -> Any:
        h = self.body(self.before(x)).relu().mean((2, 3))
        return self.form(self.head(h), h)


def images(n: int = 5) -> Tensor:
    return torch.rand(n, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def read(network: nn.Module, **form: Any) -> tuple[ForeignNetwork, list[str]]:
    return adapted(network, images(2), N, Form(**form), "logits", "victim")


Pair = namedtuple("Pair", "logits aux")


@pytest.mark.parametrize(("form", "output", "told"), [
    (lambda z, h: (z, h), None, r"a tuple of '0' \(2, 4\), '1' \(2, 6\): '0' is taken as the logits"),
    (lambda z, h: [h, z], None, "'1' is taken as the logits"),
    (lambda z, h: {"loss": z.sum(), "scores": z}, None, r"'scores' is taken as the logits \(output: scores\)"),
    (lambda z, h: SimpleNamespace(logits=z, hidden=h, aux=-z), None, "'logits' is taken as the logits"),
    (lambda z, h: Pair(z, -z), None, "a Pair of .*'logits' is taken"),
    (lambda z, h: {"head": {"a": -z, "b": z}}, "head.b", ""),
    (lambda z, h: (-z, z), 1, ""),
    (lambda z, h: (-z, z), -1, ""),
    (lambda z, h: {"x": -z, "y": z}, "y", ""),
    (lambda z, h: z[:, :, None, None], None, r"its answer \(2, 4, 1, 1\) is read as \(2, 4\)"),
    (lambda z, h: z.squeeze(), None, ""),
    (lambda z, h: z.half(), None, ""),
])
def test_the_output_that_is_meant(form: Callable[[Tensor, Tensor], Any], output: str | int | None, told: str) -> None:
    made, notes = read(Net(form), output=output)
    x = images().requires_grad_()
    expected = Net()(x)
    for n in (5, 1):
        assert torch.allclose(made(x[:n]), expected[:n], atol=1e-3) and made(x[:n]).dtype == torch.float32
    gradient, true = (torch.autograd.grad(out[:, 2].sum(), x)[0] for out in (made(x), Net()(x)))
    assert torch.allclose(gradient, true, atol=1e-3) and bool(true.abs().max() > 0)
    assert len(notes) == bool(told)
    if told:
        assert re.search(told, notes[0]), notes


@pytest.mark.parametrize(("form", "output", "message"), [
    (lambda z, h: (z, -z), None, r"a tuple of '0' \(2, 4\), '1' \(2, 4\), several .*: set victim\.output to the name"),
    (lambda z, h: {"features": h}, None, r"a dict of 'features' \(2, 6\), none of which is \(2, 4\)"),
    (lambda z, h: (z, h), 3, r"victim\.output: its answer has no '3'; there is '0' \(2, 4\), '1' \(2, 6\)"),
    (lambda z, h: {"a": z}, "b", r"victim\.output: its answer has no 'b'; there is 'a'"),
    (lambda z, h: z, "logits", r"victim\.output: its answer has no 'logits'; it is one tensor"),
    (lambda z, h: z.argmax(1), None, r"its answer is \(2,\) int64, whole numbers such as .*before any argmax"),
    (lambda z, h: "four", None, r"a str and holds no tensor"),
    (lambda z, h: z.to(torch.complex64), None, r"\(2, 4\) complex64; it must return logits, a real number"),
    (lambda z, h: sys.exit(5), None, r"cannot take two 8x8 images: it ends the program \(sys\.exit\)"),
    (lambda z, h: z.sum(1), None, r"victim must answer two images with logits \(2, 4\), got \(2,\)"),
])
def test_outputs_that_are_not_clear(form: Callable[[Tensor, Tensor], Any], output: str | int | None,
                                    message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(Net(form), output=output)


class Fixed(Net):
    """Answers ``batch`` images and no others."""

    def __init__(self, batch: int) -> None:
        super().__init__()
        self.batch = batch

    def forward(self, x: Tensor) -> Tensor:
        if len(x) != self.batch:
            raise RuntimeError(f"shape '[{self.batch}, 6]' is invalid")
        return super().forward(x)


@pytest.mark.parametrize(("batch", "told"), [(1, "for one image at a time"), (4, "for 4 images at a time"),
                                             (8, "for 8 images at a time")])
def test_a_batch_that_is_baked_in(batch: int, told: str) -> None:
    made, notes = read(Fixed(batch))
    assert len(notes) == 1 and told in notes[0] and f"(fixed_batch: {batch})" in notes[0]
    x = images(5).requires_grad_()
    assert torch.allclose(made(x), Net()(x), atol=1e-6)
    gradient, true = (torch.autograd.grad(out[:, 2].square().sum(), x)[0] for out in (made(x), Net()(x)))
    assert torch.allclose(gradient, true, atol=1e-6)
    both, alone = logits_and_penultimate(made, x), logits_and_penultimate(Net(), x)
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(both, alone, strict=True))
    with pytest.raises(UserError, match=r"victim cannot take two 8x8 images: shape '\[3, 6\]' is invalid"):
        read(Fixed(3))
    assert read(Fixed(3), batch=3)[1] == []


def test_channels_last_in_place_half_and_one_channel() -> None:
    x = images()
    last = Net(before=lambda x: x.permute(0, 3, 1, 2))
    for network, layout, told in ((last, None, "channels last"), (last, "nhwc", ""),
                                  (Net(before=lambda x: x.sub_(0.25)), None, "a copy")):
        made, notes = read(network, layout=layout)
        given, seen = x.clone(), x - 0.25 if told == "a copy" else x
        assert torch.allclose(made(given), Net()(seen), atol=1e-6) and torch.equal(given, x)
        assert len(notes) == bool(told) and all(told in note for note in notes)
    with pytest.raises(UserError, match=r"victim cannot take two 8x8 images: .*channels"):
        read(last, layout="nchw")

    class Grey(Net):
        def forward(self, x: Tensor) -> Tensor:
            assert x.shape[1] == 1, "expected 1 channel"
            return super().forward(x.expand(-1, 3, -1, -1))

    with pytest.raises(UserError, match=r"expected 1 channel; it takes images of one channel: set victim\.colours to"):
        read(Grey())
    one = Preprocess(mean=[0.25], std=[0.5], colours="grey")
    assert one(x).shape == (5, 1, SIDE, SIDE)
    assert torch.allclose(one(torch.ones(1, 3, 2, 2)), torch.full((1, 1, 2, 2), 1.5))
    assert torch.allclose(Preprocess(mean=[0.25], std=[0.5])(torch.ones(1, 3, 2, 2)), torch.full((1, 3, 2, 2), 1.5))


def test_half_precision_is_run_in_float32(tmp_path: Path) -> None:
    path = tmp_path / "m.py"
    path.write_text("from test_foreign import Net\ndef build(): return Net().half()\ndef inner(n): return Net("
                    "before=lambda x: x.half()).half()\n")
    loaded = load_network(f"{path}:build", N)
    assert loaded.notes[0] == "build takes no number of outputs and was called without one"
    assert loaded.notes[1] == "the network is float16; it is run in float32"
    assert loaded.network(images()).dtype == torch.float32
    program = tmp_path / "m.pt2"
    free = torch.export.Dim("n", min=1, max=64)
    half = torch.export.export(Net().half().eval(), (images(2).half(),), dynamic_shapes=({0: free},))
    torch.export.save(half, program)
    made, notes = read(load_network(str(program), N).network)
    assert notes == ["it takes float16 and is given it; its answers are read as float32"]
    x = images().requires_grad_()
    assert torch.allclose(made(x), Net()(x), atol=1e-2)
    made(x).sum().backward()
    assert x.grad is not None and bool(x.grad.abs().max() > 0)


@pytest.mark.filterwarnings("ignore")
def test_programs_with_a_fixed_batch(tmp_path: Path) -> None:
    x, given = images().requires_grad_(), images(1)
    torch.export.save(torch.export.export(Net().eval(), (given,)), tmp_path / "one.pt2")
    victim = load_victim(str(tmp_path / "one.pt2"), N, image_size=SIDE, preprocess=Preprocess(mean=[0.0], std=[1.0]))
    assert victim.notes == ("it was saved for one image at a time and is asked so (fixed_batch: 1)",)
    assert torch.allclose(victim(x), Net()(x), atol=1e-5)
    victim(x).sum().backward()
    assert x.grad is not None and victim.queries.forward == 10 and victim.queries.backward == 5

    torch.onnx.export(Net().eval(), (images(4),), str(tmp_path / "four.onnx"), dynamo=False)
    victim = load_victim(str(tmp_path / "four.onnx"), N, image_size=SIDE, access=Access.SCORES,
                         preprocess=Preprocess(mean=[0.0], std=[1.0]))
    assert "fixed_batch: 4" in victim.notes[0]
    assert torch.allclose(victim(images()), Net()(images()).log_softmax(1), atol=1e-5)
    with pytest.raises(UserError, match=r"two 16x16 images: Got invalid dimensions for input: .*its input is declared"):
        load_victim(str(tmp_path / "four.onnx"), N, image_size=16, access=Access.SCORES)


@pytest.mark.filterwarnings("ignore")
def test_onnx_files_of_bytes_with_channels_last_and_two_outputs(tmp_path: Path) -> None:
    class Bytes(Net):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            z = super().forward(x.permute(0, 3, 1, 2).float() / 255)
            return z.argmax(1), z

    x = (images() * 255).round()
    torch.onnx.export(Bytes().eval(), (x.byte().permute(0, 2, 3, 1),), str(tmp_path / "b.onnx"), dynamo=False,
                      input_names=["x"], output_names=["label", "scores"], dynamic_axes={"x": {0: "n"}})
    made, notes = adapted(OnnxNetwork(tmp_path / "b.onnx"), x[:2], N, Form(), "logits", "victim")
    assert torch.allclose(made(x), Net()(x / 255), atol=1e-5)
    assert "layout: nhwc" in notes[0] and "output: scores" in notes[1]
    with pytest.raises(UserError, match=r"takes whole numbers \(tensor\(uint8\)\) .*set scale: 255"):
        adapted(OnnxNetwork(tmp_path / "b.onnx"), images(2), N, Form(), "logits", "victim")


def test_a_network_that_fails_later_is_told_in_a_sentence() -> None:
    class Picky(Net):
        def forward(self, x: Tensor) -> Tensor:
            if len(x) > 2:
                raise KeyError("third")
            return super().forward(x)

    made, _ = read(Picky())
    with pytest.raises(UserError, match=r"victim fails on 5 images \(3, 8, 8\): KeyError: 'third'; if .*fixed_batch"):
        made(images())


FACTORIES = """
from test_foreign import Net
net = Net()
def first(n): assert n == 4; return Net()
def named(width=6, *, num_classes): assert num_classes == 4 and width == 6; return Net()
def none(): return Net()
def pretrained(pretrained=False): assert pretrained is False; return Net()
def optional(n=10): assert n == 4; return Net()
def several(n): return Net(), "a transform"
def two(width, n_classes): return Net()
"""


@pytest.mark.parametrize(("name", "told"), [
    ("net", "is a network, not a function"), ("first", ""), ("named", ""), ("none", "called without one"),
    ("pretrained", "called without one"), ("optional", ""), ("several", "one is a network"),
])
def test_factories_of_all_kinds(name: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text(FACTORIES)
    loaded = load_network(f"{tmp_path / 'm.py'}:{name}", N)
    assert torch.equal(loaded.network(images()), Net()(images()))
    assert len(loaded.notes) == bool(told) and all(told in note for note in loaded.notes)
    with pytest.raises(UserError, match=r"two\(n_classes=4\) failed: TypeError: .*missing 1 required .*'width'"):
        load_network(f"{tmp_path / 'm.py'}:two", N)


ODD = """
import sys
import torch
from torch import nn
from test_foreign import Net
torch.set_grad_enabled(False)
torch.set_default_dtype(torch.float64)
def doubles(n): torch.set_default_dtype(torch.float64); return nn.Linear(4, n)
def lazy(n): return nn.LazyLinear(n)
def meta(n): return nn.Linear(4, n, device="meta")
def ends(n): sys.exit("usage")
"""


def test_what_a_file_sets_for_itself_does_not_stay(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text(ODD)
    loaded = load_network(f"{tmp_path / 'm.py'}:doubles", N)
    assert torch.is_grad_enabled() and torch.get_default_dtype() == torch.float32
    assert loaded.notes == ("the network is float64; it is run in float32",)

    class Off(Net):
        def forward(self, x: Tensor) -> Tensor:
            torch.set_grad_enabled(False)
            return super().forward(x)

    made, _ = read(Off())
    made(images())
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(("name", "message"), [
    ("lazy", "the weights 'weight' belong to a lazy layer and have no size yet: give"),
    ("meta", "the weights 'weight' are on PyTorch's meta device and hold no values: make"),
    ("ends", r"ends\(4\) failed: it ends the program \(sys\.exit\); keep what"),
])
def test_networks_without_values_and_scripts_that_end(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text(ODD)
    with pytest.raises(UserError, match=message):
        load_network(f"{tmp_path / 'm.py'}:{name}", N)
    (tmp_path / "m.py").write_text("import sys\nsys.exit(0)\n")
    with pytest.raises(UserError, match=r"m\.py failed to run: it ends the program"):
        load_network(f"{tmp_path / 'm.py'}:{name}", N)


def test_files_that_are_not_programs(tmp_path: Path) -> None:
    torch.save(Net().head.state_dict(), tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"w\.pth holds weights, not a network: name it as 'weights', and its"):
        load_network(str(tmp_path / "w.pth"), N)
    torch.save(nn.Sequential(nn.Linear(2, 2)), tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"w\.pth holds a whole pickled network .* name its architecture as 'model'"):
        load_network(str(tmp_path / "w.pth"), N)
    torch.save({}, tmp_path / "w.ckpt")
    with pytest.raises(UserError, match=r"model: .*w\.ckpt holds weights, not a network"):
        load_network(str(tmp_path / "w.ckpt"), N)


TORCHSCRIPT = """The following operation failed in the TorchScript interpreter.
Traceback of TorchScript, serialized code (most recent call last):
  File "code/__torch__.py", line 9, in forward
    return (fc).forward(input, )
RuntimeError: shape '[1, 256]' is invalid for input of size 512
"""
ONNX = """[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Got invalid dimensions for input: x for the following indices
 index: 0 Got: 2 Expected: 1
 Please fix either the inputs/outputs or the model."""


@pytest.mark.parametrize(("text", "line"), [
    ("one\ntwo", "one"), ("", "ValueError"), ("expected:\n  four", "expected: four"),
    (TORCHSCRIPT, "shape '[1, 256]' is invalid for input of size 512"),
    (ONNX, "Got invalid dimensions for input: x for the following indices index: 0 Got: 2 Expected: 1"),
])
def test_the_line_of_an_error_that_says_what_is_wrong(text: str, line: str) -> None:
    assert useful_line(ValueError(text)) == line
