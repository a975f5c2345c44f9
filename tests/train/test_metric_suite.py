"""The suite: every clip is measured or counted, intervals cover, options are checked."""

import io

import attrs
import msgspec
import numpy as np
import pytest
import torch
from af_core.errors import PipelineError, ShapeError, UnknownNameError
from af_core.geometry import Geometry
from af_core.plugins import BuildContext, load_catalog
from af_train.metrics.bootstrap import intervals
from af_train.metrics.contract import ClipPair, UnmeasurableClipError, mean_over_clips
from af_train.metrics.suite import MetricSuite, build_suite
from rich.console import Console

CONTEXT = BuildContext(Geometry(128, 128))


@attrs.frozen
class Brightness:
    """Mean of the generated pixels; dark clips cannot be measured."""

    num_resamples: int = 500

    def observe(self, clip):
        value = float(clip.made.float().mean())
        if value < 10:
            raise UnmeasurableClipError(f"{clip.name} is dark")
        return {"brightness": value}

    def summarise(self, observations):
        return mean_over_clips(observations)


def clip(value, name=""):
    frames = torch.full((2, 4, 4, 3), value, dtype=torch.uint8)
    return ClipPair(frames, frames, torch.zeros(2, 4), name=name)


def test_numbers_are_means_over_the_clips_that_could_be_measured():
    suite = MetricSuite({"brightness": Brightness()})
    report = suite.run([clip(20), clip(0, "night"), clip(40)])
    score = report.scores["brightness"]
    assert (score.value, score.num_clips, score.num_skipped) == (30, 2, 1)
    assert [(s.clip, s.metric, s.reason) for s in report.skipped] == [
        ("night", "brightness", "night is dark")
    ]


def test_a_metric_that_measured_nothing_has_skips_and_no_number():
    report = MetricSuite({"brightness": Brightness()}).run([clip(0)])
    assert report.scores == {} and len(report.skipped) == 1


def test_one_clip_has_no_interval_and_many_have_one_about_the_value():
    suite = MetricSuite({"brightness": Brightness()})
    assert suite.run([clip(20)]).scores["brightness"].low is None
    score = suite.run([clip(v) for v in range(20, 60)]).scores["brightness"]
    assert score.low < score.value < score.high


def test_intervals_of_a_mean_are_those_of_the_central_limit():
    values = np.random.default_rng(0).normal(size=400)
    (low, high) = intervals(lambda o: {"mean": float(np.mean(o))}, values, 2000)["mean"]
    error = values.std() / 20
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.2 * error)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.2 * error)


def test_two_metrics_may_give_numbers_of_one_name():
    suite = MetricSuite({"a": Brightness(), "b": Brightness()})
    assert list(suite.run([clip(20)]).scores) == ["brightness", "b.brightness"]


def test_a_report_is_json_and_a_table():
    report = MetricSuite({"brightness": Brightness()}).run([clip(20), clip(30)])
    plain = msgspec.json.decode(report.json())
    assert plain["scores"]["brightness"]["value"] == 25
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(report.table("two clips"))
    assert "brightness" in console.export_text()


def test_metrics_come_from_the_plugins_by_name():
    suite = build_suite(load_catalog(), {"fid": {"every": 2}, "far": {"use": "kid"}}, CONTEXT)
    assert [m.name for m in suite.metrics.values()] == ["fid_toon", "kid_toon"]


def test_a_metric_that_nobody_offers_is_called_by_name():
    with pytest.raises(UnknownNameError, match="fid"):
        build_suite(load_catalog(), {"fidd": {}}, CONTEXT)


def test_every_option_that_does_not_fit_is_named():
    with pytest.raises(PipelineError, match=r"(?s)every.*regoin|regoin.*every"):
        build_suite(load_catalog(), {"fid": {"regoin": "face"}, "kid": {"every": "x"}}, CONTEXT)


def test_clips_of_other_shapes_and_boxes_are_refused():
    frames = torch.zeros(2, 4, 4, 3, dtype=torch.uint8)
    with pytest.raises(ShapeError, match="made"):
        ClipPair(frames, frames[:1], torch.zeros(2, 4))
    with pytest.raises(ShapeError, match="one a frame"):
        ClipPair(frames, frames, torch.zeros(3, 4))
