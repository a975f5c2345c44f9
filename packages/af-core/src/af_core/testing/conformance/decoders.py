"""Checks for decoders; ``latent`` is the shape (c, h, w) of one latent frame."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from af_core.geometry import TEMPORAL_STRIDE
from af_core.testing.conformance.common import keeps_nothing, noise, pieces, same
from af_core.testing.conformance.snapshots import carried

Make = Callable[[], Any]
Shape = tuple[int, int, int]

CUTS = ((), (1,), (0, 1, 0, 2), (1,) * 6, (4,))


def decoded(decoder: Any, latents: Tensor, sizes: Sequence[int] = ()) -> Tensor:
    """Return all frames of latents [b, f, c, h, w], cut into chunks of these sizes."""
    state, frames = decoder.open(len(latents)), []
    for piece in pieces(latents, sizes):
        if piece.shape[1]:
            made, state = decoder.step(state, piece)
            frames.append(made)
    return torch.cat(frames, dim=1)


@torch.no_grad()
def gives_one_frame_then_four_each(make: Make, *, latent: Shape) -> None:
    """The first latent ever gives one frame, every other four: uint8 [b, n, H, W, 3]."""
    decoder = make()
    state = decoder.open(2)
    for index, want in enumerate((1, TEMPORAL_STRIDE, TEMPORAL_STRIDE)):
        frames, state = decoder.step(state, noise(2, 1, *latent, seed=index))
        assert frames.dtype == torch.uint8, f"frames are {frames.dtype}, not torch.uint8"
        shape = list(frames.shape)
        assert len(shape) == 5 and shape[:2] == [2, want] and shape[4] == 3, (
            f"latent {index} gave {shape}, not [2, {want}, H, W, 3]"
        )


@torch.no_grad()
def does_not_depend_on_how_latents_are_cut(make: Make, *, latent: Shape) -> None:
    """Any way of cutting the latents into chunks gives the same frames."""
    decoder, latents = make(), noise(1, 7, *latent)
    whole = decoded(decoder, latents)
    for sizes in CUTS:
        nearly(decoded(decoder, latents, sizes), whole, f"frames of chunks {sizes or 'in one'}")


@torch.no_grad()
def shows_no_future(make: Make, *, latent: Shape) -> None:
    """Later latents do not change frames that came before."""
    decoder, latents = make(), noise(1, 4, *latent)
    changed = torch.cat([latents[:, :3], -latents[:, 3:]], dim=1)
    count = 1 + 2 * TEMPORAL_STRIDE
    before, after = decoded(decoder, latents), decoded(decoder, changed)
    nearly(after[:, :count], before[:, :count], "frames before the change")


@torch.no_grad()
def keeps_streams_apart(make: Make, *, latent: Shape) -> None:
    """Interleaved streams, and streams in one batch, give what each gives alone."""
    decoder = make()
    one, two = noise(1, 4, *latent, seed=1), noise(1, 4, *latent, seed=2)
    alone = decoded(decoder, one, (1,) * 3)
    first, second, frames = decoder.open(1), decoder.open(1), []
    for a, b in zip(one.split(1, dim=1), two.split(1, dim=1), strict=True):
        made, first = decoder.step(first, a)
        _, second = decoder.step(second, b)
        frames.append(made)
    same(torch.cat(frames, dim=1), alone, "frames of an interleaved stream")
    nearly(decoded(decoder, torch.cat([one, two]))[:1], alone, "frames of a stream in a batch")


@torch.no_grad()
def remembers_only_in_its_state(make: Make, *, latent: Shape) -> None:
    """An older state steps to the same result again: nothing is remembered elsewhere."""
    decoder, latents = make(), noise(1, 3, *latent)
    _, state = decoder.step(decoder.open(1), latents)
    first, _ = decoder.step(state, latents)
    again, _ = decoder.step(state, latents)
    same(again, first, "frames of the second call")


@torch.no_grad()
def goes_on_from_a_snapshot(make: Make, *, latent: Shape) -> None:
    """A state that went through a snapshot goes on as if nothing had happened."""
    decoder, latents, state = make(), noise(1, 4, *latent), None
    for index in range(4):
        state = decoder.open(1) if state is None else state
        want, after = decoder.step(state, latents[:, index : index + 1])
        there, _ = decoder.step(carried(decoder, state), latents[:, index : index + 1])
        same(there, want, f"frames after a snapshot before latent {index}")
        state = after


@torch.no_grad()
def keeps_no_memory_of_ended_streams(make: Make, *, latent: Shape) -> None:
    """Sessions leave no tensors behind."""
    decoder, latents = make(), noise(1, 3, *latent)
    keeps_nothing(lambda: decoded(decoder, latents), "decoder")


def nearly(got: Tensor, want: Tensor, what: str) -> None:
    """Require frames to be equal up to one grey level, which rounding may turn."""
    assert got.shape == want.shape, f"{what}: shape {list(got.shape)}, not {list(want.shape)}"
    worst = int((got.int() - want.int()).abs().max())
    assert worst <= 1, f"{what}: differ by up to {worst} grey levels"


CHECKS = (
    gives_one_frame_then_four_each,
    does_not_depend_on_how_latents_are_cut,
    shows_no_future,
    keeps_streams_apart,
    remembers_only_in_its_state,
    goes_on_from_a_snapshot,
    keeps_no_memory_of_ended_streams,
)
