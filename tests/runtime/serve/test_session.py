"""Sessions: what was said comes back once, in order, with its own picture, whatever happens."""

import numpy as np
import pytest
from af_core.geometry import SAMPLES_PER_FRAME
from af_runtime.errors import ProtocolError
from af_runtime.messages import from_client as c
from af_runtime.messages import from_server as s
from af_runtime.messages.codes import Code
from af_runtime.session.receiving import LEGAL, receive
from af_runtime.session.state import Phase, Rules, Session
from hypothesis import given, settings
from hypothesis import strategies as st
from session_bench import SessionBench

FRAME = SAMPLES_PER_FRAME


def ramp(count, start=1):
    """Samples that are all different, so that each can be recognised."""
    return np.arange(start, start + count, dtype=np.float32)


def sound_of(bench, epoch, segment):
    """What came back of a segment, joined."""
    pieces = [
        arrays["audio"][: m.num_samples]
        for m, arrays in bench.media()
        if m.kind in ("speech", "late") and (m.epoch, m.segment) == (epoch, segment)
    ]
    return np.concatenate(pieces) if pieces else np.zeros(0, np.float32)


def test_a_file_comes_back_whole_and_the_session_closes():
    bench = SessionBench()
    bench.push(ramp(10 * FRAME + 100))
    bench.say(c.Close, mode="drain")
    bench.run()
    assert [m.kind for m, _ in bench.media()] == ["speech"] * 11
    np.testing.assert_array_equal(sound_of(bench, 0, 0), ramp(10 * FRAME + 100))
    assert bench.messages(s.SegmentFinished)[0].position == 10 * FRAME + 100
    assert [type(m) for m, _ in bench.log[-2:]] == [s.SegmentFinished, s.Closed]


def test_the_end_of_a_segment_brings_its_frames_out_though_nothing_follows():
    bench = SessionBench()
    bench.push(ramp(5 * FRAME + 1))
    bench.end()
    bench.run()
    kinds = [m.kind for m, _ in bench.media()]
    assert kinds == ["speech"] * 6 + ["idle"] * 2  # two frames fill the second block
    assert [m.segment for m in bench.messages(s.SegmentFinished)] == [0]
    assert not bench.is_closed


def test_fast_sessions_hear_the_same_however_their_messages_are_timed():
    heard = []
    for eager in (True, False):
        bench, jobs = SessionBench(), []
        for i in range(3):
            bench.push(ramp(3 * FRAME + 7, 1 + 10_000 * i))
            bench.end()
            while eager and (job := bench.feed()):
                jobs.append(job.samples)
                bench.draw()
                while bench.session.ready:
                    bench.send()
        bench.say(c.Close)
        while job := bench.feed():
            jobs.append(job.samples)
            bench.draw()
            while bench.session.ready:
                bench.send()
        heard.append(np.concatenate(jobs))
    np.testing.assert_array_equal(*heard)


def test_an_interruption_is_answered_at_once_and_old_pictures_are_not_sent():
    bench = SessionBench()
    bench.push(ramp(20 * FRAME))
    for _ in range(5):
        bench.feed()
        bench.draw()
    bench.send()
    bench.feed()  # a block is with the avatar
    before = len(bench.log)
    bench.interrupt()
    finished, interrupted = (m for m, _ in bench.log[before:])
    assert (finished.position, finished.interrupted, finished.epoch) == (FRAME, True, 0)
    assert (interrupted.epoch, interrupted.end_pts) == (1, FRAME)
    bench.push(-ramp(4 * FRAME))
    bench.say(c.Close)
    bench.run()
    later = [m for m, _ in bench.log[before:] if isinstance(m, s.Media)]
    assert {(m.epoch, m.segment) for m in later} == {(1, 1)}
    np.testing.assert_array_equal(sound_of(bench, 1, 1), -ramp(4 * FRAME))


def test_an_interruption_at_a_block_shows_what_is_under_way_without_its_sound():
    bench = SessionBench(pacing="realtime")
    bench.push(ramp(16 * FRAME))
    for _ in range(4):
        bench.feed()
        bench.draw()
    bench.interrupt("block")
    for _ in range(4):
        bench.feed(fill=True)
        bench.draw()
        while bench.session.ready:
            bench.send()
    assert [m.kind for m, _ in bench.media()] == ["idle"] * 16
    assert all("audio" not in arrays for _, arrays in bench.media())


