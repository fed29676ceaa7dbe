"""What the record of a published network says beside its weights: how pictures are prepared, where the face belongs,
and how well it tells people apart."""

from __future__ import annotations

from typing import Any

from latentprint.models.framing import expected_points
from latentprint.plugins.faces import detector, dlib, faceres, trunk
from latentprint.plugins.faces.build import RECOGNISERS

#: The rows of `expected_points`.
POINTS = ("eye left in the picture, outer corner", "same, inner corner", "eye right in the picture, inner corner",
          "same, outer corner", "base of the nose")


def _prepared(side: int, colours: str, subtracted: tuple[float, ...], divided_by: float) -> dict[str, Any]:
    return {"side": side, "colours": colours, "values": "0 to 255", "subtracted": list(subtracted),
            "divided_by": divided_by}


PREPROCESSING = {
    "dlib": _prepared(dlib.SIDE, "rgb", dlib.MEAN, 255),
    "faceres": _prepared(faceres.SIDE, "bgr", faceres.MEAN, 1),
    "landmarks": _prepared(trunk.SIDE, "rgb", dlib.MEAN, 255),
    "expression": _prepared(trunk.SIDE, "rgb", dlib.MEAN, 255),
    "detector": _prepared(detector.SIDE, "rgb", (127.5,) * 3, 127.5),
}
#: True accept rates over all pairs by cosine, photos of 64 pixels: `examples/verify_faces.py PACK.npz --framing each`
#: on the London set (102 people, a neutral and a smiling photo) and ORL (40 people, 10 photos). Thresholds are found by
#: each audit itself.
MEASURED = {
    "dlib": {"london": {"tar_at_fmr_1e-3": 1.0}, "orl": {"tar_at_fmr_1e-3": 0.981}},
    "faceres": {"london": {"tar_at_fmr_1e-3": 1.0}, "orl": {"tar_at_fmr_1e-3": 0.98}},
}


def facts(asset: str) -> dict[str, Any]:
    """``preprocessing`` of an asset, and of a recogniser ``framing`` and ``measured``, as its record keeps them."""
    found: dict[str, Any] = {"preprocessing": PREPROCESSING[asset]}
    if asset in RECOGNISERS:
        kind = RECOGNISERS[asset]
        places = [[round(x, 4), round(y, 4)] for x, y in expected_points(kind.zoom).tolist()]
        found |= {"dim": kind.dim, "framing": {"zoom": kind.zoom, "points": dict(zip(POINTS, places, strict=True))},
                  "measured": MEASURED[asset]}
    return found
