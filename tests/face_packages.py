"""Packages of real-face networks in miniature: files of the published layout with random weights, and what their
publishers' code computes of them, written out with NumPy in the layout of TensorFlow (batch, height, width, channels).

Names and order of the tensors are those of the packages; shapes are the published ones.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Mapping
from io import BytesIO
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Stored = Literal["uint8", "float16", "float32", "int32"]
DLIB = "dlib_face_recognition_resnet_model_v1.dat"
#: RGB, subtracted by dlib's recogniser and by face-api's networks.
MEAN = np.array([122.782, 117.001, 104.298])
#: Stages of dlib's recogniser after the first: name, channels in and out, whether it halves the picture.
BLOCKS = [(f"conv32_{i}", 32, 32, False) for i in (1, 2, 3)] + [("conv64_down", 32, 64, True)] \
    + [(f"conv64_{i}", 64, 64, False) for i in (1, 2, 3)] + [("conv128_down", 64, 128, True)] \
    + [(f"conv128_{i}", 128, 128, False) for i in (1, 2)] + [("conv256_down", 128, 256, True)] \
    + [(f"conv256_{i}", 256, 256, False) for i in (1, 2)] + [("conv256_down_out", 256, 256, True)]
STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)
WIDTHS = (64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)


# ---- files ----


def stored(name: str, shape: tuple[int, ...], how: Stored, rng: np.random.Generator,
           around: float = 0.0, reach: float | None = None) -> tuple[dict[str, Any], bytes, Array]:
    """An entry of a manifest, its bytes and the values that they stand for.

    Args:
        around: centre of the values. reach: how far they go from it; None: so that a layer keeps its input's scale.
    """
    if how == "int32":
        values = rng.integers(-5, 5, shape, dtype=np.int32)
        return {"name": name, "shape": list(shape), "dtype": "int32"}, values.astype("<i4").tobytes(), values
    entry: dict[str, Any] = {"name": name, "shape": list(shape), "dtype": "float32"}
    inputs = prod(shape[:2] if shape[-1:] == (1,) else shape[:-1])
    reach = (6 / max(1, inputs)) ** 0.5 if reach is None else reach
    if how == "uint8":
        data = rng.integers(0, 256, shape, dtype=np.uint8)
        scale, least = 2 * reach / 255, around - reach
        entry["quantization"] = {"dtype": "uint8", "scale": scale, "min": least}
        return entry, data.tobytes(), data * np.float64(scale) + least
    real = rng.uniform(around - reach, around + reach, shape)
    if how == "float16":
        entry["quantization"] = {"dtype": "float16", "original_dtype": "float32"}
    narrow = real.astype("<f2" if how == "float16" else "<f4")
    return entry, narrow.tobytes(), narrow.astype(np.float64)


class Written:
    """Tensors written one after another, without padding: ``entries``, ``data`` and ``values`` by name."""

    def __init__(self, seed: int) -> None:
        self.rng, self.entries, self.data = np.random.default_rng(seed), list[dict[str, Any]](), b""
        self.values: dict[str, Array] = {}

    def add(self, name: str, shape: tuple[int, ...], how: Stored, around: float = 0.0,
            reach: float | None = None) -> None:
        entry, data, self.values[name] = stored(name, shape, how, self.rng, around, reach)
        self.entries.append(entry)
        self.data += data

    def manifest(self, file: str) -> bytes:
        return json.dumps([{"weights": self.entries, "paths": [file]}]).encode()

    def graph(self, file: str) -> bytes:
        return json.dumps({"format": "graph-model", "modelTopology": {"node": []},
                           "weightsManifest": [{"paths": [file], "weights": self.entries}]}).encode()


def dlib_of_face_api() -> Written:
    """Bytes, but for the filters of ``conv64_*``, which are raw floats and begin anywhere."""
    made = Written(0)
    convs = [("conv32_down", 7, 3, 32)]
    for name, inner, outer, _ in BLOCKS:
        convs += [(f"{name}/conv1", 3, inner, outer), (f"{name}/conv2", 3, outer, outer)]
    for name, side, inner, outer in convs:
        made.add(f"{name}/conv/filters", (side, side, inner, outer), "float32" if "conv64_" in name else "uint8")
        made.add(f"{name}/conv/bias", (outer,), "uint8", reach=0.1)
        made.add(f"{name}/scale/weights", (outer,), "uint8", around=0.7, reach=0.2)
        made.add(f"{name}/scale/biases", (outer,), "uint8", reach=0.1)
    made.add("fc", (256, 128), "uint8")
    return made


def trunk(outputs: int, biases: Stored, seed: int) -> Written:
    """face-api's networks of landmarks (all in bytes) and of expressions (biases as floats)."""
    made = Written(seed)
    inner = 3
    for i, outer in enumerate((32, 64, 128, 256)):
        for j in range(4):
            name = f"dense{i}/conv{j}"
            if (i, j) == (0, 0):
                made.add(f"{name}/filters", (3, 3, inner, outer), "uint8")
            else:
                made.add(f"{name}/depthwise_filter", (3, 3, inner, 1), "uint8", reach=0.3)
                made.add(f"{name}/pointwise_filter", (1, 1, inner, outer), "uint8")
            made.add(f"{name}/bias", (outer,), biases, reach=0.1)
            inner = outer
    made.add("fc/weights", (256, outputs), "uint8", reach=0.1)
    made.add("fc/bias", (outputs,), biases, reach=0.5)
    return made


