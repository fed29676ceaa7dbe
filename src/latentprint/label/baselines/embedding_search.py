"""Embedding search: an identity embedding a class, moved by the victim's loss alone through the frozen prior.

No regulariser but the unit sphere: whether fine-tuning beats this is the honest question, and whether naive search
leaves the embeddings that the prior knows is the notes' thesis.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latentprint.attack import Draw
from latentprint.engine.device import autocast
from latentprint.engine.loop import Loop, warm_cosine
from latentprint.engine.seeds import step_generator
from latentprint.label.attack import fixed, initial_embeddings
from latentprint.label.baselines.base import Baseline, Harness
from latentprint.label.mapping import LastLayer, fit_map
from latentprint.label.pairing import Opinions
from latentprint.label.views import clipped, random_views
from latentprint.losses.classification import cross_entropy
from latentprint.victim import Victim

#: Logits ``(B, C)`` and classes ``(B,)`` to ``(B,)``.
VictimLoss = Callable[[Tensor, Tensor], Tensor]


class EmbeddingSearch(Baseline):
    """From where the attack's labels start, or from the mean of the photos that the victim finds most like the class,
    down the victim's cross-entropy."""

    def run(self, victim: Victim, classes: Tensor, seeds: Tensor) -> Draw:
        h = self.harness
        found = search(h, victim, "embedding-search", self.start(victim), torch.arange(victim.n_classes),
                       cross_entropy, h.settings.embedding_search.lr)
        return fixed(h.tools, h.config, found).run(victim, classes, seeds)

    @torch.no_grad()
    def start(self, victim: Victim) -> Tensor:
        """An embedding for each class, ``(C, D)``."""
        h = self.harness
        opinions = Opinions(victim, h.tools.public)
        if h.settings.embedding_search.start == "pseudo":
            return initial_embeddings(h.tools, h.config, opinions, h.seed)[1]
        last, device = LastLayer.of(victim, opinions), h.tools.device
        with torch.enable_grad():
            mapping = fit_map(last.centred, h.tools.embeddings, h.run, h.seed, device, steps=h.config.map_steps,
                              noise=h.config.map_noise)
        return mapping(last.directions.to(device)).cpu()


def search(harness: Harness, victim: Victim, name: str, start: Tensor, classes: Tensor, loss: VictimLoss,
           lr: float) -> Tensor:
    """Spend the budget on embeddings that the victim takes for their classes, in random scenes and views.

    Args:
        name: of the training loop.
        start: ``(R, D)`` embeddings, of which a step draws a batch.
        classes: ``(R,)`` whom each should show.
        loss: of the victim's logits.

    Returns:
        ``(R, D)`` unit embeddings on the CPU.
    """
    tools, config, views = harness.tools, harness.config, harness.config.augmentations
    # Rows of norm sqrt(D) have entries of order one, as in the attack's label embedding.
    table = nn.Embedding.from_pretrained(F.normalize(start, dim=1) * start.shape[1] ** 0.5, freeze=False)
    table.to(tools.device)
    steps = harness.steps(harness.batch * views)

    def loss_at(step: int) -> tuple[Tensor, dict[str, Tensor | float]]:
        rng = step_generator(harness.seed, name, step)
        rows = torch.randint(len(start), (harness.batch,), generator=rng)
        scene = tools.scenes.take(torch.randint(len(tools.public), (harness.batch,), generator=rng)).to(tools.device)
        seeds = torch.randint(2**62, (harness.batch,), generator=rng)
        with autocast(tools.device, harness.precision):
            wanted = F.normalize(table(rows.to(tools.device)), dim=1)
            picture = tools.swapper.ddim(wanted, scene, seeds, config.ddim_steps, config.gradient_steps)
            logits = victim(random_views(clipped(picture), views, rng)).float()
        return loss(logits, classes[rows].repeat(views).to(tools.device)).mean(), {}

    Loop(harness.run, name, torch.optim.Adam(table.parameters(), lr), {"table": table, "queries": victim.queries},
         steps, warm_cosine(steps, 5, floor=0.1), save_every=harness.save_every).fit(loss_at)
    return F.normalize(table.weight.detach(), dim=1).cpu()
