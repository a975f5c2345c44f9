"""Sessions move between workers: every frame comes once, in order, and clients follow."""

import threading
import time

import numpy as np
import pytest
from af_core.testing.tiny import tiny_avatar
from af_runtime.client import AvatarClient, BlockDrawn
from af_runtime.client.link import Link
from af_runtime.errors import ServiceError
from af_runtime.messages import from_client as c
from af_runtime.messages import from_server as s
from af_runtime.messages.codes import Code
from af_runtime.movers import Movers, bring, take
from af_runtime.transport.inproc import InprocServer
from hypothesis import given, settings
from hypothesis import strategies as st
from lines import FRAME, Ledger, hear, refused, say
from serving import expected, face, serving, speech


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
