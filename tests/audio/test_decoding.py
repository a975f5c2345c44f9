"""Any audio becomes 16 kHz mono, in order, in bounded memory; what is no audio says so."""

import io
import os
import subprocess
import sys
import threading
import time
import tracemalloc
import wave

import av
import numpy as np
import pytest
from af_audio import AudioError, PcmSource, open_audio, read_speech, stream_speech
from media_files import write_audio, write_silent_video, write_wav


def tone(rate, seconds=1.0, hz=440.0):
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(int(rate * seconds)) / rate)).astype("f4")


@pytest.mark.parametrize(
    ("name", "codec", "rate", "layout", "format"),
    [
        ("a.flac", "flac", 44_100, "mono", "s16"),
        ("a.mp3", "libmp3lame", 44_100, "stereo", "fltp"),
        ("a.m4a", "aac", 48_000, "5.1", "fltp"),
        ("a.ogg", "libopus", 48_000, "stereo", "flt"),
        ("a.webm", "libopus", 48_000, "mono", "flt"),
        ("a.wav", "pcm_s24le", 96_000, "stereo", "s32"),
        ("a.wav", "pcm_f32le", 8_000, "mono", "flt"),
        ("a.wav", "pcm_u8", 22_050, "mono", "u8"),
        ("a.aiff", "pcm_s16be", 48_000, "mono", "s16"),
        ("a.mkv", "ac3", 48_000, "5.1", "fltp"),
    ],
)
def test_every_format_becomes_the_same_16_khz_mono(name, codec, rate, layout, format, tmp_path):
    channels = {"mono": 1, "stereo": 2, "5.1": 6}[layout]
    planes = np.repeat(tone(rate)[None], channels, 0)
    path = write_audio(tmp_path / name, planes, codec, rate, layout, format)
    heard = read_speech(path).numpy()
    assert heard.dtype == np.float32 and abs(len(heard) - 16_000) <= 1_200
    expected = tone(16_000)
    best = max(
        np.corrcoef(heard[lag + 2_000 : lag + 10_000], expected[2_000:10_000])[0, 1]
        for lag in range(-60, 60)
    )
    assert best > 0.99
    level = np.abs(heard[4_000:12_000]).max()
    assert 0.4 < level < 0.6 or (layout == "5.1" and level > 0.25)


@pytest.mark.parametrize("num_channels", [1, 2, 6, 9])
def test_a_voice_on_all_channels_keeps_its_level(num_channels, tmp_path):
    planes = np.repeat(tone(16_000)[None], num_channels, 0)
    heard = read_speech(write_wav(tmp_path / "a.wav", planes)).numpy()
    assert np.abs(heard - tone(16_000)).max() < 1e-4


def test_chunks_arrive_in_order_and_without_loss(tmp_path):
    samples = np.random.default_rng(0).uniform(-1, 1, 100_000)
    path = write_wav(tmp_path / "a.wav", samples)
    chunks = list(stream_speech(path))
    assert len(chunks) > 10
    heard = np.concatenate([chunk.numpy() for chunk in chunks])
    assert np.abs(heard - samples).max() < 1e-4


def test_the_sound_of_a_video_is_heard(tmp_path):
    path = write_audio(tmp_path / "a.mp4", tone(48_000), "aac")
    assert abs(len(read_speech(path)) - 16_000) < 700


def test_memory_does_not_grow_with_the_length_of_the_file(tmp_path):
    path = tmp_path / "long.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        for _ in range(8):
            file.writeframes(bytes(2 * 16_000 * 60))
    chunks = stream_speech(path)
    next(chunks)
    tracemalloc.start()
    heard = sum(len(chunk) for chunk in chunks)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert heard > 8 * 60 * 16_000 - 20_000
    assert peak < 2_000_000


def cut(path, share, out):
    data = path.read_bytes()
    out.write_bytes(data[: int(len(data) * share)])
    return out


def bad_float_wav(path, value):
    samples = np.zeros((1, 16_000), np.float32)
    samples[0, 8_000] = value
    return write_audio(path, samples, "pcm_f32le", 16_000, format="flt")


