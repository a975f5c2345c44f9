"""Motion that ten standard normal numbers per latent frame decide, and nothing else.

What a portrait and a voice do not foretell (poses, glances, blinks) is here a function of numbers
that can be hidden in the noise a denoiser starts from (`af_train.coupling`). A network that learns
by regression then has nothing left to average, and what it draws at inference follows its noise.
Motion begins at rest, as a stream begins with its portrait, and state is in the picture alone.
"""

import torch
from af_core.geometry import TEMPORAL_STRIDE
from torch import Tensor
from torch.nn import functional as F

from af_train.worlds.toon.motion import BLINK, Motion, speech_energy

DRIVES = (
    "x",
    "y",
    "roll",
    "yaw",
    "pitch",
    "brow",
    "glance",
    "gaze_x",
    "gaze_y",
    "blink",
)
"""What the numbers push or start, in order."""

_AMPLITUDES = {"x": 0.016, "y": 0.012, "roll": 0.025, "yaw": 0.1, "pitch": 0.08, "brow": 0.3}
"""Standard deviations in a long clip. Heads sway half to three quarters as far as in
``sample_motion`` and turn a quarter as far: what sways is moved, what turns is drawn anew."""
_RETURN, _SETTLE = 0.946, 0.84
"""What is left after a frame of a pose, and of a movement."""
_MOVE_AT = 1.0
"""Pushes below this move nothing, so that heads rest between movements."""
_MOVE_SCALE = 2.575
"""Makes what is above it, of a standard normal number, of unit deviation."""
_GAZE = (0.2, 0.1)
_GLANCE_AT, _GLANCE_BACK_AT = 1.52, 1.25
"""Above the first, eyes turn elsewhere (1 in 15); above the second, to the viewer (1 in 24)."""
_BLINK_AT = 1.6
"""Above this, lids close in the same latent frame: 1 in 18, so 19 blinks a minute."""


def eventful(drives: Tensor) -> Tensor:
    """Tell which rows of ``drives [..., 10]`` make somebody blink or look elsewhere."""
    glances, blinks = drives[..., DRIVES.index("glance")], drives[..., DRIVES.index("blink")]
    return (glances > _GLANCE_BACK_AT) | (blinks > _BLINK_AT)


def driven_motion(mouth_open: Tensor, drives: Tensor, liveliness: float = 1.0) -> Motion:
    """Return the motion of ``1 + 4 k`` frames from ``drives [k, 10]``, starting at rest.

    ``mouth_open [1 + 4 k]`` moves brows and nods as in ``sample_motion``; ``liveliness`` scales
    poses and glances, not the number of blinks. Row ``i`` acts on frames ``4 i + 1 .. 4 i + 4``.
    """
    numbers: dict[str, Tensor] = dict(zip(DRIVES, drives.float().T, strict=True))
    energy = speech_energy(mouth_open)
    poses = {
        name: liveliness * amplitude * _pushed(numbers[name])
        for name, amplitude in _AMPLITUDES.items()
    }
    gaze_x, gaze_y = (liveliness * track for track in _glances(numbers))
    return Motion(
        x=poses["x"],
        y=poses["y"] + 0.03 * (energy - 0.25),
        roll=poses["roll"],
        yaw=poses["yaw"],
        pitch=poses["pitch"],
        gaze_x=gaze_x.clamp(-0.8, 0.8),
        gaze_y=gaze_y.clamp(-0.5, 0.5),
        blink=_blinks(numbers["blink"]),
        brow=poses["brow"] + 0.8 * (energy - 0.3),
    )


def _pushed(numbers: Tensor) -> Tensor:
    """Return a pose under pushes, of unit deviation in the long run, ``[1 + 4 k]``.

    A push comes with the first frame of its latent, where most of the movement that it starts is
    seen: impulse response ``(p^(n+1) - q^(n+1)) / (p - q)`` with ``p`` return and ``q`` settle.
    """
    pushes = _MOVE_SCALE * numbers.sign() * (numbers.abs() - _MOVE_AT).clamp(min=0)
    n = torch.arange(160)
    response = (_RETURN ** (n + 1) - _SETTLE ** (n + 1)) / (_RETURN - _SETTLE)
    unit = (response.square().sum() / TEMPORAL_STRIDE).rsqrt()
    train = torch.zeros(len(n) + TEMPORAL_STRIDE * len(pushes))
    train[len(n) :: TEMPORAL_STRIDE] = pushes
    return unit * F.conv1d(train[None, None], response.flip(0)[None, None])[0, 0]


def _glances(numbers: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return where eyes look, ``[1 + 4 k]`` each: they stay where the last glance put them."""
    when = numbers["glance"].tolist()
    goals = torch.stack([numbers["gaze_x"], numbers["gaze_y"]], 1) * torch.tensor(_GAZE)
    gaze, now = [torch.zeros(2)], torch.zeros(2)
    for push, goal in zip(when, goals, strict=True):
        if push > _GLANCE_BACK_AT:
            now = goal if push > _GLANCE_AT else torch.zeros(2)
        gaze += [now] * TEMPORAL_STRIDE
    x, y = torch.stack(gaze).unbind(1)
    return x, y


def _blinks(pushes: Tensor) -> Tensor:
    """Return how far lids are shut, ``[1 + 4 k]``; one blink ends before the next begins."""
    blink = torch.zeros(1 + TEMPORAL_STRIDE * len(pushes) + len(BLINK))
    last = -2
    for i, push in enumerate(pushes.tolist()):
        if push > _BLINK_AT and i - last >= 2:
            first = 1 + TEMPORAL_STRIDE * i
            blink[first : first + len(BLINK)] = torch.tensor(BLINK)
            last = i
    return blink[: 1 + TEMPORAL_STRIDE * len(pushes)]
