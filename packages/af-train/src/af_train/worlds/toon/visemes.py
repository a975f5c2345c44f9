"""From phonemes to mouth shapes: targets, dominance and coarticulation.

A mouth shape has five numbers: ``open`` (0..1), ``width`` (-1 pursed .. 1 spread), ``round``
(0..1), ``teeth`` (0..1 visible) and ``tongue`` (0..1 visible). A track follows Cohen and Massaro
(1993): each phoneme pulls towards its target with a weight that fades before and after it.
"""

from collections.abc import Sequence

import numpy as np
from af_core.geometry import VIDEO_FPS
from numpy.typing import NDArray

NAMES = ("open", "width", "round", "teeth", "tongue")
REST = (0.0, 0.05, 0.0, 0.0, 0.0)

_TARGETS: dict[str, tuple[float, float, float, float, float]] = {
    "p b m": (0.0, -0.05, 0.05, 0.0, 0.0),
    "f v": (0.12, 0.05, 0.0, 1.0, 0.0),
    "θ ð": (0.22, 0.1, 0.0, 0.8, 1.0),
    "t d n ɾ s z ʔ": (0.2, 0.25, 0.0, 0.95, 0.3),
    "l ɫ əl": (0.35, 0.15, 0.0, 0.5, 1.0),
    "k ɡ ŋ h x": (0.35, 0.1, 0.0, 0.3, 0.2),
    "ʃ ʒ tʃ dʒ": (0.28, -0.3, 0.6, 0.9, 0.0),
    "ɹ r": (0.28, -0.35, 0.55, 0.3, 0.2),
    "w ʍ": (0.15, -0.8, 1.0, 0.0, 0.0),
    "j": (0.25, 0.5, 0.0, 0.6, 0.2),
    "i iː iə": (0.32, 0.9, 0.0, 0.8, 0.2),
    "ɪ ᵻ": (0.38, 0.5, 0.0, 0.6, 0.2),
    "e eɪ ɛ ɛɹ eə": (0.58, 0.45, 0.0, 0.5, 0.3),
    "æ a": (0.85, 0.35, 0.0, 0.4, 0.4),
    "ɑː ɑ ɑːɹ aɪ aʊ aɪɚ ɐ aː": (1.0, 0.0, 0.0, 0.3, 0.45),
    "ʌ ə ɚ ɜː ɜ": (0.5, -0.05, 0.1, 0.3, 0.25),
    "ɔː ɔ ɔːɹ ɒ oːɹ ɔɪ": (0.8, -0.5, 0.75, 0.1, 0.2),
    "oʊ o əʊ oː": (0.6, -0.65, 0.9, 0.0, 0.1),
    "uː u ʊ ʊɹ": (0.28, -0.85, 1.0, 0.0, 0.0),
}
TARGETS = {name: target for names, target in _TARGETS.items() for name in names.split()}
_GLIDES = {
    "aɪ": "ɪ",
    "eɪ": "iː",
    "ɔɪ": "ɪ",
    "aʊ": "ʊ",
    "oʊ": "uː",
    "əʊ": "uː",
    "aɪɚ": "ɚ",
    "iə": "ə",
}
_GLIDE_STARTS = 0.55
_LIP_CLOSURES = frozenset("pbmfvw")
_CLOSURE_DOMINANCE, _PAUSE_DOMINANCE = 3.0, 0.6
# Standard deviation in seconds of the influence of past and future sounds, per shape number.
_REACH_S = ((0.035, 0.045), (0.06, 0.09), (0.06, 0.10), (0.035, 0.04), (0.04, 0.045))
_OVERSAMPLING = 8
_KERNEL_RADIUS = 40


def target(phoneme: str) -> tuple[float, float, float, float, float]:
    """Return the mouth shape that ``phoneme`` (IPA) aims at; an unknown sound is a schwa."""
    if phoneme in ("", "_"):
        return REST
    for length in (len(phoneme), 2, 1):
        if phoneme[:length] in TARGETS:
            return TARGETS[phoneme[:length]]
    return TARGETS["ə"]


def mouth_track(phonemes: Sequence[tuple[float, str]], num_frames: int) -> NDArray[np.float32]:
    """Return mouth shapes ``[num_frames, 5]`` at 25 fps for phonemes and their start times."""
    rate = VIDEO_FPS * _OVERSAMPLING
    length = num_frames * _OVERSAMPLING
    shape = np.tile(np.array(REST, np.float32), (length, 1))
    dominance = np.full(length, _PAUSE_DOMINANCE, np.float32)
    ends = [start for start, _ in phonemes[1:]] + [num_frames / VIDEO_FPS]
    for (start_s, phoneme), end_s in zip(phonemes, ends, strict=True):
        start, end = int(start_s * rate), int(end_s * rate)
        if start >= length:
            break
        shape[start:end] = target(phoneme)
        if phoneme:
            dominance[start:end] = _CLOSURE_DOMINANCE if phoneme in _LIP_CLOSURES else 1.0
        if phoneme in _GLIDES:
            middle = start + int((end - start) * _GLIDE_STARTS)
            shape[middle:end] = target(_GLIDES[phoneme])
    smooth = np.stack(
        [
            _blend(shape[:, i], dominance, past, future, rate)
            for i, (past, future) in enumerate(_REACH_S)
        ],
        1,
    )
    return smooth.reshape(num_frames, _OVERSAMPLING, len(NAMES)).mean(1)


def _blend(
    values: NDArray[np.float32],
    dominance: NDArray[np.float32],
    past_s: float,
    future_s: float,
    rate: int,
) -> NDArray[np.float32]:
    offset_s = np.arange(-_KERNEL_RADIUS, _KERNEL_RADIUS + 1) / rate
    reach = np.where(offset_s > 0, future_s, past_s)
    kernel = np.exp(-0.5 * (offset_s / reach) ** 2).astype(np.float32)[::-1]
    pad = (_KERNEL_RADIUS, _KERNEL_RADIUS)
    weighted = np.convolve(np.pad(values * dominance, pad, mode="edge"), kernel, "valid")
    weight = np.convolve(np.pad(dominance, pad, mode="edge"), kernel, "valid")
    return (weighted / weight).astype(np.float32)
