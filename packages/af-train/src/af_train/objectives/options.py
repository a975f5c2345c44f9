"""Options of the objectives; no torch, so that plugins are listed without it."""

from typing import Any, Literal

import msgspec
from af_core.errors import ConfigError
from af_core.plugins import BuildContext

ErrorsOf = Literal["velocity", "clean"]
BelowTop = Literal["trajectory", "renoised"]


class FlowMatchingOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The bidirectional teacher: one level for the whole clip, everything sees everything."""

    trains: str = "teacher"
    """Role whose weights move."""
    shift: float = 5.0
    """k of the shift map S_k."""
    levels: Literal["uniform", "logit_normal"] = "uniform"
    """Law of the level before the shift."""
    lowest: float = 0.0
    """No level is cleaner than this; above 0 for networks that predict x0."""
    errors_of: ErrorsOf = "velocity"
    """What is compared: velocities, as published, or clean estimates, for networks that predict
    x_0 (``matching.level_weights``)."""
    audio_dropout: float = 0.15
    """Share of samples that hear nothing, for guidance; rows of zeros."""
    text_dropout: float = 0.1
    """Share of samples without a prompt, independent of the above."""
    negative_prompt: str | None = None
    """What samples without a prompt read; None reads zeros. Guidance must name the same."""

    def __post_init__(self) -> None:
        """Refuse shares and levels that cannot be."""
        for name in ("audio_dropout", "text_dropout", "lowest"):
            _require_share(name, getattr(self, name))

    def build(self, context: BuildContext) -> Any:
        """Build the objective."""
        from af_train.objectives.flow_matching import FlowMatching

        negative = _negative(context, self.negative_prompt)
        return FlowMatching(self, context.geometry.block_latents, negative=negative)


class DiffusionForcingOptions(FlowMatchingOptions, frozen=True, forbid_unknown_fields=True):
    """The causal teacher or student: every block at a level of its own, over the noisy past."""

    trains: str = "student"

    def build(self, context: BuildContext) -> Any:
        """Build the objective over the pipeline's anchor cache."""
        from af_train.objectives.flow_matching import FlowMatching

        size, negative = context.geometry.block_latents, _negative(context, self.negative_prompt)
        return FlowMatching(self, size, stage(context, "anchor_cache"), negative)


class OdeRegressionOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Stage 1: from any state of a teacher's trajectory straight to its end."""

    mask: Literal["block_causal", "window"] = "block_causal"
    """``block_causal``: every block at a rung of its own over the noisy past, as published.
    ``window``: one window of a stream, one rung apart, over the clean past."""
    below_top: BelowTop = "trajectory"
    """What stands on the rungs below the top: states of the trajectory, as published, or its end
    under fresh noise (``renoised``), as a stream that adds fresh noise has them."""

    def build(self, context: BuildContext) -> Any:
        """Build the objective over the pipeline's window scheduler and anchor cache."""
        return _regression(self.mask, context, self.below_top)


class CausalOdeOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Causal Forcing's stage 1: trajectories of a causal teacher, one block over the true past."""

    def build(self, context: BuildContext) -> Any:
        """Build the objective over the pipeline's window scheduler and anchor cache."""
        return _regression("teacher_forced", context)


class DmdOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Stage 2: distribution matching on what the student streams."""

    guidance_weight: float = 1.5
    """w of u + w (c - u) for the teacher; 1 is no guidance. Published code with scale g has
    w = 1 + g."""
    text_guidance_weight: float | None = None
    """w of the prompt, if it is another than that of the voice; then a score takes three passes."""
    negative_prompt: str | None = None
    """What the teacher reads where there is no prompt; None reads zeros."""
    critic_updates: int = 5
    """Updates of the critic for each one of the student. A step is one of the critic."""
    critic_draws: int = 1
    """Updates of the critic that learn from one roll-out, at levels and with noise of their own.
    Published code makes a roll-out for each; more than ``critic_updates`` changes nothing."""
    mix_self_forcing: float = 0.5
    """Share of roll-outs that are block by block with a random exit, instead of by window."""
    shift: float = 5.0
    """k of the shift map that draws the level at which scores are compared."""
    lowest: float = 0.02
    """Levels of comparison are clamped from below ..."""
    highest: float = 0.98
    """... and from above."""
    scored_blocks: int | None = None
    """Blocks at the end of a longer roll-out that are scored, the picture before them in place of
    the portrait; None scores all. What teacher and critic were trained for: 5 of the published."""
    least_blocks: int | None = None
    """Blocks of the shortest roll-out, drawn from there to what a batch has; None takes all."""
    errors_of: ErrorsOf = "velocity"
    """What the critic's loss compares, as for its teacher."""
    skip_blocks: int = 0
    """Leading blocks of a clip that are not scored."""
    coupled: int = 0
    """Numbers that the noise of a clip says (``coupling``), for a teacher that learned from such
    noise: clips of the student are scored under noise that says what their own noise said."""

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        for name in ("mix_self_forcing", "lowest", "highest"):
            _require_share(name, getattr(self, name))
        counts = min(self.critic_updates, self.critic_draws)
        if min(self.scored_blocks or 1, self.least_blocks or 1) < 1:
            raise ConfigError("scored_blocks and least_blocks must be at least 1, or null.")
        if counts < 1 or min(self.skip_blocks, self.coupled) < 0 or self.lowest <= 0:
            raise ConfigError(
                f"critic_updates={self.critic_updates} and critic_draws={self.critic_draws} must "
                f"be at least 1, skip_blocks={self.skip_blocks} and coupled={self.coupled} at "
                f"least 0 and lowest={self.lowest} above 0."
            )

    def build(self, context: BuildContext) -> Any:
        """Build the objective over the pipeline's schedule, window scheduler and anchor cache."""
        from af_train.guidance import guidance_of
        from af_train.objectives.dmd import Dmd

        longer = None
        if self.scored_blocks is not None:
            from af_train.reencode import Reencoder

            longer = Reencoder(stage(context, "decoder"), stage(context, "image_encoder"))
        weights = self.guidance_weight, self.text_guidance_weight
        return Dmd(
            self,
            guidance_of(context, *weights, self.negative_prompt),
            stage(context, "noise_schedule"),
            stage(context, "window_scheduler"),
            stage(context, "anchor_cache"),
            context.geometry,
            longer,
        )


class SelfForcingOptions(DmdOptions, frozen=True, forbid_unknown_fields=True):
    """The baseline: distribution matching on block-by-block roll-outs alone."""

    mix_self_forcing: float = 1.0


def stage(context: BuildContext, kind: str) -> Any:
    """Return a stage of the pipeline that is trained; ``ConfigError`` if it has none."""
    if kind not in context.stages:
        there = ", ".join(context.stages) or "none"
        raise ConfigError(f"This objective needs a {kind} in context.stages; there is: {there}.")
    return context.stages[kind]


def _regression(mask: str, context: BuildContext, below_top: BelowTop = "trajectory") -> Any:
    from af_train.objectives.ode_regression import TASKS, OdeRegression

    scheduler, anchors = stage(context, "window_scheduler"), stage(context, "anchor_cache")
    return OdeRegression(TASKS[mask], scheduler, anchors, context.geometry, below_top)


def _negative(context: BuildContext, prompt: str | None) -> Any:
    from af_train.guidance import encoded_prompt

    return encoded_prompt(context, prompt)


def _require_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ConfigError(f"{name}={value:g} lies outside 0 to 1.")
