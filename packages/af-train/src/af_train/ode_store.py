"""Trajectories on disk: safetensors shards whose headers say how they were made.

A shard holds the kept states but the first, which is noise and is drawn again from its seed; a few
of its numbers are kept, so that a generator that draws otherwise is noticed. Conditions lie beside
the states, so training from a store needs nothing else.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs
import msgspec
import torch
from af_core.errors import AvatarForcingError
from af_core.weights.files import read_metadata, write_tensors
from safetensors import safe_open
from torch import Tensor

from af_train import draws
from af_train.batches import Batch

FORMAT = "af-ode/1"
_PROBE = 8
"""Numbers of the noise of each sample that are kept to recognise it."""


class StoreError(AvatarForcingError):
    """A store is missing, incomplete, or was made otherwise than it is asked to be."""


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the trajectories of a store were made; every shard says the same."""

    sigmas: tuple[float, ...]
    """Levels of the states, noise first, 0 last."""
    shift: float
    num_steps: int
    guidance_weight: float
    mask: str
    """What the teacher saw: ``bidirectional`` or ``teacher_forced``."""
    teacher: str
    """Hash of its weights."""
    seed: int
    num_clips: int
    clips_per_shard: int
    frames: tuple[int, ...]
    """Shape of a clip, [f, c, h, w]."""
    text_guidance_weight: float | None = None
    """Weight of the prompt; None: as ``guidance_weight``, in one pass."""
    negative_prompt: str | None = None
    """What was read where there was no prompt; None: zeros."""
    precision: str = "float32"
    """Products of the teacher's passes."""

    @property
    def num_shards(self) -> int:
        """Shards of the whole store."""
        return -(-self.num_clips // self.clips_per_shard)

    def samples(self, shard: int) -> range:
        """Return the numbers of the samples of a shard."""
        first = shard * self.clips_per_shard
        return range(first, min(first + self.clips_per_shard, self.num_clips))


def shard_path(directory: Path, shard: int) -> Path:
    """Return the file of a shard."""
    return directory / f"trajectories-{shard:06d}.safetensors"


def has_shard(directory: Path, shard: int, header: Header) -> bool:
    """Tell whether a shard is there; raise ``StoreError`` if it was made otherwise."""
    path = shard_path(directory, shard)
    if not path.exists():
        return False
    require_same(read_header(path), msgspec.structs.asdict(header), path)
    return True


def write_shard(directory: Path, shard: int, header: Header, states: Tensor, batch: Batch) -> None:
    """Write ``states [n, s, f, c, h, w]``, noise first, and their conditions, as float16."""
    tensors = {
        "states": states[:, 1:].half(),
        "probe": states[:, 0].flatten(1)[:, :_PROBE].float(),
        "seeds": torch.tensor(batch.seeds),
        "portrait": batch.portrait.half(),
        "rows": batch.rows.half(),
    }
    if batch.clip is not None:
        tensors["clip"] = batch.clip.half()
    if batch.text is not None:
        tensors["text"] = batch.text.expand(len(batch), -1, -1).half()
    about = {"format": FORMAT, "header": msgspec.json.encode(header).decode()}
    write_tensors(shard_path(directory, shard), tensors, about)


def read_header(path: Path) -> Header:
    """Return what a shard says of itself."""
    about = read_metadata(path)
    if about.get("format") != FORMAT:
        raise StoreError(f"{path} holds no trajectories ({FORMAT}), but {about or 'no header'}.")
    try:
        return msgspec.json.decode(about["header"], type=Header)
    except (KeyError, msgspec.MsgspecError) as error:
        raise StoreError(f"The header of {path} cannot be read: {error}") from error


_REMEDY = "Make a store in another folder with `af-train backfill`, or ask for what is there."


def require_same(
    header: msgspec.Struct, wanted: Mapping[str, object], path: Path, remedy: str = _REMEDY
) -> None:
    """Raise ``StoreError`` naming every field in which a store differs from what is wanted."""
    found = msgspec.structs.asdict(header)
    off = [name for name, value in wanted.items() if not _equal(found[name], value)]
    if off:
        lines = "\n".join(
            f"    {n}: {json.dumps(found[n])}, not {json.dumps(wanted[n])}" for n in off
        )
        raise StoreError(f"{path} was made otherwise than it is asked to be:\n{lines}\n{remedy}")


def _equal(found: object, wanted: object) -> bool:
    if isinstance(found, tuple) and isinstance(wanted, tuple):
        return len(found) == len(wanted) and all(map(_equal, found, wanted))
    if isinstance(found, float) and isinstance(wanted, int | float):
        return abs(found - wanted) <= 1e-5
    return found == wanted


@attrs.frozen(eq=False)
class TrajectoryStore:
    """All shards of a directory, read sample by sample; a ``Source`` of batches with states."""

    directory: Path
    header: Header

    @classmethod
    def open(cls, directory: Path, **wanted: object) -> "TrajectoryStore":
        """Check every shard against the first, and that against ``wanted`` fields of the header.

        Raises ``StoreError`` if shards are missing or differ.
        """
        paths = sorted(directory.glob("trajectories-*.safetensors"))
        if not paths:
            raise StoreError(f"No trajectories in {directory}; `af-train backfill` makes them.")
        header = read_header(paths[0])
        require_same(header, wanted, paths[0])
        there = [has_shard(directory, shard, header) for shard in range(header.num_shards)]
        if not all(there):
            raise StoreError(
                f"{directory} has {sum(there)} of {header.num_shards} shards, the first missing is "
                f"{there.index(False)}; the same `af-train backfill` goes on where it stopped."
            )
        return cls(directory, header)

    def __len__(self) -> int:
        return self.header.num_clips

    def draw(self, seeds: Sequence[int]) -> Batch:
        """Return one trajectory per seed, float32; what else is drawn depends on the seed too."""
        chosen = [draws.mixed(seed, "trajectory") % len(self) for seed in seeds]
        parts = [self._read(number) for number in chosen]
        joined = {name: torch.stack([part[name] for part in parts]) for name in parts[0]}
        return Batch(seeds=tuple(seeds), **joined)

    def _read(self, number: int) -> dict[str, Tensor]:
        shard, row = divmod(number, self.header.clips_per_shard)
        path = shard_path(self.directory, shard)
        with safe_open(str(path), framework="pt") as file:
            there = set(file.keys())
            part = {
                name: file.get_slice(name)[row].float()
                for name in ("states", "portrait", "rows", "clip", "text")
                if name in there
            }
            seed, probe = int(file.get_slice("seeds")[row]), file.get_slice("probe")[row]
        noise = noise_of((seed,), part["states"][None, -1])[0]
        if not torch.equal(noise.flatten()[:_PROBE], probe):
            raise StoreError(
                f"The noise of sample {number} of {path} cannot be drawn again: this torch "
                f"({torch.__version__}) draws other numbers from the same seed than the one that "
                "made the store. Make the store anew."
            )
        part["states"] = torch.cat([noise[None], part["states"]])
        return part


def noise_of(seeds: Sequence[int], like: Tensor) -> Tensor:
    """Return the noise that trajectories of these samples begin with, shaped as ``like``."""
    return draws.normal(seeds, "trajectory noise", like)
