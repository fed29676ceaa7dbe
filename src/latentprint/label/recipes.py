"""The notes' loss presets and annealing arms, as changes to a recipe.

A preset replaces the losses of the stages that work from labels alone; an arm changes the stages themselves, at an
equal number of steps. What is ours alone is off in all of them: ``align`` in stage 2 would tell a label that was not
led there where photos lie, and ``centre`` where the victim has the class.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, Literal, get_args

from latentprint.label.stages import Stage

LossPreset = Literal["baseline", "A", "B", "C", "A+B", "B+C", "A+B+C", "D"]
Arm = Literal["baseline", "two-stage", "linear", "cosine", "no-align"]
LOSS_PRESETS: tuple[LossPreset, ...] = get_args(LossPreset)
ARMS: tuple[Arm, ...] = get_args(Arm)

#: Which one for which need: the notes' decision guide (seed 001), without the numbers that it expects.
GUIDE = {
    "baseline": "the notes' chapter as it stood: fixed weights, one rival, plain cosine to the identity",
    "A": "pictures suffer from the fine-tuning: protects the prior",
    "B": "little time, higher success wanted: adaptive k, class centres, an identity margin",
    "C": "pictures of a person look alike, or like the attribute image: attributes in place of pixels, diversity",
    "A+B": "success, with the prior protected",
    "B+C": "success and variety",
    "A+B+C": "all three, weights by hand",
    "D": "all three, weights learned: no tuning, longer training",
}

#: Losses of label stages that the notes do not have.
OURS = frozenset({"centre", "align", "manifold"})

#: Weights that the notes start from (seed 001, D3).
BASELINE = {"prior": 1.2, "cls": 1.0, "id": 0.8, "perceptual": 0.5, "norm": 0.2}


def with_loss(stages: Sequence[Stage], preset: LossPreset) -> list[Stage]:
    """The recipe with the losses of its label stages as the preset has them."""
    parts = {"baseline": "", "D": "A+B+C"}.get(preset, preset)
    losses: dict[str, float] = dict(BASELINE)
    settings: dict[str, Any] = {"answer": "top-1", "denoising": "mse", "progress_weighted": False, "phased": False,
                                "weighting": "fixed"}
    if "A" in parts:
        settings |= {"denoising": "mse+cosine", "progress_weighted": True, "phased": True}
    if "B" in parts:
        settings |= {"answer": "top-k"}
        losses |= {"contrast": losses.pop("id"), "p_reg": 0.5, "margin": 0.3}
    if "C" in parts:
        losses |= {"attribute": losses["perceptual"], "perceptual": 0.1, "diversity": 0.1}
    if preset == "D":
        settings |= {"weighting": "uncertainty"}
        losses = dict.fromkeys(losses, 1.0)
    return _each(stages, "label", lambda stage: _changed(stage, losses=losses, **settings))


def unfit(stages: Sequence[Stage], arm: Arm) -> str | None:
    """Why these stages cannot be changed to the arm, in words, or None."""
    gone = {"label": OURS, "mixed": {"align"} if arm == "no-align" else set(), "image": set()}
    if bare := next((stage.name for stage in stages if not set(stage.active) - gone[stage.identity]), None):
        return f"arm '{arm}' leaves the stage '{bare}' without losses"
    if arm == "two-stage" and len(stages) < 2:
        return "arm 'two-stage' needs two stages or more: the first takes the steps of all but the last"
    if arm == "two-stage" and stages[-1].identity != "label":
        return (f"arm 'two-stage' needs a last stage with identity 'label', and that of '{stages[-1].name}' is "
                f"'{stages[-1].identity}'")
    return None


def with_arm(stages: Sequence[Stage], arm: Arm) -> list[Stage]:
    """The recipe as the arm has it, without `OURS`; of those that skip a stage, the last runs for the steps of all."""
    stages = _each(stages, "label", lambda stage: _without(stage, OURS))
    if arm in ("linear", "cosine"):
        return stages
    if arm == "no-align":
        return [_without(stage, {"align"}) for stage in stages]
    last, total = stages[-1], sum(stage.steps for stage in stages)
    if arm == "baseline":
        return [_changed(last, steps=total, min_steps=last.min_steps + total - last.steps)]
    # First learn to draw anybody from a label at once, then turn to the victim.
    name = "stage0" if last.name != "stage0" else "stage0a"  # a checkpoint of its own
    restore = _changed(last, name=name, losses={"prior": 1.0, "id": 1.0, "perceptual": 0.1, "norm": 0.1},
                       weighting="fixed", steps=total - last.steps, min_steps=total - last.steps)
    return [restore, last]


def _each(stages: Sequence[Stage], identity: str, change: Callable[[Stage], Stage]) -> list[Stage]:
    return [change(stage) if stage.identity == identity else stage for stage in stages]


def _without(stage: Stage, losses: Collection[str]) -> Stage:
    return _changed(stage, losses={name: scale for name, scale in stage.losses.items() if name not in losses})


def _changed(stage: Stage, **changes: Any) -> Stage:
    return Stage.model_validate(stage.model_dump() | changes)
