"""Small stand-ins for the shipped networks: right shapes and real code, untrained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from latentprint.cli import main
from latentprint.diffusion.prior import FaceSwapPrior
from latentprint.diffusion.swap import Swapper
from latentprint.models.assets import load_asset, save_asset
from latentprint.models.attributes import AttributeNetwork
from latentprint.models.codec import Codec
from latentprint.models.recognisers import build_recogniser


def save_untrained(folder: Path, seed: int = 0) -> Path:
    """A folder of assets that looks like what ``latentprint pretrain`` writes."""
    torch.manual_seed(seed)
    save_asset(folder, "codec", Codec(), {"kind": "codec"})
    save_asset(folder, "attributes", AttributeNetwork(), {"kind": "attributes"})
    for name, architecture in (("teacher", "iresnet"), ("judge", "convnext")):
        save_asset(folder, name, build_recogniser(architecture), {"kind": "recogniser", "architecture": architecture})
    save_asset(folder, "prior", FaceSwapPrior((32, 32), 4), {"kind": "prior", "widths": [32, 32], "identity_tokens": 4})
    return folder


#: See the fixture ``run``.
Run = Callable[..., tuple[int, str, Path]]


def small_swapper(seed: int = 0) -> Swapper:
    """A swapper of tiny untrained networks, frozen."""
    torch.manual_seed(seed)
    swapper = Swapper(FaceSwapPrior((32, 32), 4), Codec(32), AttributeNetwork()).eval()
    return swapper.requires_grad_(False)


def packaged(name: str) -> torch.nn.Module:
    """A shipped network."""
    return load_asset(name)


def run_cli(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command, in this process."""
    code = main(argv)
    captured = capsys.readouterr()
    return code, captured.out, captured.err
