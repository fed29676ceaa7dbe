"""Paint parametric faces in batched torch.

The head is an ellipsoid. Each pixel inside its outline is carried back through roll, shift, pitch and yaw to a
canonical front view, where the features are painted; its normal gives the shading. Everything outside the ``hole``
(hair, clothes, background) is nuisance by construction: a masked photo says nothing about who the person is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from latentprint.data.parameters import IDENTITY_NAMES, N_FRECKLES, NUISANCE_NAMES

# Half-axes of the widest head, in canvas units ([-1, 1] across the picture): hair and hole are laid out around it, so
# that they say nothing about the person's own head.
_HEAD_X, _HEAD_Y, _HEAD_CENTRE_Y = 0.66, 0.80, 0.12


def render(identity: Tensor, nuisance: Tensor, size: int, wrinkles: float = 0.0) -> tuple[Tensor, Tensor]:
    """Paint faces, without sensor noise.

    Args:
        identity: ``(B, len(IDENTITY_NAMES) + 2 * N_FRECKLES)`` in [-1, 1].
        nuisance: ``(B, len(NUISANCE_NAMES))`` in about [-1, 1].
        size: pixels.
        wrinkles: 0..1.

    Returns:
        ``(B, 3, size, size)`` in [0, 1] and the hole ``(B, 1, size, size)`` in [0, 1].
    """
    face = _columns(identity, IDENTITY_NAMES)
    photo = _columns(nuisance, NUISANCE_NAMES)
    freckles = identity[:, len(IDENTITY_NAMES):].view(-1, N_FRECKLES, 2)
    canvas = _Canvas(face, photo, size)
    picture = _background(photo, size)
    picture = _paint(picture, _clothes_colour(photo), canvas.clothes())
    hair = _hair_colour(photo)
    picture = _paint(picture, hair * 0.75, canvas.hair_behind())
    skin = _skin(face, photo, freckles, canvas, wrinkles)
    picture = _paint(picture, skin, canvas.head)
    fringe = canvas.hair_front()
    strands = 1 + 0.12 * torch.sin(26 * canvas.wide_x + 9 * photo["hair_part"] + 4 * canvas.wide_y)
    picture = _paint(picture, hair * strands.unsqueeze(1) * canvas.shading_wide(), fringe)
    picture = picture * (1 + 0.10 * photo["exposure"]).unsqueeze(1)
    warmth = 0.05 * photo["warmth"]
    picture = picture * torch.stack([1 + warmth, torch.ones_like(warmth), 1 - warmth], 1)
    hole = canvas.hole() * (1 - fringe)
    return _blur(picture, photo["blur"]).clamp(0, 1), hole.unsqueeze(1)


class _Canvas:
    """Where each pixel lies on the head: screen position, surface normal and canonical front view, each (B, S, S)."""

    def __init__(self, face: dict[str, Tensor], photo: dict[str, Tensor], size: int) -> None:
        axis = (torch.arange(size) + 0.5) / size * 2 - 1
        self.y, self.x = torch.meshgrid(axis, axis, indexing="ij")
        self.face, self.photo, self.pixel = face, photo, 2.0 / size
        scale = 1 + 0.07 * photo["scale"]
        px = (self.x - 0.07 * photo["shift_x"]) / scale
        py = (self.y - _HEAD_CENTRE_Y - 0.05 * photo["shift_y"]) / scale
        angle = math.radians(14) * photo["roll"]
        hx, hy = px * angle.cos() + py * angle.sin(), -px * angle.sin() + py * angle.cos()
        self.wide_x, self.wide_y = hx / _HEAD_X, hy / _HEAD_Y
        self.hx, self.hy = hx, hy
        half_x = _HEAD_X * (0.86 + 0.12 * face["face_width"])
        half_y = _HEAD_Y * (0.92 + 0.06 * face["face_height"])
        down = (hy / half_y).clamp(0, 1)
        half_x = half_x * (1 - (0.17 + 0.13 * face["jaw_taper"]) * down**2)
        s, t = hx / half_x, hy / half_y
        power = 2.15 + 0.55 * face["chin_square"] * (hy > 0)
        radius = (s.abs().clamp_min(1e-4) ** power + t.abs().clamp_min(1e-4) ** power) ** (1 / power)
        self.head = _soft((1 - radius) * 0.7, self.pixel)
        s, t = s / radius.clamp_min(1.0), t / radius.clamp_min(1.0)
        z = (1 - (s * s + t * t)).clamp_min(0.0).sqrt()
        self.normal = (s, t, z)
        yaw, pitch = math.radians(28) * photo["yaw"], math.radians(16) * photo["pitch"]
        front = s * yaw.sin() + z * yaw.cos()
        self.u = s * yaw.cos() - z * yaw.sin()
        self.v = t * pitch.cos() - front * pitch.sin()
        self.facing = _soft(front * pitch.cos() + t * pitch.sin(), 0.2)

    def shading_wide(self) -> Tensor:
        """Shading of hair, from the wide head's normals: (B, 1, S, S)."""
        z = (1 - self.wide_x**2 - self.wide_y**2).clamp_min(0.0).sqrt()
        return _shade((self.wide_x.clamp(-1, 1), self.wide_y.clamp(-1, 1), z), self.photo).unsqueeze(1)

    def hole(self) -> Tensor:
        """The face region that a swap may repaint: wider than any head, and the same for everybody."""
        return _soft(_ellipse(self.wide_x, self.wide_y, 0.0, 0.0, 1.07, 1.07), self.pixel)

    def clothes(self) -> Tensor:
        """Shoulders and a high collar, so that no skin shows outside the hole."""
        sway = 0.25 * self.photo["yaw"] * 0.1
        shoulders = _ellipse(self.x - sway, self.y, 0.0, 1.25, 1.05, 0.55)
        collar = _ellipse(self.x - sway, self.y, 0.0, 0.95, 0.42, 0.40)
        return _soft(torch.maximum(shoulders, collar), self.pixel)

    def hair_behind(self) -> Tensor:
        volume = 1.06 + 0.10 * self.photo["hair_volume"]
        drop = 0.30 * self.photo["hair_side"]
        return _soft(_ellipse(self.wide_x, self.wide_y, 0.0, drop - 0.12, volume, 1.0 + 0.5 * drop), self.pixel)

    def hair_front(self) -> Tensor:
        volume = 1.08 + 0.08 * self.photo["hair_volume"]
        cap = _ellipse(self.wide_x, self.wide_y, 0.0, -0.06, volume, volume)
        part = self.wide_x - 0.35 * self.photo["hair_part"]
        line = -0.66 + 0.10 * self.photo["hair_line"] + 0.10 * part.abs() + 0.75 * self.wide_x.abs() ** 4
        line = line + 0.03 * torch.sin(14 * self.wide_x + 6 * self.photo["hair_part"])
        side = (self.wide_x.abs() - (1.02 - 0.05 * self.photo["hair_side"])) * 0.8
        above = torch.maximum((line - self.wide_y) * 0.6, torch.minimum(side, 0.1 - self.wide_y))
        return _soft(torch.minimum(cap, above), self.pixel)


