"""The main job: a portrait and speech in, an mp4 out. Loops over the same step as a live stream."""

import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import af_core
import attrs
import numpy as np
import torch
from af_audio import AudioSource, Chunker, Resampler, open_audio, to_mono
from af_core.geometry import SAMPLES_PER_FRAME, VIDEO_FPS
from af_core.pipeline import Avatar
from numpy.typing import NDArray
from torch import Tensor

from af_runtime.domain import domain_warning
from af_runtime.errors import RequestError
from af_runtime.gallery import HOME_PRESET, find_portrait
from af_runtime.media import VideoSettings
from af_runtime.notices import collected_notices
from af_runtime.outputs import checked_output
from af_runtime.portrait import BACKGROUND, Fit, fit_portrait, read_picture
from af_runtime.sink import Sink
from af_runtime.sizes import size_overrides
from af_runtime.timing import Stopwatch, times

VIDEO_SUFFIXES = (".mp4", ".m4v")
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


@attrs.frozen
class Clip:
    """What `generate` made, and how fast."""

    output: Path
    contact_sheet: Path | None
    preset: str
    num_frames: int
    duration_s: float
    realtime_factor: float
    """Seconds of video per second of work, encoding included, waiting for input and loading not."""
    ttff_s: float | None
    """Time to first frame: from opening the stream to its first frame."""
    frame_ms_p50: float | None
    """Milliseconds per frame in steady state; None for clips of one step."""
    frame_ms_p95: float | None
    load_s: float = 0.0
    """Seconds it took to load the preset; 0 if it was given."""
    warnings: tuple[str, ...] = ()
    interrupted: bool = False
    """True if the clip was ended early by Ctrl-C."""


class GenerationInterrupted(KeyboardInterrupt):
    """Ctrl-C came; ``clip`` is what had been made by then, or None if there was no frame yet."""

    def __init__(self, clip: Clip | None) -> None:
        self.clip = clip
        super().__init__("interrupted")


@attrs.frozen
class Progress:
    """How far a clip is."""

    num_frames: int
    total_frames: int | None
    """None while the length is unknown, as for a pipe."""
    realtime_factor: float


def generate(
    portrait: str | os.PathLike[str],
    audio: str | os.PathLike[str] | AudioSource,
    output: str | os.PathLike[str],
    *,
    preset: str | os.PathLike[str] = HOME_PRESET,
    overrides: Mapping[str, Any] | None = None,
    avatar: Avatar | None = None,
    seed: int = 0,
    fit: Fit = "crop",
    background: str = BACKGROUND,
    contact_sheet: str | os.PathLike[str] | None = None,
    settings: VideoSettings | None = None,
    release_timing: bool = False,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    on_warning: Callable[[str], None] = lambda message: None,
) -> Clip:
    """Make a video of ``portrait`` speaking ``audio``, in constant memory.

    ``portrait`` is a picture file or the name of a shipped portrait; ``audio`` a file, or an
    `AudioSource` such as `PcmSource` over standard input. ``avatar`` is a loaded preset to use
    again. ``release_timing`` shows the portrait for one frame first, while the sound begins: lips
    are then 40 ms late, as in the authors' release. Everything is checked before the preset is
    loaded; an error leaves no file behind, and Ctrl-C (`GenerationInterrupted`) a playable one.
    """
    out, sheet_path = _checked_outputs(output, contact_sheet, (portrait, audio))
    name = avatar.info.preset if avatar else str(preset)
    picture = read_picture(find_portrait(str(portrait), name), background)
    source = open_audio(audio) if isinstance(audio, str | os.PathLike) else audio
    try:
        with collected_notices(on_warning) as notices:
            wanted = size_overrides(picture.size, fit, name, overrides or {})
            loaded, load_s = _loaded(avatar, name, {**(overrides or {}), **wanted})
            _require_size(loaded, wanted)
            size = (loaded.info.width, loaded.info.height)
            pixels = fit_portrait(picture, *size, fit, background)
            notices.note(domain_warning(pixels, loaded.info.preset))
            title = f"{Path(portrait).stem} · {Path(source.info.name).name}"
            with Sink(out, source.info, *size, settings, sheet_path) as sink:
                watch = Stopwatch()
                frames = _stream(loaded, pixels, seed, _chunks(loaded, source, sink, watch))
                if release_timing:
                    frames = _after(pixels, frames)
                total = _num_frames(source.info.duration_s, still=release_timing)
                interrupted = _speak(frames, total, sink, watch, on_progress)
                clip = _finish(sink, watch, title, loaded.info.preset, interrupted)
    finally:
        source.close()
    if clip is not None:
        clip = attrs.evolve(clip, load_s=load_s, warnings=tuple(notices.messages))
    if interrupted or clip is None:
        raise GenerationInterrupted(clip)
    return clip


