"""Replay a recorded AvatarForcing stream through the engine and compare every latent.

    python -m af_core.testing.parity FILE.npz [--heads 2] [--json]

The recording holds weights, inputs, every draw of noise and the latents that the authors' code
made of them (spec section 8). Exit code 0 if the largest error is at most 1e-5.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path

import attrs
import numpy as np
import torch
from torch import Tensor

from af_core.anchors.config import DualAnchorConfig
from af_core.anchors.dual_anchor import DualAnchorCache
from af_core.errors import AvatarForcingError, FixtureError
from af_core.geometry import TEMPORAL_STRIDE
from af_core.noise import RecordedNoise
from af_core.schedules.config import RectifiedFlowConfig
from af_core.schedules.rectified_flow import RectifiedFlow
from af_core.stream_state import StreamState
from af_core.streaming import Streamer
from af_core.weights.avatarforcing import build_causal_wan, infer_config
from af_core.windows.config import LocalFutureConfig
from af_core.windows.local_future import LocalFutureScheduler

TOLERANCE = 1e-5
HISTORY = 2
"""Latent frames of clean history the release keeps at its own block size."""
LORA_SCALE = 0.5
WEIGHTS = "sd/"
NEEDED = ("denoise_steps", "noise", "ref", "text", "audio", "latents")


@attrs.frozen(eq=False)
class Recording:
    """One recorded stream; every size is read from it."""

    arrays: Mapping[str, Tensor]
    """Everything but the weights, by name."""
    weights: Mapping[str, Tensor]
    """State dict under the authors' names."""
    num_blocks: int
    block_latents: int

    @property
    def num_slots(self) -> int:
        """L: one slot per denoising step."""
        return len(self.arrays["denoise_steps"])

    @property
    def history(self) -> int:
        """Latent frames of clean history: what the recorded caches held beyond anchor and block."""
        ends = [int(end) for name, end in self.arrays.items() if name.endswith("/lend")]
        tokens = self.arrays.get("cfg_tokens")
        if not ends or tokens is None:
            return HISTORY
        held = max(ends) // int(tokens) - 1 - self.block_latents
        return held if held > 0 else HISTORY

    @property
    def levels(self) -> tuple[float, ...]:
        """Noise levels of the recorded steps, noisiest first."""
        steps, arrays = self.arrays["denoise_steps"], self.arrays
        if "sched_sigmas" not in arrays or "sched_timesteps" not in arrays:
            return tuple(RectifiedFlow().sigma_at(steps).tolist())
        nearest = (arrays["sched_timesteps"] - steps[:, None]).abs().argmin(-1)
        return tuple(arrays["sched_sigmas"][nearest].tolist())

    def rows(self, block: int) -> Tensor:
        """Return the audio rows of a block; row 0 of the recording belongs to the portrait."""
        count = TEMPORAL_STRIDE * self.block_latents
        return self.arrays["audio"][:, 1 + block * count : 1 + (block + 1) * count]


@attrs.frozen
class Parity:
    """How far the engine is from the recording."""

    max_abs_error: float
    """Largest difference of any latent."""
    num_forwards: int
    """Passes of the network."""
    num_blocks: int
    """Blocks compared."""


