"""Published networks: their names and shapes, the formulas they compute, and what is refused of their files."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from helpers import run_cli
from ldm import ldm_unet, ldm_vae
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from latentprint.data.procedural import make_people
from latentprint.diffusion.loading import load_tools
from latentprint.diffusion.lora import adapter_parameters, add_adapter
from latentprint.diffusion.prior import clean_and_noise, signal_and_noise, to_predict
from latentprint.diffusion.scene import Scene
from latentprint.errors import UserError
from latentprint.models.assets import load_asset, read_index
from latentprint.plugins.arcface import build as arcface
from latentprint.plugins.arcface.convert import convert_recogniser
from latentprint.plugins.arcface.ir import IR
from latentprint.plugins.arcface.iresnet import IResNet
from latentprint.plugins.reface.condition import Condition
from latentprint.plugins.reface.convert import convert_reface, mean_look, untrained
from latentprint.plugins.reface.prior import RefacePrior
from latentprint.plugins.reface.shape import CLIP, UNET, Shape
from latentprint.plugins.stable.codec import SD_VAE, KLCodec
from latentprint.plugins.stable.convert import convert_diffusers

NARROW = (16, 16, 32, 32)
SMALL = Shape(
    unet={**UNET, "sample_size": 8, "block_out_channels": (32, 32, 64, 64), "cross_attention_dim": 32,
          "attention_head_dim": 4},
    vae={**SD_VAE, "block_out_channels": (32, 32, 32, 32), "sample_size": 64},
    clip={**CLIP, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
          "image_size": 32, "patch_size": 16, "projection_dim": 32},
)


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """IR-SE50 has 44 million weights: here its stages are narrower."""
    monkeypatch.setitem(arcface.NETWORKS, "ir-se50", lambda: IR(50, squeezed=True, widths=NARROW))


def checkpoint(**more: Any) -> dict[str, Any]:
    """What Lightning would have stored of a small REFace with random weights."""
    torch.manual_seed(0)
    width = SMALL.clip["projection_dim"]
    prior = RefacePrior(SMALL.unet, SMALL.clip)
    for parameter in prior.parameters():
        nn.init.normal_(parameter, std=0.05)
    condition = prior.condition.state_dict()
    state = {
        **ldm_unet(prior.unet.state_dict()), **ldm_vae(AutoencoderKL(**SMALL.vae).state_dict(), 4),
        **{("cond_stage_model." if key.startswith(("model.", "mapper2.", "final_ln2.")) else "") + key: value
           for key, value in condition.items()},
        **{f"face_ID_model.facenet.{key}": value
           for key, value in IR(50, squeezed=True, widths=NARROW).state_dict().items()},
        "cond_stage_model.model.text_model.embeddings.position_ids": torch.arange(4),
        "cond_stage_model.model.vision_model.embeddings.position_ids": torch.arange(5),
        "cond_stage_model.mapper.resblocks.0.ln_1.weight": torch.ones(width), "lpips_loss.lin0.weight": torch.ones(1),
        "cond_stage_model.final_ln.weight": torch.ones(width), "betas": torch.ones(3),
        "posterior_variance": torch.ones(3),
    }
    return {"epoch": 1, "global_step": 2, "pytorch-lightning_version": "1.4.2", "state_dict": {**state, **more}}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    torch.save(checkpoint(), tmp_path / "last.ckpt")
    return tmp_path / "last.ckpt"


# ---- published names and sizes ----


def on_meta(make: Callable[[], nn.Module]) -> dict[str, Tensor]:
    with torch.device("meta"):
        return make().state_dict()


@pytest.mark.parametrize(
    ("name", "keys", "millions", "some"),
    [
        ("ir-50", 349, 43.6, {"body.3.shortcut_layer.0.weight": (128, 64, 1, 1),
                              "output_layer.3.weight": (512, 25088)}),
        ("adaface-ir101", 917, 65.2, {"body.0.res_layer.3.weight": (64,), "output_layer.4.running_mean": (512,)}),
        ("iresnet50", 475, 43.6, {"layer1.0.downsample.0.weight": (64, 64, 1, 1), "features.running_var": (512,),
                                  "layer3.13.prelu.weight": (256,), "fc.weight": (512, 25088)}),
        ("iresnet100", 925, 65.2, {"layer2.12.bn3.bias": (128,), "layer4.2.conv2.weight": (512, 512, 3, 3)}),
        ("mobilefacenet", 333, 1.2, {"conv_45.conv_dw.conv.weight": (512, 1, 3, 3), "conv2_dw.prelu.weight": (64,),
                                     "conv_3.model.3.project.bn.weight": (64,), "linear.weight": (512, 512)}),
    ],
)
def test_recognisers_have_the_published_keys(name: str, keys: int, millions: float,
                                             some: dict[str, tuple[int, ...]]) -> None:
    state = on_meta(arcface.NETWORKS[name])
    assert len(state) == keys
    with torch.device("meta"):
        weights = sum(p.numel() for p in arcface.NETWORKS[name]().parameters())
    assert weights / 1e6 == pytest.approx(millions, abs=0.06)
    assert {key: tuple(state[key].shape) for key in some} == some


def test_reface_has_the_published_keys() -> None:
    squeezed = on_meta(lambda: IR(50, squeezed=True))
    assert len(squeezed) == 397
    assert sum(v.numel() for k, v in squeezed.items() if "running" not in k and "tracked" not in k) == 43_797_696
    assert squeezed["body.23.res_layer.5.fc1.weight"].shape == (32, 512, 1, 1)
    unet = ldm_unet(on_meta(lambda: UNet2DConditionModel(**UNET)))
    assert len(unet) == 686 and sum(v.numel() for v in unet.values()) == pytest.approx(859.5e6, rel=1e-3)
    for name, shape in {"input_blocks.0.0.weight": (320, 9, 3, 3),
                        "output_blocks.11.1.proj_out.weight": (320, 320, 1, 1),
                        "middle_block.1.transformer_blocks.0.attn2.to_k.weight": (1280, 768),
                        "input_blocks.3.0.op.weight": (320, 320, 3, 3),
                        "output_blocks.2.1.conv.weight": (1280, 1280, 3, 3),
                        "output_blocks.5.2.conv.bias": (1280,), "time_embed.2.bias": (1280,)}.items():
        assert unet[f"model.diffusion_model.{name}"].shape == shape
    vae = ldm_vae(on_meta(lambda: AutoencoderKL(**SD_VAE)), 4)
    assert len(vae) == 248 and sum(v.numel() for v in vae.values()) == pytest.approx(83.65e6, rel=1e-3)
    assert vae["first_stage_model.decoder.mid.attn_1.proj_out.weight"].shape == (512, 512, 1, 1)
    condition = on_meta(lambda: Condition(CLIP))
    assert sum(v.numel() for k, v in condition.items() if k.startswith("mapper2.")) == pytest.approx(35.4e6, rel=2e-3)
    assert condition["mapper2.resblocks.4.attn.c_qkv.weight"].shape == (3 * 768, 768)
    assert condition["model.visual_projection.weight"].shape == (768, 1024)
    assert {k: tuple(v.shape) for k, v in condition.items() if "proj_out" in k or k == "learnable_vector"} == {
        "proj_out_source.weight": (768, 768), "proj_out_source.bias": (768,), "proj_out_target.weight": (768, 768),
        "proj_out_target.bias": (768,), "ID_proj_out.weight": (768, 512), "ID_proj_out.bias": (768,),
        "landmark_proj_out.weight": (768, 136), "landmark_proj_out.bias": (768,), "learnable_vector": (1, 1, 768)}


# ---- formulas ----


def test_the_token_is_the_published_average() -> None:
    """Against the formula written out, attention with its softmax and all."""
    torch.manual_seed(1)
    net = Condition(SMALL.clip)
    images, identity, landmarks = torch.rand(2, 3, 48, 48), F.normalize(torch.randn(2, 512), dim=1), torch.randn(2, 136)
    got = net.token(net.look(images), net.look(images.flip(3)), identity, landmarks)

    def looked(x: Tensor) -> Tensor:
        x = F.interpolate(x, (32, 32), mode="bilinear", antialias=True)
        mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])
        std = torch.tensor([0.26862954, 0.26130258, 0.27577711])
        x = net.model((x - mean[:, None, None]) / std[:, None, None]).image_embeds[:, None]
        blocks: Any = net.mapper2.resblocks
        for block in blocks:
            qkv = F.linear(F.layer_norm(x, (32,), block.ln_1.weight, block.ln_1.bias), block.attn.c_qkv.weight,
                           block.attn.c_qkv.bias)
            q, k, v = qkv.split(32, dim=-1)
            weights = (q @ k.transpose(1, 2) / 32**0.5).softmax(-1)
            x = x + F.linear(weights @ v, block.attn.c_proj.weight, block.attn.c_proj.bias)
            inner = F.gelu(F.linear(F.layer_norm(x, (32,), block.ln_2.weight, block.ln_2.bias), block.mlp.c_fc.weight,
                                    block.mlp.c_fc.bias))
            x = x + F.linear(inner, block.mlp.c_proj.weight, block.mlp.c_proj.bias)
        return F.layer_norm(x[:, 0], (32,), net.final_ln2.weight, net.final_ln2.bias)

    expected = (1.0 * (net.proj_out_source(looked(images)) + net.proj_out_target(looked(images.flip(3))))
                + 10.0 * net.ID_proj_out(identity) + 0.05 * net.landmark_proj_out(landmarks)) / 11.05
    assert torch.allclose(got[:, 0], expected, atol=1e-4)


def test_what_was_converted_computes_what_was_stored(file: Path, tmp_path: Path) -> None:
    convert_reface(file, tmp_path / "assets", shape=SMALL)
    stored = torch.load(file, weights_only=True)["state_dict"]
    prior, codec = load_asset("prior", tmp_path / "assets"), load_asset("codec", tmp_path / "assets")
    assert isinstance(prior, RefacePrior) and isinstance(codec, KLCodec)
    torch.manual_seed(0)
    original = RefacePrior(SMALL.unet, SMALL.clip)
    for parameter in original.parameters():
        nn.init.normal_(parameter, std=0.05)
    x, masked, keep = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8), torch.rand(2, 1, 8, 8)
    t, token = torch.tensor([10, 900]), torch.randn(2, 1, 32)
    expected = original.unet.eval()(torch.cat([x, masked, keep], 1), t, token).sample
    assert torch.allclose(prior(x, t, masked, keep, token), expected, atol=1e-4)
    assert torch.equal(prior.condition.learnable_vector, stored["learnable_vector"])
    images = torch.rand(1, 3, 64, 64)
    vae = codec.vae
    assert torch.allclose(codec.encode(images), vae.encode(images * 2 - 1).latent_dist.mean * 0.18215, atol=1e-6)
    assert codec.downscale == 8 and codec.decode(torch.randn(1, 4, 8, 8)).shape == (1, 3, 64, 64)
    nobody = torch.tensor([True, False])
    seen = prior.seen(images.expand(2, -1, -1, -1), torch.zeros(2, 10))
    who = F.normalize(torch.randn(2, 512), dim=1)
    tokens = prior.tokens(who, seen, nobody)
    assert torch.equal(tokens[0], stored["learnable_vector"][0])
    target = prior.condition.look(images)
    expected = (prior.condition.proj_out_source(prior.source) + prior.condition.proj_out_target(target)
                + 10 * prior.condition.ID_proj_out(who[1:])
                + 0.05 * prior.condition.landmark_proj_out(torch.zeros(1, 136)))
    assert torch.allclose(tokens[1], expected / 11.05, atol=1e-4)


def test_the_sampler_is_diffusers_own(file: Path, tmp_path: Path) -> None:
    """Fifty steps end where DDIMScheduler's steps end, its last noise level included."""
    convert_reface(file, tmp_path / "assets", shape=SMALL)
    swapper = load_tools(tmp_path / "assets", torch.device("cpu")).swapper
    images, seeds, who = torch.rand(2, 3, 64, 64), torch.tensor([3, 4]), F.normalize(torch.randn(2, 512), dim=1)
    scene = swapper.scene(images, torch.ones(2, 1, 64, 64))
    ends: list[Tensor] = []

    def paste(latent: Tensor, scene: Scene) -> Tensor:
        ends.append(latent)
        return latent

    swapper.paste = paste  # type: ignore[method-assign]
    with torch.no_grad():
        swapper.ddim(who, scene, seeds, 5)
        scheduler = DDIMScheduler.from_config(swapper.schedule.config)
        scheduler.set_timesteps(5)
        assert scheduler.timesteps.tolist() == [801, 601, 401, 201, 1]
        from latentprint.engine.seeds import seeded_noise

        x = seeded_noise(seeds, (4, 8, 8))
        tokens = swapper.prior.tokens(who, scene.seen)
        for t in scheduler.timesteps:
            said = swapper.prior(x, t.expand(2), scene.masked, scene.keep, tokens)
            x = scheduler.step(said, t, x).prev_sample
    assert torch.allclose(ends[0], x, atol=1e-4)
    clean, noise, t = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8), torch.tensor([100, 900])
    a, s = signal_and_noise(scheduler, t, clean)
    found = clean_and_noise(scheduler, a * clean + s * noise, to_predict(scheduler, clean, noise, t), t)
    assert torch.allclose(found[0], clean, atol=1e-4) and torch.equal(found[1], noise)


