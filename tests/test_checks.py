"""Flags: each is raised by its fault alone, and errors stop while warnings pass."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from torch import Tensor, nn

from latentprint import checks
from latentprint.checks import Flag, enforce, weights_hash
from latentprint.errors import UserError


def small_net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


class Preprocessed(nn.Module):
    """A wrapper as an auditor would write it: other names, one more buffer."""

    mean: Tensor

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.register_buffer("mean", torch.full((3, 1, 1), 0.5))


def test_weights_hash_follows_every_bit_and_every_name() -> None:
    net = small_net()
    assert weights_hash(net) == weights_hash(copy.deepcopy(net))
    assert re.fullmatch("[0-9a-f]{64}", weights_hash(net))
    renamed = nn.Sequential(net)
    changed = {weights_hash(m) for m in (net, renamed, small_net(1), Preprocessed(net))}
    nudged, counted, halved = copy.deepcopy(net), copy.deepcopy(net), copy.deepcopy(net).bfloat16()
    with torch.no_grad():
        next(nudged.parameters()).view(-1)[0].nextafter_(torch.tensor(9.0))
    counted.get_buffer("1.num_batches_tracked").add_(1)
    assert len(changed | {weights_hash(m) for m in (nudged, counted, halved)}) == 7


def test_weights_hash_does_not_depend_on_the_order_of_definition() -> None:
    first, second = nn.Module(), nn.Module()
    layers = {"a": nn.Linear(2, 2), "b": nn.Linear(3, 1)}
    for module, names in ((first, "ab"), (second, "ba")):
        for name in names:
            module.add_module(name, layers[name])
    assert weights_hash(first) == weights_hash(second)


def test_hash_skips_extra_state_that_is_no_tensor() -> None:
    class Tagged(nn.Linear):
        def get_extra_state(self) -> str:
            return "tag"

    plain, tagged = nn.Linear(2, 2), Tagged(2, 2)
    tagged.load_state_dict(plain.state_dict(), strict=False)
    assert weights_hash(tagged) == weights_hash(plain)


def copies(net: nn.Module) -> list[nn.Module]:
    return [net, copy.deepcopy(net), Preprocessed(net), Preprocessed(copy.deepcopy(net))]


def test_the_victim_may_not_evaluate_itself_in_any_wrapping() -> None:
    victim = small_net()
    for evaluator in copies(victim):
        flag = checks.evaluator_is_victim("vgg", evaluator, victim)
        assert flag and flag.level == "error" and '"vgg"' in flag.message
    assert checks.evaluator_is_victim("vgg", small_net(1), victim) is None


def test_the_teacher_may_not_judge_in_any_wrapping() -> None:
    teacher = small_net()
    for judge in copies(teacher):
        flag = checks.judge_is_teacher(judge, teacher)
        assert flag and flag.level == "error" and "judge" in flag.message
    assert checks.judge_is_teacher(small_net(1), teacher) is None


def test_models_without_weights_are_the_same_only_as_objects() -> None:
    flatten = nn.Flatten()
    assert checks.evaluator_is_victim("f", flatten, flatten)
    assert checks.evaluator_is_victim("f", nn.Flatten(), flatten) is None


def test_same_architecture() -> None:
    flag = checks.same_architecture("second", "resnet", "resnet")
    assert flag and flag.level == "error" and '"second"' in flag.message and "resnet" in flag.message
    assert checks.same_architecture("second", "vgg", "resnet") is None


def test_the_same_layers_under_another_name_are_the_same_architecture() -> None:
    victim, other = small_net(), nn.Sequential(nn.Conv2d(3, 4, 5), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    for evaluator in (small_net(1), Preprocessed(small_net(1))):
        flag = checks.same_architecture("second", "a.py:Net", "builtin:small", evaluator, victim)
        assert flag and flag.level == "error" and "has the same layers as the victim (builtin:small)" in flag.message
    assert checks.same_architecture("second", "a.py:Net", "builtin:small", other, victim) is None
    assert checks.same_architecture("second", "a.py:Net", "builtin:small", nn.Flatten(), nn.Flatten()) is None
    assert checks.layers(victim) == [("Conv2d", [(4, 3, 3, 3), (4,)]), ("BatchNorm2d", [(4,), (4,)]),
                                     ("Linear", [(2, 4), (2,)])]


def test_outputs_and_classes_must_agree() -> None:
    checks.victim_outputs(50, 50)
    with pytest.raises(UserError, match="10 outputs but there are 50 classes"):
        checks.victim_outputs(10, 50)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_weights_are_named(bad: float) -> None:
    net = small_net()
    checks.nan_weights(net, "victim.pt")
    with torch.no_grad():
        net.get_buffer("1.running_var")[2] = bad
        net.get_parameter("3.bias")[0] = bad
    with pytest.raises(UserError, match=r'victim\.pt.*"1\.running_var"'):
        checks.nan_weights(net, "victim.pt")


def test_weak_evaluator() -> None:
    flag = checks.evaluator_weak("vit", 0.834)
    assert flag and flag.level == "warning"
    assert '"vit"' in flag.message and "83.4%" in flag.message and "mean little" in flag.message
    assert checks.evaluator_weak("vit", 0.9) is None
    assert checks.evaluator_weak("vit", float("nan")) is not None


def test_low_ceiling() -> None:
    flag = checks.ceiling_low(0.31)
    assert flag and flag.level == "warning" and "31.0%" in flag.message
    assert checks.ceiling_low(0.8) is None


def test_zero_gradient_counts_samples() -> None:
    gradients = torch.randn(10, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    assert checks.zero_gradient(gradients) is None
    gradients[:, 0] = 0  # zeros in places are no fault
    assert checks.zero_gradient(gradients) is None
    gradients[:3] = 0
    flag = checks.zero_gradient(gradients)
    assert flag and flag.level == "blind" and "30%" in flag.message
    assert checks.enforce([flag]) == [] and checks.probes([flag, None])[0]["name"] == "no-gradient"


def test_zero_gradient_of_a_saturated_victim() -> None:
    images = torch.rand(4, 3, 2, 2, requires_grad=True)
    (images.flatten(1).sum(1) * 0 + 1).clamp(max=0.5).sum().backward()
    assert images.grad is not None
    flag = checks.zero_gradient(images.grad)
    assert flag and "100%" in flag.message


def test_constant_reconstructions() -> None:
    generator = torch.Generator().manual_seed(0)
    face = torch.rand(1, 3, 8, 8, generator=generator)
    flag = checks.constant_reconstructions(face.repeat(6, 1, 1, 1))
    assert flag and flag.level == "warning"
    assert checks.constant_reconstructions(torch.rand(6, 3, 8, 8, generator=generator)) is None
    assert checks.constant_reconstructions(face) is None


@pytest.mark.parametrize(("images", "words"), [
    (torch.tensor([0.0, 255.0]), "to 255 (bytes"),
    (torch.tensor([-1.0, 1.0]), "-1 to 1 (a range"),
    (torch.tensor([0.5, torch.nan]), "NaN"),
])
def test_image_range(images: Tensor, words: str) -> None:
    checks.image_range(torch.tensor([0.0, 1.0]), "victim input")
    with pytest.raises(UserError, match=f"victim input: .*{re.escape(words)}"):
        checks.image_range(images, "victim input")


def test_enforce_passes_warnings_and_stops_at_errors() -> None:
    weak, low = Flag("a", "warning", "first"), Flag("b", "warning", "second")
    assert enforce([weak, None, low]) == ["first", "second"]
    assert enforce([None]) == []
    with pytest.raises(UserError, match=r"^third; fourth$"):
        enforce([weak, Flag("c", "error", "third"), Flag("d", "error", "fourth")])
