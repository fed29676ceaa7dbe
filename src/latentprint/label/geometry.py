"""Label embeddings beside the teacher's embeddings of public photos: where they lie, how long and how far apart."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from latentprint.handover import LabelEmbedding
from latentprint.label.tools import Tools
from latentprint.metrics.geometry import embedding_geometry, pair_angles


def one_a_person(labels: Tensor, count: int) -> Tensor:
    """Index of the first photo of each of ``count`` people, or of all when there are fewer, spread evenly."""
    order = labels.argsort(stable=True)
    first = order[torch.cat([torch.ones(1, dtype=torch.bool), labels[order].diff() > 0])]
    return first[torch.linspace(0, len(first) - 1, min(count, len(first))).round().long()]


@torch.no_grad()
def geometry_section(labels: LabelEmbedding, tools: Tools) -> dict[str, Any]:
    """Both geometries (seed 000, section 1.3) of equally many vectors, one a class, for report.json.

    The norm of label embeddings is that before normalisation; the rest is of unit vectors. One vector a class has no
    silhouette.
    """
    index = one_a_person(tools.public.labels, labels.table.num_embeddings)
    raw = labels.raw(torch.arange(len(index), device=tools.device)).cpu()
    return {
        "compared": f"{len(index)} label embeddings, one a class, and the teacher's embeddings of {len(index)} public "
                    "photos, one a person",
        "label": _geometry(raw),
        "teacher": _geometry(tools.embeddings[index]),
    }


def _geometry(raw: Tensor) -> dict[str, float]:
    unit = normalize(raw, dim=1)
    found = replace(embedding_geometry(unit, torch.arange(len(unit))), mean_norm=float(raw.norm(dim=1).mean()))
    angles = pair_angles(unit)
    values = asdict(found) | {"mean_angle": float(angles.mean()), "least_angle": float(angles.min())}
    return {key: value for key, value in values.items() if value == value}
