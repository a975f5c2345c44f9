"""The main job, end to end, with an avatar whose frames can be read back after decoding the mp4."""

import io
import math
from importlib.metadata import version

import af_core
import attrs
import numpy as np
import pytest
from af_audio import PcmSource
from af_audio.wav2vec2.config import Wav2Vec2Options
from af_core.geometry import AUDIO_HZ, SAMPLES_PER_FRAME, Geometry
from af_core.plugins import BuildContext
from af_core.testing.tiny import tiny_avatar
from af_runtime.background import BackgroundWriter
from af_runtime.cli import build_app
from af_runtime.generation import GenerationInterrupted, generate
from af_runtime.timing import times
from media_files import onsets, read_sound, read_video, write_audio, write_wav
from PIL import Image
from row_bars import row_bars_avatar
from tiny_wav2vec2 import local_model, save
from typer.testing import CliRunner


def heights(frames):
    """Return the share of white rows of each frame."""
    return (frames[:, :, 20:44].mean((2, 3)) > 140).mean(1)


def lit_frames(times, frames, level=0.5):
    return times[heights(frames) > level]


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100, 48_000, 96_000])
def test_a_click_and_its_frame_coincide_within_half_a_frame(
    rate, tmp_path, bar_avatar, portrait_file, clicks
):
    times = np.arange(len(clicks.samples) * rate // AUDIO_HZ) / rate
    samples = clicks.samples[(times * AUDIO_HZ).astype(int)]
    audio = write_wav(tmp_path / "clicks.wav", samples, rate)
    clip = generate(portrait_file, audio, tmp_path / "out.mp4", avatar=bar_avatar)
    frames, shown = read_video(clip.output)
    sound, out_rate, start_s = read_sound(clip.output)
    seen = lit_frames(shown, frames, 0.4)
    heard = onsets(sound[0], out_rate, start_s, level=0.3)
    assert np.allclose(seen * 25, clicks.frames)
    assert len(heard) == len(seen)
    assert np.abs(heard - (seen + 0.02)).max() < 0.02


def test_release_timing_shows_the_portrait_first_and_every_other_frame_40_ms_late(
    tmp_path, bar_avatar, portrait_file, clicks
):
    audio, seen = write_wav(tmp_path / "clicks.wav", clicks.samples), []
    ours = generate(portrait_file, audio, tmp_path / "ours.mp4", avatar=bar_avatar)
    theirs = generate(
        *(portrait_file, audio, tmp_path / "theirs.mp4"),
        avatar=bar_avatar,
        release_timing=True,
        on_progress=seen.append,
    )
    frames, shown = read_video(theirs.output)
    assert theirs.num_frames == len(frames) == ours.num_frames + 1
    assert seen[-1].num_frames == seen[-1].total_frames == len(frames)
    assert np.abs(frames[0].astype(int) - (200, 160, 120)).max() <= 3  # the portrait
    assert np.abs(heights(frames[1:]) - heights(read_video(ours.output)[0])).max() < 0.02
    lit = lit_frames(shown[1:], frames[1:], 0.4)
    assert np.allclose(lit * 25, np.array(clicks.frames) + 1)
    for output in (ours.output, theirs.output):
        sound, rate, start_s = read_sound(output)
        assert np.allclose(onsets(sound[0], rate, start_s) * 25, heard_at(clicks), atol=0.06)


def test_the_command_line_offers_the_timing_of_the_release(
    tmp_path, bar_avatar, portrait_file, clicks, monkeypatch
):
    monkeypatch.setattr(af_core, "load", lambda *rest: bar_avatar)
    audio = write_wav(tmp_path / "a.wav", clicks.samples[:6400])
    argv = ["generate", str(portrait_file), str(audio), "-o", str(tmp_path / "o.mp4"), "-q"]
    done = CliRunner().invoke(build_app(argv), [*argv, "--release-timing"])
    assert (done.exit_code, len(read_video(tmp_path / "o.mp4")[0])) == (0, 11)


def test_a_click_that_wav2vec2_hears_coincides_with_its_frame(tmp_path, portrait_file):
    options = Wav2Vec2Options(weights=str(save(local_model(), tmp_path / "wav2vec2")))
    avatar = row_bars_avatar(options.build(BuildContext(Geometry(64, 64, 1))))
    frames = [7, 30, 31, 62]
    samples = np.zeros(640 * 80)
    for frame in frames:
        samples[640 * frame + 100 : 640 * frame + 300] = 0.9 * np.sin(np.arange(200) * np.pi / 4)
    audio = write_wav(tmp_path / "clicks.wav", samples)
    clip = generate(portrait_file, audio, tmp_path / "out.mp4", avatar=avatar)
    seen, shown = read_video(clip.output)
    sound, rate, start_s = read_sound(clip.output)
    assert np.allclose(lit_frames(shown, seen, 0.3) * 25, frames)
    heard = onsets(sound[0], rate, start_s, apart_s=0.02)
    assert np.allclose(heard * 25, np.array(frames) + 100 / 640, atol=0.06)


def heard_at(clicks):
    """Times of the clicks in video frames: each begins 280 samples into its own."""
    return np.array(clicks.frames) + 280 / SAMPLES_PER_FRAME


def test_ctrl_c_before_the_first_frame_leaves_no_still_portrait_either(
    tmp_path, portrait_file, bar_avatar
):
    class Impatient(io.BytesIO):
        def read1(self, size=-1):
            raise KeyboardInterrupt

    source = PcmSource(Impatient())
    with pytest.raises(GenerationInterrupted) as caught:
        generate(portrait_file, source, tmp_path / "o.mp4", avatar=bar_avatar, release_timing=True)
    assert caught.value.clip is None and [p.name for p in tmp_path.iterdir()] == ["face.png"]


def test_explain_calls_the_delay_of_whole_utterances_unlimited(tmp_path):
    checkpoint = save(local_model(), tmp_path)
    sets = ("use=wav2vec2", f"weights={checkpoint}", "mode=offline")
    argv = [
        "explain",
        "toon",
        *(word for one in sets for word in ("--set", f"audio_encoder.{one}")),
    ]
    done = CliRunner().invoke(build_app(argv), argv)
    assert done.exit_code == 0 and "look-ahead unlimited" in done.output
    assert " inf " not in done.output


@pytest.mark.parametrize("num_samples", [1, 640, 641, 2_560, 16_000, 50_001])
def test_a_clip_has_one_frame_for_each_begun_40_ms(
    num_samples, tmp_path, bar_avatar, portrait_file
):
    audio = write_wav(tmp_path / "a.wav", np.full(num_samples, 0.3))
    clip = generate(portrait_file, audio, tmp_path / "out.mp4", avatar=bar_avatar)
    frames, times = read_video(clip.output)
    sound, rate, _ = read_sound(clip.output)
    assert clip.num_frames == len(frames) == math.ceil(num_samples / 640)
    assert np.allclose(times, np.arange(len(frames)) / 25)
    assert sound.shape[1] / rate >= len(frames) / 25 - 0.001


def test_every_frame_shows_the_loudness_of_its_own_40_ms(tmp_path, bar_avatar, portrait_file):
    rng = np.random.default_rng(0)
    levels = rng.uniform(0.05, 0.95, 75)
    audio = write_wav(tmp_path / "a.wav", np.repeat(levels, SAMPLES_PER_FRAME))
    clip = generate(portrait_file, audio, tmp_path / "out.mp4", avatar=bar_avatar)
    frames, _ = read_video(clip.output)
    assert np.abs(heights(frames) - levels).max() < 0.04


def test_the_sound_keeps_the_quality_and_channels_of_the_source(
    tmp_path, bar_avatar, portrait_file
):
    t = np.arange(48_000) / 48_000
    stereo = np.stack([0.4 * np.sin(2 * np.pi * 440 * t), 0.4 * np.sin(2 * np.pi * 9_000 * t)])
    audio = write_wav(tmp_path / "a.wav", stereo, 48_000)
    clip = generate(portrait_file, audio, tmp_path / "out.mp4", avatar=bar_avatar)
    sound, rate, _ = read_sound(clip.output)
    assert (rate, len(sound)) == (48_000, 2)
    for channel, hz in zip(sound, (440, 9_000), strict=True):
        spectrum = np.abs(np.fft.rfft(channel[4_800:43_200]))
        assert abs(np.argmax(spectrum) * rate / 38_400 - hz) < 5


def test_raw_samples_from_a_pipe_make_the_same_video_as_the_file(
    tmp_path, bar_avatar, portrait_file, clicks
):
    file = write_wav(tmp_path / "a.wav", clicks.samples)
    pipe = io.BytesIO((clicks.samples * 32767).astype("<i2").tobytes())
    one = generate(portrait_file, file, tmp_path / "one.mp4", avatar=bar_avatar)
    two = generate(portrait_file, PcmSource(pipe), tmp_path / "two.mp4", avatar=bar_avatar)
    assert np.array_equal(read_video(one.output)[0], read_video(two.output)[0])
    assert np.array_equal(read_sound(one.output)[0], read_sound(two.output)[0])


class Interrupting:
    """Raises Ctrl-C when the given number of frames has been shown."""

    def __init__(self, after):
        self.after = after

    def __call__(self, progress):
        if progress.num_frames >= self.after:
            raise KeyboardInterrupt


def test_ctrl_c_leaves_a_playable_file_of_what_was_done(
    tmp_path, bar_avatar, portrait_file, clicks
):
    audio = write_wav(tmp_path / "a.wav", clicks.samples)
    out, sheet = tmp_path / "out.mp4", tmp_path / "sheet.png"
    with pytest.raises(GenerationInterrupted) as caught:
        generate(
            *(portrait_file, audio, out),
            avatar=bar_avatar,
            contact_sheet=sheet,
            on_progress=Interrupting(60),
        )
    clip = caught.value.clip
    frames, _ = read_video(out)
    sound, rate, start_s = read_sound(out)
    assert clip.interrupted and clip.num_frames == len(frames) == 60
    assert np.allclose(onsets(sound[0], rate, start_s) * 25, [7.44, 32.44, 57.44], atol=0.5)
    assert Image.open(sheet).size[0] > 0
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        ["a.wav", "face.png", "out.mp4", "sheet.png"]
    )