def test_adapters_go_where_one_token_leaves_them_alive() -> None:
    torch.manual_seed(0)
    prior = RefacePrior(SMALL.unet, SMALL.clip)
    add_adapter(prior, "reference", "reference", 4)
    trained = adapter_parameters(prior)
    names = [name for name, p in prior.named_parameters() if p.requires_grad]
    assert names and all(".attn2.to_v." in name or ".attn2.to_out.0." in name for name in names)
    for parameter in trained:
        nn.init.normal_(parameter, std=0.05)
    x, token = torch.randn(2, 4, 8, 8), torch.randn(2, 1, 32)
    prior(x, torch.tensor([5, 500]), x, x[:, :1], token).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.abs().sum() > 0 for p in trained)
    assert all(p.grad is None for name, p in prior.named_parameters() if "lora_" not in name)


def test_the_usual_look_and_parts_that_nobody_trained(file: Path, tmp_path: Path) -> None:
    faces = make_people(range(3), 1)
    convert_reface(file, tmp_path / "assets", shape=SMALL, faces=faces)
    prior = load_asset("prior", tmp_path / "assets")
    assert isinstance(prior, RefacePrior)
    assert torch.allclose(prior.source, mean_look(prior, faces), atol=1e-6) and prior.source.abs().sum() > 0
    assert untrained(prior) == [] and untrained(RefacePrior(SMALL.unet, SMALL.clip)) == ["final_ln2"]


