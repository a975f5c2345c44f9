"""SSIM and sharpness of frames, whole and about the mouth, against the true frames."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

import attrs
import numpy as np
from numpy.typing import NDArray
from skimage.metrics import structural_similarity
from torch import Tensor

from af_train.metrics import signals
from af_train.metrics.contract import ClipPair, UnmeasurableClipError, mean_over_clips
from af_train.metrics.options import SharpnessOptions, SimilarityOptions

PictureT = TypeVar("PictureT", Tensor, NDArray[np.float64])
_SMALLEST = 7
"""Side of SSIM's window."""


@attrs.frozen
class Similarity:
    """Mean of scikit-image's SSIM map: uniform window of 7, each colour apart."""

    options: SimilarityOptions
    num_resamples: int = 1000

    def observe(self, clip: ClipPair) -> dict[str, float]:
        """Return the means over the frame, and over the mouth's box if there is one."""
        chosen = slice(None, None, self.options.every)
        maps = [
            similarity_map(made.numpy(), true.numpy())
            for made, true in zip(clip.made[chosen], clip.true[chosen], strict=True)
        ]
        found = {"ssim": float(np.mean([m.mean() for m in maps]))}
        if clip.mouth_boxes is not None:
            parts = [inside(m, b) for m, b in zip(maps, clip.mouth_boxes[chosen], strict=True)]
            found["ssim_mouth"] = float(np.mean([part.mean() for part in parts]))
        return found

    def summarise(self, observations: Sequence[Mapping[str, float]]) -> Mapping[str, float]:
        """Return means over clips."""
        return mean_over_clips(observations)


@attrs.frozen
class Sharpness:
    """Energy of the Laplacian of the luminance, over that of the true frames."""

    options: SharpnessOptions
    num_resamples: int = 1000

    def observe(self, clip: ClipPair) -> dict[str, float]:
        """Return the ratio over the frame, and over the mouth's box if there is one."""
        chosen = slice(None, None, self.options.every)
        made, true = clip.made[chosen], clip.true[chosen]
        found = {"sharpness": _ratio([made], [true], clip.name)}
        if clip.mouth_boxes is not None:
            boxes = clip.mouth_boxes[chosen]
            mouths = [
                [inside(f, b)[None] for f, b in zip(v, boxes, strict=True)] for v in (made, true)
            ]
            found["sharpness_mouth"] = _ratio(mouths[0], mouths[1], clip.name)
        return found

    def summarise(self, observations: Sequence[Mapping[str, float]]) -> Mapping[str, float]:
        """Return means over clips."""
        return mean_over_clips(observations)


def similarity_map(made: NDArray[np.uint8], true: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return SSIM about every pixel of ``[H, W, 3]``, as ``[H, W, 3]``."""
    if min(made.shape[:2]) < _SMALLEST:
        raise UnmeasurableClipError(
            f"SSIM needs frames of at least {_SMALLEST} pixels a side, not {made.shape[:2]}."
        )
    return structural_similarity(made, true, channel_axis=2, data_range=255, full=True)[1]


def inside(picture: PictureT, box: Tensor) -> PictureT:
    """Return the pixels ``[h, w, c]`` of a box that lie in the picture, at least one."""
    height, width = picture.shape[:2]
    left, top, right, bottom = box.round().long().tolist()
    left, top = min(max(left, 0), width - 1), min(max(top, 0), height - 1)
    return picture[top : max(bottom, top + 1), left : max(right, left + 1)]


def _ratio(made: Sequence[Tensor], true: Sequence[Tensor], name: str) -> float:
    truth = np.mean([signals.sharpness(part) for part in true])
    if not truth > 0:
        raise UnmeasurableClipError(f"The true frames of clip {name!r} are flat: no sharpness.")
    return float(np.mean([signals.sharpness(part) for part in made]) / truth)
