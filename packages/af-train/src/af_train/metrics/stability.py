"""Long clips: colour that drifts, flicker between neighbours, any metric over windows of time."""

from collections.abc import Mapping, Sequence

import attrs
import numpy as np
from af_core.geometry import VIDEO_FPS
from af_core.plugins import BuildContext
from numpy.typing import NDArray
from skimage.color import deltaE_ciede2000, rgb2lab
from torch import Tensor

from af_train.metrics.contract import ClipPair, Metric, UnmeasurableClipError, mean_over_clips
from af_train.metrics.crops import crop, squares
from af_train.metrics.options import ColourDriftOptions, FlickerOptions
from af_train.metrics.perceptual import PerceptualDistance, perceptual_distance
from af_train.metrics.tracks import slope_per_minute, total_and_last

_CROP = 128


@attrs.frozen
class ColourDrift:
    """CIEDE2000 of the mean colour of the face against that of the first second of the clip."""

    options: ColourDriftOptions
    num_resamples: int = 1000

    def observe(self, clip: ClipPair) -> dict[str, float]:
        """Return the mean over all frames after the first second, and over the last part."""
        _require_frames(clip, 2 * VIDEO_FPS)
        faces = crop(clip.made, squares(clip.face_boxes), _CROP)
        track = colour_distances(faces)[VIDEO_FPS:]
        return total_and_last("delta_e", track, self.options.last_share)

    def summarise(self, observations: Sequence[Mapping[str, float]]) -> Mapping[str, float]:
        """Return means over clips."""
        return mean_over_clips(observations)


@attrs.frozen
class Flicker:
    """Adj-LPIPS: the perceptual distance of each frame's face from the next one's."""

    distance: PerceptualDistance
    options: FlickerOptions
    num_resamples: int = 1000

    @classmethod
    def of(cls, options: FlickerOptions, context: BuildContext) -> "Flicker":
        """Build it from options."""
        return cls(perceptual_distance(options.features, context), options)

    def observe(self, clip: ClipPair) -> dict[str, float]:
        """Return the mean over all pairs of neighbours and over the last part, and the truth's."""
        _require_frames(clip, 2)
        where = squares(clip.face_boxes, self.options.margin)
        found: dict[str, float] = {}
        for name, frames in (("adj_lpips", clip.made), ("adj_lpips_true", clip.true)):
            faces = crop(frames, where, self.options.size)
            track = self.distance(faces[:-1], faces[1:]).numpy()
            found |= total_and_last(name, track, self.options.last_share, self.distance.suffix)
        return found

    def summarise(self, observations: Sequence[Mapping[str, float]]) -> Mapping[str, float]:
        """Return means over clips."""
        return mean_over_clips(observations)


@attrs.frozen
class Drift:
    """Another metric over windows of time: how its numbers move within a clip."""

    metric: Metric
    window: int
    """Frames of one window."""
    every: int
    """Frames from the start of one window to that of the next."""
    num_resamples: int = 1000

    def observe(self, clip: ClipPair) -> dict[str, float]:
        """Return the last window minus the first, and the slope a minute, of every number."""
        starts = range(0, len(clip.made) - self.window + 1, self.every)
        if len(starts) < 2:
            raise UnmeasurableClipError(
                f"Clip {clip.name!r} has {len(clip.made)} frames; drift needs two windows of "
                f"{self.window} frames, {self.every} apart."
            )
        seen = [self.metric.observe(clip.window(slice(s, s + self.window))) for s in starts]
        windows = [self.metric.summarise([one]) for one in seen]
        times_s = [start / VIDEO_FPS for start in starts]
        found: dict[str, float] = {}
        for name in windows[0]:
            values = [window[name] for window in windows]
            found[f"{name}_change"] = values[-1] - values[0]
            found[f"{name}_per_min"] = slope_per_minute(times_s, values)
        return found

    def summarise(self, observations: Sequence[Mapping[str, float]]) -> Mapping[str, float]:
        """Return means over clips."""
        return mean_over_clips(observations)


def colour_distances(faces: Tensor) -> NDArray[np.float64]:
    """Return CIEDE2000 ``[t]`` of mean colours of uint8 ``[t, h, w, 3]`` against second one."""
    means = faces.flatten(1, 2).double().mean(1).numpy() / 255
    colours = rgb2lab(means[:, None])[:, 0]
    first = rgb2lab(means[:VIDEO_FPS].mean(0)[None, None])[0, 0]
    return deltaE_ciede2000(np.broadcast_to(first, colours.shape), colours)


def _require_frames(clip: ClipPair, least: int) -> None:
    if len(clip.made) < least:
        raise UnmeasurableClipError(
            f"Clip {clip.name!r} has {len(clip.made)} frames; this takes {least} or more."
        )
