"""Facts that hold for every size of window and clip, and where the losses have their minimum."""

import attrs
import pytest
import tiny_training as t
import torch
from af_core.anchors.config import DualAnchorConfig
from af_core.anchors.dual_anchor import DualAnchorCache
from af_core.schedules.config import RectifiedFlowConfig
from af_core.schedules.rectified_flow import RectifiedFlow
from af_core.streaming import Streamer
from af_core.windows.config import LocalFutureConfig
from af_core.windows.local_future import LocalFutureScheduler
from af_train.objectives.contract import STUDENT
from af_train.objectives.dmd import Scored
from af_train.objectives.matching import flow_loss

pytestmark = pytest.mark.usefixtures("one_thread")


@attrs.define
class Watcher:
    """A denoiser that says nothing and writes down the levels of every pass that predicts."""

    passes: list = attrs.field(factory=list)
    audio_dim = 1

    def open(self, portrait, text=None):
        return portrait

    def allocate(self, conditions, num_slots):
        return None

    def embed_audio(self, rows):
        return rows.new_zeros(len(rows), rows.shape[1] // 4, 1, 1)

    def silence(self, num_streams):
        return torch.zeros(num_streams, 1, 1, 1)

    def modulation(self, timesteps):
        return tuple(timesteps.flatten().tolist())

    def recall_modulation(self, conditions, timesteps):
        return tuple(timesteps)

    def __call__(self, latents, modulation, audio, conditions, plan, memory):
        if plan.num_silent == len(plan.positions):
            return None
        self.passes.append(modulation[plan.num_silent :])
        return torch.zeros_like(latents[:, plan.num_silent :])


@pytest.mark.parametrize("slots", range(1, 9))
@pytest.mark.parametrize("passes", range(1, 5))
def test_every_block_comes_down_every_rung_once_in_any_window(slots, passes):
    rungs = slots * passes
    schedule = RectifiedFlow(RectifiedFlowConfig(levels=t.tiny.levels(rungs)))
    scheduler = LocalFutureScheduler(schedule, LocalFutureConfig(slots, passes))
    rank = {time: i for i, time in enumerate(scheduler.timesteps)}
    for blocks in range(1, 13):
        watcher = Watcher()
        engine = Streamer(scheduler, watcher, DualAnchorCache(DualAnchorConfig()), 1, fused=False)
        state = engine.open(torch.zeros(1, 1, 1, 1, 1), seeds=(0,))
        made = [*engine.stream(state, torch.zeros(1, 4 * blocks, 1).split(4, dim=1))]
        assert sum(part.shape[1] for part in made) == blocks
        seen = {block: [] for block in range(blocks)}
        for number, times in enumerate(watcher.passes):
            window = number // passes
            first = max(0, window - slots + 1)
            levels = [rank[time] for time in times]
            assert len(levels) <= slots and levels == sorted({*levels}), "rising to the right"
            for place, level in enumerate(levels):
                if first + place < blocks:
                    seen[first + place].append(level)
        assert all(levels == [*reversed(range(rungs))] for levels in seen.values())


def test_the_number_of_windows_with_gradients_follows_from_what_ranks_share():
    made = t.objective("dmd", t.context(slots=3), mix_self_forcing=0.5)
    student = t.networks("student")["student"]
    for step in range(6):
        counts = {
            len(made.roll_out(t.turn(STUDENT, step), student, t.batch(1, seed=rank)).windows)
            for rank in range(3)
        }
        assert len(counts) == 1


def test_scores_know_nothing_of_the_students_graph():
    made, batch = t.objective("dmd"), t.batch()
    networks = t.networks("student", "critic", "teacher")
    clip = batch.clip.clone().requires_grad_()
    noisy, sigma, _ = made._noised(t.turn(STUDENT), Scored(batch, clip, 0))
    gradient = made._gradient(networks, batch, clip, noisy, sigma)
    assert not gradient.requires_grad
    again = made._gradient(networks, batch, batch.clip, noisy.detach(), sigma)
    assert torch.equal(gradient, again)


@pytest.mark.parametrize("sigma", [0.2, 0.6, 0.95])
def test_a_critic_that_knows_the_posterior_mean_has_nothing_to_learn(sigma):
    mean, std = 1.0, 0.5
    g = torch.Generator().manual_seed(0)
    clean = mean + std * torch.randn(400_000, generator=g, dtype=torch.float64)
    noise = torch.randn(400_000, generator=g, dtype=torch.float64)
    noisy = (1 - sigma) * clean + sigma * noise
    variance = (1 - sigma) ** 2 * std**2 + sigma**2
    # v* = E[noise | noisy] - E[clean | noisy] = slope (noisy - (1 - sigma) mean) - mean
    slope = (sigma - (1 - sigma) * std**2) / variance
    best = torch.tensor([slope, -slope * (1 - sigma) * mean - mean], dtype=torch.float64)
    for off, moves in ((0.0, False), (0.1, True)):
        weights = (best + off).requires_grad_()
        loss = flow_loss(weights[0] * noisy + weights[1], clean, noise)
        (slopes,) = torch.autograd.grad(loss, weights)
        assert bool((slopes.abs() > 0.02).any()) == moves
