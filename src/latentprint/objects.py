"""From the arguments of a Python call to settings: objects in memory become names, see `latentprint.memory`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from latentprint.checks import weights_hash
from latentprint.config import Config, read_given
from latentprint.data.base import ImageSet
from latentprint.data.objects import digest_of, image_set, is_images
from latentprint.errors import UserError
from latentprint.log import LOG
from latentprint.memory import PREFIX
from latentprint.models.paths import beside
from latentprint.models.transforms import settings_of

#: What may be audited, and what images may be; see `latentprint.audit`.
Model: TypeAlias = nn.Module | Callable[[Tensor], Any] | Path | str
Images: TypeAlias = (ImageSet | Dataset[Any] | DataLoader[Any] | Tensor | tuple[Any, Any] | Mapping[str, Any] | Config
                     | Path | str)

#: Pixels of a side where nothing else is said.
SIZE = 64
WHOLE = [0.0, 0.0, 1.0, 1.0]


class Places(NamedTuple):
    """Under which settings of a channel the arguments of `latentprint.audit` go."""

    model: str
    private: str
    heldout: str


PLACES = {"label": Places("victim", "data.private", "data.heldout"),
          "template": Places("recogniser", "data.private", "data.others"),
          "feature": Places("split", "data.train", "data.test")}
#: What a function, which gives no gradients, leaves of an attack.
WITHOUT_GRADIENTS: Mapping[str, dict[str, Any]] = {
    "label": {"attack": {"access": "scores", "stages": []}}, "template": {"attack": {"access": "transfer"}}}
_ROLES = {"heldout": "private", "others": "private"}


class Named:
    """Objects of one call by their names.

    Args:
        channel: of the audit.
    """

    def __init__(self, channel: str) -> None:
        self.channel = channel
        self.size: int | None = None
        self.objects: dict[str, Any] = {}
        self.classes: list[str] | None = None

    def layers(self, arguments: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Settings in which objects are named, later over earlier.

        Args:
            arguments: of `latentprint.audit`, settings among them; None is as good as none.

        Raises:
            UserError: a model, preprocessing or images that cannot be used.
        """
        given = {key: value for key, value in arguments.items() if value is not None}
        places, self.size, self.classes = PLACES[self.channel], given.pop("size", None), None
        model, preprocess = given.pop("model", None), given.pop("preprocess", None)
        if model is not None:
            yield from self._model(model, places.model)
        if preprocess is not None:
            yield {places.model: self._preprocess(settings_of(preprocess))}
        if "classes" in given:
            self.classes = [str(name) for name in given.pop("classes")]
            yield {places.model: {"classes": self.classes}}
        if "cut" in given:
            yield {places.model: {"cut": given.pop("cut")}}
        for role, key in (("private", places.private), ("heldout", places.heldout), ("evaluation", "data.evaluation")):
            if role in given:
                yield {key: self.source(given.pop(role), role)}
        if "public" in given:
            public = given.pop("public")
            yield {"data.public": [self.source(each, "public") for each in
                                   (public if isinstance(public, list) else [public])]}
        yield self._settings(given)

    def _model(self, model: Any, place: str) -> Iterator[dict[str, Any]]:
        if isinstance(model, str | Path):
            file = Path(model)
            if file.suffix not in (".yaml", ".yml"):
                yield {place: {"model": str(model)}}
                return
            settings, notes = beside(read_given(place, file, "model: my_model.py:build").content, file.parent)
            for note in notes:
                LOG.info("%s: %s", file, note)
            yield {place: settings}
            return
        if not isinstance(model, nn.Module) and not callable(model):
            raise UserError(f"model: expected an nn.Module, a function of images, or text, got {type(model).__name__}")
        if isinstance(model, type):
            raise UserError(f"model: {model.__name__} is a class; give a network, as in {model.__name__}()")
        look = {"mean": [0.0], "std": [1.0]} | ({} if self.channel == "feature" else {"crop": WHOLE})
        kept = {"trained": True, "bottleneck": None} if self.channel == "feature" else {}
        yield {place: {"model": self.network(model), **look, **kept}}
        if not isinstance(model, nn.Module):
            if self.channel == "feature":
                raise UserError("model: a function cannot be cut in two; give an nn.Module")
            yield WITHOUT_GRADIENTS[self.channel]

    def _preprocess(self, settings: dict[str, Any]) -> dict[str, Any]:
        """A network that is cut sees images as they are: they are resized when they are read."""
        if self.channel != "feature":
            return settings
        if settings.pop("crop", WHOLE) != WHOLE:
            raise UserError("preprocess: a network that is cut sees whole images; crop them before the audit, and "
                            "leave the crop out")
        self.size = settings.pop("input_size", None) or self.size
        return settings

    def _settings(self, value: Any, role: str = "") -> Any:
        """The same with objects named."""
        if isinstance(value, Config):
            return value.model_dump(mode="json")
        if is_images(value):
            return self.source(value, role)
        if isinstance(value, Mapping):
            return {key: self._settings(each, str(key).rpartition(".")[2]) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return [self._settings(each, role) for each in value]
        if isinstance(value, nn.Module) or callable(value):
            return self.network(value)
        return value.item() if isinstance(value, np.generic) else value

    def network(self, model: Any) -> str:
        """The setting that names a network or function."""
        called = getattr(model, "__name__", type(model).__name__)
        name = called
        if isinstance(model, nn.Module):
            model = getattr(model, "_orig_mod", model)  # what torch.compile was given
            name = called = f"{type(model).__name__}-{weights_hash(model)[:12]}"
        number = 1
        while self.objects.setdefault(name, model) is not model:
            number += 1
            name = f"{called}-{number}"
        return f"{PREFIX}{name}"

    def source(self, images: Any, role: str) -> Any:
        """The source that names a set of images, or reads a folder.

        Args:
            role: the argument or setting that it stands in.
        """
        if isinstance(images, str | Path):
            kind = "npz" if Path(images).suffix == ".npz" else "folder"
            return {"kind": kind, "path": str(images), "size": self.size or SIZE}
        if isinstance(images, Config | Mapping):
            return self._settings(images)
        of = _ROLES.get(role, role)
        names = self.classes if of == "private" else None
        found = image_set(images, role or "images", names, "" if self.channel == "feature" else f"{of} ")
        name = f"{role or 'images'}-{digest_of(found)[:12]}"
        self.objects[name] = found
        return {"kind": "memory", "name": name,
                "size": self.size or (found.size if self.channel == "feature" else SIZE)}
