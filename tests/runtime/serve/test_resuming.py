"""Lines are cut and sessions moved: every frame comes once, in order, and a token opens once."""

import threading
import time

import numpy as np
import pytest
from af_core.geometry import SAMPLES_PER_FRAME
from af_core.testing.tiny import tiny_avatar
from af_runtime.client import AvatarClient, BlockDrawn, SegmentFinished
from af_runtime.client.link import Link
from af_runtime.errors import ServiceError
from af_runtime.messages import from_client as c
from af_runtime.messages import from_server as s
from af_runtime.messages.codec import decode_from_server, encode
from af_runtime.messages.codes import Code
from af_runtime.movers import Movers, bring, take
from af_runtime.session.history import MOST_KEPT, History
from af_runtime.transport.inproc import InprocServer
from af_runtime.transport.zeromq import ZmqClient, ZmqServer
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import expected, face, serving, speech
from tcp_proxy import TcpProxy

FRAME = SAMPLES_PER_FRAME


class Ledger:
    """What was delivered: each frame once, in the order of its time and epoch."""

    def __init__(self):
        self.frames = []

    def take(self, stream):
        for frame in stream:
            self.frames.append(frame)
        return self

    def check(self):
        assert [f.pts for f in self.frames] == [FRAME * i for i in range(len(self.frames))]
        epochs = [f.epoch for f in self.frames]
        assert epochs == sorted(epochs)

    def sound(self, epoch, segment):
        mine = [f for f in self.frames if (f.epoch, f.segment) == (epoch, segment)]
        return np.concatenate([f.audio[: f.num_samples] for f in mine] or [np.zeros(0)])

    @property
    def video(self):
        return np.stack([f.video for f in self.frames])


def cutter(link, stop, seed):
    """Cut the line of a link again and again until it is told to stop."""
    rng = np.random.default_rng(seed)
    while not stop.wait(rng.uniform(0.005, 0.08)):
        link._transport.cut()
        link._transport.wake()


@pytest.mark.parametrize("seed", range(3))
def test_a_line_that_is_cut_again_and_again_costs_no_frame(seed):
    avatar, samples = tiny_avatar(), speech(120 * FRAME + 33, seed)
    with serving(avatar) as service:
        link, stop = service.link(), threading.Event()
        with AvatarClient(link=link) as client:
            stream = client.open("ada", pacing="fast", window=8)
            thread = threading.Thread(target=cutter, args=(link, stop, seed))
            thread.start()
            ledger = Ledger()
            reader = threading.Thread(target=ledger.take, args=(stream,))
            reader.start()
            for piece in np.array_split(samples, 23):
                stream.push_audio(piece, 16_000)
                time.sleep(0.01)
            stop.set()
            thread.join()
            stream.finish()
            reader.join(30)
            assert not reader.is_alive()
            ends = [one for one in stream.events() if isinstance(one, SegmentFinished)]
        assert link._transport.line > 3
        assert [(one.position, one.interrupted) for one in ends] == [(len(samples), False)]
        ledger.check()
        np.testing.assert_array_equal(ledger.sound(0, 0), samples)
        np.testing.assert_array_equal(ledger.video, expected(avatar, face(avatar), samples))


def test_a_connection_of_zeromq_that_is_reset_costs_no_frame():
    avatar, samples = tiny_avatar(), speech(60 * FRAME)
    with serving(avatar, ZmqServer("tcp://127.0.0.1:*")) as service:
        proxy = TcpProxy(int(service.transport.endpoint.rpartition(":")[2]))
        endpoint = f"tcp://127.0.0.1:{proxy.port}"
        with AvatarClient(link=Link(ZmqClient(endpoint), endpoint)) as client:
            stream, ledger = client.open("ada", pacing="fast", window=8), Ledger()
            reader = threading.Thread(target=ledger.take, args=(stream,))
            reader.start()
            for piece in np.array_split(samples, 4):
                stream.push_audio(piece, 16_000)
                time.sleep(0.05)
                proxy.cut()
            stream.finish()
            reader.join(60)
            assert not reader.is_alive()
        assert proxy.num_cuts > 1
        proxy.close()
    ledger.check()
    np.testing.assert_array_equal(ledger.sound(0, 0), samples)
    np.testing.assert_array_equal(ledger.video, expected(avatar, face(avatar), samples))


