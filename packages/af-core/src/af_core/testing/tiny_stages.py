"""Tiny stages: one of every kind, deterministic, without weights, a few microseconds each."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import attrs
import torch
from torch import Tensor
from torch.nn import functional as F

from af_core.geometry import SAMPLES_PER_FRAME, TEMPORAL_STRIDE, Geometry
from af_core.testing.tiny_plugin import FEATURES


@attrs.frozen
class TinyAudioEncoder:
    """Energy, mean, first sample and look-ahead mean of each frame of sound."""

    lookahead_samples: int = 0
    shares_steps: ClassVar[bool] = True

    @property
    def feature_dim(self) -> int:
        """Width of a row."""
        return FEATURES

    def open(self, num_streams: int) -> Tensor:
        """Return the samples that are waiting for more: none."""
        return torch.empty(num_streams, 0)

    def step(self, state: Tensor, samples: Tensor) -> tuple[Tensor, Tensor]:
        """Encode every frame whose look-ahead has been heard."""
        heard = torch.cat([state, samples], dim=1)
        count = max(0, heard.shape[1] - self.lookahead_samples) // SAMPLES_PER_FRAME
        return self._rows(heard, count), heard[:, count * SAMPLES_PER_FRAME :]

    def flush(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """Complete the last frame, and its look-ahead, with silence."""
        count = -(-state.shape[1] // SAMPLES_PER_FRAME)
        missing = count * SAMPLES_PER_FRAME + self.lookahead_samples - state.shape[1]
        return self._rows(F.pad(state, (0, missing)), count), state[:, :0]

    def _rows(self, heard: Tensor, count: int) -> Tensor:
        if count == 0:
            return heard.new_empty(len(heard), 0, FEATURES)
        size = SAMPLES_PER_FRAME + self.lookahead_samples
        frames = heard.unfold(1, size, SAMPLES_PER_FRAME)[:, :count]
        own, ahead = frames[..., :SAMPLES_PER_FRAME], frames[..., SAMPLES_PER_FRAME:]
        later = ahead.mean(-1) if self.lookahead_samples else torch.zeros_like(own[..., 0])
        return torch.stack([own.square().mean(-1), own.mean(-1), own[..., 0], later], dim=-1)


@attrs.frozen
class TinyImageEncoder:
    """Brightness and contrast of each latent cell."""

    geometry: Geometry

    def encode(self, image: Tensor) -> Tensor:
        """Return latents [b, 1, c, h, w] of uint8 [b, H, W, 3]."""
        grey = image.float().mean(-1)[:, None] / 127.5 - 1
        size = (self.geometry.latent_height, self.geometry.latent_width)
        mean = F.adaptive_avg_pool2d(grey, size)
        spread = F.adaptive_max_pool2d(grey, size) - mean
        return torch.cat([mean, spread], dim=1)[:, None]


@attrs.frozen
class TinyTextEncoder:
    """Each letter of a prompt as one number; what is missing is zero."""

    length: int = 8

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Return [b, length, 1]."""
        codes = [list(prompt.encode())[: self.length] for prompt in prompts]
        rows = [code + [0] * (self.length - len(code)) for code in codes]
        return torch.tensor(rows, dtype=torch.float32)[..., None] / 255


@attrs.frozen
class TinyDecoder:
    """Each latent cell becomes a square whose colour fades from the latent before to this one."""

    geometry: Geometry
    shares_steps: ClassVar[bool] = True

    def open(self, num_streams: int) -> Tensor | None:
        """Return the latent before the first one: there is none."""
        return None

    def step(self, state: Tensor | None, latents: Tensor) -> tuple[Tensor, Tensor | None]:
        """Decode latents [b, f, c, h, w]: one frame for the first ever, four for every other."""
        frames: list[Tensor] = []
        for latent in latents.unbind(1):
            weights = (
                (1.0,) if state is None else tuple((i + 1) / 4 for i in range(TEMPORAL_STRIDE))
            )
            before = latent if state is None else state
            frames += [self._frame(torch.lerp(before, latent, weight)) for weight in weights]
            state = latent
        return self._stacked(frames, len(latents)), state

    def _frame(self, latent: Tensor) -> Tensor:
        cells = torch.cat([latent, latent.mean(1, keepdim=True)], dim=1)[:, :3]
        size = (self.geometry.height, self.geometry.width)
        pixels = F.interpolate(torch.tanh(cells), size=size, mode="nearest")
        return ((pixels + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1)

    def _stacked(self, frames: list[Tensor], num_streams: int) -> Tensor:
        if frames:
            return torch.stack(frames, dim=1)
        size = (num_streams, 0, self.geometry.height, self.geometry.width, 3)
        return torch.empty(size, dtype=torch.uint8)


@attrs.frozen
class TinyTrail:
    """A node of one's own: each frame keeps a share of what was shown before it."""

    keep: float

    def open(self, num_streams: int) -> Tensor | None:
        """Return what was shown before the first frame: nothing."""
        return None

    def step(
        self, state: Tensor | None, inputs: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """Blend every frame [b, m, H, W, 3] with the trail so far."""
        shown: list[Tensor] = []
        for frame in inputs["frames"].float().unbind(1):
            state = frame if state is None else torch.lerp(frame, state, self.keep)
            shown.append(state)
        if not shown:
            return {"frames": inputs["frames"]}, state
        return {"frames": torch.stack(shown, dim=1).round().to(torch.uint8)}, state

    def flush(self, state: Tensor | None) -> tuple[dict[str, Tensor], Tensor | None]:
        """Return nothing: every frame has been shown."""
        return {}, state