def _skin(face: dict[str, Tensor], photo: dict[str, Tensor], freckles: Tensor, canvas: _Canvas,
          wrinkles: float) -> Tensor:
    """The lit face with all its features, (B, 3, S, S)."""
    u, v, soft = canvas.u, canvas.v, 2.4 * canvas.pixel
    base = _skin_colour(face)
    colour = base.expand(-1, 3, *u.shape[1:])
    mirrored = u.abs()

    def put(picture: Tensor, tint: Tensor, distance: Tensor, opacity: Tensor | float = 1.0) -> Tensor:
        return _paint(picture, tint, _soft(distance, soft) * opacity)

    ear = _soft(_ellipse(mirrored, v, 1.0, 0.0, 0.14, 0.22), soft) * (0.3 + 0.3 * face["ears"])
    colour = _paint(colour, base * 0.75, ear)
    blush = torch.exp(-(((mirrored - 0.5) / 0.22) ** 2 + ((v - 0.22) / 0.16) ** 2))
    colour = colour * (1 - blush.unsqueeze(1) * (0.18 + 0.18 * face["blush"]).unsqueeze(1)
                       * _rgb(0.0, 0.75, 0.75))
    shadow = torch.exp(-(((mirrored - 0.40) / 0.22) ** 2 + ((v + 0.02) / 0.13) ** 2))
    colour = colour * (1 - shadow * (0.16 + 0.16 * face["eye_shadow"])).unsqueeze(1)
    if wrinkles > 0:
        lines = torch.sin(34 * v + 4 * u) * _soft(-0.32 - v, 0.2) + torch.sin(30 * mirrored + 22 * v) * _soft(
            mirrored - 0.55, 0.2)
        colour = colour * (1 - 0.10 * wrinkles * lines.clamp_min(0)).unsqueeze(1)
    colour = _freckles(colour, face, freckles, u, v, soft)
    colour = _beard(colour, face, u, v)
    colour = _nose(colour, base, face, photo, u, v, soft)
    colour = _mouth(colour, base, face, photo, u, v, soft)
    colour = _eyes(colour, base, face, photo, canvas, soft)
    for x_name, y_name, centre_x, centre_y in (("mole_x", "mole_y", 0.0, 0.28),
                                               ("second_mole_x", "second_mole_y", 0.0, -0.05)):
        spot = _ellipse(u, v, centre_x + 0.55 * face[x_name], centre_y + 0.35 * face[y_name],
                        0.048 + 0.022 * face["mole_size"], 0.048 + 0.022 * face["mole_size"])
        colour = put(colour, base * _rgb(0.45, 0.33, 0.30), spot)
    lit = colour * _shade(canvas.normal, photo, relief=_relief(face, u, v)).unsqueeze(1)
    return _glasses(lit, face, photo, u, v, soft)


