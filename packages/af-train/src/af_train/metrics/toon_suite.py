"""The toon suite: an avatar speaks unseen sentences in unseen voices with unseen faces.

Mouths are read from the frames by a network that never saw a generated image, and compared with
the shapes that the speech was synthesised from. Nothing is estimated that the world knows exactly.
"""

from collections.abc import Callable

import attrs
import numpy as np
import torch
from af_core.geometry import AUDIO_HZ, VIDEO_FPS
from af_core.pipeline import Avatar
from torch import Tensor

from af_train.metrics import signals
from af_train.metrics.readers import Readers
from af_train.worlds.toon import Clip, Synthesiser, sample_clip
from af_train.worlds.toon.speech import HELD_OUT_VOICES

FIRST_SEED = 900_000_000
"""Seeds from here on are never trained on."""
SILENCE_S = 4
_NOISE_RATIO = 10 ** (-20 / 20)


@attrs.frozen
class ToonScores:
    """Means over clips, except where it says median."""

    num_clips: int
    duration_s: float
    lip_corr: float
    """Pearson's r between true mouth opening and the opening read from the frames."""
    lip_amplitude: float
    """Standard deviation of the opening, read over true."""
    av_offset_frames: float
    """Median lag of the mouth behind the sound, in frames."""
    silence_open: float
    """Mean opening of the last people of the suite in the second half of four silent seconds."""
    noise_20db_ratio: float
    """``lip_corr`` with white noise 20 dB below the speech, over ``lip_corr``, same clips."""
    delta_e_60s: float
    """CIEDE2000 of the mean colours of the first and the last second."""
    csim: float
    """Cosine of identity vectors, every second of video against the portrait."""
    border_jump: float
    """Change of the picture across block borders, over change inside blocks."""
    sharpness: float
    """Energy of the Laplacian, over that of the true frames."""
    blinks_per_min: float
    head_motion: float
    """Standard deviation of head position, over the true one."""


@attrs.frozen
class ClipScores:
    """What ``ToonScores`` are the means of."""

    lip_corr: float
    lip_amplitude: float
    lag: float
    delta_e: float
    csim: float
    border_jump: float
    sharpness: float
    blinks_per_min: float
    head_motion: float


@attrs.frozen(eq=False)
class Reading:
    """What the readers see in the frames of a clip."""

    opening: Tensor
    """Of the mouth, ``[t]``."""
    pose: Tensor
    """``[t, 9]``."""
    likeness: Tensor
    """Cosine of identity vectors against the portrait, ``[t]``."""


def evaluate_toon(
    avatar: Avatar,
    readers: Readers,
    *,
    num_clips: int = 32,
    duration_s: int = 60,
    batch: int = 4,
    progress: Callable[[int, int], None] = lambda done, total: None,
    keep_frames: Callable[[int, Clip, Tensor], None] = lambda index, clip, frames: None,
) -> ToonScores:
    """Score an avatar; ``keep_frames`` sees each clip and its frames uint8 ``[t, H, W, 3]``."""
    synthesiser = Synthesiser()
    clips: list[Clip] = []
    scores: list[ClipScores] = []
    noisy: list[tuple[float, float]] = []
    for first in range(0, num_clips, batch):
        seeds = range(FIRST_SEED + first, FIRST_SEED + min(first + batch, num_clips))
        clips = [
            sample_clip(synthesiser, s, duration_s * VIDEO_FPS, HELD_OUT_VOICES) for s in seeds
        ]
        frames = speak(avatar, clips, _samples(clips))
        for i, clip in enumerate(clips):
            seen = read_frames(clip, frames[i], readers)
            scores.append(score_clip(clip, frames[i], seen, avatar.info.frames_per_block))
            keep_frames(first + i, clip, frames[i])
        noisy += _with_noise(avatar, readers, clips, frames)
        progress(len(scores), num_clips)
    clean, rough = np.array(noisy).mean(0)
    return ToonScores(
        num_clips=num_clips,
        duration_s=duration_s,
        silence_open=silent_opening(avatar, readers, clips),
        noise_20db_ratio=float(rough / clean) if clean else 0.0,
        **_means(scores),
    )


