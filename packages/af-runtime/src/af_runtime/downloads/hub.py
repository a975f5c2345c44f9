"""All that is asked of the Hugging Face hub: what a repository holds, and bytes of its files.

The endpoint, token, cache and offline switch are those of huggingface_hub (``HF_ENDPOINT``,
``HF_TOKEN``, ``HF_HOME``, ``HF_HUB_OFFLINE``). Files are streamed by its ``http_get``, which tries
again when a connection breaks; a file that was left half goes on in the next run.
"""

import errno
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

import attrs

from af_runtime.errors import AccessError, DownloadError, RequestError, UnavailableError

OnBytes = Callable[[int], None]
"""Called with the bytes of a file that are there."""

_LATER = "Run the same command again; files go on where they stopped."
_OF_THE_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}
_HEXADECIMAL = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


@attrs.frozen
class HubFile:
    """A file of a repository at one commit."""

    name: str
    size: int | None
    digest: str | None
    """SHA-256 of a large file, git's SHA-1 of a small one."""
    cached: Path | None = None
    """Where it lies in the cache of huggingface_hub, if it does."""


@attrs.frozen
class Listing:
    """What a repository holds at one commit."""

    repo: str
    commit: str
    files: tuple[HubFile, ...]
    licence: str | None = None
    """Licence in the header of its card, if it names one."""


def require_hub() -> None:
    """Raise ``UnavailableError`` if huggingface_hub is not installed."""
    if find_spec("huggingface_hub") is None:
        raise UnavailableError(
            "Downloading needs huggingface_hub, which is not installed: "
            "pip install 'af-runtime[published]'"
        )


def default_folder(name: str) -> Path:
    """Return where a checkpoint goes unless a folder is named: under ``HF_HOME``."""
    from huggingface_hub import constants

    return Path(constants.HF_HOME) / "af-runtime" / name


def is_offline() -> bool:
    """Return whether the environment forbids going online (``HF_HUB_OFFLINE``)."""
    from huggingface_hub import constants

    return bool(constants.is_offline_mode())


def list_online(repo: str, revision: str) -> Listing:
    """Ask the hub what a repository holds at a branch, tag or commit."""
    from huggingface_hub import HfApi, try_to_load_from_cache

    with _explained(repo, revision):
        info = HfApi().model_info(repo, revision=revision, files_metadata=True)
    commit = info.sha or revision
    files = []
    for entry in info.siblings or ():
        digest = _checked(entry.lfs.sha256 if entry.lfs else entry.blob_id)
        found = try_to_load_from_cache(repo, entry.rfilename, revision=commit)
        cached = Path(found) if isinstance(found, str) else None
        files.append(HubFile(entry.rfilename, entry.size, digest, cached))
    licence = getattr(info.card_data, "license", None)
    return Listing(repo, commit, tuple(files), str(licence) if licence else None)


def list_cached(repo: str, revision: str) -> Listing | None:
    """Return what the cache of huggingface_hub holds of a repository; None if nothing."""
    from huggingface_hub import constants, scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        there = scan_cache_dir(constants.HF_HUB_CACHE).repos
    except CacheNotFound:
        return None
    repos = [found for found in there if found.repo_id == repo and found.repo_type == "model"]
    for kept in (kept for found in repos for kept in found.revisions):
        if revision == kept.commit_hash or revision in kept.refs:
            files = sorted(kept.files, key=lambda file: str(file.file_path))
            return Listing(
                repo, kept.commit_hash, tuple(_cached(file, kept.snapshot_path) for file in files)
            )
    return None


def stream(repo: str, commit: str, file: HubFile, part: Path, on_bytes: OnBytes) -> None:
    """Append to ``part`` what it lacks of a file of a repository.

    A connection that breaks is tried again a few times; then ``DownloadError`` is raised, and
    ``part`` keeps what has arrived.
    """
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    url = hf_hub_url(repo, file.name, revision=commit)
    with part.open("ab") as out, _explained(repo, commit, file.name):
        counted: Any = _Counted(out, on_bytes)
        no_bar: Any = _NoBar
        http_get(
            url,
            counted,
            resume_size=out.tell(),
            headers=build_hf_headers(library_name="af-runtime"),
            expected_size=file.size,
            tqdm_class=no_bar,
        )


class _Counted:
    """A file that tells how long it has become."""

    def __init__(self, file: IO[bytes], on_bytes: OnBytes) -> None:
        self._file = file
        self._on_bytes = on_bytes

    def write(self, data: bytes) -> int:
        written = self._file.write(data)
        self._on_bytes(self._file.tell())
        return written

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


class _NoBar:
    """What http_get asks of a progress bar; ours is drawn elsewhere."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        pass

    def __enter__(self) -> "_NoBar":
        return self

    def __exit__(self, *fault: object) -> None:
        pass

    def update(self, count: float | None = 1) -> None:
        pass


def _cached(file: Any, snapshot: Path) -> HubFile:
    """Return a file of the cache; there, blobs are named by their digest."""
    path = Path(file.file_path)
    digest = _checked(Path(file.blob_path).name)
    return HubFile(path.relative_to(snapshot).as_posix(), file.size_on_disk, digest, path)


def _checked(digest: str | None) -> str | None:
    """Return a digest if it is one: it becomes the name of a file here."""
    return digest if digest and _HEXADECIMAL.fullmatch(digest) else None


@contextmanager
def _explained(repo: str, revision: str, file: str = "") -> Iterator[None]:
    """Turn what huggingface_hub raises into what a user can act on."""
    from huggingface_hub import errors

    what = f"{file} of {repo}" if file else repo
    try:
        yield
    except errors.GatedRepoError as e:
        raise AccessError(
            f"{repo} wants its conditions accepted first: do so on its page on the hub, then set "
            "HF_TOKEN or run `hf auth login`."
        ) from e
    except errors.RevisionNotFoundError as e:
        raise RequestError(f"{repo} has no branch, tag or commit {revision!r}.") from e
    except errors.EntryNotFoundError as e:
        raise RequestError(f"{repo} has no file {file!r} at {revision}.") from e
    except errors.RepositoryNotFoundError as e:
        raise AccessError(
            f"The hub shows no repository {repo}: it was renamed or removed, or is private. If you "
            "have access to it, set HF_TOKEN or run `hf auth login`."
        ) from e
    except errors.HfHubHTTPError as e:
        status = e.response.status_code if e.response is not None else "no status"
        kind = AccessError if status in (401, 403) else DownloadError
        raise kind(f"The hub answered {status} when asked for {what}. {_LATER}") from e
    except Exception as e:
        # The other base is HTTPError of whichever httpx the installed version is built on.
        if not isinstance(e, errors.HfHubHTTPError.__bases__):
            raise
        if isinstance(e, OSError) and e.errno in _OF_THE_DISK:
            raise UnavailableError(f"{what} could not be written: {e.strerror}.") from e
        reason = str(e) or type(e).__name__
        raise DownloadError(f"Could not fetch {what}: {reason}. {_LATER}") from e
