"""The label channel's attacks: the progressive one, and arms that draw with the untouched prior.

All of them end in the same way: an identity embedding for each picture, a public photo as attribute image, a few
DDIM steps. They differ in where the embedding comes from and in whether the prior was changed.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from latentprint.attack import Attack, Draw
from latentprint.diffusion.evaluate import generate
from latentprint.engine.run import RunDir
from latentprint.engine.seeds import derive
from latentprint.label.pairing import Opinions, pseudo_embeddings, random_pairs, top_pairs
from latentprint.label.presets import AttackConfig
from latentprint.label.progressive import Progressive
from latentprint.label.tools import Tools
from latentprint.models.penultimate import class_directions
from latentprint.types import Access
from latentprint.victim import Victim

#: (victim, classes (N,), seeds (N,)) -> unit embeddings (N, D)
Embeddings = Callable[[Victim, Tensor, Tensor], Tensor]


class SwapAttack(Attack):
    """Swap given identities onto public photos with the prior as it is.

    Args:
        tools: the adversary's means.
        config: pictures' settings.
        embeddings: where identities come from.
    """

    def __init__(self, tools: Tools, config: AttackConfig, embeddings: Embeddings) -> None:
        self.tools, self.config, self.embeddings = tools, config, embeddings
        self.selected_fraction = config.selected

    def run(self, victim: Victim, classes: Tensor, seeds: Tensor) -> Draw:
        wanted = self.embeddings(victim, classes, seeds)
        index = scene_of(seeds, len(self.tools.public))
        images = generate(self.tools.swapper, wanted, self.tools.scenes.take(index), seeds, self.config.sample_steps,
                          self.config.guidance)
        return Draw(images.float() / 255, index)


def random_people(tools: Tools, config: AttackConfig) -> SwapAttack:
    """The floor: whoever, without asking the victim."""
    return SwapAttack(tools, config, lambda victim, classes, seeds: tools.embeddings[
        torch.tensor([derive(int(s), "who") % len(tools.public) for s in seeds])])


def pseudo_label(tools: Tools, config: AttackConfig, seed: int) -> SwapAttack:
    """The baseline without optimisation: the mean of the public photos that the victim finds most like the class."""
    return SwapAttack(tools, config, lambda victim, classes, seeds: initial_embeddings(
        tools, config, Opinions(victim, tools.public), seed)[1][classes])


def fixed(tools: Tools, config: AttackConfig, wanted: Tensor) -> SwapAttack:
    """Embeddings ``(C, D)`` that are known: with the people's true ones, the prior ceiling (evaluation only)."""
    return SwapAttack(tools, config, lambda victim, classes, seeds: wanted[classes])


class ProgressiveAttack(Attack):
    """The three-stage attack of the notes: fine-tune a copy of the prior and a label embedding, then swap.

    Args:
        tools: the adversary's means; the prior inside is the attack's own copy and is changed.
        config: recipe and pictures' settings.
        run: where stages log and checkpoint.
        seed: of everything drawn while training.
        precision: fp32 or bf16.
    """

    def __init__(self, tools: Tools, config: AttackConfig, run: RunDir, seed: int, precision: str = "fp32",
                 save_every: int = 50) -> None:
        self.tools, self.config, self.run_dir, self.seed = tools, config.resolved, run, seed
        self.precision, self.save_every = precision, save_every
        self.selected_fraction = config.selected
        self._pseudo: Tensor | None = None
        self.progressive: Progressive | None = None

    def run(self, victim: Victim, classes: Tensor, seeds: Tensor) -> Draw:
        opinions = Opinions(victim, self.tools.public)
        pairs, self._pseudo = initial_embeddings(self.tools, self.config, opinions, self.seed)
        self.progressive = Progressive(self.tools, self.config, victim, pairs, self._pseudo, self.run_dir, self.seed,
                                       self.precision, self.save_every, opinions)
        self.progressive.fit()
        labels = self.progressive.labels
        with torch.no_grad():
            wanted = labels(torch.arange(victim.n_classes, device=self.tools.device)).cpu()
        return fixed(self.tools, self.config, wanted).run(victim, classes, seeds)

    @property
    def pseudo(self) -> Tensor:
        """What `pseudo_label` would draw, ``(C, D)``, without asking the victim again; after `run`."""
        assert self._pseudo is not None
        return self._pseudo

    @property
    def public(self) -> Tensor:
        """What public photos said of each class before any optimisation, ``(C, D)``; after `run`."""
        assert self.progressive is not None
        return self.progressive.public.cpu()


def check_attack(config: AttackConfig, victim: Victim) -> None:
    """Find out early whether the victim has what the attack reads off its last layer.

    Raises:
        UserError: it has features and no last linear layer.
    """
    wanted = {name for stage in config.resolved.stages for name in stage.active}
    if victim.access is Access.WHITE_BOX and (config.initial == "mapped" or {"centre", "p_reg"} & wanted):
        class_directions(victim.network, victim.n_classes)


def initial_embeddings(tools: Tools, config: AttackConfig, opinions: Opinions, seed: int) -> tuple[Tensor, Tensor]:
    """Paired public photos ``(C, n)`` and the embeddings ``(C, D)`` that they give."""
    if config.pairing == "random":
        pairs = random_pairs(len(tools.public), opinions.victim.n_classes, config.pairs, seed)
    else:
        pairs = top_pairs(opinions.log_confidence, config.pairs)
    return pairs, pseudo_embeddings(tools.embeddings, pairs)


def scene_of(seeds: Tensor, n_public: int) -> Tensor:
    """The attribute image of each sample, which depends on its seed alone: ``(N,)``."""
    return torch.tensor([derive(int(s), "scene") % n_public for s in seeds])


def sample_seeds(seed: int, n_classes: int, images: int) -> tuple[Tensor, Tensor]:
    """Classes and seeds of ``images`` pictures of each class, both ``(C * images,)``."""
    classes = torch.arange(n_classes).repeat_interleave(images)
    places = torch.arange(images).repeat(n_classes)
    seeds = [derive(seed, "sample", int(y), int(j)) for y, j in zip(classes, places, strict=True)]
    return classes, torch.tensor(seeds)