def _eyes(colour: Tensor, base: Tensor, face: dict[str, Tensor], photo: dict[str, Tensor], canvas: _Canvas,
          soft: float) -> Tensor:
    u, v = canvas.u, canvas.v
    spacing, height = 0.40 + 0.07 * face["eye_spacing"], -0.10 + 0.05 * face["eye_height"]
    width = 0.165 + 0.035 * face["eye_size"]
    open_ = (0.62 + 0.16 * face["eye_aspect"]) * (0.66 + 0.34 * photo["eye_open"])
    side = torch.sign(u)
    x, y = u.abs() - spacing, v - height
    tilt = 0.28 * face["eye_tilt"]
    x, y = x * tilt.cos() + y * tilt.sin(), -x * tilt.sin() + y * tilt.cos()
    rim = _ellipse(x, y, 0.0, 0.0, width * 1.16, width * open_ * 1.3)
    lid = _soft(_ellipse(x, y, 0.0, 0.0, width, width * open_), soft)
    colour = _paint(colour, base * _rgb(0.50, 0.38, 0.36), _soft(rim, soft) * 0.85)
    colour = _paint(colour, _rgb(0.95, 0.94, 0.92), lid)
    gaze = 0.045 * photo["gaze"] * side
    radius = width * (0.56 + 0.10 * face["iris_size"])
    iris = _soft(_ellipse(x - gaze, y, 0.0, 0.0, radius, radius), soft) * lid
    colour = _paint(colour, _iris_colour(face), iris)
    pupil = _soft(_ellipse(x - gaze, y, 0.0, 0.0, radius * 0.42, radius * 0.42), soft) * lid
    colour = _paint(colour, _rgb(0.03, 0.03, 0.04), pupil)
    arch = 0.06 + 0.06 * face["brow_arch"]
    lift = height - 0.235 - 0.05 * face["brow_height"] - 0.05 * photo["brow_raise"]
    line = lift + (0.10 * face["brow_tilt"]) * (x / 0.2) * -1 + arch * (x / 0.2) ** 2
    thick = 0.042 + 0.026 * face["brow_thickness"]
    brow = torch.minimum(thick - (v - line).abs(), 0.245 - x.abs())
    dark = (0.62 + 0.34 * face["brow_dark"]).unsqueeze(1)
    tint = base * (1 - dark) + _rgb(0.10, 0.06, 0.04) * dark
    return _paint(colour, tint, _soft(brow, soft))


