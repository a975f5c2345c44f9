"""Messages that the worker sends."""

from typing import Literal

import msgspec

from af_runtime.messages.codes import Code
from af_runtime.messages.fields import (
    Count,
    Heard,
    LatePolicy,
    Message,
    OfSession,
    Pacing,
    SessionId,
    Text,
    Token,
    Word,
    Words,
)


class Format(msgspec.Struct, frozen=True, kw_only=True):
    """What the avatar of this worker takes and gives."""

    preset: Word
    """Name of the preset."""
    width: Count
    """Pixels of a frame, and of a portrait."""
    height: Count
    """Pixels of a frame, and of a portrait."""
    block_samples: Count
    """Speech that is drawn together."""
    lookahead_samples: Count
    """Later speech that a block waits for."""
    fps: Count = 25
    """Frames per second."""
    sample_rate: Count = 16_000
    """Samples per second, of all sound in both directions and of every ``pts``."""


class HelloOk(Message, frozen=True, kw_only=True, tag="HELLO_OK"):
    """The answer to HELLO."""

    version: Count
    """The version that will be spoken."""
    format: Format
    """What the avatar takes and gives."""
    features: Words = ()
    """Optional parts of the protocol that both know."""
    server: Word = ""
    """Name and version of the worker's program."""


class Queued(OfSession, frozen=True, kw_only=True, tag="QUEUED"):
    """All places are taken; the session waits, and is opened when one is free.

    Comes again when the position changes. Only for clients with the feature ``queue``.
    """

    position: Count
    """Place in the line: 1 is the next."""
    retry_after_ms: Count = 0
    """When a place is expected, from how long sessions have lasted so far."""


class Opened(OfSession, frozen=True, kw_only=True, tag="OPENED"):
    """The answer to OPEN: speech may come."""

    audio_limit: Count
    """First credit: samples that the client may send before CREDIT raises the limit."""
    lead_frames: Count
    """Frames that the worker draws ahead of their time at most."""
    pacing: Pacing = "realtime"
    """As asked for."""
    late_policy: LatePolicy = "repeat"
    """As asked for."""
    resume_token: Token = ""
    """With it the session goes on from another connection, see RESUME. Keep it secret."""
    resume_ttl_ms: Count = 0
    """How long the session waits for that."""


class Media(OfSession, frozen=True, kw_only=True, tag="MEDIA"):
    """One frame of 40 ms: a ``video`` buffer, and an ``audio`` buffer if speech goes with it."""

    epoch: Count
    """The epoch it belongs to; a client discards those of older epochs."""
    pts: Count
    """Time since the session began, in samples: 0, 640, 1280, ... without gaps."""
    kind: Literal["speech", "idle", "repeat", "late"] = "speech"
    """``speech``: with sound. ``idle``: nothing is said. ``repeat``: the last picture again.
    ``late``: sound whose picture was dropped; no ``video`` buffer."""
    segment: Count = 0
    """The utterance, if anything is said."""
    num_samples: Count = 0
    """Samples of ``audio`` that are the client's; the others, at the end of an utterance, fill."""
    num_skipped: Count = 0
    """Samples of a pause in the speech, before those of this frame, that were left out because the
    worker had fallen behind."""


class SegmentStarted(OfSession, frozen=True, kw_only=True, tag="SEGMENT_STARTED"):
    """The first frame of an utterance follows."""

    segment: Count
    """Number of the utterance."""
    epoch: Count
    """Its epoch."""
    pts: Count
    """Time of that frame."""


class SegmentFinished(OfSession, frozen=True, kw_only=True, tag="SEGMENT_FINISHED"):
    """An utterance has ended; comes exactly once for each that began."""

    segment: Count
    """Number of the utterance."""
    epoch: Count
    """Its epoch."""
    position: Count
    """Samples of it that were sent back with frames, without those left out of pauses."""
    interrupted: bool = False
    """Whether some of it was discarded."""


