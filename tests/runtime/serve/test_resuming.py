"""Lines are cut: every frame comes once, in order, and a token opens once."""

import threading
import time

import numpy as np
import pytest
from af_core.testing.tiny import tiny_avatar
from af_runtime.client import AvatarClient, SegmentFinished
from af_runtime.client.link import Link
from af_runtime.messages import from_client as c
from af_runtime.messages import from_server as s
from af_runtime.messages.codes import Code
from af_runtime.session.history import MOST_KEPT, History
from af_runtime.transport.zeromq import ZmqClient, ZmqServer
from lines import FRAME, Ledger, hear, line_of, opened, refused, say
from serving import expected, face, serving, speech
from tcp_proxy import TcpProxy


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
