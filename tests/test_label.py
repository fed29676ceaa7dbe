"""The label channel's parts: pairing, embeddings, views, stages; each against a known answer."""

from __future__ import annotations

import copy
import math
import re
from functools import cache
from pathlib import Path

import pytest
import torch
from helpers import small_swapper
from torch import Tensor, nn

from latentprint.config import load_config
from latentprint.data.procedural import make_people
from latentprint.diffusion.prior import TRAIN_STEPS
from latentprint.engine.loop import Loop
from latentprint.engine.run import RunDir
from latentprint.errors import UserError
from latentprint.label.attack import ProgressiveAttack, pseudo_label, random_people, sample_seeds, scene_of
from latentprint.label.embedding import Manifold, spread_within
from latentprint.label.look import Look, between_photos
from latentprint.label.mapping import fit_map
from latentprint.label.pairing import Opinions, pseudo_embeddings, random_pairs, top_pairs
from latentprint.label.presets import PRESETS, AttackConfig, LabelConfig
from latentprint.label.progressive import Progressive, StageLoop
from latentprint.label.recipes import ARMS, LOSS_PRESETS, OURS, with_loss
from latentprint.label.stages import HAND_OVER, LABEL_ONLY, PROGRESSIVE, WARM_UP, Stage
from latentprint.label.tools import Tools, encode
from latentprint.label.views import clipped, random_views
from latentprint.metrics.distribution import frechet_distance
from latentprint.models.classifiers import build
from latentprint.models.penultimate import class_directions
from latentprint.models.preprocess import Preprocess
from latentprint.models.recognisers import build_recogniser
from latentprint.schedules import cosine_lambda
from latentprint.types import Access
from latentprint.victim import Victim

CONFIG = AttackConfig(stages=[stage.model_copy(update={"batch": 4, "steps": 3, "min_steps": 1})
                              for stage in PROGRESSIVE],
                      pairs=3, horizon=2, images=2, look_every=50, look_images=64, sample_steps=1, ddim_steps=2,
                      augmentations=2, map_steps=4)  # fmt: skip
N_CLASSES = 3


def unit(n: int, seed: int = 0) -> Tensor:
    return nn.functional.normalize(torch.randn(n, 512, generator=torch.Generator().manual_seed(seed)), dim=1)


@cache
def shared_tools() -> Tools:
    torch.manual_seed(0)
    teacher = build_recogniser("iresnet").eval().requires_grad_(False)
    return encode(small_swapper(), teacher, make_people(range(40), 2))


def fresh_tools() -> Tools:
    tools = shared_tools()
    return tools.with_prior(copy.deepcopy(tools.swapper.prior))


def victim() -> Victim:
    torch.manual_seed(1)
    return Victim(build("vgg", N_CLASSES), N_CLASSES, preprocess=Preprocess((0.2, 0.1, 0.9, 0.9)))


def progressive(path: Path, config: AttackConfig = CONFIG) -> Progressive:
    tools = fresh_tools()
    pairs = random_pairs(len(tools.public), N_CLASSES, config.pairs, 0)
    return Progressive(tools, config, victim(), pairs, pseudo_embeddings(tools.embeddings, pairs),
                       RunDir.open(path, {}), 0)


class Brightness(nn.Module):
    """Three classes by mean brightness: dark, middling, bright."""

    def forward(self, x: Tensor) -> Tensor:
        level = x.mean((1, 2, 3))
        return torch.stack([-40 * (level - centre) ** 2 for centre in (-0.6, 0.0, 0.6)], 1)


def test_confidence_pairs_the_photos_that_the_victim_finds_most_like_a_class() -> None:
    data = make_people(range(4), 2)
    levels = torch.tensor([10, 20, 120, 128, 140, 230, 250, 70], dtype=torch.uint8)
    data.images.copy_(levels.view(-1, 1, 1, 1).expand_as(data.images))
    pairs = top_pairs(Opinions(Victim(Brightness(), 3), data).log_confidence, 2)
    assert [sorted(row.tolist()) for row in pairs] == [[0, 1], [2, 3], [5, 6]]


