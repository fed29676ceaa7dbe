"""Pretraining: each network is made, recorded, read back and taken up again; the shipped ones are what they say."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from helpers import save_untrained, small_swapper
from torch import Tensor

from latentprint.config import load_config
from latentprint.data.augment import jittered
from latentprint.data.base import grouped
from latentprint.data.procedural import make_people
from latentprint.diffusion.evaluate import swap_metrics
from latentprint.errors import UserError
from latentprint.metrics.image import psnr
from latentprint.models.assets import PACKAGED, list_assets, load_asset, read_index, save_asset
from latentprint.models.codec import Codec
from latentprint.models.recognisers import FACE_CROP, RECOGNISERS, build_recogniser, embed
from latentprint.pretrain import attributes, codec, common, prior, recogniser
from latentprint.pretrain.prior import Pool, PriorConfig, identity_of, photos_of
from latentprint.verification import calibrate_pairs

CASES = [(codec, "CodecConfig", "codec"), (attributes, "AttributesConfig", "attributes"),
         (recogniser, "RecogniserConfig", "teacher"), (prior, "PriorConfig", "prior")]  # fmt: skip


@pytest.fixture(autouse=True)
def few_unseen_people(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(common, "UNSEEN_PEOPLE", range(9_000_000, 9_000_024))
    monkeypatch.setenv("LATENTPRINT_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize(("module", "config_name", "name"), CASES, ids=lambda value: getattr(value, "__name__", value))
def test_pretrain_makes_an_asset_that_loads(module: ModuleType, config_name: str, name: str, tmp_path: Path) -> None:
    sets = [f"assets={save_untrained(tmp_path / 'assets')}"] if name == "prior" else []
    config = load_config(getattr(module, config_name), "tiny", None, sets, "pretrain", module.PRESETS)
    result = module.pretrain(config, tmp_path / "run")
    index = read_index(tmp_path / "run" / "assets")
    assert index[name]["metrics"] == json.loads(json.dumps(result["metrics"]))
    assert index[name]["config"]["steps"] == 4 and index[name]["command"].startswith("latentprint pretrain")
    loaded = load_asset(name, tmp_path / "run" / "assets")
    assert not any(p.requires_grad for p in loaded.parameters()) and not loaded.training
    assert module.pretrain(config, tmp_path / "run", resume=True)["metrics"] == result["metrics"]
    with pytest.raises(UserError, match="already holds a run"):
        module.pretrain(config, tmp_path / "run")


def _pool(labels: Tensor) -> Pool:
    """Embeddings that name person and photo."""
    fake: Any = None
    return Pool(fake, torch.eye(len(labels), 512), labels, photos_of(labels))


def test_identity_of_is_a_mean_of_other_photos_of_the_same_person() -> None:
    """The photo itself never takes part."""
    people, photos = 5, 4
    pool = _pool(torch.arange(people).repeat_interleave(photos))
    index = torch.arange(people * photos)
    counts = set()
    for step in range(20):
        wanted = identity_of(pool, index, PriorConfig(), step)
        assert torch.allclose(wanted.norm(dim=1), torch.ones(len(index)))
        used = wanted[:, : people * photos] > 0
        assert not used.diagonal().any()
        owner = index // photos
        assert not used[owner[:, None] != owner[None, :]].any()
        counts |= set(used.sum(1).tolist())
    assert counts == {1, 2, 3}


def test_identity_of_people_with_as_many_photos_as_they_have() -> None:
    """Unequal numbers in any order; a single photo stands for itself, and so does a share of all where asked for."""
    labels = torch.tensor([2, 0, 2, 1, 2, 0])
    assert photos_of(labels).tolist() == [[0, 2, 4], [1, 5, -1], [0, 2, 4], [3, -1, -1], [0, 2, 4], [1, 5, -1]]
    pool, index = _pool(labels), torch.arange(6)
    for step in range(20):
        used = (identity_of(pool, index, PriorConfig(), step) > 0)[:, :6]
        assert used[3].tolist() == [False, False, False, True, False, False]
        assert used[1].nonzero().tolist() == [[5]] and used[5].nonzero().tolist() == [[1]]
        assert not used[0, 0] and used[0].sum() in (1, 2) and set(used[0].nonzero().flatten().tolist()) <= {2, 4}
    everyone = identity_of(pool, index, PriorConfig(own_share=1.0), 0)
    assert torch.equal(everyone, torch.eye(6, 512))
    mirrored = identity_of(pool, index + 6, PriorConfig(own_share=1.0), 0)  # the second half of a mirrored pool
    assert torch.equal(mirrored, everyone)


def test_single_photos_everywhere_make_a_pool() -> None:
    pool = _pool(torch.arange(4))
    assert torch.equal(identity_of(pool, torch.tensor([3, 1]), PriorConfig(), 0), torch.eye(4, 512)[[3, 1]])


def test_jittered_is_the_picture_where_nothing_changes_and_moves_as_said() -> None:
    x = make_people(range(3), 1, size=32).floats()
    rng = torch.Generator().manual_seed(0)
    views = [jittered(x, 1e-9, rng) for _ in range(40)]
    nearest = min(float((view - x).abs().max()) for view in views)
    assert nearest < 1e-5  # at the highest of the resolutions that are drawn
    assert all(float((view - x).abs().mean()) < 0.05 for view in views)
    moved = jittered(x, 0.1, rng)
    assert moved.shape == x.shape and float((moved - x).abs().mean()) > 0.01


def test_codec_latents_are_standardised() -> None:
    torch.manual_seed(0)
    model = Codec(32)
    x = make_people(range(20), 1).floats()
    codec._standardise(model, x)
    z = model.encode(x)
    assert torch.allclose(z.mean((0, 2, 3)), torch.zeros(4), atol=1e-4)
    assert torch.allclose(z.std((0, 2, 3)), torch.ones(4), atol=1e-3)


def test_recognisers_see_the_stated_crop_alone() -> None:
    torch.manual_seed(0)
    x = torch.rand(2, 3, 64, 64)
    top, left, height, width = (round(64 * share) for share in FACE_CROP)
    other = torch.rand(2, 3, 64, 64)
    other[:, :, top : top + height, left : left + width] = x[:, :, top : top + height, left : left + width]
    for architecture in ("iresnet", "convnext"):
        network = build_recogniser(architecture).eval()
        embedding = network(x)
        assert torch.allclose(embedding.norm(dim=1), torch.ones(2), atol=1e-5)
        assert torch.equal(embedding, network(other))


def test_shipped_assets_are_intact_small_and_recorded() -> None:
    rows = {row["name"]: row for row in list_assets()}
    assert set(rows) == {"codec", "attributes", "teacher", "judge", "prior"}
    assert all(row["ok"] for row in rows.values())
    assert sum(path.stat().st_size for path in PACKAGED.iterdir()) <= 25 * 2**20
    assert rows["codec"]["metrics"]["psnr_db"] >= 30
    for name in ("teacher", "judge"):
        assert rows[name]["metrics"]["tar"]["0.001"] >= 0.95
    prior_metrics = rows["prior"]["metrics"]
    assert all(prior_metrics["attribute_correlation"][name] >= 0.8 for name in ("yaw", "light_x", "light_y"))
    assert all(rows[name]["sha256"] == needed for name, needed in rows["prior"]["needs"].items())
    assert rows["teacher"]["architecture"] != rows["judge"]["architecture"]
    assert rows["teacher"]["config"]["margin_kind"] != rows["judge"]["config"]["margin_kind"]


def test_shipped_networks_reach_what_is_recorded() -> None:
    """Measured again on other people: the record is of these files."""
    data = make_people(range(9_700_000, 9_700_040), 4)
    x = data.floats()[::2]
    with torch.no_grad():
        assert float(psnr(load_asset("codec")(x).clamp(0, 1), x).mean()) >= 30
    for name in ("teacher", "judge"):
        result = calibrate_pairs(embed(load_asset(name), data.images), data.labels)
        assert result.tar[1e-2] >= 0.97, name
        assert result.tar[1e-3] >= 0.9, name


def test_photos_are_learned_from_without_the_parameters_of_procedural_people(tmp_path: Path) -> None:
    """More people than the setting ``people``, which counts procedural ones; single photos have no accept rate."""
    path, people = tmp_path / "people.npz", make_people(range(12), 1, size=32)
    np.savez(path, images=people.images.permute(0, 2, 3, 1).numpy(), labels=people.labels.numpy())
    sets = [f"data={{kind: npz, path: {path}, size: 32}}", "size=32", "batch=6"]
    config = load_config(recogniser.RecogniserConfig, "tiny", None, sets, "pretrain", recogniser.PRESETS)
    result = recogniser.pretrain(config, tmp_path / "run")
    assert result["metrics"]["tar"] == {"0.01": None, "0.001": None} and result["metrics"]["n_genuine"] == 0
    assert "parameters" not in (tmp_path / "run" / "metrics.jsonl").read_text()


def test_what_is_learned_from_photos_is_never_installed(tmp_path: Path) -> None:
    sets = [f"data={{kind: npz, path: {tmp_path / 'photos.npz'}}}", "install=true"]
    config = load_config(codec.CodecConfig, "tiny", None, sets, "pretrain", codec.PRESETS)
    with pytest.raises(UserError, match=r"^install: the package holds networks of procedural people alone"):
        codec.pretrain(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_prior_on_latents_of_more_channels(tmp_path: Path) -> None:
    assets = save_untrained(tmp_path / "assets")
    save_asset(assets, "codec", Codec(channels=6), {"kind": "codec", "channels": 6})
    sets = [f"assets={assets}", "swap_from=0"]
    config = load_config(PriorConfig, "tiny", None, sets, "pretrain", prior.PRESETS)
    prior.pretrain(config, tmp_path / "run")
    made = load_asset("prior", tmp_path / "run" / "assets")
    assert isinstance(made, prior.FaceSwapPrior)
    assert made.unet.config.in_channels == 13 and made.unet.config.out_channels == 6
    with pytest.raises(UserError, match=r"^start: the packaged prior has other shapes"):
        prior.begun(config.model_copy(update={"start": "packaged", "width": 64}), 512, 6)


def test_a_codec_of_more_channels_begins_as_the_packaged_one() -> None:
    """Channels that are added are unread: the reconstruction is that of the packaged codec."""
    x = make_people(range(4), 1).floats()
    more = codec.begun(codec.CodecConfig(start="packaged", channels=7)).eval()
    packaged = load_asset("codec")
    assert isinstance(packaged, Codec)
    assert more.encode(x).shape[1] == 7
    assert torch.allclose(more.encode(x)[:, :4], packaged.encode(x), atol=1e-5)
    assert torch.allclose(more(x), packaged(x), atol=1e-5)


def test_swaps_are_measured_alike_in_whatever_order_photos_come() -> None:
    """People have two to four photos. In a set that has everybody's first photo, then everybody's second, and so on,
    the same photos are enrolled, and the numbers are the same."""
    data = make_people(range(6), 4)
    data = data.take(torch.tensor([i for i in range(24) if i % 4 < 2 + i // 4 % 3]))
    order, place = grouped(data.labels)
    mixed = data.take(order[place.argsort(stable=True)])
    assert mixed.labels.tolist()[:7] == [0, 1, 2, 3, 4, 5, 0]
    torch.manual_seed(0)
    swapper = small_swapper()
    judge, teacher = (build_recogniser(name).eval().requires_grad_(False) for name in RECOGNISERS)
    found = swap_metrics(swapper, judge, teacher, data)
    assert found["n"] == len(data) - sum(int(n) // 2 for n in data.counts()) and found["people"] == 6
    assert swap_metrics(swapper, judge, teacher, mixed) == found
