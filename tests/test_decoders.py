"""Networks from features to images, the critic, and losses on pixels."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from latentprint.errors import UserError
from latentprint.losses.pixel import PIXEL_LOSSES, dissimilarity, squared_error, total_variation
from latentprint.metrics.image import ssim
from latentprint.models.decoders import Critic, Decoder, Standardise, doublings

# ---- decoders ----


@pytest.mark.parametrize(("blocks", "parameters"), [(8, 711_539), (4, 415_091)])
def test_the_published_decoder_has_the_published_size(blocks: int, parameters: int) -> None:
    decoder = Decoder((8, 8, 8), (32, 32), blocks=blocks)
    assert sum(p.numel() for p in decoder.parameters()) == parameters


def test_the_published_critic_has_the_published_size() -> None:
    assert sum(p.numel() for p in Critic((32, 32)).parameters()) == 1_034_113


@pytest.mark.parametrize(("shape", "size", "doubled"), [
    ((8, 8, 8), (32, 32), 2), ((8, 12, 12), (48, 48), 2), ((8, 16, 16), (64, 64), 2), ((4, 32, 32), (32, 32), 0),
    ((4, 16, 16), (32, 32), 1), ((16, 4, 4), (32, 32), 3), ((5, 7, 7), (28, 28), 2), ((4, 4, 8), (16, 32), 2),
    ((10,), (32, 32), 3), ((10,), (48, 48), 3), ((10,), (17, 17), 0), ((10,), (8, 16), 1),
])
def test_decoders_fit_maps_and_flat_features(shape: tuple[int, ...], size: tuple[int, int], doubled: int) -> None:
    decoder = Decoder(shape, size, blocks=1, width=4)
    images = decoder(torch.randn(2, *shape)).detach()
    assert images.shape == (2, 3, *size) and float(images.min()) > 0 and float(images.max()) < 1
    assert sum(isinstance(m, nn.ConvTranspose2d) for m in decoder.modules()) == doubled


@pytest.mark.parametrize(("shape", "size", "said"), [
    ((8, 8, 8), (24, 24), "features of 8x8 to images of 24x24"), ((8, 8, 8), (4, 4), "features of 8x8"),
    ((8, 8, 8), (32, 16), "same power of two for both sides"), ((8, 5, 5), (32, 32), "architecture 'linear'"),
    ((197, 768), (32, 32), r"got features of shape \(197, 768\)"),
])
def test_features_that_no_decoder_fits_are_refused(shape: tuple[int, ...], size: tuple[int, int], said: str) -> None:
    with pytest.raises(UserError, match=said):
        Decoder(shape, size)
    assert Decoder(shape, (4, 4), "linear")(torch.randn(2, *shape)).shape == (2, 3, 4, 4)


@given(st.integers(1, 12), st.integers(0, 5))
@settings(max_examples=30, deadline=None)
def test_doublings_count(side: int, times: int) -> None:
    assert doublings((side, 2 * side), (side << times, 2 * side << times)) == times


def behind_a_norm(decoder: Decoder) -> set[str]:
    """Biases that the norm after them takes out again: they are published, and dead."""
    dead = set()
    for name, module in decoder.named_modules():
        if isinstance(module, nn.Sequential):
            dead |= {f"{name}.{i}.bias" for i, (one, after) in enumerate(pairwise(module))
                     if isinstance(one, nn.Conv2d | nn.ConvTranspose2d) and isinstance(after, nn.BatchNorm2d)}
    return dead


@pytest.mark.parametrize("shape", [(4, 4, 4), (6,)])
@pytest.mark.parametrize("architecture", ["published", "linear"])
def test_every_parameter_of_a_decoder_gets_a_gradient(shape: tuple[int, ...], architecture: Any) -> None:
    decoder = Decoder(shape, (16, 16), architecture, blocks=1, width=8)
    squared_error(decoder(torch.randn(8, *shape)), torch.rand(8, 3, 16, 16)).mean().backward()
    for name, p in decoder.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all(), name
        assert float(p.grad.abs().max()) > 0 or name in behind_a_norm(decoder), name


@pytest.mark.parametrize("shape", [(3, 4, 4), (5,), (2, 6)])
def test_standardised_features_have_mean_0_and_deviation_1(shape: tuple[int, ...]) -> None:
    scales = 10 ** torch.linspace(-2, 2, shape[0]).view(-1, *[1] * (len(shape) - 1))
    features = 3 + torch.randn(64, *shape) * scales
    layer = Standardise(shape)
    layer.measure(features)
    rows = layer(features).transpose(0, 1).flatten(1) if len(shape) == 3 else layer(features).flatten(1).T
    assert torch.allclose(rows.mean(1), torch.zeros(len(rows)), atol=1e-3)
    assert torch.allclose(rows.std(1, correction=0), torch.ones(len(rows)), atol=1e-3)
    shrunk = Standardise(shape)
    shrunk.measure(1e-6 * features)
    assert torch.allclose(shrunk(1e-6 * features), layer(features), atol=1e-2)
    layer.measure(torch.full((8, *shape), 0.3))
    assert float(layer.std.min()) == 1 and layer(torch.full((8, *shape), 0.3)).abs().max() < 1e-6


@pytest.mark.parametrize("size", [(9, 9), (16, 24), (32, 32), (48, 48)])
def test_the_critic_takes_any_size_and_each_image_on_its_own(size: tuple[int, int]) -> None:
    critic, x = Critic(size, width=8), torch.rand(3, 3, *size)
    scores = critic(x)
    assert scores.shape == (3,) and torch.allclose(scores[1:2], critic(x[1:2]), atol=1e-5)


def test_the_critic_refuses_images_that_are_too_small() -> None:
    with pytest.raises(UserError, match="at least 9 pixels a side, got 8x32"):
        Critic((8, 32))


# ---- pixel losses ----


def test_pixel_losses_against_plain_sums() -> None:
    x, y = torch.rand(2, 2, 3, 16, 16)
    for i in range(2):
        assert float(PIXEL_LOSSES["mse"](x, y)[i]) == pytest.approx(float(((x[i] - y[i]) ** 2).mean()))
        assert float(PIXEL_LOSSES["l1"](x, y)[i]) == pytest.approx(float((x[i] - y[i]).abs().mean()))
        rough = sum(abs(float(x[i, c, h, w] - x[i, c, h - 1, w])) for c in range(3) for h in range(1, 16)
                    for w in range(16)) / (3 * 15 * 16)
        rough += sum(abs(float(x[i, c, h, w] - x[i, c, h, w - 1])) for c in range(3) for h in range(16)
                     for w in range(1, 16)) / (3 * 16 * 15)
        assert float(total_variation(x)[i]) == pytest.approx(rough, rel=1e-5)


def test_dissimilarity_is_0_for_equal_images_and_near_the_metric_elsewhere() -> None:
    x = torch.rand(2, 3, 32, 32)
    y = (x + 0.2 * torch.randn(2, 3, 32, 32)).clamp(0, 1).requires_grad_(True)
    assert torch.allclose(dissimilarity(x, x), torch.zeros(2), atol=1e-6)
    assert torch.allclose(1 - dissimilarity(y, x), ssim(y.detach(), x), atol=0.03)  # the metric leaves the border out
    dissimilarity(y, x).sum().backward()
    assert y.grad is not None and y.grad.isfinite().all() and float(y.grad.abs().max()) > 0
