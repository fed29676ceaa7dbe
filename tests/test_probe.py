"""Victims that hide what they leak, or that are not what was declared: each is found, and nothing else is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import run_cli
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from latentprint.cli import main
from latentprint.config import changed, load_config
from latentprint.data.base import ImageSet
from latentprint.errors import UserError
from latentprint.feature.audit import look_at as look_at_edge
from latentprint.feature.presets import PRESETS as FEATURE_PRESETS
from latentprint.feature.presets import FeatureConfig
from latentprint.feature.victim import SplitVictim
from latentprint.label.check import check_audit
from latentprint.label.preprocessings import SCALINGS, Scaling, best_other, combinations, settings_of, sign_test
from latentprint.label.presets import PRESETS, LabelConfig
from latentprint.label.probe import better_than_chance, chance_flag, kind_flag, probe
from latentprint.models.preprocess import Preprocess
from latentprint.probes import difference, spread
from latentprint.report.conclusive import MOST_HIDDEN
from latentprint.stats import success_rate
from latentprint.template.audit import look_at as look_at_recogniser
from latentprint.template.presets import PRESETS as TEMPLATE_PRESETS
from latentprint.template.presets import TemplateConfig
from latentprint.template.recogniser import Embedder
from latentprint.types import Access
from latentprint.victim import Answers, Victim

N = 4


def photos(n: int = 24, size: int = 8) -> ImageSet:
    rng = torch.Generator().manual_seed(0)
    return ImageSet(torch.randint(256, (n, 3, size, size), generator=rng, dtype=torch.uint8), torch.arange(n) % N,
                    tuple(f"p{i}" for i in range(N)), "made up")


class Backward(torch.autograd.Function):
    """Passes its input on; its gradient is what ``how`` says."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, how: str) -> Tensor:
        ctx.how = how
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        match ctx.how:
            case "raises":
                raise NotImplementedError("no gradient kernel")
            case "nan gradient":
                return gradient * torch.nan, None
            case "noise gradient":
                return torch.randn(gradient.shape, generator=torch.Generator().manual_seed(0)), None
        return -gradient, None


