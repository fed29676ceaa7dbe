"""The decoder attack: learn on known images to turn what is sent back into pictures.

Source: the attack of Xia et al. 2025 (arXiv:2503.00383, section 5 and the published code): MSE, Adam at 1e-3 with
weight decay 1e-4, a cosine down to 1e-5, batches of 256, 50 epochs. There only Gaussian noise is on during the attack;
here every message comes from the victim as it is defended.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from latentprint.data.base import ImageSet
from latentprint.engine.device import autocast, lay_out
from latentprint.engine.loop import Loop, warm_cosine
from latentprint.engine.seeds import derive
from latentprint.errors import UserError
from latentprint.feature.attack import FeatureAttack
from latentprint.feature.attacks.base import ASK_BATCH, Harness, Source, Spent, image_size
from latentprint.feature.victim import SplitVictim
from latentprint.losses.pixel import PIXEL_LOSSES
from latentprint.models.decoders import Decoder

#: Images and references ``(B, 3, H, W)`` to ``(B,)``.
ImageLoss = Callable[[Tensor, Tensor], Tensor]

#: SSIM's window.
SSIM_MIN_SIZE = 11


class DecoderAttack(FeatureAttack):
    """Needs the messages of known images alone, not the edge network's weights."""

    name = "decoder"
    decoder: Decoder

    def __init__(self, harness: Harness) -> None:
        self.harness = harness

    def fit(self, victim: SplitVictim, known: ImageSet) -> None:
        """Raises UserError where the loss or the architecture does not fit the images or the features."""
        self.decoder = train_decoder(self.harness, self.name, victim, known, self.loss(victim, known))

    def loss(self, victim: SplitVictim, known: ImageSet) -> ImageLoss:
        """What training minimises, for each image."""
        kind = self.harness.settings.decoder.loss
        if kind == "ssim" and min(image_size(known)) < SSIM_MIN_SIZE:
            raise UserError(f"decoder.loss=ssim needs images of at least {SSIM_MIN_SIZE} pixels a side, got "
                            f"{image_size(known)}")
        return PIXEL_LOSSES[kind]

    def run(self, victim: SplitVictim, sent: Tensor) -> Tensor:
        return decode(self.decoder, self.harness.joined(sent), victim.device)


def train_decoder(harness: Harness, name: str, victim: SplitVictim, known: ImageSet, loss: ImageLoss) -> Decoder:
    """A frozen decoder, trained or read from its checkpoint.

    Args:
        name: of the training loop and its checkpoint.
    """
    settings, device = harness.settings.decoder, victim.device
    spent, source = Spent(victim.queries), Source(harness, victim, known, name, settings.batch)
    torch.manual_seed(derive(harness.seed, name, "weights"))
    decoder = untrained(harness, victim, known)
    optimizer = torch.optim.Adam(decoder.parameters(), settings.lr, weight_decay=settings.weight_decay)
    steps = settings.steps or settings.epochs * len(source)

    def loss_at(step: int) -> tuple[Tensor, dict[str, Tensor | float]]:
        if step == 0:
            decoder.standardise.measure(source.sample().sent)
        batch = source(step)
        with autocast(device, harness.precision):
            drawn = decoder(batch.sent)
        return loss(drawn.float(), batch.images).mean(), {}

    # The recipe clips no gradients.
    Loop(harness.run, name, optimizer, {"decoder": decoder, "spent": spent, "source": source}, steps,
         warm_cosine(steps, floor=0.01), clip_norm=math.inf, save_every=harness.save_every).fit(loss_at)
    frozen: Decoder = decoder.eval().requires_grad_(False)
    return frozen


def untrained(harness: Harness, victim: SplitVictim, known: ImageSet) -> Decoder:
    """A decoder for what the victim sends, on its device."""
    settings = harness.settings.decoder
    with torch.no_grad():
        shape = tuple(victim.features(known.floats(slice(1)).to(victim.device)).shape[1:])
    decoder = Decoder(shape, image_size(known), settings.architecture, blocks=settings.blocks, width=settings.width)
    lay_out(decoder, victim.device)
    return decoder


@torch.no_grad()
def decode(decoder: Decoder, joined: Tensor, device: torch.device) -> Tensor:
    """Pictures of joined messages ``(N, *F)``, on the CPU."""
    return torch.cat([decoder(part.to(device)).float().cpu() for part in joined.split(ASK_BATCH)])
