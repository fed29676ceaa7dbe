"""The label channel's baselines: known answers on linear victims, one budget, each picture on its own."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Mapping
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from helpers import small_swapper
from torch import Tensor, nn

from latentprint.cli import main
from latentprint.config import load_config
from latentprint.data.procedural import make_people
from latentprint.diffusion.prior import signal_and_noise
from latentprint.diffusion.swap import Scene, Swapper
from latentprint.engine.run import RunDir
from latentprint.engine.seeds import generator, seeded_noise
from latentprint.errors import UserError
from latentprint.label.attack import ProgressiveAttack, fixed, pseudo_label, sample_seeds, scene_of
from latentprint.label.baselines import base, embedding_search
from latentprint.label.baselines.arms import BASELINES, check_baselines, draw_baselines
from latentprint.label.baselines.base import Harness
from latentprint.label.baselines.guidance import Guided
from latentprint.label.baselines.mi_face import MIFace, smoothed
from latentprint.label.baselines.ppa import PPA, view_confidence
from latentprint.label.baselines.settings import ARM_KEYS, BaselineName, BaselineSettings
from latentprint.label.presets import PRESETS, AttackConfig, LabelConfig
from latentprint.label.recipes import BASELINE
from latentprint.label.stages import PROGRESSIVE
from latentprint.label.tools import Tools, encode
from latentprint.label.views import clipped, random_views
from latentprint.losses.classification import cross_entropy
from latentprint.models.classifiers import build
from latentprint.models.recognisers import build_recogniser
from latentprint.types import Access, Reconstruction
from latentprint.victim import Victim

NAMES = get_args(BaselineName)
N_CLASSES = 3
CONFIG = AttackConfig(stages=[stage.model_copy(update={"batch": 4, "steps": 3, "min_steps": 1})
                              for stage in PROGRESSIVE],
                      pairs=3, horizon=2, map_steps=4, images=2, look_every=50, look_images=64, sample_steps=2,
                      ddim_steps=1, augmentations=2)  # fmt: skip


@cache
def shared_tools() -> Tools:
    torch.manual_seed(0)
    teacher = build_recogniser("iresnet").eval().requires_grad_(False)
    return encode(small_swapper(), teacher, make_people(range(36), 2))


def victim() -> Victim:
    torch.manual_seed(1)
    return Victim(build("vgg", N_CLASSES), N_CLASSES)


def harness(path: Path, budget: int, tools: Tools | None = None, config: AttackConfig = CONFIG,
            **settings: Mapping[str, float | str]) -> Harness:
    settings["ppa"] = {"candidates": 72, "views": 2, **settings.get("ppa", {})}
    return Harness(tools or shared_tools(), config, BaselineSettings.model_validate(settings), budget,
                   RunDir.open(path, {}, resume=True), seed=0, save_every=2)


def draw(name: BaselineName, made: Harness, asked: Victim | None = None) -> Reconstruction:
    asked = asked or victim()
    return BASELINES[name](made)(asked, *sample_seeds(0, asked.n_classes, 2))


class Linear(nn.Module):
    """Two classes on opposite sides of a plane: logits +-k <w, x>."""

    def __init__(self, weight: Tensor, k: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(k * weight)

    def forward(self, x: Tensor) -> Tensor:
        side = (x * self.weight).flatten(1).sum(1)
        return torch.stack([side, -side], 1)


class Colours(Swapper):
    """A linear swapper: the picture has one colour, the embedding's first three entries."""

    def ddim(self, embedding: Tensor, scene: Scene, seeds: Tensor, *_: object, **__: object) -> Tensor:
        return 0.5 + 0.4 * embedding[:, :3, None, None].expand(-1, -1, *scene.image.shape[-2:])


W = torch.tensor([2.0, -1.0, 2.0]) / 3


