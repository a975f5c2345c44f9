"""What is measured of streams in the lamp world, where what should be made is known exactly."""

from collections.abc import Sequence

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from skimage.color import deltaE_ciede2000, rgb2lab
from torch import Tensor

from af_train.ablation.verdicts import Frechet, Means, Moments, Statistic
from af_train.metrics.tracks import LAST_SHARE
from af_train.plots import Curve
from af_train.worlds.lantern import LAMP_STD, LATENTS_PER_S, MOOD_MEMORY, MOOD_STD, Readings, read

NAMES = {
    "fid": "Frechet distance of single frames",
    "fvd": "Frechet distance of four frames",
    "csim": "cosine of the wall's colour and the portrait's",
    "sync_c": "r of the lamp with the true lamp",
    "sync_d": "RMS difference of the lamp from the true lamp",
    "delta_e": "CIEDE2000 of the wall against its first second",
    "adj_lpips": "RMS change of the wall between neighbours (true: 0)",
    "latency": "processor seconds a video frame, one stream",
}
MORE = {
    "lamp": "size of the lamp's movement, of the true",
    "mood": "size of the mood's movement, of the true",
    "jump": "change of the mood between neighbours, of the true",
}
_WINDOW_S = 10
_CLIP, _HOP = 4, 8
_TRUE_JUMP = MOOD_STD * (2 * (1 - MOOD_MEMORY)) ** 0.5


@attrs.frozen(eq=False)
class Tracks:
    """Numbers by moment, ``[clip, f]`` each."""

    csim: Tensor
    delta_e: Tensor
    change: Tensor
    """Mean squared change of the wall, ``[clip, f - 1]``."""


def tracks_of(made: Readings, portrait: Tensor) -> Tracks:
    """Return what is followed over time; ``portrait [clip, 3]`` is its colour."""
    likeness = torch.cosine_similarity(made.colour, portrait[:, None], dim=2)
    change = made.colour.diff(dim=1).square().mean(2)
    colours = rgb2lab((made.colour.double() / 3 + 0.5).clamp(0, 1).numpy())
    first = colours[:, : round(LATENTS_PER_S)].mean(1, keepdims=True)
    drift = deltaE_ciede2000(np.broadcast_to(first, colours.shape), colours)
    return Tracks(likeness, torch.from_numpy(drift), change)


def statistics(
    made: Sequence[Tensor], true: Tensor, latency_s: Sequence[float]
) -> tuple[dict[str, Statistic], dict[str, Statistic], dict[str, Curve]]:
    """Return the paper's columns, more numbers, and tracks.

    ``made`` holds frames ``[clip, f, 3, 2, 2]`` of every seed, ``true`` the same of the truth.
    """
    truth, seen = read(true), [read(frames) for frames in made]
    portrait = truth.colour[:, 0]
    tracks = [tracks_of(one, portrait) for one in seen]
    first = round(LATENTS_PER_S)
    columns: dict[str, Statistic] = {
        **_total_and_last("csim", [t.csim for t in tracks]),
        **_total_and_last("delta_e", [t.delta_e[:, first:] for t in tracks]),
        **_total_and_last("adj_lpips", [t.change for t in tracks], root=True),
        "sync_c": _means([correlations(one.lamp, truth.lamp) for one in seen]),
        "sync_d": _means([_rms(one.lamp - truth.lamp) for one in seen]),
        "fid": _frechet([_frame_features(f) for f in made], _frame_features(true)),
        "fvd": _frechet([_clip_features(s) for s in seen], _clip_features(truth)),
        "latency": Means(np.array(latency_s)[:, None].repeat(len(true), 1)),
    }
    more: dict[str, Statistic] = {
        "lamp": _means([one.lamp.std(1) / LAMP_STD for one in seen]),
        "mood": _means([_rms(one.mood) / MOOD_STD for one in seen]),
        "jump": _means([_rms(one.mood.diff(dim=1)) / _TRUE_JUMP for one in seen]),
    }
    return columns, more, _curves(tracks, seen, truth)


def correlations(a: Tensor, b: Tensor) -> Tensor:
    """Return Pearson's r over time of tracks ``[clip, f]``; 0 where either is constant."""
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1)).clamp(min=1e-12)


def _curves(tracks: list[Tracks], seen: list[Readings], truth: Readings) -> dict[str, Curve]:
    length = round(_WINDOW_S * LATENTS_PER_S)
    starts = range(0, truth.lamp.shape[1] - length + 1, length)
    parts = [slice(start, start + length) for start in starts]
    by_name = {
        "csim": [_mean([t.csim[:, p] for t in tracks]) for p in parts],
        "delta_e": [_mean([t.delta_e[:, p] for t in tracks]) for p in parts],
        "sync_c": [
            _mean([correlations(s.lamp[:, p], truth.lamp[:, p]) for s in seen]) for p in parts
        ],
        "jump": [_mean([_rms(s.mood[:, p].diff(dim=1)) / _TRUE_JUMP for s in seen]) for p in parts],
    }
    times = [(p.start + p.stop) / 2 / LATENTS_PER_S for p in parts]
    return {name: Curve(times, values) for name, values in by_name.items()}


def _total_and_last(name: str, tracks: list[Tensor], *, root: bool = False) -> dict[str, Statistic]:
    """Means over all moments and over the last sixth; the root of it for squares."""
    tail = max(1, round(LAST_SHARE * tracks[0].shape[1]))
    parts = {name: tracks, f"{name}_last": [track[:, -tail:] for track in tracks]}
    means = {key: [track.mean(1) for track in part] for key, part in parts.items()}
    return {key: _means([m.sqrt() if root else m for m in part]) for key, part in means.items()}


def _frame_features(frames: Tensor) -> Tensor:
    """Return all cells of every fourth frame, ``[clip, n, 12]``."""
    return frames[:, ::4].flatten(2)


def _clip_features(seen: Readings) -> Tensor:
    """Return colour, lamp and mood of four frames in a row, ``[clip, n, 20]``."""
    values = torch.cat([seen.colour, seen.lamp[..., None], seen.mood[..., None]], 2)
    return values.unfold(1, _CLIP, _HOP).flatten(2)


def _frechet(made: list[Tensor], true: Tensor) -> Frechet:
    repeated = true.double().numpy()[None].repeat(len(made), 0)
    return Frechet(Moments.of(torch.stack(made).double().numpy()), Moments.of(repeated))


def _means(values: list[Tensor]) -> Means:
    found: NDArray[np.float64] = torch.stack(values).double().numpy()
    return Means(found)


def _mean(values: list[Tensor]) -> float:
    return float(torch.stack([value.double().mean() for value in values]).mean())


def _rms(track: Tensor) -> Tensor:
    return track.square().mean(1).sqrt()
