"""Every bad input ends in one clear message and the right exit code, and leaves nothing behind."""

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time

import af_core
import media_files
import numpy as np
import pytest
import torch
from af_runtime import cli
from af_runtime.errors import MediaError
from media_files import read_video, write_audio, write_silent_video, write_wav
from PIL import Image

FAILED, USAGE, BAD_CONFIG, INTERRUPTED = 1, 2, 78, 130


@pytest.fixture
def run(monkeypatch, capsys, tmp_path, bar_avatar):
    """Run the command line in a folder with face.png and speech.wav, on the bar avatar."""
    monkeypatch.chdir(tmp_path)
    load = af_core.load
    fake = {"toon": bar_avatar}
    monkeypatch.setattr(af_core, "load", lambda name, *rest: fake.get(name) or load(name, *rest))
    Image.new("RGB", (64, 64), (200, 160, 120)).save("face.png")
    write_wav("speech.wav", np.full(16_000, 0.3))

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["af-runtime", *map(str, words)])
        try:
            cli.main()
            code = 0
        except SystemExit as e:
            code = e.code or 0
        return code, *capsys.readouterr()

    return run


def touch(name, data=b""):
    with open(name, "wb") as file:
        file.write(data)
    return name


def cut(name, source, share=0.5):
    with open(source, "rb") as file:
        data = file.read()
    return touch(name, data[: int(len(data) * share)])


def picture(name, mode="RGB", size=(64, 64), **options):
    Image.new(mode, size).save(name, **options)
    return name


def nan_wav(name):
    return str(write_audio(name, np.full((1, 9_000), np.nan), "pcm_f32le", 16_000, format="flt"))


def wav(name, num_samples):
    return str(write_wav(name, np.zeros(num_samples)))


BAD_PORTRAITS = {
    "missing": (lambda: "nobody.png", "There is no portrait file nobody.png"),
    "unknown_name": (lambda: "nobody", "no shipped portrait named 'nobody'"),
    "empty": (lambda: touch("p.png"), "p.png is empty"),
    "truncated": (lambda: cut("p.png", "face.png"), "p.png is damaged or cut short"),
    "text": (lambda: touch("p.png", b"hello"), "p.png is not a picture"),
    "sound": (lambda: "speech.wav", "speech.wav is not a picture"),
    "one_pixel_wide": (lambda: picture("p.png", size=(1, 90)), "p.png is 1x90 pixels"),
    "bomb": (lambda: picture("p.png", "1", (20_000, 20_000)), "million at most"),
    "folder": (lambda: os.mkdir("f") or "f", "f is not a file"),
}

BAD_AUDIO = {
    "missing": (lambda: "nothing.wav", "There is no file nothing.wav"),
    "empty": (lambda: touch("a.wav"), "a.wav is empty"),
    "truncated": (lambda: cut("a.wav", "speech.wav"), "a.wav is cut short"),
    "text": (lambda: touch("a.mp3", b"hello\n" * 99), "a.mp3 is not audio"),
    "picture": (lambda: "face.png", "face.png has no sound in it"),
    "video_only": (lambda: str(write_silent_video("v.mp4")), "v.mp4 has no sound in it"),
    "no_samples": (lambda: wav("a.wav", 0), "a.wav holds no samples"),
    "nan": (lambda: nan_wav("a.wav"), "a.wav holds NaN or infinity at sample 0"),
    "folder": (lambda: os.mkdir("f") or "f", "f is a folder"),
}