def test_interruptions_survive_a_cut_line():
    with serving() as service:
        link = service.link()
        with AvatarClient(link=link) as client:
            stream, ledger = client.open("ada", pacing="fast"), Ledger()
            for epoch in range(4):
                link._transport.cut()
                stream.push_audio(speech(9 * FRAME, epoch), 16_000)
                if epoch < 3:
                    assert stream.interrupt() == epoch + 1
            stream.finish()
            ledger.take(stream).check()
            np.testing.assert_array_equal(ledger.sound(3, 3), speech(9 * FRAME, 3))


def line_of(service):
    return service.transport.connect()


def say(line, message, **arrays):
    line.send(encode(message, **arrays))


def hear(line, kind, timeout_s=10.0):
    """The next message of a kind; others are passed over."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        frames = line.receive(timeout_s)
        if frames is not None and isinstance(got := decode_from_server(frames).message, kind):
            return got
    raise AssertionError(f"no {kind} came")


def opened(service, line, name="x"):
    say(line, c.Open(session=name, video_limit=100, portrait="ada", pacing="fast"))
    return hear(line, s.Opened)


def refused(line):
    return hear(line, s.Error).code


def test_tokens_are_secret_new_each_time_and_good_for_one_door():
    with serving() as service:
        first, second, third = (line_of(service) for _ in range(3))
        token = opened(service, first).resume_token
        assert len(token) >= 43
        say(second, c.Resume(session="x", token="guessed", next_seq=0))
        assert refused(second) == Code.RESUME_DENIED
        say(second, c.Resume(session="y", token=token, next_seq=0))
        assert refused(second) == Code.RESUME_DENIED
        say(second, c.Resume(session="x", token=token, next_seq=1))
        answer = hear(second, s.Resumed)
        assert (answer.next_seq, answer.resume_token != token) == (1, True)
        say(second, c.VideoCredit(session="x", seq=1, video_limit=101))  # the new token has come
        say(third, c.Resume(session="x", token=token, next_seq=1))
        assert refused(third) == Code.RESUME_DENIED
        say(first, c.VideoCredit(session="x", seq=2, video_limit=102))
        assert refused(first) == Code.SESSION_UNKNOWN


def test_an_answer_that_was_lost_leaves_the_old_token_good():
    with serving() as service:
        first, second, third = (line_of(service) for _ in range(3))
        token = opened(service, first).resume_token
        say(second, c.Resume(session="x", token=token, next_seq=1))
        hear(second, s.Resumed)
        answers = set()
        for line in (third, second, third):  # each answer is lost again
            say(line, c.Resume(session="x", token=token, next_seq=1))
            answers.add(hear(line, s.Resumed).resume_token)
        assert len(answers) == 1


def test_a_client_that_stays_away_loses_its_session_with_a_clear_code():
    with serving(resume_ttl_s=0.1) as service:
        first, second = line_of(service), line_of(service)
        token = opened(service, first).resume_token
        say(first, c.Audio(session="x", seq=1, segment=0, epoch=0), pcm=speech(20 * FRAME))
        first.close()
        end = time.monotonic() + 10
        while service.server.num_sessions and time.monotonic() < end:
            time.sleep(0.02)
        assert service.server.num_sessions == 0
        say(second, c.Resume(session="x", token=token, next_seq=1))
        assert refused(second) == Code.SESSION_EXPIRED
        say(second, c.Resume(session="x", token="guessed", next_seq=1))
        assert refused(second) == Code.RESUME_DENIED


def test_more_than_is_kept_cannot_be_taken_up_again():
    with serving() as service:
        first, second = line_of(service), line_of(service)
        token = opened(service, first).resume_token
        say(first, c.Ping(heard={"x": 1}))
        hear(first, s.Pong)
        for next_seq in (0, 9):
            say(second, c.Resume(session="x", token=token, next_seq=next_seq))
            assert refused(second) == Code.RESUME_DENIED


class Two:
    """Two workers on transports of this process, and clients that find both by name."""

    def __init__(self, here, there):
        self.places = {"here": here, "there": there}

    def dial(self, endpoint):
        return self.places[endpoint].transport.connect()

    def link(self, endpoint="here"):
        return Link(self.dial(endpoint), endpoint, self.dial)


@pytest.fixture
def two():
    avatar = tiny_avatar()
    with (
        serving(avatar, InprocServer(), trusts_all=True) as here,
        serving(tiny_avatar(), InprocServer(), trusts_all=True) as there,
    ):
        yield Two(here, there)


def moved(two, name, source, to):
    here, there = two.link(source), two.link(to)
    try:
        data = take(here, name)
        token = bring(there, name, data)
        here.post(c.Release(session=name, endpoint=to, resume_token=token))
        here.wait_for(lambda: not here._outbox, 5)
    finally:
        here.close()
        there.close()


@settings(max_examples=4, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=3), st.integers(0, 2**16))
def test_a_session_moves_back_and_forth_and_its_client_follows(pauses, seed):
    avatar, samples = tiny_avatar(), speech(90 * FRAME + 5, seed)
    with (
        serving(avatar, InprocServer(), trusts_all=True) as here,
        serving(tiny_avatar(), InprocServer(), trusts_all=True) as there,
    ):
        two, ledger = Two(here, there), Ledger()
        with AvatarClient(link=two.link()) as client:
            stream = client.open("ada", pacing="fast", window=10)
            reader = threading.Thread(target=ledger.take, args=(stream,))
            reader.start()
            names = ["here", "there"]
            for piece, pause in zip(np.array_split(samples, len(pauses)), pauses, strict=True):
                stream.push_audio(piece, 16_000)
                time.sleep(0.01 * pause)
                moved(two, stream.name, *names)
                names.reverse()
            stream.finish()
            reader.join(30)
            assert not reader.is_alive()
        ledger.check()
        np.testing.assert_array_equal(ledger.sound(0, 0), samples)
        np.testing.assert_array_equal(ledger.video, expected(avatar, face(avatar), samples))


def test_a_worker_that_stops_moves_its_sessions(two):
    samples, ledger = speech(80 * FRAME), Ledger()
    here, there = two.places["here"], two.places["there"]
    with AvatarClient(link=two.link()) as client:
        stream = client.open("ada", pacing="fast")
        stream.push_audio(samples[: 30 * FRAME], 16_000)
        here.server.drain(20.0, Movers("there", lambda: two.link("there")))
        end = time.monotonic() + 10
        while here.server.num_sessions and time.monotonic() < end:
            time.sleep(0.01)
        assert (here.server.num_sessions, there.server.num_sessions) == (0, 1)
        stream.push_audio(samples[30 * FRAME :], 16_000)
        stream.finish()
        ledger.take(stream).check()
    np.testing.assert_array_equal(ledger.sound(0, 0), samples)


def test_a_session_that_moved_still_tells_how_blocks_are_drawn(two):
    link = Link(two.dial("here"), "here", two.dial, features=("stats",))
    samples, told = speech(40 * FRAME), []
    with AvatarClient(link=link) as client:
        stream = client.open("ada", pacing="fast")
        moved(two, stream.name, "here", "there")
        stream.push_audio(samples, 16_000)
        stream.finish()
        for _ in stream:
            told += [one for one in stream.events() if isinstance(one, BlockDrawn)]
    assert sum(one.num_frames for one in told) == 40


def test_a_client_that_missed_where_its_session_went_is_told_again(two):
    with AvatarClient(link=two.link()) as client:
        stream = client.open("ada", pacing="fast")
        token = stream._core.token
        client.link._follow = lambda moved: None  # it misses MOVED
        moved(two, stream.name, "here", "there")
        line = two.dial("here")
        for _ in range(2):
            say(line, c.Resume(session=stream.name, token=token, next_seq=1))
            assert hear(line, s.Moved).endpoint == "there"
        say(line, c.Resume(session=stream.name, token="guessed", next_seq=1))
        assert refused(line) == Code.RESUME_DENIED


def test_a_session_that_nobody_takes_goes_on_where_it_is(two, monkeypatch):
    monkeypatch.setattr("af_runtime.handing.HELD_S", 0.2)
    samples, ledger = speech(40 * FRAME), Ledger()
    with AvatarClient(link=two.link()) as client:
        stream = client.open("ada", pacing="fast")
        stream.push_audio(samples[: 20 * FRAME], 16_000)
        operator = two.link()
        take(operator, stream.name)
        stream.push_audio(samples[20 * FRAME :], 16_000)
        stream.finish()
        ledger.take(stream).check()
        operator.close()
    np.testing.assert_array_equal(ledger.sound(0, 0), samples)


def test_only_who_has_the_token_may_take_a_session_from_a_worker_that_trusts_nobody():
    with serving() as service, AvatarClient(link=service.link()) as client:
        stream = client.open("ada", pacing="fast")
        thief = service.link()
        with pytest.raises(ServiceError) as caught:
            take(thief, stream.name)
        assert caught.value.code == Code.AUTH_DENIED
        assert len(take(thief, stream.name, stream._core.token)) > 1_000
        thief.close()


def test_a_worker_with_another_avatar_refuses_and_the_session_goes_on(two, monkeypatch):
    monkeypatch.setattr("af_runtime.handing.HELD_S", 0.2)
    other = tiny_avatar(audio_encoder__lookahead_samples=640)
    with serving(other) as third, AvatarClient(link=two.link()) as client:
        stream, link, operator = client.open("ada", pacing="fast"), third.link(), two.link()
        data = take(operator, stream.name)
        with pytest.raises(ServiceError, match="configuration: ") as caught:
            bring(link, stream.name, data)
        assert caught.value.code == Code.RESTORE_DENIED
        with pytest.raises(ServiceError) as caught:
            bring(link, stream.name, np.flip(data).copy())
        assert caught.value.code == Code.RESTORE_DENIED
        stream.push_audio(speech(9 * FRAME), 16_000)
        stream.finish()
        assert len(list(stream)) == 9
        link.close()
        operator.close()


def test_what_is_kept_is_bounded_and_what_was_heard_is_forgotten():
    history = History()
    for i in range(MOST_KEPT + 5):
        assert history.add(s.Warn(session="x", code=Code.AUDIO_STALE), {})[0].seq == i
    assert history.first_seq == 5
    with pytest.raises(LookupError, match="not 4"):
        history.since(4)
    history.heard(MOST_KEPT)
    assert [one.seq for one, _ in history.since(MOST_KEPT)] == [MOST_KEPT + i for i in range(5)]
    large = {"video": np.zeros((1024, 1024, 3), np.uint8)}
    for _ in range(40):
        history.add(s.Media(session="x", epoch=0, pts=0), large)
    assert history.next_seq - history.first_seq == 64 // 3


def test_who_is_cut_off_keeps_the_place_and_who_came_from_the_line_can_be_cut_off_too():
    avatar, samples = tiny_avatar(), speech(60 * FRAME)
    places = {"max_sessions": 1, "max_sessions_per_client": 2, "queue": 1}
    with serving(avatar, ZmqServer("tcp://127.0.0.1:*"), **places) as service:
        port = int(service.transport.endpoint.rpartition(":")[2])
        waits, ledgers, may_speak = threading.Event(), [Ledger(), Ledger()], threading.Event()

        def speak(seed, proxy, until):
            """Say all samples, cut off between them, and end when it may."""
            endpoint = f"tcp://127.0.0.1:{proxy.port}"
            with AvatarClient(link=Link(ZmqClient(endpoint), endpoint)) as client:
                stream = client.open(
                    "ada", seed=seed, pacing="fast", window=8, on_queued=lambda _: waits.set()
                )
                reader = threading.Thread(target=ledgers[seed].take, args=(stream,))
                reader.start()
                assert until.wait(20)
                for piece in np.array_split(samples, 4):
                    stream.push_audio(piece, 16_000)
                    proxy.cut()
                    time.sleep(0.05)
                stream.finish()
                reader.join(30)

        proxies = [TcpProxy(port) for _ in range(2)]
        first, second = (
            threading.Thread(target=speak, args=(seed, proxies[seed], until), daemon=True)
            for seed, until in enumerate((waits, may_speak))
        )
        first.start()
        while not service.server.num_sessions:
            time.sleep(0.01)
        second.start()
        first.join(60)
        assert waits.is_set() and not ledgers[1].frames
        may_speak.set()
        second.join(60)
        for seed, ledger in enumerate(ledgers):
            ledger.check()
            want = expected(avatar, face(avatar), samples, seed)
            np.testing.assert_array_equal(ledger.video, want)
            assert proxies[seed].num_cuts
            proxies[seed].close()