def _nose(colour: Tensor, base: Tensor, face: dict[str, Tensor], photo: dict[str, Tensor], u: Tensor, v: Tensor,
          soft: float) -> Tensor:
    tip = 0.20 + 0.07 * face["nose_length"]
    wide = 0.150 + 0.055 * face["nose_width"]
    under = torch.exp(-((u / (wide * 1.1)) ** 2 + ((v - tip - 0.035) / 0.045) ** 2))
    colour = colour * (1 - 0.42 * under).unsqueeze(1)
    nostril = _soft(_ellipse(u.abs(), v, wide * 0.62, tip + 0.02, wide * 0.34, 0.035), soft)
    return _paint(colour, base * _rgb(0.35, 0.22, 0.20), nostril * 0.9)


def _mouth(colour: Tensor, base: Tensor, face: dict[str, Tensor], photo: dict[str, Tensor], u: Tensor, v: Tensor,
           soft: float) -> Tensor:
    centre = 0.50 + 0.05 * face["mouth_height"]
    width = (0.285 + 0.075 * face["mouth_width"]) * (1 + 0.14 * photo["smile"])
    curve = 0.11 * photo["smile"] * (u / 0.3) ** 2
    y = v - centre + curve - 0.03 * photo["smile"]
    thick = 0.065 + 0.032 * face["lip_thickness"]
    gap = 0.045 * (photo["mouth_open"] + 1)
    taper = (1 - (u / width) ** 2).clamp_min(0.0).sqrt()
    lips = torch.minimum((thick + gap) * taper - y.abs(), width - u.abs())
    red = (0.55 + 0.35 * face["lip_redness"]).unsqueeze(1)
    tint = base * (1 - red) * _rgb(0.85, 0.70, 0.70) + _rgb(0.70, 0.17, 0.20) * red
    colour = _paint(colour, tint, _soft(lips, soft))
    inside = torch.minimum(gap * taper - y.abs(), width * 0.9 - u.abs())
    colour = _paint(colour, _rgb(0.20, 0.05, 0.06), _soft(inside, soft))
    teeth = torch.minimum(inside, -(y + gap * 0.15))
    colour = _paint(colour, _rgb(0.93, 0.91, 0.87), _soft(teeth - 0.01, soft))
    line = 0.012 - y.abs() + torch.zeros_like(u)
    return _paint(colour, base * _rgb(0.40, 0.20, 0.20), _soft(torch.minimum(line, width - u.abs()), soft) * 0.6)


def _beard(colour: Tensor, face: dict[str, Tensor], u: Tensor, v: Tensor) -> Tensor:
    jaw = _soft(v - 0.30 - 0.45 * (1 - u.abs()).clamp(0, 1) ** 2 + 0.15, 0.10)
    chin = _soft(_ellipse(u, v, 0.0, 0.80, 0.30, 0.26), 0.12)
    full, goatee = face["beard"].clamp(0.15, 1) - 0.15, (-face["beard"]).clamp(0.45, 1) - 0.45
    lip = _soft(torch.minimum(0.055 - (v - 0.36).abs(), 0.27 - u.abs()), 0.06)
    cover = jaw * full * 0.95 + chin * goatee * 1.5 + lip * (face["moustache"].clamp(0.3, 1) - 0.3) * 1.2
    return _paint(colour, _rgb(0.16, 0.10, 0.08), cover.clamp(0, 0.85))


