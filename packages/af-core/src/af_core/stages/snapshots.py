"""Snapshots: a stage that says itself how its state is put into a snapshot, and taken out."""

from typing import Any, Protocol, TypeVar, runtime_checkable

StateT = TypeVar("StateT")


@runtime_checkable
class Snapshots(Protocol[StateT]):
    """A stage whose state is more than tensors, numbers, containers and records of these.

    A record is an attrs class, a dataclass or a named tuple. States made of these need nothing.
    """

    def snapshot(self, state: StateT) -> Any:
        """Return the same as such a value."""
        ...

    def restore(self, saved: Any) -> StateT:
        """Return a state that goes on exactly as the one that was saved."""
        ...
