"""Replays a recording: the same avatar, portrait, seed and speech, and a check of every picture.

What the avatar heard, block by block, is fed to it again, each stage timed; each picture's digest
is compared with the recorded one. The video is what the client was sent: repeated where the worker
was late, without what an interruption discarded.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
from af_audio import AudioInfo
from af_core.geometry import AUDIO_HZ, SAMPLES_PER_FRAME
from af_core.pipeline import Avatar, AvatarState, load
from numpy.typing import NDArray

from af_runtime.errors import RecordingError
from af_runtime.messages.from_server import Media
from af_runtime.outputs import checked_output
from af_runtime.recording.origin import differences, origin_of, settle_kernels
from af_runtime.recording.records import (
    DIGEST_BYTES,
    Drawn,
    End,
    Entry,
    Fed,
    Forgot,
    Head,
    Recording,
    Sent,
    digest,
)
from af_runtime.sink import Sink
from af_runtime.stage_times import StageTimes

Picture = NDArray[np.uint8]


@attrs.frozen
class Replay:
    """What a replay found."""

    recording: Path
    output: Path | None
    session: str
    reason: str
    """How the session ended; empty if the recording ends before it."""
    num_blocks: int
    num_drawn: int
    """Pictures that were drawn and compared."""
    num_sent: int
    """Frames that the client was sent."""
    first_difference: int | None
    """Number of the first picture that is not the recorded one; None if all are, bit for bit."""
    num_lost_bytes: int
    """Bytes at the end of the file that are no whole record."""
    machine: tuple[str, ...]
    """What of this machine is not as recorded, and may change the rounding."""
    stage_ms: Mapping[str, Mapping[str, float]]
    """p50, p95, p99 and max of each stage's milliseconds a block, here; ``avatar`` is all."""
    recorded_ms: Mapping[str, Mapping[str, float]]
    """The same as it was recorded."""

    @property
    def is_exact(self) -> bool:
        """Whether every picture is the recorded one, bit for bit."""
        return self.first_difference is None


def opened_as_recorded(
    head: Head, pipeline: str | None = None, overrides: Mapping[str, Any] | None = None
) -> tuple[Avatar, tuple[str, ...]]:
    """Load the avatar of a recording; return it, and what differs of the machine.

    ``pipeline`` and ``overrides`` replace what the worker was told. Raises `RecordingError` with
    every field that differs if weights or options are not those of the recording.
    """
    name = head.pipeline if pipeline is None else pipeline
    changes = dict(head.overrides if overrides is None else overrides)
    avatar = load(name, changes)
    settle_kernels(avatar, head.machine.get("attention", ""))
    here = origin_of(name, changes, avatar)
    if found := differences(head.config, here.config):
        raise RecordingError(
            f"This recording was made with other weights or options than {name!r} has here, "
            f"fields that differ: {len(found)}\n"
            + "\n".join(f"    {line}" for line in found)
            + "\n    try       the pipeline it was made with, as --pipeline, and its --set"
        )
    return avatar, tuple(differences(head.machine, here.machine))


def replay(
    path: Path,
    output: Path | None = None,
    *,
    avatar: Avatar | None = None,
    pipeline: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    on_block: Callable[[int], None] = lambda block: None,
) -> Replay:
    """Replay a recording, into ``output`` if one is given.

    ``avatar`` is one that was opened by `opened_as_recorded` before.
    """
    recording = Recording(path)
    out = None if output is None else checked_output(output, (".mp4", ".m4v"), (path,))
    machine: tuple[str, ...] = ()
    if avatar is None:
        avatar, machine = opened_as_recorded(recording.head, pipeline, overrides)
    run = ReplayRun(avatar, recording, on_block)
    if out is None:
        for _ in run.frames():
            pass
    else:
        info = AudioInfo(path.name, "raw", "f32le", AUDIO_HZ, 1, None)
        with Sink(out, info, avatar.info.width, avatar.info.height) as sink:
            for picture, sound in run.frames():
                sink.add_audio(sound[None])
                sink.add_frames(picture[None])
            if run.num_sent:
                sink.finish()
    return Replay(
        recording=path,
        output=out if run.num_sent else None,
        session=recording.head.session,
        reason=run.reason,
        num_blocks=run.num_blocks,
        num_drawn=run.num_checked,
        num_sent=run.num_sent,
        first_difference=run.first_difference,
        num_lost_bytes=recording.num_lost_bytes,
        machine=machine,
        stage_ms=_spreads(run.here_s),
        recorded_ms=_spreads(run.recorded_s),
    )


