"""Messages that a client sends."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

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


class Hello(Message, frozen=True, kw_only=True, tag="HELLO"):
    """The first message of a connection: which versions and features the client speaks."""

    min_version: Count
    """Oldest version of this protocol that the client speaks."""
    max_version: Count
    """Newest one."""
    features: Words = ()
    """Optional parts of the protocol that the client knows."""
    agent: Word = ""
    """Name and version of the client's program, for logs."""


class Open(OfSession, frozen=True, kw_only=True, tag="OPEN"):
    """Begin a session. The portrait is a buffer of the avatar's size, or a shipped one by name."""

    video_limit: Count
    """First credit: frames that the worker may send before CREDIT raises the limit."""
    portrait: Word = ""
    """Name of a portrait that is shipped with the preset, if no buffer comes along."""
    seed: Annotated[int, Meta(ge=0, le=2**53)] = 0
    """Decides the noise: the same seed, portrait and speech give the same video."""
    pacing: Pacing = "realtime"
    """``realtime``: 25 frames a second, idle ones in silence. ``fast``: as soon as drawn."""
    late_policy: LatePolicy = "repeat"
    """What is done about a frame that is late, see UPDATE."""
    traceparent: Word = ""
    """W3C trace context of the client, if the worker's spans shall belong to it."""


class Audio(OfSession, frozen=True, kw_only=True, tag="AUDIO"):
    """Speech: one ``pcm`` buffer of mono samples."""

    segment: Count
    """Number of the utterance, 0, 1, 2, ...; a higher one ends those before it."""
    epoch: Count
    """The epoch in which it is said; older ones are discarded, with a WARN."""
    sample_rate: Count = 16_000
    """Samples per second: 16,000."""


class SegmentEnd(OfSession, frozen=True, kw_only=True, tag="SEGMENT_END"):
    """The utterance is complete; SEGMENT_FINISHED follows its last frame."""

    segment: Count
    """Number of the utterance."""
    epoch: Count
    """The epoch in which it was said."""


class Interrupt(OfSession, frozen=True, kw_only=True, tag="INTERRUPT"):
    """Stop speaking now: speech not yet sent back is discarded, and a new epoch begins."""

    epoch: Count
    """Number of the new epoch: the present one plus one."""
    mode: Literal["now", "block"] = "now"
    """``now`` cuts to the new epoch; ``block`` first shows, silent, the frames under way."""


class VideoCredit(OfSession, frozen=True, kw_only=True, tag="CREDIT"):
    """Let the worker send more frames."""

    video_limit: Count
    """MEDIA messages that the session may have received in all; it never shrinks."""


class Update(OfSession, frozen=True, kw_only=True, tag="UPDATE"):
    """Change an option of a session that runs."""

    late_policy: LatePolicy
    """For a frame that is late: ``repeat`` the last picture, ``drop`` pictures until the clock is
    met again (never sound), or ``stretch`` time."""


class Close(OfSession, frozen=True, kw_only=True, tag="CLOSE"):
    """End the session."""

    mode: Literal["drain", "abort"] = "drain"
    """``drain`` first sends every frame of the speech so far; ``abort`` sends no more."""


class Ping(Message, frozen=True, kw_only=True, tag="PING"):
    """Ask for a sign of life; one a second keeps a connection alive."""

    nonce: Count = 0
    """Comes back in PONG."""
    heard: Heard = msgspec.field(default_factory=dict)
    """What has come of each session; the worker keeps what has not, to send it again."""


class Resume(Message, frozen=True, kw_only=True, tag="RESUME"):
    """Go on with a session on another connection, after the old one was lost or it was moved."""

    session: SessionId
    """Its name."""
    token: Token
    """The newest token of the session."""
    next_seq: Count
    """Number of the next message that the client expects of the worker; it is sent from there."""


class Snapshot(Message, frozen=True, kw_only=True, tag="SNAPSHOT"):
    """Ask for all that a session is. It stands still until RELEASE, or goes on after 5 s."""

    session: SessionId
    """Its name."""
    token: Token = ""
    """The newest token of the session; not needed at a worker on this machine without keys."""


class Restore(Message, frozen=True, kw_only=True, tag="RESTORE"):
    """Take a session over: one ``snapshot`` buffer. The session waits for RESUME of its client."""

    session: SessionId
    """Its name."""


class Release(Message, frozen=True, kw_only=True, tag="RELEASE"):
    """A session whose snapshot was taken lives elsewhere now; its client is told with MOVED."""

    session: SessionId
    """Its name."""
    endpoint: Text
    """Where it lives."""
    resume_token: Token
    """Its token there."""
    token: Token = ""
    """As in SNAPSHOT."""


Handing = Resume | Snapshot | Restore | Release
InSession = Open | Audio | SegmentEnd | Interrupt | VideoCredit | Update | Close
FromClient = Hello | Ping | InSession | Handing
