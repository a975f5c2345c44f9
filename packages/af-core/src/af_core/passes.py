"""What one line of Algorithm 1 takes: admitting a block, one pass of the network, fresh noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import attrs
import torch
from torch import Tensor

from af_core.errors import ConfigError, ShapeError, StageContractError
from af_core.geometry import TEMPORAL_STRIDE
from af_core.stages.anchor_cache import KeepsNoisy
from af_core.stages.window_scheduler import Emitted, Window, WindowScheduler

if TYPE_CHECKING:
    from af_core.stages.denoiser import Plan
    from af_core.stream_state import StreamState
    from af_core.streaming import Streamer

CLEAN = 0.0
"""Timestep of portrait and emitted blocks."""
CONTEXT_RUNG = -1
"""Names the noise of remembered blocks; the ladder's rungs are counted from 0."""


def empty_window(portrait: Tensor, silence: Tensor, block_latents: int) -> Window:
    """Return a window without blocks, for latents and audio vectors like these."""
    b = len(portrait)
    return Window(
        portrait.new_empty(b, 0, block_latents, *portrait.shape[2:]),
        silence.new_empty(b, 0, block_latents, *silence.shape[2:]),
    )


def one_seed_each(seeds: Sequence[int] | None, num_streams: int) -> tuple[int, ...]:
    """Return a seed for every stream of the batch: those given, or 0, 1, 2, ..."""
    if seeds is None:
        return tuple(range(num_streams))
    if len(seeds) != num_streams:
        raise ConfigError(f"{len(seeds)} seeds for {num_streams} streams; give one each.")
    return tuple(int(seed) for seed in seeds)


def prefill(streamer: Streamer[Any], state: StreamState[Any], audio: Tensor) -> StreamState[Any]:
    """Store the portrait, driven by ``audio [b, 1, places, dim]``, as the style anchor."""
    plan, portrait = streamer.cache.prefill(), state.portrait
    done = attrs.evolve(state, portrait=None)
    if plan is None or portrait is None:
        return done
    _run(streamer, state, plan, portrait, audio, [CLEAN])
    return done.counting(1)


