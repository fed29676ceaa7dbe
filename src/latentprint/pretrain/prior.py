"""Train the face-swap prior on public people.

A step takes photo a and an identity embedding of the same person from *other* photos (one, or the mean of several, as
a label embedding will be), and learns to repaint a's face. Since nothing outside the hole tells who it is, what is
learned on pairs of one person is a swap when the embedding is somebody else's. After a while a share of the batch is
such a swap, drawn by the sampler from pure noise and stopped after any of its steps: the teacher says how like the
person it came out, the attribute network how well it kept pose, expression and light. Without these the identity
comes slowly, for it is a small part of the error of v; with swaps drawn in one step alone the later steps undo it.
Half of the swaps ask for somebody between two people, since what is asked for later is seldom anybody's photo.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from latentprint.data.augment import jittered
from latentprint.data.base import ImageSet, concatenate, grouped
from latentprint.diffusion.evaluate import swap_metrics
from latentprint.diffusion.prior import TRAIN_STEPS, FaceSwapPrior, SwapPrior
from latentprint.diffusion.scene import Scenes
from latentprint.diffusion.swap import Swapper
from latentprint.engine.device import autocast, lay_out, pick_device
from latentprint.engine.loop import Loop, is_main, warm_cosine
from latentprint.engine.seeds import step_generator
from latentprint.errors import UserError
from latentprint.framer import Framer
from latentprint.losses.identity import identity_cosine
from latentprint.losses.perceptual import attribute_mse
from latentprint.models.answers import embeddings
from latentprint.models.assets import PACKAGED, copy_asset, find_asset, load_asset, load_recogniser_asset, read_index
from latentprint.models.attributes import GROUP_COLUMNS
from latentprint.models.codec import LATENT_CHANNELS, LatentCodec
from latentprint.models.recognisers import EmbeddingNetwork
from latentprint.pretrain.common import (
    PretrainConfig,
    draw,
    finish,
    open_run,
    people_of,
    unseen_people,
)

#: Networks that a prior only works with as they were when it was trained.
NEEDS = ("codec", "attributes", "teacher")


class PriorConfig(PretrainConfig):
    """Settings of ``latentprint pretrain prior``."""

    steps: int = Field(6000, ge=1, description="optimiser steps")
    batch: int = Field(32, ge=2, description="photos a step")
    lr: float = Field(1e-3, gt=0, description="peak learning rate")
    people: int = Field(5000, ge=2, description="procedural people in the pool")
    photos: int = Field(6, ge=1, description="photos of each, with 'data' at most so many")
    first_person: int = Field(5_000_000, ge=0, description="identity seed of the first procedural person")
    assets: str | None = Field(None, description="folder with codec, teacher and attributes; None = packaged")
    teacher: str = Field("teacher", description="asset of the recogniser whose embeddings say who is to be painted")
    judge: str = Field("judge", description="asset of the recogniser that measures the result")
    base: Path | None = Field(None, description="folder with the prior to start from and its codec, such as "
                                                "'latentprint convert diffusers' makes; null: the embedded network")
    start: Literal["new", "packaged"] = Field("new", description="weights of the embedded network to begin with: "
                                                                 "random ones, or those of the packaged prior")
    trained: Literal["all", "tokens"] = Field("all", description="of a base: everything, or the layers that make "
                                                                 "tokens and the first convolution alone")
    checkpointing: bool = Field(False, description="compute activations again in the backward pass: less memory, a "
                                                   "third more time")
    optimizer: Literal["adamw", "adamw8bit"] = Field("adamw", description=(
        "adamw8bit holds its averages in bytes (extra 'gpu', NVIDIA alone)"))
    width: int = Field(64, ge=32, multiple_of=32, description="channels of the finer level; the coarser has twice")
    identity_tokens: int = Field(16, ge=4, description="M, tokens that reference attention reads")
    noise_skew: float = Field(2.0, ge=1, description="1: all noise levels alike; higher: more of the noisy ones, "
                                                     "where it is decided who it will be")
    own_share: float = Field(0.0, ge=0, le=1, description="share of the photos repainted from their own embedding and "
                                                          "not from other photos of the person")
    mirrored: bool = Field(False, description="learn from mirrored photos as well")
    dropout: float = Field(0.1, ge=0, lt=1, description="share of identities left out (classifier-free guidance)")
    ema: float = Field(0.998, ge=0, lt=1, description="decay of the averaged weights")
    identity_weight: float = Field(0.5, ge=0, description="weight of the teacher's 1 - cos on swaps")
    attribute_weight: float = Field(0.5, ge=0, description="weight of the attributes' squared error on swaps")
    swap_share: float = Field(0.25, ge=0, le=1, description="share of the batch swapped for the two")
    swap_from: float = Field(0.5, ge=0, le=1, description="share of the steps after which they are on; 1: never")
    jitter: float = Field(0.0, ge=0, le=0.2, description=(
        "what the teacher sees of a swap is turned, scaled and shifted by about so much of its side, and blurred, each "
        "time otherwise: what then pleases it is a face and not a pattern"))
    swap_steps: int = Field(4, ge=1, description="steps of the sampler that draws the swaps")
    blend_share: float = Field(0.5, ge=0, le=1, description="share of the swaps that ask for a mix of two people")


PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {"steps": 4, "batch": 4, "people": 4, "photos": 2, "save_every": 2, "precision": "fp32"},
    "small": {},
    "full": {"steps": 100_000, "batch": 256, "people": 20_000, "width": 128, "ema": 0.9995},
}


@dataclass(frozen=True)
class Pool:
    """Public photos, encoded once.

    Attributes:
        scene: of N photos, or of these and then their mirrored ones.
        embeddings: ``(N, D)`` by the teacher.
        labels: ``(N,)`` whom they show.
        photos: ``(N, K)`` all photos of each one's person, see `photos_of`.
    """

    scene: Scenes
    embeddings: Tensor
    labels: Tensor
    photos: Tensor


def pretrain(config: PriorConfig, out: Path, resume: bool = False) -> dict[str, Any]:
    """Minimise the error of v; record similarity, pass rate and attribute correlations of swaps on unseen people."""
    run, device = open_run(config, out, resume), pick_device(config.device)
    folder = Path(config.assets) if config.assets else None
    places = {"codec": config.base or folder, "attributes": folder, "teacher": folder}
    names = {name: config.teacher if name == "teacher" else name for name in NEEDS}
    codec, attributes, teacher = (lay_out(load_asset(names[name], places[name]), device) for name in NEEDS)
    if not isinstance(codec, LatentCodec):
        raise UserError(f"base: the codec in {config.base} is not one")
    if not isinstance(teacher, EmbeddingNetwork):
        raise UserError(f"teacher: the asset {config.teacher!r} is not a recogniser")
    judge = lay_out(load_recogniser_asset(config.judge, folder, "judge"), device)
    torch.manual_seed(config.seed)
    prior, record = begun(config, teacher.dim, getattr(codec, "channels", LATENT_CHANNELS))
    parameters = trained_parameters(prior, config)
    # Not laid out as the convolutional networks are: attention and group norms made that a sixth slower on a CPU.
    swapper = Swapper(prior.to(device), codec, attributes)
    data = people_of(config)
    framer = Framer({"data": data.images}, folder, device)
    framer.frame(teacher, config.teacher, None, "teacher")
    framer.frame(judge, config.judge, None, "judge")
    pool = encode_pool(swapper, teacher, data, config.mirrored)
    optimizer = make_optimizer(parameters, config)
    average = AveragedModel(prior, multi_avg_fn=get_ema_multi_avg_fn(config.ema))

    def loss_at(step: int) -> tuple[Tensor, dict[str, Tensor | float]]:
        with autocast(device, config.precision):
            loss, values = prior_loss(swapper, pool, config, step, device)
            if step >= config.swap_from * config.steps:
                identity, attribute = swap_losses(swapper, teacher, pool, config, step, device)
                loss = loss + config.identity_weight * identity + config.attribute_weight * attribute
                values = {**values, "identity": identity.detach(), "attribute": attribute.detach()}
        return loss, values

    def after(step: int) -> None:
        average.update_parameters(prior)

    Loop(run, "prior", optimizer, {"prior": prior, "average": average}, config.steps, warm_cosine(config.steps, 200),
         save_every=config.save_every).fit(loss_at, after)
    prior.load_state_dict(average.module.state_dict())

    def measure(module: nn.Module) -> dict[str, Any]:
        return swap_metrics(swapper, judge, teacher, unseen_people(config))

    needs = {name: find_asset(names[name], places[name])[1]["sha256"] for name in NEEDS}
    shipped = read_index(PACKAGED)
    for name, own_name in names.items() if is_main() else ():
        if shipped.get(own_name, {}).get("sha256") != needs[name]:  # one folder then has all that an audit needs
            copy_asset(own_name, places[name], run.path / "assets")
    return finish(run, config, record.pop("kind"), "prior", prior, "latentprint pretrain prior", measure, needs=needs,
                  **record)


def begun(config: PriorConfig, embedding_dim: int,
          channels: int = LATENT_CHANNELS) -> tuple[SwapPrior, dict[str, Any]]:
    """The network to train, and what its asset's record needs to build it again.

    Args:
        embedding_dim: entries of the teacher's embeddings; of a base that reads others that layer begins anew.
        channels: of the codec's latents.

    Raises:
        UserError: ``base`` has no prior.
    """
    if config.base is None:
        widths = (config.width, 2 * config.width)
        new = FaceSwapPrior(widths, config.identity_tokens, embedding_dim, channels)
        if config.start == "packaged":
            _begin_from_packaged(new)
        return (new,
                {"kind": "prior", "widths": list(widths), "identity_tokens": config.identity_tokens,
                 "embedding_dim": embedding_dim, "channels": channels})
    if "prior" not in read_index(config.base):  # the packaged one would be taken in its place
        raise UserError(f"base: {config.base} has no asset 'prior'; make one with 'latentprint convert diffusers'")
    prior = load_asset("prior", config.base)
    if not isinstance(prior, SwapPrior):
        raise UserError(f"base: the asset 'prior' in {config.base} is not one")
    own = ("sha256", "file", "bytes", "command", "metrics", "config", "needs", "made")
    record = {key: value for key, value in find_asset("prior", config.base)[1].items() if key not in own}
    if prior.embedding_dim != embedding_dim:
        prior.read_embeddings_of(embedding_dim)
    return prior.requires_grad_(True).train(), {**record, "embedding_dim": embedding_dim}


def _begin_from_packaged(prior: SwapPrior) -> None:
    """Copy the packaged prior's weights, but for the layer that reads embeddings where those are of another size.

    Raises:
        UserError: they are of another shape.
    """
    state = load_asset("prior", PACKAGED).state_dict()
    own = prior.state_dict()
    other = {key for key in own if key not in state or state[key].shape != own[key].shape}
    if other - {"identity.0.weight"}:
        raise UserError(f"start: the packaged prior has other shapes, the first of '{min(other)}'; leave width and "
                        "identity_tokens as they are, or set start=new")
    prior.load_state_dict({**state, **{key: own[key] for key in other}})


def trained_parameters(prior: SwapPrior, config: PriorConfig) -> list[nn.Parameter]:
    """Those that are learned; the others are frozen."""
    if config.trained == "tokens":
        for name, parameter in prior.unet.named_parameters():
            parameter.requires_grad_(name.startswith("conv_in."))
    if config.checkpointing:
        prior.unet.enable_gradient_checkpointing()
    return [parameter for parameter in prior.parameters() if parameter.requires_grad]


def make_optimizer(parameters: list[nn.Parameter], config: PriorConfig) -> torch.optim.Optimizer:
    """AdamW, of the precision asked for.

    Raises:
        UserError: bitsandbytes is not installed.
    """
    if config.optimizer == "adamw":
        return torch.optim.AdamW(parameters, config.lr, weight_decay=1e-2)
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError:
        raise UserError("optimizer: adamw8bit needs bitsandbytes; pip install 'latentprint[gpu]'") from None
    return AdamW8bit(parameters, config.lr, weight_decay=1e-2)


def encode_pool(swapper: Swapper, teacher: nn.Module, data: ImageSet, mirrored: bool = False) -> Pool:
    """Every photo's scene and the teacher's embedding of it; ``mirrored``: the mirrored photos' scenes as well."""
    both = concatenate(data, _mirrored(data)) if mirrored else data
    return Pool(swapper.scenes(both), embeddings(teacher, data.images, "teacher"), data.labels, photos_of(data.labels))