@pytest.mark.parametrize("after", [4, 5, 9])
def test_ctrl_c_between_model_and_encoder_counts_only_what_is_in_the_file(
    after, tmp_path, bar_avatar, portrait_file, clicks, monkeypatch
):
    audio = write_wav(tmp_path / "a.wav", clicks.samples)
    calls = iter(range(1_000))
    add = BackgroundWriter.add_frames

    def add_frames(self, frames):
        if next(calls) == after:
            raise KeyboardInterrupt
        add(self, frames)

    monkeypatch.setattr(BackgroundWriter, "add_frames", add_frames)
    with pytest.raises(GenerationInterrupted) as caught:
        generate(portrait_file, audio, tmp_path / "o.mp4", avatar=bar_avatar)
    assert caught.value.clip.num_frames == len(read_video(tmp_path / "o.mp4")[0])


def test_ctrl_c_before_the_first_frame_leaves_nothing(tmp_path, portrait_file, bar_avatar):
    class Impatient(io.BytesIO):
        def read1(self, size=-1):
            raise KeyboardInterrupt

    with pytest.raises(GenerationInterrupted) as caught:
        generate(portrait_file, PcmSource(Impatient()), tmp_path / "o.mp4", avatar=bar_avatar)
    assert caught.value.clip is None
    assert [p.name for p in tmp_path.iterdir()] == ["face.png"]


