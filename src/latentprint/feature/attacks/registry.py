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

ATTACKS: dict[AttackName, Callable[[Harness], FeatureAttack]] = {
    "decoder": DecoderAttack, "perceptual": PerceptualAttack, "gan": GANAttack, "optimise": OptimiseAttack,
    "prior": PriorAttack,
}  # fmt: skip
