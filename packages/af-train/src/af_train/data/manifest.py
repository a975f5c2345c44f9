"""What is to be prepared: a manifest of videos and their sound, or a folder of them."""

import csv
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path

import attrs
import msgspec
from af_core.errors import AvatarForcingError

VIDEO_SUFFIXES = frozenset(
    ".mp4 .m4v .mov .mkv .webm .avi .mpg .mpeg .ts .flv .wmv .ogv .3gp".split()
)
AUDIO_SUFFIXES = frozenset(".wav .flac .m4a .mp3 .ogg .opus .aac .w64 .aiff".split())


class ManifestError(AvatarForcingError):
    """A manifest cannot be read, or there is nothing in it."""


@attrs.frozen
class Recording:
    """A video, and the file that holds its sound, often the same."""

    video: Path
    audio: Path

    @property
    def name(self) -> str:
        """Return how the recording is spoken of."""
        alone = self.audio == self.video
        return str(self.video) if alone else f"{self.video} with {self.audio}"


@attrs.frozen
class Listing:
    """What a manifest or folder lists."""

    recordings: tuple[Recording, ...]
    ignored: tuple[str, ...] = ()
    """Columns of a manifest, or files of a folder, that were not read."""

    @property
    def digest(self) -> str:
        """Return a hash of the files' names and sizes, in order."""
        lines = [f"{r.video}|{_size(r.video)}|{r.audio}|{_size(r.audio)}" for r in self.recordings]
        return sha256("\n".join(lines).encode()).hexdigest()


def list_recordings(source: Path) -> Listing:
    """Return what a folder, a ``.jsonl`` or a ``.csv`` file lists; files need not exist.

    A manifest has a column ``video`` and, where the sound is elsewhere, ``audio``; paths are
    relative to the manifest. In a folder, searched with all below it, ``a.wav`` beside ``a.mp4``
    is the sound of it.
    """
    if source.is_dir():
        listing = _folder(source)
    elif not source.exists():
        raise ManifestError(
            f"There is no {source}; a folder of videos, or a .jsonl or .csv file, is needed."
        )
    elif source.suffix.lower() in (".jsonl", ".csv"):
        listing = _manifest(source)
    else:
        raise ManifestError(
            f"{source} is neither a folder nor a manifest: .jsonl has lines such as "
            '{"video": "a.mp4", "audio": "a.wav"}, .csv a header with video and audio.'
        )
    if not listing.recordings:
        kinds = " ".join(sorted(VIDEO_SUFFIXES))
        raise ManifestError(f"{source} lists no video. In folders these are found: {kinds}")
    return listing


def _folder(folder: Path) -> Listing:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    videos = [path for path in files if path.suffix.lower() in VIDEO_SUFFIXES]
    sounds = {p.with_suffix(""): p for p in files if p.suffix.lower() in AUDIO_SUFFIXES}
    made = tuple(Recording(v, sounds.get(v.with_suffix(""), v)) for v in videos)
    used = {path for recording in made for path in (recording.video, recording.audio)}
    return Listing(made, tuple(str(path) for path in files if path not in used))


def _manifest(path: Path) -> Listing:
    rows = _json_lines(path) if path.suffix.lower() == ".jsonl" else _table(path)
    made, others = [], set()
    for number, row in rows:
        video, audio = row.get("video"), row.get("audio")
        if not isinstance(video, str) or not video or not isinstance(audio, str | None):
            raise ManifestError(
                f"{path}, line {number}: `video` must name a file, and `audio`, if there is one, "
                f"another; got video={video!r}, audio={audio!r}."
            )
        made.append(Recording(path.parent / video, path.parent / (audio or video)))
        others |= row.keys() - {"video", "audio"}
    return Listing(tuple(made), tuple(sorted(map(str, others))))


def _json_lines(path: Path) -> Iterator[tuple[int, Mapping[str, object]]]:
    for number, line in enumerate(_text(path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            yield number, msgspec.json.decode(line, type=dict[str, object])
        except msgspec.MsgspecError as error:
            raise ManifestError(
                f'{path}, line {number} is no object such as {{"video": "a.mp4"}}: {error}.'
            ) from error


def _table(path: Path) -> Iterator[tuple[int, Mapping[str, object]]]:
    reader = csv.DictReader(_text(path).splitlines(), restkey="beyond the header")
    if "video" not in (reader.fieldnames or ()):
        raise ManifestError(
            f"{path} has the columns {', '.join(reader.fieldnames or ()) or 'none'}; its first "
            "line must name `video`, and `audio` if the sound is elsewhere."
        )
    for row in reader:
        yield reader.line_num, row


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path} cannot be read as UTF-8 text: {error}.") from error


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1
