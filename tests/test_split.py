"""Splitting networks: the parts are the network, bit for bit and layer for layer, and every refusal says why."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from latentprint.errors import UserError
from latentprint.feature.cost import bounded_output, device_name, edge_cost
from latentprint.feature.split import Split, cut_points, split, with_bottleneck
from latentprint.feature.victim import SplitVictim
from latentprint.models.classifiers import build
from latentprint.models.split_networks import DEFAULT_CUT, Bottleneck, Bounded, resnet20, vgg11

N_CLASSES = 5


def images(n: int = 2, size: int = 64, seed: int = 0) -> Tensor:
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(seed))


class Branching(nn.Module):
    """Two branches that end in their sum, one activation run three times and a layer that never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, stride=4)
        self.left, self.right = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.act = nn.ReLU(inplace=True)
        self.after = nn.Conv2d(4, 4, 3)
        self.idle = nn.Linear(2, 2)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, N_CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.stem(x))
        return self.head(self.act(self.after(self.act(self.left(x) + self.right(x)))))


class Tied(nn.Module):
    """One convolution at the start and at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.pool = nn.Conv2d(3, 3, 3, padding=1), nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.pool(self.conv(x))).mean((2, 3))


class Careful(nn.Module):
    """Control flow on values, which no trace can follow."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 3, 3), nn.ReLU())
        self.gain = nn.Parameter(torch.tensor(2.0))

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        return x * self.gain if x.mean() > 0 else x


