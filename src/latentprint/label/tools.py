"""What the adversary brings along: teacher, codec, attribute network, prior and encoded public photos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from latentprint.data.base import ImageSet
from latentprint.diffusion.prior import SwapPrior
from latentprint.diffusion.scene import Scenes
from latentprint.diffusion.swap import Swapper
from latentprint.label.teachers import Gate, Teachers, together
from latentprint.models.answers import embeddings, readings
from latentprint.models.attributes import AttributeReader

#: Principal axes of the attribute network's features that Frechet distances of a look use: few pictures suffice.
LOOK_AXES = 32


@dataclass
class Tools:
    """The adversary's means, all made of public data.

    Attributes:
        public: photos with holes. scenes: the same, encoded. embeddings: ``(N, D)`` of the teacher.
        teachers: all the recognisers that judge pictures while the attack trains; the first is the teacher.
        features: ``(N, D)`` of the Frechet extractor. axes: ``(D, LOOK_AXES)`` its principal axes.
    """

    swapper: Swapper
    teacher: nn.Module
    public: ImageSet
    scenes: Scenes
    embeddings: Tensor
    features: Tensor
    axes: Tensor
    teachers: Teachers

    @property
    def device(self) -> torch.device:
        return next(self.teacher.parameters()).device

    @property
    def attributes(self) -> AttributeReader:
        network = self.swapper.attributes
        assert isinstance(network, AttributeReader)
        return network

    def with_prior(self, prior: SwapPrior) -> Tools:
        """The same tools around another prior."""
        swapper = Swapper(prior, self.swapper.codec, self.swapper.attributes)
        return replace(self, swapper=swapper)


def encode(swapper: Swapper, teacher: nn.Module, public: ImageSet, others: Sequence[nn.Module] = (),
           gate: Gate = "average") -> Tools:
    """Look at every public photo once; ``others`` are further teachers.

    Raises:
        UserError: see `teachers.together`.
    """
    features = readings(swapper.attributes, public.images, "pooled")
    _, _, vectors = torch.linalg.svd(features - features.mean(0), full_matrices=False)
    every = [teacher, *others]
    seen = [embeddings(each, public.images, f"teacher {i}" if others else "teacher") for i, each in enumerate(every, 1)]
    teachers = together(every, seen, public.labels, gate)
    return Tools(swapper, teacher, public, swapper.scenes(public), seen[0], features, vectors[:LOOK_AXES].T,
                 teachers)