@pytest.mark.parametrize("cover, shown", [(0, 0), (2, 2), (5, 5), (99, 7)])
def test_an_interruption_shows_no_more_old_frames_than_cover_the_new_ones(cover, shown):
    bench = SessionBench(pacing="realtime", can_forget=True)
    bench.push(ramp(40 * FRAME))
    for _ in range(4):
        bench.feed()
        bench.draw()
    bench.send()  # three of four frames are ready
    bench.feed()  # and four more are being drawn
    before = len(bench.log)
    bench.interrupt("now", cover)
    bench.push(-ramp(40 * FRAME))
    for _ in range(6):
        bench.draw()
        bench.forget()
        while bench.session.ready and bench.session.ready[0].tag.segment is None:
            bench.send()
        bench.feed()
    covers = [m for m, _ in bench.log[before:] if isinstance(m, s.Media)]
    assert [m.kind for m in covers] == ["idle"] * shown and {m.epoch for m in covers} <= {1}


def test_frames_that_the_avatar_has_forgotten_never_come_and_new_speech_follows_at_once():
    bench = SessionBench(pacing="realtime", can_forget=True)
    bench.push(ramp(20 * FRAME))
    for _ in range(4):
        bench.feed()
        bench.draw()
    while bench.session.ready:
        bench.send()
    bench.interrupt("now", 0)
    assert bench.feed(fill=True) is None  # not before the avatar has forgotten
    bench.forget()
    bench.push(-ramp(16 * FRAME))
    for _ in range(4):
        bench.feed()
        bench.draw()
    assert [one.tag.segment for one in bench.session.ready] == [1] * 4


def test_silence_where_speech_was_due_is_an_underrun_and_costs_no_sample():
    bench = SessionBench(pacing="realtime")
    bench.push(ramp(6 * FRAME))
    assert not bench.feed(fill=True).is_underrun
    bench.draw()
    assert bench.feed(fill=True).is_underrun
    bench.draw()
    bench.push(ramp(2 * FRAME, 6 * FRAME + 1))
    bench.say(c.Close)
    bench.run()
    np.testing.assert_array_equal(sound_of(bench, 0, 0), ramp(8 * FRAME))


def test_silence_before_speech_is_no_underrun():
    bench = SessionBench(pacing="realtime")
    bench.push(ramp(100))
    assert not bench.feed(fill=True).is_underrun


def refused(bench, kind, pcm=None, **fields):
    with pytest.raises(ProtocolError) as caught:
        bench.say(kind, pcm, **fields)
    return caught.value.code


SOUND = np.zeros(10, np.float32)


def test_speech_beyond_the_credit_is_refused():
    bench = SessionBench(window=1000)
    bench.push(ramp(1000))
    assert refused(bench, c.Audio, SOUND, segment=0, epoch=0) == Code.CREDIT_EXCEEDED


def test_speech_is_refused_at_another_rate_without_samples_of_a_future_epoch_or_an_old_segment():
    def fresh():
        bench = SessionBench()
        bench.push(SOUND)
        bench.end()
        return bench

    rate = {"segment": 1, "epoch": 0, "sample_rate": 24_000}
    assert refused(fresh(), c.Audio, SOUND, **rate) == Code.MEDIA_SAMPLE_RATE
    assert refused(fresh(), c.Audio, segment=1, epoch=0) == Code.BAD_MESSAGE
    assert refused(fresh(), c.Audio, SOUND, segment=1, epoch=1) == Code.BAD_MESSAGE
    assert refused(fresh(), c.Audio, SOUND, segment=0, epoch=0) == Code.BAD_MESSAGE
    assert refused(fresh(), c.SegmentEnd, segment=0, epoch=0) == Code.BAD_MESSAGE
    assert refused(fresh(), c.Interrupt, epoch=2) == Code.BAD_MESSAGE


def test_speech_of_an_old_epoch_is_discarded_with_a_warning_and_its_credit_given_back():
    bench = SessionBench(window=1000)
    bench.interrupt()
    bench.say(c.Audio, np.zeros(600, np.float32), segment=0, epoch=0)
    bench.settle()
    assert bench.messages(s.Warn)[0].code == Code.AUDIO_STALE
    assert bench.messages(s.AudioCredit)[0].audio_limit == 1600


