"""What networks answer is kept: found again bit for bit, asked again when anything that it depends on has changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import Run, small_swapper
from torch import Tensor, nn

from latentprint.data.procedural import make_people
from latentprint.defense import Defense
from latentprint.engine.loop import Loop
from latentprint.engine.run import RunDir
from latentprint.label import audit
from latentprint.label.pairing import Opinions
from latentprint.models import answers as module
from latentprint.models.answers import answers, embeddings, readings
from latentprint.models.classifiers import build
from latentprint.models.content import content
from latentprint.models.preprocess import Preprocess
from latentprint.models.recognisers import build_recogniser, embed
from latentprint.template.recogniser import Embedder
from latentprint.types import Access
from latentprint.victim import Victim


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own, with entries of 8 photos."""
    monkeypatch.setenv("LATENTPRINT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "PIECE", 8)
    monkeypatch.setattr(module, "FEWEST", 4)
    return tmp_path / "cache" / "answers"


def photos(n: int = 20, side: int = 32, seed: int = 0) -> Tensor:
    return torch.randint(256, (n, 3, side, side), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)


def network(crop: tuple[float, float, float, float] = (0, 0, 1, 1), mean: float = 0.5) -> Embedder:
    """A recogniser of four numbers behind its preprocessing."""
    torch.manual_seed(0)
    body = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 4), nn.BatchNorm1d(4))
    return Embedder(body, Preprocess(crop, mean=(mean, 0.5, 0.5)), 4, "small", "small")


class Asked:
    """How many photos a network was asked about, and the question itself, which may break off."""

    def __init__(self, ask: Callable[..., Tensor], break_after: int = 10**9) -> None:
        self.ask, self.photos, self.break_after = ask, 0, break_after

    def __call__(self, *batch: Tensor) -> Tensor:
        if self.photos >= self.break_after:
            raise KeyboardInterrupt
        self.photos += len(batch[0])
        return self.ask(*(each.float() / 255 for each in batch))


def asked(net: nn.Module, images: Tensor, question: str = "forward", batch: int = 4) -> int:
    """Photos that had to be asked about, of answers that are the network's own."""
    count = Asked(net)
    found = answers(net, count, images, question=question, name="small", batch=batch)
    assert torch.equal(found, torch.cat([net(part.float() / 255) for piece in images.split(8)
                                         for part in piece.split(batch)]))
    return count.photos


def test_a_second_question_asks_nobody() -> None:
    assert [asked(network(), photos()) for _ in range(3)] == [20, 0, 0]
    assert asked(network(), photos(side=32).permute(0, 1, 3, 2).contiguous().permute(0, 1, 3, 2)) == 0  # lie otherwise


@pytest.mark.parametrize("architecture", ["iresnet", "convnext"])
def test_kept_embeddings_are_those_of_the_network_bit_for_bit(architecture: str, folder: Path) -> None:
    net = build_recogniser(architecture).eval().requires_grad_(False)
    images = make_people(range(3), 4).images
    fresh = torch.cat([embed(net, part) for part in images.split(8)])
    assert all(torch.equal(embeddings(net, images), fresh) for _ in range(2))
    assert not torch.equal(readings(net, images, "raw"), fresh)  # another question
    assert len(list(folder.iterdir())) == 4


def changed(change: Callable[[Embedder], object]) -> Embedder:
    net = network()
    change(net)
    return net


def _bump(net: Embedder, part: str, tensor: str) -> None:
    getattr(net.network.get_submodule(part), tensor).data.view(-1)[0] += 1e-3


@pytest.mark.parametrize("other", [
    lambda: changed(lambda net: _bump(net, "2", "weight")),
    lambda: changed(lambda net: _bump(net, "3", "running_mean")),
    lambda: changed(lambda net: setattr(net.network.get_submodule("3"), "eps", 1e-3)),
    lambda: network(mean=0.4),
    lambda: network(crop=(0, 0, 1, 0.5)),
    lambda: changed(lambda net: setattr(net.preprocess, "colours", "bgr")),
], ids=["weight", "buffer", "setting", "buffer outside the state dict", "crop", "colours"])
def test_another_network_is_asked_again(other: Callable[[], Embedder]) -> None:
    assert asked(network(), photos()) == 20
    assert asked(other(), photos()) == 20
    assert asked(network(), photos()) == 0


