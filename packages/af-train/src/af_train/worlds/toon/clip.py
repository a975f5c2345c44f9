"""A clip: one person, one voice, a few seconds, with every ground-truth track."""

import random

import attrs
import torch
from af_core.geometry import VIDEO_FPS
from torch import Tensor

from af_train.worlds.toon import visemes
from af_train.worlds.toon.driven import driven_motion
from af_train.worlds.toon.identity import Identity, sample_identity
from af_train.worlds.toon.motion import Motion, sample_motion, still
from af_train.worlds.toon.renderer import TOON_SIZE, render
from af_train.worlds.toon.speech import TRAIN_VOICES, Speech, Synthesiser, random_speech


@attrs.frozen
class Clip:
    """Everything that is true of ``t`` frames: ``mouth`` is float ``[t, 5]`` (see ``visemes``)."""

    identity: Identity
    speech: Speech
    mouth: Tensor
    motion: Motion

    def __len__(self) -> int:
        return len(self.mouth)

    def frames(self, window: slice = slice(None), size: int = TOON_SIZE, batch: int = 32) -> Tensor:
        """Render frames uint8 ``[t, 3, size, size]``."""
        mouth, motion = self.mouth[window], self.motion[window]
        parts = []
        for start in range(0, len(mouth), batch):
            part = slice(start, start + batch)
            people = self.identity.repeat(len(mouth[part]))
            parts.append(to_bytes(render(people, motion[part], mouth[part], size)))
        return torch.cat(parts)

    def portrait(self, size: int = TOON_SIZE) -> Tensor:
        """Render the neutral portrait, uint8 ``[3, size, size]``."""
        rest = torch.tensor([visemes.REST])
        return to_bytes(render(self.identity, still(1), rest, size))[0]


def to_bytes(images: Tensor) -> Tensor:
    """Round images from 0..1 to uint8."""
    return (images * 255 + 0.5).to(torch.uint8)


def sample_clip(
    synthesiser: Synthesiser,
    seed: int,
    num_frames: int,
    voices: tuple[str, ...] = TRAIN_VOICES,
    liveliness: float = 1.0,
    drives: Tensor | None = None,
) -> Clip:
    """Return the clip of this seed. The identity depends on the seed alone, not on the length.

    ``liveliness`` scales motion that does not follow from the speech (see ``motion``). With
    ``drives``, these numbers decide it instead of the seed (see ``driven``).
    """
    identity = sample_identity(random.Random(f"identity {seed}"))
    rng = random.Random(f"speech {seed}")
    speech = random_speech(synthesiser, rng, num_frames / VIDEO_FPS, voices)
    mouth = torch.from_numpy(visemes.mouth_track(speech.phonemes, num_frames))
    if drives is None:
        motion = sample_motion(mouth[:, 0], torch.Generator().manual_seed(seed), liveliness)
    else:
        motion = driven_motion(mouth[:, 0], drives, liveliness)
    return Clip(identity, speech, mouth, motion)
