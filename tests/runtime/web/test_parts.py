"""Parts of the demo by themselves: addresses, the gate, ages of sound, and the page's files."""

import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import af_runtime.web
import numpy as np
import pytest
import torch
from af_core.testing.tiny import tiny_avatar
from af_runtime.arrivals import Arrivals
from af_runtime.errors import RequestError
from af_runtime.transport.zeromq import ZmqServer
from af_runtime.web.addresses import parse_address
from af_runtime.web.gate import BEFORE_S, PAUSE_S, Gate
from af_runtime.web.stages import StageClock
from hypothesis import given
from hypothesis import strategies as st
from serving import serving

STATIC = Path(af_runtime.web.__file__).parent / "static"
RATE = 16_000


@pytest.mark.parametrize("bind", ["127.0.0.1:7860", "localhost:0", "[::1]:80"])
def test_loopback_needs_no_token(bind):
    assert parse_address(bind).is_loopback


@pytest.mark.parametrize("bind", ["0.0.0.0:7860", "192.0.2.1:80", "[::]:80", "example.org:80"])
def test_a_network_needs_a_token_that_is_not_guessed(bind):
    with pytest.raises(RequestError, match="--token auto"):
        parse_address(bind)
    with pytest.raises(RequestError, match="12 characters"):
        parse_address(bind, "1234")
    tokens = {parse_address(bind, "auto").token for _ in range(3)}
    assert len(tokens) == 3 and min(map(len, tokens)) >= 16


@pytest.mark.parametrize("bind", ["7860", "localhost", "a:b", "127.0.0.1:70000", "h:1/x", ""])
def test_what_is_no_address_is_refused(bind):
    with pytest.raises(RequestError, match="HOST:PORT"):
        parse_address(bind)


def through(sound, sizes):
    """What a gate lets through of a sound that is cut in pieces, and how often it closes."""
    gate, parts, ends = Gate(RATE), [], 0
    for piece in np.split(sound, np.cumsum(sizes)[:-1]):
        gate, part, has_ended = gate.hear(piece)
        parts.append(part)
        ends += has_ended
    return np.concatenate(parts), ends


@given(st.integers(160, 1_600))
def test_the_gate_lets_a_word_through_with_what_came_before_and_after(size):
    word, silence = np.full(RATE, 0.2, np.float32), np.zeros(2 * RATE, np.float32)
    sound = np.concatenate([silence, word, silence])
    sizes = [size] * (len(sound) // size) + [len(sound) % size]
    passed, ends = through(sound, sizes)
    assert ends == 1
    extra = len(passed) - len(word)
    assert np.count_nonzero(passed) == len(word)
    assert abs(extra - (BEFORE_S + PAUSE_S) * RATE) <= 3 * size


def test_a_quiet_room_opens_no_gate():
    noise = np.random.default_rng(0).normal(0, 0.004, 3 * RATE).astype(np.float32)
    passed, ends = through(noise, [640] * 75)
    assert len(passed) == ends == 0


@given(st.lists(st.floats(0.01, 0.5), min_size=1, max_size=20))
def test_a_frame_is_as_old_as_the_piece_that_holds_its_end(pieces):
    arrivals = Arrivals()
    for now_s, seconds in enumerate(pieces):
        arrivals.heard(0, seconds, float(now_s))
    ends = np.cumsum(pieces)
    for frame in range(int(ends[-1] / 0.04)):
        age_s = arrivals.shown(0, 0.04, 100.0)
        end_s = (frame + 1) * 0.04
        near = np.flatnonzero(ends >= end_s - 2e-3)[0], np.flatnonzero(ends >= end_s - 1e-9)
        assert age_s is not None
        assert near[0] <= 100.0 - age_s <= (near[1][0] if len(near[1]) else len(pieces) - 1)


def test_what_was_interrupted_does_not_age_what_comes_after():
    arrivals = Arrivals()
    arrivals.heard(0, 1.0, 10.0)
    assert arrivals.shown(0, 0.04, 10.5) == 0.5
    arrivals.heard(1, 0.5, 20.0)
    assert arrivals.shown(1, 0.04, 20.7) == pytest.approx(0.7)
    assert arrivals.shown(2, 0.04, 20.7) is None


def test_a_watched_avatar_draws_the_same():
    avatar, clock = tiny_avatar(), StageClock()
    portrait = torch.zeros(avatar.info.height, avatar.info.width, 3, dtype=torch.uint8)
    speech = torch.linspace(-0.5, 0.5, 8_000)
    plain = torch.cat(list(avatar.stream(portrait, [speech])), 1)
    watched = torch.cat(list(clock.watched(avatar).stream(portrait, [speech])), 1)
    assert torch.equal(plain, watched)
    assert min(clock.latest.encode_ms, clock.latest.denoise_ms, clock.latest.decode_ms) > 0


def test_the_page_loads_nothing_from_elsewhere():
    files = [path for path in STATIC.iterdir() if path.suffix in {".html", ".css", ".js", ".svg"}]
    assert {"index.html", "style.css", "app.js"} <= {path.name for path in files}
    for path in files:
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"(https?:)?//[\w-]+\.\w", text), path.name
        for name in re.findall(r'(?:from "\./|static/|new URL\(")([\w-]+\.\w+)', text):
            assert (STATIC / name).exists(), (path.name, name)


def test_every_control_of_the_page_has_a_name():
    html = (STATIC / "index.html").read_text()
    for tag, body in re.findall(r"<button([^>]*)>(.*?)</button>", html, re.S):
        assert "aria-label" in tag or re.search(r">\s*\w|^\s*\w", body), tag
    for field in re.findall(r"<input([^>]*)>", html):
        name = re.search(r'id="([\w-]+)"', field).group(1)
        is_wrapped = re.search(rf"<label[^>]*><input[^>]*{name}", html)
        assert f'for="{name}"' in html or is_wrapped or 'aria-hidden="true"' in field, name


COMMAND = [str(Path(sys.executable).with_name("af-runtime")), "demo", "--no-open"]
QUIET = {**os.environ, "OMP_NUM_THREADS": "1"}


def test_the_command_refuses_a_network_without_a_token():
    refused = subprocess.run(
        [*COMMAND, "--bind", "0.0.0.0:0"], capture_output=True, text=True, timeout=60, env=QUIET
    )
    assert refused.returncode == 2 and "--token auto" in refused.stderr


def test_the_command_serves_the_page_until_it_is_told_to_end():
    expect_page([])


def test_the_command_serves_a_worker_that_runs_elsewhere():
    with serving(transport=ZmqServer("tcp://127.0.0.1:*")) as service:
        expect_page(["--connect", service.transport.endpoint])


def expect_page(arguments):
    """Run the command, read its page, and end it."""
    command = [*COMMAND, "--bind", "127.0.0.1:0", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=QUIET) as run:
        url = next(found.group() for line in run.stderr if (found := re.search(r"http\S+", line)))
        with urllib.request.urlopen(url, timeout=10) as answer:
            assert b"Talking portrait" in answer.read()
        run.send_signal(signal.SIGTERM)
        assert run.wait(20) == 0
        assert "ended" in run.stderr.read()
