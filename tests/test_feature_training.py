"""Training with defences on: which gradients are on, what the edge network is trained on, and resume after a kill."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from latentprint.config import load_config
from latentprint.data.base import ImageSet
from latentprint.engine.run import RunDir
from latentprint.feature.build import load_images, make_victim
from latentprint.feature.defense import Step
from latentprint.feature.defenses.cem import CEM
from latentprint.feature.presets import PRESETS, FeatureConfig
from latentprint.feature.train import train_split, trained_groups
from latentprint.feature.victim import SplitVictim
from latentprint.surrogates import Learned, Surrogate

MODES = ("frozen", "joint", "own", "density")
SURROGATES = {
    "kmeans": "{kind: kmeans}", "gmm": "{kind: gmm}",
    **{f"{kind} {mode}": f"{{kind: {kind}, mode: {mode}, learn_every: 4}}" for kind in ("slot", "gated")
       for mode in MODES},
}  # fmt: skip
LEARNED = [name for name in SURROGATES if " " in name]
CEM_OF = {name: f"{{kind: noise}}, {{kind: cem, warm_up: 0.0, surrogate: {surrogate}}}"
          for name, surrogate in SURROGATES.items()}
OTHERS = {
    "none": "", "noise": "{kind: noise}", "laplace": "{kind: noise, law: laplace}", "dropout": "{kind: dropout}",
    "top-k": "{kind: top-k}", "nopeek": "{kind: nopeek}", "vib": "{kind: vib}", "patrol": "{kind: patrol, at: 0.3}",
    "adversarial": "{kind: adversarial, blocks: 0, first_steps: 3, steps: 2}",
    "all": "{kind: noise}, {kind: adversarial, blocks: 0, first_steps: 3}, {kind: vib}, {kind: nopeek}, "
           "{kind: cem, warm_up: 0.0, surrogate: {kind: slot, learn_every: 4}}",
}  # fmt: skip


def configured(defences: str, *sets: str) -> FeatureConfig:
    return load_config(FeatureConfig, "tiny", None, [f"defences=[{defences}]", "training.epochs=3", "training.batch=10",
                                               "split.model=builtin:resnet20", *sets],
                       "audit feature", PRESETS)


@cache
def faces() -> ImageSet:
    return load_images(configured("").data)[0].train


def built(config: FeatureConfig) -> tuple[SplitVictim, ImageSet]:
    return make_victim(config, faces())[0], faces()


def surrogate_of(victim: SplitVictim) -> Surrogate:
    return next(defence.surrogate for defence in victim.defences if isinstance(defence, CEM))


@pytest.mark.parametrize("name", LEARNED)
def test_only_edge_cloud_and_joint_parameters_have_gradients(name: str) -> None:
    victim, _ = built(configured(CEM_OF[name]))
    groups = trained_groups(victim.train())
    joint = "joint" in name
    assert all(p.requires_grad for p in [*victim.edge.parameters(), *victim.cloud.parameters()])
    assert {p.requires_grad for p in surrogate_of(victim).parameters()} == {joint}
    trained = {id(p) for group in groups for p in group["params"]}
    assert {id(p) for p in surrogate_of(victim).parameters()} <= trained if joint else len(groups) == 1


@pytest.mark.parametrize("name", LEARNED)
def test_the_edge_network_is_trained_on_the_documented_gradient(name: str) -> None:
    """In ``density`` and ``frozen`` that of the penalty under a given surrogate: one whose parameters are constants."""
    victim, data = built(configured(CEM_OF[name]))
    trained_groups(victim.train())
    images, labels = data.floats(torch.arange(16)), data.labels[:16]
    features = victim.features(images)
    defence = next(d for d in victim.defences if isinstance(d, CEM))
    step = Step(images, labels, features, features, 50, 1, 0.5, 0.05)
    reference = copy.deepcopy(defence.surrogate).requires_grad_("joint" in name)
    for number in range(6):  # the surrogate's own steps leave its parameters as they were: constants outside of them
        torch.manual_seed(number)
        defence.before_step(step)
        reference.load_state_dict(defence.surrogate.state_dict())
        torch.manual_seed(100 + number)
        found = defence.penalty(step)
        assert found is not None
        [actual] = torch.autograd.grad(found[0], features, retain_graph=True)
        torch.manual_seed(100 + number)
        [documented] = torch.autograd.grad(defence.config.weight * 0.001 / step.lr
                                           * reference(features, labels, step.progress).loss, features,
                                           retain_graph=True)
        assert actual.norm() > 0
        torch.testing.assert_close(actual, documented)


@pytest.mark.parametrize("name", ["slot density", "gated density", "slot frozen"])
def test_a_density_passes_no_gradient_of_its_own_to_the_features(name: str) -> None:
    """The gradient of a sample's score under a given density moves no other sample of the batch."""
    victim, data = built(configured(CEM_OF[name]))
    trained_groups(victim.train())
    surrogate = surrogate_of(victim)
    assert isinstance(surrogate, Learned)
    if surrogate.mode != "density":
        assert not any(p.requires_grad for p in surrogate.parameters())
        return
    with torch.no_grad():
        z = victim.features(data.floats(torch.arange(8)))
    z = z.requires_grad_(True)
    calls: list[Tensor] = []
    original = surrogate.density.forward

    def spied(*given: Any) -> Any:
        made = original(*given)
        calls.extend(made)
        return made

    surrogate.density.forward = spied  # type: ignore[method-assign, assignment]
    surrogate(z, data.labels[:8]).loss.backward()
    assert calls and not any(part.requires_grad for part in calls)


