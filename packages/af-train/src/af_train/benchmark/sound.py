"""Noise that follows from a seed, and the sound an avatar hears: speech, noise, gain."""

from typing import Any

import numpy as np
from af_core.geometry import AUDIO_HZ
from numpy.typing import NDArray

from af_train.benchmark.specs import ClipSpec, NoiseKind

Samples = NDArray[np.float32]
_HUM_HZ = 50.0
_TALKERS = 5
_FLOOR = 1e-4


def heard(spec: ClipSpec, speech: Samples) -> Samples:
    """Return what the avatar hears of clean ``speech [n]``: float32 ``[n]`` in [-1, 1]."""
    sound = speech
    if spec.snr_db is not None:
        level = max(active_level(speech), _FLOOR) * 10 ** (-spec.snr_db / 20)
        rng = np.random.default_rng([spec.seed, 1])
        sound = speech + level * noise(spec.noise, len(speech), rng, speech)
    return np.clip(sound * 10 ** (spec.gain_db / 20), -1, 1).astype(np.float32)


def active_level(speech: Samples) -> float:
    """Return the root mean square of the parts that are not silent."""
    loud = speech[np.abs(speech) > _FLOOR]
    return float(np.sqrt(np.mean(loud.astype(np.float64) ** 2))) if loud.size else 0.0


def noise(
    kind: NoiseKind, length: int, rng: np.random.Generator, speech: Samples
) -> NDArray[np.float64]:
    """Return ``[length]`` of noise with a root mean square of 1, of zeros for "none".

    Babble is the speech itself from other moments, backwards, by several talkers at once.
    """
    if kind == "none":
        return np.zeros(length)
    makers: dict[str, Any] = {"white": _white, "pink": _pink, "hum": _hum, "babble": _babble}
    made = makers[kind](length, rng, speech)
    return made / max(float(np.sqrt(np.mean(made**2))), 1e-12)


def _white(length: int, rng: np.random.Generator, speech: Samples) -> NDArray[np.float64]:
    return rng.standard_normal(length)


def _pink(length: int, rng: np.random.Generator, speech: Samples) -> NDArray[np.float64]:
    """Power falls as 1/f."""
    spectrum = np.fft.rfft(rng.standard_normal(length))
    return np.fft.irfft(spectrum / np.sqrt(np.arange(1, len(spectrum) + 1)), length)


def _hum(length: int, rng: np.random.Generator, speech: Samples) -> NDArray[np.float64]:
    """Mains and its overtones, with a little hiss."""
    time_s = np.arange(length) / AUDIO_HZ
    tones = [np.sin(2 * np.pi * (_HUM_HZ * k * time_s + rng.random())) / k for k in (1, 2, 3, 5, 7)]
    return np.sum(tones, 0) + 0.05 * rng.standard_normal(length)


def _babble(length: int, rng: np.random.Generator, speech: Samples) -> NDArray[np.float64]:
    backwards = speech[::-1].astype(np.float64)
    shifts = rng.integers(AUDIO_HZ, max(length - AUDIO_HZ, AUDIO_HZ + 1), _TALKERS)
    return np.sum([np.roll(backwards, shift) for shift in shifts], 0) + _FLOOR * _white(
        length, rng, speech
    )
