"""The baselines as arms of an audit."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from latentprint.attack import Attack
from latentprint.engine.loop import accelerator
from latentprint.engine.run import RunDir
from latentprint.errors import UserError
from latentprint.label.baselines.art import ArtMIFace, mi_face_of_art
from latentprint.label.baselines.base import Harness
from latentprint.label.baselines.direct import direct
from latentprint.label.baselines.embedding_search import EmbeddingSearch
from latentprint.label.baselines.guidance import ClassifierGuidance
from latentprint.label.baselines.mi_face import MIFace
from latentprint.label.baselines.ppa import PPA
from latentprint.label.baselines.settings import ARM_KEYS, BaselineName
from latentprint.label.presets import AttackConfig, LabelConfig
from latentprint.label.tools import Tools
from latentprint.registry import PluginName, made_by
from latentprint.types import Access, Reconstruction
from latentprint.victim import Victim

BASELINES: dict[BaselineName, Callable[[Harness], Attack]] = {
    "mi-face": MIFace, "art-mi-face": ArtMIFace, "embedding-search": EmbeddingSearch, "ppa": PPA, "direct": direct,
    "guidance": ClassifierGuidance,
}  # fmt: skip


def check_baselines(names: Sequence[BaselineName | PluginName], attack: AttackConfig, victim: Victim) -> None:
    """Find out early whether they can run.

    Raises:
        UserError: the victim grants no gradient, the attack takes none, its last stage cannot be trained directly, a
            name is given twice, or a library is missing.
    """
    if names and victim.access is not Access.WHITE_BOX:
        raise UserError(f"baselines: they need gradients, but {victim.name} grants {victim.access.value} access; leave "
                        "the setting empty")
    if names and not attack.stages:
        raise UserError("baselines: each is given as many of the victim's gradients as the attack takes, and with "
                        "attack.stages=[] that is none; give stages, or leave the setting empty")
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"baselines: '{twice}' is given twice")
    if "direct" in names and (last := attack.stages[-1]).identity != "label":
        raise UserError(f"baselines: 'direct' trains the attack's last stage alone, which needs identity 'label', but "
                        f"attack.stages.{len(attack.stages) - 1} ('{last.name}') has '{last.identity}'; leave it out")
    if "art-mi-face" in names:
        mi_face_of_art()


def draw_baselines(config: LabelConfig, victim: Victim, tools: Tools, classes: Tensor, seeds: Tensor, budget: int,
                   run: RunDir) -> dict[str, Reconstruction]:
    """What the attacks that ``config.baselines`` names drew, by their arms' keys.

    Args:
        classes, seeds: ``(N,)`` int64, as in `Attack`.
        budget: pictures at which each may take the victim's gradient.
        run: the audit's. Baselines log and checkpoint in a folder inside it, for their curves to stay apart.

    Raises:
        UserError: the victim grants no gradient.
    """
    if not config.baselines:
        return {}
    check_baselines(config.baselines, config.attack, victim)
    own = RunDir.open(run.path / "baselines", run.config, resume=True, writes=run.writes)
    harness = Harness(tools, config.attack, config.baseline_settings, budget, own, config.seed, config.precision,
                      config.save_every)
    drawn = {ARM_KEYS.get(name, name): _drawn(name, harness, victim, classes, seeds) for name in config.baselines}
    own.close()
    return drawn


def _drawn(name: BaselineName | PluginName, harness: Harness, victim: Victim, classes: Tensor,
           seeds: Tensor) -> Reconstruction:
    """From its checkpoint where it was finished before; its queries then count as if it had been asked again."""
    saved = harness.run.load(f"{name}-pictures")
    accelerator().wait_for_everyone()  # before the main process saves what the others have yet to look for
    if saved is None:
        attack = BASELINES[name](harness) if name in BASELINES else (
            made_by(name, Attack, harness))  # type: ignore[type-abstract]
        made = attack(victim, classes, seeds)
        harness.run.save(f"{name}-pictures", vars(made))
        return made
    made = Reconstruction(**saved)
    victim.queries.forward += made.n_forward
    victim.queries.backward += made.n_backward
    return made
