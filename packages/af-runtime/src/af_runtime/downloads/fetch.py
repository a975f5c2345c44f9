"""Carries a plan out: every file fetched or linked, verified, and only then given its name."""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from af_core.weights.digest import git_sha1_of, sha256_of

from af_runtime.downloads.hub import HubFile, stream
from af_runtime.downloads.lock import Lock, LockedFile, write_lock
from af_runtime.downloads.plan import Item, Plan
from af_runtime.errors import DownloadError, RequestError, UnavailableError

PARTS = ".af-download"
"""Folder of files that are not whole yet, named by their digest."""

Doing = Literal["fetching", "verifying", "done"]
OnProgress = Callable[[Item, Doing, int], None]
"""Called with a file, what is being done with it, and how many of its bytes are there."""


def require_space(plan: Plan) -> None:
    """Raise ``UnavailableError`` if the disk is too small for what is missing."""
    place = next(path for path in (plan.folder, *plan.folder.parents) if path.exists())
    device = place.stat().st_dev
    needed = sum(bytes_to_come(plan, item) for item in plan.missing if not _linkable(item, device))
    free = shutil.disk_usage(place).free
    if needed > free:
        raise UnavailableError(
            f"The disk of {place} has {free / 1e9:.1f} GB free; {needed / 1e9:.1f} GB are still to "
            "be fetched. Give another folder with --to, or fewer parts with --only."
        )


def bytes_to_come(plan: Plan, item: Item) -> int:
    """Return how much of a file is not there, not even half fetched."""
    part = _part(plan.folder, item)
    there = part.stat().st_size if part.is_file() else 0
    return 0 if item.is_here else max(item.size - there, 0)


def fetch(plan: Plan, on_progress: OnProgress | None = None) -> Lock:
    """Bring every missing file of a plan; return the lock that stands in the folder afterwards.

    The lock file is rewritten after each file, so that a run that is stopped loses nothing and the
    next one takes the same commits. Raises ``DownloadError`` if a file does not arrive as the hub
    describes it, ``RequestError`` if another file stands in its place.
    """
    tell = on_progress or (lambda item, doing, done: None)
    with _written(plan.folder), _alone(plan.folder):
        lock = plan.lock
        write_lock(plan.folder, lock)
        for item in plan.missing:
            lock = lock.with_file(item.path, _bring(item, plan, tell))
            write_lock(plan.folder, lock)
        lock = lock.with_parts(plan.parts)
        write_lock(plan.folder, lock)
    shutil.rmtree(plan.folder / PARTS, ignore_errors=True)
    return lock


@contextmanager
def _written(folder: Path) -> Iterator[None]:
    """Make the folder, and say so if something cannot be written into it."""
    try:
        (folder / PARTS).mkdir(parents=True, exist_ok=True)
        yield
    except OSError as e:
        raise UnavailableError(f"Nothing more can be written to {folder}: {e.strerror}.") from e


def _bring(item: Item, plan: Plan, tell: OnProgress) -> LockedFile:
    target = plan.folder / item.path
    if target.exists() and not plan.lock.holds(plan.folder, item.path):
        sha256 = _require_same(target, item, tell)
    else:
        part = _part(plan.folder, item)
        _obtain(item, part, tell)
        sha256 = _verified(part, item, tell)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(part, target)
    tell(item, "done", item.size)
    digest = item.file.digest or sha256
    size = target.stat().st_size
    return LockedFile(item.part, item.source, item.file.name, item.commit, size, digest, sha256)


def _obtain(item: Item, part: Path, tell: OnProgress) -> None:
    """Make ``part`` whole: by a link into the cache of huggingface_hub, or from the hub."""
    if item.file.cached is not None:
        part.unlink(missing_ok=True)
        _link(item.file.cached.resolve(), part)
        return
    if part.is_file() and part.stat().st_size > item.size > 0:
        part.unlink()
    stream(item.repo, item.commit, item.file, part, lambda done: tell(item, "fetching", done))


def _link(source: Path, part: Path) -> None:
    try:
        os.link(source, part)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, part)


def _verified(part: Path, item: Item, tell: OnProgress) -> str:
    """Return the SHA-256 of a file that came; remove it and raise if it is another one."""
    sha256 = sha256_of(part, lambda done: tell(item, "verifying", done))
    if not _is(part, item.file, sha256):
        size, wanted = part.stat().st_size, (item.file.digest or "no digest")[:12]
        part.unlink()
        raise DownloadError(
            f"{item.file.name} of {item.repo} arrived damaged and was removed: {size} bytes, "
            f"SHA-256 {sha256[:12]}, where the hub says {item.file.size} bytes, {wanted}. Run the "
            "same command again."
        )
    return sha256


def _require_same(target: Path, item: Item, tell: OnProgress) -> str:
    """Return the SHA-256 of a file that somebody put there; refuse to replace another one."""
    sha256 = sha256_of(target, lambda done: tell(item, "verifying", done))
    if not _is(target, item.file, sha256):
        raise RequestError(
            f"{target} is there already and is not {item.file.name} of {item.repo}; move it away "
            "or give another folder."
        )
    return sha256


def _is(path: Path, file: HubFile, sha256: str) -> bool:
    if file.size is not None and path.stat().st_size != file.size:
        return False
    if file.digest is None:
        return True
    return file.digest == (sha256 if len(file.digest) == 64 else git_sha1_of(path))


def _part(folder: Path, item: Item) -> Path:
    name = item.file.digest or hashlib.sha256(f"{item.commit}/{item.path}".encode()).hexdigest()
    return folder / PARTS / f"{name}.part"


def _linkable(item: Item, device: int) -> bool:
    cached = item.file.cached
    return cached is not None and cached.exists() and cached.resolve().stat().st_dev == device


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep a second download out of the folder."""
    from filelock import FileLock, Timeout

    try:
        with FileLock(folder / PARTS / "lock", timeout=0):
            yield
    except Timeout as e:
        raise DownloadError(f"Another download is writing to {folder}; wait for it.") from e
