"""Real data: recordings made here become clips whose pictures, sound and rows belong together."""

import json
import sys

import msgspec
import numpy as np
import pytest
import recordings as r
import torch
from af_core.decoders.tiny_vae import TinyVAEDecoder
from af_core.graph import open_pipeline, parse_overrides
from af_core.weights.files import read_metadata, read_tensors
from af_train import cli
from af_train.data.clip_store import ClipStore
from af_train.data.encoders import Encoders, open_clips
from af_train.data.manifest import ManifestError, Recording, list_recordings
from af_train.data.media import Size, UnusableError, fit_image, nearest, open_recording
from af_train.data.prepare import Preparation, PrepareConfig, summarise
from af_train.ode_store import StoreError
from hypothesis import given
from hypothesis import strategies as st
from media_files import onsets, write_silent_video, write_wav
from PIL import Image

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = PrepareConfig(clip_latents=2, recordings_per_group=2, clips_per_shard=2)
"""Clips of nine frames."""


@pytest.fixture(scope="module")
def encoders():
    return Encoders.of(open_pipeline("toon", {}))


def one(path, audio=None):
    return Recording(path, audio or path)


def greys(opened, side=32):
    return [int(f.mean().round()) for f in opened.frames(Size(side, side))]


def clicks(samples):
    """Frames at whose beginning there is a click."""
    return [round(25 * at, 1) for at in onsets(samples, 16_000)]


@pytest.mark.parametrize("video_at, sound_at", [(0.0, 0.0), (0.4, 0.0), (0.0, 0.52)])
@pytest.mark.parametrize("ending", ["mkv", "mp4"])
def test_a_frame_is_heard_in_its_own_samples_wherever_the_streams_begin(
    tmp_path, video_at, sound_at, ending
):
    numbers = [30, 45]  # of the clock: 25 frames a second from time 0
    bright = [255 if round(25 * video_at) + i in numbers else 20 for i in range(60)]
    sound = r.clicking(60, [n - 25 * sound_at for n in numbers])
    path = r.write_recording(
        tmp_path / f"a.{ending}", bright, sound, video_at=video_at, sound_at=sound_at
    )
    opened = open_recording(one(path))
    lit = [i for i, g in enumerate(greys(opened)) if g > 150]
    assert len(lit) == 2 and lit[1] - lit[0] == 15
    assert clicks(opened.samples) == pytest.approx(lit, abs=0.1)


@pytest.mark.parametrize("fps", [10, 30, 50, 60])
def test_other_rates_become_25_frames_a_second(tmp_path, fps):
    shown = [r.grey(i) for i in range(2 * fps)]
    path = r.write_recording(tmp_path / "a.mkv", shown, r.tone(2), fps=fps)
    found = greys(open_recording(one(path)))
    nearest_ones = [
        {shown[k] for k in range(2 * fps) if abs(k / fps - i / 25) < 0.5 / fps + 2e-3}
        for i in range(50)
    ]
    assert len(found) >= 48
    assert all(min(abs(f - n) for n in near) <= 2 for f, near in zip(found, nearest_ones))


@given(
    st.lists(st.integers(0, 3000), min_size=1, max_size=30, unique=True).map(sorted),
    st.lists(st.integers(0, 3000), max_size=30).map(sorted),
)
def test_the_nearest_frame_is_taken(stamps, times):
    source = [(t / 1000, t) for t in stamps]
    found = list(nearest(iter(source), (t / 1000 for t in times)))
    expected = [
        min(reversed(stamps), key=lambda s: abs(s - t)) for t in times if t <= stamps[-1] + 20
    ]
    assert found == expected


def test_frames_are_fitted_as_the_runtime_fits_portraits():
    from af_runtime.portrait import fit_portrait

    noise = np.random.default_rng(0).integers(0, 256, (90, 160, 3), np.uint8)
    image = Image.fromarray(noise)
    for fit in ("crop", "pad", "release"):
        for size in ((64, 64), (32, 80)):
            ours = np.asarray(fit_image(image, Size(*size, fit)))
            assert np.array_equal(ours, fit_portrait(image, *size, fit).numpy()), (fit, size)


