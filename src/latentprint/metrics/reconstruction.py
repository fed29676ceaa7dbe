"""How much of the photos the reconstructions recover: for images ``(N, 3, H, W)`` in [0, 1]."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn.functional import normalize

from latentprint.metrics.image import mse
from latentprint.stats import Arm, Interval, leak_interval

#: Images in a batch of the published evaluation.
PUBLISHED_BATCH = 256


@dataclass(frozen=True)
class Recovered:
    """The share of pixel variance that reconstructions recover: 0 is the mean image, 1 the photos themselves.

    The headline is the ratio of means, ``1 - sum(errors) / sum(floor)``, not the mean of the ratios of single images.
    It is the coefficient of determination, a share of one fixed total; the mean of ratios has no such reading and is
    ruled by the few photos that happen to be near the mean image, whose ratio falls without bound. Its interval
    resamples numerator and denominator together.

    Attributes:
        errors: ``(N,)`` mean squared error of each reconstruction.
        floor: ``(N,)`` mean squared error of the mean image on the same photo.
    """

    errors: Tensor
    floor: Tensor

    @property
    def share(self) -> float:
        """The headline, at most 1; below 0 when the mean image is nearer."""
        return float(1 - self.errors.mean() / self.floor.mean())

    @property
    def per_image(self) -> Tensor:
        """``(N,)`` the same of each image by itself, to look at and to rank, not to average."""
        return 1 - self.errors / self.floor

    def interval(self, identities: ArrayLike, *, n_resamples: int = 2000, confidence: float = 0.95,
                 seed: int = 0) -> Interval:
        """Of the headline, resampling the people ``(N,)`` that the photos show (or any independent units)."""
        arms = (-self.errors.double(), -self.floor.double(), torch.zeros(len(self.floor), dtype=torch.float64))
        attack, floor, ceiling = (Arm(values.cpu().numpy(), identities) for values in arms)
        return leak_interval(attack, floor, ceiling, n_resamples=n_resamples, confidence=confidence, seed=seed)


def variance_recovered(images: Tensor, references: Tensor, mean_image: Tensor) -> Recovered:
    """Errors of reconstructions beside those of the mean image.

    Args:
        images: the reconstructions.
        references: the photos they are of.
        mean_image: ``(3, H, W)`` in [0, 1], the mean of the photos that the adversary knows.

    Raises:
        ValueError: shapes differ, values are outside [0, 1], or every photo equals the mean image.
    """
    errors = mse(images, references)
    floor = mse(mean_image.to(references).expand_as(references), references)
    if not bool(floor.any()):
        raise ValueError("every photo equals the mean image: there is no variance to recover")
    return Recovered(errors, floor)


def psnr_per_batch(images: Tensor, references: Tensor, batch: int = PUBLISHED_BATCH) -> float:
    """PSNR in dB of the error of a whole batch, averaged over batches by their sizes; infinite if one has no error.

    The number of the published tables of CEM (arXiv:2503.00383) as its code computes it, for that comparison alone: it
    depends on the batches, and is lower than the mean PSNR of the images. Raises as `latentprint.metrics.image.mse`.
    """
    errors = mse(images, references).double().split(batch)
    return float(sum(-10 * part.mean().log10() * len(part) for part in errors) / len(images))


def reidentification(embeddings: Tensor, people: Tensor, gallery: Tensor, gallery_people: Tensor) -> Tensor:
    """``(N,)`` bool: is the photo of the gallery that is most like the reconstruction one of the same person (rank 1)?

    Args:
        embeddings: ``(N, D)`` a recogniser's, of the reconstructions.
        people: ``(N,)`` int64, whom each reconstruction is of.
        gallery: ``(M, D)`` of real photos, other ones than those under attack, of the same people and any others.
        gallery_people: ``(M,)`` int64, whom each shows.

    Likeness is the cosine. Ties and NaN count against the hit: a recogniser that answers the same for everyone
    recognises nobody. Chance is one over the number of people, where each has as many photos in the gallery.

    Raises:
        ValueError: the gallery has no photo of somebody under attack.
    """
    same = people[:, None] == gallery_people[None, :]
    if missing := people[~same.any(1)].tolist():
        raise ValueError(f"the gallery has no photo of person {missing[0]}")
    cosines = normalize(embeddings, dim=1) @ normalize(gallery, dim=1).T
    others = cosines.masked_fill(same, -torch.inf).amax(1)
    return cosines.masked_fill(~same, -torch.inf).amax(1) > others
