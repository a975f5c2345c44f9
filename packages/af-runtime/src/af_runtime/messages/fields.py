"""Types of fields that many messages have, with the limits a decoder insists on."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from af_runtime.messages.buffers import Buffer

Count = Annotated[int, Meta(ge=0, le=2**53)]
"""A number that only grows; JavaScript can count as far."""

SessionId = Annotated[str, Meta(min_length=1, max_length=64)]
Word = Annotated[str, Meta(max_length=64)]
Text = Annotated[str, Meta(max_length=2048)]
Words = Annotated[tuple[Word, ...], Meta(max_length=64)]

QUEUE = "queue"
"""Name of a feature in HELLO: a session may wait for a place, and is told so by QUEUED."""
Token = Annotated[str, Meta(max_length=128)]
Heard = Annotated[dict[SessionId, Count], Meta(max_length=64)]
"""Of each session, the number of the next message that is expected: all before it have come."""

Pacing = Literal["realtime", "fast"]
LatePolicy = Literal["repeat", "catch_up", "drop", "stretch"]


class Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", omit_defaults=True):
    """Base of all messages: a table of named fields; ``type`` says which message it is."""

    buffers: Annotated[tuple[Buffer, ...], Meta(max_length=2)] = ()
    """What each buffer after the header holds, in their order."""


class OfSession(Message, frozen=True, kw_only=True):
    """Base of all messages that belong to a session."""

    session: SessionId
    """Name of the session, chosen by the client, unique at the worker."""
    seq: Count = 0
    """0, 1, 2, ... for the messages of this session in this direction; a gap is an error."""
