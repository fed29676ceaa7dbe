"""Victim, attack, defence: on linear victims, where every answer is known."""

from __future__ import annotations

import json
import math
import pickle
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from latentprint.attack import Attack, Draw, select_best
from latentprint.defense import Defense
from latentprint.errors import RunFailed, UserError
from latentprint.models.checkpoints import load_state
from latentprint.models.loading import load_module
from latentprint.models.penultimate import class_directions, logits_and_penultimate, penultimate
from latentprint.models.preprocess import Preprocess
from latentprint.types import Access, AccessDenied, Bounds, Reconstruction
from latentprint.victim import Victim, check_victim, load_victim

SIZE, N_CLASSES = 8, 4


class Linear(nn.Module):
    """Logits linear in the pixels: the best image of a class is 1 where its weight is positive, else 0."""

    def __init__(self, n_classes: int = N_CLASSES) -> None:
        super().__init__()
        self.body = nn.Dropout(0.5)
        self.last = nn.Linear(3 * SIZE * SIZE, n_classes)
        generator = torch.Generator().manual_seed(1)
        nn.init.normal_(self.last.weight, generator=generator)
        nn.init.normal_(self.last.bias, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.body(x.flatten(1)))


def plain() -> Preprocess:
    return Preprocess(mean=(0, 0, 0), std=(1, 1, 1))


def victim(access: Access = Access.WHITE_BOX) -> Victim:
    return Victim(Linear(), N_CLASSES, preprocess=plain(), access=access)


def images(n: int = 3, seed: int = 0) -> Tensor:
    return torch.rand(n, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


# ---- types ----


def test_bounds_clip_and_refuse_nonsense() -> None:
    assert Bounds(0, 1).clip(torch.tensor([-2.0, 0.5, 3.0])).tolist() == [0.0, 0.5, 1.0]
    for low, high in ((1, 1), (2, 1), (math.nan, 1), (0, math.inf)):
        with pytest.raises(ValueError, match="low < high"):
            Bounds(low, high)


def test_a_reconstruction_of_unequal_lengths_is_refused() -> None:
    row = torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"seeds must be \(2,\), got \(3,\)"):
        Reconstruction(images(2), row, torch.zeros(3), row, row, row, row.bool(), 0, 0, 0.0)
    with pytest.raises(ValueError, match=r"\(N, 3, H, W\)"):
        Reconstruction(torch.zeros(2, 1, 4, 4), row, row, row, row, row, row.bool(), 0, 0, 0.0)


# ---- preprocessing ----


def test_preprocess_crops_by_fractions_and_normalises() -> None:
    x = torch.arange(16.0).view(1, 1, 4, 4).expand(1, 3, 4, 4) / 16
    out = Preprocess(crop=(0.25, 0.5, 0.75, 1.0))(x)
    assert torch.equal(out, (x[:, :, 1:3, 2:4] - 0.5) / 0.5)
    white = Preprocess(mean=(0, 0.5, 1), std=(1, 2, 4))(torch.ones(1, 3, 1, 1))
    assert white.flatten().tolist() == [1.0, 0.25, 0.0]


def test_preprocess_gives_the_size_asked_for_at_any_resolution() -> None:
    step = Preprocess(crop=(0.1, 0.2, 0.9, 0.8), size=6)
    gray = torch.full((2, 3, 17, 31), 0.75)
    assert torch.allclose(step(gray), torch.full((2, 3, 6, 6), 0.5))
    assert Preprocess(crop=(0.999, 0.999, 1, 1))(gray).shape == (2, 3, 1, 1)


