"""Options of the metrics; no torch, so that plugins are listed without it."""

from typing import Annotated, Any, Literal

import msgspec
from af_core.errors import ConfigError
from af_core.plugins import BuildContext

Count = Annotated[int, msgspec.Meta(ge=1)]
Share = Annotated[float, msgspec.Meta(gt=0, le=1)]
Seconds = Annotated[float, msgspec.Meta(gt=0)]


class _Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What every table of options has in common: unknown names are refused."""


class FeatureOptions(_Options, frozen=True, forbid_unknown_fields=True):
    """The network whose features are compared."""

    weights: str | None = None
    """TorchScript file: Inception, I3D, ArcFace, whatever the metric's name promises. Without it,
    the small networks of the toon world are used, and names of numbers end in ``_toon``."""
    allow_torchscript: bool = False
    """TorchScript is a program, not a table of numbers. Say that you trust whoever made it."""
    size: Count = 299
    """Side of the pictures the file takes, in pixels."""
    margin: float = 0.0
    """Added to the longer side of a face's box before it is cropped, as a share of it."""
    lowest: float = 0.0
    """What black is to the file."""
    highest: float = 1.0
    """What white is to the file."""
    bgr: bool = False
    """Whether the file wants blue first."""

    def __post_init__(self) -> None:
        """Refuse a file that nobody vouches for, and settings without a file."""
        if self.weights is not None and not self.allow_torchscript:
            raise ConfigError(
                f"{self.weights} would be run, not only read: TorchScript is a program. If you "
                "trust whoever made it, set features.allow_torchscript: true."
            )
        if self.weights is None:
            fields = msgspec.structs.fields(self)
            if idle := [f.name for f in fields if getattr(self, f.name) != f.default]:
                raise ConfigError(
                    f"{', '.join(idle)} would have no effect: features.weights names no file."
                )


class FrechetOptions(_Options, frozen=True, forbid_unknown_fields=True):
    """FID: Frechet distance of features of frames, pooled over clips."""

    features: FeatureOptions = FeatureOptions()
    region: Literal["face", "frame"] = "face"
    """Crops by the true face's boxes, or whole frames squashed to a square."""
    every: Count = 5
    """Frames from one that is looked at to the next; neighbours tell nothing new."""
    num_resamples: int = 200
    """Bootstrap resamples of clips; each costs one decomposition of d x d matrices."""

    def build(self, context: BuildContext) -> Any:
        """Build the metric and load its network."""
        from af_train.metrics.distribution import FrameDistance
        from af_train.metrics.frechet import frechet_distance

        return FrameDistance.of("fid", frechet_distance, self, context)


class KernelOptions(FrechetOptions, frozen=True, forbid_unknown_fields=True):
    """KID: unbiased polynomial MMD of features of frames, pooled over clips."""

    def build(self, context: BuildContext) -> Any:
        """Build the metric and load its network."""
        from af_train.metrics.distribution import FrameDistance
        from af_train.metrics.frechet import kernel_distance

        return FrameDistance.of("kid", kernel_distance, self, context)


class VideoFrechetOptions(_Options, frozen=True, forbid_unknown_fields=True):
    """FVD: Frechet distance of features of short clips."""

    features: FeatureOptions = FeatureOptions()
    num_frames: Annotated[int, msgspec.Meta(ge=2)] = 16
    """Frames of one short clip."""
    stride: Count = 16
    """Frames from the start of one short clip to that of the next."""
    first: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Frame at which the first short clip starts."""
    most: Count | None = None
    """Short clips taken from each clip; all that fit, without it."""
    num_resamples: int = 200
    """Bootstrap resamples of clips."""

    def build(self, context: BuildContext) -> Any:
        """Build the metric and load its network."""
        from af_train.metrics.distribution import ClipDistance

        return ClipDistance.of(self, context)


class IdentityOptions(_Options, frozen=True, forbid_unknown_fields=True):
    """CSIM: cosine of identity vectors of aligned faces and of the first true face."""

    features: FeatureOptions = FeatureOptions()
    every: Count = 5
    """Frames from one that is looked at to the next."""
    last_share: Share = 1 / 6
    """Share of the clip that counts as Last: ten seconds of a minute."""

    def build(self, context: BuildContext) -> Any:
        """Build the metric and load its network."""
        from af_train.metrics.identity import Likeness

        return Likeness.aligned(self, context)


class FullFrameIdentityOptions(IdentityOptions, frozen=True, forbid_unknown_fields=True):
    """CSIM as some tables have it: whole frames squashed to a square, mostly a background score."""

    def build(self, context: BuildContext) -> Any:
        """Build the metric and load its network."""
        from af_train.metrics.identity import Likeness

        return Likeness.full_frame(self, context)


class SimilarityOptions(_Options, frozen=True, forbid_unknown_fields=True):
    """SSIM of generated and true frames, and of the region of the mouth."""

    every: Count = 5
    """Frames from one that is looked at to the next."""
    mouth: bool = True
    """Measure the mouth too; a clip without boxes of mouths is then skipped."""

    def build(self, context: BuildContext) -> Any:
        """Build the metric."""
        from af_train.metrics.similarity import Similarity

        return Similarity(self)


class SharpnessOptions(_Options, frozen=True, forbid_unknown_fields=True):
    """Energy of the Laplacian, over the truth's; of the frame and of the mouth."""

    every: Count = 5
    """Frames from one that is looked at to the next."""
    mouth: bool = True
    """Measure the mouth too; a clip without boxes of mouths is then skipped."""

    def build(self, context: BuildContext) -> Any:
        """Build the metric."""
        from af_train.metrics.similarity import Sharpness

        return Sharpness(self)