def _loaded(
    avatar: Avatar | None, name: str, overrides: Mapping[str, Any] | None
) -> tuple[Avatar, float]:
    """Return the given avatar, or load the preset; and the seconds that took."""
    if avatar is not None:
        return avatar, 0.0
    began = time.perf_counter()
    return af_core.load(name, dict(overrides or {})), time.perf_counter() - began


def _require_size(avatar: Avatar, wanted: Mapping[str, Any]) -> None:
    """Refuse a fit that needs another size than that of an avatar which is loaded already."""
    size = (avatar.geometry.width, avatar.geometry.height)
    if wanted and size != (needed := tuple(wanted.values())):
        raise RequestError(
            f"This portrait asks for {needed[0]}x{needed[1]} pixels and the loaded avatar draws "
            f"{size[0]}x{size[1]}; use fit='crop', or load the avatar in that size."
        )


def _num_frames(duration_s: float | None, *, still: bool) -> int | None:
    """Return the frames of a clip, with or without a still one; None for a live source."""
    return None if duration_s is None else math.ceil(duration_s * VIDEO_FPS - 1e-6) + still


def _speak(
    stream: Iterable[NDArray[np.uint8]],
    total: int | None,
    sink: Sink,
    watch: Stopwatch,
    on_progress: Callable[[Progress], None],
) -> bool:
    """Run the whole stream into the sink; return True if Ctrl-C ended it early."""
    try:
        for frames in stream:
            watch.emitted(len(frames))
            sink.add_frames(frames)
            on_progress(Progress(watch.num_frames, total, watch.realtime_factor()))
    except KeyboardInterrupt:
        return True
    return False


def _stream(
    avatar: Avatar, portrait: Tensor, seed: int, chunks: Iterable[Tensor]
) -> Iterator[NDArray[np.uint8]]:
    """Yield the frames of one stream, uint8 ``[n, H, W, 3]``."""
    for frames in avatar.stream(portrait, chunks, seed=seed):
        yield frames[0].cpu().numpy()


def _after(portrait: Tensor, frames: Iterator[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
    """Yield frames with the portrait before the first of them."""
    if (first := next(frames, None)) is not None:
        yield np.concatenate([portrait[None].numpy(), first])
        yield from frames


def _chunks(avatar: Avatar, source: AudioSource, sink: Sink, watch: Stopwatch) -> Iterator[Tensor]:
    """Yield what the model hears, one block ``[n]`` at a time; the sink hears the original."""
    resampler = Resampler(source.info.sample_rate)
    chunker = Chunker(avatar.info.frames_per_block * SAMPLES_PER_FRAME)
    state = chunker.open()
    for samples in _timed(source, watch):
        sink.add_audio(samples)
        blocks, state = chunker.step(state, resampler.step(to_mono(samples)[None])[0])
        yield from map(torch.from_numpy, blocks)
    blocks, state = chunker.step(state, resampler.flush()[0])
    yield from map(torch.from_numpy, blocks)
    rest, _ = chunker.flush(state)
    if len(rest):
        yield torch.from_numpy(rest)


def _timed(source: AudioSource, watch: Stopwatch) -> Iterator[NDArray[np.float32]]:
    """Yield from the source; waiting for a live one does not count as work."""
    pieces = iter(source)
    while True:
        if source.info.is_live:
            watch.waiting()
        piece = next(pieces, None)
        watch.working()
        if piece is None:
            return
        yield piece


def _finish(
    sink: Sink, watch: Stopwatch, title: str, preset: str, interrupted: bool
) -> Clip | None:
    """Complete the files; None if there was no frame to keep."""
    with _undisturbed():
        sink.writer.drain()
        num_frames = sink.writer.num_frames  # Ctrl-C may have come before the last were handed over
        if num_frames == 0:
            return None
        sink.finish()
        duration_s = num_frames / VIDEO_FPS
        factor = watch.realtime_factor()
        subtitle = f"{preset} · {num_frames} frames · {duration_s:.2f} s · {times(factor)}"
        sheet = sink.save_sheet(title, f"{subtitle} real time")
    return Clip(
        output=sink.path,
        contact_sheet=sheet,
        preset=preset,
        num_frames=num_frames,
        duration_s=duration_s,
        realtime_factor=factor,
        ttff_s=watch.ttff_s,
        frame_ms_p50=watch.frame_ms(50),
        frame_ms_p95=watch.frame_ms(95),
        interrupted=interrupted,
    )


def _checked_outputs(
    output: str | os.PathLike[str],
    contact_sheet: str | os.PathLike[str] | None,
    inputs: tuple[object, ...],
) -> tuple[Path, Path | None]:
    out = checked_output(output, VIDEO_SUFFIXES, inputs)
    if contact_sheet is None:
        return out, None
    return out, checked_output(contact_sheet, PICTURE_SUFFIXES, inputs)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Let nothing that asks to stop, not even SIGTERM, come before the files are complete."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asks = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(ask, signal.SIG_IGN) for ask in asks]
    try:
        yield
    finally:
        for ask, handler in zip(asks, before, strict=True):
            signal.signal(ask, handler)