def faceres() -> Written:
    """Halves, with the scalars and the integers that the graph has beside them."""
    made = Written(3)
    for name, inner, outer in (("feats", 1024, 256), ("age_pred", 256, 100), ("gender_pred", 256, 1)):
        made.add(f"{name}/kernel", (inner, outer), "float16")
        made.add(f"{name}/bias", (outer,), "float16", reach=0.1)
    made.add("conv1/convolution/merged_input", (3, 3, 3, 32), "float16", reach=0.01)
    made.add("conv1_bn/batchnorm_1/sub", (32,), "float16", reach=0.1)
    made.add("conv1_relu/Const_1", (), "float16")
    inner = 32
    for i, outer in enumerate(WIDTHS, 1):
        made.add(f"conv_dw_{i}/depthwise_kernel", (3, 3, inner, 1), "float16")
        made.add(f"conv_dw_{i}_bn/batchnorm_1/mul", (inner,), "float16", around=1.0, reach=0.3)
        made.add(f"conv_dw_{i}_bn/batchnorm_1/sub", (inner,), "float16", reach=0.1)
        made.add(f"conv_pw_{i}/convolution/merged_input", (1, 1, inner, outer), "float16")
        made.add(f"conv_pw_{i}_bn/batchnorm_1/sub", (outer,), "float16", reach=0.1)
        inner = outer
    made.add("global_pooling/Mean/reduction_indices", (2,), "int32")
    return made


def blazeface() -> Written:
    """Raw floats named by number, integers between them."""
    made = Written(4)
    made.add("unknown", (5, 5, 3, 24), "float32")
    made.add("unknown_0", (24,), "float32", reach=0.1)
    inner = 24
    for i in range(32):  # 31 blocks, then the layers that lead to the coarse grid
        outer = 24 if i < 15 else 48 if i < 23 else 96
        made.add(f"unknown_{4 * i + 1}", (3, 3, inner, 1), "float32")
        made.add(f"unknown_{4 * i + 3}", (1, 1, inner, outer), "float32", reach=1 / np.sqrt(inner))
        made.add(f"unknown_{4 * i + 4}", (outer,), "float32", reach=0.1)
        made.add(f"shape_{i}", (3,), "int32")
        inner = outer
    for number, outer in ((129, 96), (131, 32), (133, 6), (135, 2)):
        made.add(f"unknown_{number}", (1, 1, 96, outer), "float32")
        made.add(f"unknown_{number + 1}", (outer,), "float32", reach=0.5)
    return made


def dlib_file(values: Mapping[str, Array]) -> bytes:
    """dlib's own file of the network that face-api's tensors describe: of each layer its name and settings, its
    tensor, then empty tensors, as dlib writes momenta that were cleaned away."""
    out = b"\x01\x01\x01\x0dloss_metric_2" + b"\x01\x02" * 20
    for name in ["conv32_down", *(f"{block[0]}/{part}" for block in BLOCKS for part in ("conv1", "conv2"))]:
        filters = values[f"{name}/conv/filters"].transpose(3, 2, 0, 1)
        both = np.concatenate([filters.ravel(), values[f"{name}/conv/bias"]])
        scaling = np.concatenate([values[f"{name}/scale/weights"], values[f"{name}/scale/biases"]])
        out += b"\x01\x05con_5" + dlib_tensor((len(both), 1, 1, 1), both) + dlib_integers(filters.shape[0], 3, 3, 1, 0)
        out += dlib_tensor((0, 0, 0, 0)) + b"\x01\x07affine_" + dlib_tensor((len(scaling), 1, 1, 1), scaling)
        out += dlib_tensor((0, 0, 0, 0)) * 2 + b"\x01\x05relu_"
    return out + b"\x01\x04fc_2" + dlib_tensor((256, 128, 1, 1), values["fc"]) + b"\x81\x18"


