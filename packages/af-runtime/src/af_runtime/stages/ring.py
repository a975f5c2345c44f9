"""Shared memory for pixels, made once: the supervisor leases slots, stages write, nobody copies.

The memory has no name: stages inherit it as an open file, and the system frees it with the last
process that holds it, however that ends. So nothing can be left behind.
"""

import ctypes
import mmap
import os
import tempfile
import threading
import weakref
from collections import deque
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor

from af_runtime.errors import UnavailableError


@attrs.frozen
class Lease:
    """Slots next to each other that one answer may be written into."""

    first: int
    count: int


class SharedBytes:
    """The memory itself, as each process sees it."""

    def __init__(self, handle: int, size: int) -> None:
        self.handle, self.size = handle, size
        self._map = mmap.mmap(handle, size)
        self._begin = ctypes.addressof(ctypes.c_uint8.from_buffer(self._map))

    def tensor(self, offset: int, shape: tuple[int, ...]) -> Tensor:
        """Return uint8 of this shape that lies at ``offset``; writes to it are seen by all."""
        return _seen(self.piece(offset, shape), shape)

    def piece(self, offset: int, shape: tuple[int, ...]) -> "ctypes.Array[ctypes.c_uint8]":
        """Return the bytes that a tensor of this shape takes at ``offset``."""
        count = int(np.prod(shape))
        if offset < 0 or offset + count > self.size:
            raise ValueError(f"{count} bytes at {offset} do not lie in {self.size} shared bytes.")
        return (ctypes.c_uint8 * count).from_buffer(self._map, offset)

    def offset_of(self, tensor: Tensor) -> int | None:
        """Return where a tensor lies in this memory; None if it does not."""
        offset = tensor.data_ptr() - self._begin
        is_here = offset >= 0 and offset + tensor.nbytes <= self.size
        is_plain = tensor.dtype == torch.uint8 and tensor.is_contiguous() and tensor.numel() > 0
        return offset if is_here and is_plain and tensor.device.type == "cpu" else None

    def pin(self) -> bool:
        """Let CUDA copy into this memory directly; return whether it can."""
        if not torch.cuda.is_available():
            return False
        cuda: Any = torch.cuda.cudart()
        return int(cuda.cudaHostRegister(self._begin, self.size, 0)) == 0


class Ring:
    """The supervisor's view: memory of equal slots, and who has which."""

    def __init__(self, slot_bytes: int, num_slots: int) -> None:
        self.slot_bytes, self.num_slots = slot_bytes, num_slots
        self.memory = SharedBytes(_unnamed_file(slot_bytes * num_slots), slot_bytes * num_slots)
        self._taken = bytearray(num_slots)
        self._next = 0
        self._lock = threading.Lock()
        self._returned: deque[Lease] = deque()
        self.misses = 0
        """Leases that could not be given: what they were for has travelled as messages instead."""

    def lease(self, num_bytes: int) -> Lease | None:
        """Return slots for so many bytes; None if so many are not free side by side."""
        count = -(-num_bytes // self.slot_bytes)
        with self._lock:
            self._collect()
            for first in (*range(self._next, self.num_slots), *range(self._next)):
                if not any(self._taken[first : first + count]) and first + count <= self.num_slots:
                    self._taken[first : first + count] = b"\1" * count
                    self._next = (first + count) % self.num_slots
                    return Lease(first, count)
            self.misses += 1
            return None

    def release(self, lease: Lease) -> None:
        """Give slots back. Any thread may call it, also while it holds the ring."""
        self._returned.append(lease)

    def lent(self, lease: Lease, offset: int, shape: tuple[int, ...]) -> Tensor:
        """Return what was written into a lease, uint8; its slots come back when it is forgotten.

        Slots at the end of the lease that it does not reach come back at once.
        """
        piece = self.memory.piece(offset, shape)
        used = -(-(offset + len(piece)) // self.slot_bytes) - lease.first
        self.release(Lease(lease.first + used, lease.count - used))
        weakref.finalize(piece, self.release, Lease(lease.first, used)).atexit = False
        return _seen(piece, shape)

    @property
    def num_free(self) -> int:
        """Slots that could be leased now."""
        with self._lock:
            self._collect()
            return self._taken.count(0)

    def close(self) -> None:
        """Give the memory up; the system frees it when no view of it is left."""
        os.close(self.memory.handle)

    def _collect(self) -> None:
        while self._returned:
            lease = self._returned.popleft()
            self._taken[lease.first : lease.first + lease.count] = bytes(lease.count)


def _seen(piece: Any, shape: tuple[int, ...]) -> Tensor:
    """Return bytes as a tensor that keeps them alive."""
    return torch.from_numpy(np.frombuffer(piece, np.uint8).reshape(shape))


def _unnamed_file(size: int) -> int:
    """Return an open file in memory that has no name; all of its bytes are there."""
    if hasattr(os, "memfd_create"):
        handle = os.memfd_create("af-ring", os.MFD_CLOEXEC)
    else:
        handle, path = tempfile.mkstemp(prefix="af-ring-")
        os.unlink(path)
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(handle, 0, size)
        else:
            os.ftruncate(handle, size)
    except OSError as e:
        os.close(handle)
        raise UnavailableError(
            f"There is no room for {size / 2**20:.0f} MiB of shared memory ({e.strerror})."
        ) from e
    return handle
