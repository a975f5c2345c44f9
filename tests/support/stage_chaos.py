"""Chaos for a worker whose stages are killed, with clients of every kind, and a ledger.

The ledger knows every frame that was delivered, as (epoch, block, frame), and the picture it had to
be. A frame that is lost, doubled, out of order or wrong is an error that names it.
"""

import contextlib
import itertools
import os
import random
import signal
import threading
import time

import attrs
import numpy as np
from af_runtime.client import AvatarClient
from af_runtime.messages import from_client as c
from af_runtime.messages.codec import encode
from af_runtime.transport.zeromq import ZmqClient
from serving import expected, face, serving

SAMPLES = 640
CHUNK = 4 * SAMPLES


@attrs.define
class Ledger:
    """What one session was sent."""

    frames_per_block: int
    times_s: list[float] = attrs.field(factory=list)
    pictures: list[np.ndarray] = attrs.field(factory=list)

    def note(self, frame):
        """Take a delivered frame; raises if it is not the one that is due."""
        due = len(self.pictures)
        where = (frame.epoch, *divmod(frame.pts // SAMPLES, self.frames_per_block))
        if frame.pts != due * SAMPLES or frame.epoch or frame.is_repeat:
            block = divmod(due, self.frames_per_block)
            raise AssertionError(f"delivered {where}, repeated {frame.is_repeat}; due (0, {block})")
        self.pictures.append(frame.video.copy())
        self.times_s.append(time.monotonic())

    def check(self, wanted):
        """Compare with the pictures that a plain loop draws, [n, H, W, 3]."""
        got = np.stack(self.pictures)
        assert got.shape == wanted.shape, f"{len(got)} frames delivered, {len(wanted)} due"
        wrong = np.flatnonzero((got != wanted).reshape(len(got), -1).any(1))
        assert not wrong.size, f"frames {wrong[:8]} of {len(got)} are not what they had to be"

    def longest_gap_s(self, begin_s, end_s):
        """The longest time without a frame that touches this span."""
        times = [*self.times_s]
        spans = [(b - a) for a, b in itertools.pairwise(times) if b > begin_s and a < end_s]
        return max(spans, default=0.0)


class Speaker(threading.Thread):
    """A client that speaks until it is told to stop, and keeps a ledger of what comes back."""

    def __init__(self, endpoint, avatar, seed, pause_s=0.0):
        super().__init__(daemon=True)
        self.endpoint, self.avatar, self.seed, self.pause_s = endpoint, avatar, seed, pause_s
        self.ledger = Ledger(avatar.info.frames_per_block)
        self.spoken, self.error = [], None
        self.stopped = threading.Event()

    def run(self):
        try:
            with AvatarClient(self.endpoint, timeout_s=60) as client:
                window = 8 if self.pause_s else 50
                stream = client.open(
                    face(self.avatar), seed=self.seed, pacing="fast", window=window, timeout_s=120
                )
                speaker = threading.Thread(target=self._speak, args=[stream], daemon=True)
                speaker.start()
                for frame in stream:
                    self.ledger.note(frame)
                    time.sleep(self.pause_s)
                speaker.join()
        except BaseException as e:
            self.error = e

    def _speak(self, stream):
        rng = np.random.default_rng(self.seed)
        while not self.stopped.is_set():
            # no faster than it is heard: what was said must be drawn once more to be compared
            if len(self.spoken) * 4 - len(self.ledger.pictures) > 200:
                self.stopped.wait(0.01)
                continue
            self.spoken.append(rng.uniform(-0.5, 0.5, CHUNK).astype(np.float32))
            stream.push_audio(self.spoken[-1], 16_000)
        stream.finish()

    def finish(self):
        """Stop speaking, hear the rest, and settle the ledger."""
        self.stopped.set()
        self.join(300)
        if self.error is not None:
            raise self.error
        assert not self.is_alive(), "the session has not ended"
        samples = np.concatenate(self.spoken)
        self.ledger.check(expected(self.avatar, face(self.avatar), samples, self.seed))


@attrs.frozen
class Report:
    """What a run of chaos has shown."""

    kills: int
    by_target: dict[str, int]
    frames: int
    gaps_s: list[float]
    """For each stage that was killed: the longest time without a frame around it."""
    recoveries_s: list[float]
    """From the end of a stage until its successor could work."""


def run(
    staged,
    one,
    *,
    seed,
    kills,
    pause_s=(0.0, 0.15),
    calm_s=0.0,
    also_nursery=True,
    progress=lambda number: None,
):
    """Kill processes of a staged avatar at random while clients speak; check every frame.

    ``one`` is the same avatar in this process.
    """
    rng, gaps, targets = random.Random(seed), [], {}
    from af_runtime.transport.zeromq import ZmqServer

    places = {"max_sessions": 64, "max_sessions_per_client": 64}
    transport = ZmqServer("tcp://127.0.0.1:*")
    with serving(staged.avatar, transport, lanes=staged.num_stages, **places) as service:
        endpoint = service.transport.endpoint
        lazy = _never_reads(endpoint)
        steady, slow = Speaker(endpoint, one, seed), Speaker(endpoint, one, seed + 1, 0.01)
        steady.start()
        slow.start()
        _until(lambda: steady.ledger.pictures, steady)
        for number in range(kills):
            time.sleep(rng.uniform(*pause_s))
            before, at_s = len(steady.ledger.pictures), time.monotonic()
            role = _kill_one(staged, rng, also_nursery and number % 20 == 19)
            targets[role] = targets.get(role, 0) + 1
            _until(lambda: len(steady.ledger.pictures) > before + 8, steady)
            if role != "spare":
                gaps.append(steady.ledger.longest_gap_s(at_s, time.monotonic()))
            progress(number + 1)
            if number % 10 == 9:
                _vanishes(endpoint, one)
            if calm_s:
                _until(lambda: staged.supervisor.has_spare, steady)
                time.sleep(calm_s)
        for speaker in (steady, slow):
            speaker.finish()
        lazy.close()
        num_frames = len(steady.ledger.pictures) + len(slow.ledger.pictures)
    return Report(kills, targets, num_frames, gaps, list(staged.supervisor.recovery_s))


def _kill_one(staged, rng, nursery):
    """Kill one process and return what it was."""
    supervisor = staged.supervisor
    if nursery and (pid := supervisor.nursery_pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        return "nursery"
    roles = {one.pid: one.process for one in supervisor.status() if one.pid}
    pids = sorted(supervisor.pids)
    pid = rng.choice(pids)
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return "spare"
    return roles.get(pid, "spare")


def _until(is_so, speaker, timeout_s=120.0):
    """Wait for something, unless the speaker it depends on has failed."""
    until_s = time.monotonic() + timeout_s
    while not is_so():
        if speaker.error is not None:
            raise speaker.error
        assert time.monotonic() < until_s, "nothing has come for too long"
        time.sleep(0.002)


def _never_reads(endpoint):
    """A client that asks for frames and takes none."""
    line = ZmqClient(endpoint)
    _send_when_connected(line, c.Hello(min_version=1, max_version=1))
    line.send(encode(c.Open(session="lazy", portrait="ada", video_limit=10_000, pacing="fast")))
    for number in range(8):
        sound = np.zeros(CHUNK, np.float32)
        line.send(encode(c.Audio(session="lazy", seq=number + 1, segment=0, epoch=0), pcm=sound))
    return line


def _send_when_connected(line, message):
    from af_runtime.errors import PeerGoneError

    for _ in range(1000):
        try:
            line.send(encode(message))
            return
        except PeerGoneError:
            time.sleep(0.01)
    raise AssertionError("no connection")


def _vanishes(endpoint, avatar):
    """A client that goes in the middle of an utterance, without a word."""
    with AvatarClient(endpoint, timeout_s=60) as client:
        stream = client.open(face(avatar), pacing="fast", timeout_s=120)
        stream.push_audio(np.zeros(3 * CHUNK, np.float32), 16_000)
