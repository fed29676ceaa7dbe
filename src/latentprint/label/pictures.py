"""The pictures of a label audit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.manifold import TSNE
from torch import Tensor

from latentprint.label.attack import ProgressiveAttack
from latentprint.label.evaluate import HEADLINE, ArmScores, Bench
from latentprint.label.geometry import one_a_person
from latentprint.label.samples import read_samples
from latentprint.label.tools import Tools
from latentprint.metrics.geometry import class_angles
from latentprint.models.answers import embeddings, readings
from latentprint.models.recognisers import EmbeddingNetwork
from latentprint.report import figures, plots
from latentprint.report.embeddings import angle_heatmaps, norm_histogram
from latentprint.types import Reconstruction
from latentprint.verification import STRICT

#: People on the grid at most; the table has them all.
GRID_PEOPLE = 30


def draw_figures(run_dir: Path, bench: Bench, tools: Tools, arms: dict[str, ArmScores], drawn: Reconstruction,
                 attack: ProgressiveAttack) -> list[dict[str, str]]:
    """Write the pictures into ``run_dir/images`` and list all but the grid for the report."""
    folder = run_dir / "images"
    _grid(folder / "grid.png", bench, tools, arms["attack"], drawn)
    listed = [{"file": "images/similarity.png", "title": "Similarity to the person",
               "caption": "By the judge: impostors, real photos of the same person, and reconstructions."},
              {"file": "images/norms.png", "title": "Norms before normalisation",
               "caption": "Label embeddings start with norm 1. The teacher's are multiples of their mean norm."},
              {"file": "images/embeddings.png", "title": "Label and true embeddings, PCA",
               "caption": "Two principal axes. A line joins the embedding learned for a class with the person's true "
                          "one, which the attack never sees."},
              {"file": "images/tsne.png", "title": "Label and true embeddings, t-SNE",
               "caption": "The same by t-SNE: a short line means that the label lies nearest its person. Distances "
                          "between groups have no meaning."},
              {"file": "images/angles.png", "title": "Angles between classes",
               "caption": "Rows and columns are people, similar ones side by side. If the labels learned the people, "
                          "both patterns agree."}]
    _similarity(folder / "similarity.png", bench, arms)
    _embeddings(folder, bench, attack)
    if samples := read_samples(run_dir):
        figures.samples_strip(samples, folder / "samples.png")
        listed.append({"file": "images/samples.png", "title": "Samples over training",
                       "caption": "One row per person, sampled from the label embedding with the same attribute image "
                                  "and noise each time."})
    return [*(entry for entry in listed if (run_dir / entry["file"]).is_file()), *figures.from_metrics(run_dir)]


def _grid(path: Path, bench: Bench, tools: Tools, arm: ArmScores, drawn: Reconstruction) -> None:
    """Per person the image with the highest victim confidence, beside a real photo and its attribute image."""
    people = range(min(GRID_PEOPLE, bench.data.private_train.n_classes))
    best = [int(torch.where(drawn.classes == y, drawn.victim_confidence, -1.0).argmax()) for y in people]
    heldout = bench.data.private_heldout
    real = [int((heldout.labels == y).nonzero()[0]) for y in people]
    figures.face_grid(
        _hwc(heldout.images[real]), _hwc(tools.public.images[drawn.attribute_index[best]]),
        _hwc((drawn.images[best] * 255).round().to(torch.uint8)), [heldout.names[y] for y in people],
        arm.values["similarity_judge"][best].tolist(),
        [None if np.isnan(v) else bool(v == 1) for v in arm.values[HEADLINE][best]], path,
    )


def _similarity(path: Path, bench: Bench, arms: dict[str, ArmScores]) -> None:
    heldout, judge = bench.data.private_heldout, bench.judge
    table = embeddings(judge.network, heldout.images, "judge") @ judge.templates.T
    other = torch.ones_like(table, dtype=torch.bool).scatter_(1, heldout.labels[:, None], False)
    plots.similarity_histogram(
        table.gather(1, heldout.labels[:, None]).squeeze(1).numpy(), table[other].numpy(),
        arms["attack"].values["similarity_judge"], judge.calibration.thresholds[STRICT], path,
    )


@torch.no_grad()
def _embeddings(folder: Path, bench: Bench, attack: ProgressiveAttack) -> None:
    assert attack.progressive is not None and isinstance(attack.tools.teacher, EmbeddingNetwork)
    tools, truth, n = attack.tools, bench.teacher.truth, len(bench.teacher.truth)
    raw = attack.progressive.labels.raw(torch.arange(n, device=tools.device)).cpu()
    learned = torch.nn.functional.normalize(raw, dim=1)
    both = torch.cat([learned, truth])
    _, _, axes = torch.linalg.svd(both - both.mean(0), full_matrices=False)
    for name, flat in (("embeddings", ((both - both.mean(0)) @ axes[:2].T).numpy()), ("tsne", tsne(both))):
        plots.embedding_plot(flat[:n], flat[n:], folder / f"{name}.png")
    angle_heatmaps(class_angles(learned).numpy(), class_angles(truth).numpy(), folder / "angles.png")
    photos = tools.public.images[one_a_person(tools.public.labels, 500)]
    norms = readings(tools.teacher, photos, "centred", "teacher").norm(dim=1)
    norm_histogram(raw.norm(dim=1).numpy(), (norms / norms.mean()).numpy(), folder / "norms.png")


def tsne(points: Tensor, seed: int = 0) -> NDArray[np.float32]:
    """``(N, 2)`` coordinates of unit vectors ``(N, D)``, N >= 4, that keep neighbourhoods (van der Maaten 2008)."""
    perplexity = min(30.0, (len(points) - 1) / 3)
    return np.asarray(TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(points.numpy()))


def _hwc(images: Tensor) -> np.ndarray:
    return images.permute(0, 2, 3, 1).contiguous().numpy()
