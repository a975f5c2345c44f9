"""Trajectories: Euler against closed forms, stores that refuse what they are not."""

import attrs
import pytest
import tiny_training as t
import tiny_wan as tiny
import torch
from af_core.anchors.dual_anchor import DualAnchorCache
from af_core.weights.files import read_metadata
from af_train.backfill import Backfill, BackfillConfig, weights_hash
from af_train.levels import GridError, euler_grid, grid_indices
from af_train.ode_store import StoreError, TrajectoryStore, noise_of, read_header
from af_train.trajectories import trajectory
from msgspec.structs import replace
from safetensors.torch import load_file, save_file

pytestmark = pytest.mark.usefixtures("one_thread")

LADDER = tuple(5 * u / (1 + 4 * u) for u in (1, 0.8, 0.4, 0.2))
CONFIG = BackfillConfig(num_clips=7, num_steps=5, batch_size=2, clips_per_shard=3)


def job(seed=0, config=CONFIG, ladder=LADDER, source=None, **network):
    teacher = tiny.make(layers=2, seed=seed, **network)
    return Backfill(teacher, source or t.Clips(), ladder, config, DualAnchorCache(), t.BLOCK)


def test_a_straight_field_ends_where_one_step_from_any_state_ends():
    g = torch.Generator().manual_seed(0)
    end, noise = torch.randn(2, 3, 2, 1, 2, 2, generator=g).double().unbind(0)
    grid = euler_grid(50, 5)
    keep = grid_indices(LADDER, 50, 5)
    states = trajectory(lambda x, sigma: noise - end, noise, grid, keep)
    torch.testing.assert_close(states[:, -1], end)
    for sigma, state in zip(LADDER, states.unbind(1)):
        torch.testing.assert_close(state - sigma * (noise - end), end)
        torch.testing.assert_close(state, (1 - sigma) * end + sigma * noise)


def test_trajectories_of_a_gaussian_approach_the_exact_flow():
    mean, std = 1.0, 0.5

    def velocity(x, sigma):
        spread = (1 - sigma) ** 2 * std**2 + sigma**2
        clean = mean + (1 - sigma) * std**2 / spread * (x - (1 - sigma) * mean)
        return (x - clean) / sigma

    noise = torch.linspace(-2, 2, 9, dtype=torch.float64).view(9, 1, 1, 1, 1)
    exact = mean + std * noise
    errors = [
        (trajectory(velocity, noise, euler_grid(n, 1.0), (0,))[:, -1] - exact).abs().max().item()
        for n in (50, 100, 200)
    ]
    assert errors[2] < 0.02 and errors[0] > 1.8 * errors[1] > 3.2 * errors[2], "first order"


def test_from_a_kept_state_the_remaining_steps_reach_the_same_end_bit_for_bit():
    made, batch = job(), t.Clips().draw((1, 2))
    states, grid = made.states(batch), euler_grid(5, 5)
    assert states.shape == (2, 5, t.FRAMES, 3, 4, 8)
    for state, index in zip(states.unbind(1), grid_indices(LADDER, 5, 5)):
        rest = grid[index:]
        with torch.no_grad():
            end = trajectory(made._velocity(batch), state, rest, ())[:, -1]
        assert torch.equal(end, states[:, -1])


def test_guidance_of_one_asks_the_teacher_once_and_more_moves_the_end():
    batch = t.Clips().draw((1, 2))
    ends = [
        job(config=BackfillConfig(num_steps=5, guidance_weight=w)).states(batch)[:, -1]
        for w in (1.0, 2.0)
    ]
    assert (ends[0] - ends[1]).abs().max() > 1e-3


def test_halved_precision_is_that_of_products_and_moves_ends_a_little():
    batch = t.Clips().draw((1, 2))
    whole, halved = (
        job(config=replace(CONFIG, precision=p)).states(batch) for p in ("float32", "bfloat16")
    )
    assert halved.dtype == torch.float32 and torch.equal(halved[:, 0], whole[:, 0])
    off = (halved - whole)[:, -1].square().mean() / whole[:, -1].square().mean()
    assert 0 < off < 1e-3


def test_a_causal_teacher_sees_no_later_block_of_the_truth():
    config = BackfillConfig(num_steps=5, mask="teacher_forced")
    batch = t.Clips().draw((1, 2))
    states = job(config=config).states(batch)
    other = batch.clip.clone()
    other[:, t.BLOCK : 2 * t.BLOCK] += 1
    moved = job(config=config).states(attrs.evolve(batch, clip=other)) - states
    reached = moved.abs().amax((0, 1, 3, 4, 5)) > 1e-6
    assert reached.tolist() == [False] * 2 * t.BLOCK + [True] * (t.FRAMES - 2 * t.BLOCK)


