"""FID, KID and FVD: how far the distribution of generated features is from the true one."""

from collections.abc import Callable, Mapping, Sequence

import attrs
import numpy as np
from af_core.plugins import BuildContext
from numpy.typing import NDArray
from torch import Tensor

from af_train.metrics.contract import ClipPair, UnmeasurableClipError
from af_train.metrics.crops import crop, resize, squares
from af_train.metrics.features import ClipFeatures, FrameFeatures, clip_features, frame_features
from af_train.metrics.frechet import frechet_distance
from af_train.metrics.options import FrechetOptions, VideoFrechetOptions

Features = NDArray[np.float32]
Distance = Callable[[Features, Features], float]


@attrs.frozen
class Observed:
    """Features ``[n, d]`` of one clip, generated and true."""

    made: Features
    true: Features


@attrs.frozen
class FrameDistance:
    """FID or KID over the frames of all clips together, not a mean of distances of clips."""

    name: str
    distance: Distance
    features: FrameFeatures
    region: str
    every: int
    num_resamples: int

    @classmethod
    def of(
        cls, name: str, distance: Distance, options: FrechetOptions, context: BuildContext
    ) -> "FrameDistance":
        """Build it from options."""
        features = frame_features(options.features, context, "features")
        return cls(
            name + features.suffix,
            distance,
            features,
            options.region,
            options.every,
            options.num_resamples,
        )

    def observe(self, clip: ClipPair) -> Observed:
        """Return the features of every ``every``-th frame."""
        chosen = slice(None, None, self.every)
        where = squares(clip.face_boxes[chosen], self.features.margin)

        def look(frames: Tensor) -> Features:
            size = self.features.size
            face = self.region == "face"
            seen = crop(frames[chosen], where, size) if face else resize(frames[chosen], size)
            return self.features(seen).float().numpy()

        return Observed(look(clip.made), look(clip.true))

    def summarise(self, observations: Sequence[Observed]) -> Mapping[str, float]:
        """Return the distance of all generated from all true features."""
        return {self.name: _pooled(self.distance, observations)}


@attrs.frozen
class ClipDistance:
    """FVD over short clips cut out of all clips."""

    features: ClipFeatures
    options: VideoFrechetOptions

    @classmethod
    def of(cls, options: VideoFrechetOptions, context: BuildContext) -> "ClipDistance":
        """Build it from options."""
        return cls(clip_features(options.features, context), options)

    @property
    def num_resamples(self) -> int:
        """How many bootstrap resamples are made."""
        return self.options.num_resamples

    def observe(self, clip: ClipPair) -> Observed:
        """Return the features of the short clips."""
        return Observed(self._look(clip.made, clip.name), self._look(clip.true, clip.name))

    def summarise(self, observations: Sequence[Observed]) -> Mapping[str, float]:
        """Return the distance of all generated from all true features."""
        return {f"fvd{self.features.suffix}": _pooled(frechet_distance, observations)}

    def _look(self, frames: Tensor, name: str) -> Features:
        cut = self.options
        frames = frames[cut.first :]
        if len(frames) < cut.num_frames:
            raise UnmeasurableClipError(
                f"Clip {name!r} has {len(frames)} frames from frame {cut.first} on; FVD needs "
                f"{cut.num_frames}."
            )
        small = resize(frames, self.features.size)
        clips = small.unfold(0, cut.num_frames, cut.stride).movedim(-1, 1)[: cut.most]
        return self.features(clips).float().numpy()


def _pooled(distance: Distance, observations: Sequence[Observed]) -> float:
    return distance(
        np.concatenate([o.made for o in observations]),
        np.concatenate([o.true for o in observations]),
    )
