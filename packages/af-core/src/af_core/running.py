"""Runs the nodes of a pipeline in one process: each stage behind the same small face.

The face is ``open`` / ``step`` / ``flush`` over named tensors, so the avatar's own stages and the
nodes of integrators are driven by one loop. Weights stay in the stages, memory in the states.
"""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import attrs
import torch
from torch import Tensor

from af_core.errors import StageContractError
from af_core.geometry import Geometry
from af_core.joining import joined, kind_of, parted
from af_core.joint import step_streams, stream_kind
from af_core.stages.decoder import SeesPortrait
from af_core.stages.sharing import SharesSteps
from af_core.stages.snapshots import Snapshots
from af_core.stream_state import StreamState
from af_core.streaming import Streamer

Values = Mapping[str, Tensor]
"""Tensors by port name; the first axis is the stream, the second is time."""


@attrs.frozen
class Opening:
    """What is known of a batch of streams when it begins."""

    num_streams: int
    portrait: Tensor
    """Normalised latents of the portraits, [b, 1, c, h, w]."""
    seeds: Sequence[int]
    """Seed of the noise of each stream."""
    text: Tensor | None = None
    """Embedding of the prompt, [1, token, d]."""
    image: Tensor | None = None
    """The portraits themselves, uint8 [b, H, W, 3]."""


@attrs.frozen
class Reopening:
    """What is known when streams go on from a snapshot, of which they are no part."""

    text: Tensor | None = None
    """Embedding of the prompt, [1, token, d]."""


class Runner(Protocol):
    """One node while it runs."""

    def open(self, opening: Opening) -> Any:
        """Return the state before the first input."""
        ...

    def step(self, state: Any, inputs: Values) -> tuple[dict[str, Tensor], Any]:
        """Take what arrived and return what is ready; time axes may be empty."""
        ...

    def flush(self, state: Any) -> tuple[dict[str, Tensor], Any]:
        """Return what is still owed at the end of the stream."""
        ...

    def snapshot(self, state: Any) -> Any:
        """Return the state as a value that can be taken apart (``snapshots.trees``)."""
        ...

    def restore(self, saved: Any, reopening: Reopening) -> Any:
        """Return the state of such a value; the streams go on as if nothing had happened."""
        ...


Made = tuple[dict[str, Tensor], Any]
"""What a step of a node returns: tensors by port, and the state after it."""


def _batch_kinds(
    stage: Any, states: Sequence[Any], inputs: Sequence[Values]
) -> list[Hashable | None]:
    """Return what a stage's streams must share to be one batch, if the stage allows it."""
    shares = isinstance(stage, SharesSteps) and stage.shares_steps
    each = zip(states, inputs, strict=True)
    return [kind_of(one) if shares else None for one in each]


def _as_batch(runner: Runner, states: Sequence[Any], inputs: Sequence[Values]) -> list[Made]:
    state, values = joined([*zip(states, inputs, strict=True)])
    return parted(runner.step(state, values), len(states))


@attrs.frozen
class HearRunner:
    """The audio encoder: samples to rows."""

    encoder: Any

    def open(self, opening: Opening) -> Any:
        """See ``Runner.open``."""
        return self.encoder.open(opening.num_streams)

    def step(self, state: Any, inputs: Values) -> tuple[dict[str, Tensor], Any]:
        """Encode samples [b, n] to rows [b, r, d]."""
        rows, state = self.encoder.step(state, inputs["samples"])
        return {"rows": rows}, state

    def kinds(self, states: Sequence[Any], inputs: Sequence[Values]) -> list[Hashable | None]:
        """See ``StepsAsOne``."""
        return _batch_kinds(self.encoder, states, inputs)

    def step_as_one(self, states: Sequence[Any], inputs: Sequence[Values]) -> list[Made]:
        """See ``StepsAsOne``."""
        return _as_batch(self, states, inputs)

    def flush(self, state: Any) -> tuple[dict[str, Tensor], Any]:
        """Return the rows that waited for look-ahead."""
        rows, state = self.encoder.flush(state)
        return {"rows": rows}, state

    def snapshot(self, state: Any) -> Any:
        """See ``Runner.snapshot``."""
        return saved(self.encoder, state)

    def restore(self, saved: Any, reopening: Reopening) -> Any:
        """See ``Runner.restore``."""
        return restored(self.encoder, saved)


@attrs.frozen
class ReviseRunner:
    """An audio encoder that hears the past better later: samples to rows and revisions."""

    encoder: Any

    def open(self, opening: Opening) -> Any:
        """See ``Runner.open``."""
        return self.encoder.open(opening.num_streams)

    def step(self, state: Any, inputs: Values) -> tuple[dict[str, Tensor], Any]:
        """Encode samples [b, n] to rows [b, r, d] and revisions [b, hop, row, d]."""
        rows, revisions, state = self.encoder.step_revising(state, inputs["samples"])
        return {"rows": rows, "revisions": revisions}, state

    def flush(self, state: Any) -> tuple[dict[str, Tensor], Any]:
        """Return what is still owed of both."""
        rows, revisions, state = self.encoder.flush_revising(state)
        return {"rows": rows, "revisions": revisions}, state

    def snapshot(self, state: Any) -> Any:
        """See ``Runner.snapshot``."""
        return saved(self.encoder, state)

    def restore(self, saved: Any, reopening: Reopening) -> Any:
        """See ``Runner.restore``."""
        return restored(self.encoder, saved)