class Dropping(nn.Module):
    """Dropout as a function of the mode, which a single trace would freeze."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 3), nn.Linear(4, N_CLASSES)

    def forward(self, x: Tensor, scale: float | None = None) -> Tensor:
        h = F.dropout(self.one(x).relu(), 0.5, self.training)
        return self.two(F.dropout(h.mean((2, 3)), 0.5, self.training)) * (1 if scale is None else scale)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[str, ...]]] = {
    "resnet18": (lambda: torchvision.models.resnet18(num_classes=N_CLASSES), ("relu", "layer1.0", "layer2", "avgpool")),
    "vgg11_bn": (lambda: torchvision.models.vgg11_bn(num_classes=N_CLASSES), ("features.0", "features.9", "features")),
    "mobilenet_v2": (lambda: torchvision.models.mobilenet_v2(num_classes=N_CLASSES), ("features.2", "features.4.conv")),
    "timm convnext": (lambda: timm.create_model("convnext_atto", num_classes=N_CLASSES), ("stem", "stages.1.blocks.0")),
    "timm vit": (lambda: timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=N_CLASSES), ("blocks.2",)),
    "own vgg": (lambda: build("vgg", N_CLASSES), ("stages.1", "hidden.2")),
    "own resnet": (lambda: build("resnet", N_CLASSES), ("stem", "blocks.1")),
    "branching": (Branching, ("stem", "after", "head.0")),
    "paper vgg": (lambda: vgg11(N_CLASSES, image_size=64), (DEFAULT_CUT, "pool1")),
    "paper resnet": (lambda: resnet20(N_CLASSES), (DEFAULT_CUT, "block2")),
    "opaque child": (lambda: nn.Sequential(Careful(), nn.Flatten(), nn.LazyLinear(N_CLASSES)), ("0", "1")),
}  # fmt: skip


@cache
def network(name: str) -> nn.Module:
    """In eval mode, its batch norms not the identity."""
    torch.manual_seed(0)
    model = NETWORKS[name][0]()
    model(images())
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)  # type: ignore[arg-type]
            nn.init.uniform_(module.bias, -0.2, 0.2)
    return model.eval()


CASES = [(name, cut) for name, (_, cuts) in NETWORKS.items() for cut in cuts]


def ids(module: nn.Module) -> set[int]:
    return {id(parameter) for parameter in module.parameters()}


# ---- the parts are the network ----


@pytest.mark.parametrize(("name", "cut"), CASES, ids=lambda value: value)
@torch.no_grad()
def test_edge_then_cloud_is_the_network_bit_for_bit(name: str, cut: str) -> None:
    model, x = network(name), images()
    parts = split(model, cut, x)
    seen: list[Tensor] = []
    handle = model.get_submodule(cut).register_forward_hook(lambda _, __, out: seen.append(out.clone()))
    expected = model(x)
    handle.remove()
    features = parts.edge(x)
    before = features.clone()
    assert torch.equal(parts.cloud(features), expected)
    assert torch.equal(features, before)  # nothing works in place on what was sent
    assert parts.cut == cut and parts.feature_shape == features.shape[1:] and torch.equal(features, seen[-1])
    assert ids(parts.edge) and ids(parts.cloud) and not ids(parts.edge) & ids(parts.cloud)
    used = ids(model) - (ids(model.idle) if isinstance(model, Branching) else set())
    assert ids(parts.edge) | ids(parts.cloud) == used
    known = set(model.state_dict())
    assert set(parts.edge.state_dict()) <= known and set(parts.cloud.state_dict()) <= known


def test_an_edge_without_parameters_is_allowed() -> None:
    model = nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.LazyLinear(3))
    parts = split(model, "0", images())
    assert parts.feature_shape == (3, 32, 32) and not ids(parts.edge)


@pytest.mark.parametrize("name", ["resnet18", "own vgg", "timm convnext"])
def test_gradients_and_batch_statistics_in_training_are_the_networks(name: str) -> None:
    whole, parted = copy.deepcopy(network(name)), copy.deepcopy(network(name))
    parts = split(parted, NETWORKS[name][1][0], images())
    for module in (whole, parts.edge, parts.cloud):
        module.train()
    answers = whole(images(4)), parts.cloud(parts.edge(images(4)))
    assert torch.equal(*answers)
    for answer in answers:
        answer.square().sum().backward()
    for (word, a), b in zip(whole.named_parameters(), parted.parameters(), strict=True):
        assert a.grad is not None and b.grad is not None and torch.allclose(a.grad, b.grad, 1e-4, 1e-6), word
        assert a.grad.isfinite().all()
    for (word, kept), other in zip(whole.named_buffers(), parted.buffers(), strict=True):
        assert torch.equal(kept, other), word


def test_dropout_follows_the_mode_on_both_sides() -> None:
    model, x = Dropping().eval(), images(8)
    parts = split(model, "one", x)
    assert torch.equal(parts.cloud(parts.edge(x)), model(x))
    parts.cloud.train()
    torch.manual_seed(0)
    dropped = parts.cloud(parts.edge(x))
    torch.manual_seed(0)
    assert torch.equal(dropped, model.train()(x)) and not torch.equal(dropped, parts.cloud.eval()(parts.edge(x)))


def test_parts_of_a_network_in_training_train() -> None:
    x = images(8)
    parts = split(Dropping().train(), "one", x)
    assert parts.cloud.training and not torch.equal(parts.cloud(parts.edge(x)), parts.cloud(parts.edge(x)))
    edge_cost(parts, x, repeats=1)
    assert parts.cloud.training and not torch.equal(parts.cloud(parts.edge(x)), parts.cloud(parts.edge(x)))
    again = copy.deepcopy(parts.cloud)
    assert again.training and not torch.equal(again(parts.edge(x)), again(parts.edge(x)))
    parts.cloud.eval()
    assert torch.equal(parts.cloud(parts.edge(x)), parts.cloud(parts.edge(x)))


def test_the_modes_of_layers_stay_as_they_were() -> None:
    model = torchvision.models.resnet18()
    model.train()
    model.bn1.eval()
    parts = split(model, "layer1", images())
    assert [name for name, module in model.named_modules() if not module.training] == ["bn1"]
    assert parts.edge.training and parts.cloud.training
    tracked = model.bn1.num_batches_tracked
    assert tracked is not None and int(tracked) == 0  # trying it out counted nothing
    assert not split(model.eval(), "layer1", images()).edge.training


def test_a_copy_of_a_part_is_independent() -> None:
    parts = split(network("resnet18"), "layer1", images())
    other = copy.deepcopy(parts.edge)
    assert torch.equal(other(images()), parts.edge(images())) and not ids(other) & ids(parts.edge)
    parts.edge.bn1.train()  # type: ignore[union-attr]
    assert copy.deepcopy(parts.edge).bn1.training and not copy.deepcopy(parts.edge).training  # type: ignore[union-attr]
    parts.edge.eval()


def test_a_split_network_serves_as_a_victim() -> None:
    parts = split(network("own vgg"), "stages.1", images())
    victim = SplitVictim(parts.edge, parts.cloud, N_CLASSES)
    assert torch.equal(victim(images()), network("own vgg")(images() * 2 - 1))
    assert victim.release(images()).shape[1:] == parts.feature_shape
    assert set(victim.state_dict()) >= {"edge.stages.0.0.0.weight", "cloud.head.weight"}


# ---- where it can be cut ----


def test_cut_points_are_all_clean_cuts_in_order() -> None:
    points = {point.name: point.feature_shape for point in cut_points(network("branching"), images())}
    # "act" is named for its last run
    assert points == {"stem": (4, 16, 16), "after": (4, 14, 14), "act": (4, 14, 14), "head.0": (4, 1, 1),
                      "head.1": (4,)}
    assert list(points) == ["stem", "after", "act", "head.0", "head.1"]


def test_layers_that_pass_their_input_on_are_no_cuts_of_their_own() -> None:
    model = nn.Sequential(nn.Identity(), nn.Sequential(nn.Conv2d(3, 4, 3), nn.Identity()), nn.Identity(), nn.Flatten(),
                          nn.LazyLinear(2))
    assert [point.name for point in cut_points(model, images(1))] == ["1", "3"]
    assert [point.name for point in cut_points(vgg11(3, bottleneck=None), images(1, 32))][:4] == [
        "block1.0", "block1.1", "block1", "pool1"]
    assert split(model, "2", images(1)).cut == "2"  # asked for by name they are cut at


def test_residual_blocks_are_cut_between_and_not_within() -> None:
    names = [point.name for point in cut_points(network("resnet18"), images())]
    assert names == ["conv1", "bn1", "relu", "maxpool", "layer1.0", "layer1", "layer2.0", "layer2", "layer3.0",
                     "layer3", "layer4.0", "layer4", "avgpool"]


@pytest.mark.parametrize("name", ["resnet18", "branching", "own resnet", "opaque child"])
@torch.no_grad()
def test_every_cut_point_can_be_cut_and_a_number_counts_them(name: str) -> None:
    model, x = network(name), images()
    for i, point in enumerate(cut_points(model, x)):
        parts = split(model, i, x)
        assert (parts.cut, parts.feature_shape) == (point.name, point.feature_shape)
        assert torch.equal(parts.cloud(parts.edge(x)), model(x))


# ---- refusals ----


REFUSED = [
    ("resnet18", "layer1.0.conv1", "the output of 'maxpool' too; clean cuts nearby are after 'maxpool' and 'layer1.0'"),
    ("resnet18", "layer1.0.convv1", "ResNet has no layer 'layer1.0.convv1': did you mean 'layer1.0.conv1'?"),
    ("resnet18", "fc", "'fc' leaves nothing for the edge or nothing for the cloud"),
    ("resnet18", 13, "ResNet has 13 places to cut, numbered from 0; got 13"),
    ("resnet18", -1, "numbered from 0; got -1"),
    ("branching", "left", "after 'left' the cloud would need an earlier output of 'act' too; .* 'stem' and"),
    ("branching", "idle", "'idle' is not run"),
    ("opaque child", "0.features", "inside a layer that torch.fx cannot follow"),
]


@pytest.mark.parametrize(("name", "cut", "words"), REFUSED, ids=lambda value: str(value)[:20])
def test_a_cut_that_cannot_be_is_refused_with_the_reason(name: str, cut: str | int, words: str) -> None:
    with pytest.raises(UserError, match=words):
        split(network(name), cut, images())


def test_a_layer_on_both_sides_is_refused() -> None:
    with pytest.raises(UserError, match="'conv' would work on both sides of 'pool'"):
        split(Tied(), "pool", images())


def test_a_network_that_cannot_be_traced_names_its_sequential_parts() -> None:
    with pytest.raises(UserError, match=r"Careful cannot be split.*control flow.*its parts features are nn.Sequential"):
        split(Careful(), "features", images())
    assert [point.name for point in cut_points(Careful().features, images())] == ["0"]


class Remembering(nn.Module):
    """What it answers depends on what happened before, as no graph shows."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.pool, self.calls = nn.Conv2d(3, 3, 3), nn.AdaptiveAvgPool2d(1), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.pool(self.conv(x) * self.calls).flatten(1)


