"""Lines to a worker as tests speak on them, and a ledger of what came over one."""

import time

import numpy as np
from af_core.geometry import SAMPLES_PER_FRAME
from af_runtime.messages import from_client as c
from af_runtime.messages import from_server as s
from af_runtime.messages.codec import decode_from_server, encode

FRAME = SAMPLES_PER_FRAME


class Ledger:
    """What was delivered: each frame once, in the order of its time and epoch."""

    def __init__(self):
        self.frames = []

    def take(self, stream):
        for frame in stream:
            self.frames.append(frame)
        return self

    def check(self):
        assert [f.pts for f in self.frames] == [FRAME * i for i in range(len(self.frames))]
        epochs = [f.epoch for f in self.frames]
        assert epochs == sorted(epochs)

    def sound(self, epoch, segment):
        mine = [f for f in self.frames if (f.epoch, f.segment) == (epoch, segment)]
        return np.concatenate([f.audio[: f.num_samples] for f in mine] or [np.zeros(0)])

    @property
    def video(self):
        return np.stack([f.video for f in self.frames])


def line_of(service):
    return service.transport.connect()


def say(line, message, **arrays):
    line.send(encode(message, **arrays))


def hear(line, kind, timeout_s=10.0):
    """The next message of a kind; others are passed over."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        frames = line.receive(timeout_s)
        if frames is not None and isinstance(got := decode_from_server(frames).message, kind):
            return got
    raise AssertionError(f"no {kind} came")


def opened(service, line, name="x"):
    say(line, c.Open(session=name, video_limit=100, portrait="ada", pacing="fast"))
    return hear(line, s.Opened)


def refused(line):
    return hear(line, s.Error).code