@pytest.mark.parametrize("access", list(Access))
def test_the_victim_is_asked_about_each_public_photo_once(access: Access) -> None:
    data = make_people(range(4), 2)
    victim = Victim(Brightness(), 3, access=access)
    opinions = Opinions(victim, data, batch=3)
    assert victim.queries.forward == 0
    said, seen = opinions.log_confidence, opinions.features
    assert victim.queries.forward == len(data)
    expected = victim.confidence(data.floats(torch.arange(len(data)))).clamp_min(1e-30).log()
    assert torch.allclose(said, expected, atol=1e-5)
    assert torch.equal(seen, said) == (access is not Access.WHITE_BOX)


def test_pseudo_embedding_is_the_unit_mean() -> None:
    embeddings = torch.eye(4, 512)
    mean = pseudo_embeddings(embeddings, torch.tensor([[0, 1], [3, 3]]))
    expected = torch.zeros(2, 512)
    expected[0, :2] = 0.5**0.5
    expected[1, 3] = 1
    assert torch.allclose(mean, expected)


def test_class_directions_point_to_the_centred_class_means_of_a_collapsed_classifier() -> None:
    torch.manual_seed(0)
    head = nn.Linear(8, 4)
    directions = class_directions(nn.Sequential(nn.Flatten(), head), 4)
    assert torch.allclose(directions.sum(0), torch.zeros(8), atol=1e-6)
    assert torch.allclose(directions[2] - directions[0], head.weight[2] - head.weight[0], atol=1e-6)
    with pytest.raises(UserError, match="no linear layer with 5 outputs"):
        class_directions(build("vgg", 4), 5)


def test_the_map_finds_the_identity_of_directions_it_never_saw(tmp_path: Path) -> None:
    rng = torch.Generator().manual_seed(0)
    bases = [torch.linalg.qr(torch.randn(size, 6, generator=rng))[0] for size in (24, 512)]

    def world(n: int) -> tuple[Tensor, Tensor]:
        """What victim and teacher see of n people, who differ in six ways."""
        people = nn.functional.normalize(torch.randn(n, 6, generator=rng), dim=1)
        return people @ bases[0].T, people @ bases[1].T

    run = RunDir.open(tmp_path, {})
    mapping = fit_map(*world(600), run, 0, torch.device("cpu"), steps=150, noise=0.2)
    features, truth = world(50)
    assert (mapping(features) * truth).sum(1).min() > 0.95
    assert torch.allclose(mapping(5 * features), mapping(features), atol=1e-5)  # directions have no length
    assert not any(p.requires_grad for p in mapping.parameters())
    again = fit_map(*world(600), run, 0, torch.device("cpu"), steps=150, noise=0.2)  # from its checkpoint
    assert torch.equal(again(features), mapping(features))


@pytest.mark.parametrize("initial", ["mapped", "pseudo", "random"])
def test_labels_start_where_they_are_told(tmp_path: Path, initial: str) -> None:
    made = progressive(tmp_path, CONFIG.model_copy(update={"initial": initial, "map_steps": 3}))
    pseudo = pseudo_embeddings(made.tools.embeddings, made.aims.pairs)
    with torch.no_grad():
        labels = made.labels(torch.arange(N_CLASSES))
    assert torch.allclose(labels, made.public, atol=1e-6) == (initial != "random")
    assert torch.allclose(labels, pseudo, atol=1e-6) == (initial == "pseudo")
    assert (tmp_path / "checkpoints" / "map").exists() == (initial == "mapped")


def test_random_pairs_are_seeded() -> None:
    assert torch.equal(random_pairs(50, 3, 4, 7), random_pairs(50, 3, 4, 7))
    assert not torch.equal(random_pairs(50, 3, 4, 7), random_pairs(50, 3, 4, 8))


