"""What the checks of snapshots share: a state that went through bytes."""

from typing import Any

from af_core.running import packages, restored, saved
from af_core.snapshots.value import Snapshot, SnapshotHeader

_HEADER = SnapshotHeader(
    preset="conformance",
    configuration="",
    weights="",
    num_streams=1,
    num_samples=0,
    num_frames=0,
    is_finished=False,
)


def carried(stage: Any, state: Any) -> Any:
    """Return the state of a stage after a snapshot, its form for wires, and back.

    Raises ``SnapshotError`` with the place of what cannot be put into a snapshot.
    """
    allowed = packages(stage) | {"af_core"}
    snapshot = Snapshot.of(_HEADER, {"state": saved(stage, state)}, allowed, "cpu")
    values = Snapshot.from_bytes(snapshot.to_bytes()).values(["state"], allowed, "cpu")
    return restored(stage, values["state"])