def test_published_recognisers_see_what_their_releases_saw() -> None:
    seen: list[Tensor] = []

    class Spy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x)
            return torch.ones(len(x), 512)

    x = torch.rand(1, 3, 512, 512)
    out = arcface.FaceRecogniser(Spy(), "ffhq")(x)
    pooled = F.avg_pool2d(x, 2)[..., 35:223, 32:220]
    assert torch.allclose(seen[0], F.adaptive_avg_pool2d(pooled, (112, 112)) * 2 - 1, atol=1e-6)
    assert torch.allclose(out.norm(dim=1), torch.ones(1))
    small = torch.rand(1, 3, 112, 112)
    arcface.FaceRecogniser(Spy(), "arcface", bgr=True)(small)
    assert torch.equal(seen[1], small.flip(1) * 2 - 1)


# ---- files ----


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("proj_out_source.bias"), r"missing key 'proj_out_source\.bias'"),
        (lambda s: s.pop("model.diffusion_model.input_blocks.0.0.weight"), r"missing key '.*(input_blocks\.0|conv_in)"),
        (lambda s: s.pop("first_stage_model.decoder.norm_out.bias"), "missing key '.*norm_out.bias'"),
        (lambda s: s.pop("face_ID_model.facenet.body.3.res_layer.0.weight"), r"missing key 'network\.body\.3\.res_"),
        (lambda s: s.update({"novel.weight": torch.ones(1)}), r"extra key 'novel\.weight' that REFace does not have"),
        (lambda s: s.update({"model.diffusion_model.novel": torch.ones(1)}), r"extra key '.*diffusion_model\.novel'"),
        (lambda s: s.update({"cond_stage_model.mapper2.novel": torch.ones(1)}), r"extra key 'mapper2\.novel'"),
        (lambda s: s.update({"ID_proj_out.weight": torch.ones(32, 9)}), r"'ID_proj_out\.weight' is \(32, 9\) and must"),
    ],
)
def test_checkpoints_that_are_not_refaces(tmp_path: Path, change: Callable[[dict[str, Tensor]], Any],
                                          message: str) -> None:
    made = checkpoint()
    change(made["state_dict"])
    torch.save(made, tmp_path / "last.ckpt")
    with pytest.raises(UserError, match=message):
        convert_reface(tmp_path / "last.ckpt", tmp_path / "assets", shape=SMALL)
    assert not (tmp_path / "assets").exists()


