"""Clips of the toon world without speech synthesis: people who move their mouths, for metrics."""

import random

import torch
from af_train.metrics.contract import ClipPair
from af_train.worlds.toon import Speech, sample_identity
from af_train.worlds.toon.boxes import face_boxes, mouth_boxes
from af_train.worlds.toon.clip import Clip
from af_train.worlds.toon.motion import sample_motion


def silent_clip(seed, num_frames):
    """A person whose mouth opens and shuts at random; its speech is silence."""
    rng = torch.Generator().manual_seed(seed)
    mouth = torch.rand(num_frames, 5, generator=rng)
    motion = sample_motion(mouth[:, 0], torch.Generator().manual_seed(seed))
    samples = torch.zeros(640 * num_frames).numpy()
    return Clip(sample_identity(random.Random(seed)), Speech(samples, ()), mouth, motion)


def pair(clip, made=None):
    """A clip beside a version of itself, or beside the truth itself."""
    true = clip.frames().permute(0, 2, 3, 1)
    made = true if made is None else made(true)
    samples = torch.from_numpy(clip.speech.samples)
    return ClipPair(made, true, face_boxes(clip), mouth_boxes(clip), samples, "toon")


def noisy(level):
    """White noise of a standard deviation in levels of 255, always the same."""

    def spoil(frames):
        rng = torch.Generator().manual_seed(0)
        rough = frames + level * torch.randn(frames.shape, generator=rng)
        return rough.round().clamp(0, 255).to(torch.uint8)

    return spoil
