"""The long-form benchmark: a list that stays, shards that are the whole, work that goes on."""

import json

import msgspec
import numpy as np
import pytest
import torch
from af_train.benchmark.running import parse_shard
from af_train.benchmark.sound import active_level, heard, noise
from af_train.benchmark.specs import (
    VOICES,
    Benchmark,
    BenchmarkError,
    make_benchmark,
    read_benchmark,
    share,
    write_benchmark,
)
from af_train.cli import app
from af_train.on_disk import AnotherJobError
from af_train.worlds.toon.speech import TRAIN_VOICES
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_list_is_the_same_on_every_machine_and_a_longer_one_begins_with_it():
    listed = make_benchmark(400)
    assert listed == make_benchmark(400)
    assert listed.clips[:30] == make_benchmark(30).clips
    first = listed.clips[0]
    assert (first.number, first.duration_s, first.identity) == (0, 40, 1_000_000_000)
    assert make_benchmark(30, seed=1).clips[3].seed != listed.clips[3].seed


def test_clips_are_long_and_diverse_and_strangers_to_training():
    listed = make_benchmark(400)
    for clips in (listed.clips, listed.subset("laptop")):
        durations = [c.duration_s for c in clips]
        assert min(durations) < 45 and max(durations) > 112
        assert all(40 <= d <= 120 for d in durations)
        assert {c.noise for c in clips} == {"none", "white", "pink", "hum", "babble"}
        assert {c.pauses for c in clips} == {"short", "natural", "long"}
        assert len({c.voice for c in clips}) >= 23
        assert len({c.identity for c in clips}) == len(clips)
        assert 0.3 < np.mean([c.noise == "none" for c in clips]) < 0.6
    assert not set(VOICES) & set(TRAIN_VOICES)
    assert len(listed.subset("laptop")) == 24 and len(listed.subset(None)) == 400


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(1, 12))
def test_shards_are_the_whole_and_no_clip_is_in_two(num_clips, of):
    clips = make_benchmark(num_clips).clips
    parts = [share(clips, shard, of) for shard in range(of)]
    assert sorted(c.number for part in parts for c in part) == list(range(num_clips))


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "a/b", "1/0", "-1/3"])
def test_a_shard_that_is_none_is_refused(text):
    with pytest.raises(BenchmarkError, match="i/n"):
        parse_shard(text)


def test_shards_come_from_the_command_line_or_from_torchrun(monkeypatch):
    assert parse_shard("3/8") == (2, 8)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert parse_shard(None) == (1, 4)


def test_a_list_is_read_as_it_was_written_and_never_overwritten(tmp_path):
    listed = make_benchmark(5)
    write_benchmark(listed, tmp_path)
    write_benchmark(listed, tmp_path)
    assert read_benchmark(tmp_path) == listed
    with pytest.raises(BenchmarkError, match="another"):
        write_benchmark(make_benchmark(6), tmp_path)
    with pytest.raises(BenchmarkError, match="Make it"):
        read_benchmark(tmp_path / "nowhere")
    (tmp_path / "benchmark.json").write_text(
        '{"format": "x", "seed": 0, "clips": [{"number": -1}]}'
    )
    with pytest.raises(BenchmarkError, match="no benchmark"):
        read_benchmark(tmp_path)


@pytest.mark.parametrize("kind", ["white", "pink", "hum", "babble"])
@pytest.mark.parametrize("snr_db", [5.0, 20.0])
def test_noise_lies_as_far_below_the_speech_as_it_says(kind, snr_db):
    rng = np.random.default_rng(0)
    speech = (0.1 * rng.standard_normal(32_000)).astype(np.float32)
    speech[8000:20_000] = 0
    spec = msgspec.structs.replace(
        make_benchmark(1).clips[0], noise=kind, snr_db=snr_db, gain_db=0.0
    )
    added = heard(spec, speech).astype(np.float64) - speech
    ratio = 20 * np.log10(active_level(speech) / np.sqrt(np.mean(added**2)))
    assert ratio == pytest.approx(snr_db, abs=0.3)
    assert np.array_equal(heard(spec, speech), heard(spec, speech))


def test_noises_have_their_colours():
    speech = np.random.default_rng(1).standard_normal(64_000).astype(np.float32)

    def share_below(kind, hz):
        made = noise(kind, 64_000, np.random.default_rng(2), speech)
        power = np.abs(np.fft.rfft(made)) ** 2
        return power[: hz * 4].sum() / power.sum()

    assert share_below("white", 1000) == pytest.approx(1000 / 8000, abs=0.02)
    assert share_below("pink", 1000) > 0.6
    assert share_below("hum", 400) > 0.95
    assert not noise("none", 100, np.random.default_rng(0), speech).any()