@attrs.frozen
class _Pending:
    """What the denoiser's node remembers."""

    rows: Tensor
    """Rows that do not fill a block."""
    stream: StreamState[Any]
    portrait: Tensor
    """The portrait's latent, [b, 1, c, h, w]."""


@attrs.frozen
class DenoiseRunner:
    """The streaming algorithm: rows are grouped into blocks, each step may emit one block."""

    streamer: Streamer[Any]
    geometry: Geometry

    def open(self, opening: Opening) -> _Pending:
        """Start the stream from the portrait's latent [b, 1, c, h, w]."""
        stream = self.streamer.open(opening.portrait, text=opening.text, seeds=opening.seeds)
        return _Pending(torch.empty(opening.num_streams, 0, 0), stream, opening.portrait)

    def step(self, state: _Pending, inputs: Values) -> tuple[dict[str, Tensor], _Pending]:
        """Return the latents [b, f, c, h, w] of the blocks that these rows complete."""
        heard, rows = self._cut(state, inputs)
        stream, ready = state.stream, []
        for audio in heard:
            block, stream = self.streamer.step(stream, audio)
            ready += [] if block is None else [block]
        return _latents(ready), _Pending(rows, stream, state.portrait)

    def kinds(self, states: Sequence[_Pending], inputs: Sequence[Values]) -> list[Hashable | None]:
        """See ``StepsAsOne``; streams that complete one block each may be of one kind."""
        return [self._kind(*each) for each in zip(states, inputs, strict=True)]

    def _kind(self, state: _Pending, inputs: Values) -> Hashable | None:
        heard, _ = self._cut(state, inputs)
        kind = stream_kind(self.streamer, state.stream) if len(heard) == 1 else None
        return None if kind is None else (heard[0].shape, kind)

    def step_as_one(self, states: Sequence[_Pending], inputs: Sequence[Values]) -> list[Made]:
        """See ``StepsAsOne``."""
        cuts = [self._cut(*each) for each in zip(states, inputs, strict=True)]
        streams, audio = [state.stream for state in states], [heard[0] for heard, _ in cuts]
        stepped = step_streams(self.streamer, streams, audio)
        return [
            (_latents([] if block is None else [block]), _Pending(rows, stream, state.portrait))
            for (block, stream), (_, rows), state in zip(stepped, cuts, states, strict=True)
        ]

    def _cut(self, state: _Pending, inputs: Values) -> tuple[list[Tensor], Tensor]:
        """Return the audio [b, n, d] of each block that is complete, and the rows that are left."""
        rows = _joined(state.rows, inputs["rows"])
        size, heard = self.geometry.frames_per_block, []
        earlier = self._earlier(inputs)
        while rows.shape[1] >= size:
            better = [next(earlier)] if earlier else []
            heard.append(torch.cat([*better, rows[:, :size]], 1))
            rows = rows[:, size:]
        return heard, rows

    def _earlier(self, inputs: Values) -> Iterator[Tensor] | None:
        """Return the revised rows [b, n, d] that go with each block of rows, if there are any."""
        if "revisions" not in inputs:
            return None
        rows, revisions = inputs["rows"].shape[1], inputs["revisions"]
        size = self.geometry.frames_per_block
        if rows != size * revisions.shape[1] or revisions.shape[2] % size:
            raise StageContractError(
                f"The audio encoder handed over {rows} rows with {revisions.shape[1]} revisions of "
                f"{revisions.shape[2]} frames. One revision goes with each block of {size} rows "
                f"(hop_frames={size}) and covers whole blocks."
            )
        return iter(revisions.unbind(1))

    def flush(self, state: _Pending) -> tuple[dict[str, Tensor], _Pending]:
        """Drain the window; speech was filled to whole blocks, so no row may be left."""
        if left := state.rows.shape[1]:
            size = self.geometry.frames_per_block
            raise StageContractError(
                f"The speech has ended with {left} feature rows that fill no block of {size}. The "
                "node that makes the rows (as a rule the audio encoder) is at fault: with flush, "
                "it owes exactly one row for each 640 samples heard."
            )
        ready, stream = [], state.stream
        while len(stream.window):
            block, stream = self.streamer.step(stream, None)
            ready += [] if block is None else [block]
        return _latents(ready), attrs.evolve(state, stream=stream)

    def interrupt(self, state: _Pending) -> _Pending:
        """Forget rows and blocks that have not come out, see ``Streamer.interrupt``."""
        stream = self.streamer.interrupt(state.stream)
        return attrs.evolve(state, rows=state.rows[:, :0], stream=stream)

    def reopening(self, state: _Pending) -> Opening:
        """Return with what the nodes that listen for these streams were opened."""
        return Opening(len(state.portrait), state.portrait, state.stream.seeds)

    def num_emitted(self, state: _Pending) -> int:
        """Return the blocks that have come out of streams that were just interrupted."""
        return state.stream.clock.num_heard

    def snapshot(self, state: _Pending) -> _Pending:
        """Leave out what follows from portrait and prompt; keys and values stay in."""
        state.stream.require_current()
        return attrs.evolve(state, stream=attrs.evolve(state.stream, conditions=None))

    def restore(self, saved: _Pending, reopening: Reopening) -> _Pending:
        """Make again what was left out."""
        stream = self.streamer.reopen(saved.stream, saved.portrait, text=reopening.text)
        return attrs.evolve(saved, stream=stream)


