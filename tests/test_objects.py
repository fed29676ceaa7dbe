"""What a Python process holds as settings: images of every usual shape, transforms of torchvision and timm."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset
from torchvision import transforms as T
from torchvision.models import ResNet18_Weights
from torchvision.transforms import v2

from latentprint.data.base import ImageSet
from latentprint.data.objects import digest_of, image_set, sized
from latentprint.errors import UserError
from latentprint.models.preprocess import Preprocess
from latentprint.models.transforms import settings_of
from latentprint.objects import Named

PIXELS = torch.randint(0, 256, (6, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


class Photos(Dataset[Any]):
    """PIL images of named classes, as torchvision has them."""

    classes = ("ann", "bob", "cid", "dan")

    def __len__(self) -> int:
        return len(PIXELS)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        if index >= len(self):
            raise IndexError(index)
        return Image.fromarray(PIXELS[index].permute(1, 2, 0).numpy()), int(LABELS[index])


@pytest.mark.parametrize("data", [
    (PIXELS, LABELS), (PIXELS.float() / 255, LABELS), (PIXELS.permute(0, 2, 3, 1).numpy(), LABELS.numpy()),
    (PIXELS.double() / 255, LABELS.numpy().tolist()), TensorDataset(PIXELS, LABELS),
    DataLoader(TensorDataset(PIXELS.float() / 255, LABELS), batch_size=2)])
def test_images_of_every_shape_are_the_same_bytes(data: Any) -> None:
    found = image_set(data, "private", prefix="private ")
    assert torch.equal(found.images, PIXELS) and torch.equal(found.labels, LABELS)
    assert found.names == ("private 0", "private 1", "private 2") and found.source == "private"


def test_datasets_bring_their_names_and_only_those_who_are_there() -> None:
    found = image_set(Subset(Photos(), [0, 1, 3, 4]), "public")
    assert found.names == ("ann", "bob") and found.labels.tolist() == [0, 1, 0, 1]
    assert torch.equal(found.images, PIXELS[[0, 1, 3, 4]])
    named = image_set((PIXELS, LABELS), "private", ["x", "y", "z"])
    assert named.names == ("x", "y", "z") and named.notes == ()


def test_images_alone_are_each_of_a_person_of_its_own() -> None:
    found = image_set(PIXELS, "public", prefix="public ")
    assert found.n_classes == 6 and found.labels.tolist() == list(range(6)) and found.names[5] == "public 5"


def test_grey_images_are_read_as_rgb() -> None:
    found = image_set((PIXELS[:, :1], LABELS), "private")
    assert torch.equal(found.images, PIXELS[:, :1].expand(-1, 3, -1, -1))


def test_an_image_set_is_taken_as_it_is_and_resized_alone() -> None:
    data = ImageSet(PIXELS, LABELS, ("a", "b", "c"), "mine", holes=torch.ones(6, 1, 16, 16, dtype=torch.uint8))
    assert image_set(data, "private") is data and sized(data, 16) is data
    assert sized(data, 8).images.shape == (6, 3, 8, 8) and sized(data, 8).holes is None
    assert digest_of(data) != digest_of(data.take(torch.tensor([1, 0, 2, 3, 4, 5])))


@pytest.mark.parametrize(("data", "said"), [
    ("photos", "expected an ImageSet, a torch Dataset"), ((PIXELS, LABELS[:3]), r"got int64 \(3,\)"),
    ((PIXELS.float() / 127 - 1, LABELS), "before normalisation"), ((PIXELS.float() / 100, LABELS), "white is 1 or 255"),
    (TensorDataset(PIXELS), "item 0 of the dataset is a tuple, expected a pair"),
    ((PIXELS[0, 0, 0], LABELS), "expected")])
def test_what_could_mean_two_things_is_refused(data: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        image_set(data, "private")


# ---- transforms ----

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
TIMM = {"input_size": (3, 28, 28), "interpolation": "bilinear", "mean": tuple(MEAN), "std": tuple(STD),
        "crop_pct": 0.875, "crop_mode": "center"}
STEPS = T.Compose([T.Resize(32), T.CenterCrop(28), T.ToTensor(), T.Normalize(MEAN, STD)])


@pytest.mark.parametrize("transform", [
    STEPS, TIMM, T.Compose([T.Resize((32, 32)), T.Compose([T.CenterCrop((28, 28))]), T.Normalize(MEAN, STD)]),
    nn.Sequential(T.Resize(32), T.CenterCrop(28), T.Normalize(MEAN, STD)),
    v2.Compose([v2.ToImage(), v2.Resize(32), v2.CenterCrop(28), v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(MEAN, STD)]),
    {"input_size": 28, "crop": [0.0625, 0.0625, 0.9375, 0.9375], "mean": MEAN, "std": STD}])
def test_transforms_are_understood(transform: Any) -> None:
    found = settings_of(transform)
    assert found["input_size"] == 28 and found["crop"] == pytest.approx([0.0625, 0.0625, 0.9375, 0.9375])
    assert found["mean"] == pytest.approx(MEAN) and found["std"] == pytest.approx(STD)


def test_what_is_understood_does_what_the_transform_does() -> None:
    """On an image of the size to which the transform resizes, where no order of interpolations differs."""
    x = torch.rand(2, 3, 32, 32)
    found = settings_of(STEPS)
    look = Preprocess(tuple(found["crop"]), found["input_size"], found["mean"], found["std"])
    expected = T.Compose([step for step in STEPS.transforms if not isinstance(step, T.ToTensor)])(x)
    assert torch.allclose(look(x), expected, atol=1e-6)


def test_the_transforms_of_published_weights_are_understood() -> None:
    found = settings_of(ResNet18_Weights.IMAGENET1K_V1.transforms())
    assert found["input_size"] == 224 and found["crop"][0] == pytest.approx(16 / 256) and found["mean"] == MEAN
    config = timm.data.resolve_data_config({}, model=timm.create_model("resnet18"))
    made = settings_of(timm.data.create_transform(**config))
    assert made["input_size"] == settings_of(config)["input_size"] == 224
    assert made["crop"] == pytest.approx(settings_of(config)["crop"], abs=0.005)
    assert settings_of({**TIMM, "crop_mode": "squash"})["crop"] == [0, 0, 1, 1]
    assert settings_of({**TIMM, "input_size": (1, 28, 28)})["colours"] == "grey"
    assert settings_of(T.Grayscale())["colours"] == "grey" and settings_of(T.Grayscale())["mean"] == [0]


@pytest.mark.parametrize(("transform", "said"), [
    (T.Compose([T.Resize(32), T.RandomHorizontalFlip()]), r"RandomHorizontalFlip is not understood; .*nn.Sequential\("),
    (T.CenterCrop(28), "CenterCrop must follow a Resize"), (T.Resize((32, 16)), r"square images, got \(32, 16\)"),
    ({**TIMM, "input_size": (3, 28, 32)}, "square images")])
def test_other_transforms_are_refused(transform: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        settings_of(transform)


# ---- names ----


def test_objects_are_named_by_their_content() -> None:
    torch.manual_seed(0)
    one, other = nn.Linear(2, 2), nn.Linear(2, 2)
    named = Named("feature")
    assert named.network(one) == named.network(one) != named.network(other)
    assert named.network(torch.compile(one)) == named.network(one)
    assert named.network(len) == "memory:len" == named.network(len)
    layers = list(named.layers({"model": one, "preprocess": TIMM | {"crop_pct": 1.0}, "heldout": (PIXELS, LABELS),
                                "attack": {"deep": [one]}, "data.train": TensorDataset(PIXELS, LABELS)}))
    merged = {key: value for layer in layers for key, value in layer.items()}
    assert merged["data.test"]["kind"] == "memory" and merged["data.test"]["size"] == 28
    assert merged["attack"] == {"deep": [named.network(one)]}
    names = {merged[key]["name"].rpartition("-")[0] for key in ("data.train", "data.test")}
    assert names == {"train", "heldout"} and {merged["data.test"]["name"]} <= set(named.objects)


def test_functions_of_one_name_are_told_apart() -> None:
    named = Named("label")
    first, second = (lambda images: images), (lambda images: images + 1)
    assert [named.network(first), named.network(second), named.network(first)] == [
        "memory:<lambda>", "memory:<lambda>-2", "memory:<lambda>"]
