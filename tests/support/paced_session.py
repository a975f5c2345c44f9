"""A session in real time by a clock of the test, with an avatar that is as slow as it is told."""

import numpy as np
from af_core.geometry import SAMPLES_PER_FRAME
from af_runtime.hosting import Hosted
from af_runtime.messages import from_server as s
from af_runtime.metrics import Metrics
from af_runtime.session.state import Rules, Session

FRAME = SAMPLES_PER_FRAME
BLOCK = 4


class PacedSession:
    """A hosted session under a clock, with an avatar that draws when it is told to."""

    def __init__(self, late_policy="repeat", video_limit=10**6):
        rules = Rules(BLOCK, lookahead_frames=0, pacing="realtime")
        session = Session("s", rules, late_policy=late_policy, video_limit=video_limit)
        self.metrics = Metrics()
        self.hosted = Hosted(session, b"peer", 0, 0.0, self.metrics)
        self.hosted.seen()
        self.now = 100.0
        self.draw_s = 0.0  # how long a block takes
        self.block, self.done_at = None, 0.0
        self.log = []  # (time, message)
        self.heard = []  # (time, sound [640]) of frames of speech
        self.seq = 0

    def say(self, kind, pcm=None, **fields):
        self.seq += 1
        self.hosted.receive(kind(session="s", seq=self.seq, **fields), pcm, self.now)

    def draw(self):
        if self.block is not None:
            size = len(self.block.samples) // FRAME
            self.block = None
            self.hosted.drawn(np.zeros((size, 2, 2, 3), np.uint8), 0.0)

    def turn(self, seconds, *, drawing=True):
        """Let time pass in steps of 5 ms; the avatar draws in ``draw_s``, or not at all."""
        end = self.now + seconds - 1e-9
        while self.now < end:
            self.now += 0.005
            self.hosted.advance(self.now)
            fed = self.hosted.feed()
            if fed is not None:
                self.block, self.done_at = fed, self.now + self.draw_s
            if drawing and self.now >= self.done_at:
                self.draw()
            for message, arrays in self.hosted.outgoing():
                self.log.append((self.now, message))
                self.heard += [(self.now, arrays["audio"])] if "audio" in arrays else []

    def media(self, *kinds):
        found = [(at, m) for at, m in self.log if isinstance(m, s.Media)]
        return [(at, m) for at, m in found if not kinds or m.kind in kinds]

    def warnings(self):
        return [m.code for _, m in self.log if isinstance(m, s.Warn)]
