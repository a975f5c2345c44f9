"""Streaming log-mel and a small causal convolutional speech encoder.

One row of features per video frame. Row ``i`` depends on samples ``< 640 (i + 1)`` and on nothing
later, so the encoder adds no look-ahead. Streaming always runs the same shapes, one video frame at
a time: any way of cutting the audio into chunks gives bit-identical features. Silence has features
of its own, learnt from pauses in speech; "no audio" is the zero row, and the engine's business.
"""

import attrs
import torch
from af_core.errors import AvatarForcingError
from af_core.geometry import AUDIO_HZ, SAMPLES_PER_FRAME
from torch import Tensor, nn
from torch.nn import functional as F

from af_audio.mel_config import MelConvConfig as MelConvConfig

HOP = 160
WINDOW = 400
_FFT = 512
_OVERLAP = WINDOW - HOP
_LOWEST_HZ, _HIGHEST_HZ = 40.0, 7600.0
_FLOOR = 1e-6
_MELS_PER_FRAME = SAMPLES_PER_FRAME // HOP


class AudioShapeError(AvatarForcingError):
    """Samples do not have the shape that the encoder's state promises."""


@attrs.frozen
class MelConvState:
    """What one batch of streams remembers.

    ``pending`` ``[b, n < 640]`` samples of an unfinished frame, ``overlap`` ``[b, 240]`` the
    samples that the next mel window shares with the last one, ``memories`` the past inputs of
    each convolution.
    """

    pending: Tensor
    overlap: Tensor
    memories: tuple[Tensor, ...]


