"""What the checks share: seeded inputs, cuts into chunks, and a count of living tensors."""

import gc
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor


def noise(*shape: int, seed: int = 0) -> Tensor:
    """Return float32 standard normal numbers that depend on the seed alone."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def speech(num_streams: int, num_samples: int, seed: int = 0) -> Tensor:
    """Return sound-like samples [b, n] in [-1, 1]: noise under a slow envelope."""
    time = torch.arange(num_samples) / 16_000
    envelope = 0.5 + 0.5 * torch.sin(2 * torch.pi * 3 * time)
    return 0.3 * torch.tanh(noise(num_streams, num_samples, seed=seed)) * envelope


def pieces(values: Tensor, sizes: Sequence[int]) -> Iterator[Tensor]:
    """Yield consecutive pieces along axis 1; the last one takes what is left."""
    start = 0
    for size in sizes:
        yield values[:, start : start + size]
        start += size
    yield values[:, start:]


def same(got: Tensor, want: Tensor, what: str) -> None:
    """Require two tensors to be equal, bit for bit."""
    assert got.shape == want.shape, f"{what}: shape {list(got.shape)}, not {list(want.shape)}"
    assert torch.equal(got, want), f"{what}: largest difference {_difference(got, want):g}"


def close(got: Tensor, want: Tensor, what: str, tolerance: float = 1e-5) -> None:
    """Require two tensors to be equal up to rounding."""
    assert got.shape == want.shape, f"{what}: shape {list(got.shape)}, not {list(want.shape)}"
    worst = _difference(got, want)
    assert worst <= tolerance, f"{what}: largest difference {worst:g}, allowed {tolerance:g}"


def keeps_nothing(session: Callable[[], object], what: str) -> None:
    """Require that sessions leave no tensor behind, however many have been run."""
    session()
    before = living_tensors()
    for _ in range(5):
        session()
    left = living_tensors() - before
    assert left <= 0, f"{what}: {left} tensors were still alive after 5 sessions"


def living_tensors() -> int:
    """Return how many tensors exist in this process."""
    gc.collect()
    return sum(issubclass(type(thing), Tensor) for thing in gc.get_objects())


def _difference(got: Tensor, want: Tensor) -> float:
    return float((got.double() - want.double()).abs().max()) if got.numel() else 0.0
