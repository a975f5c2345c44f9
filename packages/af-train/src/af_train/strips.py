"""Strips of sample frames while a chain trains: the same people and voices, again and again.

A student is streamed by the engine with its averaged weights; a teacher is sampled as trajectories
are. A strip is one PNG: a row for each clip, time from left to right.
"""

from pathlib import Path
from typing import Any

import msgspec
import torch
from af_core.errors import ConfigError
from af_core.geometry import VIDEO_FPS, ceil_div
from af_core.plugins import BuildContext
from af_core.stages.anchor_cache import RoughensContext
from af_core.stages.window_scheduler import AdmitsUnheard
from af_core.streaming import Streamer
from PIL import Image
from torch import Tensor

from af_train.batches import Batch, Source
from af_train.draws import sample_seeds

_CELL = 96
"""Height of a picture that has no decoder to draw it."""


class SampleConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whether, and of what, strips are drawn."""

    every: int = 0
    """Steps between two strips; 0 draws none."""
    clips: int = 3
    seconds: float = 1.0
    columns: int = 9
    """Frames of a row."""

    def __post_init__(self) -> None:
        """Refuse what draws nothing."""
        if self.every < 0 or min(self.clips, self.columns) < 1 or not 0 < self.seconds <= 60:
            raise ConfigError(
                f"samples: every={self.every} (0 or more), clips={self.clips} and "
                f"columns={self.columns} (1 or more), seconds={self.seconds} (up to 60)."
            )


def fixed_batch(source: Source, config: SampleConfig, block_latents: int) -> Batch:
    """Return the same clips at every call, cut to whole blocks of the seconds that are shown."""
    batch = source.draw(sample_seeds(0, 0, "samples", range(config.clips)))
    wanted = ceil_div(round(config.seconds * VIDEO_FPS), 4)
    frames = min(ceil_div(wanted, block_latents) * block_latents, batch.num_frames)
    clip = None if batch.clip is None else batch.clip[:, :frames]
    return Batch(batch.portrait, batch.rows[:, : 4 * frames], batch.seeds, clip, batch.text)


@torch.no_grad()
def streamed(student: Any, context: BuildContext, batch: Batch) -> Tensor:
    """Return latents ``[b, f, c, h, w]`` that the engine streams, as it does for users."""
    scheduler, cache = context.stages["window_scheduler"], context.stages["anchor_cache"]
    size = context.geometry.block_latents
    engine = Streamer(
        scheduler,
        student,
        cache,
        size,
        context_noise=cache.context_noise if isinstance(cache, RoughensContext) else 0.0,
        unheard=scheduler.num_unheard if isinstance(scheduler, AdmitsUnheard) else 0,
    )
    state = engine.open(batch.portrait, text=batch.text, seeds=batch.seeds)
    return torch.cat([*engine.stream(state, batch.rows.split(4 * size, dim=1))], dim=1)


@torch.no_grad()
def pictures(latents: Tensor, portrait: Tensor, decoder: Any = None) -> Tensor:
    """Return ``uint8 [b, t, H, W, 3]`` of latents ``[b, f, c, h, w]`` that follow a portrait.

    Without a decoder the first three channels are shown as colours, -1.5 black and 1.5 white.
    """
    if decoder is not None:
        parameters = getattr(decoder, "parameters", lambda: iter(()))()
        place = next(parameters, latents).device
        whole = torch.cat([portrait.to(latents), latents], 1).to(place)
        return decoder.step(decoder.open(len(latents)), whole)[0][:, 1:].cpu()
    colours = (latents[:, :, :3].float() / 3 + 0.5).clamp(0, 1) * 255
    near = [max(1, _CELL // side) for side in latents.shape[-2:]]
    for axis, times in zip((-2, -1), near, strict=True):
        colours = colours.repeat_interleave(times, axis)
    return colours.to(torch.uint8).permute(0, 1, 3, 4, 2).cpu()


def write_strip(path: Path, frames: Tensor, columns: int) -> None:
    """Write ``uint8 [b, t, H, W, 3]`` as a PNG: a row a clip, ``columns`` moments evenly apart."""
    total = frames.shape[1]
    count = min(columns, total)
    chosen = [round((i + 0.5) * total / count - 0.5) for i in range(count)]
    rows = [torch.cat([*clip[chosen]], dim=1) for clip in frames]
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    Image.fromarray(torch.cat(rows).numpy()).save(part, format="PNG", optimize=True)
    part.replace(path)
