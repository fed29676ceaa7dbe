"""Measure and reduce what vision models give away about the people they saw.

>>> import latentprint as lp
>>> report = lp.load_report("runs/mine")  # doctest: +SKIP
>>> report.leak                           # doctest: +SKIP
Estimate(value=0.39, low=0.18, high=0.63)

What is here is imported when it is first used: ``import latentprint`` itself does not import PyTorch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from latentprint.api import audit, compare
    from latentprint.attack import Attack
    from latentprint.data.base import ImageSet
    from latentprint.defense import Defense as Defence
    from latentprint.errors import RunFailed, UserError
    from latentprint.feature.attack import FeatureAttack
    from latentprint.feature.defense import FeatureDefense as FeatureDefence
    from latentprint.feature.presets import FeatureConfig
    from latentprint.feature.victim import SplitVictim
    from latentprint.label.presets import LabelConfig
    from latentprint.registry import register
    from latentprint.results import Comparison, Estimate, Report, load_report
    from latentprint.surrogates.base import Surrogate
    from latentprint.template.presets import TemplateConfig
    from latentprint.victim import Victim

#: Where each name comes from, and as what.
_HOMES = {
    "audit": "api", "compare": "api", "load_report": "results", "Report": "results", "Comparison": "results",
    "Estimate": "results", "UserError": "errors", "RunFailed": "errors", "ImageSet": "data.base", "Victim": "victim",
    "SplitVictim": "feature.victim", "Attack": "attack", "FeatureAttack": "feature.attack",
    "Defence": "defense:Defense", "FeatureDefence": "feature.defense:FeatureDefense", "Surrogate": "surrogates.base",
    "LabelConfig": "label.presets", "TemplateConfig": "template.presets", "FeatureConfig": "feature.presets",
    "register": "registry",
}
__all__ = ["Attack", "Comparison", "Defence", "Estimate", "FeatureAttack", "FeatureConfig", "FeatureDefence",
           "ImageSet", "LabelConfig", "Report", "RunFailed", "SplitVictim", "Surrogate", "TemplateConfig", "UserError",
           "Victim", "audit", "compare", "load_report", "register"]


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib import metadata

        return metadata.version(__name__)
    if name not in _HOMES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    module, _, original = _HOMES[name].partition(":")
    found = globals()[name] = getattr(importlib.import_module(f"{__name__}.{module}"), original or name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
