"""What a stream worker adds to the avatar alone: the same steps, in turn, in one process.

A round draws some blocks by a plain loop, then as many through a worker over ZeroMQ, ``fast``, with
speech always at hand, and then by a plain loop again: the second loop against the first is the
noise. A step lasts from one block's frames to the next one's; with a worker, until the client has
them. What other programs do is in these numbers too. ``idle`` looks closer: how long the stages of
the avatar stand still between two blocks, with a worker and without.
"""

import datetime
import gc
import itertools
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import af_core
import attrs
import msgspec
import numpy as np
import torch
from af_core.geometry import AUDIO_HZ
from af_core.pipeline import Avatar
from numpy.typing import NDArray

from af_runtime.benchmark import bench_portrait, speech_like
from af_runtime.benchmark_report import git_commit, host_facts
from af_runtime.client import AvatarClient, AvatarStream
from af_runtime.errors import ConnectionLostError, PeerGoneError, RequestError, ServiceError
from af_runtime.messages import from_client as client
from af_runtime.messages import from_server as server
from af_runtime.messages.codec import VERSION, decode_from_server, encode
from af_runtime.server import Limits, Server
from af_runtime.service import warm_up
from af_runtime.transport.zeromq import ZmqClient, ZmqServer
from af_runtime.viewing.report import Spread, spread

SCHEMA = "af-overhead/1"
STEPS_A_ROUND = 25
WARMUP_STEPS = 12
INTERRUPTS = 40
PATIENCE_S = 30.0
WINDOW = 8 * STEPS_A_ROUND * 16
"""Frames of credit: more than a round has, so that nobody waits for it."""

Seconds = NDArray[np.float64]


class OverheadReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker adds, and how sure that is."""

    schema: str = SCHEMA
    git: str
    utc: str
    host: dict[str, Any]
    preset: str
    frames_per_step: int
    rounds: int
    alone_ms: Spread
    served_ms: Spread
    added_frame_ms_p50: float
    """Median over rounds of the difference of medians, per frame."""
    added_share_p99: float
    """Difference of the p99 of all steps, as a share of the p99 alone."""
    noise_frame_ms_p50: float
    """The same two numbers for one plain loop against another."""
    noise_share_p99: float
    idle_alone_ms: Spread
    """From the end of the last stage to the start of the first for the next block, plain loop."""
    idle_served_ms: Spread
    """The same in the worker: what it does between two blocks."""
    added_idle_frame_ms_p50: float
    """Difference of the medians of both, per frame."""
    added_idle_share_p99: float
    """Difference of the p99 of both, as a share of the median step alone."""
    interrupt_ms: Spread
    """From INTERRUPT to INTERRUPTED at a client, while blocks are drawn."""


def measure(
    preset: str = "toon",
    *,
    avatar: Avatar | None = None,
    overrides: Mapping[str, Any] | None = None,
    duration_s: float = 60.0,
    seed: int = 0,
    on_round: Callable[[], None] = lambda: None,
) -> OverheadReport:
    """Measure on ``duration_s`` seconds of video in all, three loops together."""
    loaded = avatar or af_core.load(preset, dict(overrides or {}))
    block_s = loaded.info.block_ms / 1e3
    rounds = int(duration_s / (3 * STEPS_A_ROUND * block_s))
    if rounds < 1:
        raise RequestError(f"This needs at least {3 * STEPS_A_ROUND * block_s:.0f} s of video.")
    idle = [_Idle(), _Idle()]
    alone, again = _Plain(idle[0].watched(loaded), seed, idle[0].pause), _Plain(loaded, seed)
    with _worker(idle[1].watched(loaded)) as endpoint:
        with (
            AvatarClient(endpoint) as line,
            line.open(_portrait(loaded), pacing="fast", window=WINDOW) as stream,
        ):
            served = _Served(loaded, stream, seed, idle[1].pause)
            ways = (alone, served, again)
            for way in ways:
                way.steps(WARMUP_STEPS)
            for one in idle:
                one.seconds.clear()
            runs: list[list[Seconds]] = []
            for _ in range(rounds):
                runs.append([way.steps(STEPS_A_ROUND) for way in ways])
                on_round()
        idle_ms = [1e3 * np.array(one.seconds) for one in idle]
        interrupts = list(_interrupts(endpoint, loaded))
    return _report(loaded, runs, idle_ms, interrupts)


def _report(
    avatar: Avatar, runs: list[list[Seconds]], idle_ms: list[Seconds], interrupts_s: list[float]
) -> OverheadReport:
    frames = avatar.info.frames_per_block
    alone, through, again = (np.stack(one) * 1e3 for one in zip(*runs, strict=True))
    base, ways = np.percentile(alone, 99), (through, again)
    p50 = [np.median(np.median(one, 1) - np.median(alone, 1)) / frames for one in ways]
    p99 = [(np.percentile(one, 99) - base) / base for one in ways]
    added_p50, added_p99 = (
        float(np.percentile(idle_ms[1], q) - np.percentile(idle_ms[0], q)) for q in (50, 99)
    )
    return OverheadReport(
        git=git_commit(),
        utc=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        host=host_facts(),
        preset=avatar.info.preset,
        frames_per_step=frames,
        rounds=len(runs),
        alone_ms=spread(alone),
        served_ms=spread(through),
        added_frame_ms_p50=round(float(p50[0]), 4),
        added_share_p99=round(float(p99[0]), 4),
        noise_frame_ms_p50=round(float(p50[1]), 4),
        noise_share_p99=round(float(p99[1]), 4),
        idle_alone_ms=spread(idle_ms[0]),
        idle_served_ms=spread(idle_ms[1]),
        added_idle_frame_ms_p50=round(added_p50 / frames, 4),
        added_idle_share_p99=round(added_p99 / float(np.median(alone)), 4),
        interrupt_ms=spread([1e3 * one for one in interrupts_s]),
    )


class _Idle:
    """Notes how long the stages of an avatar stand still between two blocks of a round."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._ended_s: float | None = None

    def watched(self, avatar: Avatar) -> Avatar:
        """Return the avatar, its first and its last stage watched."""
        runners: dict[str, Any] = dict(avatar.runners)
        first, last = next(iter(runners)), list(runners)[-1]
        runners[first] = _Edge(runners[first], before=self._begin)
        runners[last] = _Edge(runners[last], after=self._end)
        return attrs.evolve(avatar, runners=runners)

    def pause(self) -> None:
        """Let what comes next not count: nobody asks for a block."""
        self._ended_s = None

    def _begin(self) -> None:
        if self._ended_s is not None:
            self.seconds.append(time.perf_counter() - self._ended_s)

    def _end(self) -> None:
        self._ended_s = time.perf_counter()


def _nothing() -> None:
    """Do nothing."""


@attrs.frozen(slots=False)
class _Edge:
    """A node of the pipeline with something to do before or after its steps."""

    inner: Any
    before: Callable[[], None] = _nothing
    after: Callable[[], None] = _nothing

    def open(self, opening: Any) -> Any:
        return self.inner.open(opening)

    def step(self, state: Any, inputs: Any) -> Any:
        self.before()
        done = self.inner.step(state, inputs)
        self.after()
        return done

    def flush(self, state: Any) -> Any:
        return self.inner.flush(state)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def _portrait(avatar: Avatar) -> NDArray[np.uint8]:
    return bench_portrait(avatar).numpy()