def _mirrored(data: ImageSet) -> ImageSet:
    assert data.holes is not None
    return replace(data, images=data.images.flip(3), holes=data.holes.flip(3), attributes=None,
                   names=tuple(f"{name}, mirrored" for name in data.names))


def photos_of(labels: Tensor) -> Tensor:
    """For each of N photos all photos of its person, ``(N, K)``, padded with -1 to the most of anyone, and to 2.

    Args:
        labels: ``(N,)`` whom they show.
    """
    order, place = grouped(labels)
    table = torch.full((int(labels.max()) + 1, max(2, int(place.max()) + 1)), -1)
    table[labels[order], place] = order
    return table[labels]


def identity_of(pool: Pool, index: Tensor, config: PriorConfig, step: int) -> Tensor:
    """For each photo, the mean embedding of one to all other photos of its person, ``(B, D)``; its own embedding where
    there is no other photo, and in a share ``own_share`` of the batch."""
    index = index % len(pool.labels)  # a mirrored photo shows the same person
    photos = pool.photos[index]
    order = torch.rand(photos.shape, generator=step_generator(config.seed, "identity", step))
    order.masked_fill_((photos < 0) | (photos == index[:, None]), torch.inf)  # never the photo itself
    rank = order.argsort(1).argsort(1)
    count = torch.randint(1, photos.shape[1], (len(index), 1), generator=step_generator(config.seed, "count", step))
    used = (rank < count) & order.isfinite()
    mean = (pool.embeddings[photos] * used.unsqueeze(2)).sum(1)
    own = torch.rand(len(index), generator=step_generator(config.seed, "own", step)) < config.own_share
    own |= ~used.any(1)
    return F.normalize(torch.where(own[:, None], pool.embeddings[index], mean), dim=1)


