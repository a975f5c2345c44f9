"""ODE backfill: a store of teacher trajectories, made by any number of workers, resumable.

Worker ``rank`` of ``world`` makes every world-th shard; shards that are there are checked and kept.
What a sample is depends on its number alone, so stores are the same however they were made.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import attrs
import msgspec
import torch
from af_core.anchors.dual_anchor import DualAnchorCache
from af_core.errors import ConfigError
from torch import Tensor, nn

from af_train import draws
from af_train.batches import Batch, Source
from af_train.guidance import Guidance
from af_train.levels import euler_grid, grid_indices
from af_train.networks import Conditions
from af_train.objectives.needs import clip_of, num_blocks
from af_train.ode_store import Header, has_shard, noise_of, shard_path, write_shard
from af_train.parallel import Precision, products_in
from af_train.trajectories import Velocity, guided_velocity, teacher_forced_velocity, trajectory


class BackfillConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How trajectories are made. The published numbers are 16,000 clips of 50 steps, shift 5."""

    num_clips: int = 16_000
    num_steps: int = 50
    """Euler steps; every rung of the ladder must be a node of the grid."""
    shift: float = 5.0
    guidance_weight: float = 1.5
    """w of u + w (c - u), for the voice and, unless it has its own, for the prompt."""
    text_guidance_weight: float | None = None
    """w of the prompt, if it is another; then each step takes three passes."""
    negative_prompt: str | None = None
    """What is read where there is no prompt; None reads zeros."""
    mask: Literal["bidirectional", "teacher_forced"] = "bidirectional"
    """``teacher_forced`` is for a causal teacher: each block over the true past."""
    precision: Precision = "float32"
    """Products of the teacher's passes; states are float32 always."""
    seed: int = 0
    batch_size: int = 16
    clips_per_shard: int = 256

    def __post_init__(self) -> None:
        """Refuse counts below one."""
        for name in ("num_clips", "num_steps", "batch_size", "clips_per_shard"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least 1.")


@attrs.frozen(eq=False)
class Backfill:
    """A teacher, conditions, and the rungs that its student will stand on."""

    teacher: Any
    """A ``Trainable`` module."""
    source: Source
    sigmas: Sequence[float]
    """The ladder, noisiest first."""
    config: BackfillConfig
    anchors: DualAnchorCache
    """Read only for a causal teacher."""
    block_latents: int
    negative: Tensor | None = None
    """Embedding of the negative prompt, ``[1, token, d]``."""

    def header(self, clip: torch.Size) -> Header:
        """Return what the shards will say of themselves; ``clip`` is the shape [f, c, h, w]."""
        c = self.config
        return Header(
            sigmas=(*map(float, self.sigmas), 0.0),
            shift=c.shift,
            num_steps=c.num_steps,
            guidance_weight=c.guidance_weight,
            text_guidance_weight=c.text_guidance_weight,
            negative_prompt=c.negative_prompt,
            mask=c.mask,
            precision=c.precision,
            teacher=weights_hash(self.teacher),
            seed=c.seed,
            num_clips=c.num_clips,
            clips_per_shard=c.clips_per_shard,
            frames=tuple(clip),
        )

    @torch.no_grad()
    def states(self, batch: Batch) -> Tensor:
        """Return the trajectories of a batch, ``[b, s, f, c, h, w]``, noise first."""
        c = self.config
        keep = grid_indices(self.sigmas, c.num_steps, c.shift)
        shape = (len(batch), batch.num_frames, *batch.portrait.shape[2:])
        noise = noise_of(batch.seeds, batch.portrait.new_empty(shape))
        grid = euler_grid(c.num_steps, c.shift)
        with products_in(c.precision, noise.device.type):
            return trajectory(self._velocity(batch), noise, grid, keep)

    def _velocity(self, batch: Batch) -> Velocity:
        given = Conditions(batch.portrait, batch.rows, batch.text)
        audio, text = self.config.guidance_weight, self.config.text_guidance_weight
        guidance = Guidance(audio, audio if text is None else text, self.negative)
        if self.config.mask == "bidirectional":
            return guided_velocity(self.teacher, given, guidance, batch.num_frames)
        num_blocks(batch, self.block_latents)
        return teacher_forced_velocity(
            self.teacher,
            given,
            guidance,
            clip_of(batch),
            self.anchors,
            self.block_latents,
        )

    def run(
        self,
        directory: Path,
        rank: int = 0,
        world: int = 1,
        advance: Callable[[int], None] = lambda clips: None,
    ) -> Iterator[Path]:
        """Make the shards of one worker; yields each as it is there, made or found.

        ``advance`` hears of every batch. Raises ``StoreError`` if the directory holds trajectories
        of another teacher, ladder, shift or guidance.
        """
        grid_indices(self.sigmas, self.config.num_steps, self.config.shift)
        directory.mkdir(parents=True, exist_ok=True)
        first = self._draw(range(1))
        header = self.header(torch.Size((first.num_frames, *first.portrait.shape[2:])))
        for shard in range(rank, header.num_shards, world):
            samples = header.samples(shard)
            if has_shard(directory, shard, header):
                advance(len(samples))
            else:
                self._make(directory, shard, header, samples, advance)
            yield shard_path(directory, shard)

    def _make(
        self,
        directory: Path,
        shard: int,
        header: Header,
        samples: range,
        advance: Callable[[int], None],
    ) -> None:
        states, batches, size = [], [], self.config.batch_size
        for start in range(samples.start, samples.stop, size):
            batch = self._draw(range(start, min(start + size, samples.stop)))
            states.append(self.states(batch).cpu())
            batches.append(batch)
            advance(len(batch))
        write_shard(directory, shard, header, torch.cat(states), joined(batches))

    def _draw(self, numbers: range) -> Batch:
        seeds = draws.sample_seeds(self.config.seed, 0, "backfill", numbers)
        return self.source.draw(seeds).to(next(self.teacher.parameters()).device)


def joined(batches: Sequence[Batch]) -> Batch:
    """Return several batches as one."""
    fields = {}
    for name in ("portrait", "rows", "clip", "text"):
        parts = [getattr(batch, name) for batch in batches]
        fields[name] = None if parts[0] is None else torch.cat(parts).cpu()
    return Batch(seeds=tuple(seed for batch in batches for seed in batch.seeds), **fields)


def weights_hash(weights: nn.Module | Mapping[str, Tensor]) -> str:
    """Return a hash of weights, a module's or a file's: names, types and numbers."""
    tensors = weights.state_dict() if isinstance(weights, nn.Module) else weights
    digest = sha256()
    for name, value in sorted(tensors.items()):
        data = value.detach().cpu().contiguous()
        digest.update(f"{name} {data.dtype} {tuple(data.shape)}".encode())
        digest.update(data.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
