"""Tells sound from silence at a microphone, so that an utterance begins and ends by itself.

A level gate, no recogniser of voices: it opens when a piece is loud, lets a little through of what
came before, and closes after a pause. While it is closed the avatar idles and any delay that has
gathered is gone.
"""

import attrs
import numpy as np
from numpy.typing import NDArray

LOUD = 0.01
"""Root mean square of a piece that opens the gate: -40 dB of full scale."""

BEFORE_S = 0.2
PAUSE_S = 0.7

Sound = NDArray[np.float32]
NOTHING = np.zeros(0, np.float32)


@attrs.frozen(eq=False)
class Gate:
    """What the gate remembers."""

    sample_rate: int
    is_open: bool = False
    quiet: int = 0
    """Samples since it was last loud."""
    before: Sound = NOTHING
    """The latest sound while closed, float32 [n]."""

    def hear(self, sound: Sound) -> tuple["Gate", Sound, bool]:
        """Take a piece, float32 [n]; return the gate, what is let through, and if that is all."""
        is_loud = bool(len(sound)) and float(np.sqrt(np.mean(np.square(sound)))) >= LOUD
        if not self.is_open and not is_loud:
            kept = np.concatenate([self.before, sound])[-round(BEFORE_S * self.sample_rate) :]
            return attrs.evolve(self, before=kept), NOTHING, False
        quiet = 0 if is_loud else self.quiet + len(sound)
        if quiet >= PAUSE_S * self.sample_rate:
            return Gate(self.sample_rate), sound, True
        through = sound if self.is_open else np.concatenate([self.before, sound])
        return attrs.evolve(self, is_open=True, quiet=quiet, before=NOTHING), through, False
