"""Flow matching: v(x_sigma) = eps - x_0, for the bidirectional teacher and by diffusion forcing.

Diffusion forcing gives each block a level of its own over the noisy past (Live Avatar, stage 1).
All levels weigh alike: the published bump would give the top rung no weight at all.
"""

from collections.abc import Sequence

import attrs
import torch
from af_core.anchors.dual_anchor import DualAnchorCache
from af_core.stages.denoiser import Plan
from torch import Tensor

from af_train import draws
from af_train.batches import Batch
from af_train.coupling import tell
from af_train.levels import logit_normal, per_frame, shifted
from af_train.masks import bidirectional, block_causal
from af_train.networks import Conditions, Networks, predict_velocity
from af_train.objectives.contract import Losses, Turn
from af_train.objectives.matching import flow_loss, level_weights
from af_train.objectives.needs import clip_of, element_weights, num_blocks
from af_train.objectives.options import FlowMatchingOptions


@attrs.frozen(eq=False)
class FlowMatching:
    """Bidirectional with one level for all frames; over ``causal`` anchors, a level per block."""

    options: FlowMatchingOptions
    block_latents: int
    causal: DualAnchorCache | None = None
    negative: Tensor | None = None
    """What is read where the prompt is dropped, ``[1, token, d]``; None reads zeros."""

    @property
    def roles(self) -> tuple[str, ...]:
        """See ``Objective.roles``."""
        return (self.options.trains,)

    @property
    def frozen(self) -> tuple[str, ...]:
        """See ``Objective.frozen``."""
        return ()

    def turns(self, step: int) -> Sequence[str]:
        """See ``Objective.turns``."""
        return self.roles

    def backward(self, turn: Turn, networks: Networks, batch: Batch) -> Losses:
        """See ``Objective.backward``."""
        clean, plan, sigma = clip_of(batch), *self._task(batch)
        sigma = sigma.to(clean)
        noise = tell(draws.normal(batch.seeds, "noise", clean), batch.told)
        level = per_frame(sigma, clean)
        noisy, given = (
            (1 - level) * clean + level * noise,
            dropped(self.options, batch, self.negative),
        )
        velocity = predict_velocity(networks[turn.role], noisy, sigma, given, plan)
        weights = level_weights(level, self.options.errors_of) * element_weights(batch)
        loss = flow_loss(velocity, clean, noise, weights)
        (turn.share * loss).backward()
        return {"loss": loss.detach()}

    def _task(self, batch: Batch) -> tuple[Plan, Tensor]:
        """Return who sees whom, and the level of each frame ``[b, f]``."""
        if self.causal is None:
            sigma = draw_levels(self.options, batch.seeds, 1)
            return bidirectional(batch.num_frames), sigma.expand(-1, batch.num_frames)
        blocks = num_blocks(batch, self.block_latents)
        sigma = draw_levels(self.options, batch.seeds, blocks)
        plan = block_causal(self.causal, blocks, self.block_latents)
        return plan, sigma.repeat_interleave(self.block_latents, 1)


def draw_levels(options: FlowMatchingOptions, seeds: Sequence[int], count: int) -> Tensor:
    """Draw levels ``[b, count]`` by the law of the options."""
    if options.levels == "uniform":
        sigma = shifted(draws.uniform(seeds, "level", count), options.shift)
    else:
        like = torch.empty(len(seeds), count)
        sigma = logit_normal(draws.normal(seeds, "level", like), options.shift)
    return sigma.clamp_min(options.lowest)


def dropped(
    options: FlowMatchingOptions, batch: Batch, negative: Tensor | None = None
) -> Conditions:
    """Take audio from some samples and prompts from some, independently, for guidance.

    ``negative [1, token, d]`` is read instead of a prompt that was taken; None reads zeros.
    """
    keeps = draws.uniform(batch.seeds, "drop", 2) >= torch.tensor(
        [options.audio_dropout, options.text_dropout]
    )
    hears, reads = keeps.to(batch.rows.device).unbind(1)
    text = batch.text
    if text is not None:
        blank = text.new_zeros(()) if negative is None else negative.to(text)
        text = torch.where(reads[:, None, None], text.expand(len(batch), -1, -1), blank)
    return Conditions(batch.portrait, batch.rows * hears[:, None, None].to(batch.rows), text)
