"""Label embeddings beside the teacher's embeddings of public photos: where they lie, how long and how far apart."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from latentprint.engine.seeds import generator
from latentprint.handover import LabelEmbedding
from latentprint.label.tools import Tools
from latentprint.metrics.geometry import embedding_geometry, pair_angles

#: Public photos whose cloud is described as a whole.
CLOUD = 2000


def one_a_person(labels: Tensor, count: int) -> Tensor:
    """Index of the first photo of each of ``count`` people, or of all when there are fewer, spread evenly."""
    order = labels.argsort(stable=True)
    first = order[torch.cat([torch.ones(1, dtype=torch.bool), labels[order].diff() > 0])]
    return first[torch.linspace(0, len(first) - 1, min(count, len(first))).round().long()]


@torch.no_grad()
def geometry_section(labels: LabelEmbedding, tools: Tools, seed: int = 0) -> dict[str, Any]:
    """The geometries that seed 000, section 1.3, sets beside each other, for report.json.

    ``label`` and ``teacher``: equally many vectors, one a class and one a person. ``photos``: the teacher's whole
    cloud, several photos a person, and ``random``: as many directions that mean nothing, as labels begin. A rank or a
    correlation needs the cloud: twenty vectors span at most twenty dimensions. The norm of label embeddings is that
    before normalisation; the rest is of unit vectors.
    """
    public = tools.public.labels
    index = one_a_person(public, labels.table.num_embeddings)
    raw = labels.raw(torch.arange(len(index), device=tools.device)).cpu()
    cloud = public.argsort(stable=True)[:CLOUD]  # whole people: a silhouette needs pairs
    noise = torch.randn((len(cloud), raw.shape[1]), generator=generator(seed, "geometry"))
    return {
        "compared": f"{len(index)} label embeddings, one a class, and the teacher's embeddings of {len(index)} public "
                    f"photos, one a person; then {len(cloud)} public photos, and as many random directions",
        "label": _geometry(raw),
        "teacher": _geometry(tools.embeddings[index]),
        "photos": _geometry(tools.embeddings[cloud], public[cloud]),
        "random": _geometry(normalize(noise, dim=1)),
    }


def _geometry(raw: Tensor, people: Tensor | None = None) -> dict[str, float]:
    """Without ``people`` each vector is its own: no silhouette."""
    unit = normalize(raw, dim=1)
    found = replace(embedding_geometry(unit, torch.arange(len(unit)) if people is None else people),
                    mean_norm=float(raw.norm(dim=1).mean()))
    angles = pair_angles(unit)
    values = asdict(found) | {"mean_angle": float(angles.mean()), "least_angle": float(angles.min()),
                              "sd_angle": float(angles.std())}
    return {key: value for key, value in values.items() if value == value}
