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
from af_train.rollout import Rollout, roll_out, self_forcing


@attrs.frozen(eq=False)
class Dmd:
    """Roll-outs by window, or block by block, scored by teacher and critic."""

    options: DmdOptions
    guidance: Guidance
    schedule: NoiseSchedule
    scheduler: WindowScheduler
    anchors: DualAnchorCache
    geometry: Geometry
    made: dict[tuple[int, tuple[int, ...]], Tensor] = attrs.field(factory=dict, init=False)
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
        num_blocks(batch, self.geometry.block_latents)
        if turn.role == STUDENT:
            return self._student(turn, networks, batch)
        return self._critic(turn, networks, batch, self._clip(turn, networks[STUDENT], batch))

    def _clip(self, turn: Turn, student: Any, batch: Batch) -> Tensor:
        """Roll out, or recall what was rolled out for an update of the critic before this one."""
        drawn = self.drawn_at(turn.role, turn.step)
        for step, seeds in [*self.made]:
            if step != drawn:
                del self.made[step, seeds]
        clip = self.made.get((drawn, batch.seeds))
        if clip is None:
            clip = self.roll_out(turn, student, batch).clip
            if self.options.critic_draws > 1:
                self.made[drawn, batch.seeds] = clip
        return clip

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
        noisy, sigma, _ = self._noised(turn, batch, made.clip)
        gradient = self._gradient(networks, batch, made.clip, noisy, sigma)
        frames = self._scored(made.clip)
        made.backward(turn.share * gradient_field(gradient, frames))
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

    def _critic(self, turn: Turn, networks: Networks, batch: Batch, clip: Tensor) -> Losses:
        noisy, sigma, noise = self._noised(turn, batch, clip)
        given, plan = conditions_of(batch), bidirectional(noisy.shape[1])
        velocity = predict_velocity(networks[CRITIC], noisy, sigma, given, plan)
        frames = self._scored(clip)
        level = per_frame(sigma[:, frames], clip)
        weights = level_weights(level, self.options.errors_of) * element_weights(batch)
        loss = flow_loss(velocity[:, frames], clip[:, frames], noise[:, frames], weights)
        (turn.share * loss).backward()
        return {"loss": loss.detach()}

    def _noised(self, turn: Turn, batch: Batch, clip: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the clip at one level for each sample, ``sigma [b, f]``, and the noise."""
        o, again = self.options, turn.step - self.drawn_at(turn.role, turn.step)
        u = draws.uniform(batch.seeds, f"score level{again or ''}")
        sigma = score_sigmas(u, o.shift, o.lowest, o.highest)[:, None].expand(clip.shape[:2])
        sigma, noise = sigma.to(clip), draws.normal(batch.seeds, f"score noise{again or ''}", clip)
        level = per_frame(sigma, clip)
        return (1 - level) * clip + level * noise, sigma, noise

    def _scored(self, clip: Tensor) -> Tensor:
        """Return which frames count, booleans ``[f]``."""
        frames = torch.arange(clip.shape[1], device=clip.device)
        return frames >= self.options.skip_blocks * self.geometry.block_latents