def read_recording(path: Path | str) -> Recording:
    """Read and check a recording; FixtureError names what is wrong with it."""
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {name: file[name] for name in file.files if file[name].dtype.kind in "fiu"}
    except (OSError, ValueError) as fault:
        raise FixtureError(f"{path} cannot be read as an .npz file: {fault}") from fault
    arrays = {name: torch.from_numpy(np.atleast_1d(array)) for name, array in found.items()}
    missing = [name for name in NEEDED if name not in arrays]
    weights = {n.removeprefix(WEIGHTS): a for n, a in arrays.items() if n.startswith(WEIGHTS)}
    if missing or not weights:
        raise FixtureError(
            f"{path} is no recorded stream; it lacks {missing or 'weights, named sd/...'}."
        )
    frames, blocks = arrays["noise"].shape[1], _num_blocks(arrays)
    if frames % blocks or frames + 1 != arrays["latents"].shape[1]:
        raise FixtureError(
            f"{path} holds noise for {frames} latent frames and {arrays['latents'].shape[1]} "
            f"latents (the portrait first), which is not {blocks} equal blocks."
        )
    return Recording(arrays, weights, blocks, frames // blocks)


def _num_blocks(arrays: Mapping[str, Tensor]) -> int:
    """Return how many blocks were recorded; without a note of it, blocks of four latents."""
    if "blocks" in arrays:
        return int(arrays["blocks"])
    return max(1, arrays["noise"].shape[1] // 4)


def recorded_noise(recording: Recording) -> dict[tuple[int, int], Tensor]:
    """Return the noise of every (block, rung), from the release's order of draws (spec 4.4).

    The first noise was drawn for the whole clip. Then each window drew once for every block that
    stays in it, in order, each time for all of its frames, of which only that block's are used.
    """
    size, slots, blocks = recording.block_latents, recording.num_slots, recording.num_blocks
    noise = recording.arrays["noise"]
    taken = {(k, slots - 1): noise[:, k * size : (k + 1) * size] for k in range(blocks)}
    count = 0
    for window in range(blocks + slots - 1):
        first, last = max(0, window - slots + 1), min(blocks - 1, window)
        for block in range(first, last + 1):
            rung = slots - 1 - (window - block)
            if rung == 0:
                continue
            draw = recording.arrays.get(f"draw{count:02d}")
            if draw is None:
                raise FixtureError(f"The recording lacks draw{count:02d}, of window {window}.")
            draw = draw.unflatten(0, (noise.shape[0], -1))
            at = (block - first) * size
            taken[block, rung - 1] = draw[:, at : at + size]
            count += 1
    return taken


def build_streamer(recording: Recording, num_heads: int, *, fused: bool = True) -> Streamer:
    """Build the released configuration from a recording."""
    arrays = recording.arrays
    rank = next((w.shape[0] for n, w in recording.weights.items() if ".lora_A." in n), 1)
    schedule = RectifiedFlow(RectifiedFlowConfig(levels=recording.levels))
    return Streamer(
        scheduler=LocalFutureScheduler(schedule, LocalFutureConfig(num_slots=recording.num_slots)),
        denoiser=build_causal_wan(
            infer_config(recording.weights, num_heads, arrays["text"].shape[1]),
            recording.weights,
            "the recording",
            alpha=LORA_SCALE * rank,
        ),
        cache=DualAnchorCache(
            DualAnchorConfig(temporal_budget=recording.history, cache_anchor_position="absolute")
        ),
        block_latents=recording.block_latents,
        noise=RecordedNoise(recorded_noise(recording)),
        fused=fused,
    )


def run(recording: Recording, num_heads: int, *, fused: bool = True) -> Parity:
    """Replay a whole recording and compare."""
    streamer, arrays = build_streamer(recording, num_heads, fused=fused), recording.arrays
    state: StreamState = streamer.open(arrays["ref"], text=arrays["text"])
    error, at = _difference(arrays["ref"], arrays["latents"][:, :1]), 1
    pending = iter(range(recording.num_blocks))
    while at < arrays["latents"].shape[1]:
        block = next(pending, None)
        rows = None if block is None else recording.rows(block)
        made, state = streamer.step(state, rows)
        if made is not None:
            wanted = arrays["latents"][:, at : at + made.shape[1]]
            error, at = max(error, _difference(made, wanted)), at + made.shape[1]
    return Parity(error, state.num_forwards, recording.num_blocks)


def _difference(made: Tensor, wanted: Tensor) -> float:
    difference = float((made - wanted).abs().max())
    return difference if difference == difference else float("inf")


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m af_core.testing.parity", description=__doc__)
    parser.add_argument("file", type=Path, help="recorded stream, .npz")
    parser.add_argument("--heads", type=int, default=2, help="attention heads of the network")
    parser.add_argument("--separate", action="store_true", help="clean passes of their own")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)
    try:
        recording = read_recording(options.file)
        parity = run(recording, options.heads, fused=not options.separate)
    except AvatarForcingError as fault:
        print(fault, file=sys.stderr)  # noqa: T201
        return 2
    facts = attrs.asdict(parity)
    text = json.dumps(facts) if options.json else "\n".join(f"{k}: {v}" for k, v in facts.items())
    print(text)  # noqa: T201
    return 0 if parity.max_abs_error <= TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main())