def speak(avatar: Avatar, clips: list[Clip], samples: Tensor) -> Tensor:
    """Return frames uint8 ``[b, t, H, W, 3]`` of the clips' people saying ``samples [b, n]``."""
    portraits = torch.stack([c.portrait(avatar.info.height).permute(1, 2, 0) for c in clips])
    pieces = samples.split(AUDIO_HZ, 1)
    return torch.cat(list(avatar.stream(portraits, pieces, seed=[*range(len(clips))])), 1)


def silent_opening(avatar: Avatar, readers: Readers, clips: list[Clip]) -> float:
    """Return the mean mouth opening of all in the second half of ``SILENCE_S`` silent seconds."""
    frames = speak(avatar, clips, torch.zeros(len(clips), SILENCE_S * AUDIO_HZ))
    second_half = frames[:, SILENCE_S * VIDEO_FPS // 2 :].flatten(0, 1)
    return float(readers.mouths(second_half)[:, 0].mean())


def _samples(clips: list[Clip]) -> Tensor:
    return torch.stack([torch.from_numpy(clip.speech.samples) for clip in clips])


def _with_noise(
    avatar: Avatar, readers: Readers, clips: list[Clip], frames: Tensor
) -> list[tuple[float, float]]:
    """Return (clean, noisy) lip correlations over the first ten seconds of each clip."""
    length = min(10 * AUDIO_HZ, clips[0].speech.samples.size)
    samples = _samples(clips)[:, :length]
    level = samples.square().mean(1, keepdim=True).sqrt() * _NOISE_RATIO
    noise = torch.randn(samples.shape, generator=torch.Generator().manual_seed(0))
    rough = speak(avatar, clips, samples + level * noise)
    pairs = []
    for clip, clean_frames, rough_frames in zip(clips, frames, rough, strict=True):
        true = clip.mouth[: len(rough_frames), 0]
        clean = readers.mouths(clean_frames[: len(true)])[:, 0]
        pairs.append(
            (
                signals.correlation(clean, true),
                signals.correlation(readers.mouths(rough_frames)[:, 0], true),
            )
        )
    return pairs


def read_frames(clip: Clip, frames: Tensor, readers: Readers) -> Reading:
    """Read generated frames uint8 ``[t, H, W, 3]`` of a clip."""
    pose, identity = readers.faces(frames)
    _, portrait = readers.faces(clip.portrait(frames.shape[1]).permute(1, 2, 0)[None])
    likeness = torch.cosine_similarity(identity, portrait)
    return Reading(readers.mouths(frames)[:, 0], pose, likeness)


def score_clip(clip: Clip, frames: Tensor, seen: Reading, frames_per_block: int) -> ClipScores:
    """Score one clip by its frames uint8 ``[t, H, W, 3]`` and what was read in them."""
    true, made = clip.mouth[:, 0], seen.opening
    some = slice(0, 4 * VIDEO_FPS)
    truth = clip.frames(some, frames.shape[1]).permute(0, 2, 3, 1)
    travel = torch.stack([clip.motion.x.std(), clip.motion.y.std()]).norm()
    return ClipScores(
        lip_corr=signals.correlation(made, true),
        lip_amplitude=float(made.std() / true.std()),
        lag=float(signals.best_lag(made, true)),
        delta_e=signals.colour_drift(frames.numpy()),
        csim=float(seen.likeness[::VIDEO_FPS].mean()),
        border_jump=signals.border_jump(frames[: 20 * VIDEO_FPS], frames_per_block),
        sharpness=signals.sharpness(frames[-4 * VIDEO_FPS :]) / signals.sharpness(truth),
        blinks_per_min=signals.count_blinks(seen.pose[:, 7]) / (len(frames) / VIDEO_FPS / 60),
        head_motion=float(seen.pose[:, :2].std(0).norm() / travel),
    )


def _means(scores: list[ClipScores]) -> dict[str, float]:
    table = {
        f.name: np.array([getattr(s, f.name) for s in scores]) for f in attrs.fields(ClipScores)
    }
    means = {name: float(values.mean()) for name, values in table.items()}
    means["av_offset_frames"] = float(np.median(table["lag"]))
    means["delta_e_60s"] = means.pop("delta_e")
    del means["lag"]
    return means