class Channels(nn.Module):
    """Three classes, each by how much of its colour there is: logits in [-1, 1]."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


def colour_world() -> tuple[Tools, Victim]:
    """An adversary with the linear swapper, and a victim that looks at the colour W."""
    tools, swapper = copy.copy(shared_tools()), small_swapper()
    tools.swapper = Colours(swapper.prior, swapper.codec, swapper.attributes)
    tools.embeddings = F.normalize(torch.randn(len(tools.public), 512), dim=1)
    size = tools.public.size
    return tools, Victim(Linear(W.view(3, 1, 1).expand(3, size, size) / size**2, 0.3), 2)


# ---- known answers ----


def test_mi_face_takes_the_pixels_of_a_linear_victim_to_the_corner_of_the_box(tmp_path: Path) -> None:
    sign = torch.randn(3, 64, 64).sign()
    asked = Victim(Linear(sign, 1e-4), 2)
    hole = shared_tools().scenes.take(torch.arange(len(shared_tools().public))).hole
    for steps in (1, 4, 5):
        made = draw("mi-face", harness(tmp_path, 4 * steps), asked)
        for image, y, index in zip(made.images, made.classes, made.attribute_index, strict=True):
            corner = 0.5 + 0.1 * steps * (sign if y == 0 else -sign)
            expected = torch.where(hole[index] > 0, corner, shared_tools().public.floats(index))
            assert torch.allclose(image, expected, atol=1e-5)
        assert made.n_backward == 4 * steps


def test_mi_face_returns_the_least_costly_picture_on_the_way(tmp_path: Path) -> None:
    """Steps so large that the cost goes up and down."""
    attack, asked = MIFace(harness(tmp_path, 0, mi_face={"step": 1.0})), victim()
    classes, scene = torch.tensor([0, 1, 2, 0]), shared_tools().scenes.take(torch.arange(4))
    costs = [cross_entropy(asked(attack.ascend(asked, classes, scene, steps)), classes) for steps in range(4)]
    assert all((after <= before).all() for before, after in pairwise(costs))
    assert (costs[-1] < costs[0]).any()


def test_the_toolbox_climbs_the_probability_of_a_linear_victim(tmp_path: Path) -> None:
    """So flat a victim answers about one half throughout: a pixel in [0, 1] moves its probability by its weight."""
    sign = torch.randn(3, 64, 64).sign()
    asked = Victim(Linear(sign, 1e-4), 2)
    made = draw("art-mi-face", harness(tmp_path, 4 * 5, art_mi_face={"learning_rate": 100.0}), asked)
    hole = shared_tools().scenes.take(torch.arange(len(shared_tools().public))).hole
    for image, y, index in zip(made.images, made.classes, made.attribute_index, strict=True):
        moved = 0.5 + 5 * 100 * 1e-4 * (sign if y == 0 else -sign)
        expected = torch.where(hole[index] > 0, moved, shared_tools().public.floats(index))
        assert torch.allclose(image, expected, atol=0.005)
    assert made.n_backward == 4 * 5


class Sure(nn.Module):
    """Every picture is of class 1."""

    def forward(self, x: Tensor) -> Tensor:
        brightness = x.mean((1, 2, 3))
        return torch.stack([brightness, brightness + 20], 1)


def test_the_toolbox_gives_up_where_a_class_is_unlikely(tmp_path: Path) -> None:
    made = draw("art-mi-face", harness(tmp_path, 4 * 5), Victim(Sure(), 2))
    assert made.n_backward == 2 * 1 + 2 * 5  # one look at each picture of class 0 was enough


def test_without_the_toolbox_its_arm_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "art.attacks.inference.model_inversion.mi_face", None)
    with pytest.raises(UserError, match=r"pip install 'latentprint\[art\]'"):
        draw("art-mi-face", harness(tmp_path, 4))


def test_smoothing_keeps_the_mean_and_is_off_at_zero(tmp_path: Path) -> None:
    spot = torch.zeros(1, 3, 33, 33)
    spot[..., 16, 16] = 1
    assert smoothed(spot, 0.0) is spot
    blurred = smoothed(spot, 1.5)
    distance = (torch.arange(33.0) - 16).square()
    assert blurred[0, 0].sum() == pytest.approx(1, abs=1e-5)
    assert (blurred[0, 0].sum(0) * distance).sum() == pytest.approx(1.5**2, rel=0.02)  # its variance
    plain, smooth = (draw("mi-face", harness(tmp_path, 24, mi_face={"smoothing": std})).images for std in (0.0, 1.0))
    assert (smooth - plain).abs().max() > 0.05


def test_embedding_search_finds_the_direction_of_a_linear_victim(tmp_path: Path) -> None:
    tools, asked = colour_world()
    made = harness(tmp_path, 300 * 8, tools)
    start = F.normalize(torch.randn(2, 512), dim=1)
    found = embedding_search.search(made, asked, "search", start, torch.arange(2), cross_entropy, lr=0.1)
    best = F.pad(torch.stack([W, -W]), (0, 509))
    assert (start * best).sum(1).abs().max() < 0.2
    assert (found * best).sum(1).min() > 0.99
    assert torch.allclose(found.norm(dim=1), torch.ones(2), atol=1e-5)


def test_without_a_budget_embedding_search_is_the_pseudo_label_baseline(tmp_path: Path) -> None:
    made = draw("embedding-search", harness(tmp_path, 7, embedding_search={"start": "pseudo"}))  # a step takes eight
    classes, seeds = sample_seeds(0, N_CLASSES, 2)
    pseudo = pseudo_label(shared_tools(), CONFIG, 0)(victim(), classes, seeds)
    assert (made.images - pseudo.images).abs().max() <= 1.01 / 255  # unit vectors, once more normalised
    assert made.n_backward == 0


def test_without_a_budget_embedding_search_is_the_map_alone(tmp_path: Path) -> None:
    made, asked = draw("embedding-search", harness(tmp_path / "search", 7)), victim()
    tools = shared_tools().with_prior(copy.deepcopy(shared_tools().swapper.prior))
    attack = ProgressiveAttack(tools, CONFIG, RunDir.open(tmp_path / "attack", {}), 0)
    attack(asked, made.classes, made.seeds)
    alone = fixed(shared_tools(), CONFIG, attack.public)(asked, made.classes, made.seeds)
    assert (made.images - alone.images).abs().max() <= 1.01 / 255
    assert made.n_backward == 0


def test_ppa_starts_from_the_candidates_that_were_planted(tmp_path: Path) -> None:
    tools, asked = colour_world()
    planted = torch.tensor([[7, 30], [12, 3]])  # two for each class, the stronger first
    for row, y in ((0, 1.0), (1, -1.0)):
        for column, strength in ((0, 0.9), (1, 0.6)):
            tools.embeddings[planted[row, column], :3] = y * strength * W
    attack = PPA(harness(tmp_path, 0, tools, ppa={"kept": 2}))
    assert torch.equal(attack.candidates(asked), tools.embeddings[planted])


def test_ppa_shows_the_picture_that_the_victim_is_surest_of(tmp_path: Path) -> None:
    tools, asked = colour_world()
    attack, classes, seeds = PPA(harness(tmp_path, 0, tools)), torch.tensor([0, 1, 0, 1]), torch.arange(4)
    strength = torch.rand(4, 5) - 0.5
    best = torch.tensor([3, 0, 4, 2])
    strength[torch.arange(4), best] = torch.tensor([1.0, -1.0, 1.0, -1.0])
    colours = 0.5 + 0.5 * strength[..., None] * W
    drawn = (colours[..., None, None].expand(4, 5, 3, 64, 64) * 255).round().to(torch.uint8)
    assert torch.equal(attack.surest(asked, drawn, classes, seeds), best)


def test_view_confidence_is_the_mean_over_views() -> None:
    asked, x = victim(), torch.rand(4, 3, 64, 64)
    mean = view_confidence(asked, x, 3, torch.Generator().manual_seed(0))
    views = random_views(x, 3, torch.Generator().manual_seed(0))
    slow = sum(asked.confidence(views[4 * i : 4 * i + 4]) for i in range(3)) / 3
    assert torch.allclose(mean, torch.as_tensor(slow), atol=1e-6) and torch.allclose(mean.sum(1), torch.ones(4))


def test_ppa_finds_where_the_poincare_loss_is_least(tmp_path: Path) -> None:
    """It is least where only the own logit is not zero: a colour grey but for the own channel."""
    tools, asked = colour_world()[0], Victim(Channels(), 3)
    start, end = (draw("ppa", harness(tmp_path / str(budget), budget, tools, ppa={"lr": 0.1}), asked)
                  for budget in (0, 3000))
    assert (end.victim_confidence > start.victim_confidence).all()
    best = 0.5 + 0.4 * F.one_hot(end.classes, 3)
    assert (end.images.mean((2, 3)) - best).abs().max() < 0.05


def test_direct_is_the_label_stage_of_the_notes_from_a_random_start(tmp_path: Path) -> None:
    before = copy.deepcopy(shared_tools().swapper.prior.state_dict())
    attack = BASELINES["direct"](harness(tmp_path, 24))
    assert isinstance(attack, ProgressiveAttack)
    (stage,) = attack.config.stages
    assert (stage.identity, stage.adapters, stage.weighting, stage.answer) == ("label", "all", "fixed", "top-1")
    assert stage.losses == BASELINE and attack.config.initial == "random"
    attack(victim(), *sample_seeds(0, N_CLASSES, 2))
    assert attack.progressive is not None and [r.steps for r in attack.progressive.results] == [3]
    assert all(torch.equal(value, before[key]) for key, value in shared_tools().swapper.prior.state_dict().items())


def test_without_a_budget_direct_draws_strangers_with_the_untouched_prior(tmp_path: Path) -> None:
    made = draw("direct", harness(tmp_path, 7))
    nobody = F.normalize(torch.randn(N_CLASSES, 512, generator=generator(0, "start")), dim=1)
    strangers = fixed(shared_tools(), CONFIG, nobody)(victim(), made.classes, made.seeds)
    assert (made.images - strangers.images).abs().max() <= 1.01 / 255


def guided(scale: float, asked: Victim, classes: Tensor) -> Guided:
    return Guided(shared_tools().swapper, asked, classes, scale)


@torch.no_grad()
def test_guidance_of_scale_zero_is_the_unconditional_sample_bit_for_bit(tmp_path: Path) -> None:
    swapper, scene, seeds = shared_tools().swapper, shared_tools().scenes.take(torch.arange(4)), torch.arange(4)
    someone = F.normalize(torch.randn(4, 512), dim=1)
    plain = swapper.ddim(someone, scene, seeds, 3, guidance=0.0)
    asked = victim()
    assert torch.equal(guided(0.0, asked, torch.zeros(4, dtype=torch.int64)).ddim(someone, scene, seeds, 3), plain)
    assert asked.queries.forward == 0
    made = draw("guidance", harness(tmp_path, 5))  # six pictures
    scene = shared_tools().scenes.take(scene_of(made.seeds, len(shared_tools().public)))
    none = swapper.ddim(torch.zeros(6, 512), scene, made.seeds, CONFIG.sample_steps, guidance=0.0)
    assert torch.equal(made.images, none.clamp(0, 1)) and made.n_backward == 0


@torch.no_grad()
def test_guidance_moves_the_prediction_by_the_gradient_taken_by_hand() -> None:
    """A codec without weights and a linear victim: the gradient is in closed form."""
    direction = 1e-3 * torch.randn(3, 64, 64)
    asked, classes = Victim(Linear(direction), 2), torch.tensor([0, 1, 1])
    scene, noisy = shared_tools().scenes.take(torch.arange(3)), seeded_noise(torch.arange(3), (4, 16, 16))
    plain, made = guided(0.0, asked, classes), guided(2.5, asked, classes)
    made.codec = Blocks()  # type: ignore[assignment]
    for timestep in (999, 499, 20):
        t = torch.full((3,), timestep)
        clean, _ = plain.predict(noisy, t, scene, torch.zeros(3, 512))
        moved, noise = made.predict(noisy, t, scene, torch.zeros(3, 512))
        a, s = signal_and_noise(made.schedule, t, noisy)
        # log p_y = log sigmoid(2 sign <w, 2 x - 1>), and a block of the picture is one entry of the latent
        picture = made.paste(clean, scene).clamp(0, 1)
        sign = 1 - 2 * classes.view(-1, 1, 1, 1)
        doubt = torch.sigmoid(-2 * sign * (direction * (2 * picture - 1)).sum((1, 2, 3), keepdim=True))
        by_pixel = 4 * doubt * sign * direction * F.avg_pool2d(scene.hole, 3, 1, 1, count_include_pad=False)
        by_latent = F.pad(16 * F.avg_pool2d(by_pixel, 4), (0, 0, 0, 0, 0, 1))
        assert torch.allclose(moved - clean, 2.5 * s.square() * by_latent, atol=1e-6)
        assert (moved - clean).abs().max() > 1e-4
        assert torch.allclose(a * moved + s * noise, noisy, atol=1e-4)


class Blocks(nn.Module):
    """A codec whose picture shows the first three latent channels as blocks of four pixels."""

    def decode(self, latent: Tensor) -> Tensor:
        return F.interpolate(latent[:, :3], scale_factor=4)


def test_guidance_raises_the_confidence_of_the_class(tmp_path: Path) -> None:
    plain, led = (draw("guidance", harness(tmp_path, 60, guidance={"scale": scale})) for scale in (0.0, 100.0))
    assert (led.victim_confidence > plain.victim_confidence).all()


# ---- the harness ----


@pytest.mark.parametrize("name", NAMES)
def test_the_budget_is_spent_and_never_exceeded(tmp_path: Path, name: BaselineName) -> None:
    """A step costs 4 pictures of 2 views, or one gradient for each of 6 pictures; others read no more than they may."""
    spent = {budget: draw(name, harness(tmp_path / str(budget), budget)).n_backward for budget in (0, 5, 50)}
    assert spent[0] == spent[5] == 0
    assert 25 < spent[50] <= 50


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seeds_give_the_same_pictures_in_the_attacks_scenes(tmp_path: Path, name: BaselineName) -> None:
    first, second = (draw(name, harness(tmp_path / str(i), 24)) for i in range(2))
    assert torch.equal(first.images, second.images)
    scenes = shared_tools().scenes.take(scene_of(first.seeds, len(shared_tools().public)))
    kept = (F.max_pool2d(scenes.hole, 3, 1, 1) == 0).expand_as(first.images)
    assert torch.allclose(first.images[kept], scenes.image[kept], atol=0.5 / 255 + 1e-6)
    assert torch.equal(first.attribute_index, scene_of(first.seeds, len(shared_tools().public)))


@pytest.mark.parametrize("name", ["mi-face", "ppa", "guidance"])
def test_a_picture_depends_on_its_class_and_seed_alone(tmp_path: Path, name: BaselineName,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    classes, seeds = sample_seeds(0, N_CLASSES, 2)
    whole = BASELINES[name](harness(tmp_path, 24))(victim(), classes, seeds).images
    monkeypatch.setattr(base, "QUERY_BATCH", 2)
    order = torch.tensor([5, 0, 3, 1, 4, 2])
    shuffled = BASELINES[name](harness(tmp_path, 24))(victim(), classes[order], seeds[order]).images
    assert torch.allclose(shuffled, whole[order], atol=1e-4)
    # Fewer pictures share a smaller budget; PPA searches for every class, whoever is asked for.
    budget = 24 if name == "ppa" else 12
    few = BASELINES[name](harness(tmp_path, budget))(victim(), classes[order[:3]], seeds[order[:3]]).images
    assert torch.allclose(few, whole[order[:3]], atol=1e-4)


@pytest.mark.parametrize("name", ["embedding-search", "ppa"])
def test_a_broken_search_ends_like_an_unbroken_one(tmp_path: Path, name: BaselineName,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    unbroken = draw(name, harness(tmp_path / "unbroken", 48))
    left = iter(range(5))

    def breaks(picture: Tensor) -> Tensor:
        next(left)
        return clipped(picture)

    with monkeypatch.context() as patch:
        patch.setattr(embedding_search, "clipped", breaks)
        with pytest.raises(StopIteration):
            draw(name, harness(tmp_path / "broken", 48))
    resumed = draw(name, harness(tmp_path / "broken", 48))
    assert torch.equal(resumed.images, unbroken.images)
    assert (resumed.n_forward, resumed.n_backward) == (unbroken.n_forward, unbroken.n_backward)


def test_finished_pictures_are_kept(tmp_path: Path) -> None:
    config = LabelConfig(attack=CONFIG, baselines=["mi-face", "guidance"], precision="fp32")
    run, classes, seeds = RunDir.open(tmp_path, {}), *sample_seeds(0, N_CLASSES, 2)
    asked, again = victim(), victim()
    first = draw_baselines(config, asked, shared_tools(), classes, seeds, 24, run)
    second = draw_baselines(config, again, shared_tools(), classes, seeds, 24, run)
    assert list(first) == ["mi_face", "guidance"] == list(second)
    assert all(torch.equal(first[key].images, second[key].images) for key in first)
    assert all(first[key].selected.equal(second[key].selected) for key in first)
    assert asked.queries == again.queries
    assert draw_baselines(LabelConfig(), asked, shared_tools(), classes, seeds, 24, run) == {}


def test_a_victim_that_gives_no_gradient_is_refused(tmp_path: Path) -> None:
    asked = Victim(build("vgg", N_CLASSES), N_CLASSES, access=Access.SCORES)
    config = LabelConfig(attack=CONFIG, baselines=["mi-face"])
    with pytest.raises(UserError, match="baselines: they need gradients, but victim grants scores access"):
        draw_baselines(config, asked, shared_tools(), *sample_seeds(0, N_CLASSES, 2), 24, RunDir.open(tmp_path, {}))


def test_a_negative_budget_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least 0 gradients, got -1"):
        harness(tmp_path, -1)


@pytest.mark.parametrize(("setting", "said"), [
    ("baselines=[mi-fase]", "baselines"), ("baseline_settings.mi_face.step=0", "baseline_settings.mi_face.step"),
    ("baseline_settings.ppa.kept=0", "baseline_settings.ppa.kept"),
    ("baseline_settings.guidance.scale=-1", "baseline_settings.guidance.scale")])
def test_bad_settings_are_refused_in_a_sentence(setting: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        load_config(LabelConfig, "tiny", None, (setting,), "audit label", PRESETS)


def test_every_baseline_through_the_tiny_audit(tmp_path: Path) -> None:
    words = ["audit", "label", "--preset", "tiny", "--out", str(tmp_path), "--set", "resamples=1000"]
    assert main([*words, "--set", f"baselines=[{', '.join(NAMES)}]",
                 "--set", "baseline_settings.ppa={candidates: 20, views: 2}"]) == 0
    label = json.loads((tmp_path / "report.json").read_text())["channels"]["label"]
    keys = set(ARM_KEYS.values())
    assert keys <= set(label["arms"]) and keys == set(label["gain_over"]) == set(label["baseline_queries"])
    for key in keys:
        assert label["arms"][key]["n_images"] == label["arms"]["attack"]["n_images"]
        assert label["queries"]["backward"] / 2 < label["baseline_queries"][key]["backward"]
        assert label["baseline_queries"][key]["backward"] <= label["queries"]["backward"]
        rates = [label["arms"][arm].get(label["headline"], {}).get("value") for arm in ("attack", key)]
        gain = label["gain_over"][key]["value"]
        assert gain is None if None in rates else gain == pytest.approx(rates[0] - rates[1])
    page = (tmp_path / "report.html").read_text()
    assert all(name in page for name in ("MI-Face", "Plug &amp; Play", "Guided sampling"))
    phases = {json.loads(line)["phase"] for line in (tmp_path / "baselines" / "metrics.jsonl").read_text().splitlines()}
    assert {"embedding-search", "ppa", "stagedirect"} <= phases


@pytest.mark.parametrize(("settings", "said"), [
    (("attack.stages=[]", "baselines=[embedding-search]"), r"with attack.stages=\[\] that is none"),
    (("attack.stages=[{}]", "baselines=[direct]"), r"attack.stages.0 \('stage'\) has 'image'"),
    (("baselines=[mi-face, mi-face]",), "'mi-face' is given twice"),
])
def test_baselines_that_cannot_run_are_refused_before_anything_is_trained(settings: tuple[str, ...], said: str) -> None:
    config = load_config(LabelConfig, "tiny", None, settings, "audit label", PRESETS)
    with pytest.raises(UserError, match=said):
        check_baselines(config.baselines, config.attack, victim())


def test_direct_fine_tuning_replaces_losses_that_are_ours_alone(tmp_path: Path) -> None:
    stage = PROGRESSIVE[-1].model_copy(update={"losses": {"centre": 1.0}, "batch": 4})
    attack = BASELINES["direct"](harness(tmp_path, 8, config=CONFIG.model_copy(update={"stages": [stage]})))
    assert isinstance(attack, ProgressiveAttack)
    assert dict(attack.config.stages[0].active) == BASELINE
