"""The two halves of a pipeline that training data passes through: pictures and speech, encoded."""

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import attrs
import msgspec
import torch
from af_core.assembly import build_stages
from af_core.errors import ConfigError
from af_core.geometry import AUDIO_HZ, SAMPLES_PER_FRAME, VIDEO_FPS
from af_core.graph.checked import Pipeline
from af_core.stages.image_encoder import EncodesVideo
from torch import Tensor, nn

from af_train.backfill import weights_hash
from af_train.data.clip_store import ClipStore

_PASSAGE = 1500
"""Video frames that are heard at a time: a minute."""
_BEFORE = 250
"""Video frames heard before a passage, so that its first rows know what was said."""


@attrs.frozen(eq=False)
class Encoders:
    """A pipeline's image and audio encoder, and what tells them from others."""

    pipeline: Pipeline
    image: Any
    """An ``EncodesVideo``."""
    audio: Any
    """An ``AudioEncoder``."""
    device: str = "cpu"

    @classmethod
    def of(cls, pipeline: Pipeline, device: str = "cpu") -> "Encoders":
        """Build the two stages and nothing else."""
        names = ("image_encoder", "audio_encoder")
        part = attrs.evolve(pipeline, stages={name: pipeline.stages[name] for name in names})
        built = build_stages(part, device)
        if not isinstance(built["image_encoder"], EncodesVideo):
            raise ConfigError(
                f"The image encoder {pipeline.stages['image_encoder'].label} takes pictures only; "
                "to prepare clips it needs `encode_video` (af_core.stages.image_encoder)."
            )
        return cls(pipeline, built["image_encoder"], built["audio_encoder"], device)

    def identity(self) -> dict[str, object]:
        """Return the fields of a store's header that training with this pipeline insists on."""
        return identity(self.pipeline, self.image, self.audio)

    @torch.inference_mode()
    def clip(self, frames: Tensor, num_stills: int) -> dict[str, Tensor]:
        """Encode ``uint8 [1 + 4 n, H, W, 3]``: ``latents [1 + n, c, h, w]``, ``stills [k, ...]``.

        Stills are spread evenly over the clip, the first is its first frame.
        """
        frames = frames.to(self.device)
        latents = self.image.encode_video(frames[None])[0][0]
        chosen = [round(i * (len(frames) - 1) / num_stills) for i in range(1, num_stills)]
        stills = [latents[:1], *(self.image.encode(frames[i, None])[0] for i in chosen)]
        return {"latents": latents.half().cpu(), "stills": torch.cat(stills).half().cpu()}

    @torch.inference_mode()
    def rows(self, samples: Tensor) -> Tensor:
        """Hear ``float32 [n]``; return float16 rows ``[n // 640, d]``, one for each video frame.

        Long recordings are heard in passages of a minute, each after the ten seconds before it
        and with what comes after it as far as the encoder looks ahead.
        """
        count = len(samples) // SAMPLES_PER_FRAME
        ahead = -(-self.audio.lookahead_samples // SAMPLES_PER_FRAME)
        parts = []
        for start in range(0, count, _PASSAGE):
            stop, first = min(start + _PASSAGE, count), max(0, start - _BEFORE)
            last = min(stop + ahead, count)
            heard = samples[first * SAMPLES_PER_FRAME : last * SAMPLES_PER_FRAME].to(self.device)
            made, state = self.audio.step(self.audio.open(1), heard[None])
            owed, _ = self.audio.flush(state)
            whole = torch.cat([made, owed], 1)[0]
            parts.append(whole[start - first : stop - first].half().cpu())
        return torch.cat(parts) if parts else torch.empty(0, self.audio.feature_dim).half()


def identity(pipeline: Pipeline, image: Any, audio: Any) -> dict[str, object]:
    """Return what latents and rows depend on, by the names of a store's header."""
    return {
        "preset": pipeline.spec.name,
        "autoencoder": _hash(pipeline, "image_encoder", image),
        "audio_encoder": _hash(pipeline, "audio_encoder", audio),
        "width": pipeline.geometry.width,
        "height": pipeline.geometry.height,
        "fps": VIDEO_FPS,
        "sample_rate": AUDIO_HZ,
    }


def open_clips(
    folder: Path, pipeline: Pipeline, built: Mapping[str, Any], num_frames: int
) -> ClipStore:
    """Return the clips of a folder as a source for a pipeline whose stages are ``built``.

    Raises ``StoreError``, naming every field that differs, if other encoders made them.
    """
    text = built.get("text_encoder")
    prompt = None if text is None else text.encode([pipeline.spec.prompt])
    wanted = identity(pipeline, built["image_encoder"], built["audio_encoder"])
    return ClipStore.open(folder, num_frames, prompt, **wanted)


def _hash(pipeline: Pipeline, name: str, stage: Any) -> str:
    """Return a hash of a stage: who it is, its options but for paths and seeds, its weights."""
    chosen = pipeline.stages[name]
    options: Mapping[str, Any] = msgspec.to_builtins(chosen.config)
    kept = {k: v for k, v in options.items() if k not in ("weights", "entry", "seed")}
    weights = weights_hash(stage) if isinstance(stage, nn.Module) else ""
    text = msgspec.json.encode([chosen.use, sorted(kept.items()), weights])
    return sha256(text).hexdigest()