def test_more_segments_than_may_wait_are_refused():
    bench = SessionBench()
    for _ in range(64):
        bench.push(SOUND)
        bench.end()
    assert refused(bench, c.Audio, SOUND, segment=64, epoch=0) == Code.TOO_LARGE


def test_sound_in_crumbs_comes_back_whole():
    bench = SessionBench()
    for i in range(1_000):
        bench.push([float(i)])
    assert len(bench.session.utterances[0].pieces) <= 64
    bench.say(c.Close)
    bench.run()
    np.testing.assert_array_equal(sound_of(bench, 0, 0), np.arange(1_000))


@pytest.mark.parametrize("seq", [0, 1, 3])
def test_a_gap_and_a_repetition_are_refused(seq):
    bench = SessionBench()
    bench.push(SOUND)
    with pytest.raises(ProtocolError) as caught:
        receive(bench.session, c.SegmentEnd(session="s", seq=seq, segment=0, epoch=0))
    assert caught.value.code == Code.SEQ_GAP


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("kind", LEGAL[Phase.ACTIVE])
def test_messages_outside_the_table_are_refused(phase, kind):
    session = Session("s", Rules(4, 12), phase=phase, audio_limit=100)
    needed = {"segment": 0, "epoch": 1 if kind is c.Interrupt else 0, "video_limit": 1}
    needed |= {"late_policy": "drop"}
    names = {"session", "seq", *kind.__struct_fields__}
    fields = {k: v for k, v in needed.items() if k in names}
    message = kind(session="s", seq=1, **fields)
    if kind in LEGAL[phase]:
        receive(session, message, SOUND)
    else:
        with pytest.raises(ProtocolError):
            receive(session, message, SOUND)


ACTIONS = st.one_of(
    st.tuples(st.just("push"), st.integers(1, 3000)),
    st.tuples(st.sampled_from(["feed", "draw", "send", "settle"])),
    st.tuples(st.sampled_from(["feed", "draw", "send"])),
    st.tuples(st.sampled_from(["end", "fill", "repeat"])),
    st.tuples(st.just("interrupt"), st.sampled_from(["now", "block"]), st.integers(0, 6)),
    st.tuples(st.just("forget")),
    st.tuples(st.just("credit"), st.integers(0, 40)),
)


def play(bench, actions):
    said = 1
    for name, *rest in actions:
        if name == "push":
            room = bench.session.audio_limit - bench.session.num_received
            if count := min(rest[0], room):
                bench.push(ramp(count, said))
                said += count
        elif name == "fill":
            bench.feed(fill=bench.session.rules.pacing == "realtime")
        elif name == "credit":
            bench.say(c.VideoCredit, video_limit=rest[0])
        else:
            getattr(bench, name)(*rest)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(ACTIONS, max_size=60),
    st.sampled_from(["fast", "realtime"]),
    st.sampled_from([(1, 0), (4, 12), (4, 3), (16, 48)]),
    st.booleans(),
)
def test_nothing_is_lost_doubled_or_misordered_whatever_happens(actions, pacing, sizes, can_forget):
    bench = SessionBench(pacing, *sizes, video_limit=3, can_forget=can_forget)
    play(bench, actions)
    if not bench.is_closed:
        bench.say(c.VideoCredit, video_limit=10**6)
        bench.say(c.Close)
        bench.run()
    assert bench.is_closed
    media = bench.media()
    assert [m.pts for m, _ in media] == [FRAME * i for i in range(len(media))]
    assert [m.epoch for m, _ in media] == sorted(m.epoch for m, _ in media)
    for m, arrays in media:
        if m.kind == "speech":
            assert arrays["video"][0] == arrays["audio"].sum(dtype=np.float64)
    reports = {(m.epoch, m.segment): m for m in bench.messages(s.SegmentFinished)}
    assert len(reports) == len(bench.messages(s.SegmentFinished))
    assert set(reports) == set(bench.pushed)
    for key, pieces in bench.pushed.items():
        said = np.concatenate([*pieces, np.zeros(0, np.float32)])
        back = sound_of(bench, *key)
        np.testing.assert_array_equal(back, said[: len(back)])
        assert reports[key].position == len(back)
        assert reports[key].interrupted or len(back) == len(said)
        assert not reports[key].interrupted or key[0] < bench.epoch
    started = [(m.epoch, m.segment) for m in bench.messages(s.SegmentStarted)]
    assert started == sorted({(m.epoch, m.segment) for m, _ in media if m.kind == "speech"})
