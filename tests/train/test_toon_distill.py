"""The chain over a pipeline: the embedded avatar's stages, a narrow network, random latents."""

import json

import attrs
import pytest
import torch
from af_core.errors import ConfigError, WeightsError
from af_core.weights.files import read_tensors, write_tensors
from af_train import cli
from af_train.data.toon_latents import CLIPS_PER_SHARD, LatentPool, make_shards
from af_train.data.toon_source import ToonSource
from af_train.metrics import toon_teacher
from af_train.metrics.readers import load_readers
from af_train.objectives.options import DmdOptions
from af_train.parallel import World
from af_train.recipes.distill import TeacherGateError
from af_train.recipes.settings import with_settings
from af_train.recipes.toon_distill import toon_chain, toon_distill_recipe
from af_train.worlds.toon import Synthesiser, sample_clip
from af_train.worlds.toon.speech import HELD_OUT_VOICES
from safetensors.torch import save_file

pytestmark = pytest.mark.usefixtures("one_thread")

NARROW = ["denoiser.weights=null", "denoiser.dim=16", "denoiser.ffn_dim=16",
          "denoiser.num_layers=2", "denoiser.num_heads=1", "denoiser.audio_layers=[0]"]  # fmt: skip
STAGES = ("teacher", "ode", "dmd")


@pytest.fixture(scope="module")
def directory(tmp_path_factory, one_thread):
    made = tmp_path_factory.mktemp("distill")
    (made / "latents").mkdir()
    g = torch.Generator().manual_seed(0)
    n = CLIPS_PER_SHARD
    shard = {
        "latents": torch.randn(n, 21, 64, 16, 16, generator=g).half(),
        "portraits": torch.randn(n, 64, 16, 16, generator=g).half(),
        "samples": torch.randint(-9000, 9000, (n, 81 * 640), generator=g).to(torch.int16),
        "mouths": torch.zeros(n, 81, 5),
        "motions": torch.zeros(n, 81, 9),
        "drives": torch.randn(n, 20, 10, generator=g),
    }
    save_file(shard, made / "latents" / "00000000.safetensors")
    return made


def chain(directory, gate="off"):
    short = [f"{stage}.trainer.{what}" for stage in STAGES for what in ("steps=2", "batch_size=2")]
    settings = ["num_clips=32", "num_frames=5", "backfill.num_clips=4", "backfill.batch_size=2",
                "backfill.num_steps=20", "teacher.begin=null", f"gate={gate}",
                f"settings={json.dumps(NARROW)}",
                *short]  # fmt: skip
    return toon_chain(directory, with_settings(toon_distill_recipe(), settings), World())


def test_every_stage_runs_and_is_found_again(directory):
    path = chain(directory).run()
    weights = read_tensors(path)
    assert all(value.isfinite().all() for value in weights.values())
    teacher, ode = (
        read_tensors(directory / f"{stage}.safetensors") for stage in ("teacher", "ode")
    )
    assert all(
        any(not torch.equal(a[n], b[n]) for n in a) for a, b in ((teacher, ode), (ode, weights))
    )
    stamp = path.stat().st_mtime_ns
    chain(directory).run()
    assert path.stat().st_mtime_ns == stamp


def test_a_teacher_that_does_not_speak_is_refused_before_trajectories_are_made(directory):
    barred = attrs.evolve(chain(directory, "on"), directory=directory.parent / "barred")
    barred.directory.mkdir()
    write_tensors(barred.weights("teacher"), barred.make().state_dict())
    barred = attrs.evolve(barred, gate=attrs.evolve(barred.gate, num_clips=1, num_steps=2))
    with pytest.raises(TeacherGateError, match=r"lips r=.*gate=off"):
        barred.backfill()
    assert not barred.trajectories.exists()


def test_the_gate_reads_truth_as_truth():
    """What the world itself shows passes: the readings are right, and aligned with the sound."""
    clip = sample_clip(Synthesiser(), 5, 49, HELD_OUT_VOICES)
    frames = clip.frames(slice(1, None)).permute(0, 2, 3, 1)[None]
    report = toon_teacher.measure(frames, [clip], load_readers())
    assert report.passed and report.lip_corr > 0.95 and 0.85 < report.lip_amplitude < 1.2
    assert report.sharpness == pytest.approx(1) and report.head_motion == pytest.approx(1)
    late = torch.cat([frames[:, :8], frames[:, :-8]], 1)
    assert toon_teacher.measure(late, [clip], load_readers()).lip_corr < 0.7