def test_pictures_are_shown_upright_and_undistorted(tmp_path):
    picture = np.full((48, 64, 3), 40, np.uint8)
    picture[:, :16] = 220  # bright at the left
    path = r.write_recording(tmp_path / "a.mp4", [picture] * 30, r.tone(1.2), rotation=90)
    (turned, *_) = open_recording(one(path)).frames(Size(48, 64))
    edges = {"top": turned[:8], "bottom": turned[-8:], "left": turned[:, :8]}
    means = {name: edge.mean() for name, edge in edges.items()}
    assert max(means["top"], means["bottom"]) > 180 > means["left"]
    flat = r.write_recording(tmp_path / "b.mp4", [picture] * 30, r.tone(1.2), ratio=(2, 1))
    (wide, *_) = open_recording(one(flat)).frames(Size(128, 48))
    assert (wide[24, :28].mean(), wide[24, 40:].mean()) == pytest.approx((220, 40), abs=8)


def test_each_fault_has_its_reason(tmp_path):
    frames, say = [r.grey(i) for i in range(50)], r.tone(2)
    good = r.write_recording(tmp_path / "good.mkv", frames, say)
    whole = good.read_bytes()
    (tmp_path / "cut.mkv").write_bytes(whole[: len(whole) // 3])
    (tmp_path / "text.mp4").write_text("hello")
    r.write_recording(tmp_path / "quiet.mkv", frames, 1e-5 * say)
    write_silent_video(tmp_path / "mute.mp4")
    write_wav(tmp_path / "sound.wav", say)
    for name, reason, words in [
        ("gone.mp4", "missing", "There is no file"),
        ("text.mp4", "not_media", "FFmpeg can read"),
        ("mute.mp4", "no_sound", "has no sound"),
        ("sound.wav", "no_video", "has no video"),
        ("quiet.mkv", "silent", "dB"),
    ]:
        with pytest.raises(UnusableError, match=words) as found:
            open_recording(one(tmp_path / name))
        assert found.value.reason == reason
    with pytest.raises(UnusableError) as found:
        list(open_recording(one(tmp_path / "cut.mkv")).frames(Size(32, 32)))
    assert found.value.reason in ("damaged", "out_of_step")
    beside = open_recording(Recording(tmp_path / "mute.mp4", tmp_path / "sound.wav"))
    assert len(greys(beside)) == 25


def folder_of(tmp_path, count=3, frames=30):
    folder = tmp_path / "in"
    folder.mkdir()
    for i in range(count):
        bright = [r.grey(7 * i + k) for k in range(frames)]
        r.write_recording(folder / f"{i}.mkv", bright, r.tone(frames / 25))
    (folder / "9.mp4").write_text("no video")
    (folder / "notes.txt").write_text("hello")
    return folder


def test_latents_rows_and_samples_of_a_clip_are_those_of_its_frames(tmp_path, encoders):
    sound = r.clicking(30, [4, 13, 22])
    shown = [r.grey(k) for k in range(30)]
    r.write_recording(tmp_path / "a.mkv", shown, sound)
    job = Preparation(list_recordings(tmp_path), encoders, SMALL, tmp_path / "store")
    job.run()
    store = ClipStore.open(tmp_path / "store", num_frames=2)
    assert len(store) == 3 and store.header.latent == (64, 16, 16)
    rows = encoders.audio(torch.from_numpy(open_recording(one(tmp_path / "a.mkv")).samples[None]))
    decoder = TinyVAEDecoder(full_autoencoder())
    for number in range(3):
        assert clicks(store.sound(number).numpy()) == pytest.approx([4], abs=0.1)
        portrait, heard, clip = store._read(number, 0, 0)
        torch.testing.assert_close(
            heard.float(), rows[0, 9 * number + 1 : 9 * number + 9], atol=2e-3, rtol=2e-3
        )
        frames, _ = decoder.step(None, torch.cat([portrait[None], clip])[None].float())
        seen = frames[0].float().mean((1, 2, 3))
        expected = torch.tensor(shown[9 * number : 9 * number + 9]).float()
        assert (seen - expected).abs().max() < 12, (seen, expected)


def full_autoencoder():
    from af_core.decoders.tiny_vae import TinyVAEImageEncoder
    from af_core.plugins import BuildContext
    from af_core.plugins.builtin import loading

    pipeline = open_pipeline("toon", {})
    made = loading._tiny_vae(
        pipeline.stages["image_encoder"].config, BuildContext(pipeline.geometry)
    )
    assert TinyVAEImageEncoder(made)
    return made


def test_long_recordings_are_heard_as_if_in_one_go(encoders, monkeypatch):
    samples = torch.randn(640 * 300, generator=torch.Generator().manual_seed(0)) / 10
    whole = encoders.rows(samples)
    monkeypatch.setattr("af_train.data.encoders._PASSAGE", 121)
    monkeypatch.setattr("af_train.data.encoders._BEFORE", 50)
    parts = encoders.rows(samples)
    assert whole.shape == parts.shape == (300, 64)
    torch.testing.assert_close(parts, whole, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("name", ["toon", "wan"])
def test_video_is_encoded_in_any_cut_and_begins_as_a_picture_does(encoders, name):
    image, side = (encoders.image, 128) if name == "toon" else (tiny_wan_encoder(), 32)
    g = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (2, 9, side, side, 3), dtype=torch.uint8, generator=g)
    whole, _ = image.encode_video(frames)
    first, memory = image.encode_video(frames[:, :5])
    then, _ = image.encode_video(frames[:, 5:], memory)
    torch.testing.assert_close(torch.cat([first, then], 1), whole, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(image.encode(frames[:, 0]), whole[:, :1], atol=1e-4, rtol=1e-4)


def tiny_wan_encoder():
    from af_core.decoders.wan_vae import WanVAEImageEncoder
    from af_core.models.wan_vae import WanEncoder
    from af_core.models.wan_vae_config import WanVAEConfig

    torch.manual_seed(0)
    return WanVAEImageEncoder(WanEncoder(WanVAEConfig(dim=8)).eval())


def contents(path):
    """What is in a file; the order of names in the header of a shard is left to chance."""
    if path.suffix == ".json":
        return path.read_bytes()
    tensors = {n: v.numpy().tobytes() for n, v in read_tensors(path).items()}
    return tensors, read_metadata(path)


def test_any_number_of_workers_and_any_stop_make_the_same_store(tmp_path, encoders):
    listing = list_recordings(folder_of(tmp_path))
    jobs = [Preparation(listing, encoders, SMALL, tmp_path / name) for name in ("a", "b")]
    jobs[0].run()
    jobs[1].run(1, 2)
    assert summarise(tmp_path / "b", listing) is None
    with pytest.raises(StoreError, match=r"1 of 2 groups.*first missing is 0"):
        ClipStore.open(tmp_path / "b", 1)

    def stop(outcome):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        jobs[1].run(0, 2, stop)
    jobs[1].run(0, 2)
    names = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert names == sorted(p.name for p in (tmp_path / "b").iterdir())
    for name in names:
        assert contents(tmp_path / "a" / name) == contents(tmp_path / "b" / name)
    summary = summarise(tmp_path / "b", listing)
    assert (summary.used, summary.rejected, summary.clips) == (3, 1, 9)
    assert summary.reasons == {"not_media": 1}
    assert [p.rsplit("/", 1)[1] for p in summary.ignored] == ["notes.txt"]
    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / "b").glob("clips-*")}
    jobs[1].run()
    assert stamps == {p: p.stat().st_mtime_ns for p in (tmp_path / "b").glob("clips-*")}


def test_a_recording_that_breaks_later_gives_what_came_before(tmp_path, encoders, monkeypatch):
    path = r.write_recording(tmp_path / "a.mkv", [r.grey(i) for i in range(40)], r.tone(1.6))
    decoded = sys.modules["af_train.data.media"]._decoded

    def breaking(path):
        for time, frame in decoded(path):
            if time > 0.9:
                raise UnusableError("damaged", "a.mkv is damaged after 0.90 s")
            yield time, frame

    monkeypatch.setattr("af_train.data.media._decoded", breaking)
    listing = list_recordings(tmp_path)
    Preparation(listing, encoders, SMALL, tmp_path / "store").run()
    (problem,) = summarise(tmp_path / "store", listing).problems
    assert (problem.name, problem.status, problem.clips) == (str(path), "partial", 2)
    assert len(ClipStore.open(tmp_path / "store", 2)) == 2


def test_a_store_is_a_source_whose_samples_depend_on_their_seeds_alone(tmp_path, encoders):
    listing = list_recordings(folder_of(tmp_path))
    Preparation(listing, encoders, SMALL, tmp_path / "store").run()
    store = ClipStore.open(tmp_path / "store", 1)
    many = store.draw(range(40))
    few = store.draw((7, 3))
    assert many.clip.shape == (40, 1, 64, 16, 16) and many.rows.shape == (40, 4, 64)
    assert many.portrait.shape == (40, 1, 64, 16, 16) and many.text is None
    for name in ("portrait", "rows", "clip"):
        torch.testing.assert_close(getattr(few, name), getattr(many, name)[[7, 3]])
    assert len({tuple(c.flatten()[:8].tolist()) for c in many.clip}) > 8


def test_a_store_of_other_encoders_is_refused_and_every_difference_named(tmp_path, encoders):
    listing = list_recordings(folder_of(tmp_path, count=1))
    Preparation(listing, encoders, SMALL, tmp_path / "store").run()
    good = open_clips(
        tmp_path / "store",
        encoders.pipeline,
        {"image_encoder": encoders.image, "audio_encoder": encoders.audio},
        2,
    )
    assert len(good) == 3
    other = open_pipeline("toon-causal", {})
    again = Encoders.of(other).identity()
    assert again["autoencoder"] == good.header.autoencoder, "the same encoders by another name"
    assert len(ClipStore.open(tmp_path / "store", 2, **again)) == 3
    deaf = Encoders.of(open_pipeline("toon", parse_overrides(["audio_encoder.weights=null"])))
    wanted = deaf.identity() | {"fps": 30, "preset": "mine"}
    with pytest.raises(StoreError) as found:
        ClipStore.open(tmp_path / "store", 2, **wanted)
    said = str(found.value)
    assert "audio_encoder:" in said and "fps: 25, not 30" in said and 'preset: "toon"' in said
    assert "autoencoder:" not in said
    with pytest.raises(StoreError, match="clip_latents: 2, not 3"):
        longer = msgspec.structs.replace(SMALL, clip_latents=3)
        Preparation(listing, encoders, longer, tmp_path / "store").run()


def test_manifests_are_read_and_their_slips_named(tmp_path):
    lines = ['{"video": "a.mp4", "speaker": "x"}', "", '{"video": "b.mp4", "audio": "/c.wav"}']
    (tmp_path / "m.jsonl").write_text("\n".join(lines))
    listing = list_recordings(tmp_path / "m.jsonl")
    assert [(x.video.name, x.audio.name) for x in listing.recordings] == [
        ("a.mp4", "a.mp4"),
        ("b.mp4", "c.wav"),
    ]
    assert listing.ignored == ("speaker",)
    (tmp_path / "m.csv").write_text("video,audio,text\na.mp4,,hello\nb.mp4,c.wav,ho\n")
    assert [x.audio.name for x in list_recordings(tmp_path / "m.csv").recordings] == [
        "a.mp4",
        "c.wav",
    ]
    for name, text, words in [
        ("a.jsonl", "{video}", "line 1 is no object"),
        ("b.jsonl", '{"audio": "a.wav"}', "line 1: `video` must name"),
        ("c.csv", "path\na.mp4\n", "must name `video`"),
        ("d.csv", "video\n", "lists no video"),
        ("e.txt", "a.mp4", "neither a folder nor a manifest"),
    ]:
        (tmp_path / name).write_text(text)
        with pytest.raises(ManifestError, match=words):
            list_recordings(tmp_path / name)


def test_the_command_sums_up_and_its_exit_code_says_whether_anything_was_usable(
    tmp_path, monkeypatch, capsys
):
    def command(*arguments):
        monkeypatch.setattr("sys.argv", ["af-train", "prepare", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return end.value.code

    folder = folder_of(tmp_path, count=1)
    here = ("-o", tmp_path / "store", "--threads", 1, "--latents", 2, "--json")
    assert command(folder, *here) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["clips"], said["rejected"]) == (3, 1)
    assert said == json.loads((tmp_path / "store" / "report.json").read_text())
    (tmp_path / "bad.jsonl").write_text('{"video": "nowhere.mp4"}')
    assert command(tmp_path / "bad.jsonl", "-o", tmp_path / "none", "--threads", 1) == 1
    assert "There is no file" in capsys.readouterr().err.replace("\n", " ")
    assert command(tmp_path / "nowhere", "-o", tmp_path / "none") == 78