def test_preprocess_passes_gradients_to_the_crop_alone() -> None:
    x = images(1).double().requires_grad_()
    step = Preprocess(crop=(0.0, 0.0, 0.5, 1.0), size=3).double()
    assert torch.autograd.gradcheck(step, (x,))
    step(x).sum().backward()
    assert x.grad is not None
    assert x.grad[:, :, :4].abs().min() > 0
    assert x.grad[:, :, 4:].abs().max() == 0


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"crop": (0.5, 0, 0.5, 1)}, "crop must be"),
        ({"crop": (0, 0, 1, 1.1)}, "crop must be"),
        ({"size": 0}, "size must be at least 1"),
        ({"std": (1, 0, 1)}, "std above 0"),
        ({"mean": (1, 0)}, "3 numbers"),
    ],
)
def test_preprocess_refuses(settings_: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Preprocess(**settings_)


# ---- the victim ----


def test_a_victim_is_its_module_in_eval_mode_and_frozen() -> None:
    module, x = Linear(), images()
    expected = module.last(x.flatten(1))  # no dropout
    target = Victim(module, N_CLASSES, preprocess=plain()).train()
    assert torch.allclose(target(x), expected)
    assert not target.training and not any(p.requires_grad for p in target.parameters())


def test_queries_are_counted_in_images() -> None:
    target, x = victim(), images(5).requires_grad_()
    target(x).sum().backward()
    target(x)
    target.features(x[:2]).sum().backward()
    assert (target.queries.forward, target.queries.backward) == (12, 7)


def test_logits_and_features_in_one_query() -> None:
    target, x = victim(), images(5).requires_grad_()
    logits, features = target.logits_and_features(x)
    assert torch.equal(logits, target.logits(x)) and torch.equal(features, target.penultimate(x))
    (logits.sum() + 2 * features.sum()).backward()
    assert (target.queries.forward, target.queries.backward) == (5, 5)
    apart = torch.autograd.grad(target.logits(x).sum() + 2 * target.penultimate(x).sum(), x)[0]
    assert x.grad is not None and torch.allclose(x.grad, apart, atol=1e-6)


@pytest.mark.parametrize("access", [Access.SCORES, Access.LABELS])
def test_logits_and_features_need_white_box_access(access: Access) -> None:
    with pytest.raises(AccessDenied, match="no features"):
        victim(access).logits_and_features(images())


def test_white_box_gradients_are_the_linear_weights() -> None:
    target, x = victim(), images(2).requires_grad_()
    target(x)[:, 1].sum().backward()
    assert x.grad is not None
    assert torch.allclose(x.grad.flatten(1), Linear().last.weight[1].expand(2, -1))


def test_scores_are_log_probabilities_without_a_gradient() -> None:
    x = images().requires_grad_()
    scores = victim(Access.SCORES)(x)
    assert torch.allclose(scores, victim()(x).log_softmax(1))
    assert not scores.requires_grad


def test_labels_are_one_hot_and_nothing_else() -> None:
    x = images(6)
    labels = victim(Access.LABELS)(x)
    assert set(labels.flatten().tolist()) == {0.0, 1.0}
    assert torch.equal(labels.argmax(1), victim()(x).argmax(1))


@pytest.mark.parametrize("access", [Access.SCORES, Access.LABELS])
def test_features_need_white_box_access(access: Access) -> None:
    with pytest.raises(AccessDenied, match="no features"):
        victim(access).features(images())


def test_confidence_is_the_softmax_under_scores_too_and_one_hot_under_labels() -> None:
    x = images()
    expected = victim()(x).softmax(1)
    assert torch.allclose(victim().confidence(x), expected)
    assert torch.allclose(victim(Access.SCORES).confidence(x), expected)
    assert torch.equal(victim(Access.LABELS).confidence(x).argmax(1), expected.argmax(1))


def test_penultimate_features_of_any_classifier() -> None:
    x = images()
    assert torch.allclose(victim().features(x), x.flatten(1))
    own = load_module("builtin:mixer", 5).eval()
    assert torch.equal(penultimate(own, x), own.features(x))  # type: ignore[operator]
    opaque = torch.jit.trace(nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), 5)), x)
    assert torch.equal(penultimate(opaque, x), opaque(x))  # nothing to be seen inside: the logits
    assert torch.allclose(class_directions(opaque, 5), torch.eye(5) - 0.2)


@pytest.mark.parametrize("spec", ["timm:resnet10t", "torchvision:squeezenet1_1", "torchvision:mnasnet0_5"])
def test_penultimate_features_of_library_models_are_what_the_head_sees(spec: str) -> None:
    module, x = load_module(spec, 5).eval(), torch.rand(2, 3, 64, 64)
    if "squeezenet" in spec:  # all convolutions, and a submodule called "features"
        assert torch.equal(penultimate(module, x), module(x))
        return
    head = [layer for layer in module.modules() if isinstance(layer, nn.Linear)][-1]
    assert torch.allclose(head(penultimate(module, x)), module(x), atol=1e-5)
    logits, features = logits_and_penultimate(module, x)
    assert torch.equal(logits, module(x)) and torch.equal(features, penultimate(module, x))


