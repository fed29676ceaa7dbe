"""From a published state dict of a recogniser to an asset."""

from __future__ import annotations

from pathlib import Path

from latentprint.errors import UserError
from latentprint.models.assets import save_asset
from latentprint.models.checkpoints import fill, load_state
from latentprint.plugins.arcface.build import NETWORKS, build

#: What releases put before the names of the network's own keys.
PREFIXES = ("model.", "module.", "backbone.")
#: What they store beside the network: the classes it was trained on.
HEADS = ("head.", "fc.kernel", "weight_cls")


def convert_recogniser(path: Path, out: Path, architecture: str, alignment: str = "arcface", name: str = "teacher",
                       trusted: bool = False) -> list[Path]:
    """Write the asset ``name`` into the folder ``out``; returns the file.

    Args:
        architecture: a key of ``NETWORKS``. alignment: of the pictures that it will see, see `FaceRecogniser`.
        trusted: let the file's pickle run.

    Raises:
        UserError: unknown architecture or alignment, or a key is missing, extra or of another shape.
    """
    record = {"kind": "published-recogniser", "architecture": architecture, "alignment": alignment, "metrics": {},
              "command": f"latentprint convert recogniser {path} --architecture {architecture}"}
    recogniser, state = build(record), load_state(path, trusted)
    for prefix in PREFIXES:
        if any(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    own = {key: value for key, value in state.items() if not key.startswith(HEADS)}
    if not own:
        raise UserError(f"{path}: no weights of a network, expected those of {', '.join(NETWORKS)}")
    fill(recogniser.network, own, f"{path} is no {architecture}")
    return [save_asset(out, name, recogniser, record, half=False)]
