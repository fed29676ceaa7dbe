"""Networks that learn from a recogniser first: what they learn, what is kept, and from whom they may not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from framed import Dots, as_uint8, chip_at, drawn_faces
from helpers import save_untrained
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from latentprint import checks
from latentprint.config import load_config
from latentprint.data.augment import warped
from latentprint.data.base import ImageSet
from latentprint.data.procedural import make_people
from latentprint.engine.run import RunDir
from latentprint.errors import UserError
from latentprint.framer import Framer
from latentprint.label import audit, warm
from latentprint.label.classifiers import fit_classifier, load_classifier
from latentprint.label.compare import SHARED, share_checkpoints
from latentprint.label.presets import PRESETS, LabelConfig
from latentprint.label.views import random_views
from latentprint.label.warm import WarmStart, warm_starts, warm_up
from latentprint.models.framing import Framing, Given, OneForAll
from latentprint.models.paths import beside
from latentprint.models.recognisers import EmbeddingNetwork
from latentprint.report.tables import models_table
from latentprint.victim import Victim

CPU = torch.device("cpu")


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Colours(EmbeddingNetwork):
    """Mean red, green and blue of a picture, far from zero, as published embeddings are."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.eval()

    def raw(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x.mean((2, 3)) + 0.1


def painted(n: int = 48) -> ImageSet:
    """Plain pictures of different colours, with some noise."""
    colour = torch.rand(n, 3, 1, 1, generator=rng())
    noise = 0.1 * torch.rand(n, 3, 32, 32, generator=rng(1))
    return ImageSet(as_uint8(0.9 * colour + noise), torch.arange(n), tuple(map(str, range(n))), "painted")


@pytest.fixture(scope="module")
def private() -> ImageSet:
    return make_people(range(3), 6, size=32)


def settings(*sets: str) -> LabelConfig:
    words = ["victim.model=builtin:mixer", "victim.steps=2", "victim.batch=8", "victim.warm=colours",
             "victim.warm_steps=14", "victim.warm_batch=8", "save_every=20", "device=cpu", *sets]
    return load_config(LabelConfig, "tiny", None, words, "audit label", PRESETS)


def untrained(config: LabelConfig, private: ImageSet) -> Victim:
    return load_classifier(config, config.victim, "victim", private)


def start(network: nn.Module | None = None) -> WarmStart:
    return WarmStart("colours", network or Colours(), painted())


def warmed(config: LabelConfig, private: ImageSet, folder: Path, from_where: WarmStart | None = None) -> Victim:
    victim = untrained(config, private)
    run = RunDir.open(folder, config.model_dump(mode="json"), (folder / "config.yaml").exists())
    warm_up(config, config.victim, victim, from_where or start(), run, CPU)
    run.close()
    return victim


def rows(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


# ---- views ----


def test_views_are_mirrored_where_asked_and_are_otherwise_as_they_were() -> None:
    x = torch.rand(64, 3, 16, 16, generator=rng())
    assert torch.equal(random_views(x, 2, rng(1)), warped(x.repeat(2, 1, 1, 1), rng(1), 0.05, 0.03, 0.04, 0.08))
    views = random_views(x, 1, rng(2), 0.0, mirror=True)
    as_is = (views - x).abs().amax((1, 2, 3)) < 1e-5
    flipped = (views - x.flip(3)).abs().amax((1, 2, 3)) < 1e-5
    assert bool((as_is ^ flipped).all()) and 16 < int(flipped.sum()) < 48


# ---- what is learned ----


def test_targets_are_directions_about_the_mean_and_are_computed_once() -> None:
    network = Colours()
    begun = start(network)
    assert begun.dim == 3 and network.calls == 1
    seen = F.normalize(painted().floats().mean((2, 3)) + 0.1, dim=1)
    torch.testing.assert_close(begun.targets, F.normalize(seen - seen.mean(0), dim=1))
    assert begun.targets is begun.targets and network.calls == 2


def test_a_network_learns_the_embeddings_and_leaves_its_last_layer_alone(private: ImageSet, tmp_path: Path) -> None:
    config = settings()
    before, victim = untrained(config, private), warmed(config, private, tmp_path)
    logged = [row for row in rows(tmp_path) if row["phase"] == "victim-warm"]
    assert [row["step"] for row in logged] == [10, 14] and logged[-1]["cosine"] > 0.85
    assert all(row["loss"] == pytest.approx(1 - row["cosine"]) for row in logged)
    assert victim.frozen and not any(p.requires_grad for p in victim.parameters())
    kept = load_file(tmp_path / "networks/victim-warm.safetensors")
    for key, value in before.network.state_dict().items():
        assert torch.equal(victim.network.state_dict()[key], kept[key])
        assert torch.equal(value, kept[key]) == key.startswith("head.")


class Killed(Exception):
    pass


class Kill:
    """Raises when targets are asked for so many times."""

    def __init__(self, times: int) -> None:
        self.left, self.made = times, start()

    @property
    def targets(self) -> Tensor:
        self.left -= 1
        if self.left < 0:
            raise Killed
        return self.made.targets

    name, dim, public = "colours", 3, painted()


def test_a_killed_warm_start_goes_on_where_it_was_and_a_done_one_needs_no_embeddings(
    private: ImageSet, tmp_path: Path,
) -> None:
    config = settings("victim.warm_steps=6", "save_every=2")
    whole = warmed(config, private, tmp_path / "whole")
    with pytest.raises(Killed):
        warmed(config, private, tmp_path / "killed", Kill(5))  # type: ignore[arg-type]
    resumed = warmed(config, private, tmp_path / "killed", Kill(2))  # type: ignore[arg-type]
    again = warmed(config, private, tmp_path / "killed", Kill(0))  # type: ignore[arg-type]
    for other in (resumed, again):
        for key, value in whole.network.state_dict().items():
            assert torch.equal(other.network.state_dict()[key], value), key


def test_training_begins_at_what_was_learned(private: ImageSet, tmp_path: Path) -> None:
    config = settings("victim.steps=1", "victim.lr=1e-12", "victim.warm_steps=5")
    run = RunDir.open(tmp_path, {})
    found = fit_classifier(config, config.victim, untrained(config, private), private, private, run,
                           {"colours": start()})
    run.close()
    assert found.warm == "colours" and found.origin == {"warm": "colours"}
    kept = load_file(tmp_path / "networks/victim-warm.safetensors")
    assert all(torch.allclose(value, kept[name]) for name, value in found.victim.network.named_parameters())


def test_mirrored_training_differs_and_without_a_warm_start_there_is_no_phase(
    private: ImageSet, tmp_path: Path,
) -> None:
    trained = []
    for mirror in ("false", "true"):
        config = settings("victim.warm=null", f"victim.mirror={mirror}")
        run = RunDir.open(tmp_path / mirror, {})
        found = fit_classifier(config, config.victim, untrained(config, private), private, private, run)
        run.close()
        trained.append(found.victim.network.state_dict()["head.weight"])
        assert found.origin == {} and {row["phase"] for row in rows(tmp_path / mirror)} == {"victim"}
        assert [path.name for path in (tmp_path / mirror / "networks").iterdir()] == ["victim.safetensors"]
    assert not torch.equal(trained[0], trained[1])


def test_a_network_that_comes_trained_is_left_alone_and_says_what_it_learned_from(
    private: ImageSet, tmp_path: Path,
) -> None:
    first = warmed(settings("victim.warm_steps=1"), private, tmp_path / "first")
    weights = tmp_path / "first/networks/victim-warm.safetensors"
    config = settings(f"victim.weights={weights}", "victim.warm=somebody")
    assert audit.learned_from(config) == [] and audit.learned_from(settings()) == ["colours"]
    run = RunDir.open(tmp_path / "second", {})
    found = fit_classifier(config, config.victim, untrained(config, private), private, private, run)
    run.close()
    assert found.warm == "somebody" and not (tmp_path / "second/networks").exists()
    heads = [victim.network.state_dict()["head.weight"] for victim in (found.victim, first)]
    assert torch.equal(heads[0], heads[1])


def test_a_warm_start_of_an_earlier_run_is_taken_over_for_other_people(private: ImageSet, tmp_path: Path) -> None:
    first = warmed(settings("victim.warm_steps=1"), private, tmp_path)
    file = tmp_path / "networks/victim-warm.safetensors"
    assert beside({"warm_weights": "networks/victim-warm.safetensors"}, tmp_path)[0] == {"warm_weights": str(file)}
    config, others = settings(f"victim.warm_weights={file}", "seed=5"), make_people(range(9, 13), 1, size=32)
    assert audit.learned_from(config) == []
    victim, fresh = untrained(config, others), untrained(settings("seed=5"), others)
    for key, value in victim.network.state_dict().items():
        expected = fresh if key.startswith("head.") else first
        assert torch.equal(value, expected.network.state_dict()[key]), key
    run = RunDir.open(tmp_path / "second", {})
    fit_classifier(config, config.victim, victim, others, others, run)
    run.close()
    assert {row["phase"] for row in rows(tmp_path / "second")} == {"victim"}


def test_a_warm_start_from_somebody_else_or_of_another_network_is_refused(private: ImageSet, tmp_path: Path) -> None:
    warmed(settings("victim.warm_steps=1"), private, tmp_path)
    file = tmp_path / "networks/victim-warm.safetensors"
    with pytest.raises(UserError, match=r"victim\.warm_weights: .*safetensors learned from colours; expected .*dlib"):
        untrained(settings(f"victim.warm_weights={file}", "victim.warm=dlib"), private)
    with pytest.raises(UserError, match="does not fit this network"):
        untrained(settings(f"victim.warm_weights={file}", "victim.model=builtin:vgg"), private)
    save_file({"a": torch.ones(1)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="does not say what it learned from"):
        untrained(settings(f"victim.warm_weights={tmp_path / 'other.safetensors'}"), private)
    for words in (["victim.warm=null"], [f"victim.weights={file}"]):
        with pytest.raises(UserError, match="name in warm what they learned from"):
            settings(f"victim.warm_weights={file}", *words)


# ---- whom one may learn from ----


@pytest.fixture(scope="module")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_untrained(tmp_path_factory.mktemp("assets"))


def framer(assets: Path | None, public: ImageSet) -> Framer:
    return Framer({"data.public": public.images}, assets, CPU)


def test_recognisers_are_loaded_once_and_nothing_else_is(assets: Path) -> None:
    public, known = painted(), Colours()
    starts = warm_starts(["judge", "colours", "judge"], public, {"colours": known, "else": nn.Linear(1, 1)},
                         framer(assets, public))
    assert list(starts) == ["judge", "colours"]
    assert starts["judge"].dim == 512 and starts["colours"].network is known and starts["judge"].public is public
    with pytest.raises(UserError, match="warm: codec is of the kind codec; expected a recogniser"):
        warm_starts(["codec"], public, {}, framer(assets, public))
    with pytest.raises(UserError, match="nobody"):
        warm_starts(["nobody"], public, {}, framer(assets, public))


class Chip(EmbeddingNetwork):
    """A recogniser that wants its faces framed."""

    side, zoom = 16, 1.0

    def __init__(self) -> None:
        super().__init__()
        self.framing: Framing = Given(16)

    def raw(self, x: Tensor) -> Tensor:
        return self.framing(x).flatten(1)


def test_a_recogniser_with_a_framing_gets_that_of_the_audit(monkeypatch: pytest.MonkeyPatch) -> None:
    chip = chip_at(0.5, 0.55, 0.6)
    public = ImageSet(as_uint8(drawn_faces(chip.expand(8, 2, 3))), torch.arange(8), tuple("abcdefgh"), "drawn")
    frames = framer(None, public)
    frames.__dict__["landmarks"] = Dots()
    monkeypatch.setattr(warm, "load_asset", lambda name, folder: Chip())
    monkeypatch.setattr(warm, "find_asset", lambda name, folder: (Path(), {"kind": "recogniser"}))
    framing = warm_starts(["chip"], public, {}, frames)["chip"].network.framing
    assert isinstance(framing, OneForAll) and frames.facts() == {"framing": ["chip (warm): auto"]}
    torch.testing.assert_close(framing.matrix, chip, atol=0.01, rtol=0)


def test_an_evaluator_may_not_learn_from_the_judge_under_any_name(assets: Path) -> None:
    index = json.loads((assets / "assets.json").read_text())
    (assets / "assets.json").write_text(json.dumps(index | {"copy": index["judge"]}))
    public, private = make_people(range(100, 104), 2), make_people(range(3), 4)
    words = [f"assets={assets}", "device=cpu", "victim.warm=teacher", "evaluators.0.warm=copy"]
    config = load_config(LabelConfig, "tiny", None, words, "audit label", PRESETS)
    with pytest.raises(UserError, match='evaluator "evaluator-1" would learn from copy, which judges'):
        audit.load_models(config, audit.AuditData(public, private, private))
    judge, other = nn.Linear(2, 2), nn.Linear(2, 2)
    assert checks.evaluator_learned_from_judge("e", "judge", "judge", judge)
    assert checks.evaluator_learned_from_judge("e", "other", "judge", judge, other) is None
    assert checks.evaluator_learned_from_judge("e", None, "judge", judge) is None


def test_numbers_that_share_a_recogniser_with_the_attack_or_the_judge_are_doubted() -> None:
    flag = checks.learned_from_optimised("evaluator-1", "teacher", ("teacher", "other"))
    assert flag and flag.level == "warning" and '"evaluator-1" learned first from teacher' in flag.message
    assert not any(checks.learned_from_optimised("evaluator-1", name, ("other",)) for name in ("teacher", None))
    flag = checks.victim_learned_from_judge("judge", "judge")
    assert flag and flag.level == "warning" and "learned first from judge" in flag.message
    assert not any(checks.victim_learned_from_judge(name, "judge") for name in ("teacher", None))


def test_assets_in_use_are_also_those_that_networks_learn_from() -> None:
    assert "colours" in audit.assets_in_use(settings())


# ---- the report ----


def test_the_page_says_what_networks_learned_from() -> None:
    plain = {"victim": {"name": "victim", "architecture": "builtin:vgg", "accuracy": 0.8, "n": 9}, "evaluators": []}
    assert "Learned first from" not in [column.label for column in models_table(plain).columns]
    table = models_table(plain | {"evaluators": [{"name": "evaluator-1", "warm": "faceres"}]})
    place = [column.label for column in table.columns].index("Learned first from")
    assert [row.cells[place].shown for row in table.rows] == ["–", "faceres"]


def test_a_defended_victim_takes_over_the_warm_start(tmp_path: Path) -> None:
    for name in ("victim", "victim-warm", "evaluator-1", "evaluator-1-warm"):
        (tmp_path / "a/checkpoints" / name).mkdir(parents=True)
    share_checkpoints(tmp_path / "a", tmp_path / "b", (*SHARED, "victim-warm"))
    copied = {path.name for path in (tmp_path / "b/checkpoints").iterdir()}
    assert copied == {"victim-warm", "evaluator-1", "evaluator-1-warm"}