class Interrupted(OfSession, frozen=True, kw_only=True, tag="INTERRUPTED"):
    """The answer to INTERRUPT, at once: no frame of an older epoch follows."""

    epoch: Count
    """The new epoch."""
    end_pts: Count
    """Where the old epoch ended: the ``pts`` after its last frame."""


class AudioCredit(OfSession, frozen=True, kw_only=True, tag="CREDIT"):
    """Let the client send more speech."""

    audio_limit: Count
    """Samples that the session may have sent in all; it never shrinks."""


class Warn(OfSession, frozen=True, kw_only=True, tag="WARN"):
    """Something is not as it should be, and the session goes on."""

    code: Code
    """What it is."""
    message: Text = ""
    """The same for people."""


class Stats(OfSession, frozen=True, kw_only=True, tag="STATS"):
    """How a block was drawn, for clients with the feature ``stats``; before its first frame."""

    frames: Count
    """Frames that it gave."""
    draw_us: Count
    """Microseconds that the avatar worked on it."""
    wait_us: Count
    """Microseconds that it waited for the avatar, and its pictures for the session."""
    stages_us: dict[Word, Count] = msgspec.field(default_factory=dict)
    """Microseconds by stage."""


class Error(Message, frozen=True, kw_only=True, tag="ERROR"):
    """Something was refused or has failed."""

    code: Code
    """What it is."""
    message: Text
    """What was wrong, what was seen, and what would work."""
    session: Word = ""
    """The session it belongs to, if to one."""
    fatal: bool = False
    """Whether the session has ended with it."""
    retryable: bool = False
    """Whether the same request may succeed later."""
    retry_after_ms: Count = 0
    """When to try again, if known."""


class Draining(Message, frozen=True, kw_only=True, tag="DRAINING"):
    """The worker is about to stop: no new sessions, running ones should come to an end."""

    deadline_ms: Count
    """When those that still run will be closed."""


class Closed(OfSession, frozen=True, kw_only=True, tag="CLOSED"):
    """The session has ended; the last message of it."""

    reason: Word
    """``drained`` and ``aborted`` as the client asked; else a code, such as ``admit.draining``."""


class Pong(Message, frozen=True, kw_only=True, tag="PONG"):
    """The answer to PING."""

    nonce: Count = 0
    """As it came."""
    heard: Heard = msgspec.field(default_factory=dict)
    """What has come of each session of this connection; a client keeps what has not."""


class Resumed(Message, frozen=True, kw_only=True, tag="RESUMED"):
    """The answer to RESUME; what the client lacks follows."""

    session: SessionId
    """Its name."""
    next_seq: Count
    """Number of the next message that the worker expects; the client sends from there."""
    resume_token: Token
    """The token for the next time; the old one is void once a message has followed."""


class SnapshotOk(Message, frozen=True, kw_only=True, tag="SNAPSHOT_OK"):
    """The answer to SNAPSHOT: one ``snapshot`` buffer."""

    session: SessionId
    """Its name."""


class RestoreOk(Message, frozen=True, kw_only=True, tag="RESTORE_OK"):
    """The answer to RESTORE: the session waits for its client."""

    session: SessionId
    """Its name."""
    resume_token: Token
    """With it the client resumes here."""
    resume_ttl_ms: Count = 0
    """How long the session waits."""


class Moved(Message, frozen=True, kw_only=True, tag="MOVED"):
    """The session lives at another worker now; the last message of it from here."""

    session: SessionId
    """Its name."""
    endpoint: Text
    """Where to connect, and to send RESUME."""
    resume_token: Token
    """The token there."""


ToSession = (
    Queued
    | Opened
    | Media
    | SegmentStarted
    | SegmentFinished
    | Interrupted
    | AudioCredit
    | Warn
    | Closed
    | Stats
)
Handed = Resumed | SnapshotOk | RestoreOk | Moved
FromServer = HelloOk | Error | Draining | Pong | ToSession | Handed
