"""What the logs of an attack say is amiss, and which setting mends it.

The rules are the notes' table (seed 000, section 6.3), read off the rows of metrics.jsonl alone, so that a resumed run
says what an unbroken one says. A false alarm costs more than silence: a rule that judges a whole stage waits for its
end, and bounds lie well outside what sound runs show.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from latentprint.label.presets import AttackConfig
from latentprint.label.stages import Stage
from latentprint.report.values import number

Row = Mapping[str, Any]

#: Stage 0: the Fréchet distance counts as fallen at this share of the untouched prior's, and there is nothing to gain
#: below this multiple of the distance between real photos.
FALLEN, ROOM = 0.97, 4.0
#: Stage 1: over three looks the squared distance to what public photos say should fall to this share.
ALIGNING = 0.9
#: Stage 2: the notes leave it at this success (seed 000, section 6.2).
SUCCESS = 0.8
#: The variance of label embeddings between classes, as a share of the public photos'. The notes call 0.02 collapsed
#: and 0.15 sound (seed 000, section 4.4).
COLLAPSED = 0.2
#: Pictures of different classes, from 0 (as unlike as strangers') to 1 (one person).
ALIKE = 0.5
#: Skipped steps that are no accident; a gradient norm, and its growth within a stage, that is an explosion.
SKIPPED, NORM, GROWTH = 3, 10.0, 10.0
#: Attention entropy, as a share of its maximum, that reads all identity tokens alike, or one alone.
UNIFORM, SINGLE = 0.98, 0.02

#: Losses that ask for the victim's answer.
ANSWERING = frozenset({"cls", "margin", "centre", "p_reg"})


@dataclass(frozen=True)
class Levels:
    """What was measured before the attack.

    Attributes:
        real, base: Fréchet distance of real photos and of the untouched prior's pictures to real photos.
        jump: a rise of it between looks that is too fast.
        spread: variance between the embeddings of public photos, in [0, 1].
    """

    real: float
    base: float
    jump: float
    spread: float = 1.0


@dataclass(frozen=True)
class Finding:
    """What a rule found when it first applied: in ``stage`` at its ``step``; ``advice`` names the setting, whose
    stages are counted as in the config.yaml of the run."""

    rule: str
    stage: str
    step: int
    said: str
    advice: str


@dataclass(frozen=True)
class StageLog:
    """A stage as far as it was logged: rows of its loop, rows of its looks, and whether it is over."""

    number: int
    config: AttackConfig
    levels: Levels
    steps: list[Row]
    looks: list[Row]
    over: bool
    before: tuple[StageLog, ...] = ()

    @property
    def stage(self) -> Stage:
        return self.config.stages[self.number]

    @property
    def ran(self) -> int:
        return int(max(row["step"] for row in (*self.steps, *self.looks)))

    def looked(self, key: str) -> list[float]:
        return _values(self.looks, key)

    def logged(self, key: str) -> list[float]:
        return _values(self.steps, key)

    def set(self, key: str, value: float) -> str:
        return f"--set attack.stages.{self.number}.{key}={value:g}"

    def longer(self) -> str:
        """Settings that keep the stage for twice the steps it ran."""
        steps = 2 * self.ran
        cap = [self.set("steps", steps)] if steps > self.stage.steps else []
        return " ".join([self.set("min_steps", steps), *cap])


Said = tuple[str, str] | None


def frechet_stuck(log: StageLog) -> Said:
    """The prior is far from the public photos and warming up brought it no nearer."""
    distance, levels, stage = log.looked("frechet"), log.levels, log.stage
    if stage.identity != "image" or not log.over or not distance:
        return None
    if not (levels.base > ROOM * levels.real and distance[-1] > FALLEN * levels.base):
        return None
    return (f"the Fréchet distance did not fall: {distance[-1]:.2f}, where the untouched prior has {levels.base:.2f} "
            f"and real photos {levels.real:.2f}",
            f"raise the adapters' learning rate and stay longer: {log.set('lora_lr', 2 * stage.lora_lr or 1e-4)} "
            f"{log.longer()}")


def align_stuck(log: StageLog) -> Said:
    """Half of the hand-over is done and the label embeddings no longer come nearer to what public photos say."""
    squares, share = [d**2 for d in log.looked("distance")], log.logged("lambda")
    if log.stage.identity != "mixed" or "align" not in log.stage.active or len(squares) < 3 or not share:
        return None
    if share[-1] < 0.5 or squares[-1] < log.config.align_bound or squares[-1] <= ALIGNING * squares[-3]:
        return None
    return (f"the alignment does not fall: {squares[-1]:.2f} after {squares[-3]:.2f}, bound {log.config.align_bound:g}",
            f"weigh it more: {_beta(log)}")


def frechet_jump(log: StageLog) -> Said:
    """Lambda rises faster than the adapters follow."""
    distance, stage = [log.levels.base, *log.looked("frechet")], log.stage
    if stage.identity != "mixed" or len(distance) < 2 or not distance[-1] - distance[-2] > log.levels.jump:
        return None
    horizon = math.ceil(1.5 * log.config.horizon)
    cap = f" {log.set('steps', 2 * horizon)}" if 2 * horizon > stage.steps else ""
    return (f"the Fréchet distance jumped from {distance[-2]:.2f} to {distance[-1]:.2f}",
            f"hand over more slowly: --set attack.horizon={horizon}{cap}")


def low_success(log: StageLog) -> Said:
    """All steps are spent and the victim still does not name the pictures' class."""
    success, stage = log.looked("success"), log.stage
    if stage.identity != "label" or not ANSWERING & set(stage.active) or log.ran < stage.steps or not success:
        return None
    if success[-1] >= min(SUCCESS, stage.success_bound):
        return None
    advice = [f"stay longer in {mixed.stage.name}, until lambda has passed 0.99: {mixed.longer()}"
              for mixed in log.before if mixed.stage.identity == "mixed"][-1:]
    if success[-1] > success[(len(success) - 1) // 2]:
        advice.append(f"give {stage.name}, where it still rises, more steps: {log.set('steps', 2 * stage.steps)}")
    return (f"success on the victim is {success[-1]:.0%} at the last step",
            "; ".join(advice) or f"raise the embedding's learning rate: {_embedding_rate(log)}")


def collapsed(log: StageLog) -> Said:
    """All labels became one embedding, or all pictures one face."""
    variance, alike = log.looked("collapse"), log.looked("alike")
    if not log.stage.embedding_lr:
        return None
    if variance and variance[-1] < COLLAPSED * log.levels.spread:
        return (f"label embeddings collapse: their variance between classes is {variance[-1]:.2f}, that of public "
                f"photos {log.levels.spread:.2f}", _apart(log))
    if alike and alike[-1] > ALIKE:
        return (f"pictures of different classes are alike: {alike[-1]:.2f} from strangers (0) to one person (1)",
                _apart(log))
    return None


def exploding(log: StageLog) -> Said:
    """Steps are skipped, or gradients keep growing."""
    skipped, norms, stage = log.logged("skipped"), log.logged("grad_norm"), log.stage
    grown = len(norms) > 3 and min(norms[-3:]) > max(NORM, GROWTH * norms[0])
    if not grown and (not skipped or skipped[-1] < SKIPPED):
        return None
    said = f"gradients grew from {norms[0]:.2g} to {norms[-1]:.2g}" if grown else \
        f"{skipped[-1]:.0f} steps had a non-finite loss or an exploding gradient"
    rates = {"lora_lr": stage.lora_lr, "embedding_lr": stage.embedding_lr}
    return said, "lower the learning rate: " + " ".join(log.set(key, lr / 2) for key, lr in rates.items() if lr)


def attention(log: StageLog) -> Said:
    """Reference attention ignores the identity, or all of it but one token."""
    entropy, lr = log.looked("attention_entropy"), log.stage.lora_lr
    if not entropy or SINGLE <= entropy[-1] <= UNIFORM:
        return None
    if entropy[-1] > UNIFORM:
        return (f"attention reads all identity tokens alike (entropy {entropy[-1]:.3f} of 1), so who is drawn hardly "
                "depends on them", f"raise the adapters' learning rate: {log.set('lora_lr', 2 * lr or 1e-4)}")
    return (f"attention reads a single identity token (entropy {entropy[-1]:.3f} of 1)",
            f"lower the adapters' learning rate: {log.set('lora_lr', lr / 2)}")


RULES: dict[str, Callable[[StageLog], Said]] = {
    "frechet-stuck": frechet_stuck, "align-stuck": align_stuck, "frechet-jump": frechet_jump,
    "low-success": low_success, "collapse": collapsed, "gradients": exploding, "attention": attention,
}  # fmt: skip


def diagnose(rows: Sequence[Row], config: AttackConfig, levels: Levels) -> list[Finding]:
    """Every rule that applied at some look, once a stage, as it first did.

    Args:
        rows: of metrics.jsonl, in order (see ``report.figures.read_metrics``).
        config: resolved, as in the run's config.yaml.
    """
    found: dict[tuple[str, str], Finding] = {}
    logged = [row for row in rows if str(row["phase"]).startswith("stage")]
    for end, row in enumerate(logged, start=1):
        if str(row["phase"]).endswith("-look"):
            for finding in _applying(logged[:end], config, levels):
                found.setdefault((finding.rule, finding.stage), finding)
    return list(found.values())


def latest(rows: Sequence[Row], config: AttackConfig, levels: Levels) -> list[Finding]:
    """What the last row, a look, adds to ``diagnose``."""
    known = diagnose(rows[:-1], config, levels)
    return [finding for finding in diagnose(rows, config, levels) if finding not in known]


def _applying(rows: Sequence[Row], config: AttackConfig, levels: Levels) -> Iterator[Finding]:
    for log in _stage_logs(rows, config, levels):
        for name, rule in RULES.items():
            if said := rule(log):
                yield Finding(name, log.stage.name, log.ran, *said)


def _stage_logs(rows: Sequence[Row], config: AttackConfig, levels: Levels) -> list[StageLog]:
    logs: list[StageLog] = []
    last = str(rows[-1]["phase"]).removesuffix("-look")
    for index, stage in enumerate(config.stages):
        steps, looks = ([row for row in rows if row["phase"] == phase] for phase in (stage.name, f"{stage.name}-look"))
        if steps or looks:
            capped = max(row["step"] for row in (*steps, *looks)) >= stage.steps
            logs.append(StageLog(index, config, levels, steps, looks, capped or stage.name != last, tuple(logs)))
    return logs


def _values(rows: Sequence[Row], key: str) -> list[float]:
    return [value for row in rows if (value := number(row.get(key))) is not None]


def _beta(log: StageLog) -> str:
    return f"--set attack.beta={2 * log.config.beta or 1:g}"


def _embedding_rate(log: StageLog) -> str:
    return log.set("embedding_lr", 2 * log.stage.embedding_lr or 1e-3)


def _apart(log: StageLog) -> str:
    """What keeps classes apart: photos of their own, and more weight on staying near them and on variety."""
    if log.config.pairing == "random":
        return "pair classes with photos that are like them: --set attack.pairing=confidence"
    if log.stage.identity == "mixed":
        return f"weigh the alignment more: {_beta(log)}"
    losses = log.stage.active
    raised = {"align": 2 * losses.get("align", 0.5)}
    if "diversity" in losses:  # it needs public people with several photos, so it is only raised, not switched on
        raised["diversity"] = 2 * losses["diversity"]
    return f"weigh {' and '.join(raised)} more: " + " ".join(log.set(f"losses.{k}", v) for k, v in raised.items())
