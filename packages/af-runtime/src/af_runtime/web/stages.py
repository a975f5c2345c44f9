"""How long the stages of an avatar in this process worked on their latest block."""

import time
from collections.abc import Mapping
from typing import Any

import attrs
from af_core.pipeline import Avatar
from af_core.running import DecodeRunner, DenoiseRunner, HearRunner, ReviseRunner

NAN = float("nan")

ROLES: Mapping[type, str] = {
    HearRunner: "encode_ms",
    ReviseRunner: "encode_ms",
    DenoiseRunner: "denoise_ms",
    DecodeRunner: "decode_ms",
}


@attrs.frozen
class StageTimes:
    """Milliseconds for the latest block; NaN where it is not known, as of a worker elsewhere."""

    encode_ms: float = NAN
    denoise_ms: float = NAN
    decode_ms: float = NAN


UNKNOWN = StageTimes()


class StageClock:
    """Notes what the stages of one avatar take. ``watched`` returns the avatar to run."""

    def __init__(self) -> None:
        self.latest = UNKNOWN

    def watched(self, avatar: Avatar) -> Avatar:
        """Return the same avatar, each of its known stages timed."""
        runners = {name: self._watched(runner) for name, runner in avatar.runners.items()}
        return attrs.evolve(avatar, runners=runners)

    def note(self, role: str, seconds: float) -> None:
        """Take the time of one step of a stage."""
        self.latest = attrs.evolve(self.latest, **{role: seconds * 1e3})

    def _watched(self, runner: Any) -> Any:
        role = ROLES.get(type(runner))
        return runner if role is None else _Watched(runner, role, self)


@attrs.frozen
class _Watched:
    """A stage that tells the clock how long its step took, if it made something."""

    inner: Any
    role: str
    clock: StageClock

    def open(self, opening: Any) -> Any:
        return self.inner.open(opening)

    def step(self, state: Any, inputs: Any) -> Any:
        began = time.perf_counter()
        made, state = self.inner.step(state, inputs)
        if any(value.shape[1] for value in made.values()):
            self.clock.note(self.role, time.perf_counter() - began)
        return made, state

    def flush(self, state: Any) -> Any:
        return self.inner.flush(state)

    def snapshot(self, state: Any) -> Any:
        return self.inner.snapshot(state)

    def restore(self, saved: Any, reopening: Any) -> Any:
        return self.inner.restore(saved, reopening)