class Killed(Exception):
    pass


def trained(path: Path, config: FeatureConfig, killed_at: int | None = None, resume: bool = False) -> SplitVictim:
    victim, data = built(config)
    run = RunDir.open(path, config.model_dump(mode="json"), resume)
    taken, original = [0], victim.features

    def counted(x: Tensor) -> Tensor:
        taken[0] += 1
        if killed_at is not None and taken[0] > killed_at:
            raise Killed
        return original(x)

    victim.features = counted  # type: ignore[method-assign]
    try:
        train_split(victim, data, config.training, run, config.seed, "fp32", save_every=3)
    finally:
        run.close()
    return victim


def differing(first: SplitVictim, second: SplitVictim) -> list[str]:
    """Names of what is not equal bit for bit."""
    one, two = first.state_dict(), second.state_dict()
    assert one.keys() == two.keys()
    return [key for key, value in one.items() if not torch.equal(torch.as_tensor(value), torch.as_tensor(two[key]))]


@pytest.mark.parametrize("name", [*CEM_OF, *OTHERS])
def test_a_training_that_was_killed_ends_like_an_unbroken_one(name: str, tmp_path: Path) -> None:
    config = configured({**CEM_OF, **OTHERS}[name])
    whole = trained(tmp_path / "whole", config)
    with pytest.raises(Killed):
        trained(tmp_path / "broken", config, killed_at=7)
    resumed = trained(tmp_path / "broken", config, resume=True)
    assert differing(whole, resumed) == []
    logs = [(tmp_path / each / "metrics.jsonl").read_text() for each in ("whole", "broken")]
    assert logs[0] == logs[1]


def test_penalties_with_and_without_a_pass_are_resumed_too(tmp_path: Path) -> None:
    """A training that starts from weights fits its surrogate by a pass before the first step, and not again."""
    fresh = trained(tmp_path / "fresh", configured(""))
    weights = tmp_path / "weights.safetensors"
    parts = {f"edge.{k}": v for k, v in fresh.edge.state_dict().items()}
    save_file(parts | {f"cloud.{k}": v for k, v in fresh.cloud.state_dict().items()}, weights)
    config = configured(CEM_OF["gated density"], f"training.start={weights}")
    whole = trained(tmp_path / "whole", config)
    with pytest.raises(Killed):
        trained(tmp_path / "broken", config, killed_at=7)
    resumed = trained(tmp_path / "broken", config, resume=True)
    assert differing(whole, resumed) == []
