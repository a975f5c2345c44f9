"""What the toon student is shown: noise that says what happens, runs that begin where they may."""

import attrs
import pytest
import torch
from af_audio.mel import MelConvConfig, MelConvEncoder
from af_core.errors import WeightsError
from af_core.models.causal_wan import CausalWan
from af_core.weights.files import write_tensors
from af_train.coupling import read
from af_train.data.toon_latents import LatentPool
from af_train.recipes import toon_student
from af_train.recipes.toon import ToonRecipe, train_toon
from af_train.recipes.toon_probe import MotionProbe, MouthProbe, train_motion_probe
from af_train.recipes.toon_student import TOON_WAN, Probes, StudentObjective, begin_with
from af_train.worlds.toon.driven import DRIVES, eventful

N = 32


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    """Clips of noise whose latents say, in their first cell, which they are of which clip."""
    folder, rng = tmp_path_factory.mktemp("latents"), torch.Generator().manual_seed(0)
    latents = torch.randn(N, 21, 64, 16, 16, generator=rng).half()
    latents[..., 0, 0, 0] = torch.arange(21).half()
    latents[..., 0, 0, 1] = torch.arange(N).half()[:, None]
    tensors = {
        "latents": latents,
        "portraits": torch.zeros(N, 64, 16, 16).half(),
        "samples": torch.zeros(N, 81 * 640, dtype=torch.int16),
        "mouths": torch.rand(N, 81, 5, generator=rng),
        "motions": torch.randn(N, 81, 9, generator=rng),
        "drives": torch.randn(N, 20, len(DRIVES), generator=rng),
    }
    write_tensors(folder / "00000000.safetensors", tensors)
    return LatentPool(folder)


@pytest.fixture(scope="module")
def objective(pool):
    torch.manual_seed(0)
    probes = Probes(MouthProbe(), MotionProbe())
    ears = MelConvEncoder(MelConvConfig())
    return StudentObjective(CausalWan(TOON_WAN), pool, ears, probes, torch.ones(64))


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def test_only_the_top_of_the_ladder_says_what_happens(objective):
    batch = objective.draw(3, 4, 4, rng())
    sigma = objective.ladder.expand(3, -1)
    clean = torch.zeros_like(batch.latents[:, 4:])
    noise = objective._noisy(batch, clean, sigma, rng(1)) / sigma[:, :, None, None, None]
    said, wanted = read(noise, len(DRIVES)), batch.drives[:, 4:]
    torch.testing.assert_close(said[:, -1], wanted[:, -1], atol=1e-4, rtol=1e-4)
    assert ((said - wanted)[:, :-1].abs().mean((0, 2)) > 0.5).all()


def test_what_a_run_holds_belongs_together(objective, pool):
    batch, clips = objective.draw(5, 3, 4, rng(2)), pool.take(range(N))
    where = batch.latents[:, :, 0, 0, :2].long()
    for one, (frames, numbers) in enumerate(zip(where[..., 0], where[..., 1], strict=True)):
        assert frames.diff().eq(1).all() and numbers.unique().numel() == 1
        clip, rows = int(numbers[0]), frames - 1
        assert torch.equal(batch.drives[one], clips.drives[clip, rows])
        shown = objective.probes.motion.normed(clips.motions[clip, 1:].unflatten(0, (-1, 4))[rows])
        torch.testing.assert_close(batch.motions[one], shown)


def test_a_run_without_history_begins_at_rest_or_with_its_own_portrait(objective):
    for seed in range(6):
        batch = objective.draw(8, 0, 4, rng(seed))
        first = batch.latents[:, 0, 0, 0, 0].long()
        portrait = batch.portrait[:, 0, 0, 0, 0].long()
        neutral = batch.portrait[:, 0].abs().amax((1, 2, 3)) == 0
        assert (first[neutral] == 1).all()
        assert (portrait[~neutral] == first[~neutral] - 1).all()


