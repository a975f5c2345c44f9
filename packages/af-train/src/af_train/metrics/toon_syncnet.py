"""A small SyncNet for the toon world: mouths and mel rows in one space, trained here."""

from importlib.resources import files

import attrs
import torch
from af_audio.mel import HOP, WINDOW, log_mel, mel_filters
from safetensors.torch import load
from torch import Tensor, nn
from torch.nn import functional as F

from af_train.metrics.contract import ClipPair, UnmeasurableClipError
from af_train.metrics.crops import crop, squares
from af_train.metrics.syncnet import ROWS_PER_FRAME, WINDOW_FRAMES, WINDOW_ROWS

SIZE = 32
"""Side of the crops of the mouth, in pixels."""
NUM_MELS = 40
_EMBEDDING = 64


class ToonSyncNet(nn.Module):
    """Two small stacks; embeddings have length 1, so distances lie in 0..2."""

    window: Tensor
    filters: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.lips = nn.Sequential(
            *_seen(3 * WINDOW_FRAMES, 48),
            *_seen(48, 64),
            *_seen(64, 96),
            nn.Flatten(),
            nn.Linear(96 * (SIZE // 8) ** 2, 128),
            nn.SiLU(),
            nn.Linear(128, _EMBEDDING),
        )
        self.sound = nn.Sequential(
            *_heard(NUM_MELS, 64),
            *_heard(64, 96),
            nn.Flatten(),
            nn.Linear(96 * WINDOW_ROWS // 4, 128),
            nn.SiLU(),
            nn.Linear(128, _EMBEDDING),
        )
        self.log_scale = nn.Parameter(torch.tensor(2.0))
        """Logarithm of what cosines are multiplied by in the loss."""
        self.register_buffer("window", torch.hann_window(WINDOW), persistent=False)
        self.register_buffer("filters", mel_filters(NUM_MELS), persistent=False)

    def see(self, windows: Tensor) -> Tensor:
        """Embed mouths float ``[n, 5, 3, 32, 32]`` in 0..1 as ``[n, 64]``."""
        return F.normalize(self.lips(windows.flatten(1, 2) * 2 - 1), dim=-1)

    def hear(self, windows: Tensor) -> Tensor:
        """Embed mel windows ``[n, 40, 20]`` as ``[n, 64]``."""
        return F.normalize(self.sound(windows), dim=-1)

    def mel_windows(self, samples: Tensor) -> Tensor:
        """Return a window for each five frames of samples ``[b, 640 t]``: ``[b, t - 4, 40, 20]``.

        Raises ``UnmeasurableClipError`` for less than five frames of sound.
        """
        rows = samples.shape[1] // HOP
        if rows < WINDOW_ROWS:
            raise UnmeasurableClipError(
                f"{samples.shape[1]} samples are less than {WINDOW_ROWS} rows of mel, 0.2 s."
            )
        padded = F.pad(samples, (WINDOW - HOP, 0))
        mel = log_mel(padded, self.window, self.filters)
        return mel.unfold(2, WINDOW_ROWS, ROWS_PER_FRAME).transpose(1, 2)

    def forward(self, mouths: Tensor, mels: Tensor) -> Tensor:
        """Return the contrastive loss of ``n`` pairs of windows: each is told from all others."""
        logits = self.log_scale.exp() * self.see(mouths) @ self.hear(mels).T
        own = torch.arange(len(logits))
        return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


@attrs.frozen
class ToonSync:
    """The embedder of the metric ``toon_sync``."""

    network: ToonSyncNet
    suffix: str = "_toon"

    @torch.inference_mode()
    def lips(self, frames: Tensor, clip: ClipPair, /) -> Tensor:
        """Embed the squares about the mouth's boxes."""
        windows = mouth_windows(mouths_of(frames, clip.mouths()))
        return torch.cat([self.network.see(part.float() / 255) for part in windows.split(128)])

    @torch.inference_mode()
    def sound(self, samples: Tensor, /) -> Tensor:
        """Embed mel windows."""
        return self.network.hear(self.network.mel_windows(samples[None])[0])


def load_toon_syncnet() -> ToonSyncNet:
    """Load the network that comes with the package."""
    file = files("af_train") / "metrics" / "weights" / "toon_sync.safetensors"
    network = ToonSyncNet()
    network.load_state_dict({k: v.float() for k, v in load(file.read_bytes()).items()})
    return network.eval().requires_grad_(False)


def mouths_of(frames: Tensor, boxes: Tensor) -> Tensor:
    """Return crops of the mouth uint8 ``[t, 3, 32, 32]`` of frames ``[t, H, W, 3]``."""
    return crop(frames, squares(boxes), SIZE).permute(0, 3, 1, 2)


def mouth_windows(mouths: Tensor) -> Tensor:
    """Return windows ``[t - 4, 5, 3, 32, 32]`` of crops ``[t, 3, 32, 32]``."""
    return mouths.unfold(0, WINDOW_FRAMES, 1).movedim(-1, 1)


def _seen(channels_in: int, channels_out: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(channels_in, channels_out, 3, 2, 1)
    return convolution, nn.GroupNorm(4, channels_out), nn.SiLU()


def _heard(channels_in: int, channels_out: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv1d(channels_in, channels_out, 5, 2, 2)
    return convolution, nn.GroupNorm(4, channels_out), nn.SiLU()
