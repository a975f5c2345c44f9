"""Recordings to a store of clips, by any number of workers, resumable; bad files are listed.

Worker ``rank`` of ``world`` handles every world-th group of recordings; groups that are done are
checked and kept. A recording is read once, and memory holds one shard whatever its length.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import msgspec
import numpy as np
import torch
from af_core.errors import ConfigError
from af_core.geometry import SAMPLES_PER_FRAME, TEMPORAL_STRIDE, VIDEO_FPS
from torch import Tensor

from af_train.data.clip_store import (
    FORMAT,
    ClipHeader,
    Note,
    Outcome,
    has_group,
    note_path,
    read_note,
    shard_path,
    write_note,
    write_shard,
)
from af_train.data.encoders import Encoders
from af_train.data.manifest import Listing, Recording
from af_train.data.media import Fit, Opened, Size, UnusableError, open_recording

NUM_STILLS = 3
REPORT = "report.json"
Heard = Callable[[Outcome], None]


class PrepareConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How recordings become clips."""

    fit: Fit = "crop"
    clip_latents: int = 20
    """Latents of a clip after the first; 20 are 81 frames, 3.24 s."""
    recordings_per_group: int = 16
    """Recordings between two points at which a stopped run goes on."""
    clips_per_shard: int = 128

    def __post_init__(self) -> None:
        """Refuse counts below one."""
        for name in ("clip_latents", "recordings_per_group", "clips_per_shard"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least 1.")

    @property
    def clip_frames(self) -> int:
        """Video frames of a clip."""
        return 1 + TEMPORAL_STRIDE * self.clip_latents


class Summary(msgspec.Struct, frozen=True):
    """What became of all recordings: ``report.json`` of a store."""

    directory: str
    recordings: int
    used: int
    """Recordings of which every whole clip is in the store."""
    partial: int
    """Recordings that are damaged further on; what came before is in the store."""
    rejected: int
    clips: int
    hours: float
    left_over_s: float
    """Seconds of good recordings that fill no clip."""
    reasons: dict[str, int]
    """How often each reason was why a recording was not used, or not all of it."""
    problems: tuple[Outcome, ...]
    ignored: tuple[str, ...]
    """Columns or files that were not read."""


@attrs.frozen(eq=False)
class Preparation:
    """What is prepared, with what, and where to."""

    listing: Listing
    encoders: Encoders
    config: PrepareConfig
    directory: Path

    def header(self) -> ClipHeader:
        """Return what the shards will say of themselves."""
        geometry: Any = self.encoders.pipeline.geometry
        blank = torch.zeros(1, geometry.height, geometry.width, 3, dtype=torch.uint8)
        latent = self.encoders.image.encode(blank.to(self.encoders.device))
        made = self.encoders.identity() | {
            "fit": self.config.fit,
            "clip_latents": self.config.clip_latents,
            "latent": tuple(latent.shape[2:]),
            "feature_dim": self.encoders.audio.feature_dim,
            "num_recordings": len(self.listing.recordings),
            "recordings_per_group": self.config.recordings_per_group,
            "recordings": self.listing.digest,
        }
        return msgspec.convert(made, ClipHeader)

    def run(self, rank: int = 0, world: int = 1, heard: Heard = lambda outcome: None) -> None:
        """Do this worker's groups; ``heard`` is told of every recording, also of those done before.

        Raises ``StoreError`` if the folder holds a store that was made otherwise.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        header = self.header()
        for group in range(header.num_groups):
            has_group(self.directory, group, header)  # before hours of work, not after
        for group in range(rank, header.num_groups, world):
            if has_group(self.directory, group, header):
                for outcome in read_note(note_path(self.directory, group)).outcomes:
                    heard(outcome)
            else:
                self._group(group, header, heard)

    def _group(self, group: int, header: ClipHeader, heard: Heard) -> None:
        shelf = _Shelf(self.directory, group, header, self.config.clips_per_shard)
        outcomes = []
        for number in header.group(group):
            outcomes.append(self._recording(self.listing.recordings[number], shelf))
            heard(outcomes[-1])
        shelf.close()
        write_note(
            self.directory, group, Note(FORMAT, header, tuple(outcomes), tuple(shelf.counts))
        )

    def _recording(self, recording: Recording, shelf: "_Shelf") -> Outcome:
        """Put the clips of a recording on the shelf and say what became of it."""
        clips, seen, size = 0, 0, self.config.clip_frames
        try:
            opened = open_recording(recording)
            for clip, frames in self._clips(opened):
                seen = frames
                if clip is not None:
                    shelf.add(clip)
                    clips += 1
            if clips == 0:
                raise UnusableError(
                    "too_short",
                    f"{recording.name}: {seen / VIDEO_FPS:.2f} s with both picture and sound; a "
                    f"clip takes {size / VIDEO_FPS:.2f} s (lower it with --latents).",
                )
        except UnusableError as fault:
            return Outcome(
                recording.name,
                "partial" if clips else "rejected",
                clips,
                clips * size / VIDEO_FPS,
                reason=fault.reason,
                detail=str(fault),
            )
        left = round(seen / VIDEO_FPS - clips * size / VIDEO_FPS, 2)
        return Outcome(recording.name, "used", clips, clips * size / VIDEO_FPS, left)

    def _clips(self, opened: Opened) -> Iterator[tuple[dict[str, Tensor] | None, int]]:
        """Yield clips, each with the frames seen so far; at the end no clip, and all of them."""
        geometry, size = self.encoders.pipeline.geometry, self.config.clip_frames
        samples = torch.from_numpy(opened.samples)
        rows = self.encoders.rows(samples) if opened.num_frames >= size else None
        held, first = [], 0
        for frame in opened.frames(Size(geometry.width, geometry.height, self.config.fit)):
            held.append(frame)
            if len(held) == size and rows is not None:
                clip = self.encoders.clip(torch.from_numpy(np.stack(held)), NUM_STILLS)
                clip["rows"] = rows[first + 1 : first + size]
                heard = samples[first * SAMPLES_PER_FRAME : (first + size) * SAMPLES_PER_FRAME]
                clip["samples"] = (heard.clamp(-1, 1) * 32767).round().to(torch.int16)
                first, held = first + size, []
                yield clip, first
        yield None, first + len(held)


@attrs.define(eq=False)
class _Shelf:
    """Shards of a group as they fill."""

    directory: Path
    group: int
    header: ClipHeader
    room: int
    counts: list[int] = attrs.field(factory=list)
    clips: list[dict[str, Tensor]] = attrs.field(factory=list)

    def add(self, clip: dict[str, Tensor]) -> None:
        self.clips.append(clip)
        if len(self.clips) == self.room:
            self._write()

    def close(self) -> None:
        """Write what is left, and remove shards that a run with other settings left behind."""
        if self.clips:
            self._write()
        part = len(self.counts)
        while (path := shard_path(self.directory, self.group, part)).exists():
            path.unlink()
            part += 1

    def _write(self) -> None:
        write_shard(self.directory, self.group, len(self.counts), self.header, self.clips)
        self.counts.append(len(self.clips))
        self.clips = []


def summarise(directory: Path, listing: Listing) -> Summary | None:
    """Return what became of all recordings and write it down; None while groups are missing."""
    first = next(iter(sorted(directory.glob("group-*.json"))), None)
    if first is None:
        return None
    header = read_note(first).header
    paths = [note_path(directory, group) for group in range(header.num_groups)]
    if not all(path.exists() for path in paths):
        return None
    outcomes = [outcome for path in paths for outcome in read_note(path).outcomes]
    status = Counter(outcome.status for outcome in outcomes)
    made = Summary(
        directory=str(directory),
        recordings=len(outcomes),
        used=status["used"],
        partial=status["partial"],
        rejected=status["rejected"],
        clips=sum(outcome.clips for outcome in outcomes),
        hours=round(sum(outcome.seconds for outcome in outcomes) / 3600, 4),
        left_over_s=round(sum(outcome.left_over_s for outcome in outcomes), 2),
        reasons=dict(Counter(o.reason for o in outcomes if o.reason)),
        problems=tuple(outcome for outcome in outcomes if outcome.reason),
        ignored=listing.ignored,
    )
    part = directory / f".{REPORT}.part"
    part.write_bytes(msgspec.json.format(msgspec.json.encode(made)) + b"\n")
    part.replace(directory / REPORT)
    return made
