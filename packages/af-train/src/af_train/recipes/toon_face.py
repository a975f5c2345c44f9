"""Train the face reader on rendered truth."""

import random
from pathlib import Path

import attrs
import torch
from torch import Tensor

from af_train.loop import FitConfig, Losses, fit
from af_train.metrics.face_reader import FaceReader, shrink
from af_train.worlds.toon import Identity, Motion, render, sample_identity, visemes
from af_train.worlds.toon.identity import stack
from af_train.worlds.toon.motion import sample_motion

NUM_TRAITS = 6 * 3 + len(attrs.fields(Identity)) - 6
"""Six colours and the numbers a person is drawn with."""


def traits(people: Identity) -> Tensor:
    """Return what people were drawn with, ``[n, k]``."""
    parts = [v if v.ndim == 2 else v[:, None] for v in people.values()]
    return torch.cat(parts, 1)


def face_images(num: int, seed: int, batch: int = 20) -> tuple[Tensor, Tensor, Tensor]:
    """Render small frames uint8 ``[n, 3, 64, 64]`` with their poses and traits."""
    rng, tensor_rng = random.Random(f"faces {seed}"), torch.Generator().manual_seed(seed)
    sounds = torch.tensor(sorted(set(visemes.TARGETS.values()) | {visemes.REST}))
    images, poses, people_traits = [], [], []
    for _ in range(num // batch):
        people = stack([sample_identity(rng) for _ in range(batch)])
        motion = sample_motion(torch.rand(batch * 40, generator=tensor_rng), tensor_rng)
        tracks = [track[::40] for track in motion.tracks()]
        lids = torch.rand(batch, generator=tensor_rng)
        tracks[7] = torch.where(
            torch.rand(batch, generator=tensor_rng) < 0.4, lids, torch.zeros(())
        )
        spread = Motion(*tracks)
        mouth = sounds[torch.randint(len(sounds), (batch,), generator=tensor_rng)]
        images.append((shrink(render(people, spread, mouth)) * 255).to(torch.uint8))
        poses.append(torch.stack(spread.tracks(), 1))
        people_traits.append(traits(people))
    return torch.cat(images), torch.cat(poses), torch.cat(people_traits)


def train_face_reader(
    directory: Path, *, steps: int = 2500, num_images: int = 10_000, seed: int = 0
) -> FaceReader:
    """Train on ``num_images`` people, each seen once."""
    torch.manual_seed(seed)
    images, poses, people = face_images(num_images, seed)
    reader = FaceReader(people.shape[1])
    reader.pose_mean.copy_(poses.mean(0))
    reader.pose_std.copy_(poses.std(0))
    mean, std = people.mean(0), people.std(0)

    def losses_at(step: int) -> Losses:
        rng = torch.Generator().manual_seed(seed * 1_000_003 + step)
        chosen = torch.randint(len(images), (64,), generator=rng)
        clean = images[chosen].float() / 255
        rough = clean + 0.02 * torch.randn(clean.shape, generator=rng)
        with torch.autocast("cpu", torch.bfloat16):
            pose, identity = reader(rough)
        pose_error = ((pose.float() - poses[chosen]) / reader.pose_std).square().mean()
        identity_error = (identity.float() - (people[chosen] - mean) / std).square().mean()
        return {"loss": pose_error + identity_error, "pose": pose_error, "identity": identity_error}

    reader.load_state_dict(fit(reader, losses_at, FitConfig(steps, learning_rate=2e-3), directory))
    return reader.eval().requires_grad_(False)
