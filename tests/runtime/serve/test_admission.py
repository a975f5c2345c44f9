"""Places, the line before them, and quotas: who comes in, who waits, who is refused and why."""

import threading

import attrs
import numpy as np
import pytest
import torch
from af_core.geometry import SAMPLES_PER_FRAME
from af_core.testing.tiny import tiny_avatar
from af_runtime.client import AsyncAvatarClient, Queued
from af_runtime.errors import KeysError, ProtocolError, ServiceError
from af_runtime.health import Health
from af_runtime.messages import from_client as c
from af_runtime.messages import from_server as s
from af_runtime.messages.codec import decode_from_server, encode
from af_runtime.messages.codes import Code
from af_runtime.quotas import Bucket, Quotas
from af_runtime.transport.curve import allowed_names, new_keys
from af_runtime.waiting import LONGEST_MS, SHORTEST_MS, Line
from hypothesis import given
from hypothesis import strategies as st
from serving import expected, face, serving, speech

FRAME = SAMPLES_PER_FRAME


class Raw:
    """A client of the bare protocol."""

    def __init__(self, service, features=("queue",)):
        self.line = service.transport.connect()
        self.say(c.Hello(min_version=1, max_version=1, features=features))
        self.hello = self.next(s.HelloOk)

    def say(self, message):
        self.line.send(encode(message))

    def open(self, name):
        self.say(c.Open(session=name, portrait="ada", video_limit=1))

    def next(self, *kinds):
        while True:
            message = decode_from_server(self.line.receive(20)).message
            if isinstance(message, kinds):
                return message


def test_who_comes_first_is_seated_first_and_all_are_told_where_they_stand():
    with serving(max_sessions=1, max_sessions_per_client=9, queue=2) as service:
        raw = Raw(service)
        assert raw.hello.features == ("queue",)
        raw.open("a")
        raw.next(s.Opened)
        for name, position in (("b", 1), ("c", 2)):
            raw.open(name)
            queued = raw.next(s.Queued)
            assert (queued.session, queued.position, queued.seq) == (name, position, 0)
            assert queued.retry_after_ms >= SHORTEST_MS
        raw.open("d")
        refused = raw.next(s.Error)
        assert (refused.session, refused.code) == ("d", Code.ADMIT_FULL)
        assert refused.retryable and refused.retry_after_ms >= SHORTEST_MS
        raw.say(c.Close(session="a", seq=1, mode="abort"))
        seen = [raw.next(s.Opened, s.Queued) for _ in range(2)]
        assert {(type(one), one.session) for one in seen} == {(s.Opened, "b"), (s.Queued, "c")}
        assert next(one for one in seen if isinstance(one, s.Queued)).position == 1


def test_who_leaves_the_line_makes_room_in_it_and_is_closed():
    with serving(max_sessions=1, max_sessions_per_client=9, queue=2) as service:
        raw = Raw(service)
        for name in "abc":
            raw.open(name)
        raw.next(s.Opened)
        raw.say(c.Close(session="b", seq=1))
        closed = raw.next(s.Closed)
        assert (closed.session, closed.reason) == ("b", "aborted")
        moved = raw.next(s.Queued)
        assert (moved.session, moved.position) == ("c", 1)
        raw.open("d")
        assert raw.next(s.Queued).position == 2


def test_speech_of_a_session_that_waits_is_not_allowed():
    with serving(max_sessions=1, max_sessions_per_client=9, queue=1) as service:
        raw = Raw(service)
        raw.open("a")
        raw.open("b")
        raw.next(s.Queued)
        raw.say(c.SegmentEnd(session="b", seq=1, segment=0, epoch=0))
        error = raw.next(s.Error)
        assert error.code == Code.BAD_MESSAGE and "queued" in error.message


def test_a_client_that_does_not_know_the_line_is_refused():
    with serving(max_sessions=1, max_sessions_per_client=9, queue=5) as service:
        raw = Raw(service, features=())
        raw.open("a")
        raw.open("b")
        assert raw.next(s.Error).code == Code.ADMIT_FULL


def test_draining_ends_those_who_wait_and_not_who_runs():
    with serving(max_sessions=1, max_sessions_per_client=9, queue=1) as service:
        raw = Raw(service)
        raw.open("a")
        raw.open("b")
        raw.next(s.Queued)
        service.server.drain(20)
        closed = raw.next(s.Closed)
        assert (closed.session, closed.reason) == ("b", Code.ADMIT_DRAINING)
        assert service.server.num_sessions == 1
        raw.say(c.Close(session="a", seq=1, mode="abort"))


