"""The template channel's parts: losses and negatives by hand, access and budgets, recognisers of any origin."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from helpers import small_swapper
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from latentprint.data.base import ImageSet
from latentprint.errors import UserError
from latentprint.losses import info_nce
from latentprint.models.assets import load_asset
from latentprint.models.face_decoder import FaceDecoder
from latentprint.models.recognisers import center_of, centred
from latentprint.schedules import WeightRamp
from latentprint.template.defenses import make_scheme
from latentprint.template.generators import DecoderGenerator, Generator, PriorGenerator
from latentprint.template.mapping import fit_mapping
from latentprint.template.negatives import Drawn, Negatives
from latentprint.template.presets import AttackConfig, LossConfig, RecogniserConfig, TemplateConfig
from latentprint.template.protection import NoProtection
from latentprint.template.recogniser import Embedder, load_recogniser
from latentprint.template.recovery import TemplatePrior
from latentprint.template.scores import infer_templates
from latentprint.template.train import at, feature_loss, gradient_norms, guided_loss, viewed
from latentprint.template.victim import BudgetSpent, Database, TemplateVictim, checked_templates
from latentprint.types import AccessDenied

CPU = torch.device("cpu")


def unit(*shape: int, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


# ---- losses ----


def test_info_nce_is_cross_entropy_with_the_positive_first() -> None:
    embedding, positive, negatives = unit(5, 8), unit(5, 8, seed=1), unit(5, 7, 8, seed=2)
    logits = torch.cat([(embedding * positive).sum(1, keepdim=True),
                        torch.einsum("bd,bkd->bk", embedding, negatives)], 1) / 0.1
    expected = F.cross_entropy(logits, torch.zeros(5, dtype=torch.int64), reduction="none")
    assert torch.allclose(info_nce(3 * embedding, positive, negatives), expected, atol=1e-5)
    shared = info_nce(embedding, positive, negatives[0])
    assert torch.allclose(shared[0], expected[0], atol=1e-5)


def test_excluded_negatives_do_not_count_and_none_left_costs_nothing() -> None:
    embedding, positive, negatives = unit(3, 8), unit(3, 8, seed=1), unit(6, 8, seed=2)
    excluded = torch.tensor([[True] * 6, [False] * 6, [True, True, True, False, False, False]])
    found = info_nce(embedding, positive, negatives, 0.1, excluded)
    assert found[0] == 0 and torch.allclose(found[2:], info_nce(embedding[2:], positive[2:], negatives[3:]))


def test_the_gradient_of_info_nce_vanishes_at_saturation_too() -> None:
    """The notes say that it never does."""
    positive = unit(1, 8)
    settings, drawn = LossConfig(), Negatives("random", unit(50, 8, seed=2), torch.arange(50), 16).draw(
        positive, torch.tensor([99]), torch.Generator().manual_seed(0))
    far = gradient_norms(settings, unit(1, 8, seed=5), positive, drawn)
    near = gradient_norms(settings.model_copy(update={"temperature": 0.02}), positive, positive, drawn)
    assert near["gradient_l2"] < 1e-6 < far["gradient_l2"]
    assert near["gradient_info_nce"] < 1e-3 < far["gradient_info_nce"]


def test_guides_weigh_alike_whatever_number_of_images_they_judge() -> None:
    target, away = torch.eye(4), torch.eye(4).roll(1, 0)
    settings, nobody = LossConfig(feature="l2"), Drawn(torch.zeros(0, 4), torch.zeros(4, 0, dtype=torch.bool))
    assert guided_loss(settings, [target, away], target, nobody).tolist() == [1.0] * 4  # 0 and 2, averaged
    found = guided_loss(settings, [target, away[:1]], target, nobody)
    assert found.tolist() == [4.0, 0.0, 0.0, 0.0]  # one of four images, weighing four times: the mean is the same


@pytest.mark.parametrize("access", ["transfer", "scores"])
def test_imitations_need_the_white_box(access: str) -> None:
    with pytest.raises(ValueError, match=f"access '{access}' does not give; set attack.imitations=0"):
        AttackConfig.model_validate({"imitations": 1, "access": access})


def test_views_are_moved_and_degraded_as_far_as_said() -> None:
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    rng = torch.Generator().manual_seed(1)
    assert torch.equal(viewed(images, 0.0, 0.0, rng), images)
    flat = torch.full((2, 3, 32, 32), 0.5)  # whatever the resolution, what is left is the noise
    noise = viewed(flat, 0.0, 0.05, rng) - flat
    assert float(noise.std()) == pytest.approx(0.05, rel=0.05) and abs(float(noise.mean())) < 0.003
    finest = (images - images.mean((2, 3), keepdim=True)).square().mean()
    kept = [(viewed(images, 0.0, 1e-6, rng) - images).square().mean() / finest for _ in range(12)]
    assert min(kept) < 0.2 < max(kept) < 1  # from nearly full resolution to what loses much of white noise


def test_embeddings_on_one_side_of_zero_are_centred_and_others_are_not() -> None:
    spread = F.normalize(torch.randn(500, 16, generator=torch.Generator().manual_seed(0)), dim=1)
    assert not center_of(spread).any() and torch.equal(centred(spread, center_of(spread)), spread)
    aside = F.normalize(spread + torch.eye(16)[0] * 2, dim=1)
    found = centred(aside, center_of(aside))
    assert torch.allclose(found.norm(dim=1), torch.ones(500)) and float(found.mean(0).norm()) < 0.15
    assert float((aside @ aside.T).mean()) > 0.7 and abs(float((found @ found.T).mean())) < 0.02


def test_l2_is_the_squared_distance_summed() -> None:
    a, b = unit(4, 8), unit(4, 8, seed=1)
    drawn = Negatives("random", unit(9, 8, seed=2), torch.arange(9), 4).draw(b, torch.arange(4) + 20,
                                                                               torch.Generator())
    assert torch.allclose(feature_loss(LossConfig(feature="l2"), a, b, drawn), 2 - 2 * (a * b).sum(1), atol=1e-6)


def test_the_notes_schedules_have_the_notes_values() -> None:
    sigmoid = WeightRamp("sigmoid", most=2.0)
    assert float(sigmoid(torch.tensor(0.4))) == pytest.approx(1.0)  # half of lambda_max at the middle
    assert sigmoid.at_start == pytest.approx(2.0 * 0.0392, rel=1e-2)  # it does not start at 0
    linear = WeightRamp("linear", begin=0.25, end=0.75)
    assert linear(torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0])).tolist() == pytest.approx([0, 0, 0.5, 1, 1])
    assert WeightRamp("constant", most=0.3)(torch.tensor([0.0, 1.0])).tolist() == pytest.approx([0.3, 0.3])
    with pytest.raises(UserError, match="begin before"):
        WeightRamp("linear", begin=0.5, end=0.5)


@given(st.floats(1, 20), st.floats(0, 1))
def test_a_rescaled_sigmoid_runs_from_nothing_to_everything(steepness: float, middle: float) -> None:
    ramp = WeightRamp("sigmoid", steepness=steepness, middle=middle, rescaled=True)
    t = torch.linspace(0, 1, 20, dtype=torch.float64)
    assert float(ramp(t)[0]) == pytest.approx(0, abs=1e-9) and float(ramp(t)[-1]) == pytest.approx(1, abs=1e-9)
    assert bool((ramp(t).diff() >= -1e-12).all())


def test_weights_over_progress_are_each_pictures_own() -> None:
    from latentprint.template.generators import Estimate

    estimate = Estimate(torch.zeros(2, 3, 4, 4), torch.zeros(2), torch.tensor([0.0, 1.0]))
    ramp = WeightRamp("linear")
    assert at(ramp, "progress", estimate, 0.5).tolist() == [0.0, 1.0]
    assert float(at(ramp, "training", estimate, 0.5)) == 0.5


# ---- negatives ----


def test_negatives_never_show_the_positives_own_person() -> None:
    bank, people = unit(60, 8), torch.arange(60) // 3
    wanted, whose = bank[:6], people[:6]
    for kind in ("random", "hard", "queue"):
        source = Negatives(kind, bank, people, 40)
        source.draw(wanted, whose, torch.Generator().manual_seed(0))
        drawn = source.draw(wanted, whose, torch.Generator().manual_seed(1))
        stacked = drawn.templates if drawn.templates.ndim == 3 else drawn.templates.expand(6, -1, -1)
        for i in range(6):
            left = stacked[i][~drawn.excluded[i]]
            assert len(left)
            own = bank[people == whose[i]]
            assert float((left @ own.T).amax()) < 1 - 1e-4, kind


def test_hard_negatives_are_the_most_similar_others() -> None:
    bank, people = unit(30, 8), torch.arange(30)
    drawn = Negatives("hard", bank, people, 4).draw(bank[:2], people[:2], torch.Generator())
    likeness = (bank[:2] @ bank.T).fill_diagonal_(-2)
    assert torch.allclose((drawn.templates * bank[:2, None]).sum(2), likeness.topk(4, 1).values, atol=1e-5)


def test_a_queue_keeps_the_last_templates_and_survives_a_checkpoint() -> None:
    bank = unit(30, 8)
    source = Negatives("queue", bank, torch.arange(30), 4)
    first = source.draw(bank[:3], torch.arange(3), torch.Generator())
    assert bool(first.excluded.all())  # nothing is in it yet
    source.draw(bank[3:6], torch.arange(3, 6), torch.Generator())
    other = Negatives("queue", bank, torch.arange(30), 4)
    other.load_state_dict(source.state_dict())
    third = other.draw(bank[6:7], torch.tensor([6]), torch.Generator())
    assert sorted(map(tuple, third.templates.tolist())) == sorted(map(tuple, bank[2:6].tolist()))


def test_one_person_has_no_negatives() -> None:
    with pytest.raises(UserError, match="one person"):
        Negatives("random", unit(3, 8), torch.zeros(3, dtype=torch.int64), 2)


# ---- generators ----


@pytest.mark.parametrize("size", [32, 48, 64, 96])
def test_a_face_decoder_draws_any_multiple_of_16(size: int) -> None:
    assert FaceDecoder(16, size, 32)(unit(2, 16)).shape == (2, 3, size, size)


def test_a_face_decoder_refuses_other_sizes() -> None:
    with pytest.raises(UserError, match="multiple of 16"):
        FaceDecoder(16, 50, 32)


def generators() -> list[Generator]:
    settings = AttackConfig(width=32, sample_steps=2, rank=2)
    return [DecoderGenerator(torch.zeros(512), 64, settings), PriorGenerator(small_swapper(), None, 64, settings)]


@pytest.mark.parametrize("which", [0, 1], ids=["decoder", "prior"])
def test_what_is_trained_gets_a_gradient_and_nothing_else_does(which: int) -> None:
    torch.manual_seed(0)
    generator = generators()[which]
    trained = generator.trained()
    for parameter in trained:  # adapters start as the identity, where half of them have no gradient
        nn.init.normal_(parameter, std=0.1)
    estimate = generator.estimate(unit(2, 512), torch.rand(2, 3, 64, 64), torch.Generator().manual_seed(0))
    assert estimate.pictures.shape == (2, 3, 64, 64) and estimate.error.shape == (2,)
    (estimate.error.mean() + estimate.pictures.mean()).backward()
    ids = {id(parameter) for parameter in trained}
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) and bool(p.grad.any()) for p in trained)
    assert all(p.grad is None for p in generator.parameters() if id(p) not in ids)


def test_the_prior_paints_the_whole_picture_from_identity_and_seed() -> None:
    generator = generators()[1]
    identity, seeds = unit(2, 512), torch.tensor([3, 4])
    first = generator.pictures(identity, seeds)
    assert torch.equal(first, generator.pictures(identity, seeds))
    assert not torch.allclose(first, generator.pictures(identity.flip(0), seeds))
    assert not torch.allclose(first[0, :, 0, 0], torch.full((3,), 0.5), atol=1e-3)  # no grey rim of the hole is left


# ---- access ----


def constant_victim(access: str, budget: int | None = None) -> TemplateVictim:
    embedder = Embedder(nn.Sequential(nn.Flatten(), nn.Linear(48, 6, bias=False)), nn.Identity(), 6, "linear", "linear")
    scheme = make_scheme(NoProtection(), 6, 0)
    return TemplateVictim(embedder, scheme, Database(unit(3, 6), torch.arange(3)), access, budget)  # type: ignore[arg-type]


def test_each_access_grants_what_it_says() -> None:
    x = torch.rand(2, 3, 4, 4, requires_grad=True)
    white = constant_victim("white-box")
    white.embed(x).sum().backward()
    assert x.grad is not None and (white.queries.forward, white.queries.backward) == (2, 2)
    assert not constant_victim("transfer").embed(x).requires_grad
    scores = constant_victim("scores")
    for forbidden in (lambda: scores.embed(x), lambda: scores.database):
        with pytest.raises(AccessDenied):
            forbidden()
    assert scores.score(x, torch.tensor([0, 2])).shape == (2,)


def test_a_budget_is_of_each_person_and_refuses_as_a_whole() -> None:
    victim = constant_victim("scores", budget=2)
    x = torch.rand(3, 3, 4, 4)
    victim.score(x, torch.tensor([0, 0, 1]))
    with pytest.raises(BudgetSpent):
        victim.score(x[:2], torch.tensor([1, 0]))
    assert victim.submitted.tolist() == [2, 1, 0]
    victim.score(x[:1], torch.tensor([1]))


@pytest.mark.parametrize(("templates", "said"), [
    (torch.ones(2, 5), "6 entries"), (torch.full((2, 6), torch.nan), "NaN"), (torch.zeros(2, 6), "all zeros"),
    (2 * unit(2, 6), "length 2")])
def test_templates_that_are_none_are_refused(templates: Tensor, said: str) -> None:
    with pytest.raises(UserError, match=said):
        checked_templates(templates, 6, "templates")
    assert checked_templates(unit(2, 6), 6, "templates").shape == (2, 6)


# ---- scores ----


class Flat(nn.Module):
    """Draws any embedding as a picture that a linear recogniser reads back."""

    def __init__(self, decode: Tensor) -> None:
        super().__init__()
        self.decode = decode

    def pictures(self, identity: Tensor, seeds: Tensor) -> Tensor:
        return (0.5 + 0.1 * identity @ self.decode).view(-1, 3, 4, 4)


def linear_world(budget: int) -> tuple[TemplateVictim, Embedder, TemplatePrior, ImageSet, Flat]:
    torch.manual_seed(0)
    read = torch.linalg.qr(torch.randn(48, 6)).Q.T

    class Read(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x.flatten(1) - 0.5) @ read.T

    embedder = Embedder(Read(), nn.Identity(), 6, "linear", "linear")
    images = (0.5 + 0.1 * unit(200, 6, seed=4) @ read).view(-1, 3, 4, 4)
    public = ImageSet((images * 255).round().to(torch.uint8), torch.arange(200), tuple(map(str, range(200))), "public")
    victim = TemplateVictim(embedder, make_scheme(NoProtection(), 6, 0), Database(unit(5, 6, seed=7), torch.arange(5)),
                            "scores", budget)
    return victim, embedder, TemplatePrior.of(embedder(public.floats())), public, Flat(read)


def test_scores_give_a_linear_recognisers_templates_away() -> None:
    victim, own, prior, public, draw = linear_world(60)
    found = infer_templates(victim, public, own, prior, draw, 60, 0.5, seed=0)  # type: ignore[arg-type]
    assert float((found.templates * victim._database.stored).sum(1).min()) > 0.98
    assert victim.submitted.tolist() == [60] * 5 and not found.spent


def test_a_budget_spent_midway_keeps_what_it_gave() -> None:
    victim, own, prior, public, draw = linear_world(12)
    found = infer_templates(victim, public, own, prior, draw, 50, 1.0, seed=0)  # type: ignore[arg-type]
    assert victim.submitted.tolist() == [12] * 5 and found.spent
    assert float((found.templates * victim._database.stored).sum(1).mean()) > 0.9


# ---- recognisers of any origin ----

MODULE = """
import torch
from torch import nn
def good(dim): return nn.Sequential(nn.AdaptiveAvgPool2d(8), nn.Flatten(), nn.Linear(192, dim))
def wrong(dim): return good(dim + 1)
def constant(dim):
    net = good(dim); nn.init.zeros_(net[2].weight); return net