BAD_REQUESTS = {
    "no_output_folder": (["-o", "no/where/o.mp4"], USAGE, "folder no/where of the output"),
    "output_is_folder": (["-o", "f.mp4"], USAGE, "is a folder"),
    "unknown_ending": (["-o", "o.avi"], USAGE, r"must end in .mp4 or .m4v, not in .avi"),
    "no_ending": (["-o", "o"], USAGE, "must end in .mp4"),
    "output_is_input": (["-o", "same.mp4"], USAGE, "also an input"),
    "unwritable": (["-o", "/proc/o.mp4"], USAGE, "Nothing can be written to /proc"),
    "device": (["-o", "dev.mp4"], USAGE, "not a regular file"),
    "sheet_ending": (["-o", "o.mp4", "--contact-sheet", "s.txt"], USAGE, "must end in .png"),
    "sheet_folder": (["-o", "o.mp4", "--contact-sheet", "x/s.png"], USAGE, "folder x of the"),
    "colour": (["-o", "o.mp4", "--background", "bluish"], USAGE, "no colour 'bluish'"),
    "fit": (["-o", "o.mp4", "--fit", "stretch"], USAGE, "--fit.*crop"),
    "option": (["-o", "o.mp4", "--prest", "toon"], USAGE, "--preset"),
    "no_output": ([], USAGE, "--output"),
    "threads": (["-o", "o.mp4", "--threads", "0"], USAGE, "--threads"),
    "seed": (["-o", "o.mp4", "--seed", "one"], USAGE, "--seed"),
    "preset": (["-o", "o.mp4", "--preset", "tooon"], BAD_CONFIG, "no preset named 'tooon'"),
    "set": (["-o", "o.mp4", "--set", "nonsense"], BAD_CONFIG, "key.key=value"),
}


def check_one_clear_message(result, code, message, before, tmp_path):
    got, out, err = result
    assert got == code, err
    assert re.search(message, " ".join(err.replace("│", " ").split())), err
    assert out == "" and "Traceback" not in err
    assert len(re.findall(r"(?m)^error: |^Error: |─ Error ─", err)) == 1, err
    assert {p.name for p in tmp_path.iterdir()} == before


@pytest.mark.parametrize("case", BAD_PORTRAITS)
def test_a_bad_portrait_ends_in_one_message(case, run, tmp_path):
    make, message = BAD_PORTRAITS[case]
    portrait = make()
    before = {p.name for p in tmp_path.iterdir()}
    result = run("generate", portrait, "speech.wav", "-o", "o.mp4", "--json")
    check_one_clear_message(result, FAILED, message, before, tmp_path)


@pytest.mark.parametrize("case", BAD_AUDIO)
def test_bad_audio_ends_in_one_message(case, run, tmp_path):
    make, message = BAD_AUDIO[case]
    audio = make()
    before = {p.name for p in tmp_path.iterdir()}
    result = run("generate", "face.png", audio, "-o", "o.mp4", "--json")
    check_one_clear_message(result, FAILED, message, before, tmp_path)


@pytest.mark.parametrize("case", BAD_REQUESTS)
def test_a_bad_request_ends_in_one_message(case, run, tmp_path):
    words, code, message = BAD_REQUESTS[case]
    os.mkdir("f.mp4")
    write_audio("same.mp4", np.zeros((1, 9_000)), "aac")
    os.symlink("/dev/null", "dev.mp4")
    before = {p.name for p in tmp_path.iterdir()}
    result = run("generate", "face.png", "same.mp4", *words)
    check_one_clear_message(result, code, message, before, tmp_path)


def gray(name):
    return picture(name, "L")


def exif(name):
    rotated = Image.Exif()
    rotated[0x0112] = 6
    return picture(name, size=(90, 60), exif=rotated)


GOOD_BUT_ODD = {
    "alpha": lambda: (picture("p.png", "RGBA"), "speech.wav"),
    "20000_wide": lambda: (picture("p.png", size=(20_000, 64)), "speech.wav"),
    "greyscale": lambda: (gray("p.png"), "speech.wav"),
    "cmyk": lambda: (picture("p.jpg", "CMYK"), "speech.wav"),
    "exif": lambda: (exif("p.jpg"), "speech.wav"),
    "8_khz": lambda: ("face.png", str(write_wav("a.wav", np.zeros(4_000), 8_000))),
    "96_khz": lambda: ("face.png", str(write_wav("a.wav", np.zeros(48_000), 96_000))),
    "6_channels": lambda: ("face.png", str(write_wav("a.wav", np.zeros((6, 8_000))))),
}


@pytest.mark.parametrize("case", GOOD_BUT_ODD)
def test_odd_but_usable_input_works(case, run):
    portrait, audio = GOOD_BUT_ODD[case]()
    code, out, err = run("generate", portrait, audio, "-o", "o.mp4", "--json")
    assert code == 0, err
    result = json.loads(out)
    assert result["num_frames"] == len(read_video("o.mp4")[0]) in (13, 25)


