"""The mp4 itself: colours, timing, what is left of it after a power cut, and what it costs."""

import os
import signal
import subprocess
import sys

import av
import numpy as np
import pytest
from af_runtime.background import BackgroundWriter
from af_runtime.contact_sheet import ContactSheet
from af_runtime.errors import MediaError, RequestError
from af_runtime.media import Mp4Writer, VideoSettings
from af_runtime.outputs import checked_output, replacing
from media_files import onsets, read_sound, read_video


def frames(count, colour=(200, 60, 90), side=64):
    return np.full((count, side, side, 3), colour, np.uint8)


def writer(path, **options):
    return Mp4Writer(path, width=64, height=64, sample_rate=16_000, **options)


@pytest.mark.parametrize("colour", [(200, 60, 90), (20, 180, 60), (30, 50, 210), (255, 255, 255)])
def test_colours_survive_within_three_levels(colour, tmp_path):
    with writer(tmp_path / "a.mp4") as mp4:
        mp4.add_frames(frames(5, colour))
    seen, _ = read_video(tmp_path / "a.mp4")
    assert np.abs(seen.astype(int) - colour).max() <= 3


def test_the_file_is_an_ordinary_mp4_with_h264_and_aac(tmp_path):
    with writer(tmp_path / "a.mp4") as mp4:
        mp4.add_frames(frames(30))
    with av.open(str(tmp_path / "a.mp4")) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert (video.codec_context.name, audio.codec_context.name) == ("h264", "aac")
        assert (video.frames, video.average_rate, video.pix_fmt) == (30, 25, "yuv420p")
        assert container.duration == 1_200_000


@pytest.mark.parametrize("late_by", [0, 5, 40])
def test_sound_stays_in_place_however_far_ahead_it_was_added(late_by, tmp_path):
    """``late_by``: blocks of sound added before the first frame."""
    sound = np.zeros((1, 640 * 100), np.float32)
    sound[:, 640 * 60 : 640 * 60 + 60] = 0.9
    with writer(tmp_path / "a.mp4") as mp4:
        for i in range(100 + late_by):
            if i < 100:
                mp4.add_audio(sound[:, 640 * i : 640 * (i + 1)])
            if i >= late_by:
                mp4.add_frames(frames(1))
    samples, rate, start = read_sound(tmp_path / "a.mp4")
    assert onsets(samples[0], rate, start) == pytest.approx([2.4], abs=0.002)


def test_sound_ends_with_the_last_frame(tmp_path):
    with writer(tmp_path / "long.mp4") as mp4:
        mp4.add_audio(np.full((1, 160_000), 0.5, np.float32))
        mp4.add_frames(frames(25))
    with writer(tmp_path / "short.mp4") as mp4:
        mp4.add_audio(np.full((1, 1_000), 0.5, np.float32))
        mp4.add_frames(frames(25))
    for name in ("long.mp4", "short.mp4"):
        with av.open(str(tmp_path / name)) as container:
            assert container.duration == 1_000_000


POWER_CUT = """
import os, sys, numpy as np
from af_runtime.media import Mp4Writer
mp4 = Mp4Writer(sys.argv[1], width=64, height=64, sample_rate=16000)
sound = np.random.default_rng(0).uniform(-.3, .3, (1, 640)).astype("f4")
for i in range(500):
    mp4.add_audio(sound)
    mp4.add_frames(np.random.default_rng(i).integers(0, 255, (1, 64, 64, 3), np.uint8))
os.kill(os.getpid(), 9)
"""


def test_after_a_power_cut_all_but_the_last_seconds_can_be_played(tmp_path):
    done = subprocess.run([sys.executable, "-c", POWER_CUT, str(tmp_path / "a.mp4")])
    assert done.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    seen, times = read_video(left)
    assert len(seen) >= 400 and np.allclose(times, np.arange(len(seen)) / 25)


def test_an_exception_leaves_nothing_behind(tmp_path):
    with pytest.raises(ZeroDivisionError), writer(tmp_path / "a.mp4") as mp4:
        mp4.add_frames(frames(3))
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_an_odd_size_is_refused(tmp_path):
    with pytest.raises(RequestError, match="even width"):
        Mp4Writer(tmp_path / "a.mp4", width=63, height=64, sample_rate=16_000)
    assert list(tmp_path.iterdir()) == []