# ---- loading ----


def test_load_victim_builtin_with_weights_from_both_kinds_of_file(tmp_path: Path) -> None:
    source = load_module("builtin:resnet", 5)
    folder = tmp_path / "Gewichte ü"
    folder.mkdir()
    state = {key: value.contiguous() for key, value in source.state_dict().items()}
    save_file(state, folder / "w.safetensors")
    torch.save({"state_dict": source.state_dict()}, folder / "w.pt")
    x = torch.rand(2, 3, 32, 32)
    expected = Victim(source, 5)(x)
    for file in ("w.safetensors", "w.pt"):
        loaded = load_victim("builtin:resnet", 5, image_size=32, weights=folder / file)
        assert torch.equal(loaded(x), expected)


def write_module(folder: Path, body: str) -> Path:
    path = folder / "their_model.py"
    path.write_text(f"import torch\nfrom torch import nn\n{body}\n", encoding="utf-8")
    return path


BIASED = """
class Net(nn.Module):
    def __init__(self, n_classes):
        super().__init__()
        self.bias = nn.Parameter(torch.arange(float(n_classes)))
    def forward(self, x):
        return x.mean((1, 2, 3))[:, None] + self.bias
"""


def test_load_victim_from_a_file_and_from_an_importable_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_module(tmp_path, BIASED)
    by_file = load_victim(f"{path}:Net", 3, image_size=4, preprocess=plain())
    assert by_file(torch.ones(1, 3, 4, 4)).tolist() == [[1.0, 2.0, 3.0]]
    monkeypatch.syspath_prepend(tmp_path)
    by_name = load_victim("their_model:Net", 3, image_size=4)
    monkeypatch.delitem(sys.modules, "their_model")
    assert by_name(torch.ones(1, 3, 4, 4)).shape == (1, 3)


def exported(path: Path) -> None:
    program = torch.export.export(
        Linear().eval(), (images(2),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)
    )
    torch.export.save(program, path)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_load_victim_from_saved_programs(tmp_path: Path) -> None:
    exported(tmp_path / "v.pt2")
    torch.jit.save(torch.jit.trace(Linear().eval(), images(2)), tmp_path / "v.ts")
    for file in ("v.pt2", "v.ts"):
        loaded = load_victim(str(tmp_path / file), N_CLASSES, image_size=SIZE, preprocess=plain())
        x = images(5).requires_grad_()
        assert torch.allclose(loaded(x), victim()(x), atol=1e-5)
        loaded(x)[:, 2].sum().backward()
        assert x.grad is not None
        assert torch.allclose(x.grad[0].flatten(), Linear().last.weight[2], atol=1e-5)


def test_an_exported_program_with_pickles_inside_is_refused(tmp_path: Path) -> None:
    exported(tmp_path / "v.pt2")
    changes = {
        "data/sample_inputs/model.pt": lambda _: pickle.dumps(Linear(), protocol=2),
        "data/weights/model_weights_config.json": lambda text: text.replace(b"false", b"true"),
        "data/constants/model_constants_config.json": lambda _: json.dumps(
            {"config": {"x": {"path_name": "opaque_obj_0", "use_pickle": False}}}).encode(),
    }
    for name, change in changes.items():
        with zipfile.ZipFile(tmp_path / "v.pt2") as old, zipfile.ZipFile(tmp_path / "evil.pt2", "w") as new:
            for entry in old.namelist():
                content = old.read(entry)
                new.writestr(entry, change(content) if entry.endswith(name) else content)
        with pytest.raises(UserError, match="full pickle"):
            load_module(str(tmp_path / "evil.pt2"), N_CLASSES)


