"""One check in every channel: people that networks in use were trained on, and photos that two sets share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import Run, save_untrained

from latentprint.config import Config, load_config
from latentprint.data.overlap import check_held, overlaps
from latentprint.data.procedural import make_people
from latentprint.data.sources import FolderSource, ProceduralSource
from latentprint.errors import UserError
from latentprint.feature import audit as feature
from latentprint.feature import presets as feature_presets
from latentprint.label import audit as label
from latentprint.label import presets as label_presets
from latentprint.models.assets import load_asset, save_asset
from latentprint.models.strangers import check_strangers, shared
from latentprint.template import audit as template
from latentprint.template import presets as template_presets

CPU = torch.device("cpu")
#: Of each channel: its settings, its presets, and the warnings that come of loading and checking its data.
CHANNELS: dict[str, tuple[type[Config], dict[str, Any], Callable[[Any], list[str]]]] = {
    "label": (label_presets.LabelConfig, label_presets.PRESETS, lambda config: label.audit_data(config)[1]),
    "template": (template_presets.TemplateConfig, template_presets.PRESETS,
                 lambda config: template.TemplateAudit(config, CPU).warnings),
    "feature": (feature_presets.FeatureConfig, feature_presets.PRESETS,
                lambda config: feature.FeatureAudit(config, CPU).warnings),
}
#: First people that the shipped networks were trained on, by network.
TRAINED = {"judge": 4_000_000, "teacher": 1_000_000, "prior": 5_000_000, "codec": 2_000_000, "attributes": 3_000_000}
USED = {"label": (*TRAINED,), "template": ("judge", "teacher", "prior", "codec", "attributes"),
        "feature": ("judge", "prior", "codec", "attributes", "teacher")}
MORE = {"label": (), "template": ("attack.generators=[prior]",), "feature": ("attacks=[prior]",)}
#: Who is attacked, or calibrates, in each channel.
PEOPLE = {"label": ("data.private", "data.evaluation"), "template": ("data.private", "data.evaluation"),
          "feature": ("data.train", "data.test")}


def checked(channel: str, *sets: str) -> list[str]:
    config, presets, check = CHANNELS[channel]
    return check(load_config(config, "tiny", None, [*MORE[channel], *sets], "test", presets))


@pytest.mark.parametrize(("channel", "network"), [(channel, name) for channel in USED for name in USED[channel]])
def test_people_that_a_network_in_use_was_trained_on_are_refused(channel: str, network: str) -> None:
    for setting in PEOPLE[channel]:
        people = [f"{setting}.first_identity={TRAINED[network]}"]
        if channel == "feature":  # both sets show the same people
            people = [f"data.{part}.first_identity={TRAINED[network]}" for part in ("train", "test")]
        with pytest.raises(UserError, match=rf"person {TRAINED[network]} was among the people that the asset "
                                            rf"'{network}' was trained on"):
            checked(channel, *people)


@pytest.mark.parametrize("channel", CHANNELS)
def test_copies_and_near_copies_are_warned_of(channel: str, tmp_path: Path) -> None:
    """All four photos of the first person are one, those of the second differ in brightness alone."""
    photos = make_people(range(4), 4, size=32 if channel == "feature" else 64)
    images = photos.images.clone()
    images[1:4] = images[0]
    images[4:8] = torch.stack([(images[4].float() + 3 * step).clamp(0, 255).byte() for step in range(4)])

    def pack(name: str, index: slice) -> str:
        chosen = images.unflatten(0, (4, 4))[:, index].flatten(0, 1)
        np.savez(tmp_path / name, images=chosen.permute(0, 2, 3, 1).numpy(),
                 labels=photos.labels.view(4, 4)[:, index].flatten(), class_names=np.array(photos.names))
        return f"{{kind: npz, path: {tmp_path / name}, size: {images.shape[-1]}}}"

    sets = (f"data.train={pack('a.npz', slice(2))}", f"data.test={pack('b.npz', slice(2, 4))}", "training.batch=4"
            ) if channel == "feature" else (f"data.private={pack('a.npz', slice(4))}", "data.n_heldout=2")
    warnings = checked(channel, *sets)
    found = [warning for warning in warnings if warning.startswith("2 of 8 held-out images")]
    assert len(found) == 2 and "are also among" in found[0] and "look like one" in found[1]


def test_what_infer_time_knows_of_the_test_images_is_looked_at_too() -> None:
    photos = make_people(range(4), 10, size=32)
    images = feature.Images(photos, photos)
    config = feature_presets.FeatureConfig(protocol="infer_time", people=False, lpips=Path("given"))
    roles = feature.divide("infer_time", photos, photos, seed=0)
    copied = photos.images.clone()
    copied[roles.attacked[0]] = (copied[roles.known[0]].float() + 4).clamp(0, 255).byte()
    test = feature.ImageSet(copied, photos.labels, photos.names, "test")
    other = make_people(range(50, 54), 10, size=32)
    train = feature.ImageSet(other.images, photos.labels, photos.names, "train")
    assert feature.strangers(config, feature.Images(train, photos), roles) == []
    (warning,) = feature.strangers(config, feature.Images(train, test), roles)
    assert warning.startswith(f"1 of {len(roles.attacked)} held-out images of test look like one")
    assert len(feature.strangers(config, images, roles)) == 1  # all of the test images are trained on


def test_real_people_that_a_network_was_trained_on_are_refused(tmp_path: Path) -> None:
    save_untrained(tmp_path / "assets")
    faces = {"kind": "folder", "path": str(tmp_path / "faces"), "size": 64, "min_photos": 4, "max_people": None}
    save_asset(tmp_path / "assets", "judge", load_asset("judge"), {
        "kind": "recogniser", "architecture": "convnext",
        "config": {"data": faces, "first_person": 1_000_000, "people": 3000}})
    same = FolderSource(path=tmp_path / "faces", size=128)
    with pytest.raises(UserError, match=r"data\.private: .*faces was among the people that the asset 'judge' was "):
        check_strangers({"data.private": same}, ["teacher", "judge"], tmp_path / "assets")
    other = FolderSource(path=tmp_path / "others")
    seeds = ProceduralSource(first_identity=1_000_000, people=5)  # the settings' default, not what it was trained on
    assert check_strangers({"data.private": other, "data.evaluation": seeds}, ["judge"], tmp_path / "assets") == []
    assert shared(seeds, {"data": seeds.model_dump(mode="json")}) == ".first_identity: person 1000000"
    assert shared(seeds, {"first_person": 1_000_004, "people": 1}) == ".first_identity: person 1000004"
    assert shared(seeds, {"first_person": 1_000_005, "people": 1}) == "" == shared(seeds, {})


def test_sets_are_compared_as_they_should_be() -> None:
    a, b = make_people(range(2), 2), make_people(range(10, 12), 2)
    assert overlaps([(a, b)]) == [] and check_held(a, b) == []
    with pytest.raises(UserError, match=r"person 'person-000000' .*is in both"):
        overlaps([(a, a)])
    assert [warning.split(" held-out")[0] for warning in overlaps(held=[(a, a)])] == ["4 of 4"]


# ---- what the attack optimises does not judge ----


@pytest.mark.parametrize(("channel", "settings"), [
    ("label", ("judge=teacher",)), ("template", ("recogniser.model=judge", "judges=[{model: teacher}]")),
    ("template", ("judges=[{model: teacher}]",)), ("feature", ("judge=teacher",))])
def test_a_judge_that_the_attack_uses_is_refused(run: Run, channel: str, settings: tuple[str, ...]) -> None:
    code, err, out = run(f"audit {channel}", *MORE[channel], *settings)
    assert code == 2 and "the judge is the teacher that the attack optimises" in err and not out.exists(), err


def test_a_metric_that_the_attack_optimises_is_warned_of() -> None:
    said = "so it flatters"
    assert any(said in warning for warning in checked("template", "attack.loss.perceptual.most=1.0"))
    assert not any(said in warning for warning in checked("template"))
    assert any(said in warning for warning in checked("feature", "attacks=[perceptual]"))
    assert not any(said in warning for warning in checked(
        "feature", "attacks=[perceptual]", "attack_settings.perceptual.features=random"))
