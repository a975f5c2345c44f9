"""Whatever a client sends, the worker answers the others, and keeps nothing that has ended."""

import threading

import msgspec
import numpy as np
import pytest
from af_core.geometry import SAMPLES_PER_FRAME
from af_core.testing.tiny import tiny_avatar
from af_runtime.errors import ServiceError
from af_runtime.messages import from_client as c
from af_runtime.messages import from_server as s
from af_runtime.messages.codec import decode_from_server, encode
from af_runtime.messages.codes import Code
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import expected, face, serving, speech

SOUND = np.ones(SAMPLES_PER_FRAME, np.float32)
NUMBERS = st.sampled_from([0, 0, 0, 1, 1, 2, 3, 2**53])


NAMES = st.sampled_from(["x", "y"])
TOKENS = st.text(max_size=8)


def with_fields(kind, **fields):
    return st.builds(kind, session=NAMES, seq=NUMBERS, **fields)


MESSAGES = st.one_of(
    with_fields(c.Open, video_limit=NUMBERS, portrait=st.sampled_from(["ada", "", "../ada"])),
    with_fields(c.Audio, segment=NUMBERS, epoch=NUMBERS, sample_rate=st.sampled_from([16_000, 8])),
    with_fields(c.SegmentEnd, segment=NUMBERS, epoch=NUMBERS),
    with_fields(c.Interrupt, epoch=NUMBERS, mode=st.sampled_from(["now", "block"])),
    with_fields(c.VideoCredit, video_limit=NUMBERS),
    with_fields(c.Close, mode=st.sampled_from(["drain", "abort"])),
    st.builds(c.Hello, min_version=NUMBERS, max_version=NUMBERS),
    st.builds(c.Resume, session=NAMES, token=TOKENS, next_seq=NUMBERS),
    st.builds(c.Snapshot, session=NAMES, token=TOKENS),
    st.builds(c.Restore, session=NAMES),
    st.builds(c.Release, session=NAMES, endpoint=TOKENS, resume_token=TOKENS, token=TOKENS),
)


@pytest.fixture(scope="module")
def service():
    with serving(resume_ttl_s=0.0) as running:
        yield running


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(MESSAGES, st.lists(st.binary(max_size=40), max_size=3)), max_size=25))
def test_any_sequence_of_messages_leaves_a_worker_that_answers(service, actions):
    line, seq = service.transport.connect(), {"x": 0, "y": 0}
    for i, action in enumerate(actions):
        if isinstance(action, list):
            line.send(action)
            continue
        if hasattr(action, "seq") and i % 4:  # mostly in order, to get further
            seq[action.session] = 0 if isinstance(action, c.Open) else seq[action.session] + 1
            action = msgspec.structs.replace(action, seq=seq[action.session])
        arrays = {"pcm": SOUND} if isinstance(action, c.Audio) else {}
        arrays |= {"snapshot": SOUND.view(np.uint8)} if isinstance(action, c.Restore) else {}
        line.send(encode(action, **arrays))
    line.send(encode(c.Ping(nonce=77)))
    while True:
        message = decode_from_server(line.receive(10)).message
        assert not (isinstance(message, s.Error) and message.code == Code.INTERNAL)
        if isinstance(message, s.Pong) and message.nonce == 77:
            break
    line.close()


def test_many_sessions_leave_nothing_behind():
    with serving() as service, service.client() as client:
        threads = threading.active_count()
        for i in range(40):
            stream = client.open("ada", pacing="fast" if i % 2 else "realtime")
            stream.push_audio(SOUND.repeat(5), 16_000)
            if i % 3:
                stream.finish()
                assert [f for f in stream if not f.idle][-1].segment == 0
            else:
                stream.close()
        assert _settles(lambda: service.server.num_sessions == 0)
        assert _settles(lambda: not service.server._worker._states)
        assert threading.active_count() == threads


def _settles(is_so):
    event = threading.Event()
    return any(is_so() or event.wait(0.05) for _ in range(200))


def test_a_client_that_never_reads_holds_up_no_other():
    avatar = tiny_avatar()
    samples = speech(30 * SAMPLES_PER_FRAME)
    with serving(avatar) as service:
        lazy = service.transport.connect()
        lazy.send(encode(c.Open(session="lazy", portrait="ada", video_limit=4, pacing="fast")))
        lazy.send(encode(c.Ping()))
        with service.client() as client:
            stream = client.open("ada", pacing="fast")
            stream.push_audio(samples, 16_000)
            stream.finish()
            video = np.stack([frame.video for frame in stream])
        np.testing.assert_array_equal(video, expected(avatar, face(avatar), samples))


def test_a_fault_of_the_worker_itself_ends_one_session(monkeypatch):
    from af_runtime import hosting

    drawn = hosting.drawn

    def faulty(session, pictures):
        if session.late_policy == "drop":
            raise KeyError("a bug")
        return drawn(session, pictures)

    monkeypatch.setattr(hosting, "drawn", faulty)
    with serving() as service, service.client() as client:
        good = client.open("ada", pacing="fast")
        bad = client.open("ada", pacing="fast", late_policy="drop")
        for stream in (good, bad):
            stream.push_audio(speech(4_000), 16_000)
        bad.finish()
        with pytest.raises(ServiceError) as caught:
            list(bad)
        assert caught.value.code == Code.INTERNAL
        good.finish()
        assert len(list(good)) == 7
