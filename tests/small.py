"""Audits as small as they go: networks, images and steps, everything else being the real command line."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor, nn

from latentprint.cli import main
from latentprint.diffusion.prior import FaceSwapPrior
from latentprint.models import classifiers, recognisers
from latentprint.models.assets import save_asset
from latentprint.models.attributes import AttributeNetwork
from latentprint.models.codec import Codec


class SmallClassifier(classifiers.Classifier):
    """A convolution over patches, some more, a hidden layer of 8 and the head."""

    def __init__(self, n_classes: int, more: int) -> None:
        super().__init__(8, n_classes)
        inner = [layer for _ in range(more) for layer in (nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())]
        self.body = nn.Sequential(nn.Conv2d(3, 8, 6, 6), nn.BatchNorm2d(8), nn.ReLU(), *inner, nn.AdaptiveAvgPool2d(2))
        self.hidden = nn.Linear(32, 8)

    def features(self, x: Tensor) -> Tensor:
        return self.hidden(self.body(x).flatten(1))


ARCHITECTURES = {name: partial(SmallClassifier, more=more) for more, name in enumerate(classifiers.ARCHITECTURES)}


def small_recogniser(more: int = 0, dim: int = 512) -> recognisers.Recogniser:
    """A convolution over patches of 16 pixels, and some more."""
    inner = [layer for _ in range(more) for layer in (nn.Conv2d(8, 8, 1), nn.ReLU())]
    return recognisers.Recogniser(nn.Sequential(nn.Conv2d(3, 8, 16, 16), *inner), 8, dim=dim)


RECOGNISERS = {"iresnet": small_recogniser, "convnext": partial(small_recogniser, 1)}
#: What draws for the page alone.
DRAWING = ("label.audit.draw_figures", "template.audit.draw_figures", "feature.audit.draw_figures",
           "feature.audit.draw_explanations", "feature.compare.victims_sheet")


@contextmanager
def small_networks() -> Iterator[None]:
    """Named architectures are small and nothing is drawn for the page."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classifiers, "ARCHITECTURES", ARCHITECTURES)
        patch.setattr(recognisers, "RECOGNISERS", RECOGNISERS)
        patch.setattr("latentprint.models.codec.build", lambda record: Codec(16))
        for name in DRAWING:
            patch.setattr(f"latentprint.{name}", lambda *_: [])
        for name in ("report.html", "auditing.compare"):
            patch.setattr(f"latentprint.{name}.render_run", lambda out: out)
        patch.setattr("latentprint.auditing.compare.pareto_plot", lambda *_: False)
        patch.setattr("latentprint.engine.run.RunDir._tensorboard", lambda run: Mock())
        patch.setenv("LATENTPRINT_QUIET", "1")
        yield


def save_small(folder: Path) -> Path:
    """Untrained assets, to be loaded under `small_networks`."""
    torch.manual_seed(0)
    save_asset(folder, "codec", Codec(16), {"kind": "codec"})
    save_asset(folder, "attributes", AttributeNetwork(), {"kind": "attributes"})
    for name, architecture in (("teacher", "iresnet"), ("judge", "convnext")):
        record = {"kind": "recogniser", "architecture": architecture}
        save_asset(folder, name, recognisers.RECOGNISERS[architecture](), record)
    save_asset(folder, "prior", FaceSwapPrior((32, 32), 4), {"kind": "prior", "widths": [32, 32], "identity_tokens": 4})
    return folder


def command(words: Sequence[str], out: Path) -> tuple[int, str]:
    """Exit code and stderr."""
    with redirect_stderr(io.StringIO()) as err, redirect_stdout(io.StringIO()):
        code = main([*words, "--out", str(out)])
    return code, err.getvalue()


def composed(words: str, assets: Path, sets: Mapping[str, object], threads: bool = True) -> list[str]:
    """A command with settings; ``pretrain`` has none for threads."""
    given = {"assets": assets, **({"threads": 1} if threads else {}), "device": "cpu", "save_every": 2, **sets}
    return [*words.split(), "--preset", "tiny", *(word for key, value in given.items()
                                                  for word in ("--set", f"{key}={value}"))]


SMALL_PEOPLE = {"data.private.people": 3, "data.private.size": 32, "data.public.0.people": 40, "data.public.0.size": 32,
                "data.public.0.photos": 2, "data.evaluation.people": 24, "data.evaluation.size": 32}
SMALL_LABEL = {**SMALL_PEOPLE, "victim.steps": 4, "victim.batch": 6, "resamples": 1000,
               "evaluators": "[{model: builtin:resnet, steps: 3, batch: 6}]", "attack.map_steps": 2,
               "attack.look_every": 2, "attack.pairs": 3, "attack.sample_steps": 1,
               "baseline_settings.ppa": "{candidates: 8, kept: 2, views: 2}",
               "baseline_settings.art_mi_face": "{window: 2}"}
SMALL_FEATURE = {"split.model": "builtin:resnet20", "training.batch": 12, "resamples": 1000,
                 "attack_settings.prior.batch": 4}
SMALL_TEMPLATE = {**SMALL_PEOPLE, "resamples": 1000, "attack.recovery_steps": 4, "attack.steps": 4,
                  "data.n_heldout": 1}
