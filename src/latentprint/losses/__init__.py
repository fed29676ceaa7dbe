"""Pure loss functions, one value per sample where the loss is per sample, and the ways to add them up."""

from latentprint.losses.classification import (
    Bounded,
    adaptive_k,
    centre_distance,
    cross_entropy,
    max_margin,
    poincare,
    smoothed_cross_entropy,
    top_k_margin,
)
from latentprint.losses.denoising import prior_cosine, prior_mse, progress_weight
from latentprint.losses.dependence import distance_correlation, hsic, normalised_hsic
from latentprint.losses.identity import (
    align,
    contrastive_identity,
    diversity_hinge,
    embedding_norm,
    identity_cosine,
    info_nce,
)
from latentprint.losses.perceptual import attribute_mse, feature_distance
from latentprint.losses.weighting import FixedWeighting, UncertaintyWeighting

__all__ = [
    "Bounded",
    "FixedWeighting",
    "UncertaintyWeighting",
    "adaptive_k",
    "align",
    "attribute_mse",
    "centre_distance",
    "contrastive_identity",
    "cross_entropy",
    "distance_correlation",
    "diversity_hinge",
    "embedding_norm",
    "feature_distance",
    "hsic",
    "identity_cosine",
    "info_nce",
    "max_margin",
    "normalised_hsic",
    "poincare",
    "prior_cosine",
    "prior_mse",
    "progress_weight",
    "smoothed_cross_entropy",
    "top_k_margin",
]
