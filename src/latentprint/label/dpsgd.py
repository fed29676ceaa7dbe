"""Differentially private training of a victim (DP-SGD) by Opacus.

Each step takes every photo with probability q (Poisson sampling), clips each photo's gradient to the norm C, adds
Gaussian noise of standard deviation ``noise_multiplier * C`` to their sum and lets the optimiser have the result
(Abadi et al. 2016, arXiv:1607.00133, algorithm 1). With ``accumulate`` above 1 that sample is cut into micro-batches:
each photo's gradient is clipped before it is added, and noise is added once to the sum. What the training promises is
counted in ``privacy``. Noise comes from the
run's seed, so that a run can be resumed and repeated: the promise holds against those who have the trained weights, not
against those who have the run directory, which names the seed and holds the losses.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from latentprint.data.base import ImageSet
from latentprint.defense import Defense
from latentprint.engine.loop import Loop, accelerator, warm_cosine
from latentprint.engine.run import RunDir
from latentprint.engine.seeds import derive, first_part, step_generator
from latentprint.errors import UserError, useful_line
from latentprint.label.presets import LabelConfig, ModelConfig
from latentprint.label.privacy import PrivacyPlan
from latentprint.label.views import random_views
from latentprint.victim import Victim

if TYPE_CHECKING:
    from opacus.optimizers import DPOptimizer


class DPSGD(Defense):
    """Trained with DP-SGD; ``strength`` is 1 / epsilon, and 0 the undefended training.

    Batch norm mixes the photos of a batch and cannot be trained privately: Opacus puts group norm in its place, with
    weights of its own, so that the defended network is *another architecture* than the undefended one.

    An adaptive adversary gains nothing on the promise itself, which holds against any attack on the weights. It says
    nothing of what all photos of a person share: an attack with more views or a better prior may still find that.

    Args:
        victim: a classifier, not yet trained; its network is replaced.
        plan: see `latentprint.label.privacy.plan_privacy`.
    """

    def __init__(self, victim: Victim, plan: PrivacyPlan) -> None:
        if plan.strength > 0:
            victim.module = without_batch_norm(victim.module)
            victim.freeze()
        super().__init__(victim, plan.strength)
        self.plan = plan

    @property
    def privacy(self) -> dict[str, Any]:
        """For report.json; epsilon is null when nothing is promised."""
        if self.strength == 0:
            return {"epsilon": None}
        plan = self.plan
        return {"epsilon": plan.epsilon, "delta": plan.delta, "unit": "photo", "accountant": "RDP",
                "noise_multiplier": plan.noise_multiplier, "sample_rate": plan.sample_rate, "steps": plan.steps,
                "architecture": "group norm in place of batch norm"}


def without_batch_norm(network: nn.Module) -> nn.Module:
    """A copy with group norm for batch norm, freshly initialised, and no operation in place, which hooks forbid.

    Raises:
        UserError: the network cannot be copied.
    """
    from opacus.validators import ModuleValidator

    try:
        fixed: nn.Module = ModuleValidator.fix(network.requires_grad_(True))
    except Exception as error:  # whatever its pickling raises
        raise UserError(f"defence.kind=dp-sgd: this network cannot be copied: {useful_line(error)}") from error
    for module in fixed.modules():
        if getattr(module, "inplace", False) is True:
            setattr(module, "inplace", False)  # noqa: B010 (an attribute of some modules only)
    return fixed


def private_optimizer(optimizer: torch.optim.Optimizer, plan: PrivacyPlan, expected_batch: int) -> DPOptimizer:
    """``optimizer`` fed with clipped and noised gradients; noise from torch's global generator unless it is given one.

    The parameters must be those of a network under `per_sample_gradients`, and the loss a mean over the (micro-)batch.

    Args:
        expected_batch: photos expected in a step, by which the sum of gradients is divided.
    """
    from opacus.optimizers import DPOptimizer

    return DPOptimizer(optimizer, noise_multiplier=plan.noise_multiplier, max_grad_norm=plan.max_grad_norm,
                       expected_batch_size=expected_batch)


@contextmanager
def per_sample_gradients(network: nn.Module) -> Iterator[None]:
    """While it lasts, a backward pass of a batch's mean loss leaves each sample's gradient in ``p.grad_sample``."""
    from opacus.grad_sample import GradSampleHooks

    # Opacus (1.6.0, unfold2d) reads the input of a convolution by the strides of a contiguous one: of channels-last
    # inputs it makes wrong gradients without a word.
    handles = [layer.register_forward_pre_hook(lambda layer, inputs: inputs[0].contiguous())
               for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    hooks = GradSampleHooks(network, loss_reduction="mean")
    try:
        yield
    finally:
        hooks.cleanup()
        for handle in handles:
            handle.remove()


def check_private(victim: DPSGD, image_size: int) -> None:
    """Take a gradient of two images of noise, as a step of training does, and see that it is what it should be.

    Raises:
        UserError: the network cannot be trained with DP-SGD, answers for one image by what another one is, or its
            per-sample gradients do not average to the gradient of the batch.
    """
    if victim.strength == 0:
        return
    if accelerator().num_processes > 1:
        raise UserError("defence.kind=dp-sgd trains in one process; start it without torchrun")
    x = torch.rand(3, 3, image_size, image_size, generator=torch.Generator().manual_seed(0))
    victim.unfreeze()
    try:
        alone = _is_per_sample(victim, x)
        with per_sample_gradients(victim.network):
            images = x[:2].requires_grad_()
            victim.training_loss(images, torch.zeros(2, dtype=torch.int64))[0].mean().backward()
            right = _averages_to_gradient(victim.network)
    except Exception as error:  # whatever Opacus or the network raises
        raise UserError(f"defence.kind=dp-sgd: this network cannot be trained so: {useful_line(error)}") from error
    finally:
        victim.zero_grad()
        victim.freeze()
    if not alone:
        raise UserError("defence.kind=dp-sgd: this network mixes the photos of a batch, as batch norm does: no promise "
                        "to a single photo can be kept")
    if not right:
        raise UserError("defence.kind=dp-sgd: this network's gradients cannot be had photo by photo")


@torch.no_grad()
def _is_per_sample(victim: Victim, x: Tensor) -> bool:
    """Whether the first of ``(3, 3, H, W)`` images is answered the same beside the second and beside the third.

    Opacus overlooks a batch norm without weights.
    """
    answers = []
    for other in (1, 2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # the same dropout
            answers.append(victim.logits(x[[0, other]])[0])
    return torch.allclose(answers[0], answers[1], rtol=1e-3, atol=1e-5)


def _averages_to_gradient(network: nn.Module) -> bool:
    """Whether per-sample gradients, of a batch's mean loss, average to the ordinary one."""
    reached = [p for p in network.parameters() if p.grad is not None]
    samples = [each for p in reached if (each := getattr(p, "grad_sample", None)) is not None]
    if len(samples) < len(reached):
        return False
    ordinary = torch.cat([p.grad.flatten() for p in reached if p.grad is not None])
    average = torch.cat([each.mean(0).flatten() for each in samples])
    return bool((average - ordinary).norm() <= 1e-3 * ordinary.norm())