@attrs.frozen
class DecodeRunner:
    """The decoder: latents to frames, without the portrait's own frame.

    Latents are decoded one block a call, so that rounding does not depend on how speech is cut.
    """

    decoder: Any
    block_latents: int

    def open(self, opening: Opening) -> Any:
        """Show the decoder the portrait's latent; its frame is video frame 0, which is not sent."""
        if opening.image is not None and isinstance(self.decoder, SeesPortrait):
            state = self.decoder.open_seeing(opening.image)
        else:
            state = self.decoder.open(opening.num_streams)
        _, state = self.decoder.step(state, opening.portrait)
        return state

    def step(self, state: Any, inputs: Values) -> tuple[dict[str, Tensor], Any]:
        """Decode latents [b, f, c, h, w] to frames uint8 [b, 4 f, H, W, 3]."""
        if not inputs["latents"].shape[1]:
            return {}, state
        frames: list[Tensor] = []
        for block in inputs["latents"].split(self.block_latents, dim=1):
            made, state = self.decoder.step(state, block)
            frames.append(made)
        return {"frames": torch.cat(frames, dim=1)}, state

    def kinds(self, states: Sequence[Any], inputs: Sequence[Values]) -> list[Hashable | None]:
        """See ``StepsAsOne``."""
        return _batch_kinds(self.decoder, states, inputs)

    def step_as_one(self, states: Sequence[Any], inputs: Sequence[Values]) -> list[Made]:
        """See ``StepsAsOne``."""
        return _as_batch(self, states, inputs)

    def flush(self, state: Any) -> tuple[dict[str, Tensor], Any]:
        """Return nothing: a causal decoder owes nothing."""
        return {}, state

    def snapshot(self, state: Any) -> Any:
        """See ``Runner.snapshot``."""
        return saved(self.decoder, state)

    def restore(self, saved: Any, reopening: Reopening) -> Any:
        """See ``Runner.restore``."""
        return restored(self.decoder, saved)


@attrs.frozen
class NodeRunner:
    """A node of an integrator, see ``af_core.stages.node.Node``."""

    node: Any

    def open(self, opening: Opening) -> Any:
        """See ``Runner.open``."""
        return self.node.open(opening.num_streams)

    def step(self, state: Any, inputs: Values) -> tuple[dict[str, Tensor], Any]:
        """See ``Runner.step``."""
        outputs, state = self.node.step(state, inputs)
        return dict(outputs), state

    def flush(self, state: Any) -> tuple[dict[str, Tensor], Any]:
        """See ``Runner.flush``."""
        outputs, state = self.node.flush(state)
        return dict(outputs), state

    def snapshot(self, state: Any) -> Any:
        """See ``Runner.snapshot``."""
        return saved(self.node, state)

    def restore(self, saved: Any, reopening: Reopening) -> Any:
        """See ``Runner.restore``."""
        return restored(self.node, saved)


def packages(value: Any, depth: int = 3) -> frozenset[str]:
    """Return the packages of a runner, its stages, and what these are made of."""
    found = {type(value).__module__.partition(".")[0]} - {"builtins", "torch", "__main__"}
    if depth and attrs.has(type(value)):
        for field in attrs.fields(type(value)):
            found |= packages(getattr(value, field.name), depth - 1)
    return frozenset(found)


def saved(stage: Any, state: Any) -> Any:
    """Return the state of a stage as a value that can be taken apart."""
    return stage.snapshot(state) if isinstance(stage, Snapshots) else state


def restored(stage: Any, saved: Any) -> Any:
    """Return the state of such a value."""
    return stage.restore(saved) if isinstance(stage, Snapshots) else saved


def _joined(first: Tensor, second: Tensor) -> Tensor:
    return second if first.shape[1] == 0 else torch.cat([first, second], dim=1)


def _latents(blocks: list[Tensor]) -> dict[str, Tensor]:
    return {"latents": torch.cat(blocks, dim=1)} if blocks else {}