def test_other_photos_questions_and_batches_are_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    net, images = network(), photos()
    assert asked(net, images) == 20
    assert asked(net, images, question="other") == 20
    assert asked(net, images, batch=8) == 20
    images[17, 2, 31, 31] ^= 1
    assert asked(net, images) == 4  # the piece with the photo that changed
    assert asked(net, images[:8]) == 0
    monkeypatch.setattr(torch, "__version__", "0.1")
    assert asked(net, images) == 20


def test_what_belongs_to_a_photo_counts_too() -> None:
    images, masks = photos(), torch.zeros(20, 1, 32, 32, dtype=torch.uint8)
    net, both = network(), Asked(lambda image, mask: image.mean((1, 2, 3)) + mask.mean((1, 2, 3)))
    for changed_mask, total in ((0, 20), (0, 20), (1, 24)):
        masks[19] = changed_mask
        found = answers(net, both, images, masks, question="both", name="small")
        assert both.photos == total
        assert torch.allclose(found, (images.float() / 255).mean((1, 2, 3)) + (masks / 255).mean((1, 2, 3)))


def test_a_run_that_was_killed_goes_on_where_it_was() -> None:
    net, images = network(), photos()
    broken = Asked(net, break_after=12)
    with pytest.raises(KeyboardInterrupt):
        answers(net, broken, images, question="forward", name="small", batch=4)
    assert asked(net, images) == 12  # one piece of 8 was whole
    assert asked(net, images) == 0


def test_damaged_answers_are_asked_for_anew(folder: Path) -> None:
    net, images = network(), photos(8)
    asked(net, images)
    entry = next(folder.iterdir())
    whole = entry.read_bytes()
    flipped = bytearray(whole)
    flipped[-5] ^= 1
    for damaged in (b"", whole[:50], whole[:-1], bytes(flipped)):
        entry.write_bytes(damaged)
        with pytest.warns(UserWarning, match="damaged and will be made anew"):
            assert asked(net, images) == 8
        assert entry.read_bytes() == whole


def test_a_folder_that_cannot_be_written_is_passed_over(folder: Path, recwarn: pytest.WarningsRecorder) -> None:
    folder.parent.mkdir()
    folder.write_text("in the way")
    assert asked(network(), photos()) == 20
    assert {str(each.message).partition(" (")[0] for each in recwarn} == {
        f"answers of networks cannot be kept in {folder}"}


def test_without_a_cache_and_for_few_photos_the_network_is_asked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [asked(network(), photos(3)) for _ in range(2)] == [3, 3]
    assert answers(network(), network(), torch.zeros(0, 3, 8, 8), question="forward", name="small").shape == (0, 4)
    monkeypatch.setenv("LATENTPRINT_CACHE", "")
    assert [asked(network(), photos()) for _ in range(2)] == [20, 20]
    assert not folder.exists()


@pytest.mark.parametrize("thaw", [lambda net: net.requires_grad_(True), lambda net: net.train()])
def test_a_network_in_training_is_refused(thaw: Callable[[nn.Module], object]) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(3072, 2)).eval().requires_grad_(False)
    thaw(net)
    with pytest.raises(ValueError, match="not frozen"):
        readings(net, photos())


def test_what_was_trained_in_this_process_is_not_kept(folder: Path, tmp_path: Path) -> None:
    net = network()
    free = net.network.requires_grad_(True)
    run = RunDir.open(tmp_path / "run", {}, resume=False)
    Loop(run, "train", torch.optim.SGD(free.parameters(), 0.1), {"network": free}, 1).fit(
        lambda step: (net(photos().float() / 255).sum(), {}))
    run.close()
    net.requires_grad_(False)
    assert [asked(net, photos()) for _ in range(2)] == [20, 20]
    assert not folder.exists()


class Foreign(nn.Flatten):
    """Of the user's own, as far as the package knows."""


def _hooked() -> nn.Module:
    net = nn.Flatten()
    net.register_forward_hook(lambda *_: None)
    return net


def _patched() -> nn.Module:
    net = nn.Flatten()
    net.forward = lambda x: x.flatten(1)  # type: ignore[assignment]
    return net


@pytest.mark.parametrize("unknown", [
    Foreign, _hooked, _patched, lambda: nn.FractionalMaxPool2d(2, output_size=4),
    lambda: torch.jit.trace(nn.Flatten(), torch.zeros(1, 3, 4, 4)), lambda: nn.Sequential(nn.Flatten(), nn.Dropout()),
])
def test_what_answers_depend_on_cannot_be_told_of_every_network(unknown: Callable[[], nn.Module]) -> None:
    net = unknown()
    if not isinstance(net, nn.Sequential):  # whose part stays in training mode
        net.eval()
    assert content(net) is None
    assert content(nn.Flatten().eval()) is not None


