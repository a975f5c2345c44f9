"""Streaming inference (Algorithm 1): one block of audio in, at most one clean block out."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Generic

import attrs
import torch
from torch import Tensor

from af_core import passes
from af_core.noise import CounterNoise
from af_core.stages.anchor_cache import AnchorCache
from af_core.stages.denoiser import Denoiser
from af_core.stages.noise_source import NoiseSource
from af_core.stages.window_scheduler import WindowScheduler
from af_core.stream_state import AnchorsT, StreamState, Version


@attrs.frozen(eq=False)
class Streamer(Generic[AnchorsT]):
    """The mechanism B_{L,N}, over stages it knows only by their interfaces."""

    scheduler: WindowScheduler
    denoiser: Denoiser[Any, Any]
    cache: AnchorCache[AnchorsT]
    block_latents: int
    """B: latent frames of a block."""
    noise: NoiseSource = attrs.field(factory=CounterNoise)
    fused: bool = True
    """Run the clean pass of an emitted block within the next window pass: the same numbers."""
    unheard: int = 0
    """Blocks at the tail of a full window that run ahead of the speech, driven by none."""
    context_noise: float = 0.0
    """Noise level of an emitted block when its keys and values are made."""

    @torch.no_grad()
    def open(
        self, portrait: Tensor, *, text: Tensor | None = None, seeds: Sequence[int] | None = None
    ) -> StreamState[AnchorsT]:
        """Begin streams for portraits ``[b, 1, c, h, w]``, one noise seed each (0, 1, ...).

        ``text [b or 1, token, d]`` is the prompt's embedding, if the network reads one.
        """
        conditions = self.denoiser.open(portrait, text)
        silence = self.denoiser.silence(len(portrait))
        state = StreamState(
            window=passes.empty_window(portrait, silence, self.block_latents),
            anchors=self.cache.open(),
            seeds=passes.one_seed_each(seeds, len(portrait)),
            conditions=conditions,
            memory=self.denoiser.allocate(conditions, self.cache.num_slots),
            portrait=portrait,
        )
        if self.cache.zero_anchor_audio:
            state = passes.prefill(self, state, silence)
        for _ in range(self.unheard):
            _, state = self._advance(passes.admit(self, state, silence))
        return state

    @torch.no_grad()
    def reopen(
        self, state: StreamState[AnchorsT], portrait: Tensor, *, text: Tensor | None = None
    ) -> StreamState[AnchorsT]:
        """Return a stored state with what follows from portrait and prompt, see ``open``."""
        conditions = self.denoiser.open(portrait, text)
        return attrs.evolve(state, conditions=conditions, version=Version(state.clock.steps))

    @torch.no_grad()
    def step(
        self, state: StreamState[AnchorsT], audio: Tensor | None
    ) -> tuple[Tensor | None, StreamState[AnchorsT]]:
        """Advance by one block of feature rows ``[b, 4 B, d]``; None drains at the end of speech.

        More rows, ``[b, 4 B n, d]``, begin with better ones of the n - 1 blocks heard before.
        Returns the emitted block ``[b, B, c, h, w]``, or None while the window fills.
        """
        state.require_current()
        if audio is None:
            state = passes.forget_unheard(state)
            return self._advance(state) if len(state.window) else (None, state)
        # lines 1, 3, 10: a fresh noise block enters; speech drives its own blocks
        return self._advance(passes.hear(self, state, audio))

    @torch.no_grad()
    def interrupt(self, state: StreamState[AnchorsT]) -> StreamState[AnchorsT]:
        """Forget the blocks that have not come out; the next speech takes their place.

        What came out stays: it is remembered, and the numbers of blocks go on after it. The blocks
        that enter next begin on the top rung, so the first comes out once the window has filled.
        """
        state.require_current()
        state = passes.forget_window(state.claim())
        for _ in range(self.unheard):
            silence = self.denoiser.silence(len(state.window.latents))
            _, state = self._advance(passes.admit(self, state, silence))
        return state

    def _advance(self, state: StreamState[Any]) -> tuple[Tensor | None, StreamState[Any]]:
        state, emitted = state.claim(), None
        for _ in range(self.scheduler.num_passes):  # line 5
            passes.require_kept(self.scheduler, emitted)
            # lines 4, 6: assemble [style | temporal | window] and denoise all blocks jointly
            prediction, state = passes.denoise(self, state)
            # line 7: every block one rung down, the head out of the window
            fresh = passes.fresh_noise(self, state)
            emitted, window = self.scheduler.advance(state.window, prediction, fresh)
            # line 9: the emitted block is pending: its clean K/V ride on the next pass
            pending = passes.remembered(self, state, emitted)
            state = attrs.evolve(state, window=window, pending=pending)
        return None if emitted is None else emitted.latents, state

    def stream(self, state: StreamState[AnchorsT], audio: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yield every block of a finite utterance: the offline face of ``step``."""
        for rows in audio:
            block, state = self.step(state, rows)
            if block is not None:
                yield block
        while len(state.window):
            block, state = self.step(state, None)
            if block is not None:
                yield block