def test_a_failing_model_leaves_neither_a_partial_file_nor_touches_the_old_one(
    tmp_path, breaking_avatar, portrait_file, clicks
):
    audio = write_wav(tmp_path / "a.wav", clicks.samples)
    out = tmp_path / "out.mp4"
    out.write_bytes(b"the old one")
    with pytest.raises(RuntimeError, match="the model broke"):
        generate(portrait_file, audio, out, avatar=breaking_avatar)
    assert out.read_bytes() == b"the old one"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.wav", "face.png", "out.mp4"]


def test_the_result_states_speed_and_size(tmp_path, bar_avatar, portrait_file, clicks):
    audio = write_wav(tmp_path / "a.wav", clicks.samples)
    clip = generate(portrait_file, audio, tmp_path / "out.mp4", avatar=bar_avatar)
    assert clip.preset == "bars" and clip.duration_s == clip.num_frames / 25 == 5.0
    assert clip.realtime_factor > 1 and 0 < clip.ttff_s < 5
    assert 0 < clip.frame_ms_p50 <= clip.frame_ms_p95 < 1_000


def test_progress_counts_up_to_the_length_of_the_file(tmp_path, bar_avatar, portrait_file, clicks):
    seen = []
    audio = write_wav(tmp_path / "a.wav", clicks.samples)
    out = tmp_path / "out.mp4"
    generate(portrait_file, audio, out, avatar=bar_avatar, on_progress=seen.append)
    assert seen[-1].num_frames == seen[-1].total_frames == 125
    assert [p.num_frames for p in seen] == sorted(p.num_frames for p in seen)


