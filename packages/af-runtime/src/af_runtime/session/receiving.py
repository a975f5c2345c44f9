"""What a session does with the messages of its client: a table of what is legal, and a function."""

from collections.abc import Mapping
from typing import Any

import attrs

from af_runtime.errors import ProtocolError
from af_runtime.messages import from_client as client
from af_runtime.messages import from_server as server
from af_runtime.messages.codes import Code
from af_runtime.session.reports import closed, report_cut_short, report_finished
from af_runtime.session.state import Phase, Session, Step
from af_runtime.session.utterances import COVER, Tag, Utterance, with_sound

MOST_WAITING = 64
"""Segments of one session that may wait."""

LEGAL: Mapping[Phase, tuple[type, ...]] = {
    Phase.QUEUED: (client.VideoCredit, client.Update, client.Close),
    Phase.OPENING: (client.VideoCredit, client.Update, client.Close),
    Phase.ACTIVE: (
        client.Audio,
        client.SegmentEnd,
        client.Interrupt,
        client.VideoCredit,
        client.Update,
        client.Close,
    ),
    Phase.DRAINING: (client.VideoCredit, client.Update, client.Close),
    Phase.CLOSED: (),
}
"""Which messages a client may send in which phase."""


def opened(session: Session, token: str = "", ttl_ms: int = 0) -> Step:
    """The avatar has seen the portrait: speech may come. The token is for RESUME."""
    window = session.rules.audio_window
    answer = server.Opened(
        session=session.name,
        audio_limit=window,
        lead_frames=session.rules.block_frames,
        pacing=session.rules.pacing,
        late_policy=session.late_policy,
        resume_token=token,
        resume_ttl_ms=ttl_ms,
    )
    return attrs.evolve(session, phase=Phase.ACTIVE, audio_limit=window), ((answer, {}),)


def receive(
    session: Session, message: client.InSession, pcm: Any = None, *, cover: int = 0
) -> Step:
    """Take a message of the client; raises `ProtocolError` for one that is not allowed now.

    ``cover`` is how many frames the avatar needs to draw something new after an interruption.
    """
    if message.seq != session.next_seq:
        raise ProtocolError(
            Code.SEQ_GAP, f"Message {session.next_seq} was due, but {message.seq} came."
        )
    if not isinstance(message, LEGAL[session.phase]):
        allowed = ", ".join(kind.__struct_config__.tag for kind in LEGAL[session.phase])
        raise ProtocolError(
            Code.BAD_MESSAGE,
            f"{type(message).__struct_config__.tag} is not allowed while the session is "
            f"{session.phase.value}; allowed: {allowed or 'nothing'}.",
        )
    session = attrs.evolve(session, next_seq=session.next_seq + 1)
    match message:
        case client.Audio():
            return _heard(session, message, pcm)
        case client.SegmentEnd():
            return _segment_ended(session, message)
        case client.Interrupt():
            return _interrupted(session, message, cover)
        case client.VideoCredit():
            limit = max(session.video_limit, message.video_limit)
            return attrs.evolve(session, video_limit=limit), ()
        case client.Update():
            return attrs.evolve(session, late_policy=message.late_policy), ()
        case client.Close(mode="drain") if session.phase is Phase.ACTIVE:
            return _drained(session)
        case client.Close(mode="drain") if session.phase is Phase.DRAINING:
            return session, ()
        case _:
            return closed(session, "aborted")


def _heard(session: Session, message: client.Audio, pcm: Any) -> Step:
    if message.sample_rate != 16_000:
        raise ProtocolError(
            Code.MEDIA_SAMPLE_RATE,
            f"Speech is taken at 16000 Hz; this is at {message.sample_rate}. Resample it.",
        )
    if pcm is None:
        raise ProtocolError(Code.BAD_MESSAGE, "AUDIO needs a buffer of the kind pcm.")
    received = session.num_received + len(pcm)
    if received > session.audio_limit:
        raise ProtocolError(
            Code.CREDIT_EXCEEDED,
            f"{received} samples have come, {session.audio_limit} were granted; wait for CREDIT.",
        )
    session = attrs.evolve(session, num_received=received)
    if message.epoch < session.epoch:
        consumed = session.num_consumed + len(pcm)
        return _stale(attrs.evolve(session, num_consumed=consumed), message.epoch)
    session = _with_utterance(session, message.segment, message.epoch)
    *before, last = session.utterances
    return report_finished(attrs.evolve(session, utterances=(*before, with_sound(last, pcm))))


