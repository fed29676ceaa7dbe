"""Generators: from what is known of a template to a face.

``decoder`` is a convolutional network from the embedding to the picture. ``prior`` is the face diffusion prior with the
whole picture as the hole and no attribute image: what it paints comes from the identity tokens and noise alone; LoRA
adapters learn to do without what the hole took away.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from latentprint.diffusion.lora import AdapterState, adapter_parameters, add_adapter
from latentprint.diffusion.prior import TRAIN_STEPS, progress_of
from latentprint.diffusion.scene import Scene
from latentprint.diffusion.swap import Swapper
from latentprint.engine.loop import Stateful
from latentprint.errors import UserError
from latentprint.losses.pixel import PIXEL_LOSSES
from latentprint.models.face_decoder import FaceDecoder
from latentprint.models.recognisers import centred
from latentprint.registry import find_callable
from latentprint.template.presets import AttackConfig


class Estimate(NamedTuple):
    """What a generator makes of photos in training.

    Attributes:
        pictures: ``(B, 3, H, W)``, about [0, 1].
        error: ``(B,)``, the pixel loss.
        progress: ``(B,)`` of the denoising in [0, 1]; None where there is none.
    """

    pictures: Tensor
    error: Tensor
    progress: Tensor | None


class Generator(nn.Module, ABC):
    """Draws the face behind an identity vector."""

    name: str

    @abstractmethod
    def pictures(self, identity: Tensor, seeds: Tensor) -> Tensor:
        """``(B, 3, H, W)``, about [0, 1], of unit vectors ``(B, D)``; differentiable.

        Args:
            seeds: ``(B,)`` int64, of what is random.
        """

    @abstractmethod
    def estimate(self, identity: Tensor, images: Tensor, rng: torch.Generator) -> Estimate:
        """The same of photos ``(B, 3, H, W)`` in training."""

    @abstractmethod
    def trained(self) -> list[nn.Parameter]:
        """What is learned."""

    @abstractmethod
    def states(self) -> Mapping[str, Stateful]:
        """What a checkpoint holds."""


def pixel_loss(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """By name, or the user's own.

    Raises:
        UserError: neither, or it does not answer two pictures with two numbers.
    """
    if name in ("l1", "mse"):
        return PIXEL_LOSSES["l1" if name == "l1" else "mse"]
    try:
        own = find_callable(name)
        answer = own(torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16))
    except UserError as error:
        raise UserError(f"attack.loss.pixel: {error}; expected l1, mse or such a function") from None
    except Exception as error:
        raise UserError(f"attack.loss.pixel: {name} failed: {type(error).__name__}: {error}") from error
    if not isinstance(answer, Tensor) or answer.shape != (2,):
        raise UserError(f"attack.loss.pixel: {name} must answer two pictures with a tensor of two numbers")
    return own


class DecoderGenerator(Generator):
    """A convolutional decoder; nothing in it is random.

    Args:
        center: ``(D,)``, subtracted from templates first. size: of the images.
    """

    name = "decoder"
    center: Tensor

    def __init__(self, center: Tensor, size: int, config: AttackConfig) -> None:
        super().__init__()
        self.register_buffer("center", center)
        self.decoder = FaceDecoder(len(center), size, config.width)
        self.error = pixel_loss(config.loss.pixel)

    def pictures(self, identity: Tensor, seeds: Tensor) -> Tensor:
        return self.decoder(centred(identity, self.center)).float()

    def estimate(self, identity: Tensor, images: Tensor, rng: torch.Generator) -> Estimate:
        drawn = self.pictures(identity, torch.empty(0))
        return Estimate(drawn, self.error(drawn, images), None)

    def trained(self) -> list[nn.Parameter]:
        return list(self.decoder.parameters())

    def states(self) -> Mapping[str, Stateful]:
        return {"decoder": self.decoder}


class PriorGenerator(Generator):
    """The diffusion prior, conditioned on the identity alone.

    Args:
        swapper: prior, codec and attribute network; the prior is copied.
        mapping: from the recogniser's embeddings to those that the prior was trained on; None: they are the same.
        size: of the images.
    """

    name = "prior"

    def __init__(self, swapper: Swapper, mapping: nn.Module | None, size: int, config: AttackConfig) -> None:
        super().__init__()
        self.swapper = Swapper(copy.deepcopy(swapper.prior), swapper.codec, swapper.attributes)
        add_adapter(self.swapper.prior, "template-reference", "reference", config.rank)
        add_adapter(self.swapper.prior, "template-all", "all", config.rank)
        self.mapping = mapping or nn.Identity()
        self.steps = config.sample_steps
        device = next(swapper.parameters()).device
        grey = torch.full((1, 3, size, size), 0.5, device=device)
        blank = swapper.scene(grey, torch.ones_like(grey[:, :1]))
        self.blank = replace(blank, attributes=torch.zeros_like(blank.attributes), seen=torch.zeros_like(blank.seen))

    def scene(self, n: int) -> Scene:
        """Nothing is known: all hole, and a face as neutral as attributes go."""
        one = self.blank
        return Scene(*(getattr(one, name).expand(n, *(-1 for _ in getattr(one, name).shape[1:]))
                       for name in Scene.__dataclass_fields__))

    def pictures(self, identity: Tensor, seeds: Tensor) -> Tensor:
        return self.swapper.ddim(self.mapping(identity), self.scene(len(identity)), seeds, self.steps).float()

    def estimate(self, identity: Tensor, images: Tensor, rng: torch.Generator) -> Estimate:
        nothing = self.scene(len(images))
        with torch.no_grad():
            latent = self.swapper.codec.encode(images)
        timestep = torch.randint(TRAIN_STEPS, (len(images),), generator=rng).to(images.device)
        noise = torch.randn(latent.shape, generator=rng).to(latent)
        tokens = self.swapper.prior.tokens(self.mapping(identity), nothing.seen)
        known = replace(nothing, image=images, latent=latent)
        error, clean = self.swapper.denoise(known, tokens, timestep, noise)
        return Estimate(self.swapper.codec.decode(clean).float(), error, progress_of(timestep))

    def trained(self) -> list[nn.Parameter]:
        return adapter_parameters(self.swapper.prior)

    def states(self) -> Mapping[str, Stateful]:
        return {"adapters": AdapterState(self.swapper.prior)}
