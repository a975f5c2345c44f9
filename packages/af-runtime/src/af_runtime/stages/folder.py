"""The private folder of a running worker: made for it alone, found and removed if it was killed."""

import fcntl
import os
import shutil
import tempfile
from pathlib import Path
from types import TracebackType

PREFIX = "af-"
LOCK = "lock"


class RunFolder:
    """A folder of mode 0700 for the sockets of one worker; gone when it is closed.

    Its owner holds a lock on a file in it, which the system gives back when the owner ends, in
    whatever way: a folder whose lock can be taken is left over from a worker that was killed.
    """

    def __init__(self, parent: Path | None = None) -> None:
        parent = parent or run_directory()
        self.removed = remove_stale(parent)
        """Folders of dead workers that were removed."""
        self.path = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=parent))
        unlocked = self.path / f"{LOCK}.new"
        self._lock = os.open(unlocked, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        unlocked.rename(self.path / LOCK)  # a lock that is seen is held

    def close(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def run_directory() -> Path:
    """Return where folders of running programs are kept: XDG_RUNTIME_DIR, or the temporary one."""
    named = os.environ.get("XDG_RUNTIME_DIR")
    is_usable = named and os.path.isdir(named) and os.access(named, os.W_OK)
    return Path(named) if named and is_usable else Path(tempfile.gettempdir())


def stale_folders(parent: Path) -> list[Path]:
    """Return the folders of workers that are no more."""
    mine = [p for p in parent.glob(f"{PREFIX}*-*") if p.is_dir() and _is_mine(p)]
    return [folder for folder in mine if _is_left(folder / LOCK)]


def remove_stale(parent: Path) -> list[Path]:
    """Remove the folders of workers that are no more, and return them."""
    stale = stale_folders(parent)
    for folder in stale:
        shutil.rmtree(folder, ignore_errors=True)
    return stale


def _is_mine(folder: Path) -> bool:
    number = folder.name.removeprefix(PREFIX).partition("-")[0]
    return number.isdigit() and folder.stat().st_uid == os.getuid()


def _is_left(lock: Path) -> bool:
    """Whether nobody holds the lock. A folder without one is being made, or being removed."""
    try:
        handle = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError:
        return False
    finally:
        os.close(handle)