def test_the_ladder_and_the_anchors_are_those_of_the_pipeline(directory):
    made = chain(directory)
    assert made._ladder() == pytest.approx((1.0, 0.8, 0.5, 0.25))
    assert made.context.stages["anchor_cache"].config.temporal_budget == 4
    assert isinstance(made.objective(made.recipe.dmd).options, DmdOptions)


def test_teacher_and_scores_agree_on_what_noise_says(directory, tmp_path):
    made = chain(directory, "on")
    assert made.gate.liveliness == made.recipe.liveliness == 0.35
    assert made.source.coupled and made.recipe.dmd.options["coupled"] == 10
    (tmp_path / "latents").symlink_to(directory / "latents")
    plain = with_settings(toon_distill_recipe(), ["num_clips=32", "coupled=false", "gate=off"])
    other = toon_chain(tmp_path, plain, World())
    assert not other.source.coupled and "coupled" not in other.recipe.dmd.options
    foreign = with_settings(plain, ["coupled=true", "dmd.objective=mine"])
    assert "coupled" not in toon_chain(tmp_path, foreign, World()).recipe.dmd.options
    (tmp_path / "recipe.json").write_text('{"settings": {"coupled": false}}')
    (tmp_path / "teacher").mkdir()
    toon_chain(tmp_path, plain, World())
    with pytest.raises(ConfigError, match="holds a teacher of coupled=false"):
        toon_chain(tmp_path, with_settings(plain, ["coupled=true"]), World())


def test_clips_that_move_otherwise_are_not_taken_for_these(tmp_path):
    save_file({"x": torch.zeros(1)}, tmp_path / "00000000.safetensors", {"liveliness": "1"})
    assert [*make_shards(None, tmp_path, range(32), 1.0)] == []
    with pytest.raises(WeightsError, match=r"liveliness 1, not 0\.35"):
        [*make_shards(None, tmp_path, range(32), 0.35)]


def test_a_run_of_latents_comes_with_the_speech_of_its_frames(directory):
    ears = chain(directory).source.ears
    pool = LatentPool(directory / "latents")
    source = ToonSource(pool, ears, 20)
    one, two = source.draw((1, 2)), source.draw((2,))
    assert torch.equal(one.clip[1], two.clip[0]) and one.rows.shape == (2, 80, 64)
    torch.testing.assert_close(one.rows[1], two.rows[0], atol=1e-5, rtol=1e-4)
    clips = pool.take(range(len(pool)))
    (found,) = [
        i for i in range(len(pool)) if torch.equal(clips.latents[i, 1:].float(), two.clip[0])
    ]
    short = ToonSource(pool, ears, 5).draw((2,))
    places = [
        s
        for s in range(1, 17)
        if torch.equal(clips.latents[found, s : s + 5].float(), short.clip[0])
    ]
    assert len(places) == 1
    assert short.told is None
    told = ToonSource(pool, ears, 5, coupled=True).draw((2,)).told
    assert torch.equal(told[0], clips.drives[found, places[0] - 1 : places[0] + 4])
    torch.testing.assert_close(
        short.rows[0, 0], ears_at(short, source, places[0]), atol=1e-5, rtol=1e-4
    )


def ears_at(short, source, start):
    """The first row of a run that begins at this latent, from the whole clip's rows."""
    return source.draw(short.seeds).rows[0, 4 * (start - 1)]


def test_the_commands_run_a_chain_and_name_what_is_unknown(tmp_path, monkeypatch, capsys):
    def command(*arguments):
        monkeypatch.setattr("sys.argv", ["af-train", *arguments])
        try:
            cli.main()
        except SystemExit as end:
            return end.code
        return 0

    quick = [f"--set={stage}.trainer.steps=2" for stage in STAGES]
    here = ("--directory", str(tmp_path), "--threads", "1", "--set", "backfill.num_clips=8")
    assert command("run", "lamp", *here, *quick) == 0
    assert {p.stem for p in tmp_path.glob("*.safetensors")} == {*STAGES}
    assert command("backfill", "lamp", *here) == 0
    assert command("backfill", "lamp", *here, "--set", "backfill.shift=5") != 0
    assert command("run", "toon_tacher") == 2
    assert command("run", "lamp", "--set", "dmd.trainer.stebs=1") == 78
    said = capsys.readouterr().err
    assert "toon_teacher" in said and "Did you mean 'steps'" in said and "shift" in said
    assert "Traceback" not in said
