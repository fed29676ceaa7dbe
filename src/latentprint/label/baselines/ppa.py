"""Plug & Play Attacks on the face-swap prior (Struppek et al. 2022, arXiv 2201.12179, section 3).

Sample latent vectors, here public embeddings; keep for each class those that the victim scores highest under random
views; optimise them with the Poincare loss; of what came out, choose by the victim's confidence under random views.
Nothing but the victim selects.
"""

from __future__ import annotations

import torch
from torch import Tensor

from latentprint.attack import QUERY_BATCH, Draw
from latentprint.diffusion.evaluate import generate
from latentprint.engine.seeds import derive, generator
from latentprint.label.attack import scene_of
from latentprint.label.baselines.base import Baseline
from latentprint.label.baselines.embedding_search import search
from latentprint.label.pairing import top_pairs
from latentprint.label.views import random_views
from latentprint.losses.classification import poincare
from latentprint.victim import Victim


class PPA(Baseline):
    """Several embeddings a class; each picture shows the one that the victim is surest of in that picture's scene."""

    def run(self, victim: Victim, classes: Tensor, seeds: Tensor) -> Draw:
        h = self.harness
        start = self.candidates(victim)
        kept = start.shape[1]
        found = search(h, victim, "ppa", start.flatten(0, 1), torch.arange(victim.n_classes).repeat_interleave(kept),
                       poincare, h.settings.ppa.lr).view_as(start)
        index = scene_of(seeds, len(h.tools.public))
        scenes, every = h.tools.scenes.take(index.repeat_interleave(kept)), found[classes].flatten(0, 1)
        drawn = generate(h.tools.swapper, every, scenes, seeds.repeat_interleave(kept), h.config.sample_steps,
                         h.config.guidance).view(len(seeds), kept, *scenes.image.shape[1:])
        chosen = self.surest(victim, drawn, classes, seeds)
        return Draw(drawn[torch.arange(len(seeds)), chosen].float() / 255, index)

    def candidates(self, victim: Victim) -> Tensor:
        """For each class the public embeddings whose swaps the victim scores highest, best first: ``(C, k, D)``."""
        h = self.harness
        n, settings = len(h.tools.public), h.settings.ppa
        people = torch.randperm(n, generator=generator(h.seed, "ppa-people"))[: settings.candidates]
        seeds = torch.tensor([derive(h.seed, "ppa-candidate", i) for i in range(len(people))])
        pictures = generate(h.tools.swapper, h.tools.embeddings[people], h.tools.scenes.take(scene_of(seeds, n)), seeds,
                            h.config.ddim_steps)
        scores = torch.cat([view_confidence(victim, part.float() / 255, settings.views,
                                            generator(h.seed, "ppa-first-views", i))
                            for i, part in enumerate(pictures.split(QUERY_BATCH))])
        return h.tools.embeddings[people[top_pairs(scores, settings.kept)]]

    def surest(self, victim: Victim, drawn: Tensor, classes: Tensor, seeds: Tensor) -> Tensor:
        """Which of each ``(N, k, 3, H, W)`` uint8 the victim is surest of under views, ``(N,)``.

        One picture's candidates at a time, for the views to depend on its seed alone.
        """
        views = self.harness.settings.ppa.views
        scores = [view_confidence(victim, several.float() / 255, views, generator(int(seed), "ppa-last-views"))[:, y]
                  for several, y, seed in zip(drawn, classes, seeds, strict=True)]
        return torch.stack(scores).argmax(1)


def view_confidence(victim: Victim, x: Tensor, views: int, rng: torch.Generator) -> Tensor:
    """The victim's probabilities averaged over random views of ``(B, 3, H, W)``: ``(B, C)``, on the CPU."""
    seen = victim.confidence(random_views(x.to(victim.device), views, rng)).float().cpu()
    return seen.view(views, len(x), -1).mean(0)
