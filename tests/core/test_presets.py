"""The pipelines that are shipped: each is valid, and the default is what the documents say."""

import json
import subprocess
import sys

import pytest
from af_core.graph import check_pipeline, explain, open_pipeline
from af_core.plugins import load_catalog

CATALOG = load_catalog()


SHIPPED = ("toon", "toon-causal")


@pytest.mark.parametrize("name", CATALOG.names("preset"))
def test_every_preset_is_valid_and_described(name):
    checked = check_pipeline(name, None, CATALOG, with_weights=name in SHIPPED)
    assert checked.problems == ()
    assert checked.pipeline.spec.name == name and checked.pipeline.spec.description


@pytest.mark.parametrize("name", sorted({*CATALOG.names("preset")} - {*SHIPPED}))
def test_a_preset_without_its_weights_says_once_what_to_do(name):
    (problem,) = check_pipeline(name, None, CATALOG).problems
    assert problem.code == "no_weights_dir"
    assert "denoiser.pt" in problem.message or "ode_audio_init.pt" in problem.message
    assert "--weights DIR" in problem.suggestion


def test_every_file_of_a_folder_that_lacks_them_is_named(tmp_path):
    checked = check_pipeline("avatarforcing-1.3b", {"weights_dir": str(tmp_path)}, CATALOG)
    told = "\n".join(map(str, checked.problems))
    for name in ("denoiser.pt", "vae.pth", "audio"):
        assert str(tmp_path / name) in told
    assert {p.path for p in checked.problems} >= {"denoiser.weights", "decoder.weights"}


def test_a_folder_of_weights_that_is_not_there_is_one_problem(tmp_path):
    (tmp_path / "file").touch()
    for folder, text in (("absent", "not there"), ("file", "no folder")):
        options = {"weights_dir": str(tmp_path / folder)}
        (problem,) = check_pipeline("avatarforcing-1.3b", options, CATALOG).problems
        assert (problem.code, problem.got) == ("no_weights_dir", options["weights_dir"])
        assert text in problem.message


def test_a_folder_of_weights_that_nothing_is_read_from_is_refused(tmp_path):
    (problem,) = check_pipeline("toon", {"weights_dir": str(tmp_path)}, CATALOG).problems
    assert (problem.code, problem.got) == ("unused_weights_dir", str(tmp_path))


def test_a_file_that_lacks_is_not_confused_with_another_of_the_same_ending(tmp_path):
    (tmp_path / "vae.pth").touch()
    options = {"weights_dir": str(tmp_path)}
    problems = check_pipeline("avatarforcing-1.3b-fast", options, CATALOG).problems
    assert {p.path: p.suggestion for p in problems}["decoder.weights"] is None
    (tmp_path / "taew2_1.safetensors").touch()
    problems = check_pipeline("avatarforcing-1.3b-fast", options, CATALOG).problems
    near = str(tmp_path / "taew2_1.safetensors")
    assert {p.path: p.suggestion for p in problems}["decoder.weights"] == near


def test_the_published_preset_waits_for_640_ms_and_three_blocks_more():
    checked = check_pipeline("avatarforcing-1.3b", None, CATALOG, with_weights=False)
    told = explain(checked.pipeline)
    assert (told.latency.block_ms, told.latency.lookahead_ms) == (640, 1920)
    assert told.window["ladder"] == pytest.approx([1.0, 0.952381, 0.7692308, 0.5555556])
    assert (told.width, told.height, told.tokens_per_block) == (832, 480, 4 * 1560)


def test_the_default_waits_for_a_block_of_160_ms_and_looks_480_ms_ahead():
    told = explain(open_pipeline("toon", catalog=CATALOG))
    assert (told.latency.block_ms, told.latency.lookahead_ms) == (160, 480)
    assert told.latency.total_ms == 640
    assert (told.width, told.height, told.fps, told.tokens_per_block) == (128, 128, 25, 16)
    assert told.window["ladder"] == [1.0, 0.8, 0.5, 0.25]
    assert all(node.provider for node in told.nodes if node.stage != "source")


def test_the_causal_variant_has_no_look_ahead():
    latency = explain(open_pipeline("toon-causal", catalog=CATALOG)).latency
    assert (latency.block_ms, latency.lookahead_ms) == (160, 0)