def test_manifold_excess_is_small_on_it_and_large_off_it() -> None:
    rng = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(512, 20, generator=rng))[0]
    points = torch.randn(2000, 20, generator=rng) @ basis.T + 0.001 * torch.randn(2000, 512, generator=rng)
    manifold = Manifold(points, axes=20)
    assert len(manifold.axes) == 20
    on = torch.randn(300, 20, generator=rng) @ basis.T + 0.001 * torch.randn(300, 512, generator=rng)
    assert manifold.excess(on).mean() < 0.4
    assert manifold.excess(3 * on).mean() > 6
    assert manifold.excess(manifold.mean[None])[0] == 0.0
    off = on + 0.01 * torch.randn(300, 512, generator=rng)
    assert manifold.excess(off).mean() > 50


def test_a_stage_ends_early_when_the_frechet_distance_no_longer_falls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = progressive(tmp_path / "run", CONFIG.model_copy(update={"look_every": 1}))
    owner.watch.base, owner.watch.bound = 2.0, 0.0
    loop = StageLoop(owner, WARM_UP.model_copy(update={"patience": 2, "min_steps": 1}), 0)
    said = []
    for step, seen in enumerate((1.5, 1.6, 1.4, 1.4, 1.5), start=1):
        monkeypatch.setattr(owner.watch, "look", lambda *_, seen=seen: look(seen))
        said.append(loop.after(step))
    assert said == [None, None, None, None, "no lower Fréchet distance in 2 looks"]


def test_a_stage_goes_on_where_there_are_too_few_photos_for_a_distance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = progressive(tmp_path / "run", CONFIG.model_copy(update={"look_every": 1}))
    assert math.isnan(owner.watch.real) and owner.watch.real_missing == (
        "40 images are too few for 32 features, 64 are needed")  # two halves of 80 public photos
    assert owner.watch.bound == CONFIG.frechet_slack * owner.watch.base > 0
    owner.watch.base = math.nan
    loop = StageLoop(owner, LABEL_ONLY.model_copy(update={"patience": 2, "min_steps": 1}), 0)
    monkeypatch.setattr(owner.watch, "look", lambda *_: look(math.nan, success=0.0))
    assert [loop.after(step) for step in range(1, 7)] == [None] * 6


@pytest.mark.parametrize(("photos", "n"), [(1000, 100), (1000, 900), (130, 96), (64, 64)])
def test_photos_are_never_compared_with_themselves(photos: int, n: int) -> None:
    features = torch.randn(photos, 4, generator=torch.Generator().manual_seed(0))
    half = photos // 2
    found = between_photos(features, n)
    assert found.n == min(n, half)
    assert found.value == frechet_distance(features[photos - min(n, half):], features[:half], "").value
    apart = torch.cat([features[:half], features[half:] + 3])  # sharing photos, the sets would seem nearer
    distance = between_photos(apart, n).value
    assert distance is not None and distance == pytest.approx(4 * 9, rel=0.15)


def test_views_without_range_are_the_picture() -> None:
    x = torch.rand(2, 3, 32, 32)
    still = random_views(x, 3, torch.Generator().manual_seed(0), width=0)
    assert torch.allclose(still, x.repeat(3, 1, 1, 1), atol=1e-5)
    moved = random_views(x, 3, torch.Generator().manual_seed(0))
    assert (moved - still).abs().mean() > 0.01
    x.requires_grad_(True)
    random_views(x, 2, torch.Generator().manual_seed(0)).sum().backward()
    assert x.grad is not None and (x.grad > 0).float().mean() > 0.95


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("stage", [WARM_UP, HAND_OVER, LABEL_ONLY, *(
    with_loss([LABEL_ONLY], preset)[0].model_copy(update={"name": f"stage{i}"})
    for i, preset in enumerate(LOSS_PRESETS, start=3))], ids=lambda stage: stage.name)