def poisson_sample(n: int, rate: float, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Each of ``n`` items with probability ``rate``: the indices drawn and their weights, both ``(M,)``.

    Where none is drawn, the first item stands in with weight 0: such a step consists of noise alone.
    """
    index = (torch.rand(n, generator=rng) < rate).nonzero().squeeze(1)
    return (index, torch.ones(len(index))) if len(index) else (torch.zeros(1, dtype=torch.int64), torch.zeros(1))


def take_gradients(optimizer: DPOptimizer) -> None:
    """Clip each sample's gradient of the micro-batch just passed and add it to the step's sum; without noise."""
    optimizer.clip_and_accumulate()
    for parameter in optimizer.params:
        parameter.grad_sample = None


def train_privately(config: LabelConfig, model: ModelConfig, victim: DPSGD, data: ImageSet, run: RunDir,
                    device: torch.device) -> None:
    """Cross-entropy on augmented photos by DP-SGD, in fp32; the victim is frozen again afterwards.

    A step that depends on the data in any other way would void the promise: none is skipped, and a loss that is not
    finite fails the run.
    """
    victim.unfreeze()
    plan, count = victim.plan, config.accumulate
    optimizer = private_optimizer(torch.optim.AdamW(victim.parameters(), model.lr, weight_decay=5e-2), plan,
                                  min(model.batch * count, len(data)))
    optimizer.generator = torch.Generator(device)
    batches: Iterator[tuple[Tensor, Tensor, Tensor]] = iter(())

    def sampled(step: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """The micro-batches of one Poisson sample: images ``(M, 3, H, W)``, labels ``(M,)`` and weights ``(M,)``."""
        rng = step_generator(config.seed, victim.name, step)
        index, weight = poisson_sample(len(data), plan.sample_rate, rng)
        images = random_views(data.floats(index).to(device), 1, rng, model.augment, model.mirror).clamp(0, 1)
        return micro_batches(images, data.labels[index].to(device), weight.to(device), count)

    def loss_at(step: int) -> tuple[Tensor, dict[str, Tensor | float]]:
        nonlocal batches
        if first_part():
            batches = sampled(step)
            assert optimizer.generator is not None
            optimizer.generator.manual_seed(derive(config.seed, victim.name, "noise", step))
        else:
            take_gradients(optimizer)
        x, y, weight = next(batches)
        # the hook of the first layer wants an input with a gradient
        loss, logits = victim.training_loss(x.requires_grad_(), y, step / model.steps)
        return (weight * loss).mean(), {"accuracy": (logits.argmax(1) == y).float().mean()}

    with per_sample_gradients(victim.network):
        Loop(run, victim.name, optimizer, {"model": victim}, model.steps, warm_cosine(model.steps, 50),
             explode_norm=math.inf, max_skips=0, save_every=config.save_every, mean_of_parts=False).fit(loss_at)
    optimizer.zero_grad(set_to_none=True)
    victim.freeze()


def micro_batches(images: Tensor, labels: Tensor, weight: Tensor,
                  count: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """One sample of photos as ``count`` parts of nearly equal size; an empty part holds its first photo, weight 0."""
    for part in torch.arange(len(images)).tensor_split(count):
        if len(part):
            yield images[part], labels[part], weight[part]
        else:
            yield images[:1], labels[:1], torch.zeros_like(weight[:1])