def test_side_effects_are_found_out() -> None:
    with pytest.raises(UserError, match="does not answer as it did before"):
        split(Remembering(), "conv", images())


class Batchless(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.average, self.fold = nn.Conv2d(3, 2, 64), nn.Flatten(0)

    def forward(self, x: Tensor) -> Tensor:
        return self.fold(self.average(x)).reshape(-1, 2)


def test_features_without_the_batch_in_front_are_refused() -> None:
    with pytest.raises(UserError, match="images in its first dimension"):
        split(Batchless(), "fold", images())


# ---- bottlenecks ----


def test_a_bottleneck_is_a_linear_map_each_way_and_a_bound() -> None:
    pair = Bottleneck(6, 2, "tanh")
    x = torch.randn(3, 6, 5, 5)
    conv, decode = pair.encode[0], pair.decode
    assert isinstance(conv, nn.Conv2d) and isinstance(decode, nn.Conv2d)
    sent = torch.tanh(F.conv2d(x, conv.weight, conv.bias, padding=1))
    assert torch.equal(pair(x), F.conv2d(sent, decode.weight, decode.bias, padding=1))
    assert sent.shape == (3, 2, 5, 5) and not conv.bias.any() and decode.bias.any()  # type: ignore[union-attr]
    bound = (6 / (9 * (6 + 2))) ** 0.5
    assert 0.9 * bound < float(conv.weight.detach().abs().max()) <= bound  # Xavier-uniform


@pytest.mark.parametrize(("name", "cut", "shape"), [
    ("resnet18", "layer1", (4, 16, 16)), ("timm vit", "blocks.2", (17, 4)), ("own vgg", "hidden", (4,)),
])  # fmt: skip
def test_a_bottleneck_goes_into_any_split(name: str, cut: str, shape: tuple[int, ...]) -> None:
    model = copy.deepcopy(network(name))
    plain = split(model, cut, images())
    narrow = with_bottleneck(plain, 4, "sigmoid", images())
    assert narrow.feature_shape == shape and narrow.cut == cut
    features = narrow.edge(images())
    assert features.shape[1:] == shape and 0 < float(features.detach().min()) < float(features.detach().max()) < 1
    narrow.cloud(features).square().sum().backward()
    new = [p for part in (narrow.edge, narrow.cloud) for p in part.parameters()]
    assert len(new) == len({*map(id, model.parameters())}) + 4
    assert all(p.grad is not None and p.grad.isfinite().all() for p in new)
    weights = [p for p in new if id(p) not in ids(model) and p.ndim > 1]
    assert len(weights) == 2 and all(p.grad is not None and p.grad.any() for p in weights)


@pytest.mark.parametrize(("channels", "bounded", "words"), [(0, "tanh", "at least 1 channel, got 0"),
                                                            (2, "relu", "one of sigmoid, tanh, none, got 'relu'")])
def test_a_bottleneck_that_cannot_be_is_refused(channels: int, bounded: Bounded, words: str) -> None:
    with pytest.raises(UserError, match=words):
        Bottleneck(4, channels, bounded)


# ---- the paper's networks ----


@pytest.mark.parametrize(("size", "shape"), [(32, (8, 8, 8)), (48, (8, 12, 12)), (64, (8, 16, 16))])
def test_vgg11_sends_what_the_paper_sends(size: int, shape: tuple[int, ...]) -> None:
    model = vgg11(10, image_size=size).eval()
    parts = split(model, DEFAULT_CUT, images(1, size))
    assert parts.feature_shape == shape
    features = parts.edge(images(1, size)).detach()
    assert 0 < float(features.min()) < float(features.max()) < 1
    assert parts.cloud(features).shape == (1, 10)
    hidden = model.hidden1
    assert isinstance(hidden, nn.Linear) and hidden.in_features == (2048 if size == 64 else 512)


def test_the_costs_of_vgg11_are_the_published_ones() -> None:
    """Counted from the published code: edge 85.3k parameters and 21.2 MMAC, cloud 132.7 + 0.53 MMAC."""
    cost = edge_cost(split(vgg11(10), DEFAULT_CUT, images(1, 32)), images(3, 32), repeats=0)
    assert (cost.edge_parameters, cost.cloud_parameters) == (85_256, 9_689_738)
    assert cost.edge_macs == pytest.approx(21.2e6, rel=2e-3)
    assert cost.cloud_macs == pytest.approx(133.2e6, rel=2e-3)
    assert (cost.bytes_float32, cost.bytes_float16, cost.bytes_int8) == (2048, 1024, 512)
    assert cost.edge_milliseconds is None and cost.device == ""


def test_resnet20_sends_and_costs_what_the_paper_does() -> None:
    parts = split(resnet20(200), DEFAULT_CUT, images(1))
    cost = edge_cost(parts, images(1), repeats=0)
    assert parts.feature_shape == (8, 16, 16)
    assert cost.edge_macs + cost.cloud_macs == pytest.approx(163e6, rel=1e-3)
    assert {point.name: point.feature_shape for point in cut_points(resnet20(200), images(1))}["block3"] == (32, 32, 32)


@pytest.mark.parametrize("make", [lambda b: vgg11(10, bottleneck=b), lambda b: resnet20(10, bottleneck=b)])
def test_without_a_bottleneck_there_is_no_bound_either(make: Callable[[int | None], nn.Sequential]) -> None:
    plain = split(make(None), DEFAULT_CUT, images(1, 32))
    assert plain.feature_shape[0] in (64, 128) and not bounded_output(plain.edge, images(1, 32))
    assert not any(isinstance(module, nn.Sigmoid) for module in make(None).modules())
    narrow = with_bottleneck(plain, 8, "sigmoid", images(1, 32))
    assert narrow.feature_shape == split(make(8), DEFAULT_CUT, images(1, 32)).feature_shape
    assert edge_cost(narrow, images(1, 32), repeats=0) == edge_cost(split(make(8), DEFAULT_CUT, images(1, 32)),
                                                                    images(1, 32), repeats=0)


@pytest.mark.parametrize("name", ["paper vgg", "paper resnet"])
def test_the_edge_starts_from_xavier_and_every_parameter_learns(name: str) -> None:
    model = copy.deepcopy(network(name)).train()
    parts = split(NETWORKS[name][0](), DEFAULT_CUT, images())
    for layer in parts.edge.modules():
        if isinstance(layer, nn.Conv2d):
            fan = layer.kernel_size[0] * layer.kernel_size[1] * (layer.in_channels + layer.out_channels)
            assert 0.98 * (6 / fan) ** 0.5 < float(layer.weight.detach().abs().max()) <= (6 / fan) ** 0.5
            assert layer.bias is not None and not layer.bias.any()
    model(images(8)).square().sum().backward()
    for word, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), word


