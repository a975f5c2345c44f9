"""What a download will do, file by file, decided before a single one is fetched."""

from collections.abc import Collection, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

import attrs
from af_core.problems import did_you_mean

from af_runtime.downloads.hub import HubFile, Listing, list_cached, list_online
from af_runtime.downloads.lock import Lock, LockedSource, read_lock
from af_runtime.downloads.manifest import Manifest, Wanted
from af_runtime.errors import RequestError, UnavailableError

LICENCES = "licences"
"""Part and folder of the licence files and cards, which come with every part."""

_PAPERS = ("LICEN[CS]E*", "NOTICE*", "README.md")


@attrs.frozen
class Item:
    """One file and where it goes."""

    part: str
    source: str
    repo: str
    commit: str
    file: HubFile
    path: str
    """Path in the folder."""
    is_here: bool = False
    """Whether it is there already, verified when it came."""

    @property
    def size(self) -> int:
        """Bytes, 0 if the hub does not tell."""
        return self.file.size or 0


@attrs.frozen
class Plan:
    """Every file of the parts that were asked for."""

    manifest: Manifest
    folder: Path
    parts: tuple[str, ...]
    items: tuple[Item, ...]
    lock: Lock
    """What will stand in the folder before the first file is fetched."""
    licences: Mapping[str, str]
    """What the card on the hub says, by source, as far as it was asked."""

    @property
    def missing(self) -> tuple[Item, ...]:
        """Files that are not there yet."""
        return tuple(item for item in self.items if not item.is_here)

    def of(self, part: str) -> tuple[Item, ...]:
        """Return the files of a part."""
        return tuple(item for item in self.items if item.part == part)


def make_plan(
    manifest: Manifest,
    folder: Path,
    *,
    only: Collection[str] = (),
    revisions: Mapping[str, str] | None = None,
    names: Mapping[str, str] | None = None,
    offline: bool = False,
) -> Plan:
    """Ask the hub, or offline its cache, what is to be fetched into a folder.

    ``only`` names parts (none: all but those on request), ``revisions`` maps sources to a branch,
    tag or commit, and ``names`` maps parts of one file to its name in the repository, where the
    manifest's guess is wrong. Parts that are there whole are not asked about again, unless a
    revision is given; then and otherwise the commits in the lock file are taken.
    """
    revisions, names = revisions or {}, names or {}
    usual = tuple(name for name, part in manifest.parts.items() if not part.on_request)
    parts = _known(only, manifest.parts, "part") or usual
    _known(revisions, manifest.sources, "source")
    _known(names, manifest.parts, "part")
    lock = read_lock(folder, manifest.name)
    items: list[Item] = []
    licences: dict[str, str] = {}
    for source in dict.fromkeys(manifest.parts[part].source for part in parts):
        own = [part for part in parts if manifest.parts[part].source == source]
        if source not in revisions and all(lock.holds_part(folder, part) for part in own):
            items += _locked(lock, source, [*own, LICENCES])
            continue
        listing, lock = _listing(manifest, source, lock, revisions.get(source), offline)
        lock = lock.without_parts(own)
        licences |= {source: listing.licence} if listing.licence else {}
        items += _papers(source, listing, lock, folder)
        for part in own:
            wanted = _named(manifest.parts[part].files, names.get(part), part)
            items += _matched(part, source, listing, wanted, lock, folder)
    return Plan(manifest, folder, parts, tuple(items), lock, licences)


def _known(names: Collection[str], known: Collection[str], what: str) -> tuple[str, ...]:
    for name in names:
        if name not in known:
            close = did_you_mean(name, known)
            hint = f" Did you mean {close}?" if close else ""
            raise RequestError(f"There is no {what} {name!r}.{hint} There are: {', '.join(known)}.")
    return tuple(name for name in known if name in names)


def _locked(lock: Lock, source: str, parts: Collection[str]) -> Iterator[Item]:
    """Yield the files of whole parts as the lock file knows them."""
    at = lock.sources[source]
    for path, file in lock.files.items():
        if file.source == source and file.part in parts:
            there = HubFile(file.file, file.size, file.digest)
            yield Item(file.part, source, at.repo, file.commit, there, path, is_here=True)


def _listing(
    manifest: Manifest, source: str, lock: Lock, revision: str | None, offline: bool
) -> tuple[Listing, Lock]:
    """Return what a repository holds, and the lock with the commit at which it does."""
    known, locked = manifest.sources[source], lock.sources.get(source)
    asked = revision or (locked.asked if locked else known.revision)
    at = revision or (locked.commit if locked else known.revision)
    listing = list_cached(known.repo, at) if offline else list_online(known.repo, at)
    if listing is None:
        raise UnavailableError(
            f"Offline, and the cache of Hugging Face holds nothing of {known.repo} at {at}. Run "
            "this once with a connection, or copy a folder that was downloaded elsewhere."
        )
    return listing, lock.with_source(source, LockedSource(known.repo, asked, listing.commit))


def _named(wanted: list[Wanted], name: str | None, part: str) -> list[Wanted]:
    """Return what is wanted with the user's name for the file in place of the manifest's guess."""
    if name is None:
        return wanted
    if len(wanted) != 1 or wanted[0].is_folder:
        raise RequestError(f"The part {part} is several files; their names cannot be changed.")
    return [Wanted([name], wanted[0].to)]


def _matched(
    part: str, source: str, listing: Listing, wanted: list[Wanted], lock: Lock, folder: Path
) -> Iterator[Item]:
    for rule in wanted:
        found = _found(rule, listing)
        if not found:
            raise RequestError(_nothing(part, rule, listing))
        if len(found) > 1 and not rule.is_folder:
            there = ", ".join(file.name for file in found)
            raise RequestError(
                f"Several files of {listing.repo} may be the {part}: {there}. Say which, with "
                f"--file {part}=NAME."
            )
        for file in found:
            path = rule.to + PurePosixPath(file.name).name if rule.is_folder else rule.to
            yield _item(part, source, listing, file, path, lock, folder)


def _found(rule: Wanted, listing: Listing) -> list[HubFile]:
    """Return what the first pattern finds that finds anything."""
    for pattern in rule.find:
        found = [
            file
            for file in listing.files
            if _fits(file.name, pattern) and not any(_fits(file.name, skip) for skip in rule.skip)
        ]
        if found:
            return found
    return []


def _fits(name: str, pattern: str) -> bool:
    """Match a name with a pattern whose ``*`` does not reach into folders."""
    return name.count("/") == pattern.count("/") and fnmatchcase(name, pattern)


def _nothing(part: str, rule: Wanted, listing: Listing) -> str:
    names = [file.name for file in listing.files]
    shown = ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
    hint = "" if rule.is_folder else f" If it was renamed, say so with --file {part}=NAME."
    return (
        f"{listing.repo} at {listing.commit[:12]} has nothing for the {part} "
        f"({' or '.join(rule.find)}); it has: {shown or 'nothing'}.{hint}"
    )


def _papers(source: str, listing: Listing, lock: Lock, folder: Path) -> Iterator[Item]:
    for file in listing.files:
        if any(_fits(file.name, pattern) for pattern in _PAPERS):
            path = f"{LICENCES}/{listing.repo.replace('/', '--')}/{file.name}"
            yield _item(LICENCES, source, listing, file, path, lock, folder)


def _item(
    part: str,
    source: str,
    listing: Listing,
    file: HubFile,
    path: str,
    lock: Lock,
    folder: Path,
) -> Item:
    same = lock.holds(folder, path) and lock.files[path].digest == file.digest
    return Item(part, source, listing.repo, listing.commit, file, path, is_here=same)
