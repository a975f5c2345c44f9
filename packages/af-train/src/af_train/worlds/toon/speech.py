"""Speech with phoneme times from espeak-ng (GPL-3): used to make data, never shipped or linked.

espeak-ng carries state from one utterance to the next: the same text may last some milliseconds
more or less, depending on what was said before. Phoneme times always belong to the sound they
came with, so the truth stays exact. A fresh process that says the same things in the same order
says them the same, as a rule: one clip in some was seen to differ.
"""

import ctypes
import random
from functools import cache
from typing import Any

import attrs
import numpy as np
import soxr
from af_core.errors import AvatarForcingError
from af_core.geometry import AUDIO_HZ
from numpy.typing import NDArray

from af_train.worlds.toon import sentences

_SYNCHRONOUS = 2
_PHONEME_EVENTS_IN_IPA = 0x1 | 0x2
_DONT_EXIT = 0x8000
_EVENT_LIST_END = 0
_EVENT_PHONEME = 7
_UTF8 = 1
_RATE, _PITCH, _PITCH_RANGE = 1, 3, 4

TRAIN_VOICES = tuple(
    f"{accent}+{variant}"
    for accent in ("en-us", "en-gb", "en-gb-scotland", "en-029")
    for variant in ("m1", "m2", "m3", "m5", "m6", "m7", "f1", "f2", "f3", "f5")
)
HELD_OUT_VOICES = ("en-us+m4", "en-gb+m8", "en-us+f4", "en-gb-x-rp+f4", "en-us+steph", "en-gb+m4")


class SpeechSynthesisError(AvatarForcingError):
    """espeak-ng is missing or refused to speak."""


class _Identifier(ctypes.Union):
    _fields_ = (
        ("number", ctypes.c_int),
        ("name", ctypes.c_char_p),
        ("string", ctypes.c_char * 8),
    )


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Identifier),
    )


_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)


@attrs.frozen
class Speech:
    """Mono speech at 16 kHz, float32 in [-1, 1], and the start of each phoneme in seconds.

    The empty phoneme is a pause.
    """

    samples: NDArray[np.float32]
    phonemes: tuple[tuple[float, str], ...]
    voice: str = ""
    text: str = ""


class Synthesiser:
    """A voice of espeak-ng. A process has only one engine: use all of these from one thread."""

    def __init__(self) -> None:
        self._library: Any = _load_library()
        self._pcm: list[NDArray[np.int16]] = []
        self._phonemes: list[tuple[float, str]] = []
        self._callback = _Callback(self._receive)  # kept alive: C holds a bare pointer to it

    def say(
        self, text: str, *, voice: str = "en-us", rate: int = 165, pitch: int = 50, spread: int = 50
    ) -> Speech:
        """Speak ``text`` at ``rate`` words per minute; ``pitch`` and ``spread`` are 0..99."""
        self._pcm, self._phonemes = [], []
        self._library.espeak_SetSynthCallback(self._callback)
        self._library.espeak_SetVoiceByName(voice.encode())
        for parameter, value in ((_RATE, rate), (_PITCH, pitch), (_PITCH_RANGE, spread)):
            self._library.espeak_SetParameter(parameter, value, 0)
        data = text.encode()
        self._library.espeak_Synth(data, len(data) + 1, 0, 0, 0, _UTF8, None, None)
        self._library.espeak_Synchronize()
        if not self._pcm:
            raise SpeechSynthesisError(f"espeak-ng gave no sound for {text!r} in voice {voice!r}.")
        pcm = np.concatenate(self._pcm).astype(np.float32) / 32768
        samples = soxr.resample(pcm, self.sample_rate, AUDIO_HZ).astype(np.float32)
        return Speech(samples, tuple(self._phonemes), voice, text)

    @property
    def sample_rate(self) -> int:
        """The rate at which espeak-ng speaks, in Hz."""
        return int(self._library.sample_rate)

    def _receive(self, wave: Any, num_samples: int, events: Any) -> int:
        if num_samples > 0 and wave:
            self._pcm.append(np.ctypeslib.as_array(wave, (num_samples,)).copy())
        index = 0
        while events[index].type != _EVENT_LIST_END:
            event = events[index]
            if event.type == _EVENT_PHONEME:
                raw = ctypes.string_at(ctypes.addressof(event.id), 8).split(b"\0")[0]
                self._phonemes.append((event.audio_position / 1000, raw.decode("utf8", "replace")))
            index += 1
        return 0


@cache
def _load_library() -> Any:
    """Return espeak-ng, started once: started again in one process, it may crash."""
    try:
        import espeakng_loader
    except ImportError as error:
        raise SpeechSynthesisError(
            "The toon world speaks with espeak-ng, which is not installed. "
            "Install it with: pip install 'af-train[toon]'"
        ) from error
    library: Any = ctypes.CDLL(espeakng_loader.get_library_path())
    library.sample_rate = library.espeak_Initialize(
        _SYNCHRONOUS,
        0,
        str(espeakng_loader.get_data_path()).encode(),
        _PHONEME_EVENTS_IN_IPA | _DONT_EXIT,
    )
    if library.sample_rate <= 0:
        raise SpeechSynthesisError("espeak-ng did not start: its voice data could not be read.")
    return library


@attrs.frozen
class Style:
    """How somebody speaks."""

    voice: str
    rate: int
    """Words a minute."""
    pitch: int
    """0 to 99, as ``spread``, its range."""
    spread: int
    longest_pause_s: float = 0.8
    """Between sentences; short ones are more frequent."""


def random_speech(
    synthesiser: Synthesiser,
    rng: random.Random,
    duration_s: float,
    voices: tuple[str, ...] = TRAIN_VOICES,
) -> Speech:
    """Return exactly ``duration_s`` of random sentences with pauses, in one random voice."""
    style = Style(
        rng.choice(voices), rng.randint(125, 210), rng.randint(20, 80), rng.randint(25, 75)
    )
    return speech_in_style(synthesiser, rng, duration_s, style)


def speech_in_style(
    synthesiser: Synthesiser, rng: random.Random, duration_s: float, style: Style
) -> Speech:
    """Return exactly ``duration_s`` of random sentences with pauses."""
    pieces = [np.zeros(int(rng.random() * 0.5 * AUDIO_HZ), np.float32)]
    phonemes: list[tuple[float, str]] = [(0.0, "")]
    texts = []
    position = len(pieces[0])
    while position < (duration_s + 0.5) * AUDIO_HZ:
        texts.append(sentences.random_text(rng))
        said = synthesiser.say(
            texts[-1], voice=style.voice, rate=style.rate, pitch=style.pitch, spread=style.spread
        )
        start_s = position / AUDIO_HZ
        phonemes += [(start_s + time_s, phoneme) for time_s, phoneme in said.phonemes]
        phonemes.append((start_s + len(said.samples) / AUDIO_HZ, ""))
        length_s = rng.random() ** 2 * style.longest_pause_s
        pause = np.zeros(int(length_s * AUDIO_HZ), np.float32)
        pieces += [said.samples, pause]
        position += len(said.samples) + len(pause)
    samples = np.concatenate(pieces)[: round(duration_s * AUDIO_HZ)]
    return Speech(samples, tuple(phonemes), style.voice, " ".join(texts))