def test_shortcuts_of_resnet20_drop_pixels_and_add_silent_channels() -> None:
    block = resnet20(3).get_submodule("block4")
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.zero_()
    x = torch.rand(1, 32, 6, 6)
    out = block(x)
    assert torch.equal(out[:, :32], x[:, :, ::2, ::2]) and out.shape == (1, 64, 3, 3) and not out[:, 32:].any()


@pytest.mark.parametrize(("make", "words"), [
    (lambda: vgg11(1), "at least 2 classes, got 1"), (lambda: vgg11(5, image_size=16), "32 to 95 pixels, got 16"),
    (lambda: vgg11(5, image_size=96), "got 96"), (lambda: resnet20(0), "at least 2 classes, got 0"),
    (lambda: resnet20(5, bottleneck=0), "at least 1 channel"),
])  # fmt: skip
def test_a_network_that_cannot_be_is_refused(make: Callable[[], nn.Module], words: str) -> None:
    with pytest.raises(UserError, match=words):
        make()


# ---- cost and bounds ----


def linear_split() -> Split:
    return split(nn.Sequential(nn.Flatten(), nn.Linear(48, 7), nn.Linear(7, 2)), "1", images(1, 4))


def test_costs_are_those_of_a_matrix_product() -> None:
    cost = edge_cost(linear_split(), images(3, 4), repeats=3, warm_up=0)
    assert (cost.edge_macs, cost.cloud_macs) == (48 * 7, 7 * 2)
    assert (cost.edge_parameters, cost.cloud_parameters) == (48 * 7 + 7, 7 * 2 + 2)
    assert (cost.bytes_float32, cost.bytes_float16, cost.bytes_int8) == (28, 14, 7)
    assert cost.edge_milliseconds is not None and cost.edge_milliseconds > 0
    assert cost.device == device_name(torch.device("cpu")) and f"{torch.get_num_threads()} thread" in cost.device