def _freckles(colour: Tensor, face: dict[str, Tensor], freckles: Tensor, u: Tensor, v: Tensor, soft: float) -> Tensor:
    x = (0.62 * freckles[..., 0])[..., None, None]
    y = (0.16 + 0.20 * freckles[..., 1])[..., None, None]
    spots = torch.exp(-(((u.unsqueeze(1) - x) ** 2 + (v.unsqueeze(1) - y) ** 2) / 0.0011)).sum(1)
    amount = face["freckles"].clamp(0.2, 1) - 0.2
    return colour * (1 - (0.65 * amount * spots).clamp(0, 0.6).unsqueeze(1) * _rgb(0.55, 0.85, 0.95))


def _glasses(colour: Tensor, face: dict[str, Tensor], photo: dict[str, Tensor], u: Tensor, v: Tensor,
             soft: float) -> Tensor:
    """About three people in ten wear glasses; the frame's size and shade are theirs."""
    worn = (face["glasses"] > 0.4).float()
    size = 0.27 + 0.04 * face["glasses_size"]
    lens = _ellipse(u.abs(), v, 0.41, -0.08, size, size * (0.82 + 0.12 * face["glasses_size"]))
    frame = _soft(0.030 - lens.abs(), soft)
    bridge = _soft(torch.minimum(0.022 - (v + 0.12).abs(), 0.16 - u.abs()), soft)
    shade = (0.30 - 0.27 * face["glasses_dark"]).unsqueeze(1)
    return _paint(colour, shade * _rgb(1.0, 0.85, 0.75), (frame + bridge).clamp(0, 1) * worn * 0.95)


