"""Short runs of the scripts in tests/chaos: hostile messages, leftovers, the pace of minutes."""

import importlib.util
import logging
import os
import re

import msgspec
import numpy as np
import pytest
import zmq
from af_core.testing.tiny import tiny_avatar
from af_runtime.errors import RequestError, ServiceError
from af_runtime.hosting import Hosted
from af_runtime.messages import from_client
from af_runtime.messages import from_server as server
from af_runtime.messages.codec import decode_from_server, encode
from af_runtime.metrics import Metrics
from af_runtime.overhead import INTERRUPTS, STEPS_A_ROUND, measure
from af_runtime.session.state import Rules, Session
from af_runtime.transport.zeromq import ZmqServer
from af_runtime.viewing.playing import ages, play, skews
from af_runtime.viewing.report import view
from af_runtime.viewing.viewer import Where
from serving import serving
from workspace import ROOT

OPERATIONS = (ROOT / "docs" / "operations.md").read_text()


def script(name):
    """Return a script of tests/chaos as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "tests" / "chaos" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def quiet():
    """What is refused on purpose is no news."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


def test_a_hundred_thousand_damaged_messages_are_read_or_refused_with_a_code():
    outcomes = script("fuzz").fuzz_decoder(100_000, seed=5)
    assert sum(outcomes.values()) == 200_000  # each by the decoders of both directions
    assert set(outcomes) >= {
        "read",
        "proto.bad_magic",
        "proto.version",
        "proto.bad_message",
        "proto.unknown_type",
        "proto.too_large",
        "media.format",
    }


def test_a_worker_serves_others_bit_for_bit_while_it_is_fuzzed_and_keeps_nothing():
    found = script("fuzz").fuzz_worker(1_600, seed=7)
    assert found["trouble"] == []
    assert {"proto.bad_message", "proto.seq_gap", "session.exists"} <= set(found["codes"])


def test_nothing_is_left_of_sessions_however_they_ended():
    found = script("sessions").run(60, seed=2)
    assert found["left"] == {}
    assert found["bytes_grown"] < 200_000


@pytest.mark.slow
def test_two_minutes_in_real_time_keep_the_pace_and_the_sound_in_step():
    """AF_SOAK_SECONDS makes it shorter, or longer. A machine with other work keeps no pace."""
    if (load := os.getloadavg()[0]) > 1.5 * (os.cpu_count() or 1):
        pytest.skip(f"the machine has other work: its load is {load:.1f}")
    soak = script("soak")
    minutes = float(os.environ.get("AF_SOAK_SECONDS", "120")) / 60
    told = soak.judged(minutes, *soak.run(minutes))
    assert told["trouble"] == []
    assert told["skew_ms_max"] <= 40


def test_viewers_report_what_they_saw_and_every_number_is_documented():
    with serving(transport=ZmqServer("tcp://127.0.0.1:*")) as service:
        where = Where(service.transport.endpoint, "ada")
        report = view(where, viewers=2, duration_s=2.0)
        with pytest.raises(ServiceError, match="no portrait"):
            view(Where(service.transport.endpoint, "nobody"), duration_s=2.0)
        with pytest.raises(RequestError):
            view(where, duration_s=0.1)
    told = msgspec.json.decode(msgspec.json.encode(report))
    assert told["schema"] == "af-viewers/1" and told["errors"] == []
    assert [viewer["gaps"] for viewer in told["viewers"]] == [0, 0]
    spoken = sum(one["e2e_ms"]["n"] for one in told["viewers"])
    assert spoken == told["e2e_ms"]["n"] == 2 * 50
    assert (
        told["delay_ms"]["algorithmic"] == told["delay_ms"]["block"] + told["delay_ms"]["lookahead"]
    )
    assert told["e2e_ms"]["p50"] >= told["delay_ms"]["lookahead"]
    assert set(told["stage_ms"]) >= {"audio_encoder", "denoiser", "decoder"}
    assert sum(one["frames"] for one in told["viewers"]) == told["frames"] >= 100
    documented = set(
        re.findall(r"`(\w+)`", OPERATIONS.split("`af-viewers/1`")[1].split("`--service`")[0])
    )
    assert set(told) <= documented


