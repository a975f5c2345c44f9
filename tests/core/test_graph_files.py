"""Pipeline files: every error at once, each with its place and what to write instead."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from af_core import testing
from af_core.errors import PipelineConnectError, PipelineError, UnknownNameError
from af_core.graph import check_pipeline, explain, mermaid, open_pipeline, parse_overrides
from af_core.graph.wiring import counted_parameters
from af_core.plugins import load_catalog
from af_core.testing import tiny_plugin
from af_core.testing.tiny_plugin import TinyTrailOptions

TINY = Path(testing.__file__).with_name("tiny.yaml").read_text()


@pytest.fixture(scope="module")
def catalog():
    return load_catalog(candidates=[], extra=[("tiny", tiny_plugin)])


@pytest.fixture
def check(tmp_path, catalog):
    def run(text=TINY, overrides=None, name="p.yaml"):
        path = tmp_path / name
        path.write_text(text)
        return check_pipeline(str(path), overrides, catalog)

    return run


def codes(checked):
    return [(p.code, p.path) for p in checked.problems]


def test_a_correct_file_has_no_problems(check):
    checked = check()
    assert checked.pipeline is not None and codes(checked) == []
    edges = {(e.source, e.target) for e in checked.pipeline.graph.edges}
    assert ("audio_encoder.rows", "denoiser.rows") in edges and len(edges) == 5


def test_yaml_and_toml_say_the_same(check, catalog):
    toml = """
        schema_version = 1
        name = "tiny"
        description = "Stages without weights that run in milliseconds, for tests."
        geometry = {height = 32, width = 48, block_latents = 1, spatial_stride = 8, patch = 2}
        audio_encoder = {use = "tiny"}
        image_encoder = {use = "tiny"}
        noise_schedule = {use = "tiny"}
        window_scheduler = {use = "local_future", num_slots = 3, num_passes = 1}
        anchor_cache = {use = "dual_anchor"}
        denoiser = {use = "tiny"}
        decoder = {use = "tiny"}
    """
    assert check(toml, name="p.toml").pipeline.graph == check().pipeline.graph


def test_all_errors_come_at_once_with_suggestions(check):
    text = (
        TINY.replace("name: tiny\n", "nmae: tiny\n")
        .replace("num_passes: 1", "num_pases: 1")
        .replace("denoiser: {use: tiny}", "denoiser: {use: tinny}")
        .replace("height: 32", "height: tall")
        .replace("decoder: {use: tiny}", "decoder: tiny")
    )
    checked = check(text)
    found = {(p.path, p.code): p for p in checked.problems}
    assert set(found) == {
        ("nmae", "unknown_key"),
        ("name", "missing_key"),
        ("window_scheduler.num_pases", "unknown_key"),
        ("denoiser.use", "unknown_denoiser"),
        ("geometry.height", "bad_value"),
        ("decoder", "bad_value"),
    }
    assert found["nmae", "unknown_key"].suggestion == "name: ..."
    assert found["window_scheduler.num_pases", "unknown_key"].suggestion == "num_passes: ..."
    assert found["denoiser.use", "unknown_denoiser"].suggestion == "use: tiny"
    assert found["geometry.height", "bad_value"].expected == "int"
    assert "'tall'" in found["geometry.height", "bad_value"].got
    assert checked.pipeline is None


def test_an_error_in_one_place_hides_none_in_another(check):
    text = TINY.replace("name: tiny\n", "nmae: tiny\n") + (
        "nodes:\n  glow: {use: tiny_trail, inputs: {frames: audio.samples}}\n"
        "placement: {gpu: {nodes: [decodr], device: tpu}}\noutput: glow.frame\n"
    )
    assert set(codes(check(text))) == {
        ("unknown_key", "nmae"),
        ("missing_key", "name"),
        ("bad_value", "placement.gpu"),
        ("unknown_node", "placement.gpu.nodes"),
        ("format_mismatch", "audio.samples -> glow.frames"),
        ("unknown_port", "output"),
    }


def test_an_exception_and_json_hold_the_same_objects(tmp_path, catalog):
    path = tmp_path / "p.yaml"
    path.write_text(TINY.replace("num_passes", "num_pases"))
    with pytest.raises(PipelineError) as error:
        open_pipeline(str(path), catalog=catalog)
    assert error.value.problems == check_pipeline(str(path), catalog=catalog).problems
    assert "Did you mean 'num_passes'?" in str(error.value)


BAD_FILES = {
    "a list": ("- 1\n- 2\n", "bad_value"),
    "broken yaml": ("a: [1\nb: 2", "syntax"),
    "a key written twice": (TINY + "name: other\n", "syntax"),
    "nothing": ("", "bad_value"),
    "binary": ("\x00\x01", "syntax"),
}


@pytest.mark.parametrize(("text", "code"), BAD_FILES.values(), ids=BAD_FILES.keys())
def test_a_file_that_is_no_table_is_one_clear_problem(check, text, code):
    assert [p.code for p in check(text).problems] == [code]


@pytest.mark.parametrize(
    "text", ["{{ name }}: 3", "? [a, b]\n: 1", "schema_version: 1\nname: 2024-99-99\n"]
)
def test_yaml_that_cannot_be_built_is_a_problem_and_no_traceback(check, text):
    assert codes(check(text))[0][0] == "syntax"


def test_an_empty_table_takes_away_what_the_base_says(check):
    text = TINY + "placement: {there: {nodes: [decoder]}}\n"
    assert "there" in check(text).pipeline.processes
    assert list(check(text, {"placement": {}}).pipeline.processes) == ["main"]


def test_a_node_whose_name_has_a_dot_is_refused(check):
    text = TINY + "nodes: {my.trail: {use: tiny_trail, inputs: {frames: decoder.frames}}}\n"
    (problem,) = check(text).problems
    assert "dot" in problem.message


@pytest.mark.parametrize("header", ["[1]", '{"a": 3}', '{"a": {}}', "null"])
def test_a_header_that_is_no_safetensors_header_counts_no_parameters(tmp_path, header):
    file = tmp_path / "w.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header.encode())
    assert counted_parameters(file) is None


def test_a_missing_file_names_the_closest_in_its_folder(check, tmp_path, catalog):
    check()
    (problem,) = check_pipeline(str(tmp_path / "pp.yaml"), None, catalog).problems
    assert problem.code == "no_such_file" and problem.suggestion == str(tmp_path / "p.yaml")


def test_an_unknown_preset_names_the_closest(catalog):
    (problem,) = check_pipeline("tinny", None, catalog).problems
    assert problem.suggestion == "tiny" and "Did you mean 'tiny'" in problem.message
    with pytest.raises((PipelineError, UnknownNameError), match="tiny"):
        open_pipeline("tinny", catalog=catalog)


def test_a_file_may_extend_a_preset_and_change_one_option(check):
    text = "extends: tiny\nname: mine\nwindow_scheduler: {num_slots: 2}\n"
    pipeline = check(text).pipeline
    assert pipeline.spec.name == "mine"
    assert pipeline.stages["window_scheduler"].config.num_slots == 2
    assert pipeline.stages["window_scheduler"].config.num_passes == 1


def test_files_that_extend_each_other_are_refused(check):
    assert codes(check("extends: ./p.yaml\n")) == [("cycle", "extends")]


def test_an_override_reaches_an_option_and_a_typo_is_caught(check):
    good = check(overrides=parse_overrides(["window_scheduler.num_slots=2"]))
    assert good.pipeline.stages["window_scheduler"].config.num_slots == 2
    bad = check(overrides=parse_overrides(["window_scheduler.window_block=2"]))
    assert codes(bad) == [("unknown_key", "window_scheduler.window_block")]
    worse = check(overrides=parse_overrides(["windowscheduler.num_slots=2"]))
    assert worse.problems[0].suggestion == "window_scheduler: ..."
    assert [p.code for p in check(overrides={"name.first": 1}).problems] == ["bad_override"]


@pytest.mark.parametrize("prompt", ["a: b", 'he said "hi', "12", "one # two", "{x}", ""])
def test_a_prompt_on_the_command_line_is_text_whatever_is_in_it(prompt):
    assert parse_overrides([f"prompt={prompt}"]) == {"prompt": prompt}


@pytest.mark.parametrize("text", ["novalue", "=3", "a..b=1", "a=[1"])
def test_an_override_that_cannot_be_read_is_refused(text):
    with pytest.raises(PipelineError):
        parse_overrides([text])


def test_a_node_of_ones_own_joins_the_graph_and_can_be_the_output(check):
    text = TINY + (
        "nodes:\n  glow: {use: tiny_trail, keep: 0.3, inputs: {frames: decoder.frames}}\n"
        "output: glow.frames\n"
    )
    checked = check(text)
    assert codes(checked) == []
    assert [n.name for n in checked.pipeline.graph.order()][-1] == "glow"


def test_a_wrong_edge_in_a_file_shows_the_line_for_the_file(check):
    text = TINY + "nodes:\n  glow: {use: tiny_trail, inputs: {frames: audio.samples}}\n"
    problem = check(text).problems[0]
    assert problem.code == "format_mismatch"
    assert problem.path == "audio.samples -> glow.frames"
    assert "glow: {inputs: {frames: decoder.frames}}" in problem.suggestion


def test_a_mismatch_of_frame_rate_is_named(check):
    text = TINY + "nodes:\n  glow: {use: tiny_trail, fps: 30, inputs: {frames: decoder.frames}}\n"
    assert "rate_hz is 25, must be 30" in check(text).problems[0].message


def test_the_output_must_be_frames_that_exist(check):
    assert check(TINY + "output: decoder.frame\n").problems[0].suggestion == "decoder.frames"
    assert check(TINY + "output: audio.samples\n").problems[0].code == "format_mismatch"


def test_a_node_is_added_in_python_and_its_edge_is_checked(check):
    pipeline = check().pipeline
    more = pipeline.with_node(
        "glow", TinyTrailOptions(), {"frames": "decoder.frames"}, output="frames"
    )
    assert more.output == "glow.frames" and pipeline.output == "decoder.frames"
    with pytest.raises(PipelineConnectError, match=r'graph.connect\("decoder.frames"'):
        pipeline.with_node("glow", TinyTrailOptions(), {"frames": "audio.samples"})


PLACEMENTS = {
    "an unknown node": ("{gpu: {nodes: [denoisr]}}", "unknown_node"),
    "a node twice": ("{a: {nodes: [decoder]}, b: {nodes: [decoder]}}", "placed_twice"),
    "an unknown device": ("{a: {nodes: [decoder], device: tpu}}", "bad_value"),
    "an unknown key": ("{a: {node: [decoder]}}", "unknown_key"),
}


@pytest.mark.parametrize(("text", "code"), PLACEMENTS.values(), ids=PLACEMENTS.keys())
def test_a_wrong_placement_is_refused(check, text, code):
    assert code in [p.code for p in check(TINY + f"placement: {text}\n").problems]


def test_placement_is_shown_and_the_rest_runs_in_main(check):
    text = TINY + "placement: {gpu: {device: 'cuda:0', nodes: [denoiser, decoder]}}\n"
    told = explain(check(text).pipeline)
    assert told.processes["gpu"] == {"device": "cuda:0", "nodes": ["denoiser", "decoder"]}
    assert set(told.processes["main"]["nodes"]) == {
        "audio", "portrait", "audio_encoder", "image_encoder"
    }  # fmt: skip


def test_a_weights_file_that_is_missing_or_a_pickle_is_reported(check, tmp_path, catalog):
    class Options(tiny_plugin.TinyDecoderOptions, frozen=True, forbid_unknown_fields=True):
        weights: str

    class Plugin:
        af_plugin_api = 1

        @staticmethod
        @tiny_plugin.hookimpl
        def af_register_decoders(register):
            register("heavy", Options)

    extra = [("tiny", tiny_plugin), ("heavy", Plugin())]
    both = load_catalog(candidates=[], extra=extra)
    path = tmp_path / "q.yaml"
    (tmp_path / "w.pt").write_bytes(b"x")
    for name, code in (("no.safetensors", "no_weights"), ("w.pt", "bad_weights")):
        path.write_text(
            TINY.replace("decoder: {use: tiny}", f"decoder: {{use: heavy, weights: {name}}}")
        )
        assert [p.code for p in check_pipeline(str(path), None, both).problems] == [code]


def test_explain_adds_up_blocks_and_look_ahead_and_writes_json_and_mermaid(check):
    told = explain(check().pipeline)
    assert (told.latency.block_ms, told.latency.lookahead_ms) == (160, 320)
    assert told.latency.total_ms == 480
    assert told.frames_per_block == 4 and told.samples_per_block == 2560
    assert told.window["window"].startswith("3 blocks")
    denoiser = next(n for n in told.nodes if n.name == "denoiser")
    assert [p.kind for p in denoiser.parts] == [
        "noise_schedule",
        "window_scheduler",
        "anchor_cache",
    ]
    text = mermaid(told)
    assert text.startswith("flowchart LR") and "audio_encoder -- " in text


@pytest.fixture
def run():
    def call(*args):
        code = "from af_runtime.cli import main; main()"
        return subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True)

    return call


def test_the_command_line_answers_with_exit_codes_and_json(run, tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text("extends: toon\nwindow_scheduler: {num_pases: 1}\n")
    done = run("validate", str(path), "--json")
    answer = json.loads(done.stdout)
    assert done.returncode == 78 and answer["ok"] is False
    assert set(answer["errors"][0]) == {"code", "path", "message", "expected", "got", "suggestion"}
    done = run("plugins", "list", "--json")
    assert done.returncode == 0
    assert set(json.loads(done.stdout)[0]) == {
        "name", "version", "hooks", "status", "error", "path", "provides"
    }  # fmt: skip
    done = run("plugins", "show", "af-cor")
    assert done.returncode == 78 and "Did you mean 'af-core'" in done.stderr
    assert "Traceback" not in done.stderr and done.stdout == ""
    assert run("explain").returncode == 2
