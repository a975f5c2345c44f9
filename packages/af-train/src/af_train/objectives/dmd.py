"""Distribution matching distillation on what the student streams (DMD; paper section 3.4).

The student moves so that the teacher finds its clips as likely as the critic does, who follows
what the student makes. Teacher and critic see whole clips, both ways in time; the portrait stands
before the clip, clean, as it did when the teacher was trained.
"""

from collections.abc import Sequence
from typing import Any

import attrs
import torch
from af_core.anchors.dual_anchor import DualAnchorCache
from af_core.geometry import Geometry
from af_core.stages.noise_schedule import NoiseSchedule
from af_core.stages.window_scheduler import WindowScheduler
from af_core.streaming import Streamer
from torch import Tensor

from af_train import draws
from af_train.batches import Batch
from af_train.coupling import read, tell
from af_train.guidance import Guidance
from af_train.levels import per_frame, score_sigmas
from af_train.masks import bidirectional
from af_train.networks import Networks, predict_clean, predict_velocity
from af_train.objectives.contract import CRITIC, STUDENT, TEACHER, Losses, Turn
from af_train.objectives.matching import (
    flow_loss,
    gradient_field,
    level_weights,
    matching_gradient,
)
from af_train.objectives.needs import conditions_of, element_weights, num_blocks
from af_train.objectives.options import DmdOptions
from af_train.reencode import Reencoder
from af_train.rollout import Rollout, roll_out, self_forcing


@attrs.frozen(eq=False)
class Scored:
    """A clip that is scored: all of a roll-out, or its end."""

    batch: Batch
    """What it is made from; its portrait is the picture before it."""
    clip: Tensor
    first: int
    """Frames of the roll-out before it."""
    told: Tensor | None = None
    """Numbers that the noise of its frames said, ``[b, f, n]``, if they count."""


def shortened(batch: Batch, blocks: int, block_latents: int) -> Batch:
    """Return the first blocks of what a batch is made from."""
    return attrs.evolve(
        batch, rows=batch.rows[:, : 4 * blocks * block_latents], clip=None, told=None
    )


