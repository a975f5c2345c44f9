"""Train the toon speech encoder: hear the mouth, through noise, gain and bad microphones.

Targets are mouth shapes now and up to four frames ago: what was just said is known better a
moment later, and the engine's window lets a block hear its successors.
"""

import random
from pathlib import Path

import torch
from af_audio.mel import MelConvConfig, MelConvEncoder
from af_core.geometry import AUDIO_HZ, SAMPLES_PER_FRAME
from torch import Tensor, nn
from torch.nn import functional as F

from af_train.loop import FitConfig, Losses, fit
from af_train.worlds.toon import Synthesiser, visemes
from af_train.worlds.toon.speech import random_speech

NUM_LAGS = 5
_PIECE_FRAMES = 100


class Listener(nn.Module):
    """The encoder and a linear reading of mouth shapes ``[b, t, lag, 5]`` from its features."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: MelConvConfig) -> None:
        super().__init__()
        self.encoder = MelConvEncoder(config)
        self.read = nn.Linear(config.feature_dim, NUM_LAGS * len(visemes.NAMES))
        self.register_buffer("mean", torch.zeros(len(visemes.NAMES)))
        self.register_buffer("std", torch.ones(len(visemes.NAMES)))

    def forward(self, samples: Tensor) -> Tensor:
        """Read shapes in units of their standard deviation from ``[b, 640 t]`` samples."""
        return self.read(self.encoder(samples)).unflatten(-1, (NUM_LAGS, -1))


def speech_corpus(
    num_pieces: int, duration_s: int, seed: int, voices: tuple[str, ...] | None = None
) -> tuple[Tensor, Tensor]:
    """Synthesise samples int16 ``[n, t]`` and mouth shapes ``[n, frames, 5]``."""
    synthesiser = Synthesiser()
    samples, shapes = [], []
    for i in range(num_pieces):
        rng = random.Random(f"corpus {seed} {i}")
        speech = (
            random_speech(synthesiser, rng, duration_s)
            if voices is None
            else random_speech(synthesiser, rng, duration_s, voices)
        )
        samples.append(torch.from_numpy(speech.samples * 32767).to(torch.int16))
        frames = duration_s * AUDIO_HZ // SAMPLES_PER_FRAME
        shapes.append(torch.from_numpy(visemes.mouth_track(speech.phonemes, frames)))
    return torch.stack(samples), torch.stack(shapes)


def train_listener(
    directory: Path, *, steps: int = 4000, num_pieces: int = 500, seed: int = 0, batch: int = 16
) -> Listener:
    """Train on ``num_pieces`` twenty-second pieces of speech."""
    torch.manual_seed(seed)
    model = Listener(MelConvConfig())
    samples, shapes = speech_corpus(num_pieces, 20, seed)
    model.mean.copy_(shapes.flatten(0, 1).mean(0))
    model.std.copy_(shapes.flatten(0, 1).std(0))

    def losses_at(step: int) -> Losses:
        rng = torch.Generator().manual_seed(seed * 1_000_003 + step)
        piece = torch.randint(len(samples), (batch,), generator=rng).tolist()
        latest = shapes.shape[1] - _PIECE_FRAMES
        start = torch.randint(latest, (batch,), generator=rng).tolist()
        pairs = list(zip(piece, start, strict=True))
        heard = torch.stack(
            [
                samples[p, s * SAMPLES_PER_FRAME : (s + _PIECE_FRAMES) * SAMPLES_PER_FRAME]
                for p, s in pairs
            ]
        )
        shown = torch.stack([shapes[p, s : s + _PIECE_FRAMES] for p, s in pairs])
        read = model(augment(heard.float() / 32768, rng))
        return {"loss": lagged_error(read, (shown - model.mean) / model.std)}

    weights = fit(model, losses_at, FitConfig(steps, learning_rate=2e-3), directory)
    model.load_state_dict(weights)
    return model.eval().requires_grad_(False)


def lagged_error(read: Tensor, shown: Tensor) -> Tensor:
    """Mean squared error of ``read`` ``[b, t, lag, 5]`` against shapes that many frames ago."""
    errors = [
        (read[:, NUM_LAGS:, lag] - shown[:, NUM_LAGS - lag : shown.shape[1] - lag]).square().mean()
        for lag in range(NUM_LAGS)
    ]
    return torch.stack(errors).mean()


def augment(samples: Tensor, rng: torch.Generator) -> Tensor:
    """Change the level, colour the sound and add noise, each piece in its own way.

    Levels -18..+6 dB, tilts and resonances up to 12 dB, coloured noise 5..45 dB below the speech.
    """
    n, length = samples.shape
    spectrum = torch.fft.rfft(samples)
    anchors = torch.randn(n, 1, 9, generator=rng) * 4
    shape_db = F.interpolate(anchors, size=spectrum.shape[1], mode="linear", align_corners=True)[
        :, 0
    ]
    plain = (torch.rand(n, 1, generator=rng) < 0.3).float()
    coloured = torch.fft.irfft(spectrum * 10 ** (shape_db * (1 - plain) / 20), length)
    noise_spectrum = torch.fft.rfft(torch.randn(n, length, generator=rng))
    tilt = torch.rand(n, 1, generator=rng) * 1.2
    hz = torch.arange(1, noise_spectrum.shape[1] + 1) / noise_spectrum.shape[1]
    noise = torch.fft.irfft(noise_spectrum * hz**-tilt, length)
    speech_level = coloured.square().mean(1, keepdim=True).sqrt() + 1e-4
    noise = noise / noise.square().mean(1, keepdim=True).sqrt() * speech_level
    below_db = 5 + 40 * torch.rand(n, 1, generator=rng)
    clean = (torch.rand(n, 1, generator=rng) < 0.35).float()
    gain = 10 ** ((-18 + 24 * torch.rand(n, 1, generator=rng)) / 20)
    return ((coloured + (1 - clean) * noise * 10 ** (-below_db / 20)) * gain).clamp(-1, 1)
