"""From an identity embedding and an attribute image to a picture, differentiably.

``Swapper`` holds the frozen helpers (codec, attribute network) beside a prior. Two estimates of the generated picture
exist: ``one_step``, x0 from one prediction at a given noise level, and ``ddim``, k steps from pure noise with gradient
through the last n.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler
from torch import Tensor, nn

from latentprint.data.base import ImageSet
from latentprint.diffusion.prior import SwapPrior, clean_and_noise, signal_and_noise, to_predict
from latentprint.diffusion.scene import Scene, Scenes
from latentprint.engine.seeds import seeded_noise
from latentprint.losses.denoising import prior_mse
from latentprint.models.answers import answers, readings
from latentprint.models.codec import LatentCodec

#: (predicted, true) of the same shape ``(B, *)`` to ``(B,)``
DenoisingLoss = Callable[[Tensor, Tensor], Tensor]


class Swapper(nn.Module):
    """A prior with the frozen networks around it."""

    def __init__(self, prior: SwapPrior, codec: LatentCodec, attributes: nn.Module) -> None:
        super().__init__()
        self.prior, self.codec, self.attributes = prior, codec, attributes

    @property
    def schedule(self) -> DDIMScheduler:
        """The prior's noise schedule."""
        return self.prior.schedule

    @torch.no_grad()
    def scene(self, images: Tensor, holes: Tensor) -> Scene:
        """Prepare pictures ``(B, 3, H, W)`` in [0, 1] with holes ``(B, 1, H, W)``."""
        hole, attributes = holes.to(images.dtype), self.attributes(images)
        return Scene(images, hole, *self.encoded(images, hole), attributes, self.prior.seen(images, attributes))

    def encoded(self, images: Tensor, hole: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``latent``, ``masked`` and ``keep`` of a `Scene`, of its ``image`` and ``hole``."""
        greyed = images * (1 - hole) + 0.5 * hole
        return (self.codec.encode(images), self.codec.encode(greyed), F.avg_pool2d(1 - hole, self.codec.downscale))

    def scenes(self, data: ImageSet, pixels: int = 256 * 64 * 64) -> Scenes:
        """Scenes of a whole set (which must know its holes), encoded in batches of about so many pixels.

        Codec and attribute network must be frozen; what they answer is kept, see `latentprint.models.answers`.
        """
        assert data.holes is not None
        device, batch = next(self.parameters()).device, max(1, pixels // data.size**2)

        def encode(images: Tensor, holes: Tensor) -> Tensor:
            return torch.cat(self.encoded(images.to(device).float() / 255, holes.to(device).float()), 1)

        def see(images: Tensor, attributes: Tensor) -> Tensor:
            return self.prior.seen(images.to(device).float() / 255, attributes.to(device))

        found = answers(self.codec, encode, data.images, data.holes, question="scene", name="codec", batch=batch)
        channels = (found.shape[1] - 1) // 2  # of the codec's latents
        latent, masked, keep = found.split([channels, channels, 1], 1)
        attributes = seen = readings(self.attributes, data.images, batch=batch)
        if (encoder := self.prior.image_encoder) is not None:
            seen = answers(None if encoder.training else encoder, see, data.images, attributes, question="seen",
                           name="prior", batch=batch)
        blank = torch.empty(len(data), 0)
        return Scenes(data, Scene(blank, blank, latent, masked, keep, attributes, seen))

    def predict(self, noisy: Tensor, timestep: Tensor, scene: Scene, embedding: Tensor,
                guidance: float = 1.0) -> tuple[Tensor, Tensor]:
        """(x0, epsilon) of noisy latents; ``guidance`` > 1 pushes away from the unconditional prediction."""
        said = self.ask(noisy, timestep, scene, self.prior.tokens(embedding, scene.seen))
        if guidance != 1.0:
            nobody = torch.ones(len(noisy), dtype=torch.bool, device=noisy.device)
            without = self.ask(noisy, timestep, scene, self.prior.tokens(embedding, scene.seen, nobody))
            said = without + guidance * (said - without)
        return clean_and_noise(self.schedule, noisy, said.float(), timestep)

    def denoise(self, scene: Scene, tokens: Tensor, timestep: Tensor, noise: Tensor,
                loss: DenoisingLoss = prior_mse) -> tuple[Tensor, Tensor]:
        """The prior's own objective on a scene's true latent.

        Returns:
            ``(B,)`` loss, by default the mean squared error, of what the prior predicts, and the estimate of x0.
        """
        a, s = signal_and_noise(self.schedule, timestep, noise)
        noisy = a * scene.latent + s * noise
        said = self.ask(noisy, timestep, scene, tokens).float()
        return (loss(said, to_predict(self.schedule, scene.latent, noise, timestep)),
                clean_and_noise(self.schedule, noisy, said, timestep)[0])

    def ddim(self, embedding: Tensor, scene: Scene, seeds: Tensor, steps: int = 4, gradient_steps: int | None = None,
             guidance: float = 1.0, until: int | None = None) -> Tensor:
        """A picture by k deterministic DDIM steps from pure noise (Song et al. 2021, eq. 12 with eta 0).

        Args:
            embedding: ``(B, D)`` unit vectors, as the teacher makes them.
            scene: B attribute images.
            seeds: ``(B,)``; sample i depends on ``seeds[i]`` alone.
            steps: k.
            gradient_steps: gradients flow through the last n steps only; None for all.
            guidance: classifier-free guidance scale.
            until: stop after so many of the k steps, with the estimate of the clean picture made there.

        Returns:
            ``(B, 3, H, W)``, not clamped.
        """
        self.schedule.set_timesteps(steps)
        times = self.schedule.timesteps.to(scene.image.device)
        x = seeded_noise(seeds, tuple(scene.latent.shape[1:]), scene.image.device)
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
                elif taken == steps and self.schedule.final_alpha_cumprod < 1:  # the sampler's own last noise level
                    final = self.schedule.final_alpha_cumprod
                    clean = final.sqrt() * clean + (1 - final).sqrt() * noise
        return self.paste(clean, scene)

    def one_step(self, embedding: Tensor, scene: Scene, noisy: Tensor, timestep: Tensor) -> Tensor:
        """A picture from a single prediction at any noise level, ``(B, 3, H, W)``."""
        return self.paste(self.predict(noisy, timestep, scene, embedding)[0], scene)

    def paste(self, latent: Tensor, scene: Scene) -> Tensor:
        """Decode and put back what the hole did not cover."""
        hole = F.avg_pool2d(scene.hole, 3, 1, 1, count_include_pad=False)  # a feathered edge
        return scene.image + hole * (self.codec.decode(latent.to(scene.image.dtype)) - scene.image)

    def ask(self, noisy: Tensor, timestep: Tensor, scene: Scene, tokens: Tensor) -> Tensor:
        """The prior's bare prediction."""
        return self.prior(noisy, timestep, scene.masked, scene.keep, tokens)
