"""The attacks on features by name."""

from __future__ import annotations

from collections.abc import Callable

from latentprint.feature.attack import FeatureAttack
from latentprint.feature.attacks.base import Harness
from latentprint.feature.attacks.decoder import DecoderAttack
from latentprint.feature.attacks.gan import GANAttack
from latentprint.feature.attacks.optimise import OptimiseAttack
from latentprint.feature.attacks.perceptual import PerceptualAttack
from latentprint.feature.attacks.prior import PriorAttack
from latentprint.feature.attacks.settings import AttackName
from latentprint.registry import PluginName, made_by

ATTACKS: dict[AttackName, Callable[[Harness], FeatureAttack]] = {
    "decoder": DecoderAttack, "perceptual": PerceptualAttack, "gan": GANAttack, "optimise": OptimiseAttack,
    "prior": PriorAttack,
}  # fmt: skip


def make_attack(name: AttackName | PluginName, harness: Harness) -> FeatureAttack:
    """The attack of that name, called with what all attacks are given."""
    if name in ATTACKS:
        return ATTACKS[name](harness)
    return made_by(name, FeatureAttack, harness)  # type: ignore[type-abstract]