def mel_filters(num_mels: int) -> Tensor:
    """Return triangular filters float ``[257, num_mels]``, evenly spaced in mel (O'Shaughnessy)."""

    def to_mel(hz: Tensor) -> Tensor:
        return 2595 * torch.log10(1 + hz / 700)

    ends = to_mel(torch.tensor([_LOWEST_HZ, _HIGHEST_HZ]))
    mels = torch.linspace(float(ends[0]), float(ends[1]), num_mels + 2)
    edges = 700 * (10 ** (mels / 2595) - 1)
    hz = torch.linspace(0, AUDIO_HZ / 2, _FFT // 2 + 1)[:, None]
    rising = (hz - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - hz) / (edges[2:] - edges[1:-1])
    return torch.minimum(rising, falling).clamp(min=0)


def log_mel(samples: Tensor, window: Tensor, filters: Tensor) -> Tensor:
    """Map ``[b, 240 + 160 t]`` to ``[b, num_mels, t]``, roughly -1.5..1.5.

    ``window`` is float ``[400]``, ``filters`` float ``[257, num_mels]``.
    """
    spectrum = torch.fft.rfft(samples.unfold(1, WINDOW, HOP) * window, _FFT)
    power = (spectrum.real.square() + spectrum.imag.square()) @ filters
    return ((torch.log10(power.clamp(min=_FLOOR)) + 3) / 2).transpose(1, 2)


class CausalConv(nn.Conv1d):
    """A convolution over ``[b, c, t]`` that remembers its past instead of padding its future."""

    def __init__(
        self, channels_in: int, channels_out: int, kernel: int, stride: int = 1, dilation: int = 1
    ) -> None:
        super().__init__(channels_in, channels_out, kernel, stride, dilation=dilation)
        self.reach = (kernel - 1) * dilation + 1 - stride

    def step(self, x: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``x`` after ``past`` ``[b, c, reach]`` and return what the next call needs."""
        joined = torch.cat([past, x], -1)
        return self(joined), joined[..., joined.shape[-1] - self.reach :]

    def forward(self, input: Tensor) -> Tensor:
        """Convolve as one product of matrices: for a single frame, torch's own loops are slow."""
        dilation, stride, kernel = self.dilation[0], self.stride[0], self.kernel_size[0]
        taps = input.unfold(-1, (kernel - 1) * dilation + 1, stride)[..., ::dilation]
        rows = taps.transpose(1, 2).flatten(2)
        return F.linear(rows, self.weight.flatten(1), self.bias).transpose(1, 2)


class MelConvEncoder(nn.Module):
    """Speech to features: an ``AudioEncoder`` stage."""

    window: Tensor
    filters: Tensor
    lookahead_samples = 0
    shares_steps = True

    def __init__(self, config: MelConvConfig) -> None:
        super().__init__()
        self.config = config
        self.feature_dim = config.feature_dim
        width = config.width
        self.register_buffer("window", torch.hann_window(WINDOW), persistent=False)
        self.register_buffer("filters", mel_filters(config.num_mels), persistent=False)
        self.stem = nn.ModuleList(
            [
                CausalConv(config.num_mels, width, 5),
                CausalConv(width, width, 4, stride=2),
                CausalConv(width, width, 4, stride=2),
            ]
        )
        self.body = nn.ModuleList(CausalConv(width, width, 3, dilation=d) for d in config.dilations)
        self.mix = nn.ModuleList(nn.Conv1d(width, width, 1) for _ in config.dilations)
        self.features = nn.Conv1d(width, config.feature_dim, 1)

    def open(self, num_streams: int) -> MelConvState:
        """Return the state before the first sample: the past is silence."""
        zeros = self.features.weight.new_zeros
        memories = tuple(zeros(num_streams, c.in_channels, c.reach) for c in self._convolutions())
        return MelConvState(zeros(num_streams, 0), zeros(num_streams, _OVERLAP), memories)

    @torch.inference_mode()
    def step(self, state: MelConvState, samples: Tensor) -> tuple[Tensor, MelConvState]:
        """Take float32 ``[b, n]`` at 16 kHz, any ``n``; return rows ``[b, r, feature_dim]``."""
        if samples.ndim != 2 or len(samples) != len(state.overlap):
            raise AudioShapeError(
                f"Samples are [{len(state.overlap)}, n] for this state, not {list(samples.shape)}."
            )
        pending = torch.cat([state.pending, samples], 1)
        overlap, memories = state.overlap, state.memories
        rows = []
        while pending.shape[1] >= SAMPLES_PER_FRAME:
            frame, pending = pending[:, :SAMPLES_PER_FRAME], pending[:, SAMPLES_PER_FRAME:]
            joined = torch.cat([overlap, frame], 1)
            overlap = joined[:, SAMPLES_PER_FRAME:]
            row, memories = self._encode(self._log_mel(joined), memories)
            rows.append(row)
        none = samples.new_zeros(len(samples), 0, self.feature_dim)
        return torch.cat([none, *rows], 1), MelConvState(pending, overlap, memories)

    def flush(self, state: MelConvState) -> tuple[Tensor, MelConvState]:
        """Complete an unfinished frame with silence; no row if there is none."""
        missing = -state.pending.shape[1] % SAMPLES_PER_FRAME
        return self.step(state, state.pending.new_zeros(len(state.pending), missing))

    def forward(self, samples: Tensor) -> Tensor:
        """Encode whole clips ``[b, 640 t]`` at once, to train: rows ``[b, t, feature_dim]``."""
        state = self.open(len(samples))
        mel = self._log_mel(torch.cat([state.overlap, samples], 1))
        return self._encode(mel, state.memories)[0]

    def _convolutions(self) -> list[CausalConv]:
        return [c for c in (*self.stem, *self.body) if isinstance(c, CausalConv)]

    def _log_mel(self, samples: Tensor) -> Tensor:
        return log_mel(samples, self.window, self.filters)

    def _encode(
        self, mel: Tensor, memories: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        kept = []
        convolutions = self._convolutions()
        x = mel
        for convolution, past in zip(convolutions[: len(self.stem)], memories, strict=False):
            x, past = convolution.step(x, past)
            x = F.silu(x)
            kept.append(past)
        rest = zip(
            convolutions[len(self.stem) :], self.mix, memories[len(self.stem) :], strict=True
        )
        for convolution, mix, past in rest:
            seen, past = convolution.step(x, past)
            x = x + mix(F.silu(seen))
            kept.append(past)
        return self.features(x).transpose(1, 2), tuple(kept)
