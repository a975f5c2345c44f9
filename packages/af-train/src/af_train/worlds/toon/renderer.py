"""Draws people: about fifty antialiased layers per frame, batched, in plain torch.

Parts of the head lie at different depths: the farther in front of the neck's axis, the farther
a part moves when the head turns, which gives flat drawings a pose.
"""

import attrs
import torch
from torch import Tensor

from af_train.worlds.toon import identity as hair_styles
from af_train.worlds.toon import visemes
from af_train.worlds.toon.canvas import Canvas, blank, ellipse, enclose, rounded_box
from af_train.worlds.toon.identity import Identity
from af_train.worlds.toon.motion import Motion

TOON_SIZE = 128
"""Side of the frames that the embedded model draws, in pixels."""

_NECK_PIVOT = 0.45
_DARK = (0.13, 0.09, 0.10)
_TEETH = (0.98, 0.97, 0.94)
_TONGUE = (0.86, 0.40, 0.42)
_GORGE = (0.30, 0.07, 0.09)
_BLUSH = (0.95, 0.45, 0.42)
_WHITE = (0.99, 0.985, 0.97)
_GOLD = (0.93, 0.76, 0.33)


@attrs.frozen
class _Head:
    """Coordinates that move with the head, on one canvas; every attribute broadcasts to it."""

    canvas: Canvas
    x: Tensor
    y: Tensor
    yaw: Tensor
    pitch: Tensor

    def at_depth(self, sideways: float, upwards: float = 0.0) -> tuple[Tensor, Tensor]:
        """Return coordinates of a layer that moves this far per unit of yaw and pitch."""
        return self.x - self.yaw * sideways, self.y - self.pitch * upwards


def render(people: Identity, motion: Motion, mouth: Tensor, size: int = TOON_SIZE) -> Tensor:
    """Return images float ``[n, 3, size, size]`` in 0..1.

    ``people`` holds ``n`` identities, ``motion`` tracks of ``n`` values and ``mouth`` shapes
    ``[n, 5]`` (see ``visemes``): frame ``i`` shows person ``i`` in pose ``i`` saying shape ``i``.
    """
    canvas = blank(len(mouth), size, mouth.device)
    who = _Broadcast(people)
    pose = _Broadcast(motion)
    shape = {name: mouth[:, i, None, None] for i, name in enumerate(visemes.NAMES)}
    head = _head(canvas, pose)
    _background(canvas, who)
    _hair_behind(head, who)
    _body(canvas, head, who, pose)
    _ears(head, who, pose)
    skull = _part(head, pose, 0, 0, who.face_width + 0.03, who.face_height + 0.06)
    _skull(skull, who, shape)
    _nose(_part(head, pose, 0.125 * pose.yaw, 0.11 + 0.07 * pose.pitch, 0.09, 0.08), who)
    for side in (-1, 1):
        _eye(head, who, pose, side)
    _mouth(_part(head, pose, 0.095 * pose.yaw, 0.30 + 0.055 * pose.pitch, 0.34, 0.2), who, shape)
    scalp = _part(head, pose, 0, -0.25, who.face_width + 0.15, 0.5)
    _hair_in_front(scalp, who)
    if bool(people.glasses.any()):
        _glasses(head, who, pose)
    return canvas.image.clamp_(0, 1)


class _Broadcast:
    """Reads per-image numbers as ``[n, 1, 1]`` and colours as ``[n, 3]``."""

    def __init__(self, values: Identity | Motion) -> None:
        self._values = values

    def __getattr__(self, name: str) -> Tensor:
        value: Tensor = getattr(self._values, name)
        return value if value.ndim == 2 else value[:, None, None]


def _head(canvas: Canvas, pose: _Broadcast) -> _Head:
    from_x = canvas.x - pose.x
    from_y = canvas.y - (pose.y - 0.1) - _NECK_PIVOT
    cos, sin = torch.cos(pose.roll), torch.sin(pose.roll)
    x = cos * from_x + sin * from_y
    y = cos * from_y - sin * from_x + _NECK_PIVOT
    return _Head(canvas, x, y, pose.yaw, pose.pitch)


