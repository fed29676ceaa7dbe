"""Adversarial reconstruction (ResSFL, Li et al. 2022, arXiv 2205.04007): features that a decoder fails on.

A decoder learns along with the victim to raise the SSIM of its picture; the edge network pays for the SSIM above a
bound. The published code trains the decoder beforehand on nine tenths of the *test* images; here it sees training
images alone.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.functional.image import structural_similarity_index_measure

from latentprint.engine.device import lay_out
from latentprint.engine.loop import Stateful
from latentprint.feature.defense import FeatureDefense, Step, Trained, shape_of
from latentprint.feature.protection import AdversarialConfig
from latentprint.models.decoders import Decoder


class Adversarial(FeatureDefense):
    """The decoder, its optimiser and the penalty ``weight * max(0, mean SSIM(A(z), x) - bound)``.

    The decoder is given what is sent, noise and all. Its weights stay with the defence, for checkpoints alone: no
    attack is given them.
    """

    decoder: nn.Module
    optimizer: torch.optim.Optimizer

    def __init__(self, config: AdversarialConfig) -> None:
        super().__init__()
        self.config, self.taken = config, 0

    def edge(self, edge: nn.Module, example: Tensor) -> nn.Module:
        size = (example.shape[-2], example.shape[-1])
        self.decoder = Decoder(shape_of(edge, example), size, blocks=self.config.blocks,
                               width=self.config.width)
        lay_out(self.decoder, example.device)
        self.optimizer = torch.optim.Adam(self.decoder.parameters(), self.config.lr)
        return edge

    def begin(self, trained: Trained) -> None:
        if self.config.weight > 0:
            for i in range(self.config.first_steps):
                images, sent = trained.batch(i)
                self.learn(sent, images)

    def before_step(self, step: Step) -> None:
        if self.config.weight > 0:
            for _ in range(self.config.steps):
                self.learn(step.sent.detach(), step.images)

    def learn(self, sent: Tensor, images: Tensor) -> None:
        """A step of the decoder on what was sent ``(B, *F)``, detached."""
        with torch.enable_grad():
            self.optimizer.zero_grad(set_to_none=True)
            (1 - self.similarity(sent, images)).backward()
            self.optimizer.step()
        self.taken += 1

    def penalty(self, step: Step) -> tuple[Tensor, Mapping[str, Tensor | float]] | None:
        if self.config.weight == 0 or self.taken <= self.config.first_steps:
            return None
        for parameter in self.decoder.parameters():
            parameter.requires_grad_(False)
        similarity = self.similarity(step.sent, step.images)
        for parameter in self.decoder.parameters():
            parameter.requires_grad_(True)
        return self.config.weight * F.relu(similarity - self.config.bound), {"adversary_ssim": similarity.detach()}

    def similarity(self, sent: Tensor, images: Tensor) -> Tensor:
        """Mean SSIM of the decoder's pictures, a scalar."""
        # what is sent has the precision of the training; so has the decoder then
        with torch.autocast(sent.device.type, sent.dtype, enabled=sent.dtype is not torch.float32):
            drawn = self.decoder(sent).float()
        if drawn.shape[-2:] != images.shape[-2:]:
            images = F.interpolate(images, drawn.shape[-2:], mode="bilinear", antialias=True)
        found = structural_similarity_index_measure(drawn, images, data_range=1.0)
        assert isinstance(found, Tensor)
        return found

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.taken)

    def set_extra_state(self, state: Tensor) -> None:
        self.taken = int(state)

    def states(self) -> Mapping[str, Stateful]:
        return {"adversary": self.optimizer}
