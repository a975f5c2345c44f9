"""The chain learns: each stage does what it is for; with a critic that is frozen, none does."""

import json
import shutil

import pytest
from af_core.errors import AvatarForcingError, ConfigError, UnknownNameError
from af_core.weights.files import read_tensors, write_tensors
from af_train.backfill import weights_hash
from af_train.cli import app
from af_train.on_disk import AnotherJobError
from af_train.recipes.distill import StageNotTrainedError, read_note
from af_train.recipes.lamp import lamp_chain, lamp_recipe, make_network, stream_scores
from af_train.recipes.settings import SettingError, with_settings
from af_train.worlds.lamp import MOOD_STD, LampWorld, measure
from typer.testing import CliRunner

pytestmark = pytest.mark.usefixtures("one_thread")

BIAS = 0.3
"""Added to the student's velocity: its clips begin darker by about as much."""
SMOKE = ("teacher.trainer.steps=500", "dmd.trainer.steps=250")


@pytest.fixture(scope="module")
def taught(tmp_path_factory, one_thread):
    """Teacher, trajectories and ODE student."""
    chain = lamp_chain(tmp_path_factory.mktemp("lamp"), with_settings(lamp_recipe(), SMOKE))
    chain.teacher()
    chain.backfill()
    chain.ode()
    return chain


def biased(chain, directory, *settings):
    """Return a chain whose ODE student has been spoilt."""
    directory.mkdir()
    shutil.copy(chain.weights("teacher"), directory)
    weights = read_tensors(chain.weights("ode"))
    weights["head.head.bias"] += BIAS
    write_tensors(directory / "ode.safetensors", weights)
    return lamp_chain(directory, with_settings(chain.recipe, settings))


@pytest.mark.slow
def test_regression_learns_what_can_be_foreseen_and_averages_the_rest(taught):
    s = stream_scores(taught.weights("ode"))
    assert s.sync == pytest.approx(1, abs=0.1) and s.identity < 0.08
    assert s.mood < 0.6 * MOOD_STD


@pytest.mark.slow
def test_matching_distributions_mends_the_colour_and_brings_the_mood_back(taught, tmp_path):
    chain = biased(taught, tmp_path / "dmd")
    before, after = stream_scores(chain.weights("ode")), stream_scores(chain.dmd())
    assert before.offset > 0.1
    assert after.offset < 0.35 * before.offset
    assert after.mood > 1.5 * before.mood
    assert after.sync == pytest.approx(1, abs=0.12)


@pytest.mark.slow
def test_with_a_critic_that_does_not_follow_nothing_is_mended(taught, tmp_path):
    settings = ("dmd.trainer.roles.critic.learning_rate=0.0", "dmd.trainer.steps=50")
    chain = biased(taught, tmp_path / "frozen", *settings)
    before, after = stream_scores(chain.weights("ode")), stream_scores(chain.dmd())
    assert after.offset > 0.9 * before.offset and abs(after.mood - before.mood) < 0.02


def test_the_measure_of_the_world_knows_the_truth():
    batch = LampWorld(12).draw(range(400))
    truth = measure(batch.clip, batch)
    assert truth.offset < 1e-6 and truth.identity < 1e-6
    assert truth.sync == pytest.approx(1) and truth.mood == pytest.approx(MOOD_STD, rel=0.1)
    darker = measure(batch.clip - 0.2, batch)
    assert darker.offset == pytest.approx(0.2, abs=1e-5)
    assert measure(batch.clip.mean(0, keepdim=True).expand(400, -1, -1, -1, -1), batch).mood < 1e-6


def test_a_stage_that_is_missing_is_named(tmp_path):
    chain = lamp_chain(tmp_path, lamp_recipe())
    with pytest.raises(StageNotTrainedError, match=r"teacher\.safetensors is not there"):
        chain.backfill()
    with pytest.raises(StageNotTrainedError, match="ode"):
        write_tensors(chain.weights("teacher"), chain.make().state_dict())
        chain.dmd()


