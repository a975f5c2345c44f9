"""The teacher's row in the toon world: clips as trajectories are sampled, joined, then decoded."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import torch
from af_core.assembly import build_stages
from af_core.geometry import SAMPLES_PER_FRAME, TEMPORAL_STRIDE
from af_core.graph import open_pipeline
from af_core.models.wan_config import CausalWanConfig
from af_core.plugins.builtin.loading import shape_of
from af_core.stages.decoder import SeesPortrait
from af_core.weights.files import load
from torch import Tensor
from torch.nn import functional as F

from af_train.ablation.teacher_stream import Sampling, teacher_stream
from af_train.batches import Batch
from af_train.benchmark.clips import BenchmarkClip
from af_train.guidance import Guidance
from af_train.levels import euler_grid
from af_train.parallel import products_in
from af_train.recipes.toon_distill import fresh_network, toon_distill_recipe


@attrs.frozen(eq=False)
class ToonTeacher:
    """Speaks a clip as the trajectories of the recipe are sampled: its steps, its guidance."""

    network: Any
    stages: Mapping[str, Any]

    @classmethod
    def load(cls, preset: str, weights: Path) -> "ToonTeacher":
        """Build the preset's other stages, and a network of its denoiser's shape."""
        pipeline = open_pipeline(preset)
        network = fresh_network(shape_of(pipeline.stages["denoiser"].config, CausalWanConfig))
        load(network, weights)
        nodes = ("image_encoder", "audio_encoder", "decoder")
        return cls(network.eval(), build_stages(pipeline, "cpu", nodes))

    @torch.no_grad()
    def __call__(self, made: BenchmarkClip) -> Tensor:
        """Return the frames uint8 ``[t, H, W, 3]`` of a clip."""
        recipe, total = toon_distill_recipe(), len(made.clip)
        config, num_latents = recipe.backfill, -(-total // TEMPORAL_STRIDE)
        portraits = made.clip.portrait().permute(1, 2, 0)[None]
        portrait = self.stages["image_encoder"].encode(portraits)
        batch = Batch(portrait, self._rows(made, num_latents), (made.spec.seed,))
        sampling = Sampling(
            euler_grid(config.num_steps, config.shift),
            Guidance(config.guidance_weight, config.guidance_weight),
        )
        with products_in(config.precision, "cpu"):
            parts = teacher_stream(self.network, batch, num_latents, recipe.num_frames, sampling)
            latents = torch.cat([portrait, *parts], 1)
        return self._decoded(portraits, latents)[0, 1 : 1 + total]

    def _rows(self, made: BenchmarkClip, num_latents: int) -> Tensor:
        """Hear the whole clip, ``[1, 4 f, d]``; its last latent ends in silence."""
        samples = torch.from_numpy(made.clip.speech.samples)[None]
        missing = num_latents * TEMPORAL_STRIDE * SAMPLES_PER_FRAME - samples.shape[1]
        ears = self.stages["audio_encoder"]
        return ears.step(ears.open(1), F.pad(samples, (0, missing)))[0]

    def _decoded(self, portraits: Tensor, latents: Tensor) -> Tensor:
        """Return frames uint8 ``[b, 1 + 4 f, H, W, 3]``, the portrait's first."""
        decoder = self.stages["decoder"]
        if isinstance(decoder, SeesPortrait):
            return decoder.step(decoder.open_seeing(portraits), latents)[0]
        return decoder.step(decoder.open(len(portraits)), latents)[0]
