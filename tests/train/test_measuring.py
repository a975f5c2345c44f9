"""``af-train measure``: metrics by name over an avatar's clips; options and slips."""

import json

import pytest
from af_core.errors import PipelineError, UnknownNameError
from af_train.cli import app
from af_train.measuring import tables
from af_train.recipes.settings import SettingError
from typer.testing import CliRunner


def test_options_go_to_the_metric_they_name():
    found = tables(["fid", "ssim"], {"fid.every": 2, "fid.features.size": 8})
    assert found == {"fid": {"every": 2, "features": {"size": 8}}, "ssim": {}}


@pytest.mark.parametrize("path", ["every", "kid.every"])
def test_an_option_of_a_metric_that_is_not_asked_for_is_refused(path):
    with pytest.raises(SettingError, match="asked for: fid"):
        tables(["fid"], {path: 1})


def test_an_avatar_is_measured_by_metrics_of_the_catalogue():
    pytest.importorskip("espeakng_loader")
    asked = ["measure", "ssim", "csim", "delta_e", "--clips", "2", "--seconds", "1", "--json"]
    run = CliRunner().invoke(app, [*asked, "--threads", "1", "--set", "csim.every=12"])
    assert run.exit_code == 0, run.output
    report = json.loads(run.stdout)
    assert report["scores"]["csim_toon"]["num_clips"] == 2
    assert report["scores"]["csim_toon"]["value"] > 0.5
    assert 0 < report["scores"]["ssim_mouth"]["value"] < 1
    assert [skip["metric"] for skip in report["skipped"]] == ["delta_e", "delta_e"]


def test_slips_are_told_before_anything_is_drawn():
    with pytest.raises(UnknownNameError, match="ssim"):
        CliRunner().invoke(app, ["measure", "sim"], catch_exceptions=False)
    with pytest.raises(PipelineError, match="every"):
        asked = ["measure", "ssim", "--set", "ssim.evry=2"]
        CliRunner().invoke(app, asked, catch_exceptions=False)
