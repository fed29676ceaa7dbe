"""The decoder with a perceptual term: what squared error averages away, features of a network ask for.

For faces the network is the project's attribute network (three depths); otherwise a small one of random weights, whose
features still see edges and textures (He, Wang and Hopcroft 2016, arXiv:1606.04801), or one that the caller gives.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from latentprint.data.base import ImageSet
from latentprint.engine.seeds import generator
from latentprint.errors import UserError
from latentprint.feature.attacks.base import Extractor, image_size
from latentprint.feature.attacks.decoder import DecoderAttack, ImageLoss
from latentprint.feature.victim import SplitVictim
from latentprint.losses.perceptual import feature_distance
from latentprint.models.assets import load_asset
from latentprint.models.attributes import AttributeReader

#: A network that halves images so often needs them this large.
MIN_SIZE = 16


class RandomFeatures(nn.Module):
    """``(B, 3, H, W)`` in [0, 1] to maps of 16, 32 and 64 channels at 1/2, 1/4 and 1/8; frozen random weights.

    The weights depend on the seed alone, and leave torch's global generator as it was.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        rng = generator(seed, "random features")
        with torch.random.fork_rng(devices=[]):  # for the weights that layers are born with
            stages = [nn.Conv2d(inner, outer, 3, 2, 1, bias=False) for inner, outer in ((3, 16), (16, 32), (32, 64))]
        for stage in stages:
            nn.init.kaiming_normal_(stage.weight, nonlinearity="relu", generator=rng)
        self.stages = nn.ModuleList(stages)
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> list[Tensor]:
        maps, h = [], x * 2 - 1
        for stage in self.stages:
            h = stage(h).relu()
            maps.append(h)
        return maps


class PerceptualAttack(DecoderAttack):
    """The decoder attack whose loss is the decoder's own plus ``weight`` times the distance in features.

    ``extractor_name`` says in which, once it is fitted: ``given``, ``attributes`` or ``random``.
    """

    name = "perceptual"
    extractor_name: str

    def loss(self, victim: SplitVictim, known: ImageSet) -> ImageLoss:
        if min(image_size(known)) < MIN_SIZE and self.harness.extractor is None:
            raise UserError(f"the attack 'perceptual' needs images of at least {MIN_SIZE} pixels a side, got "
                            f"{image_size(known)}")
        pixels, weight = super().loss(victim, known), self.harness.settings.perceptual.weight
        extract = self.extractor(known, victim.device)

        def loss(images: Tensor, references: Tensor) -> Tensor:
            with torch.no_grad():
                wanted = extract(references)
            return pixels(images, references) + weight * feature_distance(extract(images), wanted)

        return loss

    def extractor(self, known: ImageSet, device: torch.device) -> Extractor:
        """The network to measure in, on the device."""
        if self.harness.extractor is not None:
            self.extractor_name = "given"
            return self.harness.extractor
        wanted = self.harness.settings.perceptual.features
        faces = known.holes is not None
        self.extractor_name = ("attributes" if faces else "random") if wanted == "auto" else wanted
        if self.extractor_name == "random":
            return RandomFeatures(self.harness.seed).to(device)
        network = load_asset("attributes", self.harness.assets).to(device)
        assert isinstance(network, AttributeReader)
        return network.depths
