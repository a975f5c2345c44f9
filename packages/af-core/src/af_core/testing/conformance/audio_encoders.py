"""Checks for audio encoders."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from af_core.geometry import SAMPLES_PER_FRAME, num_frames
from af_core.testing.conformance.common import close, keeps_nothing, pieces, same, speech
from af_core.testing.conformance.snapshots import carried

Make = Callable[[], Any]

CUTS = ((), (1,), (0, 640, 0, 1), (639, 2, 1278), (160,) * 20, (5000,))
"""Chunk sizes; what is left follows as one more chunk."""


def encoded(encoder: Any, samples: Tensor, sizes: Sequence[int] = ()) -> Tensor:
    """Return all rows of a finite utterance, cut into chunks of these sizes."""
    state, rows = encoder.open(len(samples)), []
    for piece in pieces(samples, sizes):
        made, state = encoder.step(state, piece)
        rows.append(made)
    made, state = encoder.flush(state)
    return torch.cat([*rows, made], dim=1)


@torch.no_grad()
def gives_one_row_per_video_frame(make: Make) -> None:
    """A stream of n samples has ceil(n / 640) rows, and each is as wide as declared."""
    encoder = make()
    for num_samples in (0, 1, 639, 640, 641, 6400, 6401):
        rows = encoded(encoder, speech(1, num_samples))
        want = (1, num_frames(num_samples), encoder.feature_dim)
        assert rows.shape == want, f"{num_samples} samples gave {list(rows.shape)}, not {want}"
        assert rows.dtype == torch.float32, f"rows are {rows.dtype}, not torch.float32"


@torch.no_grad()
def does_not_depend_on_how_audio_is_cut(make: Make) -> None:
    """Any way of cutting the audio into chunks gives the same rows, bit for bit."""
    encoder, samples = make(), speech(2, 9000)
    whole = encoded(encoder, samples)
    for sizes in CUTS:
        same(encoded(encoder, samples, sizes), whole, f"rows of chunks {sizes or 'in one'}")


@torch.no_grad()
def waits_no_longer_than_it_declares(make: Make) -> None:
    """Row i is there once samples up to 640 (i + 1) + lookahead_samples have been heard."""
    encoder = make()
    needed = 3 * SAMPLES_PER_FRAME + encoder.lookahead_samples
    rows, _ = encoder.step(encoder.open(1), speech(1, needed))
    assert rows.shape[1] >= 3, f"{needed} samples completed {rows.shape[1]} rows, 3 were due"


@torch.no_grad()
def hears_no_further_than_it_declares(make: Make) -> None:
    """Sound after a row's look-ahead does not change it."""
    encoder, samples = make(), speech(1, 6400)
    changed = samples.clone()
    changed[:, 3 * SAMPLES_PER_FRAME + encoder.lookahead_samples :] *= -0.5
    same(encoded(encoder, changed)[:, :3], encoded(encoder, samples)[:, :3], "the first 3 rows")


@torch.no_grad()
def keeps_streams_apart(make: Make) -> None:
    """Interleaved streams, and streams in one batch, give what each gives alone."""
    encoder = make()
    one, two = speech(1, 4000, seed=1), speech(1, 4000, seed=2)
    alone = encoded(encoder, one)
    first, second, rows = encoder.open(1), encoder.open(1), []
    for a, b in zip(pieces(one, (700,) * 5), pieces(two, (700,) * 5), strict=True):
        made, first = encoder.step(first, a)
        _, second = encoder.step(second, b)
        rows.append(made)
    rows.append(encoder.flush(first)[0])
    same(torch.cat(rows, dim=1), alone, "rows of an interleaved stream")
    close(encoded(encoder, torch.cat([one, two]))[:1], alone, "rows of a stream in a batch")


@torch.no_grad()
def remembers_only_in_its_state(make: Make) -> None:
    """An older state steps to the same result again: nothing is remembered elsewhere."""
    encoder, samples = make(), speech(1, 3000)
    _, state = encoder.step(encoder.open(1), samples)
    first, _ = encoder.step(state, samples)
    again, _ = encoder.step(state, samples)
    same(again, first, "rows of the second call")


@torch.no_grad()
def goes_on_from_a_snapshot(make: Make) -> None:
    """A state that went through a snapshot goes on as if nothing had happened."""
    encoder, samples = make(), speech(1, 5000)
    for heard in (0, 1, 640, 3333):
        _, state = encoder.step(encoder.open(1), samples[:, :heard])
        want, got = (
            _finished(encoder, one, samples[:, heard:]) for one in (state, carried(encoder, state))
        )
        same(got, want, f"rows after a snapshot at sample {heard}")


@torch.no_grad()
def keeps_no_memory_of_ended_streams(make: Make) -> None:
    """Sessions leave no tensors behind."""
    encoder, samples = make(), speech(1, 3000)
    keeps_nothing(lambda: encoded(encoder, samples), "audio encoder")


def _finished(encoder: Any, state: Any, samples: Tensor) -> Tensor:
    rows, state = encoder.step(state, samples)
    return torch.cat([rows, encoder.flush(state)[0]], dim=1)


CHECKS = (
    gives_one_row_per_video_frame,
    does_not_depend_on_how_audio_is_cut,
    waits_no_longer_than_it_declares,
    hears_no_further_than_it_declares,
    keeps_streams_apart,
    remembers_only_in_its_state,
    goes_on_from_a_snapshot,
    keeps_no_memory_of_ended_streams,
)
