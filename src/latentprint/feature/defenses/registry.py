"""Defences by their settings."""

from __future__ import annotations

import math
from collections.abc import Sequence

from latentprint.errors import UserError
from latentprint.feature.defense import FeatureDefense
from latentprint.feature.defenses.adversarial import Adversarial
from latentprint.feature.defenses.cem import CEM
from latentprint.feature.defenses.messages import Dropout, Noise, TopK
from latentprint.feature.defenses.nopeek import NoPeek
from latentprint.feature.defenses.patrol import Patrol
from latentprint.feature.defenses.surrogate import make_surrogate
from latentprint.feature.defenses.vib import VIB
from latentprint.feature.protection import (
    AdversarialConfig,
    CEMConfig,
    CustomConfig,
    DefenceConfig,
    DropoutConfig,
    NoiseConfig,
    NoPeekConfig,
    PatrolConfig,
    TopKConfig,
    VIBConfig,
)
from latentprint.registry import made_by


def make_defences(configs: Sequence[DefenceConfig], n_classes: int, epochs: int) -> list[FeatureDefense]:
    """One for each of the settings, in their order.

    Args:
        n_classes: of the victim.
        epochs: of its training.

    Raises:
        UserError: a kind is listed twice.
    """
    kinds = [config.made_by if isinstance(config, CustomConfig) else config.kind for config in configs]
    if twice := [kind for kind in dict.fromkeys(kinds) if kinds.count(kind) > 1]:
        raise UserError(f"defences: {twice[0]} is listed twice; expected each kind at most once")
    noise_std = math.sqrt(sum(config.std**2 for config in configs if isinstance(config, NoiseConfig)))
    return [_make(config, n_classes, epochs, noise_std) for config in configs]


def _make(config: DefenceConfig, n_classes: int, epochs: int, noise_std: float) -> FeatureDefense:
    match config:
        case NoiseConfig():
            return Noise(config)
        case DropoutConfig():
            return Dropout(config)
        case TopKConfig():
            return TopK(config)
        case NoPeekConfig():
            return NoPeek(config)
        case AdversarialConfig():
            return Adversarial(config)
        case PatrolConfig():
            return Patrol(config, epochs)
        case VIBConfig():
            return VIB(config)
        case CustomConfig():
            return made_by(config.made_by, FeatureDefense, **config.options)
        case CEMConfig():
            return CEM(config, lambda shape: make_surrogate(config.surrogate, shape, n_classes, noise_std))
