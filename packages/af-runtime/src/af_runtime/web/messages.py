"""What the page and the gateway say to each other, as JSON; frames and microphone are binary."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from af_runtime.errors import RequestError

CODEC_STRING = "avc1.42C028"
"""H.264 constrained baseline, level 4: what `H264Packer` writes, in the words of WebCodecs."""

Codec = Literal["h264", "jpeg"]
Name = Annotated[str, Meta(min_length=1, max_length=64)]
Count = Annotated[int, Meta(ge=0, le=2**53)]


class Command(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """Something that the page wants."""


class Start(Command, frozen=True, kw_only=True, tag="start"):
    """Begin a session, in place of the one that runs."""

    portrait: Name
    """Name of a shipped one, or what the upload of a picture was answered with."""
    seed: Annotated[int, Meta(ge=0, lt=2**32)] = 0
    codec: Codec = "jpeg"


class Microphone(Command, frozen=True, kw_only=True, tag="microphone"):
    """The microphone was switched; binary messages bring int16 samples while it is on."""

    on: bool
    sample_rate: Annotated[int, Meta(ge=8_000, le=192_000)] = 48_000


class Say(Command, frozen=True, kw_only=True, tag="say"):
    """Speak a sound that was uploaded, or ``hello``."""

    speech: Name


class Interrupt(Command, frozen=True, kw_only=True, tag="interrupt"):
    """Stop speaking now."""


class Played(Command, frozen=True, kw_only=True, tag="played"):
    """How many frames of this session the page is done with: shown, skipped or discarded."""

    frames: Count


class Stop(Command, frozen=True, kw_only=True, tag="stop"):
    """End the session."""


FromPage = Start | Microphone | Say | Interrupt | Played | Stop


class Report(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """Something that the page should know."""


class Queued(Report, frozen=True, kw_only=True, tag="queued"):
    """All places of the worker are taken: the page waits for one; comes again when it moves up."""

    position: int
    """1 is the next."""
    retry_after_s: float
    """When a place is expected."""


class Ready(Report, frozen=True, kw_only=True, tag="ready"):
    """A session has begun; frames follow."""

    preset: str
    width: int
    height: int
    seed: int
    codec: Codec
    codec_string: str
    block_ms: float
    lookahead_ms: float


class Started(Report, frozen=True, kw_only=True, tag="started"):
    """The first frame of an utterance follows."""

    segment: int


class Finished(Report, frozen=True, kw_only=True, tag="finished"):
    """An utterance has ended; no more frames of it follow."""

    segment: int
    interrupted: bool


class Interrupted(Report, frozen=True, kw_only=True, tag="interrupted"):
    """Frames before this epoch are to be discarded."""

    epoch: int


class Warned(Report, frozen=True, kw_only=True, tag="warning"):
    """Something is not as it should be, and the session goes on."""

    code: str
    message: str


class Problem(Report, frozen=True, kw_only=True, tag="error"):
    """Something was refused or has failed; ``fatal`` if the session has ended with it."""

    code: str
    message: str
    fatal: bool = False


class Ended(Report, frozen=True, kw_only=True, tag="ended"):
    """The session has ended."""


_decoder = msgspec.json.Decoder(FromPage)


def decode(text: str) -> FromPage:
    """Return a command of the page; raises `RequestError`."""
    try:
        return _decoder.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError) as e:
        raise RequestError(f"The page sent a message that cannot be read: {e}.") from e


def encode(report: Report) -> str:
    """Return a report as text."""
    return msgspec.json.encode(report).decode()
