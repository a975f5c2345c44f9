"""CSIM: how much the generated face is like the true person's, and whether it stays so."""

from collections.abc import Mapping, Sequence

import attrs
import torch
from af_core.plugins import BuildContext
from torch import Tensor

from af_train.metrics.contract import ClipPair, mean_over_clips
from af_train.metrics.crops import crop, resize, squares
from af_train.metrics.features import FrameFeatures, frame_features
from af_train.metrics.options import IdentityOptions
from af_train.metrics.tracks import total_and_last


@attrs.frozen
class Likeness:
    """Cosine of identity vectors of generated frames and of the first true frame."""

    name: str
    features: FrameFeatures
    options: IdentityOptions
    is_aligned: bool
    num_resamples: int = 1000

    @classmethod
    def aligned(cls, options: IdentityOptions, context: BuildContext) -> "Likeness":
        """Look at crops of the face, by the boxes of the truth."""
        features = frame_features(options.features, context, "face")
        return cls("csim", features, options, True)

    @classmethod
    def full_frame(cls, options: IdentityOptions, context: BuildContext) -> "Likeness":
        """Look at whole frames squashed to a square, background and all."""
        features = frame_features(options.features, context, "figure")
        return cls("csim_fullframe", features, options, False)

    def observe(self, clip: ClipPair) -> dict[str, float]:
        """Return the mean over the whole clip, and over its last part."""
        chosen = slice(None, None, self.options.every)
        true = self._identities(clip.true[:1], clip.face_boxes[:1])
        made = self._identities(clip.made[chosen], clip.face_boxes[chosen])
        likeness = torch.cosine_similarity(made, true).numpy()
        return total_and_last(self.name, likeness, self.options.last_share, self.features.suffix)

    def _identities(self, frames: Tensor, boxes: Tensor) -> Tensor:
        size = self.features.size
        if self.is_aligned:
            return self.features(crop(frames, squares(boxes, self.features.margin), size))
        return self.features(resize(frames, size))

    def summarise(self, observations: Sequence[Mapping[str, float]]) -> Mapping[str, float]:
        """Return means over clips."""
        return mean_over_clips(observations)
