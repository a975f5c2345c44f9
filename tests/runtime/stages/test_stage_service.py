"""A worker with stages, as those who run it see it: commands, health, metrics."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from af_runtime.errors import StageFailedError
from af_runtime.exit_codes import exit_code
from af_runtime.health import Health
from af_runtime.metrics import Metrics
from af_runtime.stages.choosing import KERNEL, plan
from af_runtime.stages.reporting import StageReport
from af_runtime.stages.supervisor import StageStatus
from media_files import read_video, write_wav
from serving import speech
from staging import is_alive

COMMAND = Path(sys.executable).with_name("af-runtime")
STAGES = ("audio", "denoise", "decode")


def status(process, is_up=True):
    return StageStatus(process, "cpu", (), is_up, 1 if is_up else None, 2, 0.5, 0.0, 7)


def fake(up=True, fatal=""):
    return SimpleNamespace(
        turned_s=time.monotonic(),
        fatal=fatal,
        down=lambda: [] if up else ["decode"],
        status=lambda: [status("denoise"), status("decode", up)],
        restarts=Counter({("decode", "stuck"): 2}),
    )


def test_health_tells_of_stages_that_are_down():
    server = SimpleNamespace(silent_s=0, busy_s=0, is_draining=False, num_sessions=0,
                             limits=SimpleNamespace(max_sessions=2), metrics=Metrics())  # fmt: skip
    health = Health()
    health.server = server
    for supervisor, live, ready in [
        (fake(), 200, 200),
        (fake(up=False), 200, 503),
        (fake(up=False, fatal="Stage decode has ended too often"), 503, 503),
    ]:
        health.stages = StageReport(supervisor)
        assert (health.page("/livez")[0], health.page("/readyz")[0]) == (live, ready)
    health.stages = StageReport(fake(up=False))
    assert health.page("/readyz")[2] == b"restarting decode\n"
    stuck = fake()
    stuck.turned_s -= 60
    assert "supervisor" in StageReport(stuck).trouble()


def test_metrics_of_stages_are_counted_once():
    report, metrics = StageReport(fake(up=False)), Metrics()
    report.note(metrics)
    report.note(metrics)
    page = metrics.page().decode()
    assert 'af_stage_up{stage="denoise"} 1.0' in page
    assert 'af_stage_up{stage="decode"} 0.0' in page
    assert 'af_stage_restarts_total{reason="stuck",stage="decode"} 2.0' in page
    assert 'af_stage_heartbeat_age_seconds{stage="denoise"} 0.5' in page


def test_how_a_pipeline_is_run_is_what_it_says_unless_told_otherwise():
    cut = {"placement.a": {"nodes": ["decoder", "image_encoder"]}}
    assert not plan("toon", {}).is_staged
    assert not plan("toon", cut, "one").is_staged
    own = plan("toon", cut)
    assert own.is_staged and own.source.open().processes["a"][1] == ["decoder", "image_encoder"]
    three = plan("toon", {}, "stages")
    assert {*three.source.open().processes} == {"audio", "denoise", "decode", "main"}
    assert three.source.overrides == {"denoiser.attention": KERNEL}
    pinned = plan("toon", {"denoiser.attention": "explicit"}, "stages")
    assert pinned.source.overrides == {"denoiser.attention": "explicit"}
    assert exit_code(StageFailedError("x")) == 70


def test_explain_shows_what_crosses_between_processes():
    for arguments, crossing in ([], 0), (["--placement", "stages"], 6):
        told = subprocess.run(
            [COMMAND, "explain", "toon", *arguments], capture_output=True, text=True, check=True
        ).stdout
        assert told.count("━╋▶") == crossing
    assert "process decode on cpu: image_encoder, decoder" in told


def get(port, path):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as e:
        return e.code, e.read().decode()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.slow
def test_a_clip_is_whole_though_every_stage_was_killed_while_it_was_made(tmp_path):
    port, killed = free_port(), []
    serve = subprocess.Popen(
        [COMMAND, "serve", "--placement", "stages", "--bind", "tcp://127.0.0.1:*",
         "--health", f"127.0.0.1:{port}", "--threads", "1"],
        stderr=subprocess.PIPE, text=True, env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)},
    )  # fmt: skip
    try:
        lines = iter(serve.stderr.readline, "")
        endpoint = next(m[1] for line in lines if (m := re.search(r"at (tcp://\S+)", line)))
        rest = threading.Thread(target=lambda: [*lines], daemon=True)
        rest.start()
        sound = write_wav(tmp_path / "speech.wav", speech(48_000))
        out, plain = tmp_path / "staged.mp4", tmp_path / "plain.mp4"
        say = subprocess.Popen([COMMAND, "say", "iris", sound, "--connect", endpoint, "-o", out])
        while len(killed) < 3:
            time.sleep(0.3)
            up = [one for one in json.loads(get(port, "/status")[1])["stages"] if one["is_up"]]
            if one := next((one for one in up if one["process"] == STAGES[len(killed)]), None):
                killed.append(one["pid"])
                os.kill(one["pid"], signal.SIGKILL)
        assert say.wait(300) == 0
        told = json.loads(get(port, "/status")[1])["stages"]
        assert [one["restarts"] for one in told] == [1, 1, 1]
        assert (
            'af_stage_restarts_total{reason="ended",stage="audio"} 1.0' in get(port, "/metrics")[1]
        )
        assert get(port, "/readyz") == (200, "ok\n")
        serve.send_signal(signal.SIGTERM)
        assert serve.wait(60) == 0
        rest.join(10)
        assert not any(is_alive(one["pid"]) for one in told)
        assert not list(tmp_path.glob("af-*"))
        options = ["--threads", "1", "--set", f"denoiser.attention={KERNEL}"]
        subprocess.run([COMMAND, "generate", "iris", sound, "-o", plain, *options], check=True)
        np.testing.assert_array_equal(read_video(out)[0], read_video(plain)[0])
    finally:
        serve.kill()
        serve.wait()
        serve.stderr.close()