def head_point(
    pose: "Motion | _Broadcast", x: Tensor | float, y: Tensor | float
) -> tuple[Tensor, Tensor]:
    """Return where a point of the head is on the canvas, in head units; see ``_head``."""
    cos, sin = torch.cos(pose.roll), torch.sin(pose.roll)
    y = y - _NECK_PIVOT
    return cos * x - sin * y + pose.x, sin * x + cos * y + pose.y - 0.1 + _NECK_PIVOT


def _part(
    head: _Head,
    pose: _Broadcast,
    centre_x: Tensor | float,
    centre_y: Tensor | float,
    half_width: Tensor | float,
    half_height: Tensor | float,
) -> _Head:
    """Return the head on the part of the canvas that holds this rectangle of it in every image."""
    xs, ys = [], []
    for across, down in ((-1, -1), (-1, 1), (1, -1), (1, 1)):
        x, y = head_point(pose, centre_x + across * half_width, centre_y + down * half_height)
        xs.append(x)
        ys.append(y)
    rows, columns = enclose(head.canvas, torch.stack(xs), torch.stack(ys))
    canvas = head.canvas.crop(rows, columns)
    return _Head(canvas, head.x[:, rows, columns], head.y[:, rows, columns], pose.yaw, pose.pitch)


def _tone(colour: tuple[float, float, float], like: Tensor) -> Tensor:
    return torch.tensor(colour, device=like.device)


def _shade(skin: Tensor) -> Tensor:
    return skin * _tone((0.88, 0.80, 0.78), skin)


def _background(canvas: Canvas, who: _Broadcast) -> None:
    height = (canvas.y + 1) / 2
    colour = who.background[:, :, None, None] * (1.06 - 0.14 * height)[:, None]
    canvas.image.copy_(colour.clamp(0, 1).expand_as(canvas.image))
    halo = canvas.cover(ellipse(canvas.x, canvas.y + 0.05, 0.86, 0.86))
    light = (who.background + 0.12).clamp(0, 1)
    canvas.paint(halo * 0.35 * torch.ones_like(who.jaw), light)


def _hair_behind(head: _Head, who: _Broadcast) -> None:
    canvas, style = head.canvas, who.hair_style
    x, y = head.at_depth(-0.03)
    grown = who.hair_volume * torch.where(style == hair_styles.AFRO, 2.2, 1.0)
    cap = ellipse(
        x,
        y + 0.02 + 0.5 * (grown - who.hair_volume),
        who.face_width + 0.05 + grown,
        who.face_height + 0.02 + grown,
    )
    length = torch.where(style == hair_styles.LONG, 0.95, 0.42)
    curtain = rounded_box(
        x,
        y - length / 2 + 0.02,
        who.face_width + 0.03 + 0.8 * who.hair_volume,
        length / 2 + 0.02,
        0.12,
    )
    bun = ellipse(x, y + who.face_height + who.hair_volume + 0.06, 0.17 + 0 * x, 0.14)
    falls = (style == hair_styles.BOB) | (style == hair_styles.LONG)
    shape = torch.where(falls, torch.minimum(cap, curtain), cap)
    shape = torch.where(style == hair_styles.BUN, torch.minimum(shape, bun), shape)
    canvas.paint(canvas.cover(shape) * (style != hair_styles.BALD), who.hair * 0.82)


