"""Head pose, gaze, blinks and brows over time: smooth noise, and beats that follow the speech."""

import attrs
import torch
from torch import Tensor
from torch.nn import functional as F

BLINK = (0.35, 0.9, 1.0, 0.7, 0.3)
"""How far lids are shut in the frames of a blink."""


@attrs.frozen
class Motion:
    """Tracks of one value per frame, each a float tensor ``[t]``.

    ``x y`` head position, ``roll`` radians, ``yaw pitch`` about -1..1, ``gaze_x gaze_y`` -1..1,
    ``blink`` 0 open .. 1 shut, ``brow`` about -1..1.
    """

    x: Tensor
    y: Tensor
    roll: Tensor
    yaw: Tensor
    pitch: Tensor
    gaze_x: Tensor
    gaze_y: Tensor
    blink: Tensor
    brow: Tensor

    def __getitem__(self, frames: slice) -> "Motion":
        return Motion(*(track[frames] for track in self.tracks()))

    def tracks(self) -> tuple[Tensor, ...]:
        """Return the tracks in the order of the fields."""
        return tuple(getattr(self, field.name) for field in attrs.fields(Motion))


def still(num_frames: int) -> Motion:
    """Return the neutral pose of a portrait: frontal, eyes open, looking at the viewer."""
    return Motion(*(torch.zeros(num_frames) for _ in attrs.fields(Motion)))


def sample_motion(mouth_open: Tensor, rng: torch.Generator, liveliness: float = 1.0) -> Motion:
    """Return natural motion for a mouth track ``[t]``; brows and nods follow its energy.

    ``liveliness`` scales what nobody could tell from the sound: poses, glances, and how often
    lids blink. What follows the speech stays as it is.
    """
    length = len(mouth_open)
    energy = speech_energy(mouth_open)

    def drift(sigma: int, amplitude: float) -> Tensor:
        return _smooth_noise(length, sigma, amplitude * liveliness, rng)

    x, y, roll, yaw = drift(22, 0.022), drift(20, 0.016), drift(24, 0.045), drift(20, 0.45)
    gaze = _saccades(length, rng) * liveliness
    return Motion(
        x=x,
        y=y + 0.03 * (energy - 0.25),
        roll=roll,
        yaw=yaw,
        pitch=drift(20, 0.3),
        gaze_x=gaze[:, 0].clamp(-0.8, 0.8),
        gaze_y=gaze[:, 1].clamp(-0.5, 0.5),
        blink=_blinks(length, rng, liveliness),
        brow=drift(14, 0.35) + 0.8 * (energy - 0.3),
    )


def speech_energy(mouth_open: Tensor) -> Tensor:
    """Return the mean opening over nine frames about each, ``[t]``."""
    padded = F.pad(mouth_open[None, None], (4, 4), mode="replicate")
    return F.avg_pool1d(padded, 9, 1)[0, 0]


def _smooth_noise(length: int, sigma: int, amplitude: float, rng: torch.Generator) -> Tensor:
    taps = torch.exp(-0.5 * (torch.arange(-3 * sigma, 3 * sigma + 1) / sigma) ** 2)
    taps = taps / taps.square().sum().sqrt()
    noise = torch.randn(1, 1, length + 6 * sigma, generator=rng)
    return F.conv1d(noise, taps[None, None])[0, 0, :length] * amplitude


def _saccades(length: int, rng: torch.Generator) -> Tensor:
    gaze, frame, target = torch.zeros(length, 2), 0, torch.zeros(2)
    while frame < length:
        hold = int(torch.randint(15, 60, (1,), generator=rng))
        gaze[frame : frame + hold] = target
        away = torch.randn(2, generator=rng) * torch.tensor([0.35, 0.18])
        target = away * float(torch.rand(1, generator=rng) < 0.6)
        frame += hold
    return gaze


def _blinks(length: int, rng: torch.Generator, liveliness: float) -> Tensor:
    blink = torch.zeros(length + len(BLINK))
    frame = int(torch.randint(5, 60, (1,), generator=rng))
    while frame < length:
        if torch.rand((), generator=rng) < liveliness:
            blink[frame : frame + len(BLINK)] = torch.tensor(BLINK)
        frame += int(torch.randint(35, 110, (1,), generator=rng))
    return blink[:length]
