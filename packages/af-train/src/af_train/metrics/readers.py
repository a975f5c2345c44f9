"""The shipped reading networks, and a convenient way to read whole videos."""

from importlib.resources import files

import attrs
import torch
from af_core.errors import ShapeError
from safetensors.torch import load
from torch import Tensor

from af_train.metrics.face_reader import FaceReader
from af_train.metrics.mouth_reader import MouthReader, mouth_crop
from af_train.worlds.toon import TOON_SIZE

_BATCH = 64


@attrs.frozen
class Readers:
    """A mouth reader and a face reader, validated on truth (see the model card)."""

    mouth: MouthReader
    face: FaceReader

    @torch.inference_mode()
    def mouths(self, frames: Tensor) -> Tensor:
        """Read mouth shapes ``[t, 5]`` from uint8 ``[t, 128, 128, 3]``."""
        if frames.shape[1:] != (TOON_SIZE, TOON_SIZE, 3):
            raise ShapeError(
                f"Mouths are read from frames [t, {TOON_SIZE}, {TOON_SIZE}, 3], "
                f"not {list(frames.shape)}."
            )
        return torch.cat([self.mouth(mouth_crop(part)) for part in _batches(frames)])

    @torch.inference_mode()
    def faces(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Read poses ``[t, 9]`` and identity vectors ``[t, k]`` from uint8 ``[t, H, W, 3]``."""
        pairs = [self.face(part) for part in _batches(frames)]
        return torch.cat([pose for pose, _ in pairs]), torch.cat([who for _, who in pairs])


def load_readers() -> Readers:
    """Load the readers that come with the package."""
    folder = files("af_train") / "metrics" / "weights"
    mouth_weights = load((folder / "mouth_reader.safetensors").read_bytes())
    face_weights = load((folder / "face_reader.safetensors").read_bytes())
    mouth = MouthReader()
    mouth.load_state_dict({k: v.float() for k, v in mouth_weights.items()})
    face = FaceReader(len(face_weights["traits.bias"]))
    face.load_state_dict({k: v.float() for k, v in face_weights.items()})
    return Readers(mouth.eval().requires_grad_(False), face.eval().requires_grad_(False))


def _batches(frames: Tensor) -> list[Tensor]:
    return [part.permute(0, 3, 1, 2).float() / 255 for part in frames.split(_BATCH)]