def test_weights_that_need_a_full_pickle_are_refused_with_the_reason(tmp_path: Path) -> None:
    torch.save(Linear(), tmp_path / "whole.pt")
    with pytest.raises(UserError, match="full pickle, which can run any code"):
        load_state(tmp_path / "whole.pt")


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("content", [b"", b"not a model", b"PK\x03\x04 cut off"])
def test_broken_files_are_told_in_a_sentence(tmp_path: Path, content: bytes) -> None:
    for name in ("w.pt", "w.safetensors", "p.pt2"):
        (tmp_path / name).write_bytes(content)

    def said(what: str) -> str:
        return what if content else "is empty: copy or download it again"

    with pytest.raises(UserError, match=said("is not a weights file")):
        load_state(tmp_path / "w.pt")
    with pytest.raises(UserError, match=said("is not a safetensors file")):
        load_state(tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=said("is not a TorchScript program")):
        load_module(str(tmp_path / "w.pt"), 5)
    with pytest.raises(UserError, match=said(r"is not a program saved by torch\.export")):
        load_module(str(tmp_path / "p.pt2"), 5)


def test_a_file_without_tensors_by_name_is_no_state_dict(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(UserError, match="holds no state dict"):
        load_state(tmp_path / "list.pt")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("builtin:alexnet", "expected one of vgg, resnet, mixer"),
        ("builtin:", "is none of"),
        ("resnet", "is none of"),
        ("timm:no_such_net", "timm has no model 'no_such_net'"),
        ("torchvision:raft_large", "torchvision has no classifier"),
        ("missing/net.py:build", "no file missing/net.py"),
        ("missing.pt2", "no file missing.pt2"),
        ("no_such_package.nets:build", "cannot import 'no_such_package.nets'"),
        ("latentprint.errors:build", "latentprint.errors has no callable 'build'"),
        ("builtins:int", r"builtins:int\(5\) returned int, expected a torch module"),
    ],
)
def test_specs_that_name_nothing(spec: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_module(spec, 5)


def test_faults_in_the_users_own_code_are_told_in_a_sentence(tmp_path: Path) -> None:
    path = write_module(tmp_path, "def build(n): raise KeyError('width')")
    with pytest.raises(UserError, match=r"build\(5\) failed: KeyError: 'width'"):
        load_module(f"{path}:build", 5)
    path = write_module(tmp_path, "oops")
    with pytest.raises(UserError, match="failed to run: NameError"):
        load_module(f"{path}:build", 5)


def test_weights_that_do_not_fit_or_are_missing(tmp_path: Path) -> None:
    torch.save(load_module("builtin:vgg", 6).state_dict(), tmp_path / "six.pt")
    with pytest.raises(UserError, match=r"six\.pt does not fit builtin:vgg: 'head\.weight' is \(6, \d+\) and must be "):
        load_module("builtin:vgg", 5, tmp_path / "six.pt")
    with pytest.raises(UserError, match="no file"):
        load_module("builtin:vgg", 5, tmp_path / "none.pt")


def test_the_probe_finds_nan_weights_and_wrong_outputs(tmp_path: Path) -> None:
    broken = Linear()
    with torch.no_grad():
        broken.last.bias[2] = math.nan
    with pytest.raises(UserError, match=r"victim: the weights \"module\.last\.bias\" contain NaN"):
        check_victim(Victim(broken, N_CLASSES), SIZE)
    with pytest.raises(UserError, match="4 outputs but there are 5 classes"):
        check_victim(Victim(Linear(), 5), SIZE)
    with pytest.raises(UserError, match=r"cannot take two 9x9 images: .*mat1 and mat2"):
        check_victim(Victim(Linear(), N_CLASSES), 9)
    with pytest.raises(UserError, match=r"must answer two images with logits \(2, 4\), got \(2, 3, 8, 8\)"):
        check_victim(Victim(nn.Identity(), N_CLASSES), SIZE)
    with pytest.raises(UserError, match="NaN or infinite logits"):
        check_victim(Victim(nn.Sequential(Linear(), Reciprocal()), N_CLASSES), SIZE)
    check_victim(victim(), SIZE)


class Reciprocal(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 1 / (0 * x)


# ---- attacks ----


class SignAttack(Attack):
    """One gradient step past the corner of the cube that is the closed-form optimum of a linear victim."""

    def run(self, victim: Victim, classes: Tensor, seeds: Tensor) -> Draw:
        x = torch.full((len(classes), 3, SIZE, SIZE), 0.5, requires_grad=True)
        (gradient,) = torch.autograd.grad(victim(x).gather(1, classes[:, None]).sum(), x)
        return Draw(x.detach() + 7 * gradient.sign())


class FixedAttack(Attack):
    def __init__(self, draw: Draw, selected_fraction: float = 0.5) -> None:
        self.draw = draw
        self.selected_fraction = selected_fraction

    def run(self, victim: Victim, classes: Tensor, seeds: Tensor) -> Draw:
        return self.draw


def test_an_attack_reaches_the_optimum_of_a_linear_victim() -> None:
    target, classes = victim(), torch.tensor([0, 3, 1])
    result = SignAttack()(target, classes, torch.arange(3))
    optimum = (Linear().last.weight > 0).float().view(-1, 3, SIZE, SIZE)
    assert torch.equal(result.images, optimum[classes])
    assert torch.equal(result.victim_prediction, classes)
    assert torch.allclose(result.victim_confidence, target(result.images).softmax(1)[range(3), classes])
    assert (result.n_forward, result.n_backward) == (6, 3)
    assert result.attribute_index.tolist() == [-1] * 3
    assert 0 < result.seconds < 60
    assert len(result) == 3


def test_the_caller_decides_what_the_victim_thinks_and_counts_from_zero() -> None:
    target, drawn = victim(), images(4)
    target(drawn)
    attack = FixedAttack(Draw(drawn, torch.tensor([5, 6, 7, 8])))
    result = attack(target, torch.tensor([0, 0, 1, 1]), torch.arange(4))
    assert torch.equal(result.victim_prediction, target(drawn).argmax(1))
    assert (result.n_forward, result.n_backward) == (4, 0)
    assert result.attribute_index.tolist() == [5, 6, 7, 8]
    probability = target(drawn).softmax(1)
    assert result.selected.tolist() == [
        bool(probability[0, 0] >= probability[1, 0]), bool(probability[0, 0] < probability[1, 0]),
        bool(probability[2, 1] >= probability[3, 1]), bool(probability[2, 1] < probability[3, 1]),
    ]


def test_more_images_than_one_query_takes() -> None:
    drawn = images(150)
    result = FixedAttack(Draw(drawn))(victim(), torch.zeros(150, dtype=torch.int64), torch.arange(150))
    assert torch.equal(result.victim_prediction, victim()(drawn).argmax(1))
    assert result.n_forward == 150


def test_a_gradient_attack_on_a_score_victim_fails_loudly() -> None:
    with pytest.raises(RuntimeError, match="does not require grad"):
        SignAttack()(victim(Access.SCORES), torch.tensor([0]), torch.tensor([0]))


def test_what_an_attack_must_not_return() -> None:
    pair = torch.tensor([0]), torch.tensor([0])
    with pytest.raises(ValueError, match=r"FixedAttack drew \(2, 3, 8, 8\), expected \(1, 3, H, W\)"):
        FixedAttack(Draw(images(2)))(victim(), *pair)
    with pytest.raises(RunFailed, match="NaN or infinite"):
        FixedAttack(Draw(images(1) * math.nan))(victim(), *pair)


def test_classes_and_seeds_must_pair_up_and_exist() -> None:
    attack = FixedAttack(Draw(images(1)))
    with pytest.raises(ValueError, match="as many classes as seeds"):
        attack(victim(), torch.tensor([0, 1]), torch.tensor([0]))
    with pytest.raises(ValueError, match=r"0\.\.3"):
        attack(victim(), torch.tensor([4]), torch.tensor([0]))


@settings(max_examples=60, deadline=None)
@given(
    classes=st.lists(st.integers(0, 3), min_size=1, max_size=30),
    fraction=st.floats(0.01, 1),
    seed=st.integers(0, 99),
)
def test_selection_takes_the_best_share_of_each_class(classes: list[int], fraction: float, seed: int) -> None:
    y = torch.tensor(classes)
    confidence = torch.rand(len(y), generator=torch.Generator().manual_seed(seed))
    selected = select_best(confidence, y, fraction)
    for c in set(classes):
        own, chosen = confidence[y == c], selected[y == c]
        assert int(chosen.sum()) == math.ceil(fraction * len(own) - 1e-9)
        if not chosen.all():
            assert own[chosen].min() >= own[~chosen].max()


def test_selection_of_equals_takes_the_earlier_and_refuses_a_bad_share() -> None:
    zeros = torch.zeros(4, dtype=torch.int64)
    assert select_best(torch.ones(4), zeros, 0.5).tolist() == [True, True, False, False]
    assert int(select_best(torch.ones(100), torch.zeros(100), 0.07).sum()) == 7
    with pytest.raises(ValueError, match="fraction"):
        select_best(torch.ones(4), zeros, 0.0)


# ---- defences ----


class LogitNoise(Defense):
    """Gaussian noise of standard deviation ``strength`` logits, the same each time for the test's sake."""

    def defended(self, x: Tensor) -> Tensor:
        logits = self.victim.logits(x)
        noise = torch.randn(logits.shape, generator=torch.Generator().manual_seed(0))
        return logits + self.strength * noise


class WeightDecay(Defense):
    """A defence by training alone."""

    def training_term(self, x: Tensor, y: Tensor) -> Tensor:
        return sum(p.square().sum() for p in self.parameters()) * torch.ones(len(x))


def test_a_defence_that_touches_the_answers_touches_them_in_a_joint_query_too() -> None:
    x = images()
    noisy = LogitNoise(victim(), 2.0)
    logits, features = noisy.logits_and_features(x)
    assert torch.equal(logits, noisy.logits(x)) and not torch.equal(logits, victim().logits(x))
    assert torch.equal(features, victim().penultimate(x))


def test_a_defence_at_strength_0_is_the_victim_bit_for_bit() -> None:
    x = images()
    for access in Access:
        assert torch.equal(LogitNoise(victim(access), 0.0)(x), victim(access)(x))
    assert torch.equal(LogitNoise(victim(), 0.0).features(x), victim().features(x))


def test_a_defence_is_on_whenever_it_is_queried() -> None:
    x, target = images(), LogitNoise(victim(), 2.0)
    noise = torch.randn(3, N_CLASSES, generator=torch.Generator().manual_seed(0))
    assert torch.equal(target(x), victim()(x) + 2.0 * noise)
    result = FixedAttack(Draw(x))(target, torch.tensor([0, 1, 2]), torch.arange(3))
    assert torch.allclose(result.victim_confidence, target(x).softmax(1).diagonal())


def test_a_defence_keeps_the_access_and_counts_once() -> None:
    inner = victim(Access.SCORES)
    outer = LogitNoise(LogitNoise(inner, 1.0), 1.0)
    assert outer.access is Access.SCORES
    outer(images(3))
    assert outer.queries is inner.queries
    assert (inner.queries.forward, inner.queries.backward) == (3, 0)


def test_defences_nest() -> None:
    x = images()
    noise = torch.randn(3, N_CLASSES, generator=torch.Generator().manual_seed(0))
    nested = LogitNoise(LogitNoise(victim(), 1.0), 3.0)
    assert torch.allclose(nested(x), victim()(x) + 4.0 * noise)
    assert nested.name == "LogitNoise(LogitNoise(victim, 1), 3)"


def test_a_defence_may_be_trained_and_freezes_again() -> None:
    module = Linear()
    target = WeightDecay(Victim(module, N_CLASSES), 0.1)
    assert LogitNoise(victim(), 1.0).training_term(images(3), torch.arange(3)).tolist() == [0.0, 0.0, 0.0]
    before = module.last.weight.clone()
    target.unfreeze()
    assert module.training
    optimiser = torch.optim.SGD(target.parameters(), lr=0.1)
    (target.strength * target.training_term(images(), torch.arange(3))).mean().backward()
    optimiser.step()
    target.freeze().train()
    assert torch.allclose(module.last.weight, before * (1 - 0.1 * 0.1 * 2))
    assert not module.training
    assert not any(p.requires_grad for p in target.parameters())


def test_a_negative_strength_is_refused() -> None:
    for strength in (-1.0, math.nan):
        with pytest.raises(ValueError, match="at least 0"):
            LogitNoise(victim(), strength)