def test_content_is_that_of_an_equal_network() -> None:
    assert content(network()) == content(network()) != content(network(mean=0.1))


# ---- where it is used ----


def test_scenes_are_those_of_a_batch_and_found_again(monkeypatch: pytest.MonkeyPatch) -> None:
    swapper, data = small_swapper(), make_people(range(5), 2)
    assert data.holes is not None
    scenes = swapper.scenes(data, pixels=4 * 64 * 64)
    monkeypatch.setattr(module, "_asked", lambda ask, batches: pytest.fail("asked again"))
    again = swapper.scenes(data, pixels=4 * 64 * 64)
    alone = swapper.scene(data.floats(slice(4, 8)), data.holes[4:8].float())
    for name in ("image", "hole", "latent", "masked", "keep", "attributes", "seen"):
        assert torch.equal(getattr(again.take(torch.arange(4, 8)), name), getattr(alone, name))
        assert torch.equal(getattr(again.take(torch.arange(10)), name), getattr(scenes.take(torch.arange(10)), name))


@pytest.mark.parametrize("access", list(Access))
def test_a_victims_queries_are_counted_whether_or_not_its_answers_were_kept(access: Access) -> None:
    data, found = make_people(range(5), 2), []
    for _ in range(2):
        torch.manual_seed(0)
        victim = Victim(build("mixer", 3), 3, access=access)
        opinions = Opinions(victim, data, batch=4)
        found.append((opinions.log_confidence, opinions.features))
        assert victim.queries.forward == 10 and victim.queries.backward == 0
    assert all(torch.equal(first, second) for first, second in zip(*found, strict=True))
    x = data.floats(slice(4))
    assert torch.allclose(found[0][0][:4].exp(), victim.confidence(x), atol=1e-6)


def test_victims_are_kept_where_all_is_known_of_them(folder: Path) -> None:
    data, asked_about = make_people(range(5), 2), []
    for victim in (Victim(build("mixer", 3), 3), Victim(nn.Sequential(Foreign(), nn.Linear(3 * 64 * 64, 3)), 3),
                   Defense(Victim(build("mixer", 3), 3), 1.0)):
        for _ in range(2):
            before = len(list(folder.glob("*")))
            assert Opinions(victim, data).log_confidence.shape == (10, 3)
            asked_about.append(len(list(folder.glob("*"))) - before)
        assert victim.queries.forward == 20
    assert asked_about == [2, 0, 0, 0, 0, 0]


def test_what_is_no_part_of_a_network_counts_too() -> None:
    def seeing(scale: float) -> nn.Module:
        net, eye = nn.Flatten().eval(), nn.Linear(2, 2).eval()
        nn.init.constant_(eye.weight, scale)
        nn.init.zeros_(eye.bias)
        object.__setattr__(net, "eye", eye)
        return net

    assert content(seeing(1.0)) == content(seeing(1.0)) != content(seeing(2.0))


def test_a_second_audit_asks_no_shipped_network_about_photos(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    asked_about: list[int] = []
    ask = module._asked

    def counted(question: Callable[..., Tensor], batches: list[tuple[Tensor, ...]]) -> Tensor:
        found = ask(question, batches)
        asked_about.append(len(found))
        return found

    monkeypatch.setattr(module, "PIECE", 2048)
    monkeypatch.setattr(module, "_asked", counted)
    monkeypatch.setattr(audit, "draw_figures", lambda *_: [])  # they take half of the time
    short = ("attack.access=scores", "attack.stages=[]", "attack.images=2", "resamples=1000", "victim.steps=1",
             "evaluators=[{model: 'builtin:resnet', steps: 1, batch: 4}]")
    totals, sections = [], []
    for out in ("first", "second"):
        code, err, path = run("audit label", *short, out=out)
        assert code == 0, err
        sections.append(json.loads((path / "report.json").read_text())["channels"]["label"])
        totals.append(sum(asked_about))
        asked_about.clear()
        del sections[-1]["seconds"]
    assert totals[0] > 72 * 5  # public photos: victim, teacher, codec, attribute network in two ways
    assert totals[1] == 72  # the victim alone, which was trained in this run
    assert sections[0] == sections[1]
