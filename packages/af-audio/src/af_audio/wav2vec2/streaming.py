"""A sliding window that is encoded anew each hop: live rows, and better ones for the last blocks.

Row i is the release's wav2vec frame i and drives output frame i; its zero row for the portrait is
the engine's. Each hop runs the network once over ``[left context | hop | right context]`` and takes
from it the rows of the hop, and fresh rows of the frames just before it, which now have a future.
All work is done per hop, whatever the chunks, so rows are bit-identical however audio is cut.
A window that reaches back to the start of the stream is that much shorter: nothing is made up.
"""

import attrs
import torch
from af_core.errors import ShapeError
from af_core.geometry import SAMPLES_PER_FRAME
from torch import Tensor, nn
from torch.nn import functional as F

from af_audio.wav2vec2.features import Wav2Vec2Features
from af_audio.wav2vec2.statistics import Heard


@attrs.frozen(eq=False)
class StreamingState:
    """What a batch of streams remembers."""

    context: Tensor
    """Samples before the next hop, ``[b, at most left context]``."""
    waiting: Tensor
    """Samples of the next hop and after it, ``[b, n]``."""
    heard: Heard
    num_encoded: int = 0
    """Samples before the next hop since the stream began."""


class StreamingWav2Vec2(nn.Module):
    """An ``AudioEncoder`` for live speech that also revises what it said of the last frames."""

    def __init__(
        self,
        network: Wav2Vec2Features,
        *,
        left_frames: int,
        hop_frames: int,
        right_frames: int = 0,
        revised_frames: int = 0,
        running: bool = True,
        variance_floor: float = 1e-7,
    ) -> None:
        super().__init__()
        self.network = network
        self.feature_dim = network.shape.feature_dim
        self.left_frames = left_frames
        self.hop_frames = hop_frames
        self.right_frames = right_frames
        self.revised_frames = revised_frames
        self.running = running
        self.variance_floor = variance_floor

    @property
    def lookahead_samples(self) -> int:
        """Samples after a video frame that its row may depend on: its hop and right context."""
        return (self.hop_frames - 1 + self.right_frames) * SAMPLES_PER_FRAME

    def open(self, num_streams: int) -> StreamingState:
        """Return the state before the first sample."""
        weight = self.network.first.conv.weight
        none = torch.zeros(num_streams, 0, device=weight.device)
        return StreamingState(none, none, Heard.nothing(num_streams, weight.shape[-1], none.device))

    def step(self, state: StreamingState, samples: Tensor) -> tuple[Tensor, StreamingState]:
        """Take float32 ``[b, n]`` at 16 kHz, any n; return the rows ``[b, m, d]`` of full hops."""
        rows, _, state = self.step_revising(state, samples)
        return rows, state

    def flush(self, state: StreamingState) -> tuple[Tensor, StreamingState]:
        """Return the rows of what is left, a last partial frame completed with silence."""
        rows, _, state = self.flush_revising(state)
        return rows, state

    @torch.inference_mode()
    def step_revising(
        self, state: StreamingState, samples: Tensor
    ) -> tuple[Tensor, Tensor, StreamingState]:
        """Like ``step``, and return ``revisions [b, m / hop_frames, revised_frames, d]`` too.

        ``revisions[:, j]`` are fresh rows of the frames that precede those of hop j; frames before
        the start of the stream are zeros.
        """
        if samples.ndim != 2 or len(samples) != len(state.waiting):
            raise ShapeError(
                f"Samples are [{len(state.waiting)}, n] for this state, not {list(samples.shape)}."
            )
        waiting = torch.cat([state.waiting, samples], dim=1)
        return self._hops(attrs.evolve(state, waiting=waiting), ending=False)

    @torch.inference_mode()
    def flush_revising(self, state: StreamingState) -> tuple[Tensor, Tensor, StreamingState]:
        """Like ``flush``, with the revisions of each hop; the last hop may be a short one."""
        missing = -state.waiting.shape[1] % SAMPLES_PER_FRAME
        ended = attrs.evolve(state, waiting=F.pad(state.waiting, (0, missing)))
        rows, revisions, _ = self._hops(ended, ending=True)
        return rows, revisions, self.open(len(rows))

    def _hops(
        self, state: StreamingState, *, ending: bool
    ) -> tuple[Tensor, Tensor, StreamingState]:
        """Encode every hop that is complete with its right context, or that never will be."""
        fresh: list[Tensor] = []
        while frames := self._next_hop(state.waiting.shape[1] // SAMPLES_PER_FRAME, ending):
            made, state = self._hop(state, frames)
            fresh.append(made)
        kept = self.revised_frames
        zeros = state.context.new_zeros
        none = zeros(len(state.context), 0, self.feature_dim)
        if not fresh:
            return none, zeros(len(none), 0, kept, self.feature_dim), state
        rows = torch.cat([made[:, kept:] for made in fresh], dim=1)
        return rows, torch.stack([made[:, :kept] for made in fresh], dim=1), state

    def _next_hop(self, num_waiting: int, ending: bool) -> int:
        """Return the frames of the next hop, 0 if it has to wait."""
        if ending:
            return min(num_waiting, self.hop_frames)
        return self.hop_frames if num_waiting >= self.hop_frames + self.right_frames else 0

    def _hop(self, state: StreamingState, frames: int) -> tuple[Tensor, StreamingState]:
        """Run one window; return its rows ``[b, revised_frames + frames, d]``."""
        size = frames * SAMPLES_PER_FRAME
        seen = (frames + self.right_frames) * SAMPLES_PER_FRAME
        window = torch.cat([state.context, state.waiting[:, :seen]], dim=1)
        heard = self._heard(state, window)
        past = state.context.shape[1] // SAMPLES_PER_FRAME
        known = min(past, self.revised_frames)
        rows = self._encode(window, heard, slice(past - known, past + frames))
        past_end = state.context.shape[1] + size
        left = self.left_frames * SAMPLES_PER_FRAME
        after = StreamingState(
            context=window[:, max(0, past_end - left) : past_end],
            waiting=state.waiting[:, size:],
            heard=heard,
            num_encoded=state.num_encoded + size,
        )
        return F.pad(rows, (0, 0, self.revised_frames - known, 0)), after

    def _heard(self, state: StreamingState, window: Tensor) -> Heard:
        """Count each sample of the window once; those of the right context are known already."""
        end = state.num_encoded + window.shape[1] - state.context.shape[1]
        new = end - state.heard.num_samples
        if not (self.running and new):
            return state.heard
        return state.heard.hearing(window[:, -new:], self.network.first.conv.stride[0])

    def _encode(self, window: Tensor, heard: Heard, keep: slice) -> Tensor:
        if not self.running:
            variance, mean = torch.var_mean(window, dim=1, correction=0, keepdim=True)
            normalised = (window - mean) / (variance + self.variance_floor).sqrt()
            return self.network(normalised, keep=keep)
        first = self.network.first
        gains = heard.gains(first.conv, first.layer_norm, self.variance_floor)
        return self.network(heard.normalise(window, self.variance_floor), gains, keep)
