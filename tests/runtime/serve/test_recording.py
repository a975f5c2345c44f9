"""Sessions are recorded as they were, read whatever befell the file, replayed bit for bit."""

import errno
import json
import logging
import os
import re
import subprocess
import sys
import threading
import zlib
from pathlib import Path

import attrs
import numpy as np
import pytest
from af_core.graph import open_pipeline
from af_core.testing.tiny import tiny_avatar
from af_runtime.errors import RecordingError, RequestError
from af_runtime.exit_codes import BAD_CONFIG, exit_code
from af_runtime.messages import from_client as c
from af_runtime.metrics import Metrics
from af_runtime.observing import Watching
from af_runtime.recording import recorder as recorder_module
from af_runtime.recording import replaying
from af_runtime.recording.framing import MAGIC, RecordReader, RecordWriter
from af_runtime.recording.origin import Origin, config_fields, differences
from af_runtime.recording.recorder import Recorder
from af_runtime.recording.records import Drawn, End, Fed, Heard, Recording, digest
from af_runtime.recording.replaying import ReplayRun, replay
from hypothesis import given, settings
from hypothesis import strategies as st
from media_files import read_video
from serving import expected, face, serving, speech

ORIGIN = Origin("tiny", config={"denoiser.dim": "4"}, machine={"threads": "1"})


def recorded(folder, act, **options):
    """Record the session that ``act(stream)`` drives; return its file and what the client saw."""
    tapes = Recorder(folder, ORIGIN, **options)
    with (
        serving(watching=Watching(tapes)) as service,
        service.client() as client,
        client.open("ada", seed=3, pacing="fast") as stream,
    ):
        frames = act(stream)
    tapes.close()
    (path,) = folder.glob("*.afrec")
    return path, np.stack([frame.video for frame in frames])


def say_all(stream):
    stream.push_audio(speech(12_345), 16_000)
    stream.finish()
    return list(stream)


def barge_in(stream):
    """Interrupt in the middle of a sentence, and say another; return the frames of the other."""
    stream.push_audio(speech(16_000), 16_000)
    for _ in range(5):
        stream.next_frame(10)
    stream.interrupt()
    stream.push_audio(speech(5_000, seed=1), 16_000)
    stream.finish()
    return list(stream)


def ignore(count):
    """Take no note of a block."""


def replayed(path):
    run = ReplayRun(tiny_avatar(), Recording(path), ignore)
    pictures, sounds = zip(*run.frames(), strict=True)
    return np.stack(pictures), np.concatenate(sounds)


def test_a_replay_shows_what_a_plain_loop_draws_and_what_the_client_saw(tmp_path):
    path, seen = recorded(tmp_path, say_all)
    pictures, sound = replayed(path)
    np.testing.assert_array_equal(pictures, seen)
    plain = expected(tiny_avatar(), face(tiny_avatar()), speech(12_345), seed=3)
    np.testing.assert_array_equal(pictures, plain)
    np.testing.assert_array_equal(sound[:12_345], speech(12_345))
    assert not sound[12_345:].any()


def test_a_replay_of_an_interruption_leaves_out_what_the_client_was_not_sent(tmp_path):
    path, seen = recorded(tmp_path, barge_in)
    done = replay(path, tmp_path / "again.mp4", avatar=tiny_avatar())
    assert done.is_exact and done.reason == "drained" and done.num_lost_bytes == 0
    pictures, _ = replayed(path)
    np.testing.assert_array_equal(pictures[-len(seen) :], seen)
    assert done.num_sent == len(pictures) == len(read_video(tmp_path / "again.mp4")[0])
    assert done.num_drawn > done.num_sent >= len(seen) + 5
    assert {"avatar", "decoder"} <= set(done.stage_ms) & set(done.recorded_ms)


def test_another_avatar_is_found_out_at_the_first_picture_that_differs(tmp_path):
    class Brighter:
        """A decoder that goes wrong in its third block, by one shade of one pixel."""

        def __init__(self, inner):
            self.inner, self.count = inner, 0

        def __getattr__(self, name):
            return getattr(self.inner, name)

        def step(self, state, inputs):
            made, state = self.inner.step(state, inputs)
            if "frames" in made:
                self.count += made["frames"].shape[1]
                if self.count == 12:
                    made["frames"][0, 1, 5, 5, 0] ^= 1
            return made, state

    path, _ = recorded(tmp_path, say_all)
    avatar = tiny_avatar()
    runners = {**avatar.runners, "decoder": Brighter(avatar.runners["decoder"])}
    done = replay(path, avatar=attrs.evolve(avatar, runners=runners))
    assert not done.is_exact and done.first_difference == 9


