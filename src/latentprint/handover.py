"""The three-stage hand-over: a generator that listens to an encoder learns to listen to labels instead.

A generator conditioned on a teacher encoder's embeddings knows what can be encoded; a label cannot. So an embedding
of each label is learned in the teacher's space and takes the encoder's place: at first the teacher's embeddings
condition the generator (``image``), then a mix that moves from them to the labels' (``mixed``), in the end the labels'
alone (``label``).

    stage 0:  e = F(x)
    stage 1:  e = (1 - lambda) F(x) + lambda E(y),  lambda from 0 to 1
    stage 2:  e = E(y)

Nothing here knows of faces: the generator, its loss and what else a stage asks for are the caller's.
Source: seed 000, sections 3.2 and 7.3; the teacher annealing is Clark et al. 2019 (arXiv:1907.04829).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from latentprint.losses.identity import align, embedding_norm
from latentprint.schedules import Mixing, PhaseClock, cosine_lambda, linear_lambda, mix, plateau

Source = Literal["image", "mixed", "label"]
Annealing = Literal["cosine", "linear"]
Pace = Literal["steady", "alignment"]

ANNEALINGS: dict[Annealing, Callable[[float], float]] = {"cosine": cosine_lambda, "linear": linear_lambda}

#: Lambda at which labels count as alone: the cosine arrives slowly.
ARRIVED = 0.99
#: Paced by the alignment, the annealing goes at this share of its speed at least, so that it ends.
SLOWEST = 0.25
#: An alignment that fell by less than this share from one such window to the next no longer falls.
WINDOW, TOLERANCE = 20, 0.02


class LabelEmbedding(nn.Module):
    """``E_psi(y)``: a class embedding plus a residual MLP that starts at zero, L2-normalised at the output.

    Args:
        initial: ``(C, D)`` start, e.g. pseudo-label means; rows are normalised.
        hidden: width of the MLP.
    """

    def __init__(self, initial: Tensor, hidden: int = 256) -> None:
        super().__init__()
        dim = initial.shape[1]
        # Rows of norm sqrt(D) have entries of order one: one learning rate then suits table and MLP.
        self.scale = dim**0.5
        self.table = nn.Embedding.from_pretrained(F.normalize(initial, dim=1) * self.scale, freeze=False)
        last = nn.Linear(hidden, dim)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.SiLU(), last)

    def raw(self, classes: Tensor) -> Tensor:
        """Before normalisation, scaled so that the start has norm 1: ``(B, D)``; the norm loss acts on it."""
        h = self.table(classes)
        return (h + self.mlp(h)) / self.scale

    def forward(self, classes: Tensor) -> Tensor:
        return F.normalize(self.raw(classes), dim=1)


@dataclass(frozen=True)
class Condition:
    """What conditions the generator in a step.

    Attributes:
        embedding: ``(B, D)``.
        label: ``(B, D)`` unit embeddings of the labels, where they take part. raw: the same before normalisation.
    """

    embedding: Tensor
    label: Tensor | None = None
    raw: Tensor | None = None

    def losses(self, target: Tensor) -> dict[str, Tensor]:
        """``norm`` and ``align`` (to ``target``, ``(B, D)``) of the labels' embeddings, ``(B,)`` each; none without."""
        if self.label is None or self.raw is None:
            return {}
        return {"norm": embedding_norm(self.raw), "align": align(self.label, target)}


class HandOver:
    """Who conditions the generator, step by step; all but ``labels`` is in its state.

    Args:
        labels: class -> unit vector of the teacher's space.
        horizon: steps in which lambda goes from 0 to 1.
        annealing: lambda as a function of the phase. mixing: how lambda mixes embeddings.
        pace: ``steady``, or as fast as the ``alignment`` allows: while the alignment loss is above ``bound``, slower
            in proportion, down to `SLOWEST` (seed 000, section 9.2).
        bound: alignment loss, in [0, 4], at which labels count as aligned.

    Attributes:
        lam: lambda of the present step.
    """

    def __init__(self, labels: LabelEmbedding, horizon: float, annealing: Annealing = "cosine",
                 mixing: Mixing = "slerp", pace: Pace = "steady", bound: float = 0.1) -> None:
        self.labels, self.horizon, self.annealing, self.mixing = labels, float(horizon), annealing, mixing
        self.pace, self.bound = pace, bound
        self.source: Source = "image"
        self.clock, self.lam = PhaseClock(), 0.0
        self.alignments: list[float] = []

    def step(self, source: Source) -> float:
        """Lambda of the step that begins now in a stage of that ``source``; a mixed one moves on."""
        self.source = source
        if source != "mixed":
            self.lam = float(source == "label")
            return self.lam
        self.lam = ANNEALINGS[self.annealing](self.clock.phase)
        self.clock.advance(self.horizon / self._speed())
        return self.lam

    def condition(self, classes: Tensor | None = None, teacher: Tensor | None = None) -> Condition:
        """The condition of this step's batch.

        Args:
            classes: ``(B,)`` int64; not needed while the source is ``image``.
            teacher: ``(B, D)`` the encoder's embeddings; not needed once it is ``label``.
        """
        if self.source == "image":
            assert teacher is not None
            return Condition(teacher)
        assert classes is not None
        raw = self.labels.raw(classes)
        label = F.normalize(raw, dim=1)
        if self.source == "label":
            return Condition(label, label, raw)
        assert teacher is not None
        return Condition(mix(teacher, label, self.lam, self.mixing), label, raw)

    def record(self, alignment: float) -> None:
        """Remember the alignment loss of a step, for the pace and for `over`."""
        self.alignments.append(alignment)

    def over(self, alignment: float) -> str | None:
        """Why stage 1 may end, or None: lambda has arrived, and ``alignment`` is reached or no longer falls.

        With several inputs a class the alignment loss has a floor, their spread: the second rule ends the stage then.
        """
        if self.lam < ARRIVED:
            return None
        if alignment < self.bound:
            return "handed over: aligned"
        settled = plateau(self.alignments, WINDOW, TOLERANCE)
        return "handed over: alignment no longer falling" if settled else None

    def _speed(self) -> float:
        if self.pace == "steady" or not self.alignments or not self.alignments[-1] > self.bound:
            return 1.0
        return max(SLOWEST, self.bound / self.alignments[-1])

    def state_dict(self) -> dict[str, Any]:
        return {"phase": self.clock.phase, "horizon": self.horizon, "alignments": self.alignments}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.clock.load_state_dict(state)
        self.horizon, self.alignments = state["horizon"], list(state["alignments"])
