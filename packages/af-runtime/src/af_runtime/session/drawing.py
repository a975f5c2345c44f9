"""Between a session and its avatar: blocks of speech go in, pictures come back."""

import itertools
from collections.abc import Iterable

import attrs
import numpy as np
from af_core.geometry import SAMPLES_PER_FRAME
from numpy.typing import NDArray

from af_runtime.session.reports import without_done
from af_runtime.session.state import Feed, Phase, Picture, Ready, Session
from af_runtime.session.utterances import IDLE, Tag, Utterance, skip_pause, take_frame


def feed(session: Session, *, fill: bool) -> tuple[Session, Feed | None]:
    """Take the next block for the avatar, if it may draw one now; ``fill`` puts in silence.

    The avatar draws one block at a time, and only while fewer frames than a block wait to be sent.
    """
    if not _may_draw(session):
        return session, None
    size = session.rules.block_frames
    tags, utterances = _take_frames(session.utterances, size, may_skip=_may_skip(session))
    missing = size - len(tags)
    is_last = missing > 0 and session.phase is Phase.DRAINING
    if missing and not is_last and not fill:
        return session, None
    is_underrun = not is_last and missing > 0 and _is_under_way(session)
    if not is_last:
        begin = _begin_of_new(session, tags)
        tags[begin:begin] = [IDLE] * missing
    all_tags = (*session.tags, *tags)
    num_skipped = sum(tag.num_skipped for tag in tags)
    after = attrs.evolve(
        session,
        utterances=utterances,
        tags=_without_idle_tail(all_tags) if is_last else all_tags,
        frames_fed=session.frames_fed + len(tags),
        num_consumed=session.num_consumed + sum(tag.num_samples for tag in tags) + num_skipped,
        frames_behind=0 if missing else session.frames_behind - num_skipped // SAMPLES_PER_FRAME,
        is_drawing=True,
        is_flushed=is_last,
    )
    return after, Feed(_sound(tags), is_last, is_underrun)


def drawn(session: Session, pictures: Picture) -> Session:
    """The avatar has answered a block with pictures [m, H, W, 3], m >= 0."""
    tags = session.tags[: len(pictures)]
    assert len(tags) == len(pictures), "an avatar draws one frame for each 640 samples"
    numbered = zip(tags, pictures, itertools.count(session.num_drawn), strict=False)
    fresh = (Ready(*one) for one in numbered if not one[0].is_discarded)
    return attrs.evolve(
        session,
        tags=session.tags[len(pictures) :],
        ready=(*session.ready, *fresh),
        num_drawn=session.num_drawn + len(pictures),
        is_drawing=False,
    )


def forgotten(session: Session, num_owed: int) -> Session:
    """The avatar has forgotten what had not come out, but for so many frames."""
    kept = session.tags[:num_owed]
    fed = session.frames_fed - (len(session.tags) - len(kept))
    return attrs.evolve(session, tags=kept, frames_fed=fed, is_forgetting=False)


def _take_frames(
    utterances: tuple[Utterance, ...], count: int, *, may_skip: int
) -> tuple[list[Tag], tuple[Utterance, ...]]:
    """Take as many frames as may be drawn, ``count`` at most; leave out so many of pauses."""
    tags: list[Tag] = []
    while len(tags) < count:
        skipped, utterances = skip_pause(utterances, may_skip) if may_skip else (0, utterances)
        may_skip -= skipped
        tag, utterances = take_frame(utterances)
        if tag is None:
            break
        tags.append(attrs.evolve(tag, num_skipped=skipped * SAMPLES_PER_FRAME) if skipped else tag)
    return tags, without_done(utterances)


def _may_skip(session: Session) -> int:
    """Return how many frames of pauses may be left out: as many as the session is behind.

    What has come must still fill a block, so that the avatar waits for nothing.
    """
    is_live = session.phase is Phase.ACTIVE and session.late_policy == "catch_up"
    if not session.frames_behind or not is_live:
        return 0
    num_waiting = sum(one.num_frames for one in session.utterances)
    return max(0, min(session.frames_behind, num_waiting - session.rules.block_frames))


def fallen_behind(session: Session, frames: int) -> Session:
    """So many frames have passed in which speech could not go on, if any is being said."""
    if not session.utterances or session.rules.pacing == "fast":
        return session
    return attrs.evolve(session, frames_behind=session.frames_behind + frames)


def _may_draw(session: Session) -> bool:
    is_full = len(session.ready) >= session.rules.block_frames
    is_alive = session.phase in (Phase.ACTIVE, Phase.DRAINING)
    is_busy = session.is_drawing or session.is_forgetting
    return is_alive and not (is_busy or session.is_flushed or is_full)


def _is_under_way(session: Session) -> bool:
    """Whether an utterance has begun, and more of it is to come."""
    open_ones = (one for one in session.utterances if not one.has_ended)
    return any(one.num_waiting < one.num_received for one in open_ones)


def _begin_of_new(session: Session, tags: list[Tag]) -> int:
    """Return where silence may go: before an utterance that has just begun, else at the end.

    Silence after its first frames would be a gap in a word.
    """
    new = {
        one.segment
        for one in session.utterances
        if not one.has_ended and one.num_waiting == one.num_received
    }
    return next((i for i, tag in enumerate(tags) if tag.segment in new), len(tags))


def _without_idle_tail(tags: tuple[Tag, ...]) -> tuple[Tag, ...]:
    """Discard the frames after the last speech: the session ends with it."""
    last = max((i for i, tag in enumerate(tags) if tag.segment is not None), default=-1)
    tail = len(tags) - last - 1
    return (*tags[: last + 1], *[Tag(is_discarded=True)] * tail)


def _sound(tags: Iterable[Tag]) -> NDArray[np.float32]:
    silence = np.zeros(SAMPLES_PER_FRAME, np.float32)
    pieces = [silence if tag.sound is None else tag.sound for tag in tags]
    return np.concatenate(pieces) if pieces else silence[:0]
