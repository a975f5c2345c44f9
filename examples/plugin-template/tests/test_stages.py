"""The kit of af-core over both stages, and what is special about ours."""

import pytest
import torch
from af_plugin_template.cosine import CosineSchedule
from af_plugin_template.plugin import CosineOptions
from af_plugin_template.relay import RelayScheduler


@pytest.mark.parametrize("prediction", ["x0", "velocity"])
@pytest.mark.af_conformance("noise_schedule")
def test_cosine(af_check, prediction):
    af_check(lambda: CosineSchedule(2.0, prediction))


@pytest.mark.parametrize("num_slots", [1, 2, 4])
@pytest.mark.af_conformance("window_scheduler")
def test_relay(af_check, num_slots):
    af_check(lambda: RelayScheduler(CosineSchedule(), num_slots))


@pytest.mark.parametrize("num_rungs", [1, 3, 4])
def test_the_ladder_that_explain_shows_is_the_ladder_that_runs(num_rungs):
    shown = torch.tensor(CosineOptions(power=1.5).preview_ladder(num_rungs))
    torch.testing.assert_close(shown.flip(0), CosineSchedule(1.5).ladder(num_rungs))


def test_the_plugin_is_installed_and_healthy(af_catalog):
    record = next(r for r in af_catalog.plugins if r.name == "af-plugin-template")
    assert (record.status, record.error) == ("ok", None)
    assert record.provides == ["noise_schedule/cosine", "window_scheduler/relay"]


def test_both_stages_make_a_video():
    from af_core.graph import open_pipeline
    from af_core.pipeline import build
    from af_core.plugins import load_catalog
    from af_core.testing import tiny_plugin

    catalog = load_catalog(extra=[("tiny", tiny_plugin)])
    choice = {"noise_schedule": {"use": "cosine"}, "window_scheduler": {"use": "relay"}}
    avatar = build(open_pipeline("tiny", choice, catalog))
    portrait = torch.zeros(avatar.info.height, avatar.info.width, 3, dtype=torch.uint8)
    frames = torch.cat(list(avatar.stream(portrait, [torch.zeros(16_000)])), dim=1)
    assert frames.shape[1] == 25