def test_a_photo_for_a_model_of_drawings_is_warned_about_at_once_and_in_the_result(
    tmp_path, bar_avatar, clicks
):
    photo = np.random.default_rng(0).integers(0, 256, (90, 90, 3), np.uint8)
    Image.fromarray(photo).save(tmp_path / "photo.png")
    audio = write_wav(tmp_path / "a.wav", clicks.samples)
    toon = attrs.evolve(bar_avatar, info=attrs.evolve(bar_avatar.info, preset="toon"))
    events = []
    clip = generate(
        *(tmp_path / "photo.png", audio, tmp_path / "out.mp4"),
        avatar=toon,
        on_warning=events.append,
        on_progress=events.append,
    )
    assert "avatarforcing-1.3b" in events[0] and clip.warnings == (events[0],)


def test_an_audio_file_cut_short_is_warned_about(tmp_path, bar_avatar, portrait_file):
    whole = write_audio(tmp_path / "b.mp3", np.full(400_000, 0.3), "libmp3lame", 44_100)
    (tmp_path / "a.mp3").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    clip = generate(portrait_file, tmp_path / "a.mp3", tmp_path / "o.mp4", avatar=bar_avatar)
    assert len(clip.warnings) == 1 and "cut short" in clip.warnings[0]


def test_the_real_engine_runs_behind_the_same_door(tmp_path, portrait_file, clicks):
    audio = write_wav(tmp_path / "a.wav", clicks.samples[:40_000])
    one = generate(portrait_file, audio, tmp_path / "one.mp4", avatar=tiny_avatar(), seed=3)
    two = generate(portrait_file, audio, tmp_path / "two.mp4", avatar=tiny_avatar(), seed=3)
    frames, _ = read_video(one.output)
    assert one.num_frames == 63 and frames.shape == (63, 32, 48, 3)
    assert one.output.read_bytes() == two.output.read_bytes()


@pytest.mark.parametrize(
    ("factor", "text"), [(12.34, "12.3x"), (0.05, "0.1x"), (0.0123, "0.012x"), (0.004, "0.004x")]
)
def test_a_slow_run_is_never_called_0_0x(factor, text):
    assert times(factor) == text


@pytest.mark.parametrize(("option", "begin"), [((), "Wrote"), (("-q",), "")])
def test_a_quiet_success_prints_nothing(
    option, begin, tmp_path, bar_avatar, portrait_file, clicks, monkeypatch
):
    monkeypatch.setattr(af_core, "load", lambda *rest: bar_avatar)
    audio = write_wav(tmp_path / "a.wav", clicks.samples[:6400])
    argv = ["generate", str(portrait_file), str(audio), "-o", str(tmp_path / "o.mp4"), *option]
    done = CliRunner().invoke(build_app(argv), argv)
    assert done.exit_code == 0
    assert done.output.startswith(begin) and bool(done.output) == bool(begin)


def test_the_command_line_tells_its_version():
    done = CliRunner().invoke(build_app(["--version"]), ["--version"])
    assert (done.exit_code, done.output) == (0, f"af-runtime {version('af-runtime')}\n")