def test_weights_of_the_denoiser_are_counted_without_building_it():
    from af_core.models.causal_wan import CausalWan
    from af_core.models.wan_config import CausalWanConfig
    from af_core.plugins.builtin.networks import num_parameters

    shapes = (
        {"text_dim": None, "audio_dim": 8},
        {"text_dim": 24, "audio_dim": 8, "qk_norm": False},
        {"text_dim": None, "audio_dim": 8, "audio_layers": ()},
    )
    for shape in shapes:
        config = CausalWanConfig(dim=64, ffn_dim=96, num_layers=5, num_heads=2, **shape)
        counted = sum(weight.numel() for weight in CausalWan(config).parameters())
        assert num_parameters(config) == counted


def test_the_published_shape_has_about_as_many_weights_as_the_paper_says():
    from af_core.models.wan_config import CausalWanConfig
    from af_core.plugins.builtin.networks import num_parameters

    assert 1.3e9 < num_parameters(CausalWanConfig()) < 1.6e9


@pytest.mark.parametrize("num_rungs", [1, 2, 4, 6])
@pytest.mark.parametrize("shift", [1.0, 5.0])
def test_the_ladder_that_is_shown_is_the_ladder_that_runs(num_rungs, shift):
    from af_core.plugins.builtin.engine import RectifiedFlowOptions
    from af_core.schedules.rectified_flow import RectifiedFlow

    options = RectifiedFlowOptions(shift=shift)
    shown = options.preview_ladder(num_rungs)
    assert shown == pytest.approx(RectifiedFlow(options).ladder(num_rungs).flip(0).tolist())


WRONG = {
    "a ladder that does not fit the window": (
        {"window_scheduler.num_slots": 3}, "noise_schedule", "needs 3"
    ),
    "a window without blocks": (
        {"window_scheduler.num_slots": 0}, "window_scheduler", "at least 1"
    ),
    "sizes that do not divide": ({"geometry.width": 122}, "geometry", "128x128 would do"),
    "an autoencoder of another stride": (
        {"geometry.spatial_stride": 16, "geometry.patch": 2}, "image_encoder", "spatial_stride: 8"
    ),
    "features of another width": (
        {"denoiser.audio_dim": 32}, "audio_encoder.rows -> denoiser.rows", "channels"
    ),
    "latents of another width": (
        {"denoiser.out_channels": 8, "denoiser.in_channels": 25},
        "denoiser.latents -> decoder.latents",
        "channels",
    ),
    "heads that do not divide": ({"denoiser.num_heads": 3}, "denoiser", "heads"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "path", "said"), WRONG.values(), ids=WRONG.keys())
def test_settings_that_cannot_work_are_found_before_anything_is_loaded(change, path, said):
    problems = check_pipeline("toon", change, CATALOG).problems
    assert any(p.path == path and said in str(p) for p in problems), problems


def test_one_cause_is_told_once_for_each_stage_and_not_again():
    problems = check_pipeline(
        "toon", {"geometry.spatial_stride": 16, "geometry.patch": 2}, CATALOG
    ).problems
    assert [p.path for p in problems] == ["image_encoder", "decoder"]


def test_explain_prints_a_page_of_100_columns_and_json_on_stdout():
    code = "from af_runtime.cli import main; main()"
    run = [sys.executable, "-c", code, "explain", "toon"]
    page = subprocess.run(run, capture_output=True, text=True, env={"NO_COLOR": "1"})
    assert page.returncode == 0 and page.stderr == ""
    assert max(len(line.rstrip()) for line in page.stdout.splitlines()) <= 100
    for word in (
        "160 ms",
        "480 ms",
        "640 ms",
        "mel_conv",
        "af-audio",
        "local_future",
        "per stream",
    ):
        assert word in page.stdout
    answer = json.loads(subprocess.run([*run, "--json"], capture_output=True, text=True).stdout)
    assert answer["latency"]["total_ms"] == 640
    diagram = subprocess.run([*run, "--format", "mermaid"], capture_output=True, text=True)
    assert diagram.stdout.startswith("flowchart LR")
