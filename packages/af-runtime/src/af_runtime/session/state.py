"""What a session remembers, as one value. No input or output, no clock.

Speech waits in utterances until a block of it is given to the avatar (`drawing.feed`). From then
on each frame has a `Tag`, which says what the frame stands for when its picture comes
(`drawing.drawn`) and is sent (`sending.send`). An interruption turns the tags, so that old pictures
are known as old.
"""

import enum
from collections.abc import Mapping
from typing import Any

import attrs
import numpy as np
from af_core.geometry import SAMPLES_PER_FRAME
from numpy.typing import NDArray

from af_runtime.messages.fields import LatePolicy, Message, Pacing
from af_runtime.session.utterances import Tag, Utterance

Picture = NDArray[np.uint8]
Outgoing = tuple[Message, Mapping[str, NDArray[Any]]]
"""A message and its buffers; ``seq`` is given when it is sent."""


class Phase(enum.Enum):
    """Where a session is in its life."""

    QUEUED = "queued"
    """All places are taken; it waits for one."""
    OPENING = "opening"
    """The avatar looks at the portrait; no speech yet."""
    ACTIVE = "active"
    DRAINING = "draining"
    """No more speech; what was said is still drawn and sent."""
    CLOSED = "closed"


@attrs.frozen
class Rules:
    """What does not change while a session lives."""

    block_frames: int
    """Frames that are drawn together."""
    lookahead_frames: int
    """Later frames of speech that a block waits for."""
    audio_window: int = 30 * 16_000
    """Samples of speech that may wait."""
    pacing: Pacing = "realtime"
    can_forget: bool = False
    """Whether the avatar forgets speech whose frames have not come out."""


@attrs.frozen(eq=False)
class Ready:
    """A frame that was drawn and not sent yet."""

    tag: Tag
    picture: Picture
    """Uint8 [H, W, 3]."""
    number: int = 0
    """How many pictures of the session were drawn before it."""


@attrs.frozen(eq=False)
class Feed:
    """A block for the avatar to hear."""

    samples: NDArray[np.float32]
    """Float32 [640 m], one block, or less if it is the last."""
    is_last: bool = False
    """Whether the avatar owes all its frames after it."""
    is_underrun: bool = False
    """Whether silence had to be put in where speech was due."""


@attrs.frozen(eq=False)
class Session:
    """The state of one session."""

    name: str
    rules: Rules
    late_policy: LatePolicy = "repeat"
    phase: Phase = Phase.OPENING
    epoch: int = 0
    next_seq: int = 1
    """Number that the client's next message must have; OPEN was 0."""
    utterances: tuple[Utterance, ...] = ()
    """Those of the present epoch that have not finished."""
    last_segment: int = -1
    frames_fed: int = 0
    """Frames of sound that the avatar has heard."""
    tags: tuple[Tag, ...] = ()
    """What is with the avatar, oldest first."""
    is_drawing: bool = False
    """Whether a block is with the avatar that it has not answered yet."""
    is_forgetting: bool = False
    """Whether the avatar was asked to forget what is on its way, and has not answered yet."""
    is_flushed: bool = False
    """Whether the avatar was told that nothing more comes."""
    num_drawn: int = 0
    """Pictures that the avatar has drawn."""
    ready: tuple[Ready, ...] = ()
    shown: Picture | None = None
    """The last picture that was sent."""
    pts: int = 0
    """Samples of media sent."""
    frames_behind: int = 0
    """Frames by which speech is shown later than if the worker had kept up."""
    video_limit: int = 0
    num_received: int = 0
    """Samples of speech received."""
    num_consumed: int = 0
    """Samples of speech given to the avatar or discarded."""
    audio_limit: int = 0

    @property
    def num_sent(self) -> int:
        """Frames sent."""
        return self.pts // SAMPLES_PER_FRAME

    @property
    def has_video_credit(self) -> bool:
        """Whether one more frame may be sent."""
        return self.num_sent < self.video_limit

    @property
    def is_speech_open(self) -> bool:
        """Whether more sound of an utterance is to come."""
        return any(not one.has_ended for one in self.utterances)


Step = tuple[Session, tuple[Outgoing, ...]]
