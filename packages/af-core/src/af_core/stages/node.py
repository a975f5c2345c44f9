"""Node: a stage of an integrator's own, anywhere in the graph."""

from collections.abc import Mapping
from typing import Protocol, TypeVar, runtime_checkable

from torch import Tensor

StateT = TypeVar("StateT")


@runtime_checkable
class Node(Protocol[StateT]):
    """Turns what arrives on its input ports into what leaves on its output ports.

    Tensors come by port name; the first axis is the stream, the second is time. A port on which
    nothing arrived in this step is absent. The result must not depend on how time is cut.
    """

    def open(self, num_streams: int) -> StateT:
        """Return the state before the first input."""
        ...

    def step(
        self, state: StateT, inputs: Mapping[str, Tensor]
    ) -> tuple[Mapping[str, Tensor], StateT]:
        """Take what arrived; return what is ready, by output port."""
        ...

    def flush(self, state: StateT) -> tuple[Mapping[str, Tensor], StateT]:
        """Return what is still owed at the end of the stream."""
        ...