def _segment_ended(session: Session, message: client.SegmentEnd) -> Step:
    if message.epoch < session.epoch:
        return _stale(session, message.epoch)
    return report_finished(_end(_with_utterance(session, message.segment, message.epoch)))


def _interrupted(session: Session, message: client.Interrupt, cover: int) -> Step:
    """End the epoch. Frames under way are shown, silent, while new ones are drawn; no more of them.

    In the mode ``block`` all of them are. Those that the avatar forgets never come.
    """
    if message.epoch != session.epoch + 1:
        raise ProtocolError(
            Code.BAD_MESSAGE,
            f"The epoch after {session.epoch} is {session.epoch + 1}, not {message.epoch}.",
        )
    most = cover if message.mode == "now" else len(session.ready) + len(session.tags)
    shown = tuple(attrs.evolve(one, tag=COVER) for one in session.ready[:most])
    left = most - len(shown)
    answer = server.Interrupted(session=session.name, epoch=message.epoch, end_pts=session.pts)
    waiting = sum(one.num_waiting for one in session.utterances)
    after = attrs.evolve(
        session,
        epoch=message.epoch,
        frames_behind=0,
        utterances=(),
        tags=tuple(
            COVER if i < left and not tag.is_discarded else Tag(is_discarded=True)
            for i, tag in enumerate(session.tags)
        ),
        ready=shown,
        is_forgetting=session.rules.can_forget,
        num_consumed=session.num_consumed + waiting,
    )
    return after, (*report_cut_short(session), (answer, {}))


def _drained(session: Session) -> Step:
    """Let no more speech come; what is open ends as a file does, without silence after it."""
    ended = tuple(attrs.evolve(one, has_ended=True) for one in session.utterances)
    return report_finished(attrs.evolve(session, phase=Phase.DRAINING, utterances=ended))


def _with_utterance(session: Session, segment: int, epoch: int) -> Session:
    """Return the session with this utterance open at the end, those before it ended."""
    if epoch > session.epoch:
        raise ProtocolError(
            Code.BAD_MESSAGE,
            f"It is epoch {session.epoch}; INTERRUPT begins the next, not speech of {epoch}.",
        )
    is_open = bool(session.utterances) and not session.utterances[-1].has_ended
    if segment == session.last_segment and is_open:
        return session
    if segment <= session.last_segment:
        raise ProtocolError(
            Code.BAD_MESSAGE,
            f"Segment {segment} has ended; the next is {session.last_segment + 1} or higher.",
        )
    if len(session.utterances) >= MOST_WAITING:
        raise ProtocolError(
            Code.TOO_LARGE, f"{MOST_WAITING} segments wait already; wait for SEGMENT_FINISHED."
        )
    session = _end(session) if is_open else session
    utterances = (*session.utterances, Utterance(segment))
    return attrs.evolve(session, utterances=utterances, last_segment=segment)


def _end(session: Session) -> Session:
    """End the last utterance; in fast pacing with the silence that brings its frames out."""
    *before, last = session.utterances
    ended = attrs.evolve(last, has_ended=True)
    if session.rules.pacing == "fast" and last.num_received:
        queued = sum(one.num_frames for one in session.utterances) + session.frames_fed
        ahead = session.rules.lookahead_frames
        silence = ahead + -(queued + ahead) % session.rules.block_frames
        ended = attrs.evolve(ended, silence_frames=silence)
    return attrs.evolve(session, utterances=(*before, ended))


def _stale(session: Session, epoch: int) -> Step:
    text = f"Speech of epoch {epoch} was discarded: it is epoch {session.epoch}."
    warning = server.Warn(session=session.name, code=Code.AUDIO_STALE, message=text)
    return session, ((warning, {}),)