class Net(nn.Module):
    """A linear classifier whose logits differ by a few between photos; ``how`` says what is odd about it."""

    def __init__(self, how: str = "") -> None:
        super().__init__()
        torch.manual_seed(1)
        self.how, self.layer, self.norm = how, nn.Linear(3 * 8 * 8, N), nn.BatchNorm1d(N, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.how in ("raises", "nan gradient", "noise gradient", "false gradient"):
            x = Backward.apply(x, self.how)
        z = 3 * self.layer(x.flatten(1))
        match self.how:
            case "first alone":
                return torch.where(z == z.amax(1, keepdim=True), z, torch.full_like(z, -100))
            case "percent":
                return 100 * z.softmax(1)
            case "small":
                return 1e-4 * z
            case "straight-through":
                return z + ((4 * z).round() / 4 - z).detach()
            case "softmax":
                return z.softmax(1)
            case "sigmoid":
                return z.sigmoid()
            case "log-softmax":
                return z.log_softmax(1)
            case "one-hot":
                return F.one_hot(z.argmax(1), N).float()
            case "constant":
                return torch.zeros_like(z) + torch.arange(N)
            case "dropout":
                return F.dropout(z, 0.5, training=True)
            case "batch-norm":
                return self.norm(z)
            case "cut":
                return z.detach()
            case "numpy":
                return torch.from_numpy(z.detach().numpy().copy())
            case "rounded":
                return z.round() + 0 * z.detach()
            case "grad-mode":
                return z if x.requires_grad else z.flip(1)
            case "nan":
                return z.masked_fill(torch.arange(len(z))[:, None] == 3, torch.nan)
        return z


def found(how: str, answers: Answers = "logits", access: Access = Access.WHITE_BOX) -> list[str]:
    victim = Victim(Net(how), N, preprocess=Preprocess(), answers=answers, access=access)
    return [flag.name for flag in probe(victim, photos())]


@pytest.mark.parametrize(("how", "answers", "names"), [
    ("", "logits", []),
    ("softmax", "probabilities", []),
    ("sigmoid", "sigmoid", []),
    ("log-softmax", "logits", []),
    ("log-softmax", "log-probabilities", []),
    ("softmax", "logits", ["answer-kind"]),
    ("sigmoid", "logits", ["answer-kind"]),
    ("sigmoid", "probabilities", ["answer-kind"]),
    ("log-softmax", "probabilities", ["answer-kind"]),
    ("", "probabilities", ["answer-kind"]),
    ("", "log-probabilities", ["answer-kind"]),
    ("", "sigmoid", ["answer-kind"]),
    ("one-hot", "probabilities", ["one-hot", "no-gradient"]),
    ("constant", "logits", ["constant-answers", "no-gradient"]),
    ("dropout", "logits", ["stochastic"]),
    ("batch-norm", "logits", ["batch-dependent"]),
    ("cut", "logits", ["no-gradient"]),
    ("numpy", "logits", ["no-gradient"]),
    ("rounded", "logits", ["no-gradient"]),
    ("grad-mode", "logits", ["gradient-mode"]),
    ("first alone", "logits", ["one-hot"]),
    ("percent", "logits", ["answer-kind"]),
    ("percent", "probabilities", ["answer-kind"]),
    ("small", "logits", []),
    ("straight-through", "logits", []),
    ("raises", "logits", ["gradient-fails"]),
    ("nan gradient", "logits", ["gradient-fails"]),
    ("noise gradient", "logits", ["false-gradient"]),
    ("false gradient", "logits", ["false-gradient"]),
])
def test_what_is_odd_is_found_and_nothing_else(how: str, answers: Answers, names: list[str]) -> None:
    listed = found(how, answers)
    if names == ["answer-kind"]:  # read wrongly, answers may lose their gradient too
        listed = [name for name in listed if name != "no-gradient"]
    assert listed == names


@pytest.mark.parametrize("how", ["cut", "numpy", "rounded", "grad-mode", "raises", "false gradient"])
def test_an_audit_from_scores_needs_no_gradient(how: str) -> None:
    assert found(how, access=Access.SCORES) == []


def test_answers_that_are_not_finite_are_refused() -> None:
    with pytest.raises(UserError, match="answers 1 of 24 photos with NaN or infinite numbers"):
        found("nan")


@given(st.floats(1, 50), st.integers(2, 8), st.integers(0, 99))
def test_logits_of_any_size_are_taken_for_logits(size: float, classes: int, seed: int) -> None:
    raw = size * torch.randn(20, classes, generator=torch.Generator().manual_seed(seed))
    assert kind_flag(raw, "logits") is None and kind_flag(raw.softmax(1), "logits") is not None
    assert kind_flag(raw.softmax(1), "probabilities") is None and kind_flag(raw, "probabilities") is not None
    assert kind_flag(raw.softmax(1).half().float(), "probabilities") is None


def test_a_difference_is_relative_to_that_between_photos() -> None:
    a = torch.randn(50, N, generator=torch.Generator().manual_seed(0))
    assert difference(a, a) == 0 and difference(a / 100, a / 100 + 1e-4) == pytest.approx(difference(a, a + 0.01))
    assert difference(torch.ones(3, 2), torch.zeros(3, 2)) == 0, "constant answers have no spread to compare with"


class Odd(nn.Module):
    """Images to four numbers each, as `Net` makes them; in place of a recogniser or an edge network."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.net = Net(how)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def test_an_attack_that_learns_from_rendered_faces_alone_cannot_reassure_about_others() -> None:
    parts = Embedder(Odd(""), nn.Identity(), N, "own", "own"), photos(), torch.device("cpu")
    config = load_config(TemplateConfig, "tiny", presets=TEMPLATE_PRESETS)
    real = changed(config, {"data": {"private": {"kind": "folder", "path": "photos"}}}, "")
    both = changed(real, {"data": {"public": [{"kind": "folder", "path": "others"},
                                              {"kind": "procedural", "people": 4}]}}, "")
    found = [[flag.name for flag in look_at_recogniser(each, *parts) if flag] for each in (config, real, both)]
    assert found == [[], ["rendered-public"], []]


@pytest.mark.parametrize(("how", "names"), [
    ("", []), ("dropout", ["stochastic"]), ("batch-norm", ["batch-dependent"]), ("cut", ["no-gradient"]),
    ("constant", ["constant-answers", "no-gradient"]),
])
def test_recognisers_and_edge_networks_are_looked_at_alike(how: str, names: list[str]) -> None:
    people = photos()
    recogniser = Embedder(Odd(how), nn.Identity(), N, "own", "own")
    config = load_config(TemplateConfig, "tiny", presets=TEMPLATE_PRESETS)
    found = look_at_recogniser(config, recogniser, people, torch.device("cpu"))
    assert [flag.name for flag in found if flag] == names
    victim = SplitVictim(Odd(how).eval(), nn.Identity(), N, preprocess=Preprocess())
    feature = load_config(FeatureConfig, "tiny", presets=FEATURE_PRESETS)
    without = [name for name in names if name != "no-gradient"]
    for attack, expected in (("optimise", names), ("decoder", without)):
        config_of = changed(feature, {"attacks": [attack]}, "")
        assert [flag.name for flag in look_at_edge(config_of, victim, people) if flag] == expected


# ---- counts ----


@pytest.mark.parametrize(("right", "n", "classes", "flagged"), [
    (4, 4, 2, False),       # all right, and too few to tell
    (6, 6, 2, False),
    (5, 6, 2, False),       # more than half way from chance to all
    (3, 6, 2, True),
    (6, 6, 3, False),
    (2, 6, 3, True),
    (0, 1, 5, False),       # one photo tells nothing
    (20, 200, 2000, False),  # a hundred times chance
    (0, 200, 2000, True),
    (30, 100, 5, False),    # above chance by the count
    (22, 100, 5, True),
])
def test_chance_is_told_by_counts(right: int, n: int, classes: int, flagged: bool) -> None:
    assert (chance_flag(right, n, classes) is not None) == flagged


@given(st.integers(2, 3000), st.integers(1, 300))
def test_all_right_is_never_chance(classes: int, n: int) -> None:
    assert chance_flag(n, n, classes) is None
    assert not better_than_chance(0, n, classes)


def test_few_people_leave_much_possible() -> None:
    """A rate of 0 of 8 people still allows for a substantial leak, one of 9 does not."""
    assert success_rate(0, 8).high > MOST_HIDDEN > success_rate(0, 9).high


# ---- preprocessing ----


class Particular(nn.Module):
    """Right about every photo when it is seen as ``look`` shows it, and guessing otherwise."""

    def __init__(self, data: ImageSet, look: Preprocess) -> None:
        super().__init__()
        self.known, self.labels, self.head = look(data.floats()).flatten(1), data.labels, nn.Linear(1, 1)

    def forward(self, x: Tensor) -> Tensor:
        apart = torch.cdist(x.flatten(1), self.known)
        near, which = apart.min(1)
        guess = torch.arange(len(x)) * 7919 % N
        return 5 * F.one_hot(torch.where(near < 1e-2 * self.known.norm(dim=1).mean(), self.labels[which], guess), N)


@pytest.mark.parametrize(("look", "words"), [
    (Preprocess(colours="bgr"), "colours bgr"),
    (Preprocess(colours="bgr", mean=(0.0,) * 3, std=(1.0,) * 3, scale=255.0),
     "colours bgr; mean 0, std 1, scale 255 (bytes)"),
    (Preprocess(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
     "mean [0.485, 0.456, 0.406], std [0.229, 0.224, 0.225] (ImageNet's)"),
])
def test_faults_of_preprocessing_are_found_together(look: Preprocess, words: str) -> None:
    data = photos(40)
    victim = Victim(Particular(data, look), N, preprocess=Preprocess())
    before = victim.preprocess
    other = best_other(victim, data)
    assert other is not None and other.words == words and other.right == 40 == other.n and other.sure
    assert other.right > other.declared and victim.preprocess is before
    assert best_other(Victim(Particular(data, Preprocess()), N, preprocess=Preprocess()), data) is None


def test_what_to_set_names_the_settings_that_differ() -> None:
    imagenet = SCALINGS[2]
    bytes_too = Scaling("", imagenet.mean, imagenet.std, 255.0)
    assert settings_of(imagenet, bytes_too) == "scale 1 (ImageNet's)", "mean and std are declared already"


def test_one_photo_is_no_fault() -> None:
    """On ten photos another preprocessing is right about one more: luck, by the sign test."""
    first = torch.ones(10, dtype=torch.bool)
    second = first.clone()
    second[0] = False
    assert sign_test(first, second) == 0.5 and sign_test(second, first) == 1.0 == sign_test(first, first)
    second[:9] = False
    assert sign_test(first, second) == pytest.approx(0.5**9)


def test_no_combination_is_the_declared_one() -> None:
    victim = Victim(Net(), N, preprocess=Preprocess(scale=255.0, mean=(127.5,) * 3, std=(127.5,) * 3))
    listed = [each.changes for each in combinations(victim)]
    assert [len(changes) for changes in listed] == sorted(len(changes) for changes in listed)
    assert len(listed) == len(set(listed)) == 2 * 6 * 2 - 1, "[-1, 1] is the declared scaling by another name"
    grey = Victim(Net(), N, preprocess=Preprocess(colours="grey"))
    assert {each.look.colours for each in combinations(grey)} == {"grey"}


def test_photos_are_spread_over_people() -> None:
    grouped = photos(24).take((torch.arange(24) % N).argsort(stable=True))  # as held-out photos lie
    assert spread(grouped, 4).labels.tolist() == [0, 1, 2, 3]
    assert spread(photos(3), 10).labels.tolist() == [0, 1, 2], "each photo once"


# ---- the check and the audit as a user sees them ----

OWN = """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self, n):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(3 * 64 * 64, n)
        self.how = {how!r}
    def forward(self, x):
        z = self.layer(x.flatten(1))
        return z.softmax(1) if self.how == "softmax" else z.detach()
