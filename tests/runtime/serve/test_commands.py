"""The commands of the stream worker, as a user types them, and the example."""

import asyncio
import importlib.util
import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from af_runtime.doctor import CHECKS, Finding, _guarded
from af_runtime.errors import BusyError, ConnectionLostError, KeysError, ServiceError
from af_runtime.exit_codes import NO_ACCESS, TRY_LATER, UNAVAILABLE, exit_code
from af_runtime.transport.zeromq import ZmqServer
from media_files import read_sound, read_video, write_wav
from serving import serving, speech
from workspace import ROOT

COMMAND = Path(sys.executable).with_name("af-runtime")


def af_runtime(*arguments, timeout=60):
    command = [COMMAND, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout)


@pytest.mark.slow
def test_the_embedded_avatar_is_served_pinged_and_ended(tmp_path):
    options = ["--bind", "tcp://127.0.0.1:*", "--health", "-", "--threads", "1"]
    worker = subprocess.Popen([COMMAND, "serve", *options], stderr=subprocess.PIPE, text=True)
    try:
        endpoint = worker.stderr.readline().split()[-1]
        told = json.loads(af_runtime("ping", "--connect", endpoint, "--json").stdout)
        assert json.loads(af_runtime("ping", endpoint, "--json").stdout)["preset"] == told["preset"]
        assert (told["preset"], told["width"]) == ("toon", 128)
        sound = write_wav(tmp_path / "speech.wav", speech(8_000))
        done = af_runtime("say", "iris", sound, "-o", tmp_path / "a.mp4", "--connect", endpoint)
        assert done.returncode == 0, done.stderr
        local = af_runtime("generate", "iris", sound, "-o", tmp_path / "b.mp4", "--threads", 1)
        assert local.returncode == 0, local.stderr
        served, made = (read_video(tmp_path / name)[0] for name in ("a.mp4", "b.mp4"))
        np.testing.assert_array_equal(served, made)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(20) == 0
    finally:
        worker.kill()


def test_a_network_is_not_served_without_keys():
    done = af_runtime("serve", "--bind", "tcp://0.0.0.0:*", "--health", "-")
    assert done.returncode == NO_ACCESS
    assert "keys new server" in done.stderr and "Traceback" not in done.stderr


def test_keys_are_made_by_a_command(tmp_path):
    done = af_runtime("keys", "new", "anna", "--dir", tmp_path / "keys", "--json")
    files = json.loads(done.stdout)
    assert Path(files["secret"]).stat().st_mode & 0o777 == 0o600
    assert "secret" not in Path(files["public"]).read_text().split("curve")[1]


def test_a_ping_that_nobody_answers_ends_with_what_to_do():
    done = af_runtime("ping", "tcp://127.0.0.1:9", "--timeout", "0.2")
    assert done.returncode == UNAVAILABLE
    assert "af-runtime serve" in done.stderr and "Traceback" not in done.stderr


def test_the_doctor_looks_at_everything_and_survives_what_fails():
    done = af_runtime("doctor", "--json")
    assert done.returncode == 0, done.stderr
    findings = json.loads(done.stdout)
    assert len(findings) == len(CHECKS) and all(one["seen"] for one in findings)

    def broken() -> Finding:
        raise OSError("no such device")

    assert "no such device" in _guarded(broken).seen


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (KeysError("x"), NO_ACCESS),
        (BusyError("x"), TRY_LATER),
        (ServiceError("admit.full", "x", retryable=True), TRY_LATER),
        (ServiceError("stage.failed", "x"), 1),
        (ConnectionLostError("connection.lost", "x", retryable=True), UNAVAILABLE),
    ],
)
def test_a_supervisor_can_tell_errors_apart(error, code):
    assert exit_code(error) == code


def test_the_example_makes_a_clip_in_real_time_with_all_that_was_said(tmp_path):
    spec = importlib.util.spec_from_file_location("say", ROOT / "examples" / "03_serve_and_say.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sound = write_wav(tmp_path / "speech.wav", speech(16_000))
    out = tmp_path / "clip.mp4"
    with serving(transport=ZmqServer("tcp://127.0.0.1:*")) as service:
        asyncio.run(module.main("ada", str(sound), str(out), service.transport.endpoint))
    num_frames = len(read_video(out)[0])
    assert 25 <= num_frames <= 60
    loud = np.abs(read_sound(out)[0]).reshape(-1)
    assert 0.9 < (np.abs(loud) > 0.01).sum() / 16_000 < 1.1
