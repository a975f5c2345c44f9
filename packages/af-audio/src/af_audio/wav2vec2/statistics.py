"""How loud a stream has been so far: what a live encoder normalises with.

wav2vec 2.0 normalises twice over the whole clip: the samples, and every channel of the first
convolution (GroupNorm). A live encoder takes both statistics over all that it has heard. They
follow from very little: a channel of the convolution is a sum of ten neighbouring samples with
weights w, so its mean is w m and its second moment w M w', with m and M those of ten samples at
the convolution's stride. Means are kept, not sums, and counts are integers: nothing drifts.
"""

import attrs
import torch
from torch import Tensor, nn

from af_audio.wav2vec2.features import Gains


@attrs.frozen(eq=False)
class Heard:
    """Moments of everything heard so far, for a batch of streams; float64 where there is any."""

    num_samples: int
    mean: Tensor
    """Of the samples, ``[b]``."""
    square: Tensor
    """Mean square of the samples, ``[b]``."""
    num_taps: int
    taps: Tensor
    """Mean of what the first convolution multiplies by its k weights, ``[b, k]``."""
    products: Tensor
    """Mean of the products of any two of those, ``[b, k, k]``."""
    carry: Tensor
    """Samples that the next frame of the convolution begins with, ``[b, fewer than k]``."""

    @classmethod
    def nothing(cls, num_streams: int, kernel: int, device: torch.device) -> "Heard":
        """Return the moments before the first sample."""
        exact = torch.float32 if device.type == "mps" else torch.float64  # MPS has no float64

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(num_streams, *shape, dtype=exact, device=device)

        return cls(0, zeros(), zeros(), 0, zeros(kernel), zeros(kernel, kernel), zeros(0))

    @property
    def variance(self) -> Tensor:
        """Of the samples, ``[b]``."""
        return (self.square - self.mean.square()).clamp(min=0)

    def hearing(self, samples: Tensor, stride: int) -> "Heard":
        """Return the moments after more samples ``[b, n]``, n a multiple of ``stride``, n > 0."""
        new = samples.to(self.mean.dtype)
        joined = torch.cat([self.carry, new], dim=1)
        taps = joined.unfold(1, self.taps.shape[1], stride)
        num_samples, num_taps = self.num_samples + new.shape[1], self.num_taps + taps.shape[1]
        of_samples, of_taps = new.shape[1] / num_samples, taps.shape[1] / num_taps
        products = taps.transpose(1, 2) @ taps / taps.shape[1]
        return Heard(
            num_samples,
            torch.lerp(self.mean, new.mean(1), of_samples),
            torch.lerp(self.square, new.square().mean(1), of_samples),
            num_taps,
            torch.lerp(self.taps, taps.mean(1), of_taps),
            torch.lerp(self.products, products, of_taps),
            joined[:, taps.shape[1] * stride :].clone(),  # not a view that keeps all of it
        )

    def normalise(self, samples: Tensor, floor: float) -> Tensor:
        """Return samples ``[b, n]`` with the mean and variance of what was heard taken out."""
        scale = (self.variance + floor).rsqrt()
        return (samples - self.mean.to(samples)[:, None]) * scale.to(samples)[:, None]

    def gains(self, conv: nn.Conv1d, norm: nn.GroupNorm, floor: float) -> Gains:
        """Return what ``norm``, one group a channel, does to ``conv`` of normalised samples."""
        weights = conv.weight[:, 0].to(self.taps.dtype)
        scale = (self.variance + floor).rsqrt()[:, None]
        raw = self.taps @ weights.T
        square = ((weights @ self.products) * weights).sum(-1)
        variance = (square - raw.square()).clamp(min=0) * scale.square()
        mean = (raw - self.mean[:, None] * weights.sum(1)) * scale
        mean = mean if conv.bias is None else mean + conv.bias
        gain = norm.weight * (variance + norm.eps).rsqrt()
        offset = norm.bias - mean * gain
        return Gains(gain[..., None].to(conv.weight), offset[..., None].to(conv.weight))
