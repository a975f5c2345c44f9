"""What is measured of one clip: whole, at its end, in pauses, and by windows of ten seconds."""

from typing import Any

import attrs
import msgspec
import torch
from af_core.geometry import VIDEO_FPS, Geometry
from af_core.plugins import BuildContext
from torch import Tensor

from af_train.benchmark.clips import BenchmarkClip
from af_train.metrics import signals
from af_train.metrics.crops import crop, squares
from af_train.metrics.options import PerceptualOptions
from af_train.metrics.perceptual import PerceptualDistance, perceptual_distance
from af_train.metrics.readers import Readers, load_readers
from af_train.metrics.stability import colour_distances
from af_train.metrics.toon_suite import Reading, read_frames, score_clip
from af_train.metrics.tracks import total_and_last
from af_train.worlds.toon.boxes import face_boxes

WINDOW_S = 10
_QUIET_S = 0.4
"""A pause counts after this long: the mouth needs some time to shut."""


class Window(msgspec.Struct, frozen=True):
    """Ten seconds of a clip."""

    start_s: int
    lip_corr: float
    csim: float
    delta_e: float
    adj_lpips: float


class Record(msgspec.Struct, frozen=True):
    """One clip, measured."""

    number: int
    spec: str
    """SHA-256 of the clip's specification."""
    duration_s: float
    sound: str
    """SHA-256 of what was heard."""
    scores: dict[str, float]
    """Numbers by name; a number that the clip cannot give is not there."""
    windows: list[Window]


@attrs.frozen
class Clock:
    """How long a clip took to make."""

    wall_s: float
    cpu_s: float
    """Processor time of all threads."""


@attrs.frozen(eq=False)
class Scorer:
    """The readers, loaded once."""

    readers: Readers
    distance: PerceptualDistance

    @classmethod
    def load(cls, size: int) -> "Scorer":
        """Load what comes with the package, for frames of this size."""
        context = BuildContext(Geometry(size, size))
        return cls(load_readers(), perceptual_distance(PerceptualOptions(), context))

    def score(
        self, made: BenchmarkClip, frames: Tensor, frames_per_block: int, clock: Clock
    ) -> Record:
        """Measure the frames uint8 ``[t, H, W, 3]`` of a clip."""
        clip, size = made.clip, frames.shape[1]
        seen = read_frames(clip, frames, self.readers)
        faces = crop(frames, squares(face_boxes(clip, size)), size)
        colours = torch.from_numpy(colour_distances(faces))
        flicker = self.distance(faces[:-1], faces[1:])
        scores: dict[str, Any] = attrs.asdict(score_clip(clip, frames, seen, frames_per_block))
        scores |= total_and_last("csim", seen.likeness.numpy())
        scores |= total_and_last("delta_e", colours[VIDEO_FPS:].numpy())
        scores |= total_and_last("adj_lpips", flicker.numpy())
        scores["av_offset_frames"] = scores.pop("lag")
        scores["realtime_factor"] = len(frames) / VIDEO_FPS / clock.wall_s
        scores["cpu_s_per_frame"] = clock.cpu_s / len(frames)
        if (quiet := pauses(made)).any():
            scores["pause_open"] = float(seen.opening[quiet].mean())
        return Record(
            made.spec.number,
            made.spec.digest(),
            len(frames) / VIDEO_FPS,
            made.sound,
            {name: float(value) for name, value in scores.items()},
            _windows(made, seen, colours, flicker),
        )


def pauses(made: BenchmarkClip) -> Tensor:
    """Return which frames lie in a pause, a while after it began: booleans ``[t]``."""
    marks = made.clip.speech.phonemes
    quiet = torch.zeros(len(made.clip), dtype=torch.bool)
    ends = [start for start, _ in marks[1:]] + [len(quiet) / VIDEO_FPS]
    for (start_s, phoneme), end_s in zip(marks, ends, strict=True):
        if not phoneme:
            quiet[round((start_s + _QUIET_S) * VIDEO_FPS) : int(end_s * VIDEO_FPS)] = True
    return quiet


def _windows(made: BenchmarkClip, seen: Reading, colours: Tensor, flicker: Tensor) -> list[Window]:
    """Return every whole window; ``colours [t]`` and ``flicker [t - 1]`` are tracks."""
    length, found = WINDOW_S * VIDEO_FPS, []
    for start in range(0, len(colours) - length + 1, length):
        part = slice(start, start + length)
        true = made.clip.mouth[part, 0]
        found.append(
            Window(
                start // VIDEO_FPS,
                signals.correlation(seen.opening[part], true),
                float(seen.likeness[part].mean()),
                float(colours[part].mean()),
                float(flicker[part].mean()),
            )
        )
    return found
