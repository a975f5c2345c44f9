"""``af-train ablate``: rows are trained or reused, reports are whole, slips are told."""

import json
from importlib.resources import files

import pytest
import torch
from af_core.errors import ConfigError
from af_train import draws
from af_train.ablation.lamp import LampStudy, each_once, variants
from af_train.ablation.paper import TABLES
from af_train.ablation.students import FULL, RUNGS, Student, StudentShop
from af_train.ablation.teacher_stream import OVERLAP, teacher_stream
from af_train.ablation.toon_teacher import ToonTeacher
from af_train.benchmark.clips import ClipFolder
from af_train.benchmark.specs import make_benchmark
from af_train.cli import app
from af_train.draws import sample_seeds
from af_train.guidance import Guidance
from af_train.levels import euler_grid, grid_indices
from af_train.networks import Conditions
from af_train.on_disk import AnotherJobError
from af_train.parallel import products_in
from af_train.recipes.lantern import SHIFT, lantern_context, lantern_recipe, make_lantern_network
from af_train.recipes.settings import with_settings
from af_train.recipes.toon_distill import toon_distill_recipe
from af_train.trajectories import guided_velocity, trajectory
from af_train.worlds.lantern import LanternWorld
from typer.testing import CliRunner

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = (
    "teacher.trainer.steps=2",
    "backfill.num_clips=4",
    "backfill.num_steps=8",
    "ode.trainer.steps=2",
    "dmd.trainer.steps=1",
    "dmd.trainer.batch_size=2",
)
SETTINGS = [part for setting in TINY for part in ("--set", setting)]


def asked(directory, table, *more):
    size = ("--seeds", "2", "--clips", "3", "--seconds", "3")
    return ["ablate", table, "--directory", str(directory), *size, *SETTINGS, *more]


@pytest.mark.parametrize("table", ["table3", "table4", "table5", "table6"])
def test_every_row_of_the_paper_that_can_be_trained_here_has_one(table):
    ours = {variant.of for variant in variants()[table]}
    if table == "table3":
        assert ours < set(TABLES[table].rows)
    else:
        assert ours - {"ode"} == set(TABLES[table].rows)


def test_every_window_of_the_grid_stands_on_the_shared_ladder():
    ladder = lantern_context(1, RUNGS).stages["window_scheduler"].sigmas
    for variant in variants()["table3"]:
        student = variant.student
        own = lantern_context(student.num_slots, student.num_passes).stages["window_scheduler"]
        assert all((ladder - sigma).abs().min() < 1e-6 for sigma in own.sigmas)
    steps = lantern_recipe().backfill.num_steps
    assert len(grid_indices(ladder.flip(0).tolist(), steps, SHIFT)) == RUNGS


def test_rows_say_whether_they_were_trained_as_they_are_streamed():
    rows = [v for v in variants()["table4"] if v.of == "no_style"]
    assert [v.is_matched for v in rows] == [True, False]
    assert rows[0].trained == "trained so" and "changed when streaming" in rows[1].trained
    assert rows[1].student == Student() and rows[1].anchors != FULL
    names = [v.name for v in each_once(variants(), list(variants()))]
    assert len(names) == len(set(names)) and names[0] == "L4N1"


def test_an_objective_of_ones_own_is_asked_for_every_window(tmp_path):
    own = with_settings(lantern_recipe(), ["dmd.objective=mine"])
    for recipe, asked_for in ((lantern_recipe(), "self-forcing"), (own, "mine")):
        assert StudentShop(tmp_path, recipe)._matching(Student(1, 1)).dmd.objective == asked_for
        assert StudentShop(tmp_path, recipe)._matching(Student()).dmd == recipe.dmd


def test_the_teachers_clips_share_frames_and_reach_the_end():
    network = make_lantern_network().eval()
    batch = LanternWorld(40).draw(sample_seeds(0, 0, "test", range(2)))
    parts = list(teacher_stream(network, batch, 30, 12))
    assert [part.shape[1] for part in parts] == [12, *[12 - OVERLAP] * 3]
    assert torch.equal(parts[0], next(teacher_stream(network, batch, 12, 12)))