def test_the_overhead_of_a_worker_is_measured_against_a_plain_loop():
    report = measure(avatar=tiny_avatar(), duration_s=12.0)
    told = msgspec.json.decode(msgspec.json.encode(report))
    assert told["schema"] == "af-overhead/1" and told["rounds"] == 1
    assert told["alone_ms"]["n"] == told["served_ms"]["n"] == STEPS_A_ROUND - 1
    assert told["idle_alone_ms"]["n"] == told["idle_served_ms"]["n"] == STEPS_A_ROUND - 1
    assert told["interrupt_ms"]["n"] == INTERRUPTS
    with pytest.raises(RequestError, match="at least"):
        measure(avatar=tiny_avatar(), duration_s=1.0)


FRAME = 1 / 25


def slow_player(arrivals, buffer_s):
    """Play frames one by one: the slow and obvious version."""
    due, underruns, stall = arrivals[0] + buffer_s, 0, 0.0
    for at in arrivals:
        if at > due + 1e-6:
            underruns, stall = underruns + 1, stall + at - due
            due = at
        due += FRAME
    return underruns, stall


@pytest.mark.parametrize("seed", range(5))
def test_a_player_stands_still_when_and_as_long_as_the_obvious_one(seed):
    rng = np.random.default_rng(seed)
    arrivals = np.maximum.accumulate(np.arange(300) * FRAME + rng.gamma(0.4, 0.2, 300))
    playback = play(arrivals, 0.08)
    underruns, stall = slow_player(arrivals, 0.08)
    assert playback.underruns == underruns > 0
    assert playback.stall_s == pytest.approx(stall, abs=1e-9)
    constant = arrivals[0] + 0.08 + np.arange(300) * FRAME
    assert playback.misses == (arrivals > constant + 1e-6).sum()
    assert play(np.arange(50) * FRAME, 0.0) == play(np.zeros(0), 0.0)


def test_the_age_of_a_frame_counts_from_the_push_of_its_last_sample():
    pushed = np.array([320, 640, 960, 1_280, 1_600])
    pushed_s = np.array([0.02, 0.04, 0.06, 0.08, 0.10])
    arrivals, samples = np.array([0.5, 0.54, 0.58, 0.62]), np.array([640, 0, 640, 320])
    found = ages(arrivals, samples, pushed_s, pushed)
    np.testing.assert_allclose(found, [0.5 - 0.04, 0.58 - 0.08, 0.62 - 0.10])


def test_the_picture_is_behind_the_sound_by_the_frames_that_were_kept_back():
    pts = np.arange(6) * 640
    fresh = np.array([True, True, False, False, True, False])
    speaks = np.array([True, True, True, True, True, False])
    np.testing.assert_allclose(skews(pts, fresh, speaks), [0, 0, 0.04, 0.08, 0])


def test_a_clock_that_jumps_an_hour_ahead_loses_no_frame_and_floods_nobody():
    hosted = Hosted(Session("s", Rules(4, 0), video_limit=10**6), b"peer", 0, 0.0, Metrics())
    hosted.seen()
    now, sent = 10.0, []
    for i in range(800):
        now += 3_600.0 if i == 400 else 0.005
        hosted.advance(now)
        if (block := hosted.feed()) is not None:
            hosted.drawn(np.zeros((len(block.samples) // 640, 2, 2, 3), np.uint8), 0.0)
        sent += [(i, m) for m, _ in hosted.outgoing() if isinstance(m, server.Media)]
    assert [m.pts for _, m in sent] == list(range(0, 640 * len(sent), 640))
    assert sum(i == 400 for i, _ in sent) <= 1
    assert 95 <= len(sent) <= 105 and sum(m.kind == "repeat" for _, m in sent) <= 1


def test_of_two_clients_with_one_name_the_later_is_answered_and_the_worker_goes_on():
    with serving(transport=ZmqServer("tcp://127.0.0.1:*")) as service, zmq.Context() as context:
        for _ in range(3):
            twin = context.socket(zmq.DEALER)
            twin.setsockopt(zmq.LINGER, 0)
            twin.setsockopt(zmq.RCVTIMEO, 10_000)
            twin.setsockopt(zmq.ROUTING_ID, b"twin")
            twin.connect(service.transport.endpoint)
            twin.send_multipart(encode(from_client.Ping(nonce=4)))
            answer = decode_from_server(twin.recv_multipart()).message
            assert answer == server.Pong(nonce=4)
        with service.client() as client, client.open("ada", pacing="fast") as stream:
            stream.push_audio(np.zeros(6_400, np.float32), 16_000)
            stream.finish()
            assert len(list(stream)) == 10
        context.destroy(linger=0)