def hear(streamer: Streamer[Any], state: StreamState[Any], audio: Tensor) -> StreamState[Any]:
    """Admit a block, and let feature rows drive the block they belong to and those before it."""
    b, rows = state.window.latents.shape[0], TEMPORAL_STRIDE * streamer.block_latents
    if audio.dim() != 3 or len(audio) != b or not audio.shape[1] or audio.shape[1] % rows:
        raise ShapeError(
            f"A step takes one block of audio, [{b}, {rows}, d]: {rows} rows (video frames) for "
            f"each of {b} streams, after better rows of earlier blocks if there are any. "
            f"Seen: {list(audio.shape)}. None ends the speech."
        )
    vectors, size = streamer.denoiser.embed_audio(audio), streamer.block_latents
    if streamer.unheard == 0 and audio.shape[1] == rows:
        return _heard(admit(streamer, state, vectors))
    silence = streamer.denoiser.silence(b)
    state = _heard(admit(streamer, state, silence if streamer.unheard else vectors[:, -size:]))
    present = state.window.up_to(state.clock.num_heard)
    count = min(len(present), vectors.shape[1] // size)
    window = state.window.with_audio(vectors[:, -count * size :], len(present) - count)
    return attrs.evolve(state, window=window)


def _heard(state: StreamState[Any]) -> StreamState[Any]:
    clock = attrs.evolve(state.clock, num_heard=state.clock.num_heard + 1)
    return attrs.evolve(state, clock=clock)


def forget_unheard(state: StreamState[Any]) -> StreamState[Any]:
    """Drop blocks whose speech has not come, now that none will."""
    if state.clock.num_heard == state.clock.next_block:
        return state
    clock = attrs.evolve(state.clock, next_block=state.clock.num_heard)
    return attrs.evolve(state, window=state.window.up_to(clock.num_heard), clock=clock)


def forget_window(state: StreamState[Any]) -> StreamState[Any]:
    """Drop every block of the window; the next to be admitted has the number of the oldest."""
    first = state.window.blocks[0] if len(state.window) else state.clock.next_block
    clock = attrs.evolve(state.clock, next_block=first, num_heard=first)
    return attrs.evolve(state, window=state.window.up_to(first), clock=clock)


def admit(streamer: Streamer[Any], state: StreamState[Any], vectors: Tensor) -> StreamState[Any]:
    """Put a block of fresh noise at the tail of the window (line 10).

    ``vectors [b, B or 1, places, dim]`` are its audio.
    """
    vectors = vectors.expand(-1, streamer.block_latents, -1, -1)
    block = state.clock.next_block
    noise = _draw(streamer, state, block, len(streamer.scheduler.timesteps) - 1)
    window = streamer.scheduler.admit(state.window, noise, vectors, block)
    if state.portrait is not None:
        state = prefill(streamer, state, vectors[:, :1])
    clock = attrs.evolve(state.clock, next_block=block + 1)
    return attrs.evolve(state, window=window, clock=clock)


def denoise(streamer: Streamer[Any], state: StreamState[Any]) -> tuple[Tensor, StreamState[Any]]:
    """Run the network over the window, and over a pending clean block before or with it.

    Returns the prediction for every slot ``[b, slot, f, c, h, w]``.
    """
    if state.pending is not None and not streamer.fused:
        state = _absorb(streamer, state)
    window, pending, size = state.window, state.pending, streamer.block_latents
    latents, audio = window.latents.flatten(1, 2), window.audio.flatten(1, 2)
    timesteps = [streamer.scheduler.timesteps[r] for r in window.rungs for _ in range(size)]
    plan, anchors = window_plan(streamer, state)
    if pending is not None:
        latents = torch.cat([pending.latents, latents], dim=1)
        audio = torch.cat([pending.audio, audio], dim=1)
        timesteps = [CLEAN] * size + timesteps
    out = _run(streamer, state, plan, latents, audio, timesteps)
    state = attrs.evolve(state, anchors=anchors, pending=None).counting(1)
    return out.unflatten(1, (len(window), size)), state


def window_plan(streamer: Streamer[Any], state: StreamState[Any]) -> tuple[Plan, Any]:
    """Return who sees whom in a pass over the window, pending block first, and the anchors after.

    The window has a block at least.
    """
    window, pending, cache = state.window, state.pending, streamer.cache
    size, num_frames = streamer.block_latents, len(window) * streamer.block_latents
    if pending is not None:
        first = _first_frame(streamer, pending.block)
        return cache.absorb_and_window(state.anchors, first, size, num_frames)
    first = _first_frame(streamer, window.blocks[0])
    if window.rungs[0] == 0 and isinstance(cache, KeepsNoisy) and cache.keeps_noisy:
        return cache.emit(state.anchors, first, size, num_frames)
    return cache.window(state.anchors, first, num_frames), state.anchors


def remembered(
    streamer: Streamer[Any], state: StreamState[Any], emitted: Emitted | None
) -> Emitted | None:
    """Return the block that leaves as it is to be remembered; None if it is not."""
    if emitted is None or not streamer.cache.remembers:
        return None
    sigma = streamer.context_noise
    if not sigma:
        return emitted
    noise = _draw(streamer, state, emitted.block, CONTEXT_RUNG)
    return attrs.evolve(emitted, latents=(1 - sigma) * emitted.latents + sigma * noise)


def require_kept(scheduler: WindowScheduler, emitted: Emitted | None) -> None:
    """Refuse another pass in a step that has its block already: that block would be lost."""
    if emitted is not None:
        raise StageContractError(
            f"The window scheduler {type(scheduler).__name__} emitted block {emitted.block} before "
            f"the last of the {scheduler.num_passes} passes of a step. It must emit in the last "
            "pass only, at most one block a step: let blocks stand on rung 0 in that pass, or "
            "declare fewer passes (num_passes)."
        )


def fresh_noise(streamer: Streamer[Any], state: StreamState[Any]) -> Tensor:
    """Draw the noise of every slot that stays, ``[b, slot, f, c, h, w]``."""
    lower = streamer.scheduler.lower_rungs(state.window)
    if not lower:
        return state.window.latents[:, :0]
    return torch.stack([_draw(streamer, state, *key) for key in lower], dim=1)


def _absorb(streamer: Streamer[Any], state: StreamState[Any]) -> StreamState[Any]:
    """Write the clean keys and values of the pending block in a pass of its own."""
    pending, size = state.pending, streamer.block_latents
    if pending is None:
        return state
    first = _first_frame(streamer, pending.block)
    plan, anchors = streamer.cache.absorb(state.anchors, first, size)
    _run(streamer, state, plan, pending.latents, pending.audio, [CLEAN] * size)
    return attrs.evolve(state, anchors=anchors, pending=None).counting(1)


def _run(
    streamer: Streamer[Any],
    state: StreamState[Any],
    plan: Plan,
    latents: Tensor,
    audio: Tensor,
    timesteps: Sequence[float],
) -> Tensor:
    modulation = streamer.denoiser.recall_modulation(state.conditions, timesteps)
    out = streamer.denoiser(latents, modulation, audio, state.conditions, plan, state.memory)
    return latents[:, :0] if out is None else out


def _draw(streamer: Streamer[Any], state: StreamState[Any], block: int, rung: int) -> Tensor:
    like = state.window.latents
    return streamer.noise.draw(state.seeds, block, rung, tuple(like.shape[2:])).to(like)


def _first_frame(streamer: Streamer[Any], block: int) -> int:
    """Return the absolute index of a block's first latent frame; the portrait is frame 0."""
    return 1 + block * streamer.block_latents
