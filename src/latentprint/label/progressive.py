"""The three stages at work: what each step optimises, when a stage ends, what is watched meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from latentprint.diffusion.lora import AdapterState, adapter_parameters, add_adapter
from latentprint.engine.device import autocast
from latentprint.engine.loop import Loop, say, warm_cosine
from latentprint.engine.run import RunDir
from latentprint.engine.seeds import derive, first_part, generator
from latentprint.handover import HandOver, LabelEmbedding
from latentprint.label.diagnosis import Finding, Levels, diagnose, latest
from latentprint.label.embedding import Centres, Manifold, spread_within
from latentprint.label.look import Look, Watch
from latentprint.label.mapping import LastLayer, fit_map
from latentprint.label.objectives import Aims, Objectives
from latentprint.label.pairing import Opinions
from latentprint.label.presets import AttackConfig
from latentprint.label.samples import keep_sample
from latentprint.label.stages import LossName, Stage
from latentprint.label.tools import Tools
from latentprint.losses.identity import align
from latentprint.losses.weighting import FixedWeighting, UncertaintyWeighting
from latentprint.report.figures import Row, read_metrics
from latentprint.schedules import no_lower
from latentprint.victim import Victim

#: Rate of the class centres as a share of the label embedding's: as fast as the features, they would follow them.
CENTRE_RATE = 0.1

@dataclass
class StageResult:
    """How a stage went."""

    name: str
    steps: int
    reason: str
    seconds: float
    skipped: int


@dataclass
class Memory:
    """What the rules of a stage remember; part of its checkpoint."""

    frechets: list[float] = field(default_factory=list)
    last: dict[str, float] = field(default_factory=dict)

    def state_dict(self) -> dict[str, Any]:
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


class Progressive:
    """Adapters and label embedding, led through the recipe.

    Args:
        pairs: ``(C, n)`` public photos of each class. pseudo: ``(C, D)`` what these say of each class.
        opinions: the victim's of the public photos, if it was asked already.

    Attributes:
        labels: the label embedding.
        aims: what losses are measured against.
    """

    def __init__(self, tools: Tools, config: AttackConfig, victim: Victim, pairs: Tensor, pseudo: Tensor, run: RunDir,
                 seed: int, precision: str = "fp32", save_every: int = 50,
                 opinions: Opinions | None = None) -> None:
        self.tools, self.config, self.victim = tools, config, victim
        self.opinions = opinions or Opinions(victim, tools.public)
        self.run, self.seed, self.precision, self.save_every = run, seed, precision, save_every
        self.device = tools.device
        self.aims = self._aims(pairs, pseudo)
        start = self.public
        if config.initial == "random":
            start = F.normalize(torch.randn(pseudo.shape, generator=generator(seed, "start")), dim=1)
        torch.manual_seed(derive(seed, "labels"))
        self.labels = LabelEmbedding(start.cpu()).to(self.device)
        self.handover = HandOver(self.labels, config.horizon, config.annealing, config.mixing, config.pace,
                                 config.align_bound)
        self.results: list[StageResult] = []
        self.watch = Watch(tools, config, victim, seed)

    @property
    def public(self) -> Tensor:
        """What public photos say of each class, ``(C, D)``."""
        return self.aims.public

    def _aims(self, pairs: Tensor, pseudo: Tensor) -> Aims:
        tools, config = self.tools, self.config
        aims = Aims(pairs, pseudo.to(self.device), Manifold(tools.embeddings))
        wanted = {name for stage in config.stages for name in stage.active}
        if config.initial == "mapped" or {"centre", "p_reg"} & wanted:
            last = LastLayer.of(self.victim, self.opinions)
            aims.origin, aims.directions = last.origin.to(self.device), last.directions.to(self.device)
            if config.initial == "mapped":
                mapping = fit_map(last.centred, tools.embeddings, self.run, self.seed, self.device,
                                  steps=config.map_steps, noise=config.map_noise)
                aims.public = mapping(aims.directions)
            if "p_reg" in wanted:
                aims.centres = Centres(aims.directions, float(last.centred.norm(dim=1).mean())).to(self.device)
        if "diversity" in wanted:
            aims.spread = spread_within(tools.embeddings, tools.public.labels)
        return aims

    def fit(self) -> list[StageResult]:
        """All stages, each from its checkpoint where there is one."""
        self.keep_samples(0)
        for number, stage in enumerate(self.config.stages):
            self.add_adapters(stage)
            loop = StageLoop(self, stage, number).fit()
            self.results.append(StageResult(stage.name, loop.step, loop.reason, loop.seconds, loop.skipped))
        adapter_parameters(self.tools.swapper.prior, trained=False)
        return self.results

    def keep_samples(self, step: int) -> None:
        """Draw the few pictures that show training, at a step of the stage under way."""
        if self.run.writes:
            total = sum(result.steps for result in self.results) + step
            keep_sample(self.run.path, total, self.watch.samples(self.labels))

    def diagnosis(self, find: Callable[[list[Row], AttackConfig, Levels], list[Finding]] = diagnose) -> list[Finding]:
        """What the logs so far say is amiss."""
        return find(read_metrics(self.run.path / "metrics.jsonl"), self.config, self.watch.levels)

    def add_adapters(self, stage: Stage) -> None:
        """LoRA where the stage wants it and earlier stages did not put it yet."""
        present = getattr(self.tools.swapper.prior.unet, "peft_config", {})
        for scope in ("reference", "all") if stage.adapters == "all" else ("reference",):
            if scope not in present:
                torch.manual_seed(derive(self.seed, "adapter", scope))
                add_adapter(self.tools.swapper.prior, scope, scope, self.config.rank)


class StageLoop:
    """One stage: draws a step's batch, computes its losses, decides when it is over."""

    def __init__(self, owner: Progressive, stage: Stage, number: int) -> None:
        self.o, self.stage, self.number = owner, stage, number
        self.objectives = Objectives(stage, owner.tools, owner.config, owner.victim, owner.handover, owner.aims,
                                     owner.seed)
        # The untouched prior's distance is what the first look is compared with.
        self.memory = Memory([owner.watch.base])
        names = tuple(stage.active)
        self.weighting: UncertaintyWeighting | FixedWeighting = (
            UncertaintyWeighting(names) if stage.weighting == "uncertainty"
            else FixedWeighting(names, dict.fromkeys(names, 1.0)))
        self.weighting.to(owner.device)

    def fit(self) -> Loop:
        o, stage = self.o, self.stage
        groups: list[dict[str, Any]] = [
            {"params": adapter_parameters(o.tools.swapper.prior), "lr": stage.lora_lr},
            {"params": list(o.labels.parameters()) if stage.embedding_lr else [], "lr": stage.embedding_lr},
            {"params": list(o.aims.centres.parameters()) if o.aims.centres and "p_reg" in stage.active else [],
             "lr": CENTRE_RATE * stage.embedding_lr},
            {"params": list(self.weighting.parameters()), "lr": stage.log_variance_lr, "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW([group for group in groups if group["params"]], weight_decay=0.0)
        states: dict[str, Any] = {"adapters": AdapterState(o.tools.swapper.prior), "labels": o.labels,
                                  "weighting": self.weighting, "handover": o.handover, "memory": self.memory,
                                  "queries": o.victim.queries}
        if o.aims.centres and "p_reg" in stage.active:
            states["centres"] = o.aims.centres
        return Loop(o.run, stage.name, optimizer, states, stage.steps, warm_cosine(stage.steps, 5, floor=0.1),
                    save_every=o.save_every, log_every=min(10, o.config.look_every)).fit(self.loss_at, self.after)

    def loss_at(self, step: int) -> tuple[Tensor, dict[str, Tensor | float]]:
        o = self.o
        lam = o.handover.step(self.stage.identity) if first_part() else o.handover.lam
        with autocast(o.device, o.precision):  # type: ignore[arg-type]
            raw = self.objectives(step)
        raw = {name: value.float() for name, value in raw.items()}
        scale = {name: self._scale(name, step) for name in self.stage.active}
        total = self.weighting({name: scale[name] * raw[name] for name in scale})
        logs: dict[str, Tensor | float] = {f"raw/{name}": value.detach() for name, value in raw.items()}
        weights = self.weighting.weights()
        logs |= {f"weight/{name}": weights[name] * scale[name] for name in scale}
        if self.stage.identity == "mixed":
            if first_part():
                o.handover.record(float(raw["align"].detach()) if "align" in raw else float("nan"))
            logs |= {"lambda": lam, "horizon": o.handover.horizon}
        return total, {**logs, **self.memory.last}

    def _scale(self, name: LossName, step: int) -> float:
        """A loss's scale; while lambda rises the alignment's falls as beta = beta0 (1 - lambda)."""
        annealed = 1.0
        if name == "align" and self.stage.identity == "mixed":
            annealed = self.o.config.beta * (1 - self.o.handover.lam)
        return self.stage.losses[name] * annealed * (self._phase(step, name) if self.stage.phased else 1.0)

    def _phase(self, step: int, name: LossName) -> float:
        """A3: first protect the prior, then turn to the victim."""
        late = step >= self.stage.steps / 4
        return {"prior": (2.0, 0.5), "cls": (0.5, 1.5)}.get(name, (1.0, 1.0))[late]

    def after(self, step: int) -> str | None:
        """Look now and then, slow the annealing when the Fréchet distance jumps, and say when the stage is over."""
        o, stage, memory = self.o, self.stage, self.memory
        if step % o.config.look_every and step != stage.steps:
            return None
        look = o.watch.look(stage.identity, o.labels)
        if stage.identity == "mixed" and look.frechet > memory.frechets[-1] + o.watch.jump:
            o.handover.horizon *= o.config.slow_down
        memory.frechets.append(look.frechet)
        memory.last = look.values() | (self._embedding() if stage.identity == "mixed" else {})
        o.run.log(f"{stage.name}-look", step, memory.last)
        o.keep_samples(step)
        for finding in o.diagnosis(latest):
            say(f"{finding.stage}, step {finding.step}: {finding.said}; {finding.advice}")
        return self._verdict(look) or self._worn_out() if step >= stage.min_steps else None

    def _verdict(self, look: Look) -> str | None:
        stage, watch = self.stage, self.o.watch
        if stage.identity == "image":
            if look.frechet != look.frechet:
                return "too few public photos for a Fréchet distance: least number of steps"
            return f"Fréchet distance {look.frechet:.2f} < {watch.bound:.2f}" if watch.calm(look) else None
        if stage.identity == "mixed":
            return self._handed_over()
        identity = stage.identity_share * watch.base_identity
        if look.success >= stage.success_bound and look.identity >= identity and watch.calm(look):
            return f"success {look.success:.2f}, identity {look.identity:.2f}"
        return None

    def _worn_out(self) -> str | None:
        """Early stopping on the Fréchet distance (seed 000, section 9.2)."""
        patience = self.stage.patience
        if patience is None or not no_lower(self.memory.frechets, patience):
            return None
        return f"no lower Fréchet distance in {patience} looks"

    def _handed_over(self) -> str | None:
        """The labels have taken over, and the Fréchet distance is steady."""
        recent = self.memory.frechets[-3:]
        # With too few public photos for a Fréchet distance (NaN) the other rules decide alone.
        steady = len(recent) == 3 and not np.std(recent) >= self.o.watch.jump
        return self.o.handover.over(self._alignment()) if steady else None

    def _embedding(self) -> dict[str, float]:
        """Of label embeddings: mean norm before normalisation, mean L2 distance to what public photos say."""
        o = self.o
        with torch.no_grad():
            raw = o.labels.raw(torch.arange(len(o.aims.pairs), device=o.device))
            distance = (F.normalize(raw, dim=1) - o.public).norm(dim=1)
        return {"norm": float(raw.norm(dim=1).mean()), "distance": float(distance.mean())}

    def _alignment(self) -> float:
        """Distance of label embeddings to what public photos say, whatever lambda makes of its weight."""
        o = self.o
        with torch.no_grad():
            return float(align(o.labels(torch.arange(len(o.aims.pairs), device=o.device)), o.public).mean())