@pytest.mark.parametrize("num_steps", [1, 2, 3])
@pytest.mark.parametrize("history", [0, 3])
def test_a_network_that_knows_the_truth_rolls_along_it(objective, monkeypatch, history, num_steps):
    """Whatever was estimated on the way stands where the stream would have put it."""
    batch = objective.draw(4, history, 4 + num_steps, rng(3))
    truth = batch.latents
    seen = []

    def knows(now, noisy, sigma, past):
        assert torch.equal(past, now.latents[:, :history])
        return now.latents[:, history:]

    monkeypatch.setattr(objective, "_predict", knows)
    monkeypatch.setattr(objective, "_measure", lambda *given: seen.append(given[:2]))
    objective._rolled(batch, num_steps, rng(4))
    (after, window) = seen[0]
    assert torch.equal(after.latents, truth[:, num_steps : num_steps + history + 4])
    assert torch.equal(window, after.latents[:, history:])
    assert torch.equal(after.drives, batch.drives[:, num_steps : num_steps + history + 4])


def test_half_of_the_runs_end_with_an_event(pool):
    drives = pool.take(range(N)).drives.repeat(100, 1, 1)
    firsts = toon_student._firsts(drives, 8, rng())
    assert firsts.min() >= 1 and firsts.max() <= 13
    ends = eventful(drives)[torch.arange(len(drives)), firsts + 6]
    share = eventful(drives)[:, 7:].float().mean(1)
    expected = torch.where(share > 0, 0.5 + 0.5 * share, 0).mean()
    assert float(ends.float().mean()) == pytest.approx(float(expected), abs=0.03)
    none = toon_student._firsts(torch.zeros(1000, 20, len(DRIVES)), 8, rng())
    assert set(none.tolist()) == set(range(1, 14))


def test_a_student_begins_with_weights_that_lack_only_what_adds_nothing(tmp_path):
    model, known = CausalWan(TOON_WAN), CausalWan(TOON_WAN).state_dict()
    older = {k: v for k, v in known.items() if not k.startswith(("detail.", "frame_mean."))}
    write_tensors(tmp_path / "older.safetensors", older)
    begin_with(model, tmp_path / "older.safetensors")
    assert torch.equal(model.head.head.bias, known["head.head.bias"])
    del older["head.head.bias"]
    write_tensors(tmp_path / "other.safetensors", older | {"more": torch.zeros(1)})
    with pytest.raises(WeightsError, match=r"1 missing \(head.head.bias\); 1 unknown \(more\)"):
        begin_with(model, tmp_path / "other.safetensors")
    write_tensors(tmp_path / "wide.safetensors", known | {"head.head.bias": torch.zeros(3)})
    with pytest.raises(WeightsError, match=r"1 misshapen \(head.head.bias\)"):
        begin_with(model, tmp_path / "wide.safetensors")


def test_a_chain_looks_at_the_weights_it_begins_with_before_anything_else(tmp_path):
    recipe = ToonRecipe(student_begin=str(tmp_path / "missing.safetensors"))
    with pytest.raises(WeightsError, match="There is no file"):
        train_toon(tmp_path / "run", recipe, print)
    (tmp_path / "torn.safetensors").write_bytes(b"no safetensors at all")
    with pytest.raises(WeightsError, match=r"torn\.safetensors"):
        train_toon(tmp_path, ToonRecipe(student_begin=str(tmp_path / "torn.safetensors")), print)


def test_a_track_that_never_moves_is_no_number_to_divide_by(pool, tmp_path):
    clips = pool.take(range(4))
    still = attrs.evolve(clips, motions=torch.zeros_like(clips.motions))
    probe = train_motion_probe(tmp_path / "probe", still, steps=1)
    assert torch.isfinite(probe.normed(still.motions)).all() and torch.isfinite(probe.trust).all()


def test_clips_of_another_version_are_named(pool, tmp_path):
    write_tensors(tmp_path / "00000000.safetensors", {"latents": torch.zeros(1)})
    with pytest.raises(WeightsError, match=r"holds latents; clips have drives, latents.*delete"):
        LatentPool(tmp_path)
