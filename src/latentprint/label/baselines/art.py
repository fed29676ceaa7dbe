"""MI-Face as the Adversarial Robustness Toolbox has it, an outside implementation to compare with.

The toolbox (extra ``art``) is given what its class expects: a model of probabilities and a picture at a time. Only the
pixels in the hole of the attribute image reach the victim, as for every arm. Its stop rule ends a descent at once where
the victim gives the class a probability below ``1 - threshold``: with many classes it returns the start, so that a
small leak found by it says little.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from latentprint.attack import Draw
from latentprint.diffusion.scene import Scene
from latentprint.errors import UserError
from latentprint.label.attack import scene_of
from latentprint.label.baselines.base import Baseline
from latentprint.label.baselines.mi_face import repaint
from latentprint.progress import tracked
from latentprint.victim import Victim


class ArtMIFace(Baseline):
    """One gradient a picture and step; the budget is shared out evenly. Killed midway it starts over.

    Raises:
        UserError: the toolbox is not installed.
    """

    def run(self, victim: Victim, classes: Tensor, seeds: Tensor) -> Draw:
        make_attack, make_classifier = mi_face_of_art()
        tools, settings = self.harness.tools, self.harness.settings.art_mi_face
        index = scene_of(seeds, len(tools.public))
        shape = tuple(tools.public.images.shape[1:])
        seen = InHole(victim)
        classifier = make_classifier(seen, nn.NLLLoss(), shape, victim.n_classes, clip_values=(0.0, 1.0),
                                     device_type="cpu" if tools.device.type == "cpu" else "gpu")
        attack = make_attack(classifier, self.harness.steps(len(classes)), settings.window, settings.threshold,
                             settings.learning_rate, verbose=False)
        grey, pictures = np.full((1, *shape), 0.5, np.float32), []
        for scene, y in tracked(list(zip(index.tolist(), classes.tolist(), strict=True)), "art", stage=True):
            seen.scene = tools.scenes.take(torch.tensor([scene])).to(tools.device)
            found = torch.from_numpy(attack.infer(grey, np.array([y]))).to(tools.device)
            pictures.append(repaint(seen.scene, found).cpu())
        return Draw(torch.cat(pictures), index)


def mi_face_of_art() -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The toolbox's attack and its wrapper of a classifier.

    Raises:
        UserError: it is not installed.
    """
    try:
        from art.attacks.inference.model_inversion.mi_face import MIFace
        from art.estimators.classification import PyTorchClassifier
    except ImportError as error:
        raise UserError("baselines: art-mi-face needs the Adversarial Robustness Toolbox: pip install "
                        "'latentprint[art]'") from error
    return MIFace, PyTorchClassifier


class InHole(nn.Module):
    """Pixels ``(1, 3, H, W)``, put into the hole of ``scene``, to the victim's probabilities ``(1, C)``."""

    scene: Scene

    def __init__(self, victim: Victim) -> None:
        super().__init__()
        self.victim = victim

    def forward(self, x: Tensor) -> Tensor:
        return self.victim(repaint(self.scene, x)).softmax(1)