def test_a_recording_holds_speech_once_and_no_picture_unless_asked(tmp_path):
    path, seen = recorded(tmp_path / "bare", say_all)
    records = [(record, arrays) for record, arrays in Recording(path)]
    heard = np.concatenate([a["pcm"] for r, a in records if isinstance(r, Fed) and "pcm" in a])
    np.testing.assert_array_equal(heard[:12_345], speech(12_345))
    messages = [r.message for r, _ in records if isinstance(r, Heard)]
    assert {type(m) for m in messages} >= {c.Audio, c.Close}
    assert all(not m.buffers for m in messages)
    drawn = [(r, a) for r, a in records if isinstance(r, Drawn)]
    assert all(not arrays for _, arrays in drawn)
    digests = b"".join(r.digests for r, _ in drawn)
    assert digests == b"".join(map(digest, seen))
    assert isinstance(records[-1][0], End)
    assert path.stat().st_mode & 0o777 == 0o600
    full, _ = recorded(tmp_path / "full", say_all, with_pixels=True)
    kept = [a["video"] for r, a in Recording(full) if isinstance(r, Drawn) and r.num_frames]
    np.testing.assert_array_equal(np.concatenate(kept), seen)


def test_options_that_differ_are_all_named(tmp_path, monkeypatch):
    path, _ = recorded(tmp_path, say_all)
    here = Origin("tiny", config={"denoiser.dim": "8", "decoder.still": "0"})
    monkeypatch.setattr(replaying, "load", lambda name, changes: tiny_avatar())
    monkeypatch.setattr(replaying, "origin_of", lambda *given: here)
    with pytest.raises(RecordingError) as caught:
        replay(path)
    assert "denoiser.dim: recorded 4, here 8" in str(caught.value)
    assert "decoder.still: recorded nothing, here 0" in str(caught.value)
    assert exit_code(caught.value) == BAD_CONFIG


def test_the_fields_of_a_pipeline_are_every_option_and_the_digest_of_every_file(tmp_path):
    fields = dict(config_fields(open_pipeline("toon")))
    assert fields["geometry.block_latents"] == "1" and fields["denoiser.num_heads"] == "4"
    weights = [value for key, value in fields.items() if key.endswith(".weights")]
    assert len(set(weights)) == 3 and all(re.fullmatch(r"sha256:\w{64}", one) for one in weights)
    other = dict(config_fields(open_pipeline("toon", {"decoder.still": 0.06})))
    assert differences(fields, other) == ["decoder.still: recorded 0.05, here 0.06"]


PAYLOADS = [(b"head", [b"abc"]), (b"", []), (b"x" * 300, [b"", b"y" * 70])]


