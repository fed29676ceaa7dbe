"""Face alignment by OpenCV's YuNet detector (Wu et al. 2023): pictures in, crops with eyes and mouth in place out.

The detector's file comes from OpenCV's model zoo and is not part of this package. Extra ``align``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import track

from latentprint.data.listing import Passed, tree
from latentprint.data.pixels import read_upright, whites_among
from latentprint.errors import UserError

Framing = Literal["arcface", "ffhq"]
#: ``(5, 2)`` in pixels, x and y of right eye, left eye, nose, right and left mouth corner as seen; None: no face.
Detector = Callable[[NDArray[np.uint8]], NDArray[np.float32] | None]

#: Where recognisers of the ArcFace family are trained to see the five points, in a picture of 112 x 112.
ARCFACE = np.array([[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]],
                   np.float32)
#: The same within the crop that REFace cuts out of FFHQ's framing: rows 35 to 223 and columns 32 to 220 of 256.
_CUT, _LEFT, _TOP = 188, 32, 35
MODEL_ZOO = "https://github.com/opencv/opencv_zoo (face_detection_yunet)"


def places(size: int, framing: Framing) -> NDArray[np.float32]:
    """Where the five points go in a picture of ``size`` pixels, ``(5, 2)``."""
    if framing == "arcface":
        return ARCFACE * (size / 112)
    inside = ARCFACE * (_CUT / 112) + np.array([_LEFT, _TOP], np.float32)
    return (inside * (size / 256)).astype(np.float32)


def align_folder(source: Path, out: Path, detect: Detector, size: int = 112,
                 framing: Framing = "arcface", passed: Passed | None = None) -> tuple[int, list[Path]]:
    """Write an aligned PNG for each photo of ``source`` at the same place below ``out``.

    Of photos that differ in the ending alone, all but the first keep it: ``1.png``, ``1.tif.png``.

    Args:
        passed: what is passed over is added to it.

    Returns:
        How many were written, and the photos in which no face was found.

    Raises:
        UserError: no photos, one that cannot be read, or ``out`` lies inside ``source``.
    """
    import cv2

    photos = sorted(photo for _, own in tree(source, Passed() if passed is None else passed) for photo in own.photos)
    if not photos:
        raise UserError(f"{source}: no photos there or below")
    if out.resolve().is_relative_to(source.resolve()):
        raise UserError(f"--out {out} lies inside {source}: its pictures would be aligned again")
    target, without, taken = places(size, framing), [], set[Path]()
    white = whites_among(photos, str(source))
    shown = track(photos, "aligning", console=Console(stderr=True), transient=True, disable=len(photos) < 100)
    for photo in shown:
        pixels = read_upright(photo, white)
        points = detect(pixels)
        if points is None:
            without.append(photo)
            continue
        matrix, _ = cv2.estimateAffinePartial2D(points, target, method=cv2.LMEDS)
        shrink = 1.0 if matrix is None else float(np.hypot(matrix[0, 0], matrix[1, 0]))
        if matrix is None or shrink == 0:  # points that no face has
            without.append(photo)
            continue
        if shrink < 0.5:  # the warp takes single pixels: what is far too large is averaged first
            pixels = cv2.resize(pixels, None, fx=2 * shrink, fy=2 * shrink, interpolation=cv2.INTER_AREA)
            matrix[:, :2] /= 2 * shrink
        made = cv2.warpAffine(pixels, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
        place = (out / photo.relative_to(source)).with_suffix(".png")
        if place in taken:
            place = place.with_name(f"{photo.name}.png")
        taken.add(place)
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(made).save(place)
    return len(photos) - len(without), without


def yunet(model: Path, least_score: float = 0.8) -> Detector:
    """The detector from its ONNX file; of several faces in a picture, the largest.

    Raises:
        UserError: OpenCV is not installed, or there is no such file or not one of this detector.
    """
    try:
        import cv2
    except ImportError:
        raise UserError("align needs OpenCV; pip install 'latentprint[align]'") from None
    if not model.is_file():
        raise UserError(f"--detector {model}: no such file; get face_detection_yunet_2023mar.onnx from {MODEL_ZOO}")
    try:
        detector: Any = cv2.FaceDetectorYN.create(str(model), "", (320, 320), least_score)
    except cv2.error as error:
        raise UserError(f"--detector {model}: not OpenCV's YuNet ({str(error).strip().splitlines()[0]})") from None

    def detect(pixels: NDArray[np.uint8]) -> NDArray[np.float32] | None:
        detector.setInputSize((pixels.shape[1], pixels.shape[0]))
        _, faces = detector.detect(pixels[..., ::-1])
        if faces is None:
            return None
        largest = max(faces, key=lambda face: face[2] * face[3])
        points: NDArray[np.float32] = np.asarray(largest[4:14], np.float32).reshape(5, 2)
        return points

    return detect

