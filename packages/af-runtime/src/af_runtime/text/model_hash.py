"""The hash of a text encoder: of all that an embedding depends on besides the prompt.

Weights of 11 GB take a while to read, so the hash of a file is remembered by its path, size and
time of change.
"""

import hashlib
from contextlib import suppress
from pathlib import Path

import msgspec
from af_core.errors import WeightsError

from af_runtime.outputs import replacing
from af_runtime.text.files import EncoderFiles
from af_runtime.text.places import user_cache

TOKENIZER_FILES = (
    "added_tokens.json",
    "special_tokens_map.json",
    "spiece.model",
    "tokenizer.json",
    "tokenizer_config.json",
)


class _Remembered(msgspec.Struct, frozen=True):
    size: int
    mtime_ns: int
    sha256: str


def model_hash(files: EncoderFiles) -> str:
    """Return 64 hexadecimal digits; raise ``WeightsError`` if a file cannot be read."""
    parts = [
        "umt5",
        hash_of_large_file(files.weights),
        *(hash_of_file(path) for path in _tokenizer_files(files.tokenizer)),
        files.precision,
        str(files.text_len),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def hash_of_large_file(path: Path) -> str:
    """Return the SHA-256 of a file, read again only if its size or time of change is another."""
    told = path.stat()
    name = hashlib.sha256(str(path.resolve()).encode()).hexdigest()
    memory = user_cache("hashes") / f"{name}.json"
    known = _recalled(memory)
    if known is not None and (known.size, known.mtime_ns) == (told.st_size, told.st_mtime_ns):
        return known.sha256
    fresh = _Remembered(told.st_size, told.st_mtime_ns, hash_of_file(path))
    with suppress(OSError):  # where nothing can be written, it is computed each time
        memory.parent.mkdir(parents=True, exist_ok=True)
        with replacing(memory) as part:
            part.write_bytes(msgspec.json.encode(fresh))
    return fresh.sha256


def hash_of_file(path: Path) -> str:
    """Return the SHA-256 of a file."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as e:
        raise WeightsError(f"{path} cannot be read: {e.strerror}.") from e


def _tokenizer_files(folder: Path) -> list[Path]:
    return [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()]


def _recalled(memory: Path) -> _Remembered | None:
    try:
        return msgspec.json.decode(memory.read_bytes(), type=_Remembered)
    except (OSError, msgspec.DecodeError):
        return None
