"""What a metric is: it observes one clip at a time, and says what many observations amount to."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import attrs
import numpy as np
from af_core.errors import AvatarForcingError, ShapeError
from torch import Tensor


class UnmeasurableClipError(AvatarForcingError, ValueError):
    """A clip lacks what a metric needs; a suite counts it as skipped and says why."""


@attrs.frozen(eq=False)
class ClipPair:
    """A generated clip beside the true one. Both are cropped by the boxes of the truth.

    A face detector run on each apart would shift the crops by pixels, which costs more SSIM, FID
    and FVD than most methods differ by.
    """

    made: Tensor
    """Generated frames, uint8 ``[t, H, W, 3]``."""
    true: Tensor
    """True frames, uint8 ``[t, H, W, 3]``."""
    face_boxes: Tensor
    """Left, top, right and bottom of the true face in pixels, ``[t, 4]``."""
    mouth_boxes: Tensor | None = None
    """The same of the true mouth."""
    samples: Tensor | None = None
    """Speech, float32 ``[n]`` at 16 kHz in [-1, 1]; frame i spans samples 640 i to 640 i + 639."""
    name: str = ""
    """What reports call it."""

    def __attrs_post_init__(self) -> None:
        if self.made.ndim != 4 or self.made.shape != self.true.shape or self.made.shape[3] != 3:
            raise ShapeError(
                f"Clip {self.name!r}: made {list(self.made.shape)} and true "
                f"{list(self.true.shape)} must both be frames [t, H, W, 3]."
            )
        for boxes in (self.face_boxes, self.mouth_boxes):
            if boxes is not None and boxes.shape != (len(self.made), 4):
                raise ShapeError(
                    f"Clip {self.name!r}: boxes are [{len(self.made)}, 4], one a frame, "
                    f"not {list(boxes.shape)}."
                )

    def window(self, frames: slice) -> "ClipPair":
        """Return some of the frames, without sound."""
        mouths = None if self.mouth_boxes is None else self.mouth_boxes[frames]
        faces = self.face_boxes[frames]
        return ClipPair(self.made[frames], self.true[frames], faces, mouths, None, self.name)


class Metric(Protocol):
    """One idea of quality, with one or more numbers."""

    @property
    def num_resamples(self) -> int:
        """How many bootstrap resamples are affordable; each one calls ``summarise``."""
        ...

    def observe(self, clip: ClipPair) -> Any:
        """Return what has to be kept of one clip.

        Raises ``UnmeasurableClipError`` for a clip that lacks what is needed.
        """
        ...

    def summarise(self, observations: Sequence[Any]) -> Mapping[str, float]:
        """Return named numbers for one or more observations, in any order, with repeats."""
        ...


def mean_over_clips(observations: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of every number over clips."""
    return {name: float(np.mean([o[name] for o in observations])) for name in observations[0]}
