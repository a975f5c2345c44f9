"""An avatar in several processes, as the one who runs it sees it."""

import attrs
from af_core.pipeline import Avatar

from af_runtime.stages.folder import RunFolder
from af_runtime.stages.ring import Ring
from af_runtime.stages.supervisor import Supervisor


@attrs.define(eq=False)
class Staged:
    """An avatar that is drawn by other processes, and what it has of them."""

    avatar: Avatar
    supervisor: Supervisor
    ring: Ring
    folder: RunFolder

    @property
    def num_stages(self) -> int:
        """Processes that can work at the same time."""
        return len(self.supervisor.processes)

    def close(self) -> None:
        """End the stages and give back all they had."""
        self.supervisor.close()
        self.ring.close()
        self.folder.close()

    def __enter__(self) -> "Staged":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