def faststart(path):
    write_audio(path.with_suffix(".tmp.m4a"), tone(48_000, 10), "aac")
    with (
        av.open(str(path.with_suffix(".tmp.m4a"))) as source,
        av.open(str(path), "w", options={"movflags": "faststart"}) as target,
    ):
        stream = target.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(audio=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    return path


RANDOM = np.random.default_rng(0).bytes(9_000)
MP3_SYNC = b"\xff\xfb\x90\x64"

BAD = {
    "broken_mp3": (
        lambda p: touched(p / "a.mp3", (MP3_SYNC + RANDOM[:413]) * 20),
        "can be decoded",
    ),
    "missing": (lambda p: p / "nowhere.wav", "There is no file"),
    "folder": (lambda p: p, "is a folder"),
    "empty": (lambda p: touched(p / "a.wav", b""), r"is empty \(0 bytes\)"),
    "text": (
        lambda p: touched(p / "a.wav", b"hello, this is no sound\n" * 40),
        "not audio or video",
    ),
    "noise_bytes": (lambda p: touched(p / "a.mp3", RANDOM), "not audio or video"),
    "no_samples": (lambda p: write_wav(p / "a.wav", np.zeros(0)), "holds no samples"),
    "video_only": (
        lambda p: write_silent_video(p / "a.mp4"),
        "has no sound in it; it holds: video",
    ),
    "cut_wav": (lambda p: cut(write_wav(p / "b.wav", tone(16_000)), 0.4, p / "a.wav"), "cut short"),
    "cut_header": (
        lambda p: cut(write_wav(p / "b.wav", tone(16_000)), 1e-3, p / "a.wav"),
        "cut short",
    ),
    "cut_flac": (
        lambda p: cut(
            write_audio(p / "b.flac", tone(16_000, 9), "flac", 16_000, format="s16"),
            *(0.4, p / "a.flac"),
        ),
        "cut short",
    ),
    "cut_m4a": (lambda p: cut(faststart(p / "b.m4a"), 0.4, p / "a.m4a"), "cut short"),
    "cut_before_index": (
        lambda p: cut(write_audio(p / "b.m4a", tone(48_000), "aac"), 0.6, p / "a.m4a"),
        "cut short before its index",
    ),
    "nan": (lambda p: bad_float_wav(p / "a.wav", np.nan), r"NaN or infinity at sample 8000, 0\.5"),
    "infinity": (lambda p: bad_float_wav(p / "a.wav", np.inf), "NaN or infinity at sample 8000"),
}


def touched(path, data):
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_heard_is_refused_with_one_message(case, tmp_path):
    make, message = BAD[case]
    path = make(tmp_path)
    with pytest.raises(AudioError, match=message) as caught:
        read_speech(path)
    assert str(path) in str(caught.value)


def test_an_mp3_cut_short_is_heard_as_far_as_it_goes_and_says_so(tmp_path, caplog):
    whole = write_audio(tmp_path / "b.mp3", tone(44_100, 9), "libmp3lame", 44_100)
    heard = read_speech(cut(whole, 0.4, tmp_path / "a.mp3"))
    assert 2 * 16_000 < len(heard) < 5 * 16_000
    assert "cut short" in caplog.text


def test_damage_in_the_middle_is_named_with_its_place(tmp_path):
    path = write_audio(tmp_path / "a.m4a", tone(48_000, 9), "aac")
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 4_000] = b"\xff" * 4_000
    path.write_bytes(data)
    with pytest.raises(AudioError, match=r"damaged at [345]\.\d\d s"):
        read_speech(path)


@pytest.mark.parametrize(
    ("format", "make"),
    [
        ("s16le", lambda x: (x * 32_767).astype("<i2")),
        ("s16be", lambda x: (x * 32_767).astype(">i2")),
        ("s32le", lambda x: (x * (2**31 - 1)).astype("<i4")),
        ("u8", lambda x: np.rint(x * 127 + 128).astype("u1")),
        ("f32le", lambda x: x.astype("<f4")),
        ("f64le", lambda x: x.astype("<f8")),
    ],
)
def test_raw_formats_are_read_as_they_say(format, make):
    x = tone(16_000).astype(np.float64)
    heard = read_speech(PcmSource(io.BytesIO(make(x).tobytes()), format=format))
    assert np.abs(heard.numpy() - x).max() < 0.01


def test_raw_samples_are_handed_on_while_the_speaker_is_still_speaking():
    read_end, write_end = os.pipe()
    heard = []

    def listen():
        with os.fdopen(read_end, "rb") as stream:
            for chunk in stream_speech(PcmSource(stream)):
                heard.append(len(chunk))

    listener = threading.Thread(target=listen)
    listener.start()
    os.write(write_end, bytes(2 * 1_000))
    deadline = time.monotonic() + 5
    while not heard and time.monotonic() < deadline:
        time.sleep(0.005)
    assert heard == [1_000]
    os.write(write_end, bytes(2 * 500 + 1))
    os.close(write_end)
    listener.join()
    assert sum(heard) == 1_500


def test_a_stray_byte_at_the_end_is_reported_not_swallowed(caplog):
    assert len(read_speech(PcmSource(io.BytesIO(bytes(2 * 640 + 1))))) == 640
    assert "1 byte(s) of 2" in caplog.text


def test_an_unknown_raw_format_lists_those_that_exist():
    with pytest.raises(AudioError, match="s16le"):
        PcmSource(io.BytesIO(), format="mulaw9")


def test_an_empty_pipe_is_refused():
    with pytest.raises(AudioError, match="holds no samples"):
        read_speech(PcmSource(io.BytesIO()))


def test_a_file_name_that_looks_like_a_protocol_is_a_file_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_wav("http:a.wav", tone(16_000))
    assert len(read_speech("http:a.wav")) == 16_000


def test_the_source_says_what_it_is(tmp_path):
    source = open_audio(write_wav(tmp_path / "a.wav", np.stack([tone(44_100)] * 2), 44_100))
    info = source.info
    source.close()
    assert (info.sample_rate, info.num_channels, info.codec) == (44_100, 2, "pcm_s16le")
    assert info.duration_s == pytest.approx(1) and not info.is_live


def test_importing_af_audio_imports_neither_torch_nor_ffmpeg():
    code = "import af_audio, sys; assert not {'torch', 'av'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
