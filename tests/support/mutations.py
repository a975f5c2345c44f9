"""Messages that nobody should send, as many as are wanted, from a seed."""

import msgspec
import numpy as np
from af_runtime.messages.codec import MAGIC, encode
from protocol_samples import samples

VALID = [[bytes(frame) for frame in encode(message, **arrays)] for message, arrays in samples()]
HUGE = [2**31, 2**31 - 1, 2**53, -1, 0, 1, 3, 3, 4096, 4097, 160_001]
BUFFERS = [("pcm", "f32", 1), ("portrait", "u8", 3), ("video", "u8", 3), ("audio", "f32", 1)]
TYPES = [str(msgspec.msgpack.decode(frames[1])["type"]) for frames in VALID]
JUNK = [None, True, -1, 2**53, 2**64 - 1, 1.5, float("nan"), "", "x" * 3_000, b"\0" * 50, [], {}]


def mutations(count, seed=0):
    """Yield so many messages as lists of bytes: flipped, cut, grown, lied about, or random."""
    rng = np.random.default_rng(seed)
    kinds = (flipped, truncated, reordered, lying, huge, nonsense, other_version, random_bytes)
    for _ in range(count):
        frames = list(VALID[rng.integers(len(VALID))])
        yield kinds[rng.integers(len(kinds))](frames, rng)


def flipped(frames, rng):
    i = int(rng.integers(len(frames)))
    data = bytearray(frames[i])
    for at in rng.integers(max(1, len(data)), size=rng.integers(1, 5)):
        if data:
            data[at] = rng.integers(256)
    frames[i] = bytes(data)
    return frames


def truncated(frames, rng):
    i = int(rng.integers(len(frames)))
    frames[i] = frames[i][: rng.integers(len(frames[i]) + 1)]
    return frames[: rng.integers(1, len(frames) + 1)] if rng.integers(2) else frames


def reordered(frames, rng):
    extra = [bytes(rng.integers(256, size=rng.integers(9), dtype=np.uint8))]
    mixed = frames + extra * int(rng.integers(3))
    return [mixed[i] for i in rng.permutation(len(mixed))]


def lying(frames, rng):
    """Change one field of the header to what it cannot be."""
    table = msgspec.msgpack.decode(frames[1])
    name = list(table)[rng.integers(len(table))]
    table[name] = JUNK[rng.integers(len(JUNK))]
    return [frames[0], msgspec.msgpack.encode(table), *frames[2:]]


def huge(frames, rng):
    """Announce buffers that are larger than they are, or than anything may be."""
    table = msgspec.msgpack.decode(frames[1])
    kind, dtype, axes = BUFFERS[rng.integers(len(BUFFERS))]
    axes = axes if rng.integers(4) else int(rng.integers(6))
    shape = [HUGE[i] for i in rng.integers(len(HUGE), size=axes)]
    spec = {"kind": kind, "dtype": dtype, "shape": shape}
    table["buffers"] = [spec] * (len(frames) - 2 if rng.integers(4) else int(rng.integers(4)))
    return [frames[0], msgspec.msgpack.encode(table), *frames[2:]]


def nonsense(frames, rng):
    """Sound of not-a-number, infinities and anything else that 32 bits can be."""
    bits = rng.integers(2**32, size=5, dtype=np.uint32).view(np.float32).copy()
    bits[rng.integers(5)] = rng.choice([np.nan, np.inf, -np.inf])
    spec = {"kind": "pcm", "dtype": "f32", "shape": [5]}
    fields = {"type": "AUDIO", "session": "s", "seq": 3, "segment": 0, "epoch": 0}
    return [MAGIC, msgspec.msgpack.encode({**fields, "buffers": [spec]}), bits.tobytes()]


def other_version(frames, rng):
    return [b"AFW" + bytes([rng.integers(256)]), *frames[1:]]


def random_bytes(frames, rng):
    start = [MAGIC] if rng.integers(2) else []
    sizes = rng.integers(80, size=rng.integers(4))
    return start + [bytes(rng.integers(256, size=n, dtype=np.uint8)) for n in sizes]