def test_a_client_waits_for_its_place_and_then_shows_what_it_would_have_shown():
    avatar, samples, told = tiny_avatar(), speech(8 * FRAME), []
    with serving(avatar, max_sessions=1, queue=3) as service, service.client() as first:
        running = first.open("ada", pacing="fast")

        def end_first(queued):
            told.append(queued)
            running.close()

        with service.client() as second:
            stream = second.open("ada", seed=2, pacing="fast", on_queued=end_first)
            stream.push_audio(samples, 16_000)
            stream.finish()
            video = np.stack([frame.video for frame in stream])
    assert told == [Queued(1, told[0].retry_after_s)]
    np.testing.assert_array_equal(video, expected(avatar, face(avatar), samples, seed=2))


def test_no_place_in_time_is_an_error_that_says_so_and_leaves_the_line():
    limits = {"max_sessions": 1, "max_sessions_per_client": 9, "queue": 1}
    with serving(**limits) as service, service.client() as client:
        client.open("ada")
        with pytest.raises(ServiceError, match="number 1 in line after") as caught:
            client.open("ada", timeout_s=0.5)
        assert caught.value.code == Code.ADMIT_FULL and caught.value.retryable
        assert _settles(lambda: service.server.admission.status()["queued"] == 0)


def test_the_client_of_asyncio_waits_too():
    import asyncio

    async def talk(service, running):
        async with await AsyncAvatarClient.connect(link=service.link()) as client:
            stream = await client.open("ada", on_queued=lambda queued: running.close())
            return stream.segment

    with serving(max_sessions=1, queue=1) as service, service.client() as first:
        assert asyncio.run(talk(service, first.open("ada"))) == 0


def test_health_tells_of_places_and_line():
    with serving(max_sessions=1, max_sessions_per_client=9, queue=1) as service:
        health = Health()
        health.server = service.server
        raw = Raw(service)
        raw.open("a")
        raw.open("b")
        raw.next(s.Queued)
        told = health.status()
        assert health.not_ready() == "full"
        assert [told[k] for k in ("sessions", "max_sessions", "queued", "max_queued")] == [1] * 4
        assert _settles(lambda: "af_sessions_queued 1.0" in service.server.metrics.page().decode())
        assert "af_sessions_limit 1.0" in service.server.metrics.page().decode()


def _settles(is_so):
    event = threading.Event()
    return any(is_so() or event.wait(0.05) for _ in range(400))


def test_the_advice_when_to_ask_again_follows_how_long_sessions_last():
    line = Line(places=2, length=4)
    assert line.retry_after_ms(1) == SHORTEST_MS
    for _ in range(60):
        line.note_length(20.0)
    assert line.retry_after_ms(1) == pytest.approx(10_000)
    assert line.retry_after_ms(3) == pytest.approx(30_000)
    assert line.retry_after_ms(100) == LONGEST_MS


SPENDING = st.lists(st.tuples(st.floats(0, 30), st.floats(0, 40)), max_size=30)


@given(SPENDING)
def test_an_allowance_is_never_exceeded_over_any_stretch_of_time(spending):
    rate, size = 2.0, 25.0
    bucket, now, taken = Bucket(rate, size), 0.0, []
    for pause, amount in spending:
        now += pause
        wait = bucket.take(amount, now)
        if wait == 0:
            taken.append((now, amount))
        elif amount <= size:
            assert attrs.evolve(bucket).take(amount, now + wait + 1e-6) == 0
    for i, (start, _) in enumerate(taken):
        for j in range(i, len(taken)):
            used = sum(amount for _, amount in taken[i : j + 1])
            assert used <= size + rate * (taken[j][0] - start) + 1e-6


@pytest.fixture
def clients(tmp_path):
    """A folder of two keys that are allowed."""
    folder = tmp_path / "clients"
    for name in ("anna", "bob"):
        new_keys(tmp_path, name)
        (folder / f"{name}.key").write_text((tmp_path / f"{name}.key").read_text())
    return folder


def key_of(clients, name):
    return next(key for key, known in allowed_names(clients).items() if known == name)


def refusal(quotas, user, **used):
    with pytest.raises(ProtocolError) as caught:
        quotas.charge(user, **{"num_bytes": 0, "num_samples": 0, "now_s": 0.0} | used)
    return caught.value


def test_quotas_are_read_by_name_and_again_when_they_change(clients):
    file = clients / "quotas.toml"
    file.write_text("[default]\nsessions = 1\n[clients.anna]\nsessions = 3\n")
    quotas = Quotas(clients)
    anna, bob = key_of(clients, "anna"), key_of(clients, "bob")
    assert (quotas.quota(anna).sessions, quotas.quota(bob).sessions) == (3, 1)
    file.write_text("[clients.anna]\nsessions = 20\nbytes_per_minute = 100\n")
    assert (quotas.quota(anna).sessions, quotas.quota(bob).sessions) == (20, None)
    file.write_text("[clients.anna]\nsessions = 'many and more'\n")
    assert quotas.quota(anna).sessions == 20  # a mistake changes nothing
    with pytest.raises(KeysError, match="audio_seconds_per_minute"):
        Quotas(clients)


