"""Sync-C and Sync-D: the metric over clips, for SyncNet v2 and for the toon stand-in."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import attrs
import torch
from af_core.geometry import SAMPLES_PER_FRAME
from af_core.plugins import BuildContext
from af_core.weights.checkpoints import read_checkpoint
from af_core.weights.files import load
from torch import Tensor

from af_train.metrics.contract import ClipPair, UnmeasurableClipError, mean_over_clips
from af_train.metrics.crops import crop, squares
from af_train.metrics.mfcc import mfcc_windows
from af_train.metrics.options import SyncOptions, ToonSyncOptions
from af_train.metrics.sync_scores import sync_scores
from af_train.metrics.syncnet import SIZE, WINDOW_FRAMES, SyncNet, load_syncnet
from af_train.metrics.toon_syncnet import ToonSync, ToonSyncNet, load_toon_syncnet

_MARGIN = 0.4
_SMOOTH = 13
_FRAMES_PER_CALL = 24
_WINDOWS_PER_CALL = 128


class SyncEmbedder(Protocol):
    """Embeds lips and sound in one space, one window a video frame."""

    @property
    def suffix(self) -> str:
        """What is appended to the names of numbers."""
        ...

    def lips(self, frames: Tensor, clip: ClipPair, /) -> Tensor:
        """Embed windows of 5 of the frames uint8 ``[t, H, W, 3]``: ``[t - 4, d]``.

        ``clip`` has as many frames; it tells where the face is.
        """
        ...

    def sound(self, samples: Tensor, /) -> Tensor:
        """Embed windows of samples ``[n]``, one every 640: ``[w, d]``."""
        ...


@attrs.frozen
class PublishedSync:
    """SyncNet v2 over crops of the whole face, as its evaluation cuts them."""

    network: SyncNet
    suffix: str = ""

    @torch.inference_mode()
    def lips(self, frames: Tensor, clip: ClipPair, /) -> Tensor:
        """Embed squares with a margin of .4, all of it below the box, smoothed over 13 frames."""
        where = squares(clip.face_boxes, _MARGIN, smooth=_SMOOTH, below=1.0)
        crops = crop(frames, where, SIZE).flip(-1)
        starts = range(0, len(crops) - WINDOW_FRAMES + 1, _FRAMES_PER_CALL)
        reach = _FRAMES_PER_CALL + WINDOW_FRAMES - 1
        parts = [crops[s : s + reach].permute(3, 0, 1, 2)[None].float() for s in starts]
        return torch.cat([self.network.see(part)[0] for part in parts])

    @torch.inference_mode()
    def sound(self, samples: Tensor, /) -> Tensor:
        """Embed MFCC windows."""
        parts = mfcc_windows(samples).split(_WINDOWS_PER_CALL)
        return torch.cat([self.network.hear(part) for part in parts])


@attrs.frozen
class Sync:
    """Sync-C, Sync-D and the offset of generated lips, and the same of the true ones."""

    embedder: SyncEmbedder
    options: SyncOptions | ToonSyncOptions
    num_resamples: int = 1000

    @classmethod
    def published(cls, options: SyncOptions, context: BuildContext) -> "Sync":
        """Load SyncNet v2 from the file of the options."""
        path = context.path(options.weights)
        return cls(PublishedSync(load_syncnet(read_checkpoint(path), str(path))), options)

    @classmethod
    def toon(cls, options: ToonSyncOptions, context: BuildContext) -> "Sync":
        """Load the toon SyncNet from the file of the options, or the shipped one."""
        if options.weights is None:
            return cls(ToonSync(load_toon_syncnet()), options)
        network = ToonSyncNet()
        load(network, context.path(options.weights))
        return cls(ToonSync(network.eval().requires_grad_(False)), options)

    def observe(self, clip: ClipPair) -> dict[str, float]:
        """Return the numbers of one clip.

        ``sync_shift`` is in video frames: positive when lips are early.
        """
        samples = speech_of(clip)
        heard = clip.window(slice(len(samples) // SAMPLES_PER_FRAME))
        sound = self.embedder.sound(samples)
        found: dict[str, float] = {}
        for who, frames in (("", heard.made), ("_true", heard.true)):
            lips = self.embedder.lips(frames, heard)
            scores = sync_scores(lips, sound, self.options.padding, self.options.reach)
            ending = f"{who}_{self.options.padding}{self.embedder.suffix}"
            found[f"sync_c{ending}"] = scores.confidence
            found[f"sync_d{ending}"] = scores.distance
            found[f"sync_shift{ending}"] = scores.shift
        return found

    def summarise(self, observations: Sequence[Mapping[str, float]]) -> Mapping[str, float]:
        """Return means over clips."""
        return mean_over_clips(observations)


def speech_of(clip: ClipPair) -> Tensor:
    """Return the samples that go with the frames, or say why there are not enough of either."""
    if clip.samples is None:
        raise UnmeasurableClipError(f"Clip {clip.name!r} has no sound.")
    num_frames = min(len(clip.made), len(clip.samples) // SAMPLES_PER_FRAME)
    if num_frames < WINDOW_FRAMES:
        raise UnmeasurableClipError(
            f"Clip {clip.name!r} has {len(clip.made)} frames and {len(clip.samples)} samples; "
            f"sync takes {WINDOW_FRAMES} frames with their sound."
        )
    return clip.samples[: len(clip.made) * SAMPLES_PER_FRAME]
