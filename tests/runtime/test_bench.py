"""The benchmark measures what it says, and sees a trend where there is one and none where not."""

import json
import sys
import time

import af_core
import msgspec
import numpy as np
import pytest
from af_runtime import cli
from af_runtime.benchmark import bench, speech_like
from af_runtime.benchmark_report import trend
from bar_avatar import BarRunner, make_avatar
from scipy import stats


class AgeingRunner(BarRunner):
    """Takes 0.4 ms longer at every step of a stream."""

    def open(self, opening):
        return 0, super().open(opening)

    def step(self, state, inputs):
        age, inner = state
        time.sleep(4e-4 * age)
        out, inner = super().step(inner, inputs)
        return out, (age + 1, inner)


class SlowRunner(BarRunner):
    """Takes 5 ms for every step."""

    def step(self, state, inputs):
        time.sleep(0.005)
        return super().step(state, inputs)


@pytest.fixture(scope="module")
def report():
    return bench(avatar=make_avatar(SlowRunner()), duration_s=12)


def test_the_report_has_the_keys_of_the_schema(report):
    table = msgspec.json.decode(msgspec.json.encode(report))
    assert table["schema"] == "af-bench/1"
    assert {"git", "utc", "host", "config", "run", "step_ms", "stage_ms_p50", "ttff_ms"} <= set(
        table
    )
    assert {"n", "min", "mean", "p50", "p95", "p99", "max"} == set(table["step_ms"])
    assert table["run"] == {"warmup_steps": 20, "steps": 55, "frames_per_step": 4}
    assert len(table["raw_step_ms"]) == table["step_ms"]["n"] == table["long"]["steps"] == 55


def test_a_stage_that_sleeps_5_ms_is_measured_at_5_ms(report):
    assert 5 <= report.stage_ms_p50["bars"] < 60
    assert report.step_ms["p50"] >= report.stage_ms_p50["bars"]
    assert report.step_ms["min"] >= 5
    assert 1 < report.realtime_factor <= 160 / 5


def test_the_first_frame_waits_for_the_window_and_the_delay_is_window_and_step(report):
    assert report.ttff_ms["warm"] >= 4 * 5
    assert report.e2e_ms["live_p50"] == pytest.approx(640 + report.step_ms["p50"], abs=0.01)


def test_a_stream_that_grows_dearer_is_told_from_one_that_does_not(report):
    """Steps 75 to 130 sleep for 30 to 52 ms, steps 20 to 75 for 8 to 30."""
    ageing = bench(avatar=make_avatar(AgeingRunner()), duration_s=12).long["old_over_young"]
    assert ageing["ci95"][0] > 1.1
    steady = report.long["old_over_young"]
    assert steady["pairs"] == 55 and steady["ci95"][0] < 1.1 and steady["ci95"][1] > 0.9


def test_a_trend_is_found_in_noise_and_its_interval_holds_the_truth():
    rng = np.random.default_rng(0)
    noise = rng.gamma(2, 3, 3_000)
    found = trend(noise + 0.002 * np.arange(3_000))
    assert found.low < 0.002 < found.high and not found.is_flat
    assert trend(noise).is_flat


def test_what_the_machine_does_for_a_minute_is_no_trend():
    """Noise that lasts for many spans is found flat about as often as 95 % promise."""
    rng, flat, count = np.random.default_rng(2), 0, 40
    for _ in range(count):
        lasting = np.zeros(150)
        for i in range(1, 150):  # neighbours as alike as those of a shared machine
            lasting[i] = 0.75 * lasting[i - 1] + rng.normal(0, 3)
        flat += trend(rng.normal(40, 2, 3_000) + np.repeat(lasting, 20)).is_flat
    assert flat >= 0.85 * count


def test_the_slope_is_that_of_theil_and_sen():
    x, y = np.arange(80.0), np.random.default_rng(3).normal(size=80).cumsum()
    assert trend(y).slope == pytest.approx(stats.theilslopes(y, x).slope)


def test_one_hiccup_is_no_trend():
    values = np.random.default_rng(1).normal(10, 1, 2_000)
    values[1_900:1_905] = 500
    assert trend(values).is_flat


def test_the_sound_is_seeded_and_has_pauses():
    one = np.concatenate([next(chunks) for chunks in [speech_like(640, 3)] for _ in range(500)])
    two = np.concatenate([next(chunks) for chunks in [speech_like(640, 3)] for _ in range(500)])
    loud = np.abs(one.reshape(-1, 640)).max(1)
    assert np.array_equal(one, two) and np.abs(one).max() < 1
    assert 0.2 < (loud > 0.05).mean() < 0.8


def test_the_command_prints_a_table_and_writes_json(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(af_core, "load", lambda *rest: make_avatar())
    out = tmp_path / "b.json"
    monkeypatch.setattr(sys, "argv", ["af-runtime", "bench", "--duration", "9", "--json", str(out)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert not end.value.code
    assert json.loads(out.read_text())["config"]["preset"] == "bars"
    assert "real time" in capsys.readouterr().err


def test_a_benchmark_that_is_too_short_says_how_long_it_must_be(monkeypatch, capsys):
    monkeypatch.setattr(af_core, "load", lambda *rest: make_avatar())
    monkeypatch.setattr(sys, "argv", ["af-runtime", "bench", "--duration", "1"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2 and "at least 6.4 s" in capsys.readouterr().err