class Payload:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.trace,))


def test_a_pickle_with_code_is_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = tmp_path / "ran"
    torch.save({**checkpoint(), "callbacks": Payload(trace)}, tmp_path / "last.ckpt")
    code, _, err = run_cli(capsys, "convert", "reface", str(tmp_path / "last.ckpt"), "--out", str(tmp_path / "assets"))
    assert code == 2 and "needs a full pickle, which can run any code" in err
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Payload(trace)))
    with pytest.raises(UserError, match=r"is not a weights file|needs a full pickle"):
        convert_recogniser(tmp_path / "plain.pth", tmp_path / "assets", "iresnet18")
    assert not trace.exists() and not (tmp_path / "assets").exists()
    convert_reface(tmp_path / "last.ckpt", tmp_path / "assets", shape=SMALL, trusted=True)
    assert trace.exists()


def test_truncated_files_and_wrong_hashes(file: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.ckpt").write_bytes(file.read_bytes()[:5000])
    with pytest.raises(UserError, match=r"cut\.ckpt is not a weights file"):
        convert_reface(tmp_path / "cut.ckpt", tmp_path / "assets", shape=SMALL)
    convert_reface(file, tmp_path / "assets", shape=SMALL)
    kept = tmp_path / "assets" / "codec.safetensors"
    weights = load_file(kept)
    save_file({key: value + 1 for key, value in weights.items()}, kept)
    with pytest.raises(UserError, match=r"asset codec: .* is not the file recorded"):
        load_tools(tmp_path / "assets", torch.device("cpu"))


def test_recognisers_from_releases(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = IResNet(18, (8, 8, 16, 16)).eval()
    torch.save({"state_dict": {**{f"model.{k}": v for k, v in network.state_dict().items()},
                               "head.kernel": torch.ones(2)}}, tmp_path / "release.ckpt")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(arcface.NETWORKS, "iresnet18", lambda: IResNet(18, (8, 8, 16, 16)))
        convert_recogniser(tmp_path / "release.ckpt", tmp_path / "assets", "iresnet18", name="judge")
        loaded = load_asset("judge", tmp_path / "assets")
    x = torch.rand(2, 3, 112, 112)
    assert torch.allclose(loaded(x), F.normalize(network(x * 2 - 1), dim=1), atol=1e-5)
    with pytest.raises(UserError, match=r"release\.ckpt is no mobilefacenet: missing key"):
        convert_recogniser(tmp_path / "release.ckpt", tmp_path / "assets", "mobilefacenet")
    with pytest.raises(UserError, match="architecture 'resnet' is unknown"):
        convert_recogniser(tmp_path / "release.ckpt", tmp_path / "assets", "resnet")
    with pytest.raises(UserError, match="alignment 'eyes' is unknown"):
        convert_recogniser(tmp_path / "release.ckpt", tmp_path / "assets", "iresnet18", "eyes")


# ---- Stable Diffusion folders ----


def folder_of(path: Path, channels: int = 4, **changed: Any) -> Path:
    torch.manual_seed(0)
    settings = {**SMALL.unet, "in_channels": channels, **changed}
    UNet2DConditionModel(**settings).save_pretrained(path / "unet")
    AutoencoderKL(**SMALL.vae).save_pretrained(path / "vae")
    DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
                  set_alpha_to_one=False, steps_offset=1).save_pretrained(path / "scheduler")
    return path


def test_a_text_unet_is_widened_and_an_inpainting_one_keeps_its_order(tmp_path: Path) -> None:
    tokens, t = torch.randn(1, 10, 32), torch.tensor([300])
    noisy, masked, keep = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8), torch.rand(1, 1, 8, 8)
    for channels in (4, 9):
        folder = folder_of(tmp_path / str(channels), channels)
        convert_diffusers(folder, folder / "assets")
        original = UNet2DConditionModel.from_pretrained(folder / "unet").eval()
        given = noisy if channels == 4 else torch.cat([noisy, 1 - keep, masked], 1)
        made = load_asset("prior", folder / "assets")
        with torch.no_grad():
            assert torch.allclose(made(noisy, t, masked, keep, tokens), original(given, t, tokens).sample, atol=1e-5)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"channels": 8}, "takes 8 channels, expected 4 or 9"),
        ({"addition_embed_type": "text_time", "addition_time_embed_dim": 8,
          "projection_class_embeddings_input_dim": 16}, "needs further conditions"),
    ],
)
def test_folders_that_cannot_be_a_base(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        convert_diffusers(folder_of(tmp_path / "sd", **changed), tmp_path / "assets")
    assert not (tmp_path / "assets").exists()


def test_folders_with_parts_missing(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "sd")
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    state = load_file(weights)
    save_file({**state, "novel": torch.ones(1)}, weights)
    with pytest.raises(UserError, match=r"does not fit its config\.json: extra key 'novel'"):
        convert_diffusers(folder, tmp_path / "assets")
    weights.unlink()
    with pytest.raises(UserError, match=r"unet: no weights; expected diffusion_pytorch_model\.safetensors"):
        convert_diffusers(folder, tmp_path / "assets")
    (folder / "vae" / "config.json").unlink()
    with pytest.raises(UserError, match=r"vae/config\.json: expected the settings of a diffusers vae"):
        convert_diffusers(folder, tmp_path / "assets")


# ---- the same commands ----


def test_an_audit_runs_on_a_converted_checkpoint(file: Path, tmp_path: Path,
                                                 capsys: pytest.CaptureFixture[str]) -> None:
    convert_reface(file, tmp_path / "assets", shape=SMALL)
    assert asdict(SMALL)["clip"] == read_index(tmp_path / "assets")["prior"]["clip"]
    code, _, err = run_cli(capsys, "audit", "label", "--preset", "tiny", "--set", f"assets={tmp_path / 'assets'}",
                             "--out", str(tmp_path / "run"))
    assert code == 0, err
    assert (tmp_path / "run" / "report.html").is_file()


def test_a_prior_is_trained_from_a_stable_diffusion_folder(tmp_path: Path,
                                                           capsys: pytest.CaptureFixture[str]) -> None:
    convert_diffusers(folder_of(tmp_path / "sd"), tmp_path / "base")
    code, _, err = run_cli(capsys, "pretrain", "prior", "--preset", "tiny", "--set", f"base={tmp_path / 'base'}",
                           "--set", "trained=tokens", "--set", "checkpointing=true", "--set", "ema=0",
                           "--set", "lr=0.5", "--out", str(tmp_path / "run"))
    assert code == 0, err
    before, after = (load_file(tmp_path / place / "prior.safetensors") for place in ("base", "run/assets"))
    moved = {key for key in before if not torch.allclose(before[key], after[key].float(), atol=2e-3)}
    assert any(key.startswith("identity.") for key in moved) and "unet.conv_in.weight" in moved
    assert not any(key.startswith("unet.") for key in moved - {"unet.conv_in.weight", "unet.conv_in.bias"})
    swapper = load_tools(tmp_path / "run" / "assets", torch.device("cpu")).swapper  # what an audit would take
    assert isinstance(swapper.codec, KLCodec) and swapper.prior.n_identity == 8
