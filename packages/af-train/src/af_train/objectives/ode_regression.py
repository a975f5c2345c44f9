"""ODE regression: the student goes from a state of a teacher's trajectory to its end in one step.

The loss is the mean squared error of clean estimates, unweighted over levels. What the student may
see is a plan of the engine, so what is learnt is what will be streamed.
"""

from collections.abc import Callable, Sequence

import attrs
import torch
from af_core.anchors.dual_anchor import DualAnchorCache
from af_core.geometry import Geometry
from af_core.stages.denoiser import Plan
from af_core.stages.window_scheduler import WindowScheduler
from torch import Tensor

from af_train import draws
from af_train.batches import Batch
from af_train.levels import per_frame
from af_train.masks import block_causal, over_clean_past
from af_train.networks import Conditions, Networks, Trainable, predict_clean
from af_train.objectives.contract import STUDENT, Losses, Turn
from af_train.objectives.needs import element_weights, num_blocks, states_of
from af_train.objectives.options import BelowTop


@attrs.frozen(eq=False)
class Task:
    """What one pass of the student is asked: these frames, at these levels, to that end."""

    noisy: Tensor
    """``[b, f, c, h, w]``."""
    rung: Tensor
    """``[b, f]``."""
    target: Tensor
    """``[b, f, c, h, w]``."""
    plan: Plan
    past: Tensor
    """Clean frames before them, ``[b, p, c, h, w]``, p >= 0."""


@attrs.frozen(eq=False)
class OdeRegression:
    """One student, and a way to cut tasks from trajectories."""

    cut: Callable[["OdeRegression", Turn, Batch, Tensor], Task]
    scheduler: WindowScheduler
    anchors: DualAnchorCache
    geometry: Geometry
    below_top: BelowTop = "trajectory"

    @property
    def roles(self) -> tuple[str, ...]:
        """See ``Objective.roles``."""
        return (STUDENT,)

    @property
    def frozen(self) -> tuple[str, ...]:
        """See ``Objective.frozen``."""
        return ()

    def turns(self, step: int) -> Sequence[str]:
        """See ``Objective.turns``."""
        return self.roles

    def backward(self, turn: Turn, networks: Networks, batch: Batch) -> Losses:
        """See ``Objective.backward``."""
        task = self.cut(self, turn, batch, states_of(batch, len(self.scheduler.timesteps)))
        sigma = self.scheduler.sigmas[task.rung].to(task.noisy)
        clean = estimate(networks[STUDENT], batch, task, sigma)
        loss = ((clean - task.target).square() * element_weights(batch)).mean()
        (turn.share * loss).backward()
        return {"loss": loss.detach()}


def block_causal_task(o: OdeRegression, turn: Turn, batch: Batch, states: Tensor) -> Task:
    """Every block at a rung of its own, over the noisy past (CausVid, Self-Forcing)."""
    size, rungs = o.geometry.block_latents, len(o.scheduler.timesteps)
    blocks = num_blocks(batch, size)
    rung = draws.integers(batch.seeds, "rung", rungs, blocks).repeat_interleave(size, 1)
    plan = block_causal(o.anchors, blocks, size)
    noisy = standing(o, batch, states, rung)
    return Task(noisy, rung, states[:, -1], plan, states[:, -1, :0])


def window_task(o: OdeRegression, turn: Turn, batch: Batch, states: Tensor) -> Task:
    """One window of a stream, N rungs apart, over the clean past: the student's own task."""
    size, rungs = o.geometry.block_latents, len(o.scheduler.timesteps)
    slots, passes = o.scheduler.num_slots, o.scheduler.num_passes
    blocks = num_blocks(batch, size)
    window = turn.choices.randrange(blocks + slots - 1)
    done = turn.choices.randrange(passes)
    first, last = max(0, window - slots + 1), min(blocks - 1, window)
    ages = [window - block for block in range(first, last + 1)]
    rung = torch.tensor([rungs - 1 - passes * age - done for age in ages])
    rung = rung.repeat_interleave(size).expand(len(batch), -1)
    frames, end = slice(first * size, (last + 1) * size), states[:, -1]
    plan = over_clean_past(o.anchors, first, len(ages), size)
    noisy = standing(o, batch, states[:, :, frames], rung)
    return Task(noisy, rung, end[:, frames], plan, end[:, : frames.start])


def teacher_forced_task(o: OdeRegression, turn: Turn, batch: Batch, states: Tensor) -> Task:
    """One block over the true past, one rung for each clip (Causal Forcing, 2b).

    The past is the clip that the causal teacher had, if the store kept it, else its own end state.
    """
    size, rungs = o.geometry.block_latents, len(o.scheduler.timesteps)
    block = turn.choices.randrange(num_blocks(batch, size))
    frames = slice(block * size, (block + 1) * size)
    rung = draws.integers(batch.seeds, "rung", rungs, 1).expand(-1, size)
    truth = states[:, -1] if batch.clip is None else batch.clip
    plan = over_clean_past(o.anchors, block, 1, size)
    noisy = at_rungs(states[:, :, frames], rung)
    return Task(noisy, rung, states[:, -1, frames], plan, truth[:, : frames.start])


TASKS = {
    "block_causal": block_causal_task,
    "window": window_task,
    "teacher_forced": teacher_forced_task,
}


def standing(o: OdeRegression, batch: Batch, states: Tensor, rung: Tensor) -> Tensor:
    """Return what stands at ``rung [b, f]``: states, or fresh noise on the end below the top."""
    noisy = at_rungs(states, rung)
    if o.below_top == "trajectory":
        return noisy
    end, level = states[:, -1], per_frame(o.scheduler.sigmas[rung], noisy)
    fresh = (1 - level) * end + level * draws.normal(batch.seeds, "fresh noise", end)
    is_top = per_frame(rung == len(o.scheduler.timesteps) - 1, noisy).bool()
    return torch.where(is_top, noisy, fresh)


def at_rungs(states: Tensor, rung: Tensor) -> Tensor:
    """Take frame ``f`` of ``states [b, s, f, ...]`` at ``rung [b, f]``; rung 0 is next to clean.

    States run from noise to the clean end, so rung r is state s - 2 - r.
    """
    index = (states.shape[1] - 2 - rung).to(states.device)
    where = index[:, None, :, None, None, None].expand(-1, 1, -1, *states.shape[3:])
    return states.gather(1, where)[:, 0]


def estimate(student: Trainable, batch: Batch, task: Task, sigma: Tensor) -> Tensor:
    """Return the student's clean estimate of the noisy frames, its past before them."""
    inputs = torch.cat([task.past, task.noisy], dim=1)
    levels = torch.cat([sigma.new_zeros(task.past.shape[:2]), sigma], dim=1)
    heard = batch.rows[:, : 4 * inputs.shape[1]]
    given = Conditions(batch.portrait, heard, batch.text)
    return predict_clean(student, inputs, levels, given, task.plan)
