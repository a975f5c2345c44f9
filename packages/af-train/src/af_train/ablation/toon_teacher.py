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
from af_core.running import DecodeRunner, Opening
from af_core.weights.files import load
from torch import Tensor
from torch.nn import functional as F

from af_train.ablation.teacher_stream import OVERLAP, Sampling, teacher_stream
from af_train.batches import Batch
from af_train.benchmark.clips import BenchmarkClip
from af_train.guidance import Guidance
from af_train.levels import euler_grid
from af_train.parallel import products_in
from af_train.recipes.toon_distill import ToonDistillRecipe, fresh_network, toon_distill_recipe


@attrs.frozen(eq=False)
class ToonTeacher:
    """Speaks a clip as the recipe ``toon_distill`` draws trajectories: its steps, its guidance."""

    network: Any
    stages: Mapping[str, Any]
    size: int
    """Pixels of a side."""
    recipe: ToonDistillRecipe = attrs.field(factory=toon_distill_recipe)

    @classmethod
    def load(cls, preset: str, weights: Path) -> "ToonTeacher":
        """Build the preset's other stages, and a network of its denoiser's shape."""
        pipeline = open_pipeline(preset)
        network = fresh_network(shape_of(pipeline.stages["denoiser"].config, CausalWanConfig))
        load(network, weights)
        nodes = ("image_encoder", "audio_encoder", "decoder")
        built = build_stages(pipeline, "cpu", nodes)
        return cls(network.eval(), built, pipeline.geometry.height)

    @property
    def name(self) -> str:
        """Tell how clips are drawn and joined; numbers of another way are others."""
        c = self.recipe.backfill
        return (
            f"teacher: {c.num_steps} steps, shift {c.shift:g}, guidance {c.guidance_weight:g}, "
            f"{c.precision}, clips of {self.recipe.num_frames} latents that share {OVERLAP}"
        )

    @torch.no_grad()
    def __call__(self, made: BenchmarkClip) -> Tensor:
        """Return the frames uint8 ``[t, H, W, 3]`` of a clip."""
        config, total = self.recipe.backfill, len(made.clip)
        num_latents = -(-total // TEMPORAL_STRIDE)
        image = made.clip.portrait(self.size).permute(1, 2, 0)[None]
        portrait = self.stages["image_encoder"].encode(image)
        batch = Batch(portrait, self._rows(made, num_latents), (made.spec.seed,))
        sampling = Sampling(
            euler_grid(config.num_steps, config.shift),
            Guidance(config.guidance_weight, config.guidance_weight),
        )
        length = self.recipe.num_frames
        with products_in(config.precision, "cpu"):
            parts = [*teacher_stream(self.network, batch, num_latents, length, sampling)]
        runner = DecodeRunner(self.stages["decoder"], 1)
        state = runner.open(Opening(1, portrait, batch.seeds, image=image))
        shown, _ = runner.step(state, {"latents": torch.cat(parts, 1)})
        return shown["frames"][0, :total]

    def _rows(self, made: BenchmarkClip, num_latents: int) -> Tensor:
        """Hear the whole clip, ``[1, 4 f, d]``; its last latent ends in silence."""
        samples = torch.from_numpy(made.clip.speech.samples)[None]
        missing = num_latents * TEMPORAL_STRIDE * SAMPLES_PER_FRAME - samples.shape[1]
        ears = self.stages["audio_encoder"]
        return ears.step(ears.open(1), F.pad(samples, (0, missing)))[0]
