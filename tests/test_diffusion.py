"""The prior and its sampler: exact posteriors, neutrality of adapters, tokens that matter."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import small_swapper
from torch import Tensor

from latentprint.data.procedural import make_people
from latentprint.diffusion.lora import AdapterState, adapter_parameters, add_adapter
from latentprint.diffusion.prior import TRAIN_STEPS, clean_and_noise, progress_of, schedule, signal_and_noise
from latentprint.diffusion.probe import attention_entropy
from latentprint.diffusion.scene import Scene
from latentprint.diffusion.swap import Swapper


def scene_of(swapper: Swapper, n: int = 3) -> Scene:
    data = make_people(range(n), 1)
    return swapper.scenes(data).take(torch.arange(n))


def unit(n: int, seed: int = 0) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(n, 512, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_schedule_ends_in_pure_noise_and_is_variance_preserving() -> None:
    scheduler = schedule()
    steps = torch.arange(TRAIN_STEPS)
    a, s = signal_and_noise(scheduler, steps, torch.zeros(1))
    assert torch.allclose(a**2 + s**2, torch.ones_like(a))
    assert a[-1] == 0 and s[-1] == 1
    assert bool((a[1:] < a[:-1]).all())
    assert progress_of(torch.tensor([TRAIN_STEPS - 1, 0])).tolist() == [0.0, 1.0]


def test_v_gives_back_what_it_was_made_of() -> None:
    scheduler = schedule()
    clean, noise = torch.randn(2, 5, 4, 8, 8)
    t = torch.tensor([0, 250, 500, 750, 999])
    a, s = signal_and_noise(scheduler, t, clean)
    x0, eps = clean_and_noise(scheduler, a * clean + s * noise, a * noise - s * clean, t)
    assert torch.allclose(x0, clean, atol=1e-5) and torch.allclose(eps, noise, atol=1e-5)


class GaussianPrior(torch.nn.Module):
    """The exact v of data that are N(mu, sigma^2) in every latent entry: the posterior mean in closed form."""

    def __init__(self, mu: float, sigma: float) -> None:
        super().__init__()
        self.mu, self.sigma, self.schedule = mu, sigma, schedule()

    def tokens(self, embedding: Tensor, attributes: Tensor, dropped: Tensor | None = None) -> Tensor:
        return embedding

    def forward(self, noisy: Tensor, timestep: Tensor, masked: Tensor, keep: Tensor, tokens: Tensor) -> Tensor:
        a, s = signal_and_noise(self.schedule, timestep, noisy)
        var = (a * self.sigma) ** 2 + s**2
        x0 = self.mu + a * self.sigma**2 / var * (noisy - a * self.mu)
        eps = s / var * (noisy - a * self.mu)
        return a * eps - s * x0


def test_ddim_reproduces_a_gaussian() -> None:
    """With the exact denoiser many deterministic steps carry noise to N(mu, sigma^2)."""
    swapper = small_swapper()
    swapper.prior = GaussianPrior(0.7, 0.4)  # type: ignore[assignment]
    seen: list[Tensor] = []
    swapper.paste = lambda latent, scene: seen.append(latent) or latent  # type: ignore[method-assign, func-returns-value]
    n = 8
    blank = torch.zeros(n, 4, 16, 16)
    scene = Scene(torch.zeros(n, 3, 64, 64), torch.ones(n, 1, 64, 64), blank, blank, blank[:, :1], torch.zeros(n, 10),
                  torch.zeros(n, 10))
    swapper.ddim(unit(n), scene, torch.arange(n), steps=200)
    x = seen[-1].double()
    assert abs(x.mean() - 0.7) < 0.02
    assert abs(x.std() - 0.4) / 0.4 < 0.05


def test_a_sample_depends_on_its_own_seed_not_on_the_batch() -> None:
    swapper = small_swapper()
    scene, wanted, seeds = scene_of(swapper), unit(3), torch.tensor([5, 6, 7])
    together = swapper.ddim(wanted, scene, seeds, 2)
    one = torch.tensor([1])
    alone = swapper.ddim(wanted[one], scene.take(one), seeds[one], 2)
    assert torch.allclose(together[1], alone[0], atol=1e-5)
    other = swapper.ddim(wanted, scene, seeds + 1, 2)
    assert not torch.allclose(together, other, atol=1e-3)


def test_outside_the_hole_the_attribute_image_stays() -> None:
    swapper = small_swapper()
    scene = scene_of(swapper)
    out = swapper.ddim(unit(3), scene, torch.arange(3), 1)
    outside = (torch.nn.functional.max_pool2d(scene.hole, 3, 1, 1) == 0).expand_as(out)
    assert torch.equal(out[outside], scene.image[outside])
    assert not torch.allclose(out[~outside], scene.image[~outside], atol=0.05)


def test_gradient_steps_limit_the_backward_pass_not_the_picture() -> None:
    swapper = small_swapper()
    scene, seeds = scene_of(swapper, 2), torch.arange(2)
    grads, pictures = [], []
    for n in (None, 1):
        wanted = unit(2).requires_grad_(True)
        picture = swapper.ddim(wanted, scene, seeds, 3, gradient_steps=n)
        picture.square().mean().backward()
        assert wanted.grad is not None
        grads.append(wanted.grad)
        pictures.append(picture.detach())
    assert torch.equal(pictures[0], pictures[1])
    assert grads[1].abs().sum() > 0 and not torch.allclose(grads[0], grads[1])


def test_guidance_one_is_the_conditional_prediction() -> None:
    swapper = small_swapper()
    scene = scene_of(swapper, 2)
    x, t = torch.randn(2, 4, 16, 16), torch.tensor([999, 400])
    plain = swapper.predict(x, t, scene, unit(2))[0]
    assert torch.equal(plain, swapper.predict(x, t, scene, unit(2), 1.0)[0])
    nobody = torch.ones(2, dtype=torch.bool)
    tokens = swapper.prior.tokens(unit(2), scene.attributes, nobody)
    assert torch.equal(tokens, swapper.prior.tokens(unit(2, 9), scene.attributes, nobody))
    v = swapper.prior(x, t, scene.masked, scene.keep, tokens)
    without = clean_and_noise(swapper.schedule, x, v, t)[0]
    doubled = swapper.predict(x, t, scene, unit(2), 2.0)[0]
    assert torch.allclose(doubled - plain, plain - without, atol=1e-4)


def test_adapters_start_as_the_base_and_can_be_trained_alone() -> None:
    swapper = small_swapper()
    prior = swapper.prior
    x, t, tokens = torch.randn(2, 4, 16, 16), torch.tensor([10, 700]), torch.randn(2, 6, 128)
    masked, keep = torch.randn(2, 4, 16, 16), torch.rand(2, 1, 16, 16)
    base = prior(x, t, masked, keep, tokens)
    add_adapter(prior, "reference", "reference", 4)
    add_adapter(prior, "all", "all", 4)
    assert torch.equal(base, prior(x, t, masked, keep, tokens))
    trained = adapter_parameters(prior)
    names = {name for name, p in prior.named_parameters() if p.requires_grad}
    assert names and all("lora_" in name for name in names)
    assert any(".attn2." in name for name in names) and any("conv1" in name for name in names)
    for p in trained:
        torch.nn.init.normal_(p, std=0.05)
    prior(x, t, masked, keep, tokens).square().mean().backward()
    for name, p in prior.named_parameters():
        if "lora_" in name:
            assert p.grad is not None and p.grad.isfinite().all() and p.grad.abs().sum() > 0, name
        else:
            assert p.grad is None, name
    state = {key: value.clone() for key, value in AdapterState(prior).state_dict().items()}
    moved = prior(x, t, masked, keep, tokens)
    for p in trained:
        torch.nn.init.zeros_(p)
    AdapterState(prior).load_state_dict(state)
    assert torch.equal(moved, prior(x, t, masked, keep, tokens))


def test_attention_entropy_of_equal_tokens_is_one() -> None:
    """Keys that are all alike give uniform attention; keys far apart do not."""
    swapper = small_swapper()
    scene = scene_of(swapper, 2)
    usual = attention_entropy(swapper, unit(2), scene)
    assert 0 < usual <= 1 + 1e-6
    swapper.prior.tokens = lambda *_: torch.ones(2, 6, 128)  # type: ignore[method-assign]
    assert attention_entropy(swapper, unit(2), scene) == pytest.approx(1.0, abs=1e-5)
    swapper.prior.tokens = lambda *_: 200 * torch.randn(  # type: ignore[method-assign]
        2, 6, 128, generator=torch.Generator().manual_seed(0))
    assert attention_entropy(swapper, unit(2), scene) < 0.7 < math.inf