class _Plain:
    """A stream driven by a loop."""

    def __init__(self, avatar: Avatar, seed: int, pause: Callable[[], None] = _nothing) -> None:
        self._avatar, self._pause = avatar, pause
        self._state = avatar.open(bench_portrait(avatar), seed=seed)
        self._speech = speech_like(avatar.geometry.samples_per_block, seed)

    def steps(self, count: int) -> Seconds:
        """Draw so many blocks; return the seconds of all steps but the first, ``[count - 1]``."""
        times: list[float] = []
        self._pause()
        for _ in range(count):
            samples = torch.from_numpy(next(self._speech))
            frames, self._state = self._avatar.step(self._state, samples)
            frames[0].cpu().numpy()
            times.append(time.perf_counter())
        return np.diff(times)


class _Served:
    """A stream driven through a worker by a client."""

    def __init__(
        self, avatar: Avatar, stream: AvatarStream, seed: int, pause: Callable[[], None]
    ) -> None:
        self._stream, self._size, self._pause = stream, avatar.info.frames_per_block, pause
        self._speech = speech_like(avatar.geometry.samples_per_block, seed)
        self._owed = -round(avatar.info.lookahead_ms / avatar.info.block_ms)

    def steps(self, count: int) -> Seconds:
        """As `_Plain.steps`; all the speech is sent first."""
        self._pause()
        for _ in range(count):
            self._stream.push_audio(next(self._speech), AUDIO_HZ)
        times: list[float] = []
        self._owed += count
        while self._owed > 0:
            for _ in range(self._size):
                if self._stream.next_frame() is None:
                    raise RequestError("The worker has ended the session of a measurement.")
            times.append(time.perf_counter())
            self._owed -= 1
        return np.diff(times)


@contextmanager
def _worker(avatar: Avatar) -> Iterator[str]:
    """Serve an avatar on a free port of loopback until the block ends; gives the endpoint."""
    transport = ZmqServer("tcp://127.0.0.1:*")
    worker = Server(avatar, transport, portraits=lambda name: _portrait(avatar), limits=Limits())
    warm_up(avatar)
    thread = threading.Thread(target=worker.run, name="af-serve", daemon=True)
    thread.start()
    try:
        yield transport.endpoint
    finally:
        worker.drain(0.0)
        thread.join()
        transport.close()
        gc.unfreeze()


def _interrupts(endpoint: str, avatar: Avatar) -> Iterator[float]:
    """Yield the seconds from INTERRUPT to INTERRUPTED of a session that speaks in real time."""
    line = ZmqClient(endpoint)
    try:
        of = itertools.count()
        _greet(line)
        opening = client.Open(session="interrupts", seq=next(of), video_limit=2**40)
        line.send(encode(opening, portrait=_portrait(avatar)))
        _until(line, server.Opened)
        speech = speech_like(AUDIO_HZ, 0)
        for epoch in range(INTERRUPTS):
            audio = client.Audio(session="interrupts", seq=next(of), segment=epoch, epoch=epoch)
            line.send(encode(audio, pcm=next(speech)))
            _until(line, server.Media, count=5 + 7 * epoch % 11)
            began = time.perf_counter()
            line.send(encode(client.Interrupt(session="interrupts", seq=next(of), epoch=epoch + 1)))
            _until(line, server.Interrupted)
            yield time.perf_counter() - began
    finally:
        line.close()


def _greet(line: ZmqClient) -> None:
    """Say HELLO, as soon as there is a connection."""
    until_s = time.monotonic() + PATIENCE_S
    while True:
        try:
            return line.send(encode(client.Hello(min_version=VERSION, max_version=VERSION)))
        except PeerGoneError:
            if time.monotonic() > until_s:
                raise
            line.receive(0.05)


def _until(line: ZmqClient, kind: type, count: int = 1) -> None:
    """Read until so many messages of a kind have come."""
    until_s = time.monotonic() + PATIENCE_S
    while count and time.monotonic() < until_s:
        frames = line.receive(1.0)
        message = None if frames is None else decode_from_server(frames).message
        if isinstance(message, server.Error):
            raise ServiceError(message.code, message.message)
        count -= isinstance(message, kind)
    if count:
        raise ConnectionLostError("connection.lost", f"No {kind.__name__} in {PATIENCE_S:.0f} s.")
