"""Sharing: stages that can work at once for streams which were opened one by one.

Both are offers: where a stage makes none, streams are served one after another.
"""

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

ConditionsT = TypeVar("ConditionsT")


@runtime_checkable
class SharesSteps(Protocol):
    """An audio encoder or decoder whose state is nothing but values of streams.

    Every tensor of it has the stream as its first axis, and a stream's results do not depend on
    what else is in the batch, up to rounding. `af_core.joining` then makes one batch of many.
    """

    @property
    def shares_steps(self) -> bool:
        """Whether it does."""
        ...


class SharedMemory(Protocol):
    """The memories of several streams during a step that they share."""

    def restore(self) -> None:
        """Undo what was written since it was made: the step has failed."""
        ...


@runtime_checkable
class SharesPasses(Protocol[ConditionsT]):
    """A denoiser that runs one pass for several streams, each with slots in a memory of its own.

    Its plans then have ``slots``, which say where in each memory the named slots are.
    """

    def join(self, conditions: Sequence[ConditionsT]) -> ConditionsT:
        """Return the conditions of a batch of these streams."""
        ...

    def share(self, memories: Sequence[Any]) -> SharedMemory:
        """Return a memory that reads from, and writes into, those of the streams."""
        ...
