"""What a session sends: frames that are ready, credit for more speech, and its end."""

from typing import Any

import attrs
from af_core.geometry import SAMPLES_PER_FRAME
from numpy.typing import NDArray

from af_runtime.messages import from_server as server
from af_runtime.session.drawing import fallen_behind
from af_runtime.session.reports import closed, report_finished
from af_runtime.session.state import Phase, Session, Step
from af_runtime.session.utterances import Tag, Utterance


def send(session: Session, *, is_late: bool = False) -> Step:
    """Send the next frame that is ready, within the credit; ``is_late`` keeps back its picture."""
    first, *rest = session.ready
    tag, out = first.tag, []
    if tag.segment is not None and _starts(session, tag):
        out.append((_started(session, tag.segment), {}))
    buffers: dict[str, NDArray[Any]] = {} if is_late else {"video": first.picture}
    if tag.sound is not None:
        buffers["audio"] = tag.sound
    out.append((_media(session, tag, is_late), buffers))
    after = attrs.evolve(
        session,
        ready=tuple(rest),
        shown=session.shown if is_late else first.picture,
        pts=session.pts + SAMPLES_PER_FRAME,
        utterances=_counted(session.utterances, tag),
    )
    after, finished = report_finished(after)
    return after, (*out, *finished)


def repeat(session: Session) -> Step:
    """Send the last picture again, within the credit."""
    assert session.shown is not None
    message = server.Media(
        session=session.name, epoch=session.epoch, pts=session.pts, kind="repeat"
    )
    after = attrs.evolve(fallen_behind(session, 1), pts=session.pts + SAMPLES_PER_FRAME)
    return after, ((message, {"video": session.shown}),)


def granted(session: Session) -> Step:
    """Raise the limit of the client's speech, once half of the window is free."""
    limit = session.num_consumed + session.rules.audio_window
    if session.phase in (Phase.QUEUED, Phase.OPENING):
        return session, ()  # OPENED brings the first
    if limit - session.audio_limit < session.rules.audio_window // 2:
        return session, ()
    credit = server.AudioCredit(session=session.name, audio_limit=limit)
    return attrs.evolve(session, audio_limit=limit), ((credit, {}),)


def settled(session: Session) -> Step:
    """Close a session that drains, when nothing is left to draw or send."""
    has_more = session.is_drawing or session.ready or not session.is_flushed
    if session.phase is not Phase.DRAINING or has_more:
        return session, ()
    return closed(session, "drained")


def _started(session: Session, segment: int) -> server.SegmentStarted:
    return server.SegmentStarted(
        session=session.name, segment=segment, epoch=session.epoch, pts=session.pts
    )


def _media(session: Session, tag: Tag, is_late: bool) -> server.Media:
    kind = "idle" if tag.segment is None else "speech"
    return server.Media(
        session=session.name,
        epoch=session.epoch,
        pts=session.pts,
        kind="late" if is_late else kind,
        segment=tag.segment or 0,
        num_samples=tag.num_samples,
        num_skipped=tag.num_skipped,
    )


def _counted(utterances: tuple[Utterance, ...], tag: Tag) -> tuple[Utterance, ...]:
    """Note that a frame of an utterance was sent."""
    return tuple(
        attrs.evolve(one, num_sent=one.num_sent + tag.num_samples, has_started=True)
        if one.segment == tag.segment
        else one
        for one in utterances
    )


def _starts(session: Session, tag: Tag) -> bool:
    """Whether a frame is the first of its utterance."""
    return any(one.segment == tag.segment and not one.has_started for one in session.utterances)
