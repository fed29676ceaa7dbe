"""Embeddings of any size and mean: sizes come from the networks, and what ships is read as ever."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from small import SMALL_FEATURE, SMALL_LABEL, SMALL_TEMPLATE, command, composed, save_small, small_networks
from torch import Tensor

from latentprint.diffusion.loading import load_tools
from latentprint.diffusion.prior import FaceSwapPrior, TokenPrior
from latentprint.errors import UserError
from latentprint.models.assets import copy_asset, load_asset, read_index, save_asset
from latentprint.models.recognisers import EmbeddingNetwork, Recogniser, build_recogniser, embed
from latentprint.plugins.reface.prior import RefacePrior
from latentprint.pretrain import common
from latentprint.pretrain.prior import PriorConfig, begun
from latentprint.template.presets import RecogniserConfig
from latentprint.template.recogniser import load_recogniser

CPU = torch.device("cpu")


def unit(n: int, dim: int) -> Tensor:
    return F.normalize(torch.randn(n, dim), dim=1)


# ---- recognisers ----


class Pixels(EmbeddingNetwork):
    """The first entries of a picture, moved by a constant."""

    def __init__(self, shift: Tensor) -> None:
        super().__init__()
        self.dim, self.shift = len(shift), shift

    def raw(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, : self.dim] - 0.5 + self.shift


def test_a_center_undoes_a_constant_that_all_embeddings_share() -> None:
    x, shift = torch.rand(6, 3, 8, 8), 20 + torch.rand(24)
    plain, moved = Pixels(torch.zeros(24)), Pixels(shift)
    assert float((moved(x) @ moved(x).T).min()) > 0.99  # everybody is alike
    moved.center = shift
    assert torch.allclose(moved(x), plain(x), atol=1e-4) and torch.equal(plain(x), F.normalize(plain.raw(x), dim=1))
    assert torch.allclose(moved(x).norm(dim=1), torch.ones(6))
    assert [name for name, _ in moved.named_parameters()] == [] and list(plain.state_dict()) == []


def test_an_asset_keeps_its_size_and_center(tmp_path: Path) -> None:
    network, x = build_recogniser("convnext", 24).eval(), torch.rand(2, 3, 64, 64)
    record = {"kind": "recogniser", "architecture": "convnext", "dim": 24}
    save_asset(tmp_path, "plain", network, record, half=False)
    network.center = torch.randn(24)
    save_asset(tmp_path, "centred", network, record, half=False)
    plain, centred = (load_asset(name, tmp_path) for name in ("plain", "centred"))
    assert isinstance(plain, Recogniser) and isinstance(centred, Recogniser) and plain.dim == centred.dim == 24
    assert plain.center is None and centred.center is not None and torch.equal(centred.center, network.center)
    assert torch.equal(centred(x), F.normalize(plain.raw(x) - network.center, dim=1))
    assert embed(plain, torch.empty(0, 3, 64, 64)).shape == (0, 24)
    network.center = torch.randn(9)
    save_asset(tmp_path, "wrong", network, record)
    with pytest.raises(UserError, match=r"'center' is \(9,\) and must be \(24,\)"):
        load_asset("wrong", tmp_path)


def test_a_template_recogniser_takes_the_size_of_its_asset(tmp_path: Path) -> None:
    save_asset(tmp_path, "odd", build_recogniser("iresnet", 24),
               {"kind": "recogniser", "architecture": "iresnet", "dim": 24})
    for name, dim, expected in (("odd", None, 24), ("odd", 24, 24), ("teacher", None, 512), ("teacher", 512, 512)):
        found = load_recogniser(RecogniserConfig(model=name, dim=dim), tmp_path, 64, CPU, "recogniser")
        assert found.dim == expected and found(torch.rand(2, 3, 64, 64)).shape == (2, expected)
    with pytest.raises(UserError, match=r"embeddings \(2, 512\), got \(2, 24\); set recogniser\.dim"):
        load_recogniser(RecogniserConfig(model="odd", dim=512), tmp_path, 64, CPU, "recogniser")


# ---- priors ----


def test_the_shipped_prior_reads_512_entries_as_ever() -> None:
    """The formula that it was trained with, to the bit; its record says nothing of a size."""
    prior = load_asset("prior")
    assert isinstance(prior, TokenPrior) and prior.embedding_dim == 512 and "embedding_dim" not in read_index()["prior"]
    e, seen = unit(3, 512), torch.randn(3, 10)
    identity = prior.identity(e * 512**0.5).view(3, prior.n_identity, prior.dim)
    expected = prior.norm(torch.cat([identity, prior.attributes(seen).view(3, 2, prior.dim)], 1) + prior.place)
    assert torch.equal(prior.tokens(e, seen), expected)


def test_networks_of_512_entries_begin_as_they_did() -> None:
    """Values of the version that knew no other size, the state of the random numbers afterwards included."""
    torch.manual_seed(0)
    prior = FaceSwapPrior((32, 32), 4)
    assert torch.rand(()).item() == pytest.approx(0.834886, abs=1e-6)
    tokens = prior.tokens(F.normalize(torch.linspace(-1, 1, 512)[None], dim=1), torch.zeros(1, 10))
    assert tokens[0, [0, 3, 5], 0].tolist() == pytest.approx([-1.649300, -1.568087, 0.459603], abs=1e-4)
    for architecture, after in (("iresnet", 0.767812), ("convnext", 0.528124)):
        torch.manual_seed(0)
        build_recogniser(architecture)
        assert torch.rand(()).item() == pytest.approx(after, abs=1e-6)


@pytest.mark.parametrize("dim", [24, 512])
def test_a_first_layer_sees_entries_of_order_one_whatever_their_number(dim: int) -> None:
    prior, given = FaceSwapPrior((32, 32), 4, dim), []
    prior.identity.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    assert prior.tokens(unit(2, dim), torch.zeros(2, 10)).shape == (2, 6, 128)
    assert given[0].square().mean(1).tolist() == pytest.approx([1.0, 1.0])


def test_a_base_begins_its_first_layer_anew_for_another_teacher(tmp_path: Path) -> None:
    save_asset(tmp_path, "prior", FaceSwapPrior((32, 32), 4), {"kind": "prior", "widths": [32, 32],
                                                               "identity_tokens": 4}, half=False)
    config = PriorConfig(base=tmp_path)
    same, record = begun(config, 512)
    other, changed = begun(config, 24)
    assert record["embedding_dim"] == 512 and changed["embedding_dim"] == 24
    kept = load_asset("prior", tmp_path).state_dict()
    assert {name for name, value in same.state_dict().items() if not torch.equal(value, kept[name])} == set()
    assert {name for name, value in other.state_dict().items() if not torch.equal(value, kept[name])} == {
        "identity.0.weight", "identity.0.bias"}
    assert other.tokens(unit(2, 24), torch.zeros(2, 10)).shape == (2, 6, 128)
    assert all(p.requires_grad for p in other.parameters())


def test_reface_reads_embeddings_of_another_size() -> None:
    from test_plugins import SMALL

    prior = RefacePrior(SMALL.unet, SMALL.clip, 24)
    for dim in (24, 40):
        prior.read_embeddings_of(dim)
        assert prior.embedding_dim == dim
        assert prior.tokens(unit(2, dim), torch.zeros(2, prior.condition.width + 136)).shape == (2, 1, 32)


# ---- whole commands ----


@pytest.fixture(scope="module")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A teacher of 24 entries far from zero, a judge of 40, and a prior trained on that teacher for four steps.

    The folder's ``teacher``, which is attacked in its own right, has 512.
    """
    with small_networks(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(common, "UNSEEN_PEOPLE", range(9_000_000, 9_000_024))
        folder, made = save_small(tmp_path_factory.mktemp("assets")), tmp_path_factory.mktemp("made") / "run"
        for name, architecture, dim in (("odd", "convnext", 24), ("judge", "convnext", 40)):
            network = build_recogniser(architecture, dim)
            network.center = torch.randn(dim)
            save_asset(folder, name, network, {"kind": "recogniser", "architecture": architecture, "dim": dim})
        code, said = command(composed("pretrain prior", folder, {
            "teacher": "odd", "width": 32, "identity_tokens": 4, "size": 32, "swap_from": 0.5}, threads=False), made)
        assert code == 0, said
        index = read_index(made / "assets")  # all that it needs is there
        assert set(index) == {"prior", "odd", "codec", "attributes"} and index["prior"]["embedding_dim"] == 24
        assert index["prior"]["needs"]["teacher"] == index["odd"]["sha256"] == read_index(folder)["odd"]["sha256"]
        for name in ("judge", "teacher"):
            copy_asset(name, folder, made / "assets")
        yield made / "assets"


def audited(words: str, assets: Path, out: Path, sets: dict[str, Any]) -> dict[str, Any]:
    """The channel's section of report.json."""
    code, said = command(composed(words, assets, sets), out)
    assert code == 0, said
    (section,) = json.loads((out / "report.json").read_text())["channels"].values()
    return section


def test_a_label_audit_with_teachers_and_judge_of_three_sizes(assets: Path, tmp_path: Path) -> None:
    section = audited("audit label", assets, tmp_path / "run", {
        **SMALL_LABEL, "teacher": "odd", "teachers": "[teacher]", "attack.gate": "learned",
        "baselines": "[embedding-search]"})
    assert section["teacher"]["name"] == "odd" and section["judge"]["name"] == "judge"
    assert {"attack", "mapped", "prior_ceiling", "embedding_search"} <= set(section["arms"])
    assert all(abs(section["arms"][arm]["similarity_judge"]["value"]) <= 1 for arm in section["arms"])
    assert section["geometry"]["random"]["effective_rank"] < 24  # of all that 24 entries can have


@pytest.mark.parametrize("sets", [
    {"attack.generators": "[decoder, prior]", "attack.refine_steps": 2},
    {"attack.generators": "[prior]", "attack.access": "transfer", "attack.surrogate": "odd"},
    {"attack.generators": "[prior]", "attack.access": "scores", "recogniser.model": "odd"},
], ids=["white-box", "transfer", "scores"])
def test_template_audits_between_recognisers_of_three_sizes(assets: Path, tmp_path: Path, sets: dict[str, Any]) -> None:
    section = audited("audit template", assets, tmp_path / "run", {**SMALL_TEMPLATE, "teacher": "odd", **sets})
    assert section["victim"]["entries"] == (24 if "recogniser.model" in sets else 512)
    assert section["judges"][0]["name"] == "judge" and section["arms"]["prior"]["sar_type2_judge"]["n"] == 3
    recovered = section["recovered_similarity"]["value"]
    assert abs(recovered) < 1 if sets.get("attack.access") == "scores" else recovered == pytest.approx(1)


def test_a_feature_audit_repaints_by_a_teacher_and_reidentifies_by_a_judge_of_other_sizes(assets: Path,
                                                                                         tmp_path: Path) -> None:
    section = audited("audit feature", assets, tmp_path / "run", {
        **SMALL_FEATURE, "teacher": "odd", "attacks": "[prior]"})
    assert 0 <= section["reidentification"]["value"] <= 1 and section["reidentification"]["chance"] == 0.25


@pytest.mark.parametrize(("words", "sets", "message"), [
    ("audit label", SMALL_LABEL, "the prior was trained with another teacher than 'teacher'"),
    ("audit template", {**SMALL_TEMPLATE, "attack.generators": "[prior]"}, "another teacher than 'teacher'"),
    ("audit feature", {**SMALL_FEATURE, "attacks": "[prior]"}, "another teacher than 'teacher'"),
    ("audit feature", {**SMALL_FEATURE, "attacks": "[prior]", "teacher": "nobody"}, "'nobody' is not among"),
    ("pretrain prior", {"teacher": "codec"}, "teacher: the asset 'codec' is not a recogniser"),
])
def test_another_teacher_than_the_priors_is_refused(assets: Path, tmp_path: Path, words: str, sets: dict[str, Any],
                                                    message: str) -> None:
    code, said = command(composed(words, assets, sets, threads=not words.startswith("pretrain")), tmp_path / "run")
    assert code == 2 and message in said, said
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_prior_without_a_record_of_its_teacher_still_refuses_another_size(tmp_path: Path) -> None:
    record = {"kind": "prior", "widths": [32, 32], "identity_tokens": 4, "embedding_dim": 24}
    with small_networks():
        save_asset(save_small(tmp_path), "prior", FaceSwapPrior((32, 32), 4, 24), record)
        with pytest.raises(UserError, match="embeddings of 24 entries and the teacher 'teacher' makes them of 512"):
            load_tools(tmp_path, CPU)
        with pytest.raises(UserError, match="teacher: the asset 'attributes' is not a recogniser"):
            load_tools(tmp_path, CPU, "attributes")


def test_a_recogniser_of_another_size_is_pretrained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(common, "UNSEEN_PEOPLE", range(9_000_000, 9_000_024))
    with small_networks():
        code, said = command(["pretrain", "recogniser", "--preset", "tiny", "--set", "dim=24"], tmp_path)
        assert code == 0, said
        found = load_asset("teacher", tmp_path / "assets")
    assert isinstance(found, Recogniser) and found.dim == 24 == read_index(tmp_path / "assets")["teacher"]["dim"]
    assert "--set dim=24" in read_index(tmp_path / "assets")["teacher"]["command"]
    assert found.raw(torch.rand(2, 3, 64, 64)).shape == (2, 24)
