"""Clips of the toon world as an avatar plays them, beside the truth, for any metric."""

from collections.abc import Iterator

import torch
from af_core.geometry import VIDEO_FPS
from af_core.pipeline import Avatar

from af_train.metrics.contract import ClipPair
from af_train.metrics.toon_suite import FIRST_SEED, speak
from af_train.worlds.toon import Synthesiser, sample_clip
from af_train.worlds.toon.boxes import face_boxes, mouth_boxes
from af_train.worlds.toon.speech import HELD_OUT_VOICES


def toon_pairs(avatar: Avatar, num_clips: int, duration_s: int) -> Iterator[ClipPair]:
    """Let unseen people say unseen sentences in unseen voices, one clip after the other."""
    synthesiser = Synthesiser()
    size = avatar.info.height
    for seed in range(FIRST_SEED, FIRST_SEED + num_clips):
        clip = sample_clip(synthesiser, seed, duration_s * VIDEO_FPS, HELD_OUT_VOICES)
        samples = torch.from_numpy(clip.speech.samples)
        made = speak(avatar, [clip], samples[None])[0]
        true = clip.frames(size=size).permute(0, 2, 3, 1)
        boxes = face_boxes(clip, size), mouth_boxes(clip, size)
        yield ClipPair(made, true, *boxes, samples, f"toon {seed}")
