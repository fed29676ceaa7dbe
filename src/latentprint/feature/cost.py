"""What a split costs: what is sent, what each part computes and holds, how long the edge part takes; and whether what
is sent is bounded, without which noise protects nothing.
"""

from __future__ import annotations

import copy
import math
import platform
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from latentprint.errors import UserError
from latentprint.feature.graph import modes_kept
from latentprint.feature.split import Split

#: Factors on a parameter between which a bounded output no longer grows. Far above what training reaches.
_SCALES = (1e6, 1e12)


@dataclass(frozen=True)
class EdgeCost:
    """The cost of one image.

    Attributes:
        bytes_float32, bytes_float16, bytes_int8: sent for an image at 32, 16 and 8 bits a value, without compression.
        edge_macs, cloud_macs: multiply-accumulates of the convolutions and matrix products of each part; two floating
            point operations each.
        edge_parameters, cloud_parameters: trained numbers in each part.
        edge_milliseconds: median time of the edge part for one image, measured on ``device``; None when not measured.
        device: what it was measured on.
    """

    bytes_float32: int
    bytes_float16: int
    bytes_int8: int
    edge_macs: int
    cloud_macs: int
    edge_parameters: int
    cloud_parameters: int
    edge_milliseconds: float | None = None
    device: str = ""


@dataclass(frozen=True)
class Boundedness:
    """Whether features stay within bounds however the edge network is trained; false in a condition when they do not.

    Attributes:
        bounded: see above.
        reason: one sentence.
    """

    bounded: bool
    reason: str

    def __bool__(self) -> bool:
        return self.bounded


def edge_cost(split: Split, example: Tensor, *, repeats: int = 30, warm_up: int = 5) -> EdgeCost:
    """Count what a split costs, and time its edge part.

    Args:
        example: ``(B, 3, H, W)`` preprocessed images, of which the first is used, on the device to measure on.
        repeats: timed passes; 0 leaves the time out.
        warm_up: passes before them, untimed.

    Raises:
        UserError: a negative number of repeats.
    """
    if min(repeats, warm_up) < 0:
        raise UserError(f"repeats: expected numbers of passes of at least 0, got {repeats} and {warm_up} to warm up")
    image, values = example[:1], math.prod(split.feature_shape)
    with modes_kept(split.edge), modes_kept(split.cloud), torch.no_grad():
        edge, cloud = split.edge.eval(), split.cloud.eval()
        edge_macs, cloud_macs = _macs(edge, image), _macs(cloud, edge(image))
        seconds = [_seconds(edge, image) for _ in range(warm_up + repeats)][warm_up:]
    return EdgeCost(4 * values, 2 * values, values, edge_macs, cloud_macs, _parameters(edge), _parameters(cloud),
                    1e3 * statistics.median(seconds) if seconds else None,
                    device_name(image.device) if seconds else "")


def bounded_output(edge: nn.Module, example: Tensor) -> Boundedness:
    """Whether training could scale the edge network's output up until the noise added to it no longer matters.

    Tried, not read off the layers: each parameter in turn is made a million times larger, then once more. A sigmoid, a
    tanh or a norm clipped to a constant at the end holds the output; a layer norm with a learned scale does not. What
    grows more slowly than any power of a parameter (a logarithm) passes for bounded.

    Args:
        edge: preprocessed images ``(B, 3, H, W)`` to features. It is copied, and left as it is.
        example: ``(B, 3, H, W)`` images to try it on.
    """
    trial = copy.deepcopy(edge).double().eval().requires_grad_(False)
    x, rng = example.double(), torch.Generator().manual_seed(0)
    for name, parameter in reversed(list(trial.named_parameters())):  # the last layers are those that tell
        kept = parameter.clone()
        moved = kept + 1e-3 * torch.randn(kept.shape, generator=rng, dtype=torch.float64).to(kept)  # zeros count too
        small, large = (_largest(trial, parameter, scale * moved, x) for scale in _SCALES)
        parameter.copy_(kept)
        if not large <= 2 * small:
            return Boundedness(False, f"the features grow without bound with '{name}': end the edge network in a "
                                      "sigmoid or a tanh, or clip their norm")
    return Boundedness(True, "the features stay within bounds however large a parameter grows")


def device_name(device: torch.device) -> str:
    """What a person calls a device: the model of the GPU, or of the processor with the threads in use."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")  # Linux; platform knows no model there
    lines = info.read_text().splitlines() if info.is_file() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return f"{model or platform.processor() or platform.machine()}, {torch.get_num_threads()} thread(s)"


def _macs(module: nn.Module, x: Tensor) -> int:
    with FlopCounterMode(display=False) as counter:
        module(x)
    return counter.get_total_flops() // 2


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _seconds(module: nn.Module, x: Tensor) -> float:
    _wait(x.device)
    began = time.perf_counter()
    module(x)
    _wait(x.device)
    return time.perf_counter() - began


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _largest(module: nn.Module, parameter: Tensor, value: Tensor, x: Tensor) -> float:
    """The largest absolute output with a parameter set to ``value`` or to its opposite, which a ReLU may silence."""
    largest = []
    with torch.no_grad():
        for sign in (1, -1):
            parameter.copy_(sign * value)
            largest.append(module(x).abs().max())
    return float(torch.stack(largest).max())