def test_timing_leaves_the_network_as_it_was() -> None:
    parts = split(network("resnet18").train(), "layer1", images())
    before = {name: value.clone() for name, value in parts.edge.state_dict().items()}
    edge_cost(parts, images(), repeats=1)
    bounded_output(parts.edge, images())
    assert parts.edge.training
    assert all(torch.equal(value, before[name]) for name, value in parts.edge.state_dict().items())
    network("resnet18").eval()
    with pytest.raises(UserError, match="at least 0, got -1"):
        edge_cost(parts, images(), repeats=-1)


class ClippedNorm(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / x.flatten(1).norm(dim=1).clamp_min(1)[:, None, None, None]


class Scaled(nn.Module):
    """A bound that training can move."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * torch.tanh(x)


def conv() -> nn.Conv2d:
    return nn.Conv2d(3, 3, 3)


ENDS: list[tuple[str, Callable[[], list[nn.Module]], bool]] = [
    ("sigmoid", lambda: [conv(), nn.Sigmoid()], True),
    ("tanh then pool", lambda: [conv(), nn.BatchNorm2d(3), nn.Tanh(), nn.AvgPool2d(2)], True),
    ("relu6", lambda: [conv(), nn.ReLU6()], True),
    ("clipped norm", lambda: [conv(), ClippedNorm()], True),
    ("norm without scale", lambda: [conv(), nn.GroupNorm(1, 3, affine=False)], True),
    ("no parameters", lambda: [nn.AvgPool2d(2)], True),
    ("linear", lambda: [conv()], False),
    ("relu", lambda: [conv(), nn.ReLU()], False),
    ("batch norm", lambda: [conv(), nn.BatchNorm2d(3)], False),
    ("layer norm", lambda: [conv(), nn.GroupNorm(1, 3)], False),
    ("sigmoid too early", lambda: [conv(), nn.Sigmoid(), conv()], False),
    ("learned bound", lambda: [conv(), Scaled()], False),
]


@pytest.mark.parametrize(("make", "bounded"), [end[1:] for end in ENDS], ids=[end[0] for end in ENDS])
def test_bounded_outputs_are_told_from_unbounded(make: Callable[[], list[nn.Module]], bounded: bool) -> None:
    found = bounded_output(nn.Sequential(*make()), images(2, 8))
    assert bool(found) is found.bounded is bounded
    assert ("grow without bound with" in found.reason) is not bounded


def test_a_silent_network_is_not_taken_for_bounded() -> None:
    silent = conv()
    with torch.no_grad():
        silent.weight.zero_()
        silent.bias.fill_(-1.0)  # type: ignore[union-attr]
    assert not bounded_output(nn.Sequential(silent, nn.ReLU()), images(2, 8))