def _body(canvas: Canvas, head: _Head, who: _Broadcast, pose: _Broadcast) -> None:
    low = slice(canvas.image.shape[-2] * 5 // 8, None)
    head = _Head(canvas, head.x[:, low], head.y[:, low], head.yaw, head.pitch)
    canvas = canvas.crop(low, slice(None))
    x, y = canvas.x - 0.4 * pose.x, canvas.y
    canvas.paint(canvas.cover(ellipse(x, y - 1.12, 0.74, 0.52)), who.shirt)
    neck = torch.maximum(head.x.abs() - 0.155, torch.maximum(0.2 - head.y, y - 0.68))
    canvas.paint(canvas.cover(ellipse(x, y - 0.68, 0.2, 0.17)), _shade(who.skin))
    canvas.paint(canvas.cover(neck), _shade(who.skin))
    ring = torch.maximum(ellipse(x, y - 0.66, 0.27, 0.24), -ellipse(x, y - 0.64, 0.2, 0.19))
    canvas.paint(canvas.cover(ring) * (y > 0.66) * who.collar, who.shirt * 0.75 + 0.25)


def _ears(head: _Head, who: _Broadcast, pose: _Broadcast) -> None:
    hoop_colour = _tone(_GOLD, who.skin)
    for side in (-1, 1):
        centre = side * (who.face_width - 0.01) - 0.05 * pose.yaw
        part = _part(head, pose, centre, 0.08 + 0.02 * pose.pitch, 0.12, 0.2)
        canvas = part.canvas
        x, y = part.at_depth(-0.05, 0.02)
        from_ear = x - side * (who.face_width - 0.01)
        outer = ellipse(from_ear, y - 0.04, 0.75 * who.ear, who.ear)
        inner = ellipse(from_ear, y - 0.04, 0.4 * who.ear, 0.6 * who.ear)
        canvas.paint(canvas.cover(outer), who.skin)
        canvas.paint(canvas.cover(inner), _shade(who.skin))
        drop = ellipse(from_ear - side * 0.01, y - 0.06 - 1.15 * who.ear, 0.026, 0.034)
        canvas.paint(canvas.cover(drop) * who.earrings, hoop_colour)


def _skull(head: _Head, who: _Broadcast, shape: dict[str, Tensor]) -> None:
    canvas, x, y = head.canvas, head.x, head.y
    taper = 1 - who.jaw * (y / who.face_height).clamp(-0.2, 1.1)
    dropped = torch.where(y > 0, y / (1 + 0.035 * shape["open"] / who.face_height), y)
    inside = canvas.cover(ellipse(x / taper, dropped, who.face_width, who.face_height))
    canvas.paint(inside, who.skin)
    side_light = ((x - 0.1 * head.yaw) * 0.9 + 0.05).clamp(0, 0.5) * 0.35
    canvas.paint(inside * side_light, _shade(who.skin))
    front_x, front_y = head.at_depth(0.085, 0.05)
    beard = canvas.cover(0.17 + 0.25 * (front_x / who.face_width) ** 2 - front_y, 3)
    canvas.paint(inside * beard * who.beard * 0.9, who.hair * 0.9)
    for side in (-1, 1):
        spot = ((front_x - side * 0.26) / 0.09) ** 2 + ((front_y - 0.17) / 0.06) ** 2
        canvas.paint(inside * torch.exp(-spot) * who.blush, _tone(_BLUSH, who.skin))


def _nose(head: _Head, who: _Broadcast) -> None:
    canvas = head.canvas
    x, y = head.at_depth(0.125, 0.07)
    shadow = ellipse(x, y - 0.115, 1.15 * who.nose, 0.75 * who.nose)
    tip = ellipse(x + 0.004, y - 0.1, who.nose, 0.72 * who.nose)
    canvas.paint(canvas.cover(shadow), _shade(who.skin))
    canvas.paint(canvas.cover(tip), who.skin * 0.97 + 0.03 * _shade(who.skin))


def _eye(head: _Head, who: _Broadcast, pose: _Broadcast, side: int) -> None:
    centre = side * who.eye_distance + 0.085 * pose.yaw
    reach = 1.3 * who.eye_size
    part = _part(head, pose, centre, 0.05 * pose.pitch - 0.1, reach + 0.03, 0.27)
    canvas = part.canvas
    front_x, front_y = part.at_depth(0.085, 0.05)
    size, blink, dark = who.eye_size, pose.blink, _tone(_DARK, who.skin)
    narrowing = 1 - 0.18 * side * part.yaw.clamp(-1, 1)
    x = (front_x - side * who.eye_distance * (1 - 0.06 * side * part.yaw)) / narrowing
    y = front_y + 0.02
    height = size * (1.12 * (1 - blink) + 0.04)
    outline = ellipse(x, y - 0.35 * blink * size, size, height)
    white = canvas.cover(outline)
    canvas.paint(canvas.cover(outline - who.lash), _shade(who.skin) * 0.75)
    canvas.paint(white, _tone(_WHITE, who.skin))
    _iris(canvas, who, pose, (x, y, white))
    bow = (1 - (x / size).clamp(-1, 1) ** 2).sqrt()
    lid = y + height * bow - 0.35 * blink * size
    canvas.paint(canvas.cover(torch.maximum(lid.abs() - who.lash, x.abs() - 1.04 * size)), dark)
    along = front_x - side * who.eye_distance
    arc = front_y + 1.12 * size + 0.085 + 0.03 * pose.brow
    arc = arc + side * along * (who.brow_tilt + 0.05) + 1.6 * along**2
    thickness = who.brow_size * (1 - 0.35 * (along * side / 0.13).clamp(-1, 1))
    brow = torch.maximum(arc.abs() - thickness, along.abs() - 1.2 * size)
    canvas.paint(canvas.cover(brow), who.hair * 0.7 + dark * 0.15)


def _iris(
    canvas: Canvas, who: _Broadcast, pose: _Broadcast, eye: tuple[Tensor, Tensor, Tensor]
) -> None:
    x, y, white = eye
    size = who.eye_size
    x, y = x - 0.55 * pose.gaze_x * size, y - 0.5 * pose.gaze_y * size
    radius = (x**2 + y**2).add(1e-9).sqrt()
    canvas.paint(white * canvas.cover(radius - 0.7 * size), who.iris)
    canvas.paint(white * canvas.cover(radius - 0.38 * size), _tone(_DARK, who.skin) * 0.6)
    glint = ((x + 0.22 * size) ** 2 + (y + 0.26 * size) ** 2).add(1e-9).sqrt()
    canvas.paint(white * canvas.cover(glint - 0.16 * size), torch.ones_like(who.skin))


def _glasses(head: _Head, who: _Broadcast, pose: _Broadcast) -> None:
    part = _part(head, pose, 0.095 * pose.yaw, 0.05 * pose.pitch, 0.4, 0.2)
    canvas = part.canvas
    x, y = part.at_depth(0.095, 0.05)
    tone = who.glasses_tone[:, :, 0].expand(-1, 3)
    for side in (-1, 1):
        lens = ellipse(
            x - side * who.eye_distance, y + 0.02, 1.6 * who.eye_size, 1.5 * who.eye_size
        )
        canvas.paint(canvas.cover(lens.abs() - 0.013) * who.glasses, tone)
    gap = who.eye_distance - 1.6 * who.eye_size
    bridge = torch.maximum((y + 0.03).abs() - 0.011, x.abs() - gap)
    canvas.paint(canvas.cover(bridge) * who.glasses, tone)


def _mouth(head: _Head, who: _Broadcast, shape: dict[str, Tensor]) -> None:
    canvas = head.canvas
    x, y = head.at_depth(0.095, 0.055)
    y = y - 0.275
    opened, rounded = shape["open"], shape["round"]
    width = who.mouth_width * (1 + 0.28 * shape["width"] - 0.22 * rounded - 0.05 * opened)
    height = 0.012 + 0.15 * opened * (1 - 0.15 * rounded)
    along = x / width
    arch = (1 - along**2).clamp(min=0)
    bow = arch.add(1e-6).sqrt()
    smile = 0.03 * (along**2 - 0.35) * (1 - rounded) * (1 - 0.6 * opened)
    upper = -height * 0.38 * bow * (0.75 + 0.25 * arch) - smile
    lower = height * 0.72 * bow - smile
    lip = who.lip_size * (1 + 0.5 * rounded)
    rim = (1 - (x / (width + 0.9 * lip)) ** 2).clamp(min=0).add(1e-6).sqrt()
    cupid = lip * (0.85 + 0.25 * torch.cos(6 * along) * (along.abs() < 0.6))
    lips = torch.maximum(upper - cupid * rim - y, y - lower - 1.15 * lip * rim)
    lips = torch.maximum(lips, x.abs() - width - 0.9 * lip)
    moustache = ellipse(x, y + 0.055 + 0.4 * height, 1.05 * width, 0.045 + 0 * x)
    canvas.paint(canvas.cover(moustache, 2) * who.moustache * 0.95, who.hair * 0.9)
    canvas.paint(canvas.cover(lips), who.lips)
    inner = torch.maximum(torch.maximum(upper - y, y - lower), (along.abs() - 1) * width)
    inside = canvas.cover(inner) * ((height - 0.012) / 0.012).clamp(0, 1)
    canvas.paint(inside, _tone(_GORGE, who.skin))
    _tongue_and_teeth(canvas, who, shape, inside, (x, y, width, height))
    line = torch.maximum((y + smile).abs() - 0.006, x.abs() - 0.96 * width)
    shut = 1 - ((height - 0.012) / 0.02).clamp(0, 1)
    canvas.paint(canvas.cover(line) * shut, who.lips * 0.55)


def _tongue_and_teeth(
    canvas: Canvas,
    who: _Broadcast,
    shape: dict[str, Tensor],
    inside: Tensor,
    mouth: tuple[Tensor, Tensor, Tensor, Tensor],
) -> None:
    x, y, width, height = mouth
    tongue, teeth = shape["tongue"], shape["teeth"]
    lift = y - 0.72 * height + 0.015 - 0.04 * tongue
    bump = ellipse(x, lift, 0.62 * width, 0.035 + 0.05 * tongue + 0.02 * shape["open"])
    canvas.paint(inside * canvas.cover(bump) * (2.5 * tongue).clamp(0, 1), _tone(_TONGUE, who.skin))
    edge = y + 0.38 * height - 0.008 - 0.034 * teeth + 0.03 * x**2 / width
    canvas.paint(inside * canvas.cover(edge) * (3 * teeth).clamp(0, 1), _tone(_TEETH, who.skin))


def _hair_in_front(head: _Head, who: _Broadcast) -> None:
    canvas, style = head.canvas, who.hair_style
    x, y = head.at_depth(-0.015)
    over_x = head.x + 0.02 * head.yaw
    volume = who.hair_volume
    cap = ellipse(
        x, y + 0.03, who.face_width + 0.035 + 0.35 * volume, who.face_height + 0.02 + 0.7 * volume
    )
    across = over_x - who.parting
    hairline = who.fringe + 0.9 * who.fringe_curve * across**2
    fringe = torch.maximum(cap, head.y - 0.02 * head.pitch - hairline)
    swept_back = torch.maximum(cap, head.y + 0.30 - 0.35 * over_x**2)
    scalp_edge = head.y + 0.27 - 0.06 * torch.cos(9 * over_x + 6 * who.parting)
    curls = torch.maximum(cap, scalp_edge)
    sides = torch.maximum(cap, torch.maximum(0.86 * who.face_width - head.x.abs(), head.y - 0.05))
    temples = torch.maximum(cap, torch.maximum(0.9 * who.face_width - head.x.abs(), head.y + 0.06))
    shape = torch.minimum(fringe, sides)
    shape = torch.where(style == hair_styles.BUN, torch.minimum(swept_back, temples), shape)
    shape = torch.where(style == hair_styles.AFRO, torch.minimum(curls, temples), shape)
    visible = (style != hair_styles.BALD).to(cap.dtype)
    canvas.paint(canvas.cover(shape) * visible, who.hair)
    gleam = torch.maximum(shape + 0.03, ellipse(over_x + 0.12, y + 0.36, 0.22, 0.05 + 0 * x))
    gloss = (who.hair * 1.18 + 0.03).clamp(0, 1)
    canvas.paint(canvas.cover(gleam) * 0.55 * visible, gloss)