def dlib_integers(*numbers: int) -> bytes:
    """How many bytes an integer takes, then these, least first; 0 takes one."""
    sized = [(number, max(1, (number.bit_length() + 7) // 8)) for number in numbers]
    return b"".join(bytes([size]) + number.to_bytes(size, "little") for number, size in sized)


def dlib_tensor(shape: tuple[int, ...], values: Array | None = None) -> bytes:
    """Version 2, four dimensions, float32."""
    return dlib_integers(2, *shape) + (b"" if values is None else values.astype("<f4").tobytes())


class Packages:
    """All three packages, their files by name; ``written`` holds the values."""

    def __init__(self) -> None:
        self.written = {"dlib": dlib_of_face_api(), "landmarks": trunk(136, "uint8", 1),
                        "expression": trunk(7, "float32", 2), "faceres": faceres(), "detector": blazeface()}
        self.face_api: dict[str, bytes] = {}
        for asset, name in (("dlib", "face_recognition"), ("landmarks", "face_landmark_68"),
                            ("expression", "face_expression")):
            made = self.written[asset]
            self.face_api |= {f"{name}_model.bin": made.data,
                              f"{name}_model-weights_manifest.json": made.manifest(f"{name}_model.bin")}
        self.human: dict[str, bytes] = {}
        for asset, name in (("faceres", "faceres"), ("detector", "blazeface")):
            made = self.written[asset]
            self.human |= {f"{name}.bin": made.data, f"{name}.json": made.graph(f"{name}.bin")}
        self.models = {DLIB: dlib_file(self.written["dlib"].values)}


def tarball(path: Path, files: Mapping[str, bytes], below: str = "package/model/") -> Path:
    """A compressed tar file beside whose ``files`` others lie."""
    compressed = path.suffix in (".tgz", ".gz")
    with (tarfile.open(path, "w:gz", compresslevel=1) if compressed else tarfile.open(path, "w")) as archive:
        for name, data in {"package.json": b"{}", **files}.items():
            member = tarfile.TarInfo(below + name)
            member.size = len(data)
            archive.addfile(member, BytesIO(data))
    return path


def unpacked(folder: Path, files: Mapping[str, bytes]) -> Path:
    """The same as a folder."""
    (folder / "model").mkdir(parents=True)
    for name, data in files.items():
        (folder / "model" / name).write_bytes(data)
    return folder


# ---- what the publishers' code computes, in float64 ----


def convolved(x: Array, filters: Array, stride: int = 1, same: bool = True, depthwise: bool = False) -> Array:
    """TensorFlow's ``conv2d`` or ``depthwise_conv2d``, a sum over the window's places."""
    side = filters.shape[0]
    x = np.pad(x, ((0, 0), *(_same(n, side, stride) for n in x.shape[1:3]), (0, 0))) if same else x
    high, wide = ((n - side) // stride + 1 for n in x.shape[1:3])
    out: Any = 0.0
    for i in range(side):
        for j in range(side):
            seen = x[:, i: i + stride * (high - 1) + 1: stride, j: j + stride * (wide - 1) + 1: stride]
            out = out + (seen * filters[i, j, :, 0] if depthwise else seen @ filters[i, j])
    return np.asarray(out)


def _same(n: int, side: int, stride: int) -> tuple[int, int]:
    """Pixels of padding before and after: as many outputs as strides begin inside, the odd one after."""
    missing = max(side + stride * (len(range(0, n, stride)) - 1) - n, 0)
    return missing // 2, (missing + 1) // 2


def relu(x: Array) -> Array:
    return np.maximum(x, 0)


def normalised(x: Array) -> Array:
    """Pictures in [0, 1] as face-api's networks take them."""
    return (x * 255 - MEAN) / 255


def dlib_embedding(w: Mapping[str, Array], x: Array) -> Array:
    """Pictures ``(B, 150, 150, 3)`` in [0, 1] to ``(B, 128)``."""
    def conv(x: Array, name: str, stride: int = 1, same: bool = True) -> Array:
        y = convolved(x, w[f"{name}/conv/filters"], stride, same) + w[f"{name}/conv/bias"]
        return y * w[f"{name}/scale/weights"] + w[f"{name}/scale/biases"]

    x = relu(conv(normalised(x), "conv32_down", 2, False))
    n = (x.shape[1] - 3) // 2 + 1
    x = np.max([x[:, i: i + 2 * n - 1: 2, j: j + 2 * n - 1: 2] for i in range(3) for j in range(3)], axis=0)
    for name, inner, outer, halved in BLOCKS:
        out = conv(relu(conv(x, f"{name}/conv1", 2 if halved else 1, not halved)), f"{name}/conv2")
        if halved:
            n = x.shape[1] // 2
            short = np.zeros((len(x), n, n, outer))
            short[..., :inner] = sum(x[:, i: 2 * n: 2, j: 2 * n: 2] for i in (0, 1) for j in (0, 1)) / 4
            whole = np.zeros_like(short)
            whole[:, : out.shape[1], : out.shape[2]] = out
            x, out = short, whole
        x = relu(x + out)
    return x.mean((1, 2)) @ w["fc"]


def trunk_outputs(w: Mapping[str, Array], x: Array) -> Array:
    """Pictures ``(B, 112, 112, 3)`` in [0, 1] to ``(B, n)``."""
    def separable(x: Array, name: str, stride: int = 1) -> Array:
        inner = convolved(x, w[f"{name}/depthwise_filter"], stride, depthwise=True)
        return convolved(inner, w[f"{name}/pointwise_filter"]) + w[f"{name}/bias"]

    x = normalised(x)
    for i in range(4):
        first = (convolved(x, w["dense0/conv0/filters"], 2) + w["dense0/conv0/bias"] if i == 0
                 else separable(x, f"dense{i}/conv0", 2))
        one = relu(first)
        two = one + separable(one, f"dense{i}/conv1")
        three = two + separable(relu(two), f"dense{i}/conv2")
        x = relu(three + separable(relu(three), f"dense{i}/conv3"))
    return x.mean((1, 2)) @ w["fc/weights"] + w["fc/bias"]


def faceres_outputs(w: Mapping[str, Array], x: Array) -> tuple[Array, Array, Array]:
    """What Human does with pictures ``(B, H, W, 3)`` in bytes: embeddings, ages, genders."""
    def clamped(x: Array) -> Array:
        return np.clip(x, 0, 6)

    x = clamped(convolved(x, w["conv1/convolution/merged_input"], 2) + w["conv1_bn/batchnorm_1/sub"])
    for i, stride in enumerate(STRIDES, 1):
        x = convolved(x, w[f"conv_dw_{i}/depthwise_kernel"], stride, depthwise=True)
        x = clamped(x * w[f"conv_dw_{i}_bn/batchnorm_1/mul"] + w[f"conv_dw_{i}_bn/batchnorm_1/sub"])
        x = clamped(convolved(x, w[f"conv_pw_{i}/convolution/merged_input"]) + w[f"conv_pw_{i}_bn/batchnorm_1/sub"])
    embedding = x.mean((1, 2))
    features = relu(embedding @ w["feats/kernel"] + w["feats/bias"])
    ages = np.exp(features @ w["age_pred/kernel"] + w["age_pred/bias"])
    genders = 1 / (1 + np.exp(-(features @ w["gender_pred/kernel"] + w["gender_pred/bias"])))
    return embedding, ages / ages.sum(1, keepdims=True), genders


def blazeface_outputs(w: Mapping[str, Array], x: Array) -> tuple[Array, Array]:
    """Pictures ``(B, H, W, 3)`` in [-1, 1] to logits ``(B, N)`` and numbers ``(B, N, 16)``."""
    def of(number: int) -> Array:
        return w[f"unknown_{number}"]

    x = relu(convolved(x, w["unknown"], 2) + of(0))
    for i in range(31):
        stride = 2 if i in (7, 15, 23) else 1
        inner = convolved(x, of(4 * i + 1), stride, depthwise=True)
        out = convolved(inner, of(4 * i + 3)) + of(4 * i + 4)
        short = x if stride == 1 else np.max([x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)], axis=0)
        padded = np.zeros_like(out)
        padded[..., : short.shape[3]] = short
        x = relu(out + padded)
    coarse = relu(convolved(convolved(x, of(125), 2, depthwise=True), of(127)) + of(128))

    def head(fine: int, small: int, numbers: int) -> Array:
        parts = [convolved(grid, of(number)) + of(number + 1) for grid, number in ((x, fine), (coarse, small))]
        return np.concatenate([part.reshape(len(x), -1, numbers) for part in parts], 1)

    return head(135, 133, 1)[..., 0], head(131, 129, 16)


def nhwc(images: Any) -> Array:
    """A torch batch ``(B, C, H, W)`` in TensorFlow's layout, float64."""
    return np.asarray(images.double().permute(0, 2, 3, 1).numpy())


def legacy_resized(images: Array, side: int) -> Array:
    """TensorFlow.js's ``resizeBilinear`` of ``(B, H, H, C)``: pixel i of the output lies at i * in / out."""
    n = images.shape[1]
    place = np.arange(side) * (n / side)
    low = np.floor(place).astype(int)
    high, part = np.minimum(low + 1, n - 1), place - low
    x = images.astype(np.float64)
    rows = x[:, low] * (1 - part)[:, None, None] + x[:, high] * part[:, None, None]
    return np.asarray(rows[:, :, low] * (1 - part)[:, None] + rows[:, :, high] * part[:, None])