def test_the_background_writer_makes_the_same_file(tmp_path):
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 255, (60, 64, 64, 3), np.uint8)
    sound = rng.uniform(-0.5, 0.5, (1, 640 * 60)).astype(np.float32)
    plain = writer(tmp_path / "plain.mp4")
    behind = BackgroundWriter(writer(tmp_path / "behind.mp4"), queue_jobs=2)
    for out in (plain, behind):
        out.add_audio(sound)
        for i in range(0, 60, 4):
            out.add_frames(pictures[i : i + 4])
        out.finish()
    assert (tmp_path / "plain.mp4").read_bytes() == (tmp_path / "behind.mp4").read_bytes()


def test_a_drained_background_writer_takes_nothing_more(tmp_path):
    behind = BackgroundWriter(writer(tmp_path / "a.mp4"))
    behind.add_frames(frames(4))
    behind.drain()
    with pytest.raises(RuntimeError, match="was drained"):
        behind.add_frames(frames(1))
    behind.finish()
    assert behind.num_frames == 4


def test_an_encoder_that_fails_is_reported_and_never_blocks_the_model(tmp_path, monkeypatch):
    def broken(self, pixels):
        raise MediaError("the encoder broke")

    monkeypatch.setattr(Mp4Writer, "_picture", broken)
    behind = BackgroundWriter(writer(tmp_path / "a.mp4"), queue_jobs=1)
    with pytest.raises(MediaError, match="the encoder broke"):
        for _ in range(100):
            behind.add_frames(frames(1))
        behind.finish()
    behind.discard()
    assert list(tmp_path.iterdir()) == []


def test_better_quality_makes_a_larger_file(tmp_path):
    pictures = np.random.default_rng(0).integers(0, 255, (20, 64, 64, 3), np.uint8)
    sizes = []
    for quality in (10, 30):
        path = tmp_path / f"{quality}.mp4"
        with writer(path, settings=VideoSettings(quality=quality)) as mp4:
            mp4.add_frames(pictures)
        sizes.append(path.stat().st_size)
    assert sizes[0] > 2 * sizes[1]


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "a.json"
    target.write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(target) as part:
        part.write_text("half")
        raise ZeroDivisionError
    assert target.read_text() == "old" and os.listdir(tmp_path) == ["a.json"]
    with replacing(target) as part:
        part.write_text("new")
    assert target.read_text() == "new" and os.listdir(tmp_path) == ["a.json"]


def test_an_output_is_checked_without_touching_what_is_there(tmp_path):
    target = tmp_path / "a.mp4"
    target.write_text("old")
    assert checked_output(target, (".mp4",)) == target and target.read_text() == "old"
    with pytest.raises(RequestError, match="also an input"):
        checked_output(target, (".mp4",), (str(target),))


@pytest.mark.parametrize("count", [1, 7, 60, 3_000])
def test_a_contact_sheet_spreads_its_pictures_evenly_over_the_clip(count):
    sheet = ContactSheet(width=64, height=64, sample_rate=16_000)
    levels = np.linspace(0, 255, count).astype(np.uint8)
    for level in levels:
        sheet.add_frames(np.full((1, 64, 64, 3), level, np.uint8))
        sheet.add_audio(np.full((1, 640), 0.5, np.float32))
    cells = sheet._cells()
    assert len(cells) == min(count, 8 * max(1, min(6, round(count / 24))))
    shown = np.array([cell.picture.mean() for cell in cells])
    middles = (np.arange(len(cells)) + 0.5) * count / len(cells) - 0.5
    expected = np.interp(middles, np.arange(count), levels)
    assert np.abs(shown - expected).max() <= 255 / count * 0.5 + 255 / 128
    times = np.array([cell.time_s for cell in cells])
    assert np.abs(times * 25 - middles).max() <= max(0.5, count / 192)
    assert sheet.draw("title", "subtitle").size[0] >= 480


def test_loudness_under_a_picture_is_that_of_its_own_time():
    sheet = ContactSheet(width=64, height=64, sample_rate=16_000)
    sheet.add_frames(frames(200))
    sound = np.zeros((1, 640 * 200), np.float32)
    sound[:, 640 * 100 : 640 * 150] = 0.8
    for piece in np.array_split(sound, 37, axis=1):
        sheet.add_audio(piece)
    cells = sheet._cells()
    loud = np.array([np.mean(cell.bars) > 0.5 for cell in cells])
    assert loud.sum() == len(cells) // 4 and loud[len(cells) // 2 : 3 * len(cells) // 4].all()
