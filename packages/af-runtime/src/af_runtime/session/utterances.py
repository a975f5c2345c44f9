"""Speech that a session has received: utterances, cut into the sound of single frames."""

from collections.abc import Sequence

import attrs
import numpy as np
from af_core.geometry import SAMPLES_PER_FRAME
from numpy.typing import NDArray

Sound = NDArray[np.float32]

MOST_PIECES = 64
"""Pieces of sound that wait side by side; when there are more, they are joined."""

QUIET = 0.005
"""A frame in which no sample is larger (-46 dB of full scale) is a pause of the speaker."""

KEPT_QUIET = 2
"""Frames of a pause that are always drawn: it stays a pause, and a word begins softly."""


@attrs.frozen(eq=False)
class Tag:
    """What a frame stands for, from the moment its sound is given to the avatar."""

    segment: int | None = None
    """The utterance; None if nothing is said."""
    sound: Sound | None = None
    """Float32 [640]; None is silence."""
    num_samples: int = 0
    """Samples of ``sound`` that came from the client."""
    num_skipped: int = 0
    """Samples of a pause that were left out before ``sound``, to catch up."""
    is_discarded: bool = False
    """Whether its picture is of no use any more."""
    is_cover: bool = False
    """Whether it was drawn before an interruption, and is shown until something new is."""


IDLE = Tag()
"""A frame in which nothing is said."""

COVER = Tag(is_cover=True)
"""A frame that was under way when its epoch ended: its picture is shown, its sound is not heard."""


@attrs.frozen(eq=False)
class Utterance:
    """One segment: what of it waits, and how much has come and gone."""

    segment: int
    pieces: tuple[Sound, ...] = ()
    """Sound that was not given to the avatar yet."""
    num_waiting: int = 0
    """Samples of ``pieces`` together."""
    num_received: int = 0
    num_sent: int = 0
    """Samples that were sent back with frames."""
    num_skipped: int = 0
    """Samples that were left out."""
    silence_frames: int = 0
    """Frames of silence to give to the avatar after the sound."""
    has_started: bool = False
    """Whether a frame of it was sent."""
    has_ended: bool = False
    """Whether the client has said that no more comes."""
    is_reported: bool = False
    """Whether the client was told that it has finished."""

    @property
    def is_taken(self) -> bool:
        """Whether all of it is with the avatar."""
        return self.has_ended and self.num_waiting == 0 and self.silence_frames == 0

    @property
    def is_finished(self) -> bool:
        """Whether all of it was sent back, but for what was left out."""
        return self.has_ended and self.num_sent + self.num_skipped == self.num_received

    @property
    def num_frames(self) -> int:
        """Frames that wait, the last one filled up, silence included."""
        return -(-self.num_waiting // SAMPLES_PER_FRAME) + self.silence_frames


def with_sound(utterance: Utterance, sound: Sound) -> Utterance:
    """Return the utterance with more sound at its end; many small pieces become one."""
    pieces = (*utterance.pieces, sound)
    return attrs.evolve(
        utterance,
        pieces=pieces if len(pieces) <= MOST_PIECES else (np.concatenate(pieces),),
        num_waiting=utterance.num_waiting + len(sound),
        num_received=utterance.num_received + len(sound),
    )


def take_frame(utterances: Sequence[Utterance]) -> tuple[Tag | None, tuple[Utterance, ...]]:
    """Return the tag of the next frame that may be drawn, and what is left; None if none may.

    A frame needs 640 samples, or fewer and the end of the utterance.
    """
    for i, one in enumerate(utterances):
        if one.is_taken:
            continue
        if one.num_waiting >= SAMPLES_PER_FRAME or (one.has_ended and one.num_waiting):
            tag, rest = _cut(one)
        elif one.has_ended:
            tag, rest = IDLE, attrs.evolve(one, silence_frames=one.silence_frames - 1)
        else:
            break
        return tag, (*utterances[:i], rest, *utterances[i + 1 :])
    return None, tuple(utterances)


def skip_pause(utterances: Sequence[Utterance], most: int) -> tuple[int, tuple[Utterance, ...]]:
    """Leave out frames of a pause that would be next, ``most`` of them at most.

    Return how many, and what is left. The last `KEPT_QUIET` frames of a pause stay.
    """
    i = next((i for i, one in enumerate(utterances) if not one.is_taken), None)
    count = 0 if i is None else min(most, _quiet_frames(utterances[i], most + KEPT_QUIET))
    if i is None or count <= 0:
        return 0, tuple(utterances)
    one, size = utterances[i], count * SAMPLES_PER_FRAME
    rest = attrs.evolve(
        one,
        pieces=(np.concatenate(one.pieces)[size:],),
        num_waiting=one.num_waiting - size,
        num_skipped=one.num_skipped + size,
    )
    return count, (*utterances[:i], rest, *utterances[i + 1 :])


def _quiet_frames(utterance: Utterance, most: int) -> int:
    """Return how many quiet frames are next, of so many that are looked at, less those that stay.

    Only whole frames are looked at.
    """
    count = min(most, utterance.num_waiting // SAMPLES_PER_FRAME)
    if count <= KEPT_QUIET:
        return 0
    sound = np.concatenate(utterance.pieces)[: count * SAMPLES_PER_FRAME]
    is_loud = np.abs(sound.reshape(count, SAMPLES_PER_FRAME)).max(axis=1) > QUIET
    return (int(is_loud.argmax()) if is_loud.any() else count) - KEPT_QUIET


def _cut(utterance: Utterance) -> tuple[Tag, Utterance]:
    """Cut the next frame off the sound that waits; silence fills it if it is the last."""
    sound, used = np.zeros(SAMPLES_PER_FRAME, np.float32), 0
    pieces = list(utterance.pieces)
    while pieces and used < SAMPLES_PER_FRAME:
        count = min(len(pieces[0]), SAMPLES_PER_FRAME - used)
        sound[used : used + count] = pieces[0][:count]
        used += count
        pieces[0] = pieces[0][count:]
        if not len(pieces[0]):
            del pieces[0]
    rest = attrs.evolve(utterance, pieces=tuple(pieces), num_waiting=utterance.num_waiting - used)
    return Tag(utterance.segment, sound, used), rest
