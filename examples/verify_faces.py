"""How well recognisers of real faces tell the people of your photos apart, by how they are given the face.

    python examples/verify_faces.py orl_64.npz --recogniser dlib --recogniser faceres --framing auto --framing each

The true accept rate over all pairs of photos, at false match rates of 1e-2 and 1e-3: what an audit with such a judge
could see of these people at most. The networks come from `latentprint convert faces`.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from pydantic import TypeAdapter

from latentprint.data.sources import DataSource, load
from latentprint.framer import Framer
from latentprint.models.assets import load_asset
from latentprint.models.recognisers import embed
from latentprint.verification import calibrate_pairs

RATES = (1e-2, 1e-3)


def main() -> None:
    parser = argparse.ArgumentParser(description="Verification by published recognisers, under each framing.")
    parser.add_argument("photos", type=Path, help="a pack (.npz), or a folder with one folder a person")
    parser.add_argument("--size", type=int, default=64, help="pixels a side")
    parser.add_argument("--assets", type=Path, help="the folder of networks; by default your own")
    parser.add_argument("--recogniser", action="append", help="dlib, faceres; repeat for more")
    parser.add_argument("--framing", action="append", choices=["auto", "each", "given"], help="repeat for more")
    given = parser.parse_args()
    kind = "npz" if given.photos.suffix == ".npz" else "folder"
    source = {"kind": kind, "path": given.photos, "size": given.size}
    photos = load(TypeAdapter(DataSource).validate_python(source))
    print(f"{len(photos)} photos of {photos.n_classes} people, {photos.size} pixels")
    framer = Framer({"photos": photos.images}, given.assets, torch.device("cpu"))
    for name in given.recogniser or ["dlib", "faceres"]:
        for framing in given.framing or ["auto", "each"]:
            network, began = load_asset(name, given.assets), time.perf_counter()
            framer.frame(network, name, framing, "--framing")
            with torch.no_grad():
                found = calibrate_pairs(embed(network, photos.images, batch=32), photos.labels, RATES)
            rates = ", ".join(f"{found.tar[fmr]:.1%} at FMR {fmr:g}" for fmr in RATES)
            print(f"{name} {framing}: {rates} ({time.perf_counter() - began:.0f} s)", flush=True)
    for row in framer.check():
        if row.name != "--framing":
            print(f"{row.name}: {row.found}")


if __name__ == "__main__":
    main()
