"""The stream worker, end to end: the same video as in one process, whatever else goes on."""

import asyncio
import threading
import time

import attrs
import numpy as np
import pytest
from af_core.geometry import SAMPLES_PER_FRAME
from af_core.testing.tiny import tiny_avatar
from af_runtime.client import AsyncAvatarClient, SegmentFinished, SegmentStarted
from af_runtime.errors import ConnectionLostError, RequestError, ServiceError, UnavailableError
from af_runtime.messages import from_client as c
from af_runtime.messages import from_server as s
from af_runtime.messages.codec import decode_from_server, encode
from af_runtime.messages.codes import Code
from af_runtime.transport.inproc import InprocServer
from af_runtime.transport.zeromq import ZmqServer
from serving import expected, face, serving, speech

FRAME = SAMPLES_PER_FRAME
TRANSPORTS = {"inproc": InprocServer, "tcp": lambda: ZmqServer("tcp://127.0.0.1:*")}


@pytest.fixture(params=TRANSPORTS)
def service(request):
    with serving(transport=TRANSPORTS[request.param]()) as running:
        yield running


def all_of(stream):
    frames = list(stream)
    return frames, np.stack([frame.video for frame in frames])


def test_a_clip_is_byte_for_byte_that_of_the_avatar_in_one_process(service):
    samples, portrait = speech(9 * FRAME + 123), face(service.avatar)
    with service.client() as client, client.open(portrait, seed=5, pacing="fast") as stream:
        for piece in np.array_split(samples, 7):
            stream.push_audio(piece, 16_000)
        stream.finish()
        frames, video = all_of(stream)
    np.testing.assert_array_equal(video, expected(service.avatar, portrait, samples, seed=5))
    sound = np.concatenate([frame.audio[: frame.num_samples] for frame in frames])
    np.testing.assert_array_equal(sound, samples)
    assert [frame.pts for frame in frames] == [FRAME * i for i in range(len(frames))]


def test_sessions_side_by_side_do_not_see_each_other(service):
    portraits = [face(service.avatar, shade) for shade in (10, 120)]
    sounds = [speech(8 * FRAME, seed) for seed in (1, 2)]
    with service.client() as client:
        streams = [client.open(p, seed=i, pacing="fast") for i, p in enumerate(portraits)]
        for stream, sound in zip(streams, sounds, strict=True):
            stream.push_audio(sound, 16_000)
        for stream in streams:
            stream.finish()
        for i, stream in enumerate(streams):
            _, video = all_of(stream)
            truth = expected(service.avatar, portraits[i], sounds[i], seed=i)
            np.testing.assert_array_equal(video, truth)


def test_who_waits_for_credit_waits_no_longer_when_the_stream_is_closed():
    with serving(audio_window=4 * FRAME) as service, service.client() as client:
        stream = client.open("ada")
        thread = threading.Thread(target=stream.push_audio, args=(speech(400 * FRAME), 16_000))
        thread.start()
        time.sleep(0.2)
        stream.close()
        thread.join(10)
        assert not thread.is_alive()


def test_a_window_of_one_frame_and_little_audio_credit_only_slow_things_down():
    samples = speech(10 * FRAME)
    with serving(audio_window=4 * FRAME) as service, service.client() as client:
        stream = client.open("ada", pacing="fast", window=1)
        thread = threading.Thread(
            target=lambda: (stream.push_audio(samples, 16_000), stream.finish())
        )
        thread.start()
        _, video = all_of(stream)
        thread.join()
        np.testing.assert_array_equal(
            video, expected(service.avatar, face(service.avatar), samples)
        )


def test_speech_of_another_rate_is_resampled_by_the_client():
    with serving() as service, service.client() as client:
        stream = client.open("ada", pacing="fast")
        stream.push_audio((speech(24_000) * 32767).astype(np.int16), 24_000)
        stream.finish()
        frames, _ = all_of(stream)
        assert sum(frame.num_samples for frame in frames) == 16_000


def test_credit_that_crosses_the_end_of_its_session_is_no_mistake():
    with serving() as service:
        line = service.transport.connect()

        def say(message):
            line.send(encode(message))

        def answer():
            return decode_from_server(line.receive(20)).message

        say(c.Hello(min_version=1, max_version=1))
        say(c.Open(session="x", portrait="ada", video_limit=0))
        say(c.Close(session="x", seq=1))
        say(c.VideoCredit(session="x", seq=2, video_limit=9))
        say(c.VideoCredit(session="y", seq=2, video_limit=9))
        kinds = [answer() for _ in range(3)]
        assert [type(one) for one in kinds] == [s.HelloOk, s.Closed, s.Error]
        assert (kinds[2].session, kinds[2].code) == ("y", Code.SESSION_UNKNOWN)
        say(c.Open(session="x", portrait="ada", video_limit=0))
        assert isinstance(answer(), s.Opened)


