"""Speech from a file to a stream worker, and its frames into an mp4: `generate` at a distance."""

import os
import threading
from collections.abc import Callable
from pathlib import Path

import attrs
from af_audio import AudioSource, open_audio, to_mono
from af_core.geometry import VIDEO_FPS

from af_runtime.client import AvatarClient, AvatarStream, Queued
from af_runtime.errors import ServiceError
from af_runtime.generation import VIDEO_SUFFIXES
from af_runtime.outputs import checked_output
from af_runtime.sink import Sink


@attrs.frozen
class Saying:
    """What `say` made."""

    output: Path
    num_frames: int

    @property
    def duration_s(self) -> float:
        """Seconds of video."""
        return self.num_frames / VIDEO_FPS


def say(
    portrait: str | os.PathLike[str],
    audio: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    client: AvatarClient,
    seed: int = 0,
    on_progress: Callable[[int], None] = lambda num_frames: None,
    on_queued: Callable[[Queued], None] = lambda queued: None,
) -> Saying:
    """Make a video of ``portrait`` speaking ``audio``, drawn by the worker of ``client``.

    The frames are those of `generate` for the same preset and seed, byte for byte.
    """
    out = checked_output(output, VIDEO_SUFFIXES, (portrait, audio))
    source = open_audio(audio)
    size = (client.format.width, client.format.height)
    try:
        with (
            Sink(out, source.info, *size) as sink,
            client.open(
                portrait if isinstance(portrait, str) else Path(portrait),
                seed=seed,
                pacing="fast",
                on_queued=on_queued,
            ) as stream,
        ):
            mouth = _Mouth(source, sink, stream)
            for frame in stream:
                sink.add_frames(frame.video[None])
                on_progress(sink.writer.num_frames)
            mouth.join()
            sink.writer.drain()
            num_frames = sink.writer.num_frames
            sink.finish()
    finally:
        source.close()
    return Saying(out, num_frames)


class _Mouth:
    """Pushes a file into a stream on a thread of its own: credit makes it wait."""

    def __init__(self, source: AudioSource, sink: Sink, stream: AvatarStream) -> None:
        self._source, self._sink, self._stream = source, sink, stream
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="af-say", daemon=True)
        self._thread.start()

    def join(self) -> None:
        """Wait for the end; raises what went wrong."""
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            for samples in self._source:
                self._sink.add_audio(samples)
                self._stream.push_audio(to_mono(samples), self._source.info.sample_rate)
            self._stream.finish()
        except ServiceError:
            pass  # the iterator of frames raises the same
        except BaseException as e:
            self._error = e
            self._stream.close()
