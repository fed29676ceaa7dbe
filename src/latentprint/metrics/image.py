"""How near a reconstruction is to the photo: one number an image, for images ``(B, 3, H, W)`` in [0, 1].

Average them afterwards: the PSNR of a whole batch's error is another, lower number than the mean PSNR.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

SSIM_MARGIN = 5  # half of the window of 11 pixels


def mse(images: Tensor, references: Tensor) -> Tensor:
    """``(B,)`` mean squared error in [0, 1].

    Raises:
        ValueError: shapes differ, or values are outside [0, 1].
    """
    _check(images, references)
    return (images - references).square().flatten(1).mean(1)


def psnr(images: Tensor, references: Tensor) -> Tensor:
    """``(B,)`` peak signal-to-noise ratio in dB (peak 1), infinite for equal images. Raises as ``mse``."""
    return -10 * torch.log10(mse(images, references))


def ssim(images: Tensor, references: Tensor) -> Tensor:
    """``(B,)`` structural similarity in [-1, 1] (Wang et al. 2004: Gaussian window of 11 px, sigma 1.5).

    Images of at least 11 pixels a side. Raises as ``mse``.
    """
    _check(images, references)
    if min(images.shape[-2:]) <= 2 * SSIM_MARGIN:
        raise ValueError(f"SSIM needs images of at least 11 pixels a side, got {tuple(images.shape)}")
    _, similarity = structural_similarity_index_measure(
        images, references, data_range=1.0, reduction="none", return_full_image=True
    )
    # torchmetrics' own mean takes in windows that reach over the border into mirrored pixels; Wang's does not
    inner = similarity[..., SSIM_MARGIN:-SSIM_MARGIN, SSIM_MARGIN:-SSIM_MARGIN]
    return inner.flatten(1).mean(1)


def range_fault(images: Tensor) -> str | None:
    """What is wrong with the values of images that should lie in [0, 1], in words; None when nothing is."""
    if not images.isfinite().all():
        return "values that are NaN or infinite"
    low, high = (float(x) for x in images.aminmax())
    if 0 <= low <= high <= 1:
        return None
    hint = " (bytes not divided by 255?)" if high > 2 else " (a range of [-1, 1]?)" if low < 0 else ""
    return f"values from {low:g} to {high:g}{hint}"


def _check(images: Tensor, references: Tensor) -> None:
    if images.shape != references.shape or images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"expected two equal shapes (B, 3, H, W), got {tuple(images.shape)} and "
                         f"{tuple(references.shape)}")
    for name, batch in (("images", images), ("references", references)):
        if fault := range_fault(batch):
            raise ValueError(f"{name} must lie in [0, 1], got {fault}")
