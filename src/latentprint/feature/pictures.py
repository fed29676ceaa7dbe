"""The pictures of a feature audit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentprint.data.pixels import as_bytes
from latentprint.engine.seeds import generator
from latentprint.feature.evaluate import Best, Judged
from latentprint.feature.victim import SplitVictim
from latentprint.metrics.image import psnr
from latentprint.report import figures
from latentprint.report.sheets import picture_table

#: Images on the sheet, and channels of a message shown.
SHOWN, CHANNELS = 10, 8


def draw_figures(run_dir: Path, judged: Judged, drawn: Mapping[str, Tensor], best: Best, victim: SplitVictim,
                 seed: int) -> list[dict[str, str]]:
    """Write the pictures into ``run_dir/images`` and list all but the grid for the report."""
    folder = run_dir / "images"
    index = shown(judged, best.reported_on)
    real = judged.attacked.floats(index)
    columns = {"image": as_bytes(real), "mean image": as_bytes(judged.mean.expand_as(real)),
               **{name: as_bytes(images[index]) for name, images in drawn.items()}}
    captions = {name: [f"{value:.1f} dB" for value in psnr(images[index], real).tolist()]
                for name, images in drawn.items()}
    picture_table(columns, folder / "grid.png", captions, across=True)
    listed = []
    if message := _message(victim, real, seed):
        picture_table(message, folder / "sent.png")
        listed.append({"file": "images/sent.png", "title": "What is sent",
                       "caption": "The first channels of each message, with the defences on. Each channel is scaled to "
                                  "its own range over all messages."})
    return [*listed, *figures.from_metrics(run_dir)]


def shown(judged: Judged, reported_on: Tensor) -> Tensor:
    """Which attacked images are on the sheets, some of those that are reported: the same for every attack."""
    return reported_on[_spread(judged.attacked.labels[reported_on], SHOWN)]


def victims_sheet(real: Tensor, drawn: Mapping[str, Tensor], path: Path) -> None:
    """What the best attack made of each victim's messages, a row a victim; all ``(N, 3, H, W)`` in [0, 1]."""
    captions = {name: [f"{value:.1f} dB" for value in psnr(images, real).tolist()] for name, images in drawn.items()}
    rows = {"image": real, **drawn}
    picture_table({name: as_bytes(images) for name, images in rows.items()}, path, captions, across=True)


def _spread(labels: Tensor, n: int) -> Tensor:
    """Positions of at most ``n`` images, of as many classes as there are."""
    first: dict[int, int] = {}
    for place, label in enumerate(labels.tolist()):
        first.setdefault(label, place)
    chosen = sorted(first.values())[:n]
    rest = [place for place in range(len(labels)) if place not in set(chosen)]
    return torch.tensor(sorted(chosen + rest[: n - len(chosen)]))


@torch.no_grad()
def _message(victim: SplitVictim, images: Tensor, seed: int) -> dict[str, NDArray[np.uint8]]:
    """Channels of what is sent as grey pictures by heading; nothing for flat features."""
    sent = victim.sent(victim.features(images.to(victim.device)), generator(seed, "shown")).float().cpu()
    if sent.ndim != 4:
        return {}
    low, high = sent.amin((0, 2, 3), keepdim=True), sent.amax((0, 2, 3), keepdim=True)
    grey = ((sent - low) / (high - low).clamp_min(1e-12)).repeat_interleave(
        max(1, images.shape[-1] // sent.shape[-1]), 2).repeat_interleave(max(1, images.shape[-1] // sent.shape[-1]), 3)
    return {f"channel {i}": as_bytes(grey[:, i : i + 1].expand(-1, 3, -1, -1))
            for i in range(min(CHANNELS, sent.shape[1]))}