def test_speech_and_bytes_beyond_the_quota_are_refused_until_there_is_room(clients):
    (clients / "quotas.toml").write_text(
        "[clients.anna]\naudio_seconds_per_minute = 60\nbytes_per_minute = 6000\n"
    )
    quotas = Quotas(clients, audio_window=10 * 16_000)
    anna, bob = key_of(clients, "anna"), key_of(clients, "bob")
    quotas.charge(anna, num_bytes=0, num_samples=70 * 16_000, now_s=0.0)  # a minute and the window
    error = refusal(quotas, anna, num_samples=5 * 16_000)
    assert error.code == Code.AUTH_QUOTA and error.retry_after_ms == 5000
    quotas.charge(anna, num_bytes=6000, num_samples=5 * 16_000, now_s=5.1)
    assert "6,000 bytes a minute" in str(refusal(quotas, anna, num_bytes=600, now_s=6.0))
    quotas.charge(bob, num_bytes=10**9, num_samples=10**9, now_s=0.0)


def test_a_key_that_is_taken_out_is_refused_at_its_next_message(clients):
    quotas, bob = Quotas(clients), key_of(clients, "bob")
    quotas.charge(bob, num_bytes=1, num_samples=0, now_s=0.0)
    (clients / "bob.key").unlink()
    quotas._names.pop(bob)  # as when the folder was read again for another client
    assert refusal(quotas, bob).code == Code.AUTH_DENIED


def test_blocks_that_wait_together_are_drawn_as_one_and_each_session_gets_its_own():
    avatar, samples = tiny_avatar(), speech(24 * FRAME)
    sizes, inner = [], type(avatar).step_together

    def noting(self, states, heard):
        sizes.append(len(states))
        return inner(self, states, heard)

    noted = type("Noted", (type(avatar),), {"step_together": noting})
    noted = noted(**{one.name: getattr(avatar, one.name) for one in attrs.fields(type(avatar))})
    with serving(noted, together=True, max_sessions=4) as service, service.client() as client:
        streams = [client.open("ada", seed=i, pacing="fast") for i in range(3)]
        videos = {}

        def talk(i):
            streams[i].push_audio(samples, 16_000)
            streams[i].finish()
            videos[i] = np.stack([frame.video for frame in streams[i]])

        threads = [threading.Thread(target=talk, args=(i,)) for i in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    for i in range(3):
        np.testing.assert_array_equal(videos[i], expected(avatar, face(avatar), samples, seed=i))
    assert max(sizes) > 1


@pytest.mark.parametrize("together", [False, True])
def test_memory_that_runs_out_while_drawing_ends_one_session_and_serving_goes_on(together):
    avatar = tiny_avatar()
    runner = avatar.runners["decoder"]

    class Greedy(type(runner.decoder)):
        def step(self, state, latents):
            made = super().step(state, latents)
            if armed.is_set() and any(
                torch.allclose(one, victim, atol=1e-5) for one in latents[:, 0]
            ):
                raise torch.OutOfMemoryError("CUDA out of memory")
            return made

    armed, samples = threading.Event(), speech(16 * FRAME)
    victim = next(_latents_of(avatar, samples, seed=1))
    greedy = attrs.evolve(runner, decoder=Greedy(runner.decoder.geometry))
    hungry = attrs.evolve(avatar, runners={**avatar.runners, "decoder": greedy})
    armed.set()
    with serving(hungry, together=together) as service, service.client() as client:
        good, bad = (client.open("ada", seed=seed, pacing="fast") for seed in (0, 1))
        for stream in (good, bad):
            stream.push_audio(samples, 16_000)
            stream.finish()
        with pytest.raises(ServiceError) as caught:
            list(bad)
        assert caught.value.code == Code.STAGE_OOM and caught.value.retryable
        video = np.stack([frame.video for frame in good])
        np.testing.assert_array_equal(video, expected(avatar, face(avatar), samples))
        assert client.open("ada").next_frame(20) is not None


def _latents_of(avatar, samples, seed):
    """Yield the latents [c, h, w] that a stream decodes."""
    seen = []
    runner = avatar.runners["decoder"]

    class Watching(type(runner.decoder)):
        def step(self, state, latents):
            seen.append(latents[0, 0].clone())
            return super().step(state, latents)

    watched = attrs.evolve(runner, decoder=Watching(runner.decoder.geometry))
    expected(
        attrs.evolve(avatar, runners={**avatar.runners, "decoder": watched}),
        face(avatar),
        samples,
        seed,
    )
    yield seen[2]
