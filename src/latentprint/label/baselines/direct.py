"""Direct fine-tuning, the notes' baseline: random label embeddings and the label stage alone, from the first step on.

Losses and weights are those of the notes' chapter as it stood (``recipes.BASELINE``).
"""

from __future__ import annotations

import copy

from latentprint.label.attack import ProgressiveAttack
from latentprint.label.baselines.base import Harness


def direct(harness: Harness) -> ProgressiveAttack:
    """The attack with one stage in place of three, as many steps as the budget pays for, on a prior of its own.

    The stage runs to its end, where the attack's may stop at success: its budget is then spent like the others'. With a
    budget below one step nothing is trained.
    """
    # the losses first: of the stage's own, the arm may leave none
    direct = harness.config.model_copy(update={"loss": "baseline"}).resolved
    config = direct.model_copy(update={"arm": "baseline"}).resolved
    steps = harness.steps(config.stages[-1].batch * config.augmentations)
    stage = config.stages[-1].model_copy(update={"name": "stagedirect", "steps": steps, "min_steps": steps})
    tools = harness.tools.with_prior(copy.deepcopy(harness.tools.swapper.prior))
    return ProgressiveAttack(tools, config.model_copy(update={"stages": [stage] if steps else []}), harness.run,
                             harness.seed, harness.precision, harness.save_every)
