"""From an identity embedding and an attribute image to a picture, differentiably.

``Scene`` is all that the prior needs to know of an attribute image; ``Swapper`` holds the frozen helpers (codec,
attribute network, schedule) beside a prior. Two estimates of the generated picture exist: ``one_step``, x0 from one
prediction at a given noise level, and ``ddim``, k steps from pure noise with gradient through the last n.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latentprint.data.base import ImageSet
from latentprint.diffusion.prior import FaceSwapPrior, clean_and_noise, schedule, signal_and_noise
from latentprint.engine.seeds import seeded_noise
from latentprint.losses.denoising import prior_mse
from latentprint.models.codec import DOWNSCALE, LATENT_CHANNELS, Codec

#: (predicted, true) of the same shape ``(B, *)`` to ``(B,)``
DenoisingLoss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Scene:
    """Attribute images as the prior sees them.

    Attributes:
        image: ``(B, 3, H, W)`` in [0, 1].
        hole: ``(B, 1, H, W)``, 1 where the face is repainted.
        latent: ``(B, 4, h, w)`` of the whole picture.
        masked: ``(B, 4, h, w)`` of the picture with the hole greyed out.
        keep: ``(B, 1, h, w)`` share of kept pixels.
        attributes: ``(B, 10)`` pose, expression and light, as the attribute network reads them.
    """

    image: Tensor
    hole: Tensor
    latent: Tensor
    masked: Tensor
    keep: Tensor
    attributes: Tensor

    def __len__(self) -> int:
        return len(self.image)

    def take(self, index: Tensor) -> Scene:
        return Scene(*(getattr(self, name)[index] for name in self.__dataclass_fields__))

    def to(self, device: torch.device) -> Scene:
        return Scene(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))


class Swapper(nn.Module):
    """A prior with the frozen networks around it."""

    def __init__(self, prior: FaceSwapPrior, codec: Codec, attributes: nn.Module) -> None:
        super().__init__()
        self.prior, self.codec, self.attributes = prior, codec, attributes
        self.schedule = schedule()

    @torch.no_grad()
    def scene(self, images: Tensor, holes: Tensor) -> Scene:
        """Prepare pictures ``(B, 3, H, W)`` in [0, 1] with holes ``(B, 1, H, W)``."""
        hole = holes.to(images.dtype)
        greyed = images * (1 - hole) + 0.5 * hole
        return Scene(images, hole, self.codec.encode(images), self.codec.encode(greyed),
                     F.avg_pool2d(1 - hole, DOWNSCALE), self.attributes(images))

    def scenes(self, data: ImageSet, batch: int = 256) -> Scene:
        """Scenes of a whole set (which must know its holes), on the CPU."""
        assert data.holes is not None
        device = next(self.parameters()).device
        parts = [self.scene(data.floats(part).to(device), data.holes[part].to(device).float()).to(torch.device("cpu"))
                 for part in torch.arange(len(data)).split(batch)]
        return Scene(*(torch.cat([getattr(part, name) for part in parts]) for name in Scene.__dataclass_fields__))

    def predict(self, noisy: Tensor, timestep: Tensor, scene: Scene, embedding: Tensor,
                guidance: float = 1.0) -> tuple[Tensor, Tensor]:
        """(x0, epsilon) of noisy latents; ``guidance`` > 1 pushes away from the unconditional prediction."""
        v = self._v(noisy, timestep, scene, self.prior.tokens(embedding, scene.attributes))
        if guidance != 1.0:
            nobody = torch.ones(len(noisy), dtype=torch.bool, device=noisy.device)
            without = self._v(noisy, timestep, scene, self.prior.tokens(embedding, scene.attributes, nobody))
            v = without + guidance * (v - without)
        return clean_and_noise(self.schedule, noisy, v.float(), timestep)

    def denoise(self, scene: Scene, tokens: Tensor, timestep: Tensor, noise: Tensor,
                loss: DenoisingLoss = prior_mse) -> tuple[Tensor, Tensor]:
        """The prior's own objective on a scene's true latent.

        Returns:
            ``(B,)`` loss, by default the mean squared error, of v = a eps - s x0, and the estimate of x0.
        """
        a, s = signal_and_noise(self.schedule, timestep, noise)
        noisy = a * scene.latent + s * noise
        v = self._v(noisy, timestep, scene, tokens).float()
        return loss(v, a * noise - s * scene.latent), clean_and_noise(self.schedule, noisy, v, timestep)[0]

    def ddim(self, embedding: Tensor, scene: Scene, seeds: Tensor, steps: int = 4, gradient_steps: int | None = None,
             guidance: float = 1.0, until: int | None = None) -> Tensor:
        """A picture by k deterministic DDIM steps from pure noise (Song et al. 2021, eq. 12 with eta 0).

        Args:
            embedding: ``(B, 512)`` unit vectors.
            scene: B attribute images.
            seeds: ``(B,)``; sample i depends on ``seeds[i]`` alone.
            steps: k.
            gradient_steps: gradients flow through the last n steps only; None for all.
            guidance: classifier-free guidance scale.
            until: stop after so many of the k steps, with the estimate of the clean picture made there.

        Returns:
            ``(B, 3, H, W)``, not clamped.
        """
        times = _trailing(steps).to(scene.image.device)
        x = seeded_noise(seeds, (LATENT_CHANNELS, *scene.latent.shape[-2:]), scene.image.device)
        clean = x
        taken = until or steps
        for i, t in enumerate(times[:taken]):
            frozen = gradient_steps is not None and i < taken - gradient_steps
            with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
                at = t.expand(len(x))
                clean, noise = self.predict(x, at, scene, embedding, guidance)
                if i + 1 < taken:
                    a, s = signal_and_noise(self.schedule, times[i + 1].expand(len(x)), x)
                    x = a * clean + s * noise
        return self.paste(clean, scene)

    def one_step(self, embedding: Tensor, scene: Scene, noisy: Tensor, timestep: Tensor) -> Tensor:
        """A picture from a single prediction at any noise level, ``(B, 3, H, W)``."""
        return self.paste(self.predict(noisy, timestep, scene, embedding)[0], scene)

    def paste(self, latent: Tensor, scene: Scene) -> Tensor:
        """Decode and put back what the hole did not cover."""
        hole = F.avg_pool2d(scene.hole, 3, 1, 1, count_include_pad=False)  # a feathered edge
        return scene.image + hole * (self.codec.decode(latent.to(scene.image.dtype)) - scene.image)

    def _v(self, noisy: Tensor, timestep: Tensor, scene: Scene, tokens: Tensor) -> Tensor:
        return self.prior(noisy, timestep, scene.masked, scene.keep, tokens)


@cache
def _trailing(steps: int) -> Tensor:
    """Timesteps from pure noise down, evenly spaced from the end: 999, 749, 499, 249 for four."""
    scheduler = schedule()
    scheduler.set_timesteps(steps)
    return scheduler.timesteps
