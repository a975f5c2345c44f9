"""What the clips of a benchmark are: a list of specifications that follows from one seed.

Toon counterpart of the paper's long-form benchmark (section 4.1: nearly 400 videos of 40 seconds to
2 minutes). Each property runs through its values by the multiples of an irrational number of its
own: any stretch of the list is as diverse as the whole, and a longer list begins with a shorter.
"""

import random
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from af_core.errors import AvatarForcingError

FORMAT = "af-benchmark/1"
FILE = "benchmark.json"
SHORTEST_S, LONGEST_S = 40, 120
FIRST_IDENTITY = 1_000_000_000
"""Seeds of people: far from those of training and of the suite."""
LAPTOP_CLIPS = 24

_ACCENTS = ("en-us", "en-gb", "en-gb-scotland", "en-029", "en-gb-x-rp", "en-us-nyc")
_VARIANTS = ("m4", "f4", "m8", "steph", "edward", "linda", "adam", "belinda")
VOICES = tuple(f"{accent}+{variant}" for variant in _VARIANTS for accent in _ACCENTS)
"""Forty-eight voices; nobody in them spoke in training."""

NoiseKind = Literal["none", "white", "pink", "hum", "babble"]
_NOISES: tuple[NoiseKind, ...] = (
    "none", "white", "none", "pink", "none", "babble", "none", "hum", "pink", "babble",
)  # fmt: skip
_SNRS_DB = (5.0, 10.0, 15.0, 20.0, 30.0)
_PAUSES = ("short", "natural", "long", "natural")

Name = Literal["laptop"]


class BenchmarkError(AvatarForcingError):
    """A benchmark cannot be read, or is not the one that was meant."""


class ClipSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One clip: everything that is random about it is here or follows from ``seed``."""

    number: Annotated[int, msgspec.Meta(ge=0)]
    seed: int
    """Of what is said, of motion and of noise."""
    identity: int
    """Who is seen."""
    duration_s: Annotated[int, msgspec.Meta(ge=2, le=600)]
    voice: str
    rate: int
    """Words a minute."""
    pitch: int
    """0 to 99, as espeak-ng counts."""
    spread: int
    """Range of the pitch, 0 to 99."""
    pauses: Literal["short", "natural", "long"]
    """Between sentences: up to 0.2, 0.8 or 3 seconds, short ones more often."""
    noise: NoiseKind
    snr_db: float | None
    """Speech over noise; None without noise."""
    gain_db: float
    """Of the whole sound."""

    def digest(self) -> str:
        """Return the SHA-256 of all of it."""
        return sha256(msgspec.json.encode(self)).hexdigest()


class Benchmark(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The list, as it is written to ``benchmark.json``."""

    format: str
    seed: int
    clips: tuple[ClipSpec, ...]

    def subset(self, name: Name | None) -> tuple[ClipSpec, ...]:
        """Return all clips, or the first 24, which are half an hour (``laptop``)."""
        return self.clips if name is None else self.clips[:LAPTOP_CLIPS]


def make_benchmark(num_clips: int = 400, seed: int = 0) -> Benchmark:
    """Return the benchmark of this seed; the same numbers on any machine."""
    if not 1 <= num_clips <= 100_000:
        raise BenchmarkError(f"A benchmark of {num_clips} clips; it has 1 to 100,000.")
    return Benchmark(FORMAT, seed, tuple(_spec(number, seed) for number in range(num_clips)))


def _spec(number: int, seed: int) -> ClipSpec:
    rng = random.Random(f"af-benchmark {seed} {number}")
    noise = _NOISES[_spread(number, len(_NOISES), 2**0.5)]
    return ClipSpec(
        number=number,
        seed=rng.randrange(2**31),
        identity=FIRST_IDENTITY + 1_000_000 * seed + number,
        duration_s=SHORTEST_S + _spread(number, LONGEST_S - SHORTEST_S + 1, 5**0.5 / 2 + 0.5),
        voice=VOICES[_spread(number, len(VOICES), 3**0.5)],
        rate=rng.randint(125, 210),
        pitch=rng.randint(20, 80),
        spread=rng.randint(25, 75),
        pauses=_PAUSES[_spread(number, len(_PAUSES), 7**0.5)],
        noise=noise,
        snr_db=None if noise == "none" else _SNRS_DB[_spread(number, len(_SNRS_DB), 11**0.5)],
        gain_db=round(rng.uniform(-15, 3), 1),
    )


def _spread(number: int, below: int, irrational: float) -> int:
    """Return whole numbers from 0, in even shares and no visible order."""
    return int(number * irrational % 1 * below)


def write_benchmark(benchmark: Benchmark, directory: Path) -> Path:
    """Write the list. Raises ``BenchmarkError`` where another one lies already."""
    path = directory / FILE
    if path.exists() and read_benchmark(directory) != benchmark:
        raise BenchmarkError(
            f"{path} holds another benchmark. Take another directory, or remove this one."
        )
    directory.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(benchmark), indent=1))
    return path


def read_benchmark(directory: Path) -> Benchmark:
    """Read the list of a directory."""
    path = directory / FILE
    if not path.is_file():
        raise BenchmarkError(
            f"{path} is not there. Make it: af-train benchmark make -o {directory}"
        )
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Benchmark)
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise BenchmarkError(f"{path} is no benchmark: {error}") from error
    if found.format != FORMAT:
        raise BenchmarkError(f"{path} has the format {found.format!r}; this reads {FORMAT!r}.")
    return found


def share(clips: tuple[ClipSpec, ...], shard: int, of: int) -> tuple[ClipSpec, ...]:
    """Return every ``of``-th clip from ``shard`` on: the shards together are the whole."""
    if of < 1 or not 0 <= shard < of:
        raise BenchmarkError(f"Shard {shard}/{of}: shards are 0/n to (n - 1)/n.")
    return clips[shard::of]