@pytest.mark.slow
def test_a_table_is_run_reported_and_not_run_again(tmp_path):
    pytest.importorskip("matplotlib")
    run = CliRunner().invoke(app, asked(tmp_path, "table5", "--json"), catch_exceptions=False)
    assert run.exit_code == 0, run.output
    found = json.loads(run.stdout)
    assert (found["num_seeds"], found["num_clips"]) == (2, 3)
    assert [row["of"] for row in found["tables"]["table5"]] == [
        *("no_zeroing", "no_zeroing", "no_reindex", "no_reindex", "ours")
    ]
    assert len(found["claims"]) == 2 * 20  # each claim for the trained row and for the other
    assert {c["verdict"] for c in found["claims"]} <= {
        *("reproduced", "not reproduced", "undecided")
    }
    page = (tmp_path / "ablation-lamp.html").read_text()
    assert page.count("data:image/png;base64,") >= 1 and "1382.63" in page
    students = sorted(tmp_path.glob("seed-*/*/dmd.safetensors"))
    assert len(students) == 2 * 3
    before = [path.stat().st_mtime_ns for path in students]
    again = asked(tmp_path, "table6", "-o", str(tmp_path / "report"))
    assert CliRunner().invoke(app, again, catch_exceptions=False).exit_code == 0
    assert [path.stat().st_mtime_ns for path in students] == before
    assert (tmp_path / "report" / "ablation-lamp.md").exists()
    partial = asked(tmp_path, "all", "--report-only", "--json")
    told = json.loads(CliRunner().invoke(app, partial, catch_exceptions=False).stdout)
    assert [row["of"] for row in told["tables"]["table3"]] == ["L1N1", "L4N1"]
    assert "not been run to the end" in (tmp_path / "ablation-lamp.md").read_text()
    with pytest.raises(AnotherJobError, match=r"recipe\.dmd\.trainer\.steps was 1, is 2"):
        other = asked(tmp_path, "table5", "--set", "dmd.trainer.steps=2")
        CliRunner().invoke(app, other, catch_exceptions=False)


def test_the_full_model_streams_as_the_engine_streams_it(tmp_path):
    """The stream of a row is that of its weights under its own window, nothing else."""
    from af_core.streaming import Streamer
    from af_core.weights.files import load

    study = LampStudy(tmp_path, lambda s: with_settings(lantern_recipe(s), TINY), 1, 2, 3)
    ours = variants()["table4"][-1]
    frames = study.made(0, ours)
    assert frames.shape == (2, study.num_latents, 3, 2, 2) and study.latency(0, ours) > 0
    network = make_lantern_network().eval()
    load(network, tmp_path / "seed-0" / "L4N1" / "dmd.safetensors")
    stages, batch = lantern_context(4, 1).stages, study.batch()
    engine = Streamer(stages["window_scheduler"], network, stages["anchor_cache"], 1)
    state = engine.open(batch.portrait, seeds=batch.seeds)
    rows = batch.rows[:, : 4 * study.num_latents].split(4, dim=1)
    expected = torch.cat(list(engine.stream(state, rows)), 1)
    assert torch.equal(frames, expected)


def test_slips_are_told(tmp_path):
    run = CliRunner().invoke
    assert run(app, ["ablate", "table7"]).exit_code == 2
    base = ["ablate", "table4", "--world", "toon", "--directory", str(tmp_path)]
    with pytest.raises(ConfigError, match="no such folder"):
        run(app, [*base, "--students", str(tmp_path / "none")], catch_exceptions=False)
    with pytest.raises(ConfigError, match="--preset"):
        run(app, [*base, "--set", "dmd.trainer.steps=3"], catch_exceptions=False)


def test_the_shipped_student_is_changed_as_it_streams(tmp_path):
    pytest.importorskip("espeakng_loader")
    pytest.importorskip("matplotlib")
    base = ["ablate", "table6", "--world", "toon", "--directory", str(tmp_path)]
    size = ("--clips", "2", "--seconds", "3")
    run = CliRunner().invoke(app, [*base, *size, "--json"], catch_exceptions=False)
    assert run.exit_code == 0, run.output
    found = json.loads(run.stdout)
    assert [row["of"] for row in found["tables"]["table6"]] == ["self_forcing", "ours"]
    verdicts = {c["column"]: c["verdict"] for c in found["claims"]}
    assert verdicts["fid"] == "not measured" and verdicts["csim"] != "not measured"
    assert "causal_ode.safetensors" in (tmp_path / "ablation-toon.md").read_text()


def test_the_teacher_of_the_toon_world_speaks_as_its_trajectories_are_sampled(tmp_path):
    pytest.importorskip("espeakng_loader")
    weights = files("af_core") / "presets" / "toon" / "denoiser.safetensors"
    teacher = ToonTeacher.load("toon", weights)
    (spec,) = make_benchmark(1).clips
    made = ClipFolder(tmp_path).get(spec).first(2)
    frames = teacher(made)
    assert frames.shape == (50, 128, 128, 3) and frames.dtype == torch.uint8
    stages, config = teacher.stages, toon_distill_recipe().backfill
    portraits = made.clip.portrait().permute(1, 2, 0)[None]
    portrait = stages["image_encoder"].encode(portraits)
    samples = torch.from_numpy(made.clip.speech.samples)[None, : 48 * 640]
    given = Conditions(portrait, stages["audio_encoder"](samples))
    noise = draws.normal((spec.seed,), "clip at 0", portrait.expand(-1, 12, -1, -1, -1))
    velocity = guided_velocity(teacher.network, given, Guidance(1.5, 1.5), 12)
    with torch.no_grad(), products_in(config.precision, "cpu"):
        end = trajectory(velocity, noise, euler_grid(config.num_steps, config.shift), ())[:, -1]
    decoder = stages["decoder"]
    shown, _ = decoder.step(decoder.open_seeing(portraits), torch.cat([portrait, end], 1))
    apart = (frames[:48].float() - shown[0, 1:].float()).abs().mean()  # bfloat16 rounds
    moved = (frames[:48].float() - portraits.float()).abs().mean()
    assert apart < 0.05 * moved
