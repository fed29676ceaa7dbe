"""What a surrogate of the conditional entropy looks at: attention, gates and each class's penalty, as pictures.

Of the trained surrogate on training images as they are, without noise. Seed 004, section 7, asks for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentprint.data.base import ImageSet
from latentprint.engine.seeds import derive
from latentprint.errors import UserError
from latentprint.feature.defenses.cem import CEM
from latentprint.feature.victim import SplitVictim
from latentprint.report.plots import gates_plot, penalty_bars
from latentprint.report.sheets import picture_table
from latentprint.surrogates import Surrogate

#: Classes and images looked at, columns of the attention sheet and their images.
CLASSES, IMAGES, SHOWN, MOST = 16, 256, 8, 5


def draw_explanations(folder: Path, victim: SplitVictim, data: ImageSet, seed: int) -> list[dict[str, str]]:
    """Draw what can be drawn of the victim's surrogate into ``folder`` and list it for the report; [] without one."""
    surrogate = next((defence.surrogate for defence in victim.defences if isinstance(defence, CEM)), None)
    if surrogate is None:
        return []
    index = _some(data.labels, seed)
    labels = data.labels[index].to(victim.device)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(derive(seed, "explain"))  # slots and densities draw
        features = victim.features(data.floats(index).to(victim.device)).float()
        found = {name: value.float().cpu() for name, value in surrogate.explain(features, labels).items()}
        penalty = _penalty(surrogate, features, labels)
    listed = []
    who = labels.cpu()
    if "attention" in found:
        columns = _columns(found["attention"], who, data.names)
        pictures = data.images[index].permute(0, 2, 3, 1).contiguous()
        picture_table({name: pictures[most].numpy() for name, (most, _) in columns.items()}, folder / "attention.png",
                      {name: [f"{value:.3f}" for value in weight.tolist()] for name, (_, weight) in columns.items()})
        listed.append({"file": "images/attention.png", "title": "What attention listens to", "caption": (
            "Training images by the weight that the surrogate's attention gives them, the most at the top; a "
            "column a class, or a slot of one class.")})
    gates = {name: value for name, value in found.items() if name != "attention"}
    if gates:
        first = _first_of_each(who)
        gates_plot({name: value[first].numpy() for name, value in gates.items()}, folder / "gates.png")
        listed.append({"file": "images/gates.png", "title": "Which dimensions count",
                       "caption": "Gates of every dimension, a row a class, and how they are distributed."})
    if penalty is not None:
        penalty_bars({data.names[int(who[i])]: float(penalty[i]) for i in _first_of_each(who)},
                     folder / "class_penalty.png")
        listed.append({"file": "images/class_penalty.png", "title": "Penalty of each class",
                       "caption": "What the surrogate still asks of each class at the end of the training."})
    return listed


def _some(labels: Tensor, seed: int) -> Tensor:
    """Some images of some classes, as many of each, in order of class."""
    rng = torch.Generator().manual_seed(derive(seed, "explained"))
    classes = labels.unique()
    classes = classes[torch.randperm(len(classes), generator=rng)[:CLASSES]].sort().values
    each = max(2, IMAGES // len(classes))
    order = torch.randperm(len(labels), generator=rng)
    return torch.cat([order[labels[order] == one][:each] for one in classes])


def _penalty(surrogate: Surrogate, features: Tensor, labels: Tensor) -> Tensor | None:
    try:
        return surrogate(features, labels).diagnostics["class_penalty"].float().cpu()
    except UserError:  # weight 0 without the noise that the penalty is relative to
        return None


def _columns(attention: Tensor, labels: Tensor, names: Sequence[str]) -> dict[str, tuple[Tensor, Tensor]]:
    """By heading the images with most weight, and the weights: a column a class, or a slot of the first class."""
    members = {one: (labels == one).nonzero()[:, 0] for one in labels.unique().tolist()[:SHOWN]}
    n = min(MOST, *(len(each) for each in members.values()))
    if attention.ndim == 1:
        return {names[one]: _most(attention, own, n) for one, own in members.items()}
    own = next(iter(members.values()))
    return {f"slot {i}": _most(attention[:, i], own, n) for i in range(min(SHOWN, attention.shape[1]))}


def _most(weight: Tensor, members: Tensor, n: int) -> tuple[Tensor, Tensor]:
    order = members[weight[members].argsort(descending=True, stable=True)][:n]
    return order, weight[order]


def _first_of_each(labels: Tensor) -> NDArray[np.int64]:
    return np.unique(labels.numpy(), return_index=True)[1]
