"""Checks for whole avatars: what a pipeline of any stages must do, whoever wrote them."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from af_core.errors import StaleStreamStateError
from af_core.geometry import SAMPLES_PER_FRAME, num_frames
from af_core.pipeline import Avatar, AvatarState
from af_core.snapshots.value import Snapshot
from af_core.testing.conformance.common import close, keeps_nothing, pieces, same, speech

Make = Callable[[], Avatar]

BLOCKS = 3
"""Blocks of speech that these checks run beyond the look-ahead."""

ROUNDED = 2.0
"""Levels of 255 by which rounding may move a colour when streams share their steps."""


def video(
    avatar: Avatar, samples: Tensor, sizes: Sequence[int] = (), *, seed: int = 0, face: int = 0
) -> Tensor:
    """Return all frames of a finite utterance [b, n], cut into chunks of these sizes."""
    frames = list(
        avatar.stream(portraits(avatar, len(samples), face), pieces(samples, sizes), seed=seed)
    )
    return torch.cat(frames, dim=1)


def portraits(avatar: Avatar, num_streams: int, face: int = 0) -> Tensor:
    """Return seeded pictures [b, H, W, 3] of the size that the avatar takes, all the same."""
    rng = torch.Generator().manual_seed(face)
    size = (avatar.geometry.height, avatar.geometry.width, 3)
    one = torch.randint(0, 256, size, generator=rng, dtype=torch.uint8)
    return one.expand(num_streams, *size)


def gives_one_frame_for_each_started_frame_of_sound(make: Make) -> None:
    """A stream of n samples has exactly ceil(n / 640) frames."""
    avatar = make()
    for num_samples in (1, SAMPLES_PER_FRAME, SAMPLES_PER_FRAME + 1, _enough(avatar) + 77):
        got = video(avatar, speech(1, num_samples)).shape[1]
        want = num_frames(num_samples)
        assert got == want, f"{num_samples} samples gave {got} frames, not {want}"


def does_not_depend_on_how_audio_is_cut(make: Make) -> None:
    """Any way of cutting the speech into chunks gives the same video, bit for bit."""
    avatar = make()
    samples = speech(1, _enough(avatar))
    whole = video(avatar, samples)
    length, block = samples.shape[1], avatar.geometry.samples_per_block
    for size in (777, block, 2 * block + 1):
        cut = (1, 0, *[size] * ((length - 1) // size))
        same(video(avatar, samples, cut), whole, f"video of chunks of {size} samples")


def gives_the_same_video_for_the_same_seed(make: Make) -> None:
    """Seed, portrait and speech decide the video."""
    avatar = make()
    samples = speech(1, _enough(avatar))
    same(video(avatar, samples, seed=5), video(avatar, samples, seed=5), "video of the same seed")


def keeps_interleaved_streams_apart(make: Make) -> None:
    """Two interleaved streams give what each gives alone."""
    avatar = make()
    sounds = [speech(1, _enough(avatar), seed=i) for i in range(2)]
    step = avatar.geometry.samples_per_block
    states = [avatar.open(portraits(avatar, 1, i), seed=i) for i in range(2)]
    frames: list[list[Tensor]] = [[], []]
    for start in range(0, sounds[0].shape[1], step):
        for i in range(2):
            made, states[i] = avatar.step(states[i], sounds[i][:, start : start + step])
            frames[i].append(made)
    for i in range(2):
        frames[i].append(avatar.flush(states[i])[0])
        alone = video(avatar, sounds[i], seed=i, face=i)
        same(torch.cat(frames[i], dim=1), alone, f"interleaved stream {i}")


def shares_steps_without_mixing_streams_up(make: Make) -> None:
    """Streams of different ages that step together show what each shows alone, up to rounding."""
    avatar = make()
    block, count = avatar.geometry.samples_per_block, 3
    sounds = [speech(1, _enough(avatar) + i * block, seed=i) for i in range(count)]
    states, frames = [], []
    for i, sound in enumerate(sounds):  # each is one block older than the one before
        state = avatar.open(portraits(avatar, 1, i), seed=i)
        made, state = avatar.step(state, sound[:, : i * block])
        states.append(state)
        frames.append([made])
    for start in range(0, _enough(avatar), block):
        heard = [sound[:, start + i * block :][:, :block] for i, sound in enumerate(sounds)]
        for i, outcome in enumerate(avatar.step_together(states, heard)):
            if isinstance(outcome, Exception):
                raise outcome
            frames[i].append(outcome[0])
            states[i] = outcome[1]
    for i, sound in enumerate(sounds):
        shown = torch.cat([*frames[i], avatar.flush(states[i])[0]], dim=1)
        alone = video(avatar, sound, seed=i, face=i)
        close(shown.float(), alone.float(), f"frames of stream {i}, 0..255", tolerance=ROUNDED)


def waits_as_long_as_it_declares(make: Make) -> None:
    """The first frames come with the last sample of block and look-ahead, and no later."""
    avatar = make()
    needed = round(avatar.info.delay_ms * avatar.info.sample_rate / 1000)
    frames, _ = avatar.step(avatar.open(portraits(avatar, 1)), speech(1, needed))
    assert frames.shape[1] > 0, f"no frame after the declared {avatar.info.delay_ms:g} ms"


def refuses_or_repeats_an_old_state(make: Make) -> None:
    """Stepping an old state again gives the same frames, or an error that says so."""
    avatar = make()
    state, samples = avatar.open(portraits(avatar, 1)), speech(1, _enough(avatar))
    first, _ = avatar.step(state, samples)
    try:
        again, _ = avatar.step(state, samples)
    except StaleStreamStateError:
        return
    same(again, first, "frames of the second step from one state")


def goes_on_from_a_snapshot(make: Make) -> None:
    """Streams that were put into a snapshot and taken out go on bit for bit, wherever cut."""
    avatar = make()
    samples, block = speech(1, _enough(avatar)), avatar.geometry.samples_per_block
    for heard in (0, block // 3, samples.shape[1] - block - 1):
        _, state = avatar.step(avatar.open(portraits(avatar, 1)), samples[:, :heard])
        there = avatar.restore(Snapshot.from_bytes(avatar.snapshot(state).to_bytes()))
        want, got = (_finished(avatar, one, samples[:, heard:]) for one in (state, there))
        same(got, want, f"frames after a snapshot at sample {heard}")


def keeps_no_memory_of_ended_streams(make: Make) -> None:
    """Streams leave no tensors behind."""
    avatar = make()
    samples = speech(1, _enough(avatar))
    keeps_nothing(lambda: video(avatar, samples), "avatar")


def _finished(avatar: Avatar, state: AvatarState, samples: Tensor) -> Tensor:
    frames, state = avatar.step(state, samples)
    return torch.cat([frames, avatar.flush(state)[0]], dim=1)


def _enough(avatar: Avatar) -> int:
    ahead = round(avatar.info.lookahead_ms * avatar.info.sample_rate / 1000)
    return ahead + BLOCKS * avatar.geometry.samples_per_block


CHECKS = (
    gives_one_frame_for_each_started_frame_of_sound,
    does_not_depend_on_how_audio_is_cut,
    gives_the_same_video_for_the_same_seed,
    keeps_interleaved_streams_apart,
    shares_steps_without_mixing_streams_up,
    waits_as_long_as_it_declares,
    refuses_or_repeats_an_old_state,
    goes_on_from_a_snapshot,
    keeps_no_memory_of_ended_streams,
)
