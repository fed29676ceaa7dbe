"""Face alignment: photos in, square pictures with eyes, nose and mouth in place out.

Where the five points are a detector says: `latentprint.plugins.faces.find` by published networks, or OpenCV's YuNet
(Wu et al. 2023), whose file comes from OpenCV's model zoo and is not part of this package (extra ``align``).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from latentprint.data.listing import Passed, tree
from latentprint.data.pixels import read_upright, whites_among
from latentprint.data.warp import resample, similarity
from latentprint.errors import UserError
from latentprint.progress import tracked

Framing = Literal["dlib", "arcface", "ffhq"]
#: ``(5, 2)`` in pixels, x and y of right eye, left eye, nose, right and left mouth corner as seen; None: no face.
Detector = Callable[[NDArray[np.uint8]], NDArray[np.float32] | None]

#: Where recognisers of the ArcFace family are trained to see the five points, in a picture of 112 x 112.
ARCFACE = np.array([[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]],
                   np.float32)
#: The same within the crop that REFace cuts out of FFHQ's framing: rows 35 to 223 and columns 32 to 220 of 256.
_CUT, _LEFT, _TOP = 188, 32, 35
#: Where dlib's chip has them, in shares of its side: means over chips of the AT&T, London and CelebA faces.
DLIB = np.array([[0.301, 0.298], [0.664, 0.300], [0.482, 0.505], [0.333, 0.672], [0.636, 0.675]], np.float32)
#: With so many chips' sides a picture holds hair and chin, and the chips of dlib's recogniser and of faceres (1.2).
ZOOM = 1.3
#: A picture so many times as large as the photo is none of a face.
_LARGEST = 8
MODEL_ZOO = "https://github.com/opencv/opencv_zoo (face_detection_yunet)"


def places(size: int, framing: Framing, zoom: float = ZOOM) -> NDArray[np.float32]:
    """Where the five points go in a picture of ``size`` pixels, ``(5, 2)``.

    Args:
        zoom: of ``dlib``: the picture's side over that of dlib's chip, about one centre.
    """
    match framing:
        case "dlib":
            return (((DLIB - 0.5) / zoom + 0.5) * size).astype(np.float32)
        case "arcface":
            return ARCFACE * (size / 112)
    inside = ARCFACE * (_CUT / 112) + np.array([_LEFT, _TOP], np.float32)
    return (inside * (size / 256)).astype(np.float32)


def align_folder(source: Path, out: Path, detect: Detector, size: int = 112, framing: Framing = "dlib",
                 passed: Passed | None = None, zoom: float = ZOOM) -> tuple[int, list[Path]]:
    """Write an aligned PNG for each photo of ``source`` at the same place below ``out``.

    Of photos that differ in the ending alone, all but the first keep it: ``1.png``, ``1.tif.png``.

    Args:
        passed: what is passed over is added to it. zoom: see `places`.

    Returns:
        How many were written, and the photos in which no face was found.

    Raises:
        UserError: no photos, one that cannot be read, or ``out`` lies inside ``source``.
    """
    photos = sorted(photo for _, own in tree(source, Passed() if passed is None else passed) for photo in own.photos)
    if not photos:
        raise UserError(f"{source}: no photos there or below")
    if out.resolve().is_relative_to(source.resolve()):
        raise UserError(f"--out {out} lies inside {source}: its pictures would be aligned again")
    target, without, taken = places(size, framing, zoom), [], set[Path]()
    white = whites_among(photos, str(source))
    for photo in tracked(photos, "aligning"):
        pixels = read_upright(photo, white)
        points = detect(pixels)
        made = None if points is None else aligned(pixels, points, target, size)
        if made is None:
            without.append(photo)
            continue
        place = (out / photo.relative_to(source)).with_suffix(".png")
        if place in taken:
            place = place.with_name(f"{photo.name}.png")
        taken.add(place)
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(made).save(place)
    return len(photos) - len(without), without


def aligned(pixels: NDArray[np.uint8], points: NDArray[np.float32], target: NDArray[np.float32],
            size: int) -> NDArray[np.uint8] | None:
    """The square picture ``(size, size, 3)`` of a photo ``(H, W, 3)`` in which the points come nearest to the target,
    by a similarity, in the sense of least squares; beyond the photo its edge is repeated.

    Args:
        points: ``(5, 2)`` in the photo's pixels. target: ``(5, 2)`` in the picture's.

    Returns:
        None for points that no face has.
    """
    if np.ptp(points, 0).max() < 1:
        return None
    # from the picture's coordinates in [0, 1] to the photo's pixels
    matrix = similarity(torch.from_numpy(points).float()[None], torch.from_numpy(target / size).float())[0][0]
    corners = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]) @ matrix[:, :2].T + matrix[:, 2]
    low = corners.amin(0).floor() - 2
    side = int((corners.amax(0).ceil() + 2 - low).max())
    if side > _LARGEST * max(pixels.shape[:2]):
        return None
    columns, rows = (np.clip(np.arange(side) + int(start), 0, length - 1)
                     for start, length in zip(low.tolist(), (pixels.shape[1], pixels.shape[0]), strict=True))
    part = torch.from_numpy(pixels[rows][:, columns]).permute(2, 0, 1)[None].float()
    matrix[:, 2] -= low
    made = resample(part, matrix[None] / side, size)[0]
    return made.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).contiguous().numpy()


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