@pytest.mark.parametrize("text", [True, False])
def test_what_is_written_is_read(tmp_path, text):
    made = job(source=t.Clips(text), text=text)
    paths = [*made.run(tmp_path)]
    assert [len(read_header(p).samples(i)) for i, p in enumerate(paths)] == [3, 3, 1]
    store = TrajectoryStore.open(
        tmp_path, teacher=weights_hash(made.teacher), sigmas=(*LADDER, 0.0)
    )
    assert len(store) == 7
    found = store.draw(range(40))
    assert found.states.shape == (40, 5, t.FRAMES, 3, 4, 8) and found.states.dtype == torch.float32
    seeds = load_file(paths[1])["seeds"].tolist()
    again = made.source.draw(seeds)
    truth = made.states(again)
    read = torch.stack([store._read(3 + i)["states"] for i in range(3)])
    torch.testing.assert_close(read, truth, atol=2e-3, rtol=1e-3)
    assert torch.equal(read[:, 0], noise_of(seeds, truth[:, 0])), "noise is exact"
    torch.testing.assert_close(store._read(3)["rows"], again.rows[0], atol=2e-3, rtol=1e-3)
    assert (found.text is not None) == text


def test_any_number_of_workers_makes_the_same_store(tmp_path):
    alone = [*job().run(tmp_path / "one")]
    for rank in (1, 0):
        made = [*job().run(tmp_path / "two", rank, 2)]
        assert len(made) == (2 if rank == 0 else 1)
    for path in alone:
        twin = load_file(tmp_path / "two" / path.name)
        for name, value in load_file(path).items():
            assert torch.equal(twin[name], value), name


def test_a_stopped_backfill_goes_on_and_touches_nothing_that_is_there(tmp_path):
    run = job().run(tmp_path)
    first = next(run)
    stamp = first.stat().st_mtime_ns
    with pytest.raises(StoreError, match="1 of 3 shards, the first missing is 1"):
        TrajectoryStore.open(tmp_path)
    heard = []
    assert len([*job().run(tmp_path, advance=heard.append)]) == 3
    assert sum(heard) == 7 and first.stat().st_mtime_ns == stamp
    TrajectoryStore.open(tmp_path)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"seed": 1}, "teacher"),
        ({"config": BackfillConfig(7, 5, 5.0, 3.0, clips_per_shard=3)}, "guidance_weight: 1.5"),
        ({"config": BackfillConfig(7, 10, clips_per_shard=3)}, "num_steps: 5, not 10"),
        ({"config": replace(CONFIG, precision="bfloat16")}, "precision"),
        ({"ladder": LADDER[:3]}, "sigmas"),
    ],
)
def test_a_store_that_was_made_otherwise_is_refused(tmp_path, other, said):
    next(job().run(tmp_path))
    with pytest.raises(StoreError, match=said):
        next(job(**other).run(tmp_path))


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"teacher": "0" * 64}, "teacher"),
        ({"shift": 8.0}, "shift: 5.0, not 8.0"),
        ({"sigmas": (1.0, 0.5, 0.0)}, "sigmas"),
        ({"guidance_weight": 1.0}, "guidance_weight"),
    ],
)
def test_training_refuses_a_store_of_another_teacher_shift_or_grid(tmp_path, wanted, said):
    [*job().run(tmp_path)]
    with pytest.raises(StoreError, match=said):
        TrajectoryStore.open(tmp_path, **wanted)


def test_a_ladder_off_the_grid_is_refused_before_anything_is_made(tmp_path):
    with pytest.raises(GridError):
        next(job(config=BackfillConfig(num_steps=48)).run(tmp_path))
    assert not [*tmp_path.iterdir()]


def test_files_that_are_no_store_are_named(tmp_path):
    with pytest.raises(StoreError, match="No trajectories"):
        TrajectoryStore.open(tmp_path)
    save_file({"x": torch.zeros(1)}, tmp_path / "trajectories-000000.safetensors")
    with pytest.raises(StoreError, match="holds no trajectories"):
        TrajectoryStore.open(tmp_path)


def test_a_generator_that_draws_other_numbers_is_noticed(tmp_path):
    path = list(job().run(tmp_path))[-1]
    tensors = load_file(path)
    tensors["probe"] += 1
    save_file(tensors, path, read_metadata(path))
    with pytest.raises(StoreError, match="draws other numbers"):
        TrajectoryStore.open(tmp_path)._read(6)


def test_the_hash_of_a_teacher_sees_every_weight():
    model = tiny.make(layers=1)
    before = weights_hash(model)
    assert before == weights_hash(tiny.make(layers=1))
    with torch.no_grad():
        model.head.head.bias[0] += 1e-6
    assert weights_hash(model) != before
