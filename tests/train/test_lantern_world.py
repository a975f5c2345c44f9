"""The lamp world for long streams: what is drawn has the laws it is said to have."""

import pytest
import torch
from af_train.ablation.lamp_scores import correlations, statistics
from af_train.worlds.lantern import (
    AHEAD,
    LAMP_STD,
    MOOD_MEMORY,
    MOOD_STD,
    LanternWorld,
    paint,
    read,
)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def batch(one_thread):
    return LanternWorld(200).draw(range(200))


def test_a_clip_follows_from_its_seed():
    one, again = LanternWorld(8).draw([5, 6]), LanternWorld(8).draw([6])
    assert torch.equal(one.clip[1], again.clip[0]) and torch.equal(one.rows[1], again.rows[0])
    assert not torch.equal(one.clip[0], one.clip[1])


def test_frames_read_as_wall_lamp_and_mood(batch):
    seen = read(batch.clip)
    wall = batch.portrait.mean((3, 4))
    assert torch.allclose(seen.colour, wall.expand_as(seen.colour), atol=1e-6)
    assert seen.lamp.std().item() == pytest.approx(LAMP_STD, rel=0.05)
    assert seen.mood.std().item() == pytest.approx(MOOD_STD, rel=0.05)


def test_the_lamp_answers_the_voice_now_and_of_two_frames_to_come(batch):
    lamp, voice = read(batch.clip).lamp, batch.rows[:, ::4, 0]
    expected = sum(w * voice[:, i : 198 + i] for i, w in enumerate(AHEAD)) * LAMP_STD
    assert torch.allclose(lamp[:, :198], expected, atol=1e-5)
    known_now = correlations(lamp[:, :198], voice[:, :198]).mean().item()
    assert known_now == pytest.approx(AHEAD[0], abs=0.02)  # the most that a causal student can do


def test_the_mood_remembers_and_is_foretold_by_nothing_else(batch):
    seen = read(batch.clip)
    follow = correlations(seen.mood[:, 1:].reshape(1, -1), seen.mood[:, :-1].reshape(1, -1))
    assert follow.item() == pytest.approx(MOOD_MEMORY, abs=0.01)
    voice = batch.rows[:, ::4, 0]
    assert correlations(seen.mood, voice).mean().abs().item() < 0.02


def test_the_truth_scores_as_perfect_and_what_is_spoilt_does_not(batch):
    latency = [0.1]
    columns, more, _ = statistics([batch.clip], batch.clip, latency)
    score = {n: s.under(torch.ones(1, 200).numpy()) for n, s in {**columns, **more}.items()}
    assert score["csim"] == pytest.approx(1) and score["csim_last"] == pytest.approx(1)
    for name in ("delta_e", "adj_lpips", "sync_d"):
        assert score[name] == pytest.approx(0, abs=1e-5)
    assert abs(score["fid"]) < 1e-5 and score["sync_c"] == pytest.approx(1)
    assert score["jump"] == pytest.approx(1, rel=0.03) and score["lamp"] == pytest.approx(1, 0.05)
    drifting = batch.clip + torch.linspace(0, 0.5, 200)[:, None, None, None]
    spoilt, _, tracks = statistics([drifting], batch.clip, latency)
    found = {n: s.under(torch.ones(1, 200).numpy()) for n, s in spoilt.items()}
    assert found["csim_last"] < found["csim"] < 0.98
    assert found["delta_e_last"] > found["delta_e"] > 1
    assert found["sync_c"] == pytest.approx(1) and found["fid"] > 0.1
    assert list(tracks["csim"].values) == sorted(tracks["csim"].values, reverse=True)


def test_frames_are_painted_as_pictures():
    picture = paint(torch.zeros(2, 3, 2, 2), cell=4)
    assert picture.shape == (2, 8, 8, 3) and picture.unique().tolist() == [128]
