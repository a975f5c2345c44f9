"""Feature extractors: what crops of faces, whole frames or short clips are turned into."""

from pathlib import Path
from typing import Protocol

import attrs
import torch
from af_core.errors import WeightsError
from af_core.plugins import BuildContext
from torch import Tensor

from af_train.metrics.face_reader import shrink
from af_train.metrics.options import FeatureOptions
from af_train.metrics.readers import Readers, load_readers
from af_train.worlds.toon import Identity

_BATCH = 32
TOON = "_toon"
"""Suffix of every number that was measured with the small networks of the toon world."""


class FrameFeatures(Protocol):
    """Frames or crops uint8 ``[n, size, size, 3]`` to features float ``[n, d]``."""

    @property
    def size(self) -> int:
        """Side of the frames it takes, in pixels."""
        ...

    @property
    def margin(self) -> float:
        """How much is added to the longer side of a face's box, as a share of it."""
        ...

    @property
    def suffix(self) -> str:
        """What is appended to the name of a number: empty for the network the name promises."""
        ...

    def __call__(self, frames: Tensor, /) -> Tensor:
        """Return one row a frame."""
        ...


class ClipFeatures(Protocol):
    """Short clips uint8 ``[n, t, size, size, 3]`` to features float ``[n, d]``."""

    @property
    def size(self) -> int:
        """Side of the frames it takes, in pixels."""
        ...

    @property
    def suffix(self) -> str:
        """See ``FrameFeatures``."""
        ...

    def __call__(self, clips: Tensor, /) -> Tensor:
        """Return one row a clip."""
        ...


@attrs.frozen
class ToonFaces:
    """What the shipped face reader says of a person: its traits or what it reads them from.

    ``about`` is ``face`` (traits of the face and hair alone), ``figure`` (shirt, collar and
    background too) or ``features`` (the 192 values behind both).
    """

    readers: Readers
    about: str
    size: int = 128
    margin: float = 1 / 3
    """Makes the square about a toon face as large as the picture the reader was trained on."""
    suffix: str = TOON

    @torch.inference_mode()
    def __call__(self, frames: Tensor, /) -> Tensor:
        """Return ``[n, d]`` with d = 192 for ``features``, else the number of traits."""
        if self.about == "features":
            return torch.cat([self._features(part) for part in frames.split(_BATCH)])
        seen = self.readers.faces(frames)[1]
        return seen if self.about == "figure" else seen[:, _of_the_face()]

    def _features(self, frames: Tensor) -> Tensor:
        planes = frames.permute(0, 3, 1, 2).float() / 255
        return self.readers.face.features(shrink(planes) * 2 - 1)


def _of_the_face() -> Tensor:
    """Return the places, among the traits, of those that belong to face and hair."""
    elsewhere = {"shirt", "background", "collar"}
    colours = {"skin", "hair", "shirt", "background", "iris", "lips"}
    belongs = [
        field.name not in elsewhere
        for field in attrs.fields(Identity)
        for _ in range(3 if field.name in colours else 1)
    ]
    return torch.tensor(belongs).nonzero()[:, 0]


@attrs.frozen
class ToonClips:
    """How pose, lids, gaze and mouth move in a short clip: the toon stand-in for I3D.

    Mean, spread and mean change of the nine tracks of pose and the five of the mouth: 42 values,
    few enough for a covariance from a hundred short clips.
    """

    readers: Readers
    size: int = 128
    suffix: str = TOON

    def __call__(self, clips: Tensor, /) -> Tensor:
        """Return ``[n, 42]``."""
        num_clips, num_frames = clips.shape[:2]
        frames = clips.flatten(0, 1)
        tracks = torch.cat([self.readers.faces(frames)[0], self.readers.mouths(frames)], 1)
        tracks = tracks.unflatten(0, (num_clips, num_frames))
        change = tracks.diff(dim=1).abs().mean(1)
        return torch.cat([tracks.mean(1), tracks.std(1), change], 1)


@attrs.frozen
class TorchScriptFeatures:
    """A TorchScript file: pictures float ``[n, 3, ...]`` to ``[n, d]``.

    Frames arrive as ``[n, 3, size, size]``, clips as ``[n, 3, t, size, size]``.
    """

    network: torch.jit.ScriptModule
    options: FeatureOptions
    suffix: str = ""

    @property
    def size(self) -> int:
        """Side of the frames it takes, in pixels."""
        return self.options.size

    @property
    def margin(self) -> float:
        """How much is added to the longer side of a face's box."""
        return self.options.margin

    @torch.inference_mode()
    def __call__(self, frames: Tensor, /) -> Tensor:
        """Return one row of features a frame or clip."""
        return torch.cat([self.network(self._prepared(p)).flatten(1) for p in frames.split(_BATCH)])

    def _prepared(self, frames: Tensor) -> Tensor:
        low, high = self.options.lowest, self.options.highest
        values = frames.movedim(-1, 1).float() / 255 * (high - low) + low
        return values.flip(1) if self.options.bgr else values


def frame_features(options: FeatureOptions, context: BuildContext, about: str) -> FrameFeatures:
    """Return the extractor for frames or crops; ``about`` as in ``ToonFaces``."""
    if options.weights is None:
        return ToonFaces(load_readers(), about)
    return _torchscript(context.path(options.weights), options, context.device)


def clip_features(options: FeatureOptions, context: BuildContext) -> ClipFeatures:
    """Return the extractor for short clips."""
    if options.weights is None:
        return ToonClips(load_readers())
    return _torchscript(context.path(options.weights), options, context.device)


def _torchscript(path: Path, options: FeatureOptions, device: str) -> TorchScriptFeatures:
    if not path.is_file():
        raise WeightsError(f"{path} is not there; features.weights names a TorchScript file.")
    try:
        network = torch.jit.load(path, map_location=device)
    except RuntimeError as fault:
        raise WeightsError(
            f"{path} is no TorchScript file ({str(fault).partition(chr(10))[0]}). A state dict has "
            "no network in it: export one with torch.jit.trace(network, example).save(path)."
        ) from fault
    return TorchScriptFeatures(network.eval(), options)
