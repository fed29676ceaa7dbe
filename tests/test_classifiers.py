"""The three small architectures."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from latentprint.errors import UserError
from latentprint.models.classifiers import ARCHITECTURES, build

NAMES = sorted(ARCHITECTURES)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(48, 48), (64, 64), (33, 49), (16, 16)])
def test_logits_are_the_head_on_the_features_at_any_size(name: str, shape: tuple[int, int]) -> None:
    model = build(name, 7).eval()
    x = torch.rand(2, 3, *shape) * 2 - 1
    assert torch.equal(model(x), model.head(model.features(x)))
    assert model(x).shape == (2, 7)
    assert model.features(x).shape == (2, model.head.in_features)


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_gets_a_finite_gradient_other_than_zero(name: str) -> None:
    model = build(name, 5)
    F.cross_entropy(model(torch.randn(8, 3, 32, 32)), torch.arange(8) % 5).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.abs().max() > 0, key


@pytest.mark.parametrize("name", NAMES)
def test_training_starts_at_log_c_with_features_that_differ(name: str) -> None:
    model, x = build(name, 50), torch.rand(16, 3, 48, 48) * 2 - 1
    loss = F.cross_entropy(model(x), torch.arange(16))
    assert loss.item() == pytest.approx(3.912, abs=0.1)
    assert 0.01 < model.features(x).std(0).mean().item() < 2


@pytest.mark.parametrize("name", NAMES)
def test_it_learns_to_tell_patterns_apart(name: str) -> None:
    model = build(name, 4)
    y = torch.arange(4).repeat(4)
    patterns = torch.randn(4, 3, 32, 32)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(8):
        optimiser.zero_grad()
        F.cross_entropy(model(patterns[y] + 0.3 * torch.randn(16, 3, 32, 32)), y).backward()
        optimiser.step()
    with torch.no_grad():
        fresh = model(patterns[y] + 0.3 * torch.randn(16, 3, 32, 32))
    assert (fresh.argmax(1) == y).all()


@pytest.mark.parametrize("name", NAMES)
def test_an_answer_does_not_depend_on_the_rest_of_the_batch(name: str) -> None:
    model, x = build(name, 5).eval(), torch.randn(4, 3, 32, 32)
    assert torch.allclose(model(x)[:1], model(x[:1]), atol=1e-5)


def test_the_three_differ_in_kind() -> None:
    def kinds(name: str) -> set[type]:
        return {type(module) for module in build(name, 3).modules()}

    assert nn.PReLU in kinds("resnet") and nn.PReLU not in kinds("vgg") | kinds("mixer")
    assert nn.MaxPool2d in kinds("vgg") and nn.MaxPool2d not in kinds("resnet") | kinds("mixer")
    assert nn.GELU in kinds("mixer") and nn.GELU not in kinds("vgg") | kinds("resnet")


def test_channels_are_multiples_of_32_for_the_fast_kernels() -> None:
    for name in NAMES:
        wide = [m.out_channels for m in build(name, 3).modules() if isinstance(m, nn.Conv2d)]
        assert all(c % 32 == 0 for c in wide), name


def test_the_same_seed_gives_the_same_weights() -> None:
    torch.manual_seed(3)
    first = build("vgg", 3).state_dict()
    torch.manual_seed(3)
    second = build("vgg", 3).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_unknown_names_and_single_classes_are_refused() -> None:
    with pytest.raises(UserError, match="unknown architecture 'alexnet': expected one of vgg, resnet, mixer"):
        build("alexnet", 5)
    with pytest.raises(UserError, match="at least 2 classes"):
        build("vgg", 1)
