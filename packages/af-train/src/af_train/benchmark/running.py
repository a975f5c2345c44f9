"""Runs a preset over a benchmark: any number of processes, stopped and gone on with at will.

Every clip is streamed alone, with the noise seed of its specification, and leaves one file. So a
clip's numbers depend on nothing but the clip, and shards together are the whole.
"""

import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import attrs
import msgspec
import torch
from af_core.geometry import AUDIO_HZ
from af_core.graph import parse_overrides
from af_core.graph.checked import Pipeline
from af_core.graph.resolve import open_pipeline
from af_core.pipeline import Avatar, build
from af_core.weights.digest import sha256_of
from PIL import Image
from torch import Tensor

from af_train.benchmark.clips import BenchmarkClip, ClipFolder
from af_train.benchmark.scoring import Clock, Record, Scorer
from af_train.benchmark.specs import BenchmarkError, ClipSpec, share
from af_train.moments import strip
from af_train.on_disk import claim, read_json, write_whole

_STRIPS = 6
"""Clips that leave a strip of frames."""


class Run(msgspec.Struct, frozen=True, omit_defaults=True):
    """What was run; two runs in one directory must agree. The list of clips may grow."""

    preset: str
    settings: tuple[str, ...]
    pipeline: str
    """SHA-256 of options and weights."""
    max_seconds: int | None
    speaker: str = ""
    """What made the frames; empty: the avatar, streaming."""


class Speaker(Protocol):
    """Makes the frames of a clip instead of the avatar."""

    @property
    def name(self) -> str:
        """What is noted beside the numbers: speakers of one name make the same frames."""
        ...

    def __call__(self, made: BenchmarkClip) -> Tensor:
        """Return the frames uint8 ``[t, H, W, 3]``."""
        ...


@attrs.frozen(eq=False)
class BenchmarkRun:
    """One preset, the clips it is to speak, and where its numbers go."""

    run: Run
    avatar: Avatar
    specs: tuple[ClipSpec, ...]
    folder: ClipFolder
    directory: Path
    speaker: Speaker | None = None
    """None: the avatar streams."""

    def pending(self, shard: int = 0, of: int = 1) -> tuple[ClipSpec, ...]:
        """Return a shard's clips that have no numbers yet."""
        return tuple(s for s in share(self.specs, shard, of) if not self._record(s).exists())

    def measure(self, specs: Sequence[ClipSpec]) -> Iterator[Record]:
        """Measure clips one by one; each is on disk when it is yielded."""
        scorer = Scorer.load(self.avatar.info.height)
        for spec in specs:
            made = self.folder.get(spec).first(self.run.max_seconds)
            began = time.perf_counter(), time.process_time()
            frames = speak(self.avatar, made) if self.speaker is None else self.speaker(made)
            clock = Clock(time.perf_counter() - began[0], time.process_time() - began[1])
            record = scorer.score(made, frames, self.avatar.info.frames_per_block, clock)
            if spec in self.specs[:_STRIPS]:
                picture = strip(made.clip, frames)
                Image.fromarray(picture.numpy()).save(
                    self.directory / f"strip-{spec.number:04d}.png"
                )
            write_whole(self._record(spec), msgspec.json.encode(record))
            yield record

    def records(self) -> list[Record]:
        """Return the numbers of all clips that have them, in the order of the list.

        Raises ``BenchmarkError`` for numbers of a clip of another list.
        """
        return [self._read(spec) for spec in self.specs if self._record(spec).exists()]

    def _read(self, spec: ClipSpec) -> Record:
        path = self._record(spec)
        record = read_json(path, Record)
        if record.spec != spec.digest():
            raise BenchmarkError(
                f"{path} holds the numbers of a clip of another benchmark. Take another directory."
            )
        return record

    def _record(self, spec: ClipSpec) -> Path:
        return self.directory / "records" / f"{spec.number:04d}.json"


def open_run(
    preset: str,
    settings: Sequence[str],
    benchmark: Path,
    specs: tuple[ClipSpec, ...],
    *,
    output: Path | None = None,
    max_seconds: int | None = None,
    speaker: Speaker | None = None,
) -> BenchmarkRun:
    """Load the avatar and open its directory of results.

    Raises ``AnotherJobError`` if the directory holds results of something else.
    """
    pipeline = open_pipeline(preset, parse_overrides([*settings]))
    spoken_by = "" if speaker is None else speaker.name
    run = Run(preset, tuple(settings), pipeline_digest(pipeline), max_seconds, spoken_by)
    name = hashlib.sha256(msgspec.json.encode(run)).hexdigest()[:8]
    directory = output or benchmark / "results" / f"{Path(preset).stem}-{name}"
    (directory / "records").mkdir(parents=True, exist_ok=True)
    claim(directory / "run.json", run, ignoring=("preset", "settings"))
    clips = ClipFolder(benchmark / "clips")
    return BenchmarkRun(run, build(pipeline), specs, clips, directory, speaker)


def speak(avatar: Avatar, made: BenchmarkClip) -> Tensor:
    """Return the frames uint8 ``[t, H, W, 3]`` of a clip, streamed second by second."""
    portrait = made.clip.portrait(avatar.info.height).permute(1, 2, 0)
    samples = torch.from_numpy(made.clip.speech.samples)[None]
    pieces = samples.split(AUDIO_HZ, 1)
    return torch.cat(list(avatar.stream(portrait[None], pieces, seed=[made.spec.seed])), 1)[0]


def rank_of_process() -> tuple[int, int]:
    """Return rank and number of processes as torchrun tells them, else (0, 1)."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def parse_shard(text: str | None) -> tuple[int, int]:
    """Return (2, 8) for "3/8": shards are counted from 1 on the command line."""
    if text is None:
        return rank_of_process()
    number, slash, of = text.partition("/")
    if not (slash and number.isdigit() and of.isdigit() and 1 <= int(number) <= int(of)):
        raise BenchmarkError(f"--shard takes i/n with 1 <= i <= n, such as 1/8; got {text!r}.")
    return int(number) - 1, int(of)


def pipeline_digest(pipeline: Pipeline) -> str:
    """Return a hash of every stage's options and of the weights they name."""
    digest, base = hashlib.sha256(), Path(pipeline.origin).parent
    for name, stage in sorted(pipeline.stages.items()):
        options = msgspec.to_builtins(stage.config)
        weights = options.pop("weights", None)
        digest.update(msgspec.json.encode([name, stage.use, options], order="sorted"))
        if weights is not None and (base / weights).is_file():
            digest.update(sha256_of(base / weights).encode())
    return digest.hexdigest()
