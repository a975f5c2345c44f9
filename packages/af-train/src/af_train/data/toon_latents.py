"""Latents of the toon world: clips rendered, encoded and kept in safetensors shards.

Latent ``k >= 1`` of a clip shows video frames ``4k - 3 .. 4k``, whose sound is in the audio frames
of the same numbers; latent 0 is the frame before them.
"""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import attrs
import torch
from af_core.errors import WeightsError
from af_core.models.tiny_vae import TinyVAE
from af_core.weights.files import read_metadata
from safetensors.torch import load_file, save_file
from torch import Tensor

from af_train.worlds.toon import Synthesiser, sample_clip
from af_train.worlds.toon.driven import DRIVES

NUM_LATENTS = 21
NUM_FRAMES = 1 + 4 * (NUM_LATENTS - 1)
CLIPS_PER_SHARD = 32
_LIVELINESS = "liveliness"


@attrs.frozen
class LatentClips:
    """``n`` clips.

    ``latents`` float16 ``[n, 21, c, h, w]``, ``portraits`` float16 ``[n, c, h, w]``, ``samples``
    int16 ``[n, 81 * 640]``, ``mouths`` float32 ``[n, 81, 5]``, ``motions`` float32 ``[n, 81, 9]``
    in the order of ``Motion`` and ``drives`` float32 ``[n, 20, 10]``, which decided how latents
    ``1..`` move (see ``worlds.toon.driven``).
    """

    latents: Tensor
    portraits: Tensor
    samples: Tensor
    mouths: Tensor
    motions: Tensor
    drives: Tensor

    def __len__(self) -> int:
        return len(self.latents)


def make_shards(
    model: TinyVAE, directory: Path, seeds: range, liveliness: float = 1.0
) -> Iterator[Path]:
    """Render and encode clips of these seeds; shards that exist are kept. Yields each as made.

    ``liveliness`` scales how far heads and eyes move.
    """
    directory.mkdir(parents=True, exist_ok=True)
    firsts = range(seeds.start, seeds.stop, CLIPS_PER_SHARD)
    missing = [n for n in firsts if not _is_there(directory / f"{n:08d}.safetensors", liveliness)]
    if not missing:
        return
    synthesiser = Synthesiser()
    for first in missing:
        path = directory / f"{first:08d}.safetensors"
        parts = [_encode(model, synthesiser, first + i, liveliness) for i in range(CLIPS_PER_SHARD)]
        shard = {name: torch.stack([part[name] for part in parts]) for name in parts[0]}
        partial = path.with_suffix(".partial")
        save_file(shard, partial, {_LIVELINESS: f"{liveliness:g}"})
        partial.replace(path)
        yield path


def _is_there(path: Path, liveliness: float) -> bool:
    """Tell whether a shard is there; raise ``WeightsError`` if its people move otherwise."""
    if not path.exists():
        return False
    noted = read_metadata(path).get(_LIVELINESS, f"{liveliness:g}")  # older ones do not tell
    if noted != f"{liveliness:g}":
        raise WeightsError(
            f"{path} holds clips of liveliness {noted}, not {liveliness:g}: set that, or take "
            "another directory."
        )
    return True


@torch.inference_mode()
def _encode(
    model: TinyVAE, synthesiser: Synthesiser, seed: int, liveliness: float
) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    drives = torch.randn(NUM_LATENTS - 1, len(DRIVES), generator=rng)
    clip = sample_clip(synthesiser, seed, NUM_FRAMES, liveliness=liveliness, drives=drives)
    stills = torch.cat([clip.portrait()[None], clip.frames()])
    with torch.autocast("cpu", torch.bfloat16):
        portrait, _ = model.encode(stills[None, :1].float() / 255)
        latents, memory = model.encode(stills[None, 1:2].float() / 255)
        parts = [latents]
        for start in range(2, NUM_FRAMES + 1, 16):
            chunk = stills[None, start : start + 16].float() / 255
            latents, memory = model.encode(chunk, memory)
            parts.append(latents)
    samples = torch.from_numpy(clip.speech.samples * 32767).to(torch.int16)
    return {
        "latents": torch.cat(parts, 1)[0].half(),
        "portraits": portrait[0, 0].half(),
        "samples": samples,
        "mouths": clip.mouth,
        "motions": torch.stack(clip.motion.tracks(), 1),
        "drives": drives,
    }


class LatentPool:
    """The shards of a directory, in memory; more are taken in as they appear."""

    def __init__(self, directory: Path, at_least: int = 1) -> None:
        self._directory = directory
        self._shards: dict[Path, LatentClips] = {}
        self.refresh()
        while len(self) < at_least:
            time.sleep(5)
            self.refresh()

    def __len__(self) -> int:
        return CLIPS_PER_SHARD * len(self._shards)

    def refresh(self) -> None:
        """Take in new shards, if any."""
        for path in sorted(set(self._directory.glob("*.safetensors")) - set(self._shards)):
            self._shards[path] = _read_shard(path)

    def take(self, chosen: Sequence[int]) -> LatentClips:
        """Return these clips, by number."""
        shards = list(self._shards.values())
        fields = attrs.fields(LatentClips)
        return LatentClips(
            *(
                torch.stack(
                    [
                        getattr(shards[i // CLIPS_PER_SHARD], f.name)[i % CLIPS_PER_SHARD]
                        for i in chosen
                    ]
                )
                for f in fields
            )
        )


def _read_shard(path: Path) -> LatentClips:
    tensors, fields = load_file(path), {field.name for field in attrs.fields(LatentClips)}
    if set(tensors) != fields:
        raise WeightsError(
            f"{path} holds {', '.join(sorted(tensors))}; clips have {', '.join(sorted(fields))}. "
            f"Another version made it: delete {path.parent}, and the clips are made again."
        )
    return LatentClips(**tensors)