def _relief(face: dict[str, Tensor], u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Bumps of nose and cheeks added to the normal: (d/dx, d/dy)."""
    height = 0.20 + 0.12 * face["nose_bridge"]
    wide = 0.11 + 0.03 * face["nose_width"]
    ridge = torch.exp(-((u / wide) ** 2)) * _soft(0.24 - v, 0.3) * _soft(v + 0.35, 0.3)
    return (u / wide * ridge * height * 2.2).clamp(-0.6, 0.6), -0.15 * ridge


def _shade(normal: tuple[Tensor, Tensor, Tensor], photo: dict[str, Tensor],
           relief: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """Lambert shading with one distant lamp and ambient light, (B, S, S)."""
    x, y, z = normal
    if relief is not None:
        x, y = x + relief[0], y + relief[1]
        length = (x * x + y * y + z * z).sqrt().clamp_min(1e-4)
        x, y, z = x / length, y / length, z / length
    lx, ly = 0.85 * photo["light_x"], -0.25 + 0.55 * photo["light_y"]
    lz = torch.full_like(lx, 0.75)
    length = (lx * lx + ly * ly + lz * lz).sqrt()
    diffuse = ((x * lx + y * ly + z * lz) / length).clamp_min(0.0)
    strength = 0.46 + 0.22 * photo["light_contrast"]
    return 1.06 * (1 - strength) + strength * 1.20 * diffuse


def _skin_colour(face: dict[str, Tensor]) -> Tensor:
    """From pale to dark through brown, with a red-to-olive undertone: (B, 3, 1, 1)."""
    m = ((face["melanin"] + 1) / 2).unsqueeze(1)
    light, middle, dark = _rgb(0.97, 0.83, 0.74), _rgb(0.80, 0.58, 0.44), _rgb(0.38, 0.24, 0.17)
    base = torch.where(m < 0.5, light + (middle - light) * 2 * m, middle + (dark - middle) * (2 * m - 1))
    return base * (1 + face["undertone"].unsqueeze(1) * _rgb(-0.05, 0.035, -0.06))


def _iris_colour(face: dict[str, Tensor]) -> Tensor:
    """Brown, green or blue, light or dark: (B, 3, 1, 1)."""
    h = face["iris_hue"].unsqueeze(1)
    brown, green, blue = _rgb(0.36, 0.20, 0.08), _rgb(0.26, 0.46, 0.20), _rgb(0.22, 0.45, 0.80)
    hue = torch.where(h < 0, brown + (green - brown) * (h + 1), green + (blue - green) * h)
    return hue * (1 + 0.45 * face["iris_light"].unsqueeze(1))


def _hair_colour(photo: dict[str, Tensor]) -> Tensor:
    tone = ((photo["hair_tone"] + 1) / 2).unsqueeze(1) ** 1.5
    red = ((photo["hair_hue"] + 1) / 2).unsqueeze(1)
    return _rgb(0.07, 0.06, 0.06) + tone * (_rgb(0.72, 0.58, 0.38) + red * _rgb(0.05, -0.22, -0.22))


def _clothes_colour(photo: dict[str, Tensor]) -> Tensor:
    return _hue(photo["clothes_hue"], 0.45) * (0.45 + 0.3 * photo["clothes_light"]).unsqueeze(1)


def _background(photo: dict[str, Tensor], size: int) -> Tensor:
    axis = (torch.arange(size) + 0.5) / size * 2 - 1
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    angle = math.pi * photo["background_tilt"]
    ramp = (x * angle.cos() + y * angle.sin()).unsqueeze(1)
    light = (0.55 + 0.25 * photo["background_light"]).unsqueeze(1)
    return _hue(photo["background_hue"], 0.3) * (light + 0.14 * ramp)


def _hue(unit: Tensor, saturation: float) -> Tensor:
    """A colour circle: (B, 1, 1) in [-1, 1] -> (B, 3, 1, 1)."""
    angle = math.pi * unit.unsqueeze(1)
    offset = torch.tensor([0.0, 2 * math.pi / 3, 4 * math.pi / 3]).view(1, 3, 1, 1)
    return 1 - saturation * (0.5 - 0.5 * torch.cos(angle - offset))


def _blur(picture: Tensor, amount: Tensor) -> Tensor:
    """A 3x3 binomial blur, blended in by up to 40%."""
    kernel = torch.tensor([0.25, 0.5, 0.25])
    weight = (kernel[:, None] * kernel[None]).expand(3, 1, 3, 3)
    padded = torch.nn.functional.pad(picture, (1, 1, 1, 1), mode="replicate")
    smooth = torch.nn.functional.conv2d(padded, weight, groups=3)
    return torch.lerp(picture, smooth, (0.2 + 0.2 * amount).unsqueeze(1))


def _paint(picture: Tensor, colour: Tensor, cover: Tensor) -> Tensor:
    """``colour`` over ``picture`` where ``cover`` (B, S, S) says so."""
    return picture + cover.unsqueeze(1) * (colour - picture)


def _ellipse(x: Tensor, y: Tensor, cx: Tensor | float, cy: Tensor | float, rx: Tensor | float,
             ry: Tensor | float) -> Tensor:
    """Approximate signed distance to an ellipse, positive inside."""
    radius = (((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2).clamp_min(1e-6).sqrt()
    return (1 - radius) * (rx * ry) ** 0.5


def _soft(distance: Tensor, width: float) -> Tensor:
    """Anti-aliased inside test: 0 outside, 1 inside, a ramp of ``width`` between."""
    return (0.5 + distance / width).clamp(0, 1)


def _rgb(r: float, g: float, b: float) -> Tensor:
    return torch.tensor([r, g, b]).view(1, 3, 1, 1)


def _columns(values: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    return {name: values[:, i].view(-1, 1, 1) for i, name in enumerate(names)}
