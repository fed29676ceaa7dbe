"""Surrogates of the conditional entropy by their settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from latentprint.feature.protection import (
    CustomSurrogateConfig,
    GatedConfig,
    GMMConfig,
    HingeConfig,
    KMeansConfig,
    LearnedConfig,
    SlotConfig,
    SurrogateConfig,
    ThresholdConfig,
)
from latentprint.registry import made_by
from latentprint.surrogates import (
    GatedSurrogate,
    Gates,
    GMMSurrogate,
    Hinge,
    KMeansSurrogate,
    SlotSurrogate,
    Surrogate,
    Threshold,
)


def make_surrogate(config: SurrogateConfig, shape: Sequence[int], n_classes: int, noise_std: float) -> Surrogate:
    """The surrogate of ``config``.

    Args:
        shape: of the features, ``(C, H, W)`` or ``(D,)``.
        noise_std: standard deviation of the noise on what is sent.
    """
    match config:
        case KMeansConfig():
            return KMeansSurrogate(shape, n_classes, noise_std, clusters=config.clusters,
                                   threshold=_threshold(config.threshold), hinge=_hinge(config.hinge),
                                   log_entropy=config.log_entropy, faithful_bug=config.faithful_bug)
        case GMMConfig():
            return GMMSurrogate(shape, n_classes, noise_std, components=config.components, floor=config.floor)
        case SlotConfig():
            return SlotSurrogate(shape, n_classes, noise_std, slots=config.slots, iterations=config.iterations,
                                 heads=config.heads, threshold=_threshold(config.threshold),
                                 hinge=_hinge(config.hinge), variance_floor=config.variance_floor, **_learned(config))
        case GatedConfig():
            return GatedSurrogate(shape, n_classes, noise_std, gates=_gates(config), hidden=config.hidden,
                                  threshold=_threshold(config.threshold), hinge=_hinge(config.hinge),
                                  **_learned(config))
        case CustomSurrogateConfig():
            return made_by(config.made_by, Surrogate,  # type: ignore[type-abstract]
                           shape, n_classes, noise_std, **config.options)


def _threshold(config: ThresholdConfig) -> Threshold:
    return Threshold(config.kind, config.tau, config.gamma, config.variance)


def _hinge(config: HingeConfig) -> Hinge:
    return Hinge(config.kind, config.beta, config.margin)


def _gates(config: GatedConfig) -> Gates:
    return Gates(config.attention_loss_scale, config.class_gate_a, config.class_gate_b, config.snr_thresh,
                 config.snr_sharp, config.hinge.beta, config.hinge.margin, config.slot_power)


def _learned(config: LearnedConfig) -> dict[str, Any]:
    return config.model_dump(include=set(LearnedConfig.model_fields))