def test_a_gradient_reaches_all_that_a_stage_trains_and_nothing_else(
    tmp_path: Path, stage: Stage, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The optimiser that ``fit`` builds holds what the stage should train; one backward reaches all of it."""
    small = stage.model_copy(update={"batch": 4, "steps": 3})
    owner = progressive(tmp_path / "run", CONFIG.model_copy(update={"stages": [small], "initial": "pseudo"}))
    owner.precision = precision
    owner.add_adapters(small)
    loop = StageLoop(owner, small, 0)
    prior, labels, weighting = owner.tools.swapper.prior, owner.labels, loop.weighting
    for name, p in prior.named_parameters():
        if "lora_B" in name:  # starts at zero, where lora_A has no gradient
            nn.init.normal_(p, std=0.05)
    nn.init.normal_(labels.mlp[2].weight, std=0.05)  # type: ignore[arg-type]
    optimizers: list[torch.optim.Optimizer] = []

    def captured(self: Loop, *_: object) -> Loop:
        optimizers.append(self.optimizer)
        return self

    monkeypatch.setattr(Loop, "fit", captured)
    loop.fit()
    expected = {name: p for name, p in prior.named_parameters() if "lora_" in name}
    assert any("conv1" in name for name in expected) == (small.adapters == "all")
    if small.identity != "image":
        expected |= {f"labels.{name}": p for name, p in labels.named_parameters()}
    if "p_reg" in small.active:
        assert owner.aims.centres is not None
        expected |= {f"centres.{name}": p for name, p in owner.aims.centres.named_parameters()}
    if small.weighting == "uncertainty":
        expected |= {f"weighting.{name}": p for name, p in weighting.named_parameters()}
    given = {id(p) for group in optimizers[0].param_groups for p in group["params"]}
    assert given == {id(p) for p in expected.values()}
    owner.handover.clock.phase = 0.5
    loss, values = loop.loss_at(1)
    loss.backward()
    assert {f"raw/{name}" for name in small.active} <= set(values)
    for name, p in expected.items():
        assert p.grad is not None and p.grad.isfinite().all() and p.grad.abs().sum() > 0, name
    frozen = [*(p for name, p in prior.named_parameters() if "lora_" not in name), *owner.victim.parameters(),
              *owner.tools.teacher.parameters(), *owner.tools.swapper.codec.parameters(),
              *owner.tools.swapper.attributes.parameters()]
    if small.identity == "image":
        frozen += list(labels.parameters())
    assert all(p.grad is None for p in frozen)


def test_a_picture_from_one_prediction_counts_by_how_much_of_it_is_there(tmp_path: Path) -> None:
    owner = progressive(tmp_path / "run", CONFIG.model_copy(update={"estimate": "one_step"}))
    owner.add_adapters(LABEL_ONLY)
    loop = StageLoop(owner, LABEL_ONLY.model_copy(update={"batch": 64}), 0)
    owner.handover.step("label")
    label = owner.labels(torch.arange(64) % len(owner.aims.pairs))
    scene = owner.tools.scenes.take(torch.arange(64) % len(owner.tools.public))
    picture, weight = loop.objectives._picture(label, scene, torch.arange(64), torch.Generator().manual_seed(0))
    timestep = torch.randint(TRAIN_STEPS, (64,), generator=torch.Generator().manual_seed(0))
    progress = 1 - timestep.float() / (TRAIN_STEPS - 1)
    assert torch.allclose(weight, torch.where(progress >= 0.2, progress, 0))
    assert 0 < (weight == 0).sum() < 64
    clearest, noisiest = int(progress.argmax()), int(progress.argmin())
    distance = (picture - scene.image).abs().mean((1, 2, 3))
    assert distance[clearest] < distance[noisiest], "with little noise it is the attribute image"
    loss, _ = loop.loss_at(0)
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in owner.labels.mlp[2].parameters())


def test_lambda_rises_through_stage_one_and_a_longer_horizon_slows_it_without_a_jump(tmp_path: Path) -> None:
    owner = progressive(tmp_path / "run", CONFIG.model_copy(update={"horizon": 8}))
    owner.add_adapters(HAND_OVER)
    loop = StageLoop(owner, HAND_OVER.model_copy(update={"batch": 2}), 1)
    seen = []
    for step in range(6):
        seen.append(float(loop.loss_at(step)[1]["lambda"]))
        if step == 2:
            owner.handover.horizon *= 3  # as after a jump of the Fréchet distance
    phases = [0, 1 / 8, 2 / 8, 3 / 8, 3 / 8 + 1 / 24, 3 / 8 + 2 / 24]
    assert seen == pytest.approx([cosine_lambda(phase) for phase in phases])


def test_a_jump_of_the_frechet_distance_lengthens_the_annealing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = progressive(tmp_path / "run", CONFIG.model_copy(update={"look_every": 1, "horizon": 8}))
    owner.watch.base, owner.watch.jump = 1.0, 0.5
    loop = StageLoop(owner, HAND_OVER, 1)
    horizons = []
    for step, seen in enumerate((1.2, 1.6, 2.3, 2.4), start=1):
        monkeypatch.setattr(owner.watch, "look", lambda *_, seen=seen: look(seen))
        loop.after(step)
        horizons.append(owner.handover.horizon)
    assert horizons == [8, 8, 12, 12]


def test_weights_in_the_log_are_those_applied(tmp_path: Path) -> None:
    owner = progressive(tmp_path / "run")
    owner.add_adapters(HAND_OVER)
    loop = StageLoop(owner, HAND_OVER.model_copy(update={"batch": 2}), 1)
    owner.handover.clock.phase = 1 / 3
    loss, values = loop.loss_at(0)
    total = sum(float(values[f"weight/{name}"]) * float(values[f"raw/{name}"]) for name in HAND_OVER.active)
    assert float(loss.detach()) == pytest.approx(total, rel=1e-4)
    assert values["weight/align"] == pytest.approx(1 - cosine_lambda(1 / 3))


def look(frechet: float = 0.1, success: float = 1.0, identity: float = 1.0) -> Look:
    return Look(frechet, success, identity, 0.5, 0.5)


def test_rules_by_which_stages_end(tmp_path: Path) -> None:
    owner = progressive(tmp_path / "run")
    owner.watch.bound, owner.watch.jump, owner.watch.base_identity = 1.0, 0.1, 0.8
    warm = StageLoop(owner, WARM_UP, 0)
    assert warm._verdict(look(0.9)) and not warm._verdict(look(1.1))
    over = StageLoop(owner, HAND_OVER, 1)
    owner.handover.lam, owner.handover.alignments, over.memory.frechets = 0.98, [1.0] * 40, [0.5, 0.5, 0.5]
    assert over._verdict(look()) is None, "lambda has not arrived"
    owner.handover.lam = 0.995
    assert over._verdict(look()) is not None
    over.memory.frechets = [0.5, 0.9, 0.5]
    assert over._verdict(look()) is None, "the Fréchet distance is not steady"
    label = StageLoop(owner, LABEL_ONLY, 2)
    assert label._verdict(look(identity=0.77)) == "success 1.00, identity 0.77"
    assert label._verdict(look(success=0.99)) is None
    assert label._verdict(look(identity=0.75)) is None
    assert label._verdict(look(1.1)) is None


def test_alignment_falls_or_plateaus_so_that_stage_one_cannot_hang(tmp_path: Path) -> None:
    """With several photos a class the alignment loss has a floor above the bound: the plateau rule ends the stage."""
    owner = progressive(tmp_path / "run", CONFIG.model_copy(update={"align_bound": 0.0}))
    loop = StageLoop(owner, HAND_OVER, 1)
    owner.handover.lam, loop.memory.frechets = 1.0, [0.5, 0.5, 0.5]
    owner.handover.alignments = [2.0 - 0.04 * i for i in range(40)]
    assert loop._verdict(look()) is None
    owner.handover.alignments = [0.4] * 40
    assert loop._verdict(look()) == "handed over: alignment no longer falling"


@pytest.mark.parametrize(("settings", "message"), [
    (["attack.stages.0.losses.cls=1.0"], "cannot compute cls"),
    (["attack.stages.0.losses.align=1.0"], "cannot compute align"),
    (["attack.stages.2.losses.id=-1"], "attack.stages.2.losses.id"),
    (["attack.stages.1.name=stage0"], "different names"),
    (["attack.stages.1.name=victim"], "attack.stages.1.name"),
])  # fmt: skip
def test_recipes_that_make_no_sense_are_refused(settings: list[str], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        load_config(LabelConfig, "tiny", None, settings, "audit label", PRESETS)


def test_views_do_not_shift_under_half_precision() -> None:
    x = torch.rand(2, 3, 64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        still = random_views(x, 1, torch.Generator().manual_seed(0), width=0)
    assert torch.allclose(still, x, atol=1e-5)


def test_pictures_in_losses_are_clipped_but_their_gradient_is_not() -> None:
    x = torch.tensor([-0.5, 0.5, 1.5], requires_grad=True)
    y = clipped(x)
    assert y.tolist() == [0.0, 0.5, 1.0]
    y.sum().backward()
    assert x.grad is not None and x.grad.tolist() == [1.0, 1.0, 1.0]


def test_attack_runs_all_stages_and_repeats_exactly(tmp_path: Path) -> None:
    classes, seeds = sample_seeds(0, N_CLASSES, CONFIG.images)
    images = []
    for name in ("a", "b"):
        attack = ProgressiveAttack(fresh_tools(), CONFIG, RunDir.open(tmp_path / name, {}), 0)
        drawn = attack(victim(), classes, seeds)
        images.append(drawn.images)
        assert attack.progressive is not None
        assert [(r.name, r.steps) for r in attack.progressive.results] == [("stage0", 3), ("stage1", 3), ("stage2", 3)]
        assert drawn.n_backward > 0 and torch.equal(drawn.attribute_index, scene_of(seeds, 80))
    assert torch.equal(images[0], images[1])


@pytest.mark.parametrize("change", [*({"loss": name} for name in LOSS_PRESETS), *({"arm": name} for name in ARMS)],
                         ids=lambda change: "-".join(change.values()))
def test_every_preset_of_the_notes_runs(tmp_path: Path, change: dict[str, str]) -> None:
    config = CONFIG.model_copy(update=change)
    attack = ProgressiveAttack(fresh_tools(), config, RunDir.open(tmp_path, {}), 0)
    drawn = attack(victim(), *sample_seeds(0, N_CLASSES, config.images))
    assert drawn.images.isfinite().all()
    assert attack.progressive is not None
    assert sum(result.steps for result in attack.progressive.results) == 9  # the same budget in all arms


def test_loss_presets_are_those_of_the_notes() -> None:
    made = {name: with_loss(PROGRESSIVE, name)[-1] for name in LOSS_PRESETS}
    assert made["baseline"].active == {"prior": 1.2, "cls": 1.0, "id": 0.8, "perceptual": 0.5, "norm": 0.2}
    assert made["baseline"].answer == "top-1" and made["baseline"].weighting == "fixed"
    assert made["A"].progress_weighted and made["A"].phased and made["A"].denoising == "mse+cosine"
    assert made["B"].answer == "top-k" and "id" not in made["B"].active
    assert {name: made["B"].active[name] for name in ("contrast", "p_reg", "margin")} == {
        "contrast": 0.8, "p_reg": 0.5, "margin": 0.3}
    assert {"attribute", "diversity"} <= set(made["C"].active) and made["C"].active["perceptual"] == 0.1
    both = set(made["A+B"].active) | set(made["B+C"].active)
    assert set(made["A+B+C"].active) == both == set(made["D"].active)
    assert made["D"].weighting == "uncertainty" and made["D"].phased
    assert all(with_loss(PROGRESSIVE, name)[:2] == list(PROGRESSIVE[:2]) for name in LOSS_PRESETS)


def test_arms_start_anywhere_and_have_equal_budgets() -> None:
    made = {name: AttackConfig(arm=name).resolved for name in ARMS}
    assert all(config.initial == "random" and config.arm is None for config in made.values())
    assert {sum(stage.steps for stage in config.stages) for config in made.values()} == {460}
    forced = AttackConfig(arm="baseline", stages=[stage.model_copy(update={"min_steps": stage.steps})
                                                  for stage in PROGRESSIVE]).resolved
    assert forced.stages[0].min_steps == 460  # what must not end early does not do so in another arm
    assert [stage.identity for stage in made["baseline"].stages] == ["label"]
    assert [stage.identity for stage in made["two-stage"].stages] == ["label", "label"]
    assert "cls" not in made["two-stage"].stages[0].active
    assert made["linear"].annealing == "linear" and made["cosine"].annealing == "cosine"
    assert not any("align" in stage.active for stage in made["no-align"].stages)
    assert "align" in made["cosine"].stages[1].active
    labelled = [stage for config in made.values() for stage in config.stages if stage.identity == "label"]
    assert len(labelled) == 6 and not any(OURS & set(stage.active) for stage in labelled)
    assert set(PROGRESSIVE[-1].active) > OURS
    with pytest.raises(ValueError, match="arm 'cosine' leaves the stage 'stage2' without losses"):
        AttackConfig(arm="cosine", stages=[PROGRESSIVE[-1].model_copy(update={"losses": {"centre": 1.0}})])
    assert AttackConfig().resolved == AttackConfig()


@pytest.mark.parametrize(("settings", "said"), [
    (("attack.stages=[{identity: label, losses: {cls: 1.0}}]",), "arm 'two-stage' needs two stages or more"),
    (("attack.stages=[{name: stagea}, {name: stageb}]",), "needs a last stage with identity 'label', and that of "
                                                           "'stageb' is 'image'"),
])
def test_stages_that_an_arm_cannot_change_are_one_sentence(settings: tuple[str, ...], said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        load_config(LabelConfig, "tiny", None, ["attack.arm=two-stage", *settings], "audit label", PRESETS)
    assert "validation error" not in str(caught.value) and "\n" not in str(caught.value)


def test_the_first_of_two_stages_never_goes_by_the_name_of_the_second() -> None:
    stages = [stage.model_copy(update={"name": name})
              for stage, name in zip(PROGRESSIVE[-2:], ("stage1", "stage0"), strict=True)]
    names = [stage.name for stage in AttackConfig(arm="two-stage", stages=stages).resolved.stages]
    assert names == ["stage0a", "stage0"], "else the second would go on from the checkpoint of the first"


def test_phases_protect_the_prior_first_and_turn_to_the_victim_then(tmp_path: Path) -> None:
    stage = LABEL_ONLY.model_copy(update={"phased": True, "steps": 8})
    loop = StageLoop(progressive(tmp_path, CONFIG.model_copy(update={"initial": "pseudo"})), stage, 0)
    assert [loop._scale("prior", step) for step in (0, 1, 2, 7)] == [2.0, 2.0, 0.5, 0.5]
    assert [loop._scale("cls", step) for step in (0, 1, 2, 7)] == [0.5, 0.5, 1.5, 1.5]
    assert loop._scale("align", 0) == stage.losses["align"]  # beta belongs to the rise of lambda


def test_spread_within_a_person_is_the_unbiased_variance() -> None:
    embeddings, labels = torch.randn(40, 6), torch.arange(40) % 8
    expected = torch.stack([embeddings[labels == y].var(0).sum() for y in range(8)]).mean()
    assert spread_within(embeddings, labels) == pytest.approx(float(expected), rel=1e-5)
    alone = torch.cat([labels, torch.tensor([9])])  # one who has a single photo does not count
    assert spread_within(torch.cat([embeddings, torch.ones(1, 6)]), alone) == pytest.approx(float(expected), rel=1e-5)
    with pytest.raises(UserError, match="public people with several photos"):
        spread_within(embeddings, torch.arange(40))


def test_floor_ignores_the_victim_and_pseudo_label_does_not() -> None:
    tools = shared_tools()
    classes, seeds = sample_seeds(0, N_CLASSES, 2)
    one, other = victim(), Victim(Brightness(), 3)
    floor, pseudo = random_people(tools, CONFIG), pseudo_label(tools, CONFIG, 0)
    assert torch.equal(floor(one, classes, seeds).images, floor(other, classes, seeds).images)
    assert not torch.equal(pseudo(one, classes, seeds).images, pseudo(other, classes, seeds).images)


def test_sample_seeds_do_not_depend_on_how_many_are_asked_for() -> None:
    classes, seeds = sample_seeds(0, 3, 2)
    more_classes, more = sample_seeds(0, 4, 5)
    assert classes.tolist() == [0, 0, 1, 1, 2, 2]
    assert seeds.tolist() == more[(more_classes < 3) & (torch.arange(20) % 5 < 2)].tolist()
    assert len(set(more.tolist())) == 20
