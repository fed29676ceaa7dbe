"""Warm start: a network that is trained here learns first what a published recogniser makes of the public photos.

Some dozens of photos of each person do not teach a network from scratch what tells faces apart. It learns to predict
the recogniser's embeddings of the public photos from its penultimate features, through a linear layer that is thrown
away, and only then who the private people are. Source: Romero et al. 2015, FitNets (arXiv:1412.6550): hints first, then
the task. The embeddings are taken less their mean, which all faces share and which says nothing of anybody.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latentprint.data.base import ImageSet
from latentprint.engine.device import autocast, lay_out
from latentprint.engine.loop import Loop, warm_cosine
from latentprint.engine.run import RunDir
from latentprint.engine.seeds import derive, step_generator
from latentprint.errors import UserError
from latentprint.framer import Framer
from latentprint.label.presets import LabelConfig, ModelConfig
from latentprint.label.views import random_views
from latentprint.models.answers import embeddings
from latentprint.models.assets import find_asset, load_asset
from latentprint.models.checkpoints import fill, load_state, read_metadata
from latentprint.models.recognisers import EmbeddingNetwork, embed
from latentprint.victim import Victim

#: Where ``networks/NAME-warm.safetensors`` says what it learned from.
LEARNED_FROM = "warm"


class WarmStart:
    """A recogniser and the public photos that networks learn it from.

    Args:
        name: of the asset. network: frozen. public: at least two photos.
    """

    def __init__(self, name: str, network: nn.Module, public: ImageSet) -> None:
        self.name, self.network, self.public = name, network, public

    @cached_property
    def targets(self) -> Tensor:
        """Embeddings of the public photos less their mean, unit ``(N, D)`` on the CPU; computed when first needed, so
        that a run taken up after its warm starts does not wait for them."""
        seen = embeddings(self.network, self.public.images, self.name)
        return F.normalize(seen - seen.mean(0), dim=1)

    @property
    def dim(self) -> int:
        """D, of one photo, for the embeddings of all may not be needed."""
        return embed(self.network, self.public.images[:1]).shape[1]


def warm_starts(names: Iterable[str], public: ImageSet, known: Mapping[str, nn.Module],
                framer: Framer) -> dict[str, WarmStart]:
    """The recognisers of these names, each once.

    Args:
        known: those that the audit has loaded and framed for other uses, by name. framer: loads and frames the others.

    Raises:
        UserError: an asset that is not there or is no recogniser, or one that cannot be framed.
    """
    return {name: WarmStart(name, known[name] if name in known else _recogniser(name, framer), public)
            for name in dict.fromkeys(names)}


def warm_up(config: LabelConfig, model: ModelConfig, victim: Victim, start: WarmStart, run: RunDir,
            device: torch.device) -> None:
    """Train all but the last layer to predict the embeddings, by their cosine; the victim is frozen again afterwards.

    A phase ``NAME-warm`` of its own; what it leaves is kept as ``networks/NAME-warm.safetensors``. The defence of a
    victim takes no part in it: no private photo is seen.
    """
    name, public = f"{victim.name}-warm", start.public
    with torch.no_grad():
        width = victim.penultimate(public.floats(slice(1)).to(device)).shape[1]
    torch.manual_seed(derive(config.seed, name))
    linear = nn.Linear(width, start.dim).to(device)
    victim.unfreeze()
    optimizer = torch.optim.AdamW([*victim.parameters(), *linear.parameters()], model.warm_lr, weight_decay=5e-2)

    def loss_at(step: int) -> tuple[Tensor, dict[str, Tensor | float]]:
        rng = step_generator(config.seed, name, step)
        index = torch.randint(len(public), (model.warm_batch,), generator=rng)
        x = random_views(public.floats(index).to(device), 1, rng, model.augment, mirror=True).clamp(0, 1)
        with autocast(device, config.precision):
            features = victim.penultimate(x)
        cosine = F.cosine_similarity(linear(features.float()), start.targets[index].to(device), dim=1).mean()
        return 1 - cosine, {"cosine": cosine.detach()}

    Loop(run, name, optimizer, {"network": victim.network, "linear": linear}, model.warm_steps,
         warm_cosine(model.warm_steps, 50), clip_norm=5.0, save_every=config.save_every).fit(loss_at)
    victim.freeze()
    run.save_weights(name, victim.network, {LEARNED_FROM: start.name})


def take_over(victim: Victim, file: Path, warm: str, setting: str) -> None:
    """Load what a warm start of an earlier run left, but for the last layer, which nothing has been learned in.

    Args:
        warm: the recogniser that it must have learned from. setting: where the victim's settings are, for messages.

    Raises:
        UserError: no such file, one that is not of a warm start or learned from another recogniser, or another
            architecture's.
    """
    state, where = load_state(file), f"{setting}.warm_weights: {file}"
    source = read_metadata(file).get(LEARNED_FROM)
    if source != warm:
        found = f"learned from {source}" if source else "does not say what it learned from"
        raise UserError(f"{where} {found}; expected networks/NAME-warm.safetensors of a run with warm={warm}")
    own = victim.network.state_dict()
    last = [name for name, layer in victim.network.named_modules()
            if isinstance(layer, nn.Linear) and layer.out_features == victim.n_classes][-1:]
    kept = {key: value for key, value in own.items() if key.rpartition(".")[0] in last}
    fill(victim.network, {**state, **kept}, f"{where} does not fit this network")


def _recogniser(name: str, framer: Framer) -> nn.Module:
    kind, network = find_asset(name, framer.assets)[1]["kind"], load_asset(name, framer.assets)
    if not isinstance(network, EmbeddingNetwork):
        raise UserError(f"warm: {name} is of the kind {kind}; expected a recogniser")
    lay_out(network, framer.device)
    framer.frame(network, name, None, "warm")
    return network
