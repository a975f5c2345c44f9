"""What a run writes down: settings and machine, a history in lines, TensorBoard if wanted."""

import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import attrs
import msgspec
import torch
from af_core.errors import AvatarForcingError

from af_train.loop import append_record

RUN = "run.json"
EVENTS = "events"


class MissingExtraError(AvatarForcingError):
    """An option needs a package that is not installed."""


class Session(msgspec.Struct, frozen=True):
    """One start of a run."""

    started: str
    """When, in UTC, ISO 8601."""
    from_step: int
    """Steps that were done before it."""
    environment: dict[str, str]


class Run(msgspec.Struct, frozen=True):
    """What is known of a run besides its history: ``run.json`` of its directory."""

    settings: dict[str, Any]
    """Of the trainer."""
    samples: int
    """Samples of one update."""
    parameters: dict[str, int]
    """Weights of each role."""
    sessions: tuple[Session, ...]


@attrs.define(eq=False)
class Journal:
    """The written side of a run; the process that leads holds one, others an idle one."""

    directory: Path
    leads: bool = True
    writer: Any = None
    """A ``SummaryWriter``."""

    @classmethod
    def begin(
        cls,
        directory: Path,
        settings: msgspec.Struct,
        parameters: Mapping[str, int],
        *,
        samples: int,
        from_step: int,
        tensorboard: bool,
        leads: bool,
    ) -> "Journal":
        """Write down that a run begins or goes on. Raises ``MissingExtraError``."""
        if not leads:
            return cls(directory, leads)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        before = read_run(directory)
        made = Run(
            msgspec.to_builtins(settings),
            samples,
            dict(parameters),
            (*(before.sessions if before else ()), Session(now, from_step, environment())),
        )
        part = directory / f".{RUN}.part"
        part.write_bytes(msgspec.json.format(msgspec.json.encode(made)) + b"\n")
        part.replace(directory / RUN)
        writer = _writer(directory / EVENTS, from_step) if tensorboard else None
        return cls(directory, leads, writer)

    def write(self, record: Mapping[str, float]) -> None:
        """Add a line to the history, and a point to every curve of TensorBoard."""
        if not self.leads:
            return
        append_record(self.directory, dict(record))
        if self.writer is not None:
            for name, value in record.items():
                if name != "step":
                    self.writer.add_scalar(name, value, int(record["step"]))

    def close(self) -> None:
        """Write what is still held back."""
        if self.writer is not None:
            self.writer.close()


def read_run(directory: Path) -> Run | None:
    """Return what a run wrote down when it began; None if there is nothing or it is damaged."""
    try:
        return msgspec.json.decode((directory / RUN).read_bytes(), type=Run)
    except (OSError, msgspec.MsgspecError):
        return None


def environment() -> dict[str, str]:
    """Return what a number of this run may depend on: versions, machine, processes."""
    cuda = torch.cuda.is_available()
    return {
        "af-train": version("af-train"),
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "device": torch.cuda.get_device_name() if cuda else _processor(),
        "processes": os.environ.get("WORLD_SIZE", "1"),
        "threads": str(torch.get_num_threads()),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "CPU"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "CPU"


def _writer(folder: Path, from_step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingExtraError(
            "tensorboard=true needs the package tensorboard: pip install 'af-train[tensorboard]'. "
            f"The history is written without it, and `af-train report` reads that. ({error})"
        ) from error
    return SummaryWriter(str(folder), purge_step=from_step + 1)