class ReplayRun:
    """One pass through a recording."""

    def __init__(
        self, avatar: Avatar, recording: Recording, on_block: Callable[[int], None]
    ) -> None:
        self._times = StageTimes(avatar)
        self._recording, self._on_block = recording, on_block
        self._state: AvatarState | None = None
        self._pictures: dict[int, Picture] = {}
        self._sounds: list[NDArray[np.float32]] = []
        self._num_drawn = self._num_heard = 0
        self._shown: Picture | None = None
        self.reason = ""
        self.num_blocks = self.num_checked = self.num_sent = 0
        self.first_difference: int | None = None
        self.here_s: dict[str, list[float]] = {}
        self.recorded_s: dict[str, list[float]] = {}

    def frames(self) -> Iterator[tuple[Picture, NDArray[np.float32]]]:
        """Yield what the client was sent: pictures [H, W, 3] with their sound [640]."""
        head = self._recording.head
        portrait = torch.tensor(self._recording.portrait)
        self._state = self._times.avatar.open(portrait, seed=head.seed)
        for entry in self._recording:
            shown = self._take(entry)
            if shown is not None:
                self.num_sent += 1
                yield shown

    def _take(self, entry: Entry) -> tuple[Picture, NDArray[np.float32]] | None:
        record, arrays = entry
        match record:
            case Fed():
                self._draw(arrays.get("pcm", np.zeros(0, np.float32)), record.is_last)
            case Drawn():
                self._compare(record)
            case Forgot():
                self._forget(record.num_owed)
            case Sent(message=Media() as media, frame=frame):
                return self._sent(media, frame)
            case End():
                self.reason = record.reason
        return None

    def _draw(self, samples: NDArray[np.float32], is_last: bool) -> None:
        """Let the avatar hear a block, as the worker did."""
        began = time.perf_counter()
        assert self._state is not None
        avatar = self._times.avatar
        frames, state = avatar.step(self._state, torch.tensor(samples))
        if is_last:
            owed, state = avatar.flush(state)
            frames = torch.cat([frames, owed], dim=1)
        self._state = state
        pictures = frames[0].cpu().numpy()
        _append(self.here_s, "avatar", time.perf_counter() - began)
        for name, span in self._times.taken().items():
            _append(self.here_s, name, span.seconds)
        self._pictures |= {self._num_drawn + i: one for i, one in enumerate(pictures)}
        self._num_drawn += len(pictures)
        self._sounds += _frames_of(samples)
        self.num_blocks += 1
        self._on_block(self.num_blocks)

    def _forget(self, num_owed: int) -> None:
        """Let the avatar forget speech whose pictures have not come out, as the worker did."""
        assert self._state is not None
        self._state = self._times.avatar.interrupt(self._state)
        del self._sounds[max(0, self._num_drawn + num_owed - self._num_heard) :]

    def _compare(self, record: Drawn) -> None:
        """Compare the pictures of a block with what was recorded of them."""
        _append(self.recorded_s, "avatar", record.seconds)
        for name, seconds in record.stages.items():
            _append(self.recorded_s, name, seconds)
        if len(record.digests) != record.num_frames * DIGEST_BYTES:
            raise RecordingError(f"{self._recording.path} has a digest too few or too many.")
        for i in range(record.num_frames):
            number = self.num_checked
            want = record.digests[i * DIGEST_BYTES : (i + 1) * DIGEST_BYTES]
            made = self._pictures.get(number)
            if self.first_difference is None and (made is None or digest(made) != want):
                self.first_difference = number
            self.num_checked += 1

    def _sent(self, media: Media, frame: int) -> tuple[Picture, NDArray[np.float32]]:
        """Return what the client saw and heard in one frame."""
        silence = np.zeros(SAMPLES_PER_FRAME, np.float32)
        if media.kind != "repeat":
            if frame not in self._pictures:
                raise RecordingError(
                    f"{self._recording.path} shows picture {frame}, and only {self._num_drawn} "
                    "were drawn again: this is not the avatar that was recorded."
                )
            if media.kind != "late":
                self._shown = self._pictures[frame]
            for number in [one for one in self._pictures if one < frame]:
                del self._pictures[number]
        if self._shown is None:
            self._shown = np.array(self._recording.portrait)
        speaks = media.kind in ("speech", "late") and media.num_samples
        return self._shown, self._sound(frame) if speaks else silence

    def _sound(self, frame: int) -> NDArray[np.float32]:
        """Return what the avatar heard for one frame, [640]; forget what was before it."""
        while self._num_heard < frame and self._sounds:
            self._sounds.pop(0)
            self._num_heard += 1
        return self._sounds[0] if self._sounds else np.zeros(SAMPLES_PER_FRAME, np.float32)


def _frames_of(samples: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Cut the sound of a block into that of its frames, [640] each."""
    count = math.ceil(len(samples) / SAMPLES_PER_FRAME)
    whole = np.zeros(count * SAMPLES_PER_FRAME, np.float32)
    whole[: len(samples)] = samples
    return list(whole.reshape(count, SAMPLES_PER_FRAME))


def _append(lists: dict[str, list[float]], name: str, seconds: float) -> None:
    lists.setdefault(name, []).append(seconds)


def _spreads(seconds: Mapping[str, list[float]]) -> dict[str, dict[str, float]]:
    names = ("p50", "p95", "p99", "max")
    return {
        stage: {
            name: round(1e3 * float(value), 3)
            for name, value in zip(names, np.percentile(values, (50, 95, 99, 100)), strict=True)
        }
        for stage, values in seconds.items()
    }
