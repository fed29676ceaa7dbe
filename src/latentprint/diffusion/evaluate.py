"""How good a prior is: do swaps look like the person asked for, and do they keep the attribute image's attributes?"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from latentprint.data.base import ImageSet
from latentprint.data.procedural import ATTRIBUTE_NAMES
from latentprint.diffusion.scene import Scene, Scenes
from latentprint.diffusion.swap import Swapper
from latentprint.metrics.verification import calibrate, enrol, match
from latentprint.models.attributes import in_batches
from latentprint.models.recognisers import embed
from latentprint.progress import tracked


@torch.no_grad()
def generate(swapper: Swapper, embeddings: Tensor, scenes: Scene | Scenes, seeds: Tensor, steps: int = 4,
             guidance: float = 1.0, batch: int = 128) -> Tensor:
    """Swaps as uint8 ``(N, 3, H, W)`` on the CPU, in batches; sample i depends on its own seed alone."""
    device = next(swapper.parameters()).device
    parts = []
    for index in tracked(torch.arange(len(embeddings)).split(batch), "sampling"):
        x = swapper.ddim(embeddings[index].to(device), scenes.take(index).to(device), seeds[index], steps,
                         guidance=guidance)
        parts.append((x.clamp(0, 1) * 255).round().to(torch.uint8).cpu())
    return torch.cat(parts)


def swap_metrics(swapper: Swapper, judge: nn.Module, teacher: nn.Module, data: ImageSet,
                 steps: int = 4) -> dict[str, Any]:
    """Swap each person onto a photo of the next person and judge the result.

    ``data`` holds at least 4 photos a person. The identity given is the teacher's mean of the first half of a
    person's photos; the judge's templates are made of the same photos and its thresholds calibrated on the rest.
    """
    photos = int(data.counts().min())
    place = torch.cat([torch.arange(int(n)) for n in data.counts()])
    first = (place < photos // 2).nonzero().squeeze(1)
    rest = (place >= photos // 2).nonzero().squeeze(1)
    wanted = enrol(embed(teacher, data.images[first]), data.labels[first], data.n_classes)
    judged = embed(judge, data.images)
    templates = enrol(judged[first], data.labels[first], data.n_classes)
    calibration = calibrate(judged[rest], data.labels[rest], templates)
    donors = (data.labels[rest] + 1) % data.n_classes
    images = generate(swapper, wanted[donors], swapper.scenes(data.take(rest)), torch.arange(len(rest)), steps)
    similarity, matched = match(embed(judge, images), donors, templates, calibration.thresholds[1e-3])
    result: dict[str, Any] = {
        "judge_pass_rate": round(float(matched.float().mean()), 4),
        "judge_similarity": round(float(similarity.mean()), 4),
        "teacher_similarity": round(float((embed(teacher, images) * wanted[donors]).sum(1).mean()), 4),
        "photo_pass_rate": round(calibration.tar[1e-3], 4),
        "n": len(rest),
        "sampler": f"ddim-{steps}",
    }
    if data.attributes is not None:
        read, truth = in_batches(swapper.attributes, images).numpy(), data.attributes[rest].numpy()
        result["attribute_correlation"] = {
            name: round(float(np.corrcoef(read[:, i], truth[:, i])[0, 1]), 4)
            for i, name in enumerate(ATTRIBUTE_NAMES)
        }
    return result