"""


def tiny(**overrides: Any) -> LabelConfig:
    return changed(load_config(LabelConfig, "tiny", presets=PRESETS), overrides, "test")


def test_the_check_names_what_is_odd_and_what_to_set(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text(OWN.format(how="softmax"))
    model = {"model": f"{tmp_path / 'm.py'}:Net", "crop": [0.0, 0.0, 1.0, 1.0]}
    rows = {row.name: row for row in check_audit(tiny(victim=model))}
    assert rows["answer-kind"].ok is False and rows["answer-kind"].hint == "set victim.answers to probabilities"
    assert rows["few people"].ok is None and "of 4 people" in rows["few people"].found
    assert rows["held out"].ok is None and "data.heldout" in rows["held out"].hint
    rows = {row.name: row for row in check_audit(tiny(victim={**model, "answers": "probabilities"}))}
    assert "answer-kind" not in rows


def test_photos_held_out_may_come_from_a_source_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text(OWN.format(how="softmax"))
    config = tiny(victim={"model": f"{tmp_path / 'm.py'}:Net", "answers": "probabilities", "crop": [0., 0., 1., 1.]})
    people = {**config.data.private.model_dump(), "photos": 3, "image_seed": 77}
    rows = {row.name: row for row in check_audit(changed(config, {"data": {"heldout": people}}, "test"))}
    assert rows["held out"].ok is True and rows["held out"].found.endswith("of 12 held-out ones")


def test_an_audit_of_a_model_without_gradients_is_inconclusive_and_says_so_before_it_starts(
        tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "m.py").write_text(OWN.format(how="cut"))
    code, _, err = run_cli(capsys, "audit", "label", "--preset", "tiny", "--set", f"victim.model={tmp_path}/m.py:Net",
                           "--set", "victim.crop=[0, 0, 1, 1]", "--out", str(tmp_path / "run"))
    assert code == 0, err
    assert "this audit will be inconclusive unless it shows a leak: the victim gives no gradient for 100%" in err
    section = json.loads((tmp_path / "run" / "report.json").read_text())["channels"]["label"]
    assert section["grade"] == "inconclusive"
    assert "no-gradient" in {reason["name"] for reason in section["inconclusive"]}
    assert main(["gate", str(tmp_path / "run"), "--max", "label.seconds=1e9"]) == 4
