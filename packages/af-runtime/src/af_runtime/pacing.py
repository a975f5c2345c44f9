"""When frames are due: 25 slots a second from the first frame on. Pure values, no clock."""

import attrs
from af_core.geometry import VIDEO_FPS

SLOT_S = 1 / VIDEO_FPS


@attrs.frozen
class Pacer:
    """The slots of one session that keeps real time."""

    start_s: float
    """When slot 0 was due."""
    slots: int = 0
    """Slots that are over."""

    @property
    def due_s(self) -> float:
        """When the next frame is due."""
        return self.start_s + self.slots * SLOT_S

    def after(self) -> "Pacer":
        """Return the pacer one slot later."""
        return attrs.evolve(self, slots=self.slots + 1)

    def held(self, now_s: float) -> "Pacer":
        """Return a pacer whose next frame is due now: time has stood still until here."""
        return Pacer(start_s=now_s)
