"""The pictures of a template audit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from latentprint.data.pixels import as_bytes
from latentprint.report import figures, names
from latentprint.report.curves import rate_curves, share_curves
from latentprint.report.plots import similarity_histogram
from latentprint.report.sheets import picture_table
from latentprint.template.evaluate import CURVE, ArmScores, Bench, System
from latentprint.verification import STRICT

#: People on the sheet.
SHOWN = 10


def draw_figures(run_dir: Path, bench: Bench, arms: Mapping[str, ArmScores],
                 drawn: Sequence[str]) -> list[dict[str, str]]:
    """Write the pictures into ``run_dir/images`` and list all but the grid for the report.

    Args:
        drawn: the arms that are the attack's.
    """
    folder = run_dir / "images"
    sheet(folder / "grid.png", bench, arms, drawn)
    attack, (suffix, shown) = arms["attack"], judging(bench)
    by = f"{'the judge' if suffix else 'the attacked recogniser'} ({shown.name})"
    listed = [{"file": "images/similarity.png", "title": "Similarity to other photos of the person", "caption": (
                   f"By {by}: impostors, real photos of the same person, and reconstructions.")},
              {"file": "images/sar.png", "title": "Success by false match rate", "caption": (
                  "SAR type II by each recogniser: the fraction of reconstructions accepted against another photo of "
                  "the person, by the false match rate of the threshold.")},
              {"file": "images/roc.png", "title": "Recognition", "caption": (
                  "True accept rate of real photos by false match rate, for templates as they are stored.")}]
    similarity_histogram(shown.genuine, shown.strangers[:: max(1, len(shown.strangers) // 20_000)],
                         attack.values[f"template_similarity{suffix}"][0], shown.calibration.thresholds[STRICT],
                         folder / "similarity.png")
    systems = (bench.attacked, *bench.judges)
    share_curves({system.name: (CURVE, attack.curve[system.name]) for system in systems}, STRICT, "SAR type II",
                 folder / "sar.png")
    rate_curves({system.name: (system.genuine, system.strangers) for system in systems}, STRICT, folder / "roc.png")
    return [*(entry for entry in listed if (run_dir / entry["file"]).is_file()), *figures.from_metrics(run_dir)]


def judging(bench: Bench) -> tuple[str, System]:
    """By whom pictures are described, and what its metrics end in: the first judge, where there is one."""
    return list(bench.systems.items())[1 if bench.judges else 0]


def sheet(path: Path, bench: Bench, arms: Mapping[str, ArmScores], drawn: Sequence[str]) -> None:
    """A column a person: the photo whose template leaked, the nearest public face, and each arm's reconstruction.

    Under each its similarity to other photos of the person, see `judging`.
    """
    rows: dict[str, Tensor] = {"enrolled photo": bench.photos.floats(slice(SHOWN)),
                               "nearest public": arms["nearest"].pictures[:SHOWN],
                               **{names.arm(name, "template").label: arms[name].pictures[:SHOWN] for name in drawn}}
    keys = dict(zip(rows, ("ceiling", "nearest", *drawn), strict=True))
    owners, suffix = bench.attacked.owners, judging(bench)[0]
    captions = {}
    for label, arm in keys.items():
        alike = torch.from_numpy(arms[arm].values[f"template_similarity{suffix}"][0])
        captions[label] = [f"{float(alike[owners == person].mean()):.2f}" for person in range(len(rows[label]))]
    picture_table({label: as_bytes(images) for label, images in rows.items()}, path, captions, across=True)
