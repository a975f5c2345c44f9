"""The clips of a benchmark: made from their specifications at first use, then kept as files.

A clip is a folder with ``sound.wav`` (what the avatar hears, 16 kHz, 16 bits), ``portrait.png`` and
``said.json`` (the text, and the time of each phoneme). Mouths, motion and true frames follow from
these and the seeds. Sound is kept because espeak-ng may say the same text some milliseconds longer,
depending on what it said before: all who use one directory hear the same.
"""

import hashlib
import random
import shutil
import tempfile
import wave
from pathlib import Path

import attrs
import msgspec
import numpy as np
import torch
from af_core.geometry import AUDIO_HZ, VIDEO_FPS
from PIL import Image

from af_train.benchmark.sound import Samples, heard
from af_train.benchmark.specs import BenchmarkError, ClipSpec
from af_train.worlds.toon import Clip, Speech, Synthesiser, visemes
from af_train.worlds.toon.identity import sample_identity
from af_train.worlds.toon.motion import sample_motion
from af_train.worlds.toon.speech import Style, speech_in_style

_PAUSE_S = {"short": 0.2, "natural": 0.8, "long": 3.0}
_FULL = 32767


@attrs.frozen(eq=False)
class BenchmarkClip:
    """A clip with its truth, and what the avatar hears."""

    spec: ClipSpec
    clip: Clip
    """``clip.speech.samples`` is what is heard, noise and all."""
    sound: str
    """SHA-256 of the 16-bit samples: two results compare if these agree."""

    def first(self, seconds: int | None) -> "BenchmarkClip":
        """Return the beginning of the clip; all of it without a limit."""
        if seconds is None or seconds >= self.spec.duration_s:
            return self
        speech = self.clip.speech
        cut = attrs.evolve(speech, samples=speech.samples[: seconds * AUDIO_HZ])
        frames = slice(0, seconds * VIDEO_FPS)
        clip = Clip(self.clip.identity, cut, self.clip.mouth[frames], self.clip.motion[frames])
        return attrs.evolve(self, clip=clip)


class _Said(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    text: str
    voice: str
    phonemes: tuple[tuple[float, str], ...]


@attrs.frozen
class ClipFolder:
    """Where clips lie; any number of processes may use it at once."""

    directory: Path

    def path(self, spec: ClipSpec) -> Path:
        """Return the folder of a clip."""
        return self.directory / f"{spec.number:04d}"

    def get(self, spec: ClipSpec) -> BenchmarkClip:
        """Return a clip, made now unless it lies here."""
        path = self.path(spec)
        if not path.exists():
            self._make(spec, path)
        try:
            said = msgspec.json.decode((path / "said.json").read_bytes(), type=_Said)
            pcm = _read_wav(path / "sound.wav")
        except (OSError, EOFError, wave.Error, msgspec.MsgspecError) as error:
            raise BenchmarkError(
                f"Clip {spec.number} cannot be read ({error}). Remove {path}; it is made again."
            ) from error
        if len(pcm) != spec.duration_s * AUDIO_HZ or said.voice != spec.voice:
            raise BenchmarkError(
                f"{path} is a clip of another benchmark: {len(pcm) / AUDIO_HZ:g} s by "
                f"{said.voice}, not {spec.duration_s} s by {spec.voice}. Take an empty directory."
            )
        samples = (pcm / _FULL).astype(np.float32)
        speech = Speech(samples, said.phonemes, said.voice, said.text)
        return BenchmarkClip(spec, _clip(spec, speech), hashlib.sha256(pcm.tobytes()).hexdigest())

    def _make(self, spec: ClipSpec, path: Path) -> None:
        """Make a clip beside its place, then put it there as a whole; the second gives way."""
        style = Style(spec.voice, spec.rate, spec.pitch, spec.spread, _PAUSE_S[spec.pauses])
        rng = random.Random(f"speech {spec.seed}")
        speech = speech_in_style(Synthesiser(), rng, spec.duration_s, style)
        portrait = _clip(spec, speech).portrait().permute(1, 2, 0).numpy()
        self.directory.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix="partial-", dir=self.directory))
        partial.chmod(0o755)
        _write_wav(partial / "sound.wav", heard(spec, speech.samples))
        Image.fromarray(portrait).save(partial / "portrait.png")
        said = _Said(speech.text, speech.voice, speech.phonemes)
        (partial / "said.json").write_bytes(msgspec.json.encode(said))
        try:
            partial.rename(path)
        except OSError:
            shutil.rmtree(partial)
            if not path.exists():
                raise


def _clip(spec: ClipSpec, speech: Speech) -> Clip:
    frames = spec.duration_s * VIDEO_FPS
    mouth = torch.from_numpy(visemes.mouth_track(speech.phonemes, frames))
    motion = sample_motion(mouth[:, 0], torch.Generator().manual_seed(spec.seed))
    return Clip(sample_identity(random.Random(f"identity {spec.identity}")), speech, mouth, motion)


def _write_wav(path: Path, samples: Samples) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(AUDIO_HZ)
        file.writeframes(np.round(samples * _FULL).astype("<i2").tobytes())


def _read_wav(path: Path) -> np.ndarray:
    with wave.open(str(path), "rb") as file:
        if (file.getnchannels(), file.getsampwidth(), file.getframerate()) != (1, 2, AUDIO_HZ):
            raise wave.Error(f"{path} is not mono with 16 bits at {AUDIO_HZ} Hz")
        return np.frombuffer(file.readframes(file.getnframes()), "<i2")