def test_settings_reach_any_depth_and_slips_are_named():
    deep = (
        "dmd.trainer.steps=7",
        "dmd.options.shift=5",
        "ode.trainer.roles.student.betas=[0, 0.9]",
    )
    made = with_settings(lamp_recipe(), deep)
    assert (made.dmd.trainer.steps, made.dmd.options["shift"]) == (7, 5)
    assert made.ode.trainer.roles["student"].betas == (0, 0.9)
    assert made.teacher == lamp_recipe().teacher
    with pytest.raises(SettingError, match="Did you mean 'steps'"):
        with_settings(lamp_recipe(), ["dmd.trainer.stebs=7"])
    with pytest.raises(SettingError, match="There are: teacher, backfill"):
        with_settings(lamp_recipe(), ["x.y=7"])
    with pytest.raises(SettingError, match=r"does not fit.*seen: 'many'"):
        with_settings(lamp_recipe(), ["dmd.trainer.steps=many"])
    with pytest.raises(SettingError, match="write JSON in quotes"):
        with_settings(lamp_recipe(), ["dmd.options={shift:3}"])
    with pytest.raises(ConfigError, match="learning_rate=-1 must not be below 0"):
        with_settings(lamp_recipe(), ["teacher.trainer.roles.teacher.learning_rate=-1"])


def test_options_and_objectives_that_do_not_exist_are_named(tmp_path):
    def objective(*settings):
        chain = lamp_chain(tmp_path, with_settings(lamp_recipe(), settings))
        return chain.objective(chain.recipe.dmd)

    with pytest.raises(ConfigError, match=r"shifty.*There are: guidance_weight"):
        objective("dmd.options.shifty=3")
    with pytest.raises(UnknownNameError, match="self-forcing"):
        objective("dmd.objective=self_forcing")


def test_slips_of_any_stage_are_told_before_the_first_is_trained(tmp_path):
    for settings, said in (
        (["dmd.objective=hubr"], "no objective named 'hubr'"),
        (["dmd.options.shifty=3"], r"dmd: .*shifty.*STAGE.options="),
        (["ode.begin=none.safetensors"], "ode.begin=none.safetensors: there is no such file"),
        (["dmd.objective=flow-matching", "dmd.options={}"], "trains teacher, and trainer.roles"),
        (["ode.objective=dmd"], "needs networks for critic, teacher; this stage has student"),
    ):
        chain = lamp_chain(tmp_path, with_settings(lamp_recipe(), settings))
        with pytest.raises(AvatarForcingError, match=said):
            chain.run()
    assert not list(tmp_path.iterdir())


TINY = ("teacher.trainer.steps=2", "ode.trainer.steps=2", "backfill.num_clips=4")


def test_what_a_stage_has_learnt_is_not_taken_for_something_else(tmp_path):
    def chain(*settings):
        return lamp_chain(tmp_path, with_settings(lamp_recipe(), (*TINY, *settings)))

    chain("teacher.options.shift=5").teacher()
    chain("teacher.options.shift=5").teacher()
    with pytest.raises(AnotherJobError, match=r"options.shift was 5.0, is 3.0"):
        chain().teacher()
    with pytest.raises(AnotherJobError, match="objective was 'flow-matching', is 'causal-ode'"):
        chain("teacher.objective=causal-ode", "teacher.options={}").teacher()
    chain("backfill.num_steps=20").backfill()
    chain("backfill.num_steps=20").ode()
    chain(
        "backfill.num_steps=20", "ode.options.mask=block_causal"
    ).ode()  # the default, written out
    chain("dmd.trainer.steps=1").dmd()  # the note keeps how stages were made that are there
    settings = read_note(tmp_path)["settings"]
    assert settings["teacher"]["options"]["shift"] == 5
    assert settings["backfill"]["num_steps"] == 20
    assert settings["dmd"]["trainer"]["steps"] == 1


def test_a_file_to_begin_with_is_needed_until_the_stage_has_begun(tmp_path):
    begin = tmp_path / "own.safetensors"
    write_tensors(begin, make_network(seed=3).state_dict())
    settings = (*TINY, f"teacher.begin={begin}")
    chain = lamp_chain(tmp_path / "run", with_settings(lamp_recipe(), settings))
    chain.teacher()
    begin.unlink()
    chain.check()
    chain.teacher()
    with pytest.raises(ConfigError, match="there is no such file"):
        lamp_chain(tmp_path / "new", chain.recipe).check()


def test_students_of_the_lamp_world_are_measured_side_by_side(taught, tmp_path):
    files = [str(taught.weights(stage)) for stage in ("teacher", "ode")]
    run = CliRunner().invoke(app, ["evaluate", "lamp", *files, "--json"], catch_exceptions=False)
    told = json.loads(run.stdout)
    assert [one["denoiser"] for one in told] == [weights_hash(read_tensors(f)) for f in files]
    assert told[1]["sync"] == stream_scores(taught.weights("ode")).sync
    with pytest.raises(ConfigError, match="name the files"):
        CliRunner().invoke(app, ["evaluate", "lamp"], catch_exceptions=False)