def test_a_segment_is_reported_with_its_position_while_the_session_goes_on():
    with serving() as service, service.client() as client:
        stream = client.open("ada", pacing="fast")
        stream.push_audio(speech(5 * FRAME + 1), 16_000)
        assert stream.end_segment() == 0
        spoken = [stream.next_frame(5) for _ in range(6)]
        assert [frame.segment for frame in spoken] == [0] * 6
        events = []
        while len(events) < 2:
            events += stream.events()
        assert events == [SegmentStarted(0, 0, 0), SegmentFinished(0, 0, 5 * FRAME + 1, False)]


def test_in_real_time_silence_is_shown_and_an_interruption_is_not():
    with serving() as service, service.client() as client, client.open("ada") as stream:
        assert stream.next_frame(5).idle
        stream.push_audio(speech(60 * FRAME), 16_000)
        while (frame := stream.next_frame(5)).idle:
            pass
        assert frame.epoch == 0
        stream.interrupt()
        after = [stream.next_frame(5) for _ in range(4)]
        assert all(frame.epoch == 1 and frame.idle for frame in after)
        finished = [event for event in stream.events() if isinstance(event, SegmentFinished)]
        assert [(event.segment, event.interrupted) for event in finished] == [(0, True)]


def test_frames_of_real_time_come_no_faster_than_their_time():
    with serving() as service, service.client() as client, client.open("ada") as stream:
        first = stream.next_frame(5)
        began = time.monotonic()
        for _ in range(10):
            last = stream.next_frame(5)
        elapsed = time.monotonic() - began
    assert elapsed > 0.8 * (last.pts - first.pts) / 16_000


@attrs.frozen
class Breaking:
    """A runner that fails at its second step if the seed is odd."""

    inner: object

    def open(self, opening):
        return (self.inner.open(opening), opening.seeds[0] % 2, 0)

    def step(self, state, inputs):
        inner, is_odd, steps = state
        if is_odd and steps == 1:
            raise RuntimeError("the model broke")
        made, inner = self.inner.step(inner, inputs)
        return made, (inner, is_odd, steps + 1)

    def flush(self, state):
        made, inner = self.inner.flush(state[0])
        return made, (inner, *state[1:])


def test_a_stream_that_fails_closes_alone():
    avatar = tiny_avatar()
    runners = {name: Breaking(runner) for name, runner in avatar.runners.items()}
    samples = speech(12 * FRAME)
    with serving(attrs.evolve(avatar, runners=runners)) as service, service.client() as client:
        good = client.open("ada", seed=0, pacing="fast")
        bad = client.open("ada", seed=1, pacing="fast")
        for stream in (good, bad):
            stream.push_audio(samples, 16_000)
        good.finish()
        with pytest.raises(ServiceError, match="the model broke") as caught:
            list(bad)
        assert caught.value.code == Code.STAGE_FAILED
        _, video = all_of(good)
        np.testing.assert_array_equal(video, expected(avatar, face(avatar), samples))


def test_requests_that_cannot_be_met_are_refused_with_their_code():
    with serving(max_sessions=2) as service, service.client() as client:
        with pytest.raises(ServiceError) as caught:
            client.open("nobody")
        assert caught.value.code == Code.REFERENCE_REJECTED
        with pytest.raises(ServiceError) as caught:
            client.open(np.zeros((8, 8, 3), np.uint8))
        assert caught.value.code == Code.REFERENCE_REJECTED
        streams = [client.open("ada") for _ in range(2)]
        with pytest.raises(ServiceError) as caught:
            client.open("ada")
        assert caught.value.code == Code.ADMIT_FULL and caught.value.retryable
        streams[0].close()
        assert any(_opens(client) for _ in range(50))  # the place is free again


def _opens(client):
    try:
        client.open("ada")
    except ServiceError:
        time.sleep(0.02)
        return False
    return True


def test_a_worker_that_drains_finishes_what_runs_and_takes_nothing_new():
    with serving() as service, service.client() as client:
        stream = client.open("ada", pacing="fast")
        stream.push_audio(speech(8 * FRAME), 16_000)
        service.server.drain(10)
        with pytest.raises(ServiceError) as caught:
            client.open("ada")
        assert caught.value.code == Code.ADMIT_DRAINING
        stream.finish()
        assert len(list(stream)) == 8


