"""What a session tells its client about utterances: each ends in exactly one report."""

from collections.abc import Iterable

import attrs

from af_runtime.messages import from_server as server
from af_runtime.session.state import Outgoing, Phase, Session, Step
from af_runtime.session.utterances import Utterance


def closed(session: Session, reason: str) -> Step:
    """End the session now; unfinished utterances are reported as interrupted."""
    last = (server.Closed(session=session.name, reason=reason), {})
    ended = attrs.evolve(session, phase=Phase.CLOSED, utterances=(), tags=(), ready=())
    return ended, (*report_cut_short(session), last)


def report_cut_short(session: Session) -> tuple[Outgoing, ...]:
    """Report every utterance that has not finished as interrupted."""
    left = (one for one in session.utterances if not one.is_reported)
    return tuple((_finished(session, one, interrupted=True), {}) for one in left)


def report_finished(session: Session) -> Step:
    """Report the utterances that are complete, in their order."""
    done = [one for one in session.utterances if one.is_finished and not one.is_reported]
    out = tuple((_finished(session, one, interrupted=False), {}) for one in done)
    after = (
        attrs.evolve(one, is_reported=True) if one.is_finished else one
        for one in session.utterances
    )
    return attrs.evolve(session, utterances=without_done(after)), out


def without_done(utterances: Iterable[Utterance]) -> tuple[Utterance, ...]:
    """Return those that still have something to say, to be drawn or to be reported."""
    return tuple(one for one in utterances if not (one.is_reported and one.is_taken))


def _finished(session: Session, one: Utterance, *, interrupted: bool) -> server.SegmentFinished:
    return server.SegmentFinished(
        session=session.name,
        segment=one.segment,
        epoch=session.epoch,
        position=one.num_sent,
        interrupted=interrupted,
    )
