"""Whole utterances, exactly as the AvatarForcing release hears them (spec section 2).

Row i is the release's wav2vec frame i and drives output frame i. The release puts a row of zeros
before them, for the portrait; here that is the engine's anchor audio, and not a row.
"""

import sys

import torch
from af_core.geometry import SAMPLES_PER_FRAME, num_frames
from torch import Tensor, nn
from torch.nn import functional as F

from af_audio.wav2vec2.features import Wav2Vec2Features

RELEASE_SLACK_FRAMES = 80
"""Video frames of sound that the release hears beyond the clip it makes (3.2 s)."""


def encode_clip(
    network: Wav2Vec2Features,
    samples: Tensor,
    *,
    count: int | None = None,
    slack_frames: int = 0,
    variance_floor: float = 1e-7,
) -> Tensor:
    """Return the rows ``[b, count, d]`` of a clip, float32 ``[b, n]`` at 16 kHz.

    Mean and variance are those of all n samples. Heard are ``count`` frames (all: ceil(n / 640))
    and ``slack_frames`` after them, with silence for what the clip lacks. A video of T latents of
    the release is ``count=4 * T, slack_frames=80``, of which it uses the first ``4 * (T - 1)``.
    """
    count = num_frames(samples.shape[1]) if count is None else count
    if count == 0:
        return samples.new_zeros(len(samples), 0, network.shape.feature_dim)
    variance, mean = torch.var_mean(samples, dim=1, correction=0, keepdim=True)
    size = (count + slack_frames) * SAMPLES_PER_FRAME
    heard = F.pad(samples[:, :size], (0, max(0, size - samples.shape[1])))
    return network((heard - mean) / (variance + variance_floor).sqrt(), keep=slice(count))


class OfflineWav2Vec2(nn.Module):
    """An ``AudioEncoder`` that listens to the end and then returns every row.

    Its state is what it has heard, in pieces, and grows with the utterance.
    """

    lookahead_samples = sys.maxsize
    """Without limit: a row depends on the whole utterance."""

    def __init__(
        self, network: Wav2Vec2Features, *, slack_frames: int = 0, variance_floor: float = 1e-7
    ) -> None:
        super().__init__()
        self.network = network
        self.feature_dim = network.shape.feature_dim
        self.slack_frames = slack_frames
        self.variance_floor = variance_floor

    def open(self, num_streams: int) -> tuple[Tensor, ...]:
        """Return the state before the first sample."""
        device = self.network.first.conv.weight.device
        return (torch.zeros(num_streams, 0, device=device),)

    def step(self, state: tuple[Tensor, ...], samples: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Keep samples float32 ``[b, n]``; no row is ready."""
        none = samples.new_zeros(len(samples), 0, self.feature_dim)
        return none, (*state, samples.clone())

    @torch.inference_mode()
    def flush(self, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the rows ``[b, ceil(n / 640), d]`` of the n samples heard."""
        rows = encode_clip(
            self.network,
            torch.cat(state, dim=1),
            slack_frames=self.slack_frames,
            variance_floor=self.variance_floor,
        )
        return rows, self.open(len(rows))
