"""Recognisers of any origin as one thing: images in [0, 1] to unit embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latentprint.checks import nan_weights
from latentprint.engine.device import lay_out
from latentprint.engine.loop import say
from latentprint.errors import UserError, useful_line
from latentprint.framer import Framer
from latentprint.models.assets import find_asset, has_asset, load_recogniser_asset
from latentprint.models.foreign import Form, adapted
from latentprint.models.loading import load_network
from latentprint.models.outside import OutsideNetwork
from latentprint.models.preprocess import Preprocess
from latentprint.models.published import how_to_get
from latentprint.models.recognisers import EMBEDDING_DIM, EmbeddingNetwork
from latentprint.template.presets import RecogniserConfig

#: Two different noise images whose embeddings are this alike: the recogniser does not look at its input.
SAME = 1 - 1e-6


class Embedder(nn.Module):
    """A network behind its preprocessing: ``(B, 3, H, W)`` in [0, 1] to unit ``(B, D)``, float32. Frozen.

    Args:
        network: preprocessed images to embeddings of any length.
        name, architecture: for reports.
        gradients: whether one may differentiate through it.
        notes: what was assumed in loading it, a line each, for reports.
    """

    def __init__(self, network: nn.Module, preprocess: nn.Module, dim: int, name: str, architecture: str,
                 gradients: bool = True, notes: Sequence[str] = ()) -> None:
        super().__init__()
        self.network, self.preprocess, self.dim = network, preprocess, dim
        self.name, self.architecture, self.gradients, self.notes = name, architecture, gradients, tuple(notes)
        self.requires_grad_(False).eval()

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.network(self.preprocess(x)).float(), dim=1)

    def train(self, mode: bool = True) -> Embedder:
        return super().train(False)


def load_recogniser(config: RecogniserConfig, assets: Path | None, image_size: int, device: torch.device,
                    setting: str, framer: Framer | None = None) -> Embedder:
    """A recogniser from the user's words, tried once before anything is spent on it.

    Args:
        assets: folder of networks made by ``latentprint pretrain``; None: the packaged ones.
        image_size: of the images it will be asked about. setting: begins every message.
        framer: frames it where it is an asset that expects the face in a place; None: it is given whole images.

    Raises:
        UserError: it cannot be loaded or framed, or does not answer images of this size with embeddings of ``dim``
            entries.
    """
    if ":" not in config.model and not Path(config.model).suffix:
        made = _asset(config.model, assets, f"{setting}.model")
        if framer is not None:
            framer.frame(made, config.model, config.framing, f"{setting}.framing")
        architecture = str(find_asset(config.model, assets)[1].get("architecture", config.model))
        found = Embedder(lay_out(made, device), nn.Identity(), config.dim or made.dim, config.model, architecture)
    else:
        found = _own(config, image_size, device, setting)
        if framer is not None:
            framer.frame(found, config.model, config.framing, f"{setting}.framing")  # refuses any: `crop` is theirs
    check_recogniser(found, image_size, device, setting)
    for note in found.notes:
        say(f"{setting}: {note}")
    return found


def _own(config: RecogniserConfig, image_size: int, device: torch.device, setting: str) -> Embedder:
    dim, (top, left, bottom, right) = config.dim or EMBEDDING_DIM, config.crop
    look = Preprocess((top, left, bottom, right), config.input_size, config.mean, config.std, config.colours,
                      config.scale)
    try:
        loaded = load_network(config.model, dim, config.weights)
    except UserError as error:
        raise UserError(f"{setting}.model: {error}") from None
    nan_weights(loaded.network, setting)
    outside = isinstance(loaded.network, OutsideNetwork)
    place = torch.device("cpu") if outside else device
    loaded.network.to(place)
    form, noise = Form(config.output, config.layout, config.fixed_batch), _noise(image_size).to(place)
    look = look.to(place)
    network, notes = adapted(loaded.network, look(noise), dim, form, "embeddings", setting)
    found = Embedder(network, look, dim, config.model, config.model, not outside, [*loaded.notes, *notes])
    found.gradients = not outside and gives_gradients(found, noise)
    return found


def gives_gradients(recogniser: Embedder, images: Tensor) -> bool:
    """Whether embeddings of images ``(B, 3, H, W)`` can be differentiated by the images."""
    with torch.enable_grad():
        embeddings = recogniser(images.clone().requires_grad_())
    return embeddings.requires_grad


def _asset(name: str, assets: Path | None, setting: str) -> EmbeddingNetwork:
    if not has_asset(name, assets) and how_to_get(name) is None:
        raise UserError(f"{setting}: no recogniser '{name}'; expected an asset, FILE.py:NAME, PACKAGE.MODULE:NAME, or "
                        "a TorchScript, .pt2 or .onnx file")
    return load_recogniser_asset(name, assets, setting)


@torch.no_grad()
def check_recogniser(recogniser: Embedder, image_size: int, device: torch.device, setting: str) -> None:
    """Ask a recogniser about two images of noise.

    Raises:
        UserError: weights that are not finite, no answer at this image size, one that is not ``(2, dim)`` or not
            finite, all zeros, or the same for both.
    """
    nan_weights(recogniser, setting)
    try:
        raw = recogniser.network(recogniser.preprocess(_noise(image_size).to(device)))
    except UserError:
        raise
    except Exception as error:  # whatever the user's own code raises
        size = f"{image_size}x{image_size}"
        raise UserError(f"{setting}: {recogniser.name} cannot take two {size} images, after its crop and resizing to "
                        f"{setting}.input_size: {useful_line(error)}") from error
    shape = tuple(raw.shape) if isinstance(raw, Tensor) else type(raw).__name__
    if shape != (2, recogniser.dim):
        raise UserError(f"{setting}: {recogniser.name} must answer two images with embeddings (2, {recogniser.dim}), "
                        f"got {shape}; set {setting}.dim if it has another size")
    if not raw.isfinite().all():
        raise UserError(f"{setting}: {recogniser.name} answers noise with NaN or infinite embeddings")
    if not bool(raw.abs().sum(1).all()) or float(F.cosine_similarity(raw[0], raw[1], 0)) > SAME:
        raise UserError(f"{setting}: {recogniser.name} gives two different images the same embedding, or zeros; is its "
                        "preprocessing (crop, mean, std) the one it was trained with?")


def _noise(image_size: int) -> Tensor:
    return torch.rand(2, 3, image_size, image_size, generator=torch.Generator().manual_seed(0))