def test_a_session_that_outlives_the_drain_ends_with_an_error_and_no_truncated_video():
    with serving() as service, service.client() as client:
        stream = client.open("ada", pacing="fast")
        stream.push_audio(speech(8 * FRAME), 16_000)
        service.server.drain(0.1)
        with pytest.raises(ServiceError) as caught:
            list(stream)
        assert caught.value.code == Code.ADMIT_DRAINING and caught.value.retryable


def test_memory_that_runs_out_ends_one_session():
    avatar = tiny_avatar()

    class Hungry:
        def encode(self, images):
            if images.max() < 20:
                raise MemoryError("no more")
            return avatar.encode_portrait.encode(images)

    hungry = attrs.evolve(avatar, encode_portrait=Hungry())
    with serving(hungry) as service, service.client() as client:
        with pytest.raises(ServiceError) as caught:
            client.open(np.zeros_like(face(avatar)))
        assert caught.value.code == Code.STAGE_OOM
        assert not client.open("ada").next_frame(5).num_samples


def test_a_client_that_went_away_leaves_no_session_behind():
    with serving(silence_s=0.3) as service:
        client = service.client()
        client.open("ada")
        client.close()
        deadline = time.monotonic() + 10
        while service.server.num_sessions and time.monotonic() < deadline:
            time.sleep(0.02)
        assert service.server.num_sessions == 0


def test_garbage_is_answered_with_an_error_and_the_worker_goes_on(service):
    with service.client() as client:
        for frames in ([b"GET /"], [b"AFW1", b"\xc1"], [b"AFW1", b"\x80", b"more"]):
            client._link._outbox.append(frames)
        stream = client.open("ada", pacing="fast")
        stream.push_audio(speech(4 * FRAME), 16_000)
        stream.finish()
        assert len(list(stream)) == 4


def raw(transport, message):
    transport.send(encode(message))


def answer_of(transport, kind):
    while True:
        message = decode_from_server(transport.receive(5)).message
        if isinstance(message, kind):
            return message


def test_a_version_that_is_not_spoken_and_a_gap_are_told_to_the_client():
    with serving() as service:
        line = service.transport.connect()
        raw(line, c.Hello(min_version=7, max_version=9))
        assert answer_of(line, s.Error).code == Code.VERSION
        raw(line, c.Open(session="x", portrait="ada", video_limit=1))
        answer_of(line, s.Opened)
        raw(line, c.SegmentEnd(session="x", seq=2, segment=0, epoch=0))
        error = answer_of(line, s.Error)
        assert (error.code, error.session, error.fatal) == (Code.SEQ_GAP, "x", True)
        assert answer_of(line, s.Closed).reason == Code.SEQ_GAP
        raw(line, c.Close(session="x", seq=3))
        assert answer_of(line, s.Error).code == Code.SESSION_UNKNOWN


def test_a_session_belongs_to_the_connection_that_opened_it():
    with serving() as service:
        owner, other = service.transport.connect(), service.transport.connect()
        raw(owner, c.Open(session="x", portrait="ada", video_limit=1))
        answer_of(owner, s.Opened)
        raw(other, c.Close(session="x", seq=1, mode="abort"))
        assert answer_of(other, s.Error).code == Code.SESSION_UNKNOWN
        raw(other, c.Open(session="x", portrait="ada", video_limit=1))
        assert answer_of(other, s.Error).code == Code.SESSION_EXISTS


def test_an_endpoint_that_is_taken_or_wrong_is_a_plain_error():
    first = ZmqServer("tcp://127.0.0.1:*")
    try:
        with pytest.raises(UnavailableError, match="is in use"):
            ZmqServer(first.endpoint)
        with pytest.raises(RequestError, match="no endpoint"):
            ZmqServer("127.0.0.1:5700")
    finally:
        first.close()


def test_a_client_without_a_worker_says_so():
    from af_runtime.client import AvatarClient

    with pytest.raises(ConnectionLostError, match="af-runtime serve"):
        AvatarClient("tcp://127.0.0.1:9", timeout_s=0.2)


def test_the_client_of_asyncio_gives_the_same_video(service):
    samples = speech(9 * FRAME)

    async def talk():
        async with await AsyncAvatarClient.connect(link=service.link()) as client:
            stream = await client.open("ada", seed=3, pacing="fast")
            await stream.push_audio(samples, 16_000)
            await stream.finish()
            return np.stack([frame.video async for frame in stream])

    truth = expected(service.avatar, face(service.avatar), samples, seed=3)
    np.testing.assert_array_equal(asyncio.run(talk()), truth)
