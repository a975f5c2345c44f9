"""The recipes of the published size, run in miniature from published files and prepared clips."""

import json
import socket

import msgspec
import pytest
import tiny_published as tiny
import torch
import torch.multiprocessing as mp
import two_processes
from af_core.errors import ConfigError
from af_core.graph import open_pipeline, parse_overrides
from af_core.weights.files import read_metadata, read_tensors
from af_train.cli import app
from af_train.data.clip_store import FORMAT, ClipHeader, Note, Outcome, write_note, write_shard
from af_train.data.encoders import Encoders
from af_train.ode_store import TrajectoryStore
from af_train.parallel import World
from af_train.recipes.catalogue import ALONE, FAMILIES, find, names
from af_train.recipes.dry_run import count, dry_run
from af_train.recipes.paper import paper_recipe
from af_train.recipes.published import with_effective_batch
from af_train.recipes.settings import UnknownNameError, with_settings
from typer.testing import CliRunner

pytest.importorskip("peft")
pytestmark = pytest.mark.usefixtures("one_thread")

CLIPS, LATENTS = 5, 12


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Published files, a pipeline over them, and clips as `af-train prepare` leaves them."""
    folder = tmp_path_factory.mktemp("published")
    (folder / "made").mkdir()
    repos = tiny.repositories(folder / "made")
    files = {
        "denoiser.pt": repos[tiny.AVATAR]["checkpoints/model.pt"],
        "vae.pth": repos[tiny.WAN]["Wan2.1_VAE.pth"],
        "text/umt5-xxl.pth": repos[tiny.WAN]["models_t5_umt5-xxl-enc-bf16.pth"],
        **{f"tokenizer/{n.rsplit('/')[-1]}": f for n, f in repos[tiny.WAN].items() if "/" in n},
        **{f"audio/{name}": file for name, file in repos[tiny.SPEECH].items()},
    }
    for name, content in files.items():
        path = folder / "weights" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AF_CACHE", str(folder / "cache"))
        preset = tiny.pipeline(folder)
        _write_clips(folder / "clips", preset, folder / "weights")
        unrevised = "audio_encoder.revised_frames=0"
        _write_clips(folder / "live", preset, folder / "weights", unrevised)
        yield folder


def _write_clips(folder, preset, weights, *more):
    pipeline = open_pipeline(preset, parse_overrides([f"weights_dir={weights}", *more]))
    encoders = Encoders.of(pipeline)
    header = ClipHeader(
        **encoders.identity(), fit="crop", clip_latents=LATENTS, latent=(16, 4, 6),
        feature_dim=encoders.audio.feature_dim, num_recordings=1, recordings_per_group=1,
        recordings="none",
    )  # fmt: skip
    g = torch.Generator().manual_seed(0)
    folder.mkdir()
    clips = [
        {
            "latents": torch.randn(1 + LATENTS, 16, 4, 6, generator=g).half(),
            "stills": torch.randn(2, 16, 4, 6, generator=g).half(),
            "rows": torch.randn(4 * LATENTS, header.feature_dim, generator=g).half(),
            "samples": torch.zeros((1 + 4 * LATENTS) * 640, dtype=torch.int16),
        }
        for _ in range(CLIPS)
    ]
    write_shard(folder, 0, 0, header, clips)
    note = Note(FORMAT, header, (Outcome("x.mp4", "used", CLIPS, 9.0),), (CLIPS,))
    write_note(folder, 0, note)


def small(home, *stages):
    """Settings that make a recipe run in seconds."""
    told = [
        f"preset={home / 'avatarforcing-1.3b.yaml'}",
        f"weights={home / 'weights'}",
        f"data={home / 'clips'}",
        "effective_batch=2",
    ]
    for name in stages:
        told.append(f"{name}.trainer.steps=1")
        for role in ("student", "critic") if name == "dmd" else (_learner(name),):
            told.append(f"{name}.trainer.roles.{role}.adapter.rank=2")
    return told


def _learner(stage):
    return "teacher" if stage == "teacher" else "student"


PAPER = ("num_frames=8", "backfill.num_clips=2", "backfill.num_steps=5", "backfill.batch_size=2")


def paper(home, directory, *more):
    family, _ = find("paper_1_3b")
    settings = [*small(home, "teacher", "ode", "dmd"), *PAPER, *more]
    return family.chain(directory, with_settings(family.recipe(), settings), World())


def test_the_papers_chain_runs_from_published_files_and_prepared_clips(home, tmp_path):
    negative = "backfill.negative_prompt=blurred", 'dmd.options.negative_prompt="blurred"'
    chain = paper(home, tmp_path, *negative)
    chain.run()
    plain = chain.shipped()
    states = {s: read_tensors(tmp_path / f"{s}.safetensors") for s in ("teacher", "ode", "dmd")}
    for state in states.values():
        assert state.keys() == plain.keys()
        assert all(v.isfinite().all() and v.shape == plain[n].shape for n, v in state.items())
    moved = {n for n in plain if not torch.equal(states["teacher"][n], plain[n])}
    assert (
        any(n.startswith("audio_proj") for n in moved) and "blocks.0.self_attn.q.bias" not in moved
    )
    assert "blocks.0.self_attn.q.weight" in moved
    small_file = tmp_path / "dmd.adapter.safetensors"
    assert small_file.stat().st_size < (tmp_path / "dmd.safetensors").stat().st_size / 2
    assert json.loads(read_metadata(small_file)["adapter"])["rank"] == 2
    header = TrajectoryStore.open(tmp_path / "trajectories").header
    assert (header.guidance_weight, header.negative_prompt, header.shift) == (4.5, "blurred", 5.0)


def test_live_avatars_chain_runs_over_a_noisy_history(home, tmp_path):
    family, _ = find("liveavatar")
    told = small(home, "teacher", "forcing", "dmd")
    settings = [*told, "num_frames=6", f"data={home / 'live'}"]
    chain = family.chain(tmp_path, with_settings(family.recipe(), settings), World())
    assert chain.chain.context.stages["anchor_cache"].config.history == "noisy"
    assert len(chain.chain.context.stages["window_scheduler"].timesteps) == 4
    path = chain.run()
    forced, done = read_tensors(tmp_path / "forcing.safetensors"), read_tensors(path)
    assert any(not torch.equal(done[n], v) for n, v in forced.items())


@pytest.mark.slow
def test_two_processes_train_adapters_as_one_does(home, tmp_path):
    settings = [*small(home, "teacher", "dmd"), *PAPER, "teacher.trainer.precision=float32"]
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    arguments = (port, str(tmp_path / "two"), "paper_1_3b", "teacher", settings)
    mp.spawn(two_processes.run_stage, arguments, nprocs=2)
    paper(home, tmp_path / "one", "teacher.trainer.precision=float32").teacher()
    both, alone = (
        read_tensors(tmp_path / where / "teacher.safetensors") for where in ("two", "one")
    )
    for name, value in alone.items():
        torch.testing.assert_close(both[name], value, atol=3e-5, rtol=0, msg=name)


def test_a_batch_of_a_given_total_is_split_over_processes_or_refused():
    recipe = paper_recipe()
    split = with_effective_batch(recipe, World(size=8))
    assert {split.teacher.trainer.accumulate, split.dmd.trainer.accumulate} == {8}
    with pytest.raises(ConfigError, match="no multiple of 7 processes"):
        with_effective_batch(recipe, World(size=7))
    free = msgspec.structs.replace(recipe, effective_batch=None)
    assert with_effective_batch(free, World(size=7)) is free


def test_the_published_numbers_are_in_the_recipe():
    r = paper_recipe()
    student, critic = r.dmd.trainer.roles["student"], r.dmd.trainer.roles["critic"]
    assert (r.backfill.num_clips, r.ode.trainer.steps, r.dmd.trainer.steps) == (16_000, 4800, 2500)
    assert (student.learning_rate, critic.learning_rate) == (1.5e-6, 4e-7)
    assert (student.betas, student.weight_decay, student.average) == ((0.0, 0.999), 0.01, 0.99)
    assert (student.adapter.rank, student.adapter.alpha, r.effective_batch) == (128, 64.0, 64)


def test_a_dry_run_needs_no_file_and_names_each_that_is_missing(tmp_path):
    family, stage = find("paper_1_3b_dmd")
    plan = dry_run(family, stage, family.recipe(), tmp_path, World(size=8))
    said = "\n".join(plan.needs)
    for word in ("denoiser.pt", "--set weights=DIR", "data=FOLDER", "ode.safetensors"):
        assert word in said
    elsewhere = msgspec.structs.replace(family.recipe(), data=str(tmp_path / "nowhere"))
    assert "nowhere is not there" in "".join(
        dry_run(family, stage, elsewhere, tmp_path, World()).needs
    )
    (dmd,) = plan.stages
    assert dmd.samples == 64 and dmd.steps == 2500 and not dmd.done
    assert {r.role: r.trained for r in dmd.roles}["teacher"] == 0


def test_sizes_of_a_dry_run_are_those_of_the_networks(home, tmp_path):
    chain = paper(home, tmp_path)
    network = chain.make()
    assert count(network.config) == sum(p.numel() for p in network.parameters())
    adapter = chain.recipe.dmd.trainer.roles["student"].adapter
    from af_train.adapters import adapt

    moving = sum(p.numel() for p in adapt(network, adapter).parameters() if p.requires_grad)
    assert count(network.config, adapter) == moving


def test_the_command_tells_what_it_would_do_and_slips_are_named(home):
    def command(*words):
        return CliRunner().invoke(app, ["run", *words])

    done = command("paper_1_3b", "--dry-run", "--json", *[
        word for s in small(home) for word in ("--set", s)
    ])  # fmt: skip
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["needs"] == []
    assert isinstance(command("paper_1_3b_dmdd", "--dry-run").exception, UnknownNameError)
    with pytest.raises(UnknownNameError, match="Did you mean 'liveavatar_dmd'"):
        find("liveavatar_dmb")
    with pytest.raises(UnknownNameError, match="Did you mean 'lamp'"):
        find("lamp_distill")
    with pytest.raises(UnknownNameError, match="Did you mean 'lamp_teacher'"):
        find("lamp_tacher")
    assert len({*names()}) == len(ALONE) + sum(1 + len(f.stages) for f in FAMILIES)
    with pytest.raises(UnknownNameError, match=r"toon has no dry run.*toon_distill"):
        find("toon")
    assert [find(name)[1] for name in ("toon_distill", "toon_ode")] == [None, "ode"]


def test_without_recordings_the_command_that_prepares_them_is_named(tmp_path):
    family, _ = find("paper_1_3b")
    with pytest.raises(ConfigError, match="af-train prepare"):
        family.chain(tmp_path, family.recipe(), World())