def prior_loss(swapper: Swapper, pool: Pool, config: PriorConfig, step: int,
               device: torch.device) -> tuple[Tensor, dict[str, Tensor | float]]:
    """Mean squared error of v at random noise levels, skewed towards the noisy ones."""
    index = draw(config, "prior", step, len(pool.scene))
    rng = step_generator(config.seed, "noise", step)
    scene = pool.scene.take(index).to(device)
    progress = torch.rand(len(index), generator=rng) ** config.noise_skew
    timestep = ((1 - progress) * TRAIN_STEPS).long().clamp_max(TRAIN_STEPS - 1).to(device)
    noise = torch.randn(scene.latent.shape, generator=rng).to(device)
    dropped = (torch.rand(len(index), generator=rng) < config.dropout).to(device)
    tokens = swapper.prior.tokens(identity_of(pool, index, config, step).to(device), scene.seen, dropped)
    return swapper.denoise(scene, tokens, timestep, noise)[0].mean(), {}


def swap_losses(swapper: Swapper, teacher: nn.Module, pool: Pool, config: PriorConfig, step: int,
                device: torch.device) -> tuple[Tensor, Tensor]:
    """Of swaps onto somebody else's photo: 1 - cos to the embedding asked for, squared error of the attributes.

    The sampler's estimate after a random number of its steps is judged; the gradient goes through the last of them.
    """
    count = max(1, round(config.swap_share * config.batch))
    rng = step_generator(config.seed, "swap-noise", step)
    index = draw(config, "swap", step, len(pool.scene))[:count]
    donors = draw(config, "donor", step, len(pool.labels))[:count]
    scene, wanted = pool.scene.take(index).to(device), identity_of(pool, donors, config, step)
    part = torch.rand(count, 1, generator=rng) * (torch.rand(count, 1, generator=rng) < config.blend_share)
    wanted = F.normalize(wanted.lerp(wanted.roll(1, 0), part), dim=1).to(device)
    until = int(torch.randint(1, config.swap_steps + 1, (), generator=rng))
    seeds = torch.randint(2**62, (count,), generator=rng)
    picture = swapper.ddim(wanted, scene, seeds, config.swap_steps, gradient_steps=1, until=until)
    kept = attribute_mse(swapper.attributes(picture).float(), scene.attributes, GROUP_COLUMNS)
    shown = jittered(picture, config.jitter, rng) if config.jitter else picture
    return identity_cosine(teacher(shown), wanted).mean(), kept.mean()