class ColourDriftOptions(_Options, frozen=True, forbid_unknown_fields=True):
    """CIEDE2000 of the face's mean colour against the first second, as Total and Last."""

    last_share: Share = 1 / 6
    """Share of the clip that counts as Last: ten seconds of a minute."""

    def build(self, context: BuildContext) -> Any:
        """Build the metric."""
        from af_train.metrics.stability import ColourDrift

        return ColourDrift(self)


class PerceptualOptions(_Options, frozen=True, forbid_unknown_fields=True):
    """The network of LPIPS. Without files, the shipped face reader stands in for it."""

    network: str | None = None
    """State dict of torchvision's AlexNet; safetensors, or a PyTorch file of tensors."""
    linear: str | None = None
    """LPIPS's weights of the channels for AlexNet, version 0.1."""

    def __post_init__(self) -> None:
        """Refuse one file without the other."""
        if (self.network is None) != (self.linear is None):
            raise ConfigError("LPIPS needs both files, network and linear, or neither.")


class FlickerOptions(_Options, frozen=True, forbid_unknown_fields=True):
    """Adj-LPIPS: perceptual distance of neighbouring frames' faces, as Total and Last."""

    features: PerceptualOptions = PerceptualOptions()
    size: Count = 128
    """Side of the crops of the face, in pixels."""
    margin: float = 0.0
    """Added to the longer side of the face's box, as a share of it."""
    last_share: Share = 1 / 6
    """Share of the clip that counts as Last: ten seconds of a minute."""

    def build(self, context: BuildContext) -> Any:
        """Build the metric and load its network."""
        from af_train.metrics.stability import Flicker

        return Flicker.of(self, context)


class DriftOptions(_Options, frozen=True, forbid_unknown_fields=True):
    """Another metric over windows of time: how its numbers move from the first to the last."""

    of: Literal["csim", "csim_fullframe", "sharpness", "ssim"] = "csim"
    """The metric, with its default options but every frame of a window."""
    window_s: Seconds = 1.0
    """Length of one window."""
    every_s: Seconds = 5.0
    """From the start of one window to that of the next."""

    def build(self, context: BuildContext) -> Any:
        """Build the metric within."""
        from af_core.geometry import VIDEO_FPS

        from af_train.metrics.stability import Drift

        inner = {
            "csim": IdentityOptions(every=1, last_share=1),
            "csim_fullframe": FullFrameIdentityOptions(every=1, last_share=1),
            "sharpness": SharpnessOptions(every=1, mouth=False),
            "ssim": SimilarityOptions(every=1, mouth=False),
        }[self.of]
        window, every = (max(1, round(s * VIDEO_FPS)) for s in (self.window_s, self.every_s))
        return Drift(inner.build(context), window, every)


class SyncOptions(_Options, frozen=True, forbid_unknown_fields=True):
    """Sync-C and Sync-D by SyncNet v2."""

    weights: str
    """The published ``syncnet_v2.model``, or the same tensors as safetensors."""
    padding: Literal["eval", "reward"] = "eval"
    """Beyond its ends, sound is zeros (``eval``), or only the overlap counts (``reward``)."""
    reach: Count = 15
    """Shifts up to this many frames either way are tried."""

    def build(self, context: BuildContext) -> Any:
        """Build the metric and load its network."""
        from af_train.metrics.sync import Sync

        return Sync.published(self, context)


class ToonSyncOptions(_Options, frozen=True, forbid_unknown_fields=True):
    """Sync-C and Sync-D of toon mouths, by the network that ``af-train run toon_sync`` trains."""

    weights: str | None = None
    """``toon_sync.safetensors`` in the directory of such a run; None: the network that comes with
    the package."""
    padding: Literal["eval", "reward"] = "reward"
    """Beyond its ends, sound is zeros (``eval``), or only the overlap counts (``reward``)."""
    reach: Count = 15
    """Shifts up to this many frames either way are tried."""

    def build(self, context: BuildContext) -> Any:
        """Build the metric and load its network."""
        from af_train.metrics.sync import Sync

        return Sync.toon(self, context)