@attrs.frozen(eq=False)
class Dmd:
    """Roll-outs by window, or block by block, scored by teacher and critic."""

    options: DmdOptions
    guidance: Guidance
    schedule: NoiseSchedule
    scheduler: WindowScheduler
    anchors: DualAnchorCache
    geometry: Geometry
    longer: Reencoder | None = None
    """What turns the picture before the scored end of a roll-out into a portrait."""
    made: dict[tuple[int, tuple[int, ...]], Scored] = attrs.field(factory=dict, init=False)
    """Clips that the critic will see again, by step and seeds; forgotten, they are made anew."""

    @property
    def roles(self) -> tuple[str, ...]:
        """See ``Objective.roles``."""
        return (STUDENT, CRITIC)

    @property
    def frozen(self) -> tuple[str, ...]:
        """See ``Objective.frozen``."""
        return (TEACHER,)

    def turns(self, step: int) -> Sequence[str]:
        """Return student and critic every ``critic_updates`` steps, the critic alone otherwise."""
        return (STUDENT, CRITIC) if step % self.options.critic_updates == 0 else (CRITIC,)

    def drawn_at(self, role: str, step: int) -> int:
        """Return the step whose roll-out the critic learns from; the student has not moved since.

        See ``objectives.contract.drawn_at``.
        """
        if role != CRITIC:
            return step
        since_student = step % self.options.critic_updates
        return step - since_student % self.options.critic_draws

    def backward(self, turn: Turn, networks: Networks, batch: Batch) -> Losses:
        """See ``Objective.backward``."""
        blocks = num_blocks(batch, self.geometry.block_latents)
        if self.options.least_blocks is not None:
            few = min(self.options.least_blocks, blocks)
            batch = shortened(batch, turn.choices.randint(few, blocks), self.geometry.block_latents)
        if turn.role == STUDENT:
            return self._student(turn, networks, batch)
        return self._critic(turn, networks, self._seen(turn, networks[STUDENT], batch))

    def _seen(self, turn: Turn, student: Any, batch: Batch) -> Scored:
        """Roll out, or recall what was rolled out for an update of the critic before this one."""
        drawn = self.drawn_at(turn.role, turn.step)
        for step, seeds in [*self.made]:
            if step != drawn:
                del self.made[step, seeds]
        found = self.made.get((drawn, batch.seeds))
        if found is None:
            found = self.end_of(batch, self.roll_out(turn, student, batch))
            if self.options.critic_draws > 1:
                self.made[drawn, batch.seeds] = found
        return found

    def end_of(self, batch: Batch, made: Rollout) -> Scored:
        """Return the part of a roll-out that is scored, and what it follows on."""
        scored = (self.options.scored_blocks or 0) * self.geometry.block_latents
        first, coupled = made.clip.shape[1] - scored, self.options.coupled
        told = read(made.first_noise(), coupled) if coupled else None
        if self.longer is None or first <= 0:
            return Scored(batch, made.clip, 0, told)
        portrait = self.longer.last_picture(made.emitted[:, :first], batch.portrait)
        rest = attrs.evolve(
            batch, portrait=portrait, rows=batch.rows[:, 4 * first :], clip=None, told=None
        )
        told = None if told is None else told[:, first:]
        return Scored(rest, made.clip[:, first:], first, told)

    def streamer(self, student: Any) -> Streamer[Any]:
        """Return the engine that serves users, its clean passes apart from those with gradients."""
        size = self.geometry.block_latents
        return Streamer(self.scheduler, student, self.anchors, size, fused=False)

    def roll_out(self, turn: Turn, student: Any, batch: Batch) -> Rollout:
        """Stream the clips of a batch: by window from a random offset, or with a random exit."""
        streamer, offset = self.streamer(student), turn.choices.randrange(self.scheduler.num_slots)
        exit_step = turn.choices.randrange(len(self.scheduler.timesteps))
        if turn.choices.random() < self.options.mix_self_forcing:
            streamer, offset = self_forcing(streamer, self.schedule, exit_step), 0
        given = conditions_of(batch)
        return roll_out(streamer, self.schedule, given, seeds=batch.seeds, offset=offset)

    def _student(self, turn: Turn, networks: Networks, batch: Batch) -> Losses:
        made = self.roll_out(turn, networks[STUDENT], batch)
        end = self.end_of(batch, made)
        noisy, sigma, _ = self._noised(turn, end)
        gradient = self._gradient(networks, end.batch, end.clip, noisy, sigma)
        frames = self._scored(end.clip)
        field = turn.share * gradient_field(gradient * element_weights(batch), frames)
        made.backward(torch.cat([torch.zeros_like(made.clip[:, : end.first]), field], 1), end.first)
        return {"loss": 0.5 * gradient[:, frames].square().mean()}

    @torch.no_grad()
    def _gradient(
        self, networks: Networks, batch: Batch, clip: Tensor, noisy: Tensor, sigma: Tensor
    ) -> Tensor:
        """Compare what critic and guided teacher take the noised clip for."""
        given, plan = conditions_of(batch), bidirectional(clip.shape[1])
        critic = predict_clean(networks[CRITIC], noisy, sigma, given, plan)
        teacher = self.guidance(
            lambda told: predict_clean(networks[TEACHER], noisy, sigma, told, plan), given
        )
        return matching_gradient(clip, critic, teacher)

    def _critic(self, turn: Turn, networks: Networks, seen: Scored) -> Losses:
        batch, clip = seen.batch, seen.clip
        noisy, sigma, noise = self._noised(turn, seen)
        given, plan = conditions_of(batch), bidirectional(noisy.shape[1])
        velocity = predict_velocity(networks[CRITIC], noisy, sigma, given, plan)
        frames = self._scored(clip)
        level = per_frame(sigma[:, frames], clip)
        weights = level_weights(level, self.options.errors_of) * element_weights(batch)
        loss = flow_loss(velocity[:, frames], clip[:, frames], noise[:, frames], weights)
        (turn.share * loss).backward()
        return {"loss": loss.detach()}

    def _noised(self, turn: Turn, seen: Scored) -> tuple[Tensor, Tensor, Tensor]:
        """Return the clip at one level for each sample, ``sigma [b, f]``, and the noise."""
        o, batch, clip = self.options, seen.batch, seen.clip
        again = turn.step - self.drawn_at(turn.role, turn.step)
        u = draws.uniform(batch.seeds, f"score level{again or ''}")
        sigma = score_sigmas(u, o.shift, o.lowest, o.highest)[:, None].expand(clip.shape[:2])
        sigma, noise = sigma.to(clip), draws.normal(batch.seeds, f"score noise{again or ''}", clip)
        noise = tell(noise, seen.told)
        level = per_frame(sigma, clip)
        return (1 - level) * clip + level * noise, sigma, noise

    def _scored(self, clip: Tensor) -> Tensor:
        """Return which frames count, booleans ``[f]``."""
        frames = torch.arange(clip.shape[1], device=clip.device)
        return frames >= self.options.skip_blocks * self.geometry.block_latents
