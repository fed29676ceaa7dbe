"""How good a prior is: do swaps look like the person asked for, and do they keep the attribute image's attributes?"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from latentprint.data.base import ImageSet, grouped
from latentprint.diffusion.scene import Scene, Scenes
from latentprint.diffusion.swap import Swapper
from latentprint.models.answers import embeddings
from latentprint.models.attributes import agreement, in_batches, rounded
from latentprint.models.recognisers import embed
from latentprint.progress import tracked
from latentprint.verification import calibrate, enrol


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

    Of people with at least two photos, the first half says who is asked for: the teacher's mean embedding, and the
    judge's template, whose thresholds are calibrated on the rest. What cannot be said of so few people is None.

    ``attribute_correlation`` is with the attributes of the photo painted over: the true ones, or where these are not
    known what the same network reads in it.
    """
    data = data.of_classes((data.counts() >= 2).nonzero().flatten().tolist())
    if data.n_classes < 2:
        return {"judge_pass_rate": None, "photo_pass_rate": None, "teacher_similarity": None, "n": 0}
    order, place = grouped(data.labels)
    data = data.take(order)
    enrolled = place < (data.counts() // 2)[data.labels]
    first, rest = enrolled.nonzero().squeeze(1), (~enrolled).nonzero().squeeze(1)
    wanted = enrol(embeddings(teacher, data.images[first], "teacher"), data.labels[first], data.n_classes)
    judged = embeddings(judge, data.images, "judge")
    templates = enrol(judged[first], data.labels[first], data.n_classes)
    calibration = calibrate(judged[rest], data.labels[rest], templates)
    donors = (data.labels[rest] + 1) % data.n_classes
    images = generate(swapper, wanted[donors], swapper.scenes(data.take(rest)), torch.arange(len(rest)), steps)
    similarity, threshold = (embed(judge, images) * templates[donors]).sum(1), calibration.thresholds[1e-3]
    known = data.attributes[rest] if data.attributes is not None else in_batches(swapper.attributes, data.images[rest])
    return {
        "judge_pass_rate": None if math.isnan(threshold) else round(float((similarity > threshold).float().mean()), 4),
        "judge_similarity": round(float(similarity.mean()), 4),
        "teacher_similarity": round(float((embed(teacher, images) * wanted[donors]).sum(1).mean()), 4),
        "photo_pass_rate": rounded(calibration.tar[1e-3]),
        "people": data.n_classes,
        "n": len(rest),
        "sampler": f"ddim-{steps}",
        "attribute_correlation": agreement(in_batches(swapper.attributes, images), known),
    }
