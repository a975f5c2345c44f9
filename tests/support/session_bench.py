"""Drives a session without a worker: its avatar is a queue, and all that is sent is kept."""

import numpy as np
from af_core.geometry import SAMPLES_PER_FRAME
from af_runtime.messages import from_client as c
from af_runtime.messages import from_server as s
from af_runtime.session.drawing import drawn, feed, forgotten
from af_runtime.session.receiving import opened, receive
from af_runtime.session.sending import granted, repeat, send, settled
from af_runtime.session.state import Phase, Rules, Session


class SessionBench:
    """A session, its client, and an avatar whose picture of a frame is the sum of its sound."""

    def __init__(
        self,
        pacing="fast",
        block=4,
        lookahead=12,
        video_limit=10**6,
        window=64_000,
        can_forget=False,
    ):
        rules = Rules(block, lookahead, window, pacing, can_forget)
        self.session = Session("s", rules, video_limit=video_limit)
        self.heard, self.flushed = np.zeros(0, np.float32), False
        self.job = None
        self.log = []  # (message, buffers)
        self.seq = self.segment = self.epoch = 0
        self.pushed = {}  # (epoch, segment) -> samples
        self._note(opened(self.session))

    def _note(self, step):
        self.session, out = step
        self.log += out

    def say(self, kind, pcm=None, *, cover=0, **fields):
        self.seq += 1
        message = kind(session="s", seq=self.seq, **fields)
        self._note(receive(self.session, message, pcm, cover=cover))

    def push(self, samples):
        samples = np.asarray(samples, np.float32)
        self.pushed.setdefault((self.epoch, self.segment), []).append(samples)
        self.say(c.Audio, samples, segment=self.segment, epoch=self.epoch)

    def end(self):
        self.pushed.setdefault((self.epoch, self.segment), [])
        self.say(c.SegmentEnd, segment=self.segment, epoch=self.epoch)
        self.segment += 1

    def interrupt(self, mode="now", cover=0):
        self.epoch += 1
        self.say(c.Interrupt, epoch=self.epoch, mode=mode, cover=cover)
        self.segment += 1

    def feed(self, fill=False):
        self.session, job = feed(self.session, fill=fill)
        self.job = job or self.job
        return job

    def draw(self):
        """The avatar answers the block it has, if it has one."""
        if self.job is None:
            return
        self.heard = np.concatenate([self.heard, self.job.samples])
        size = self.session.rules.block_frames * SAMPLES_PER_FRAME
        held = 0 if self.job.is_last else self.session.rules.lookahead_frames * SAMPLES_PER_FRAME
        count = max(0, len(self.heard) - held)
        count = count if self.job.is_last else count // size * size
        frames = self.heard[:count].reshape(-1, SAMPLES_PER_FRAME)
        self.heard, self.job = self.heard[count:], None
        self.session = drawn(self.session, frames.sum(1, dtype=np.float64)[:, None])

    def forget(self):
        """The avatar forgets what it holds, if it was asked to and is not drawing."""
        if self.session.is_forgetting and self.job is None:
            assert len(self.heard) == len(self.session.tags) * SAMPLES_PER_FRAME
            self.heard = self.heard[:0]
            self.session = forgotten(self.session, 0)

    def send(self):
        if self.session.ready and self.session.has_video_credit:
            self._note(send(self.session))

    def repeat(self):
        if self.session.shown is not None and self.session.has_video_credit:
            self._note(repeat(self.session))

    def settle(self):
        self._note(granted(self.session))
        self._note(settled(self.session))

    def run(self, fill=False):
        """Go on until nothing moves."""
        while self.feed(fill) or self.job or self.session.ready or self.session.is_forgetting:
            self.draw()
            self.forget()
            self.send()
            self.settle()
            fill = False
        self.settle()

    def messages(self, kind):
        return [message for message, _ in self.log if isinstance(message, kind)]

    def media(self):
        return [(m, arrays) for m, arrays in self.log if isinstance(m, s.Media)]

    @property
    def is_closed(self):
        return self.session.phase is Phase.CLOSED