def test_json_goes_to_stdout_and_holds_what_was_promised(run):
    code, out, err = run("generate", "face.png", "speech.wav", "-o", "o.mp4", "--json")
    result = json.loads(out)
    promised = "num_frames duration_s realtime_factor ttff_s frame_ms_p50 frame_ms_p95 preset"
    assert code == 0 and set(promised.split()) <= set(result)
    assert (result["num_frames"], result["duration_s"], result["preset"]) == (25, 1.0, "bars")
    assert result["output"] == "o.mp4" and result["warnings"] == [] and err == ""


def test_the_shipped_portraits_are_listed_one_a_line(run, monkeypatch):
    shipped = {"ada": "ada.png", "ben": "ben.png"}
    monkeypatch.setattr("af_runtime.gallery._pictures", lambda preset: shipped)
    assert run("generate", "--list-portraits") == (0, "ada\nben\n", "")


def test_people_read_a_sentence_on_stderr(run):
    code, out, err = run("generate", "face.png", "speech.wav", "-o", "o.mp4")
    assert code == 0 and out == ""
    assert err.startswith("Wrote o.mp4: 25 frames, 1.00 s, ") and "real time" in err


def test_a_disk_that_fills_up_ends_in_one_message_and_leaves_nothing(run, tmp_path, monkeypatch):
    from af_runtime.media import Mp4Writer

    def full(self, packets):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Mp4Writer, "_mux", full)
    before = {p.name for p in tmp_path.iterdir()}
    result = run("generate", "face.png", "speech.wav", "-o", "o.mp4")
    check_one_clear_message(result, FAILED, "No space left", before, tmp_path)


def test_a_disk_that_fills_up_at_the_very_end_leaves_nothing_either(run, tmp_path, monkeypatch):
    from af_runtime.media import Mp4Writer

    def full(self):
        raise MediaError("No space left on device")

    monkeypatch.setattr(Mp4Writer, "finish", full)
    before = {p.name for p in tmp_path.iterdir()}
    result = run("generate", "face.png", "speech.wav", "-o", "o.mp4")
    check_one_clear_message(result, FAILED, "No space left", before, tmp_path)


SPEAKER = """
import sys, torch, af_core
sys.path.insert(0, sys.argv.pop(1))
from bar_avatar import make_avatar
af_core.load = lambda *args: make_avatar()
from af_runtime import cli
cli.main()
"""


def written(folder):
    """Return the bytes that are in the unfinished video by now; it grows by whole fragments."""
    return sum(part.stat().st_size for part in folder.glob(".o.mp4.*"))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_a_playable_file_and_the_exit_code_of_the_signal(number, code, tmp_path):
    # A shell starts background jobs with SIGINT ignored, and children inherit that: undo it.
    Image.new("RGB", (64, 64)).save(tmp_path / "face.png")
    script = tmp_path / "speaker.py"
    script.write_text(textwrap.dedent(SPEAKER))
    words = ["generate", "face.png", "-", "-o", "o.mp4", "--json"]
    process = subprocess.Popen(
        [sys.executable, script, os.path.dirname(media_files.__file__), *words],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    process.stdin.write(bytes(2 * 16_000 * 6))
    process.stdin.flush()
    deadline = time.monotonic() + 30
    while written(tmp_path) < 1_000 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == code, err
    result = json.loads(out)
    assert result["interrupted"] and result["num_frames"] == len(read_video(tmp_path / "o.mp4")[0])
    assert result["num_frames"] >= 50 and b"Traceback" not in err
    assert not list(tmp_path.glob(".o.mp4.*"))


@pytest.mark.parametrize(
    "fault", [torch.OutOfMemoryError("CUDA out of memory. Tried"), MemoryError("Unable to")]
)
def test_memory_that_runs_out_ends_in_one_message(monkeypatch, capsys, fault):
    def explain(*words, **options):
        raise fault

    monkeypatch.setattr("af_runtime.commands.explain.check_pipeline", explain)
    monkeypatch.setattr(sys, "argv", ["af-runtime", "explain", "toon"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr().err
    assert ended.value.code == 69 and str(fault) in said and "--size" in said


def test_other_faults_are_not_hidden_as_a_lack_of_memory(monkeypatch):
    def explain(*words, **options):
        raise RuntimeError("shapes differ")

    monkeypatch.setattr("af_runtime.commands.explain.check_pipeline", explain)
    monkeypatch.setattr(sys, "argv", ["af-runtime", "explain", "toon"])
    with pytest.raises(RuntimeError, match="shapes differ"):
        cli.main()
