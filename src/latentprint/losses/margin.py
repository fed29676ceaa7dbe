"""The margin that pytorch-metric-learning lacks: AdaFace."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class AdaFaceLoss(nn.Module):
    """Softmax over cosines with a margin that adapts to the quality of the photo, for which the norm of the
    embedding stands.

    With ``q = clip((|z| - mu) h / sigma, -1, 1)`` the own class's logit is ``s (cos(theta - m q) - m (q + 1))``: a
    photo of low quality (q = -1) gets ArcFace's margin, one of middling quality (q = 0) CosFace's.

    Args:
        num_classes, embedding_size: shape of the class weights.
        margin: m. scale: s. concentration: h. momentum: share of a batch in the running mean and deviation of norms.

    Source: Kim et al. 2022 (arXiv:2204.01066), equations 8 to 11.
    """

    def __init__(self, num_classes: int, embedding_size: int, margin: float = 0.4, scale: float = 64.0,
                 concentration: float = 0.333, momentum: float = 0.01) -> None:
        super().__init__()
        self.margin, self.scale, self.concentration, self.momentum = margin, scale, concentration, momentum
        self.W = nn.Parameter(F.normalize(torch.randn(embedding_size, num_classes), dim=0))
        self.norm_mean: Tensor
        self.norm_std: Tensor
        self.register_buffer("norm_mean", torch.tensor(20.0))
        self.register_buffer("norm_std", torch.tensor(100.0))

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Mean loss of raw embeddings ``(B, D)`` of classes ``(B,)``; in training the statistics of norms follow."""
        quality = self._quality(embeddings.detach().norm(dim=1))
        cosine = (F.normalize(embeddings, dim=1) @ F.normalize(self.W, dim=0)).clamp(-1 + 1e-6, 1 - 1e-6)
        angle = cosine.gather(1, labels[:, None]).squeeze(1).acos()
        own = (angle - self.margin * quality).clamp(1e-3, torch.pi - 1e-3).cos() - self.margin * (quality + 1)
        return F.cross_entropy(self.scale * cosine.scatter(1, labels[:, None], own[:, None]), labels)

    def _quality(self, norm: Tensor) -> Tensor:
        norm = norm.clamp(1e-3, 100)
        if self.training and len(norm) > 1:
            self.norm_mean.lerp_(norm.mean(), self.momentum)
            self.norm_std.lerp_(norm.std(), self.momentum)
        return ((norm - self.norm_mean) * self.concentration / (self.norm_std + 1e-3)).clamp(-1, 1)