def broken(dim):
    net = good(dim); nn.init.constant_(net[2].weight, float("nan")); return net
def picky(dim): return nn.Sequential(nn.Flatten(), nn.Linear(48, dim))
"""


@pytest.mark.parametrize(("name", "said"), [
    ("wrong", r"embeddings \(2, 16\), got \(2, 17\)"), ("constant", "same embedding"), ("broken", "NaN"),
    ("picky", "cannot take two 64x64 images")])
def test_recognisers_that_cannot_be_used_are_refused(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "own.py").write_text(MODULE)
    config = RecogniserConfig(model=f"{tmp_path / 'own.py'}:{name}", dim=16)
    with pytest.raises(UserError, match=said):
        load_recogniser(config, None, 64, CPU, "recogniser")


def test_a_recogniser_of_ones_own_sees_what_it_declared(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(MODULE)
    torch.manual_seed(0)
    config = RecogniserConfig(model=f"{tmp_path / 'own.py'}:good", dim=16, input_size=32, mean=[0.0] * 3, std=[1.0] * 3)
    found = load_recogniser(config, None, 64, CPU, "recogniser")
    x = torch.rand(2, 3, 64, 64)
    small = F.interpolate(x, (32, 32), mode="bilinear", antialias=True)
    assert torch.allclose(found(x), F.normalize(found.network(small), dim=1), atol=1e-6)
    assert found.gradients and not any(p.requires_grad for p in found.parameters())


def test_an_unknown_recogniser_is_named() -> None:
    with pytest.raises(UserError, match="no recogniser 'arcface'"):
        load_recogniser(RecogniserConfig(model="arcface"), None, 64, CPU, "recogniser")


def test_an_onnx_recogniser_answers_as_the_network_it_was_made_of(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    weight = torch.randn(3 * 64 * 64, 16, generator=torch.Generator().manual_seed(0))
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        [helper.make_node("Flatten", ["x"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["y"])], "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 64, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 16])],
        [numpy_helper.from_array(weight.numpy(), "w")])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(made, tmp_path / "own.onnx")
    found = load_recogniser(RecogniserConfig(model=str(tmp_path / "own.onnx"), dim=16), None, 64, CPU, "recogniser")
    x = torch.rand(3, 3, 64, 64)
    assert torch.allclose(found(x), F.normalize((2 * x - 1).flatten(1) @ weight, dim=1), atol=1e-4)
    assert not found.gradients
    (tmp_path / "not.onnx").write_bytes(b"no network")
    with pytest.raises(UserError, match="is not an ONNX network"):
        load_recogniser(RecogniserConfig(model=str(tmp_path / "not.onnx"), dim=16), None, 64, CPU, "recogniser")


def test_a_packaged_recogniser_is_the_asset() -> None:
    found = load_recogniser(RecogniserConfig(), None, 64, CPU, "recogniser")
    x = torch.rand(2, 3, 64, 64)
    assert torch.allclose(found(x), load_asset("teacher")(x), atol=1e-5) and found.architecture == "iresnet"


def test_a_mapping_finds_a_rotation() -> None:
    rotation = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(0))).Q
    source = unit(300, 8)
    found = fit_mapping(source, source @ rotation.T)
    new = unit(20, 8, seed=5)
    assert torch.allclose(found(new), new @ rotation.T, atol=1e-2)


def test_progress_of_denoising_needs_denoising() -> None:
    with pytest.raises(ValueError, match="progress"):
        TemplateConfig.model_validate({"attack": {"loss": {"weight": {"over": "progress"}}}})
