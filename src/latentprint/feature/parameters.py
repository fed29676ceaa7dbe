"""Procedural faces: what is certified about the pose, expression and light behind a message, and what is read of them.

These parameters are drawn afresh for each photo, whoever it shows, from a box that is known: the one case in which the
floor under every adversary's error is rigorous. See `latentprint.feature.certificate`.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import RidgeCV
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from latentprint.data.base import ImageSet
from latentprint.data.parameters import ATTRIBUTE_NAMES
from latentprint.data.sources import DataSource, ProceduralSource
from latentprint.engine.seeds import generator
from latentprint.feature.attacks.base import combined, messages
from latentprint.feature.certificate import certify, geometric_mse, heldout_conditional_information, parameter_widths
from latentprint.feature.defenses.messages import Noise
from latentprint.feature.victim import SplitVictim

BATCH = 256


def certified(source: DataSource, victim: SplitVictim, train: ImageSet, test: ImageSet, repeats: int,
              seed: int) -> dict[str, Any] | None:
    """The certificate of a victim of procedural faces, for report.json; None for other images.

    A density of features is fitted on the training images and scored on the test images: whatever it misses makes the
    bound weaker, never wrong.

    Args:
        repeats: messages of each image that an adversary has.
    """
    if not isinstance(source, ProceduralSource) or not isinstance(source.population, str):
        return None
    widths = parameter_widths(ATTRIBUTE_NAMES, source.population)
    noise = next((each for each in victim.defences if isinstance(each, Noise)), None)
    noise_std = noise.noise_std / repeats**0.5 if noise is not None and noise.config.law == "gaussian" else 0.0
    information = None
    if noise_std > 0:
        before = [noised(victim, part, seed) for part in (train, test)]
        information = heldout_conditional_information(before[0], train.labels, before[1], test.labels, noise_std)
    return {**asdict(certify(information, test.labels.numpy(), widths, noise_std, seed=seed)),
            "parameters": list(ATTRIBUTE_NAMES)}


def read(victim: SplitVictim, known: ImageSet, attacked: ImageSet, sent: Tensor, seed: int) -> Mapping[str, float]:
    """Geometric mean over the parameters of each reader's mean squared error on the attacked images.

    Readers learn from messages of the known images: a ridge regression, and a network with one hidden layer.

    Args:
        sent: ``(N, R, *F)`` messages of the attacked images.
    """
    assert known.attributes is not None and attacked.attributes is not None
    x = asked(victim, known, sent.shape[1], seed).numpy()
    y, new = known.attributes.numpy(), combined(sent).flatten(1).numpy()
    readers = {"ridge": RidgeCV(alphas=[10.0**k for k in range(-2, 6)]),
               "network": MLPRegressor(hidden_layer_sizes=(256,), alpha=1e-2, early_stopping=True, max_iter=60,
                                       random_state=seed)}
    errors = {}
    for name, reader in readers.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            guess = make_pipeline(StandardScaler(), reader).fit(x, y).predict(new)
        errors[name] = geometric_mse(torch.from_numpy(guess).float().clamp(-2, 2), attacked.attributes)
    return errors


@torch.no_grad()
def noised(victim: SplitVictim, images: ImageSet, seed: int) -> Tensor:
    """Features ``(N, *F)`` as they are where the noise is added, on the CPU."""
    parts = []
    for i, index in enumerate(torch.arange(len(images)).split(BATCH)):
        features, rng = victim.features(images.floats(index).to(victim.device)), generator(seed, "before-noise", i)
        for defence in victim.defences:
            if isinstance(defence, Noise):
                break
            features = defence.send(features, rng)
        parts.append(features.float().cpu())
    return torch.cat(parts)


@torch.no_grad()
def asked(victim: SplitVictim, images: ImageSet, repeats: int, seed: int) -> Tensor:
    """Messages ``(N, D)`` of known images, joined as those under attack are."""
    return torch.cat([combined(messages(victim, images.floats(index).to(victim.device), repeats,
                                        generator(seed, "asked", i))).flatten(1).float().cpu()
                      for i, index in enumerate(torch.arange(len(images)).split(BATCH))])