def written(path):
    writer = RecordWriter(path)
    for header, buffers in PAYLOADS:
        writer.add(header, buffers)
    writer.close()
    return path.read_bytes()


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_whatever_is_cut_off_or_damaged_what_was_whole_before_it_is_read(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("cut") / "a.afrec"
    whole = written(path)
    sizes = [8 + 4 + len(h) + sum(map(len, b)) for h, b in PAYLOADS]
    ends = len(MAGIC) + np.cumsum(sizes)
    assert ends[-1] == len(whole)
    at = data.draw(st.integers(len(MAGIC), len(whole) - 1))
    broken = bytearray(whole)
    if data.draw(st.booleans()):
        del broken[at:]
    else:
        broken[at] ^= data.draw(st.integers(1, 255))
    path.write_bytes(broken)
    reader = RecordReader(path)
    read = [(header, bytes(rest)) for header, rest in reader]
    count = int((ends <= at).sum())
    assert read == [(h, b"".join(b)) for h, b in PAYLOADS[:count]]
    assert reader.num_lost_bytes == len(broken) - (ends[count - 1] if count else len(MAGIC))


def test_what_is_no_recording_is_a_plain_error(tmp_path):
    path = tmp_path / "a.afrec"
    for content in (b"", b"RIFF....WAVE", MAGIC, MAGIC + b"\x05\0\0\0"):
        path.write_bytes(content)
        with pytest.raises(RecordingError):
            Recording(path)
    body = b"\x01\0\0\0\xc1"  # a checksum that is right, around what is no header
    path.write_bytes(
        MAGIC + len(body).to_bytes(4, "little") + zlib.crc32(body).to_bytes(4, "little") + body
    )
    with pytest.raises(RecordingError, match="cannot read"):
        Recording(path)
    with pytest.raises(RecordingError, match="No such file"):
        Recording(tmp_path / "none.afrec")


def test_a_recording_whose_writer_was_killed_is_replayed_as_far_as_it_goes(tmp_path):
    path, _ = recorded(tmp_path, say_all)
    path.write_bytes(path.read_bytes()[:-40])
    done = replay(path, avatar=tiny_avatar())
    assert done.is_exact and done.reason == "" and done.num_lost_bytes > 0 and done.num_sent > 0


def full_disk(after):
    """Return an ``os.write`` that finds the disk full after so many bytes."""
    write, left = os.write, [after]

    def limited(file, data):
        if len(data) > left[0]:
            written = write(file, data[: left[0]]) if left[0] else 0
            left[0] -= written
            if written:
                return written
            raise OSError(errno.ENOSPC, "No space left on device")
        left[0] -= len(data)
        return write(file, data)

    return limited


def test_a_full_disk_ends_the_recording_with_one_notice_and_not_the_session(
    tmp_path, monkeypatch, caplog
):
    metrics, ended = Metrics(), []
    monkeypatch.setattr("af_runtime.recording.framing.os.write", full_disk(9_000))
    with caplog.at_level(logging.WARNING, "af_runtime"):
        path, seen = recorded(tmp_path, say_all, on_end=ended.append)
    plain = expected(tiny_avatar(), face(tiny_avatar()), speech(12_345), seed=3)
    np.testing.assert_array_equal(seen, plain)
    notices = [r.getMessage() for r in caplog.records if "recording" in r.getMessage()]
    assert len(notices) == 1 and "No space left" in notices[0]
    assert ended == ["disk"] and metrics is not None
    reader = RecordReader(path)
    assert len(list(reader)) >= 1 and reader.num_lost_bytes == 0  # no half record is left


def test_a_disk_that_is_too_slow_ends_the_recording_and_memory_stays_bounded(
    tmp_path, monkeypatch, caplog
):
    go, write = threading.Event(), os.write

    def waiting(file, data):
        go.wait(30)
        return write(file, data)

    monkeypatch.setattr(recorder_module, "MOST_WAITING_BYTES", 20_000)
    monkeypatch.setattr("af_runtime.recording.framing.os.write", waiting)
    ended = []

    def act(stream):
        frames = say_all(stream)
        go.set()
        return frames

    with caplog.at_level(logging.WARNING, "af_runtime"):
        _, seen = recorded(tmp_path, act, on_end=ended.append)
    assert ended == ["slow"] and len(seen) == 20
    assert sum("too slow" in record.getMessage() for record in caplog.records) == 1


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_served(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RequestError, match="Nothing can be recorded"):
        Recorder(tmp_path / "file" / "rec", ORIGIN)


@pytest.mark.slow
def test_the_embedded_avatar_is_recorded_and_replayed_by_commands(tmp_path):
    command = Path(sys.executable).with_name("af-runtime")
    options = ["--bind", "tcp://127.0.0.1:*", "--health", "-", "--threads", "1"]
    worker = subprocess.Popen(
        [command, "serve", *options, "--record", tmp_path / "rec", "--log-format", "json"],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        endpoint = json.loads(worker.stderr.readline())["message"].split()[-1]
        script = (
            "import numpy as np\nfrom af_runtime.client import AvatarClient\n"
            f"with AvatarClient({endpoint!r}, timeout_s=60) as client:\n"
            "    with client.open('iris', pacing='fast') as stream:\n"
            "        stream.push_audio(np.zeros(9000, np.float32), 16000)\n"
            "        stream.finish()\n        assert len(list(stream)) == 15\n"
        )
        subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
    finally:
        worker.terminate()
        worker.wait(60)
    (path,) = (tmp_path / "rec").glob("*.afrec")
    done = subprocess.run([command, "replay", path, "--json"], capture_output=True, text=True)
    told = json.loads(done.stdout)
    assert done.returncode == 0 and told["exact"] and told["num_sent"] == 15
    assert told["machine"] == []
    refused = subprocess.run(
        [command, "replay", path, "--set", "decoder.still=0.1"], capture_output=True, text=True
    )
    assert refused.returncode == BAD_CONFIG and "decoder.still: recorded 0.05" in refused.stderr
