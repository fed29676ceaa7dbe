"""The pictures of a label audit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from latentprint.label.attack import ProgressiveAttack
from latentprint.label.evaluate import HEADLINE, STRICT, ArmScores, Bench
from latentprint.label.tools import Tools
from latentprint.models.recognisers import embed
from latentprint.report import figures
from latentprint.types import Reconstruction

#: People on the grid at most; the table has them all.
GRID_PEOPLE = 30


def draw_figures(run_dir: Path, bench: Bench, tools: Tools, arms: dict[str, ArmScores], drawn: Reconstruction,
                 attack: ProgressiveAttack) -> list[dict[str, str]]:
    """Write the pictures into ``run_dir/images`` and list all but the grid for the report."""
    folder = run_dir / "images"
    _grid(folder / "grid.png", bench, tools, arms["attack"], drawn)
    listed = [{"file": "images/similarity.png", "title": "Similarity to the person",
               "caption": "By the judge: strangers, the same person in real photos, and reconstructions."},
              {"file": "images/embeddings.png", "title": "Label and true embeddings",
               "caption": "Two principal axes of the teacher's space; a line joins what was learned for a class "
                          "with the person's true embedding, which the attack never sees."}]
    _similarity(folder / "similarity.png", bench, arms)
    _embeddings(folder / "embeddings.png", bench, attack)
    return [*listed, *figures.from_metrics(run_dir)]


def _grid(path: Path, bench: Bench, tools: Tools, arm: ArmScores, drawn: Reconstruction) -> None:
    """Per person the picture that the victim is surest of, beside a real photo and its attribute image."""
    people = range(min(GRID_PEOPLE, bench.data.private_train.n_classes))
    best = [int(torch.where(drawn.classes == y, drawn.victim_confidence, -1.0).argmax()) for y in people]
    heldout = bench.data.private_heldout
    real = [int((heldout.labels == y).nonzero()[0]) for y in people]
    figures.face_grid(
        _hwc(heldout.images[real]), _hwc(tools.public.images[drawn.attribute_index[best]]),
        _hwc((drawn.images[best] * 255).round().to(torch.uint8)), [heldout.names[y] for y in people],
        arm.values["similarity_judge"][best].tolist(), [bool(v == 1) for v in arm.values[HEADLINE][best]], path,
    )


def _similarity(path: Path, bench: Bench, arms: dict[str, ArmScores]) -> None:
    heldout, judge = bench.data.private_heldout, bench.judge
    table = embed(judge.network, heldout.images) @ judge.templates.T
    other = torch.ones_like(table, dtype=torch.bool).scatter_(1, heldout.labels[:, None], False)
    figures.similarity_histogram(
        table.gather(1, heldout.labels[:, None]).squeeze(1).numpy(), table[other].numpy(),
        arms["attack"].values["similarity_judge"], judge.calibration.thresholds[STRICT], path,
    )


@torch.no_grad()
def _embeddings(path: Path, bench: Bench, attack: ProgressiveAttack) -> None:
    assert attack.progressive is not None
    labels, truth = attack.progressive.labels, bench.teacher.truth
    learned = labels(torch.arange(len(truth), device=attack.tools.device)).cpu()
    both = torch.cat([learned, truth])
    _, _, axes = torch.linalg.svd(both - both.mean(0), full_matrices=False)
    flat = (both - both.mean(0)) @ axes[:2].T
    figures.embedding_plot(flat[: len(truth)].numpy(), flat[len(truth):].numpy(), path)


def _hwc(images: Tensor) -> np.ndarray:
    return images.permute(0, 2, 3, 1).contiguous().numpy()
