"""Hypothesis strategies: every way in which a stream may be cut, and streams interleaved."""

from itertools import pairwise
from typing import TypeVar

from hypothesis import strategies as st

ItemT = TypeVar("ItemT")


def chunkings(total: int, *, max_chunks: int = 12) -> st.SearchStrategy[list[int]]:
    """Return lists of chunk sizes that add up to ``total``; sizes of 0 and 1 are likely.

    Shrinks towards one single chunk.
    """
    cuts = st.lists(st.integers(0, total), max_size=max_chunks - 1).map(sorted)
    return cuts.map(lambda at: _sizes(at, total))


def interleavings(lengths: list[int]) -> st.SearchStrategy[list[int]]:
    """Return orders in which streams take turns: stream i appears ``lengths[i]`` times.

    Shrinks towards one stream after another.
    """
    turns = [stream for stream, count in enumerate(lengths) for _ in range(count)]
    return st.permutations(turns).map(list)


def _sizes(cuts: list[int], total: int) -> list[int]:
    edges = [0, *cuts, total]
    return [end - start for start, end in pairwise(edges)]
