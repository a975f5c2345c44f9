"""The gate before a student is trained: does the teacher's world speak, blink and move?

A student matches the distribution of its teacher, faults included, so a teacher that mumbles is
not worth the hours that follow. Clips are sampled as trajectories are: Euler's method, guided.
"""

from typing import Any

import attrs
import torch
from af_audio.mel import MelConvEncoder
from af_core.geometry import VIDEO_FPS
from af_core.stages.decoder import Decoder
from af_core.stages.image_encoder import ImageEncoder
from torch import Tensor

from af_train.guidance import Guidance
from af_train.levels import euler_grid
from af_train.metrics import signals
from af_train.metrics.readers import Readers
from af_train.networks import Conditions, Trainable
from af_train.parallel import Precision, products_in
from af_train.trajectories import guided_velocity, trajectory
from af_train.worlds.toon import Clip, Synthesiser, sample_clip
from af_train.worlds.toon.driven import DRIVES
from af_train.worlds.toon.speech import HELD_OUT_VOICES

_FIRST_SEED = 820_000_000
_SKIPPED = 4
"""Frames after the portrait, from which the face jumps into its first pose."""


@attrs.frozen
class TeacherReport:
    """What clips of unseen people are worth: each number is read from sampled and true frames."""

    lip_corr: float
    """Pearson's r of mouth opening with truth; at least .8."""
    lip_amplitude: float
    """Standard deviation of the opening, over the true."""
    blinks: float
    """Share of time with lids more than half shut, over the true share."""
    head_motion: float
    """Standard deviation of head position inside clips, over the true."""
    csim: float
    """Cosine of identity vectors, frames against portrait; at least .9."""
    sharpness: float
    """Energy of the Laplacian, over that of the true frames."""

    @property
    def passed(self) -> bool:
        """Whether a student may learn from it."""
        return self.lip_corr >= 0.8 and self.csim >= 0.9

    def __str__(self) -> str:
        return (
            f"lips r={self.lip_corr:.3f} (>= .8), amplitude {self.lip_amplitude:.2f}, "
            f"blinks {self.blinks:.2f} and head motion {self.head_motion:.2f} of true, "
            f"identity {self.csim:.3f} (>= .9), sharpness {self.sharpness:.2f}"
        )


@attrs.frozen(eq=False)
class TeacherGate:
    """Samples clips with a network and reads what they show."""

    eyes: ImageEncoder
    ears: MelConvEncoder
    decoder: Decoder[Any]
    readers: Readers
    num_steps: int
    shift: float
    guidance_weight: float
    precision: Precision = "float32"
    num_clips: int = 16
    num_latents: int = 12
    liveliness: float = 1.0
    """How far heads move and eyes glance in the true clips, as in those of training."""

    @torch.no_grad()
    def __call__(self, teacher: Trainable) -> TeacherReport:
        """Sample clips of people and voices that no training saw, and measure them."""
        made, clips = self.sample(teacher)
        return measure(made, clips, self.readers)

    @torch.no_grad()
    def sample(self, teacher: Trainable) -> tuple[Tensor, list[Clip]]:
        """Return frames uint8 ``[b, 4 f, H, W, 3]`` and the clips whose people speak in them."""
        synthesiser, length = Synthesiser(), 1 + 4 * self.num_latents
        clips = [
            sample_clip(
                synthesiser, seed, length, HELD_OUT_VOICES, self.liveliness, self._drives(seed)
            )
            for seed in range(_FIRST_SEED, _FIRST_SEED + self.num_clips)
        ]
        portrait = self.eyes.encode(torch.stack([c.portrait().permute(1, 2, 0) for c in clips]))
        samples = torch.stack([torch.from_numpy(clip.speech.samples) for clip in clips])
        given = Conditions(portrait, self.ears(samples)[:, 1:length])
        shape = (self.num_clips, self.num_latents, *portrait.shape[2:])
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        guidance = Guidance(self.guidance_weight, self.guidance_weight)
        velocity = guided_velocity(teacher, given, guidance, self.num_latents)
        with products_in(self.precision, "cpu"):
            ends = trajectory(velocity, noise, euler_grid(self.num_steps, self.shift), ())[:, -1]
        latents = torch.cat([portrait, ends], 1)
        frames, _ = self.decoder.step(self.decoder.open(self.num_clips), latents)
        return frames[:, 1:], clips

    def _drives(self, seed: int) -> Tensor:
        rng = torch.Generator().manual_seed(seed)
        return torch.randn(self.num_latents, len(DRIVES), generator=rng)


def measure(made: Tensor, clips: list[Clip], readers: Readers) -> TeacherReport:
    """Read frames uint8 ``[b, t, H, W, 3]`` that show frames 1 to t of these clips."""
    rows, lids = [], []
    for frames, clip in zip(made[:, _SKIPPED:], clips, strict=True):
        truth = clip.frames(slice(1 + _SKIPPED, None)).permute(0, 2, 3, 1)
        opening = clip.mouth[1 + _SKIPPED :, 0]
        mouths = readers.mouths(frames)[:, 0]
        (pose, who), (true_pose, _) = readers.faces(frames), readers.faces(truth)
        _, portrait = readers.faces(clip.portrait().permute(1, 2, 0)[None])
        lids.append([float((p[:, 7] > 0.5).float().mean()) for p in (pose, true_pose)])
        rows.append(
            [
                signals.correlation(mouths, opening),
                float(mouths.std() / opening.std()),
                float(pose[:, :2].std(0).norm()),
                float(true_pose[:, :2].std(0).norm()),
                float(torch.cosine_similarity(who[:: VIDEO_FPS // 5], portrait).mean()),
                signals.sharpness(frames) / signals.sharpness(truth),
            ]
        )
    lips, amplitude, motion, true_motion, csim, sharp = torch.tensor(rows).mean(0).tolist()
    shut, true_shut = torch.tensor(lids).mean(0).tolist()
    return TeacherReport(
        lips, amplitude, shut / max(true_shut, 1e-6), motion / max(true_motion, 1e-6), csim, sharp
    )