def test_gain_is_that_of_the_whole_sound():
    speech = np.full(16_000, 0.1, np.float32)
    spec = msgspec.structs.replace(
        make_benchmark(1).clips[0], noise="none", snr_db=None, gain_db=-6
    )
    assert heard(spec, speech)[0] == pytest.approx(0.1 * 10 ** (-6 / 20), rel=1e-5)


def tiny(directory, *more):
    """Three short clips, run on one thread."""
    return ["benchmark", "run", "--on", str(directory), "--threads", "1", *more]


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory):
    """Three clips of two seconds."""
    pytest.importorskip("espeakng_loader")
    directory = tmp_path_factory.mktemp("benchmark")
    listed = make_benchmark(3)
    clips = tuple(msgspec.structs.replace(c, duration_s=2) for c in listed.clips)
    write_benchmark(Benchmark(listed.format, 0, clips), directory)
    return directory


def numbers(folder):
    """Every clip's numbers but those that a clock gave."""
    found = {}
    for path in sorted((folder / "records").iterdir()):
        record = json.loads(path.read_text())
        record["scores"].pop("realtime_factor")
        record["scores"].pop("cpu_s_per_frame")
        found[path.name] = record
    return found


@pytest.mark.slow
def test_shards_together_give_what_one_process_gives_and_a_run_goes_on(benchmark, tmp_path):
    pytest.importorskip("matplotlib")
    run = CliRunner().invoke
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    first = run(app, tiny(benchmark, "-o", str(parts), "--shard", "2/2"))
    assert first.exit_code == 0, first.output
    assert not (parts / "report.html").exists()
    kept = numbers(parts)
    assert list(kept) == ["0001.json"]
    before = (parts / "records" / "0001.json").stat().st_mtime_ns
    second = run(app, tiny(benchmark, "-o", str(parts)))  # the rest, and the report
    assert second.exit_code == 0, second.output
    assert (parts / "records" / "0001.json").stat().st_mtime_ns == before
    assert run(app, tiny(benchmark, "-o", str(whole))).exit_code == 0
    assert numbers(whole) == numbers(parts)
    page = (parts / "report.html").read_text()
    assert page.count("data:image/png;base64,") >= 2 and "http" not in page
    report = json.loads((parts / "report.json").read_text())
    assert report["num_clips"] == report["num_wanted"] == 3
    lips = [r["scores"]["lip_corr"] for r in report["clips"]]
    assert report["scores"]["lip_corr"]["value"] == pytest.approx(np.mean(lips))
    assert (parts / "strip-0000.png").exists()


def test_results_of_other_settings_are_not_mixed(benchmark, tmp_path):
    run = CliRunner().invoke
    beginning = ("-o", str(tmp_path), "--max-seconds", "2", "--shard", "1/3")
    assert run(app, tiny(benchmark, *beginning)).exit_code == 0
    other = tiny(benchmark, *beginning, "--set", "anchor_cache.temporal_budget=2")
    with pytest.raises(AnotherJobError, match="pipeline was"):
        run(app, other, catch_exceptions=False)


def test_a_clip_that_cannot_be_read_is_named(benchmark, tmp_path):
    from af_train.benchmark.clips import ClipFolder

    spec = read_benchmark(benchmark).clips[0]
    folder = ClipFolder(tmp_path)
    made = folder.get(spec)
    again = folder.get(spec)
    assert made.sound == again.sound and torch.equal(made.clip.mouth, again.clip.mouth)
    (folder.path(spec) / "said.json").write_text("{}")
    with pytest.raises(BenchmarkError, match="made again"):
        folder.get(spec)
    other = msgspec.structs.replace(spec, duration_s=3)
    (folder.path(spec) / "said.json").unlink()
    with pytest.raises(BenchmarkError):
        folder.get(other)


def test_making_a_benchmark_says_what_to_do_next(tmp_path):
    asked = ["benchmark", "make", "--clips", "30", "-o", str(tmp_path)]
    made = CliRunner().invoke(app, asked)
    assert made.exit_code == 0 and "benchmark run" in made.output
    assert len(read_benchmark(tmp_path).clips) == 30


def test_a_list_may_grow_and_numbers_of_another_are_refused(benchmark, tmp_path):
    from af_train.benchmark.running import open_run

    specs = read_benchmark(benchmark).clips
    first = open_run("toon", [], benchmark, specs[:1], output=tmp_path)
    made = list(first.measure(first.pending()))
    more = open_run("toon", [], benchmark, specs[:2], output=tmp_path)
    assert [spec.number for spec in more.pending()] == [1] and more.records() == made
    other = (msgspec.structs.replace(specs[0], seed=7), specs[1])
    with pytest.raises(BenchmarkError, match="another benchmark"):
        open_run("toon", [], benchmark, other, output=tmp_path).records()
