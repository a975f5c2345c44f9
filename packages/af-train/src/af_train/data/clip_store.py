"""Clips of recordings on disk: latents, stills and sound in shards that say how they were made.

Recordings are handled in groups. The shards of a group come first, then its note, which tells what
became of each recording; a group without a note is not done. A clip is latent 0, one frame alone,
and ``clip_latents`` more of four frames each.
"""

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Literal

import attrs
import msgspec
import torch
from af_core.errors import ConfigError
from af_core.geometry import TEMPORAL_STRIDE
from af_core.weights.files import write_tensors
from safetensors import SafetensorError, safe_open
from torch import Tensor

from af_train.batches import Batch
from af_train.draws import integers
from af_train.ode_store import StoreError, require_same

FORMAT = "af-clips/1"
_REMEDY = (
    "Make a store in another folder with `af-train prepare`, or train with what made this one."
)
Status = Literal["used", "partial", "rejected"]


class ClipHeader(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the clips of a store were made; every shard and every note says the same."""

    preset: str
    autoencoder: str
    """Hash of what makes latents: weights and options."""
    audio_encoder: str
    """Hash of what makes rows of audio: weights and options."""
    width: int
    height: int
    fps: int
    sample_rate: int
    fit: str
    clip_latents: int
    """Latents of a clip after the first."""
    latent: tuple[int, ...]
    """Shape of one latent frame, [c, h, w]."""
    feature_dim: int
    """Width of a row of audio."""
    num_recordings: int
    recordings_per_group: int
    recordings: str
    """Hash of the names and sizes of the files."""

    @property
    def num_groups(self) -> int:
        """Groups of the whole store."""
        return -(-self.num_recordings // self.recordings_per_group)

    def group(self, number: int) -> range:
        """Return the numbers of the recordings of a group."""
        first = number * self.recordings_per_group
        return range(first, min(first + self.recordings_per_group, self.num_recordings))


class Outcome(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What became of one recording."""

    name: str
    status: Status
    clips: int = 0
    seconds: float = 0.0
    """Seconds of video in clips."""
    left_over_s: float = 0.0
    """Seconds at the end that fill no clip."""
    reason: str | None = None
    """Why not all of it was used: missing, silent, damaged and so on."""
    detail: str | None = None
    """The same as a sentence."""


class Note(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is known of a group: written last, so a group without it is not done."""

    format: str
    header: ClipHeader
    outcomes: tuple[Outcome, ...]
    shards: tuple[int, ...]
    """Clips of each shard."""


def shard_path(directory: Path, group: int, part: int) -> Path:
    """Return the file of a shard."""
    return directory / f"clips-{group:06d}-{part:03d}.safetensors"


def note_path(directory: Path, group: int) -> Path:
    """Return the file of a group's note."""
    return directory / f"group-{group:06d}.json"


def read_note(path: Path) -> Note:
    """Return the note of a group; raise ``StoreError`` if it is none."""
    try:
        note = msgspec.json.decode(path.read_bytes(), type=Note)
    except msgspec.MsgspecError as error:
        raise StoreError(f"{path} is no note of a store of clips: {error}.") from error
    if note.format != FORMAT:
        raise StoreError(f"{path} is of the format {note.format!r}; {FORMAT!r} is read here.")
    return note


def has_group(directory: Path, group: int, header: ClipHeader) -> bool:
    """Tell whether a group is done; raise ``StoreError`` if it was made otherwise."""
    path = note_path(directory, group)
    if not path.exists():
        return False
    require_same(read_note(path).header, msgspec.structs.asdict(header), path, _REMEDY)
    return True


def write_shard(
    directory: Path,
    group: int,
    part: int,
    header: ClipHeader,
    clips: Sequence[Mapping[str, Tensor]],
) -> None:
    """Write clips: ``latents``, ``stills``, ``rows`` and ``samples``, see ``ClipStore``."""
    tensors = {name: torch.stack([clip[name] for clip in clips]) for name in clips[0]}
    about = {"format": FORMAT, "header": msgspec.json.encode(header).decode()}
    write_tensors(shard_path(directory, group, part), tensors, about)


def write_note(directory: Path, group: int, note: Note) -> None:
    """Write the note of a group whose shards are there, whole or not at all."""
    path = note_path(directory, group)
    part = path.with_suffix(".part")
    part.write_bytes(msgspec.json.format(msgspec.json.encode(note)) + b"\n")
    part.replace(path)


def notes(directory: Path, **wanted: object) -> Iterator[Note]:
    """Yield every note of a complete store whose header is as ``wanted``.

    Raises ``StoreError`` if groups are missing or differ; of the fields that differ all are named,
    the preset among them if anything else does.
    """
    first = next(iter(sorted(directory.glob("group-*.json"))), None)
    if first is None:
        what = "No clips in" if directory.is_dir() else "There is no folder"
        raise StoreError(f"{what} {directory}; `af-train prepare` makes stores of clips.")
    header = read_note(first).header
    _require(header, wanted, first)
    there = [has_group(directory, group, header) for group in range(header.num_groups)]
    if not all(there):
        raise StoreError(
            f"{directory} has {sum(there)} of {header.num_groups} groups of recordings, the "
            f"first missing is {there.index(False)}; the same `af-train prepare` goes on."
        )
    for group in range(header.num_groups):
        yield read_note(note_path(directory, group))


def _require(header: ClipHeader, wanted: Mapping[str, object], path: Path) -> None:
    essential = {name: value for name, value in wanted.items() if name != "preset"}
    try:
        require_same(header, essential, path, _REMEDY)
    except StoreError:
        require_same(header, wanted, path, _REMEDY)
        raise


@attrs.frozen(eq=False)
class ClipStore:
    """A ``Source`` of runs of ``num_frames`` latents from the clips of a folder.

    Of a clip of ``n`` latents after the first, a shard holds ``latents`` float16
    ``[1 + n, c, h, w]``, ``stills`` float16 ``[k, c, h, w]`` (frames encoded alone), ``rows``
    float16 ``[4 n, d]``, those of latent 1 first, and ``samples`` int16 ``[(1 + 4 n) 640]``.
    """

    directory: Path
    header: ClipHeader
    num_frames: int
    shards: tuple[Path, ...]
    ends: tuple[int, ...]
    """Clips up to the end of each shard."""
    text: Tensor | None = None
    """Embedding of the prompt, ``[1, token, d]``."""

    @classmethod
    def open(
        cls, directory: Path, num_frames: int, text: Tensor | None = None, **wanted: object
    ) -> "ClipStore":
        """Check the whole store against ``wanted`` fields of its header."""
        found = list(notes(directory, **wanted))
        header = found[0].header
        if not 1 <= num_frames <= header.clip_latents:
            raise ConfigError(
                f"num_frames={num_frames}, but the clips of {directory} have {header.clip_latents} "
                "latents after the first; ask for fewer or prepare longer clips (--latents)."
            )
        counts = {
            shard_path(directory, group, part): count
            for group, note in enumerate(found)
            for part, count in enumerate(note.shards)
        }
        if missing := [path.name for path in counts if not path.is_file()]:
            raise StoreError(
                f"{directory} lacks {', '.join(missing[:3])}"
                f"{' ...' if missing[3:] else ''}: a note counts them. Remove the "
                "notes (group-*.json) of these groups and run `af-train prepare` again."
            )
        if not counts:
            raise StoreError(f"{directory} holds no clip: see its report.json for the reasons.")
        ends = tuple(accumulate(counts.values()))
        return cls(directory, header, num_frames, tuple(counts), ends, text)

    def __len__(self) -> int:
        return self.ends[-1]

    def draw(self, seeds: Sequence[int]) -> Batch:
        """Return one run per seed, its rows, and a portrait: a frame of the clip encoded alone."""
        clips = integers(seeds, "clip", len(self)).tolist()
        starts = integers(seeds, "start", self.header.clip_latents - self.num_frames + 1).tolist()
        faces = integers(seeds, "portrait", 1 << 30).tolist()
        parts = [self._read(*each) for each in zip(clips, starts, faces, strict=True)]
        portrait, rows, clip = (torch.stack(part).float() for part in zip(*parts, strict=True))
        text = None if self.text is None else self.text.expand(len(seeds), -1, -1)
        return Batch(portrait[:, None], rows, tuple(seeds), clip=clip, text=text)

    def sound(self, number: int) -> Tensor:
        """Return the samples of a clip, float32 ``[n]``."""
        path, row = self._place(number)
        with safe_open(str(path), framework="pt") as file:
            return file.get_slice("samples")[row].float() / 32768

    def _read(self, number: int, start: int, face: int) -> tuple[Tensor, Tensor, Tensor]:
        path, row = self._place(number)
        first, last = TEMPORAL_STRIDE * start, TEMPORAL_STRIDE * (start + self.num_frames)
        try:
            with safe_open(str(path), framework="pt") as file:
                stills = file.get_slice("stills")
                portrait = stills[row, face % stills.get_shape()[1]]
                rows = file.get_slice("rows")[row, first:last]
                clip = file.get_slice("latents")[row, start + 1 : start + 1 + self.num_frames]
        except SafetensorError as fault:
            raise StoreError(
                f"{path} is damaged ({fault}). Remove it, and prepare again."
            ) from fault
        return portrait, rows, clip

    def _place(self, number: int) -> tuple[Path, int]:
        shard = bisect_right(self.ends, number)
        return self.shards[shard], number - (self.ends[shard - 1] if shard else 0)
