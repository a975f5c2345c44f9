"""One viewer: opens a session, speaks into it in real time, and notes when each frame came."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import numpy as np
from af_core.geometry import AUDIO_HZ
from numpy.typing import NDArray

from af_runtime.client import AvatarClient, AvatarStream
from af_runtime.client.opening import connected
from af_runtime.client.values import BlockDrawn, Warned
from af_runtime.errors import ServiceError
from af_runtime.messages.from_server import Format

CHUNK_S = 0.02
"""Speech is pushed in pieces of this length, as a microphone does."""

LAG_S = 5.0
"""How much longer than its speech a session may last before it is given up."""


@attrs.frozen
class Where:
    """How the worker is reached, and whose portrait is asked for."""

    endpoint: str
    portrait: str
    key: Path | None = None
    server_key: Path | None = None

    def client(self) -> AvatarClient:
        """Connect as a client that is told how blocks were drawn."""
        link = connected(self.endpoint, self.key, self.server_key, ("stats",))
        return AvatarClient(self.endpoint, link=link)


@attrs.define(eq=False)
class Seen:
    """The notes of one viewer; times are of the monotonic clock."""

    format: Format
    server: str
    opened_s: float
    """When OPEN was sent."""
    arrival_s: list[float] = attrs.field(factory=list)
    pts: list[int] = attrs.field(factory=list)
    num_samples: list[int] = attrs.field(factory=list)
    """Samples of speech with each frame, with those of a pause that was left out before it."""
    is_fresh: list[bool] = attrs.field(factory=list)
    pushed_s: list[float] = attrs.field(factory=list)
    pushed: list[int] = attrs.field(factory=list)
    """Samples pushed in all, after each push."""
    blocks: list[BlockDrawn] = attrs.field(factory=list)
    warnings: Counter[str] = attrs.field(factory=Counter)
    error: str = ""


def watch(
    where: Where,
    speech: Iterator[NDArray[np.float32]],
    duration_s: float,
    *,
    seed: int = 0,
    on_frame: Callable[[], None] = lambda: None,
) -> Seen:
    """Speak pieces of `CHUNK_S` in real time, watch until the last frame, and return the notes.

    Raises `ServiceError` if the worker cannot be reached or takes no session; what ends a session
    later is noted.
    """
    with where.client() as client:
        opened_s = time.monotonic()
        with client.open(where.portrait, seed=seed) as stream:
            seen = Seen(client.format, client.server, opened_s)
            mouth = threading.Thread(
                target=_speak, args=(stream, speech, duration_s, seen), daemon=True
            )
            mouth.start()
            try:
                _look(stream, seen, opened_s + duration_s + LAG_S, on_frame)
            except ServiceError as e:
                seen.error = f"{e.code}: {e}"
            finally:
                stream.close()
                mouth.join(LAG_S)  # it may wait for credit that does not come any more
    return seen


def _look(stream: AvatarStream, seen: Seen, until_s: float, on_frame: Callable[[], None]) -> None:
    while (frame := stream.next_frame(LAG_S)) is not None:
        seen.arrival_s.append(time.monotonic())
        seen.pts.append(frame.pts)
        seen.num_samples.append(frame.num_samples + frame.num_skipped)
        seen.is_fresh.append(not frame.is_repeat)
        _note_events(stream, seen)
        on_frame()
        if seen.arrival_s[-1] > until_s:
            seen.error = f"the session went on {LAG_S:.0f} s after its speech had ended"
            return
    _note_events(stream, seen)


def _note_events(stream: AvatarStream, seen: Seen) -> None:
    for event in stream.events():
        if isinstance(event, BlockDrawn):
            seen.blocks.append(event)
        elif isinstance(event, Warned):
            seen.warnings[event.code] += 1


def _speak(
    stream: AvatarStream, speech: Iterator[NDArray[np.float32]], duration_s: float, seen: Seen
) -> None:
    """Push speech when it would have been spoken; a piece leaves when its last sample is there."""
    began, total = time.monotonic(), 0
    try:
        for i in range(1, round(duration_s / CHUNK_S) + 1):
            piece = next(speech)
            time.sleep(max(0.0, began + i * CHUNK_S - time.monotonic()))
            total += len(piece)
            seen.pushed_s.append(time.monotonic())
            seen.pushed.append(total)
            stream.push_audio(piece, AUDIO_HZ)
        stream.finish()
    except ServiceError:
        pass  # the one who looks hears of it too
