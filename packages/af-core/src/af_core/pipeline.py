"""The avatar: a portrait and a live stream of speech in, video frames out.

    avatar = load("toon")
    state = avatar.open(portrait)
    for samples in microphone:
        frames, state = avatar.step(state, samples)
    frames, state = avatar.flush(state)

The avatar holds weights, the state holds memory: one avatar serves any number of streams. Speech
may be cut into chunks of any size; the video does not depend on the cut.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from numbers import Integral
from typing import Any

import attrs
import torch
from torch import Tensor

from af_core.assembly import assemble
from af_core.errors import SnapshotError, StageContractError, StreamEndedError, StreamInputError
from af_core.geometry import SAMPLES_PER_FRAME, Geometry
from af_core.graph.checked import Pipeline
from af_core.graph.explain import latency
from af_core.graph.resolve import open_pipeline
from af_core.graph.spec import PATH_OPTIONS
from af_core.info import AvatarInfo as AvatarInfo
from af_core.plugins.registry import Catalog
from af_core.running import Opening, Reopening, Runner, packages
from af_core.snapshots.identity import Identity, configuration
from af_core.snapshots.value import Snapshot, SnapshotHeader
from af_core.together import Run, flow, run_nodes

DENOISER = "denoiser"
"""The node that holds the blocks on their way."""


@attrs.frozen
class AvatarState:
    """All that the streams of one batch remember. Pass it in, keep the one that comes back."""

    nodes: Mapping[str, Any]
    """State of each node."""
    num_streams: int
    num_samples: int = 0
    """Samples of speech heard so far."""
    num_frames: int = 0
    """Frames handed out so far."""
    is_finished: bool = False
    """Whether the streams were flushed."""


Stepped = tuple[Tensor, AvatarState]
"""Frames uint8 [b, m, H, W, 3], and the state after them."""


@attrs.frozen
class Avatar:
    """A pipeline with its weights loaded."""

    info: AvatarInfo
    geometry: Geometry
    encode_portrait: Any
    """The image encoder."""
    runners: Mapping[str, Runner]
    """Every node that works during the stream, in the order in which they run."""
    wires: Mapping[str, Mapping[str, str]]
    """Where each input comes from: node -> port -> ``node.port``."""
    output: str
    """The port whose frames are handed out."""
    text: Tensor | None = None
    """Embedding of the prompt, for networks that take text."""
    device: str = "cpu"
    identity: Identity = attrs.field(factory=Identity)
    """What a snapshot of its streams must agree with."""

    @torch.inference_mode()
    def open(self, portrait: Tensor, *, seed: int | Sequence[int] = 0) -> AvatarState:
        """Begin streams, one for each portrait.

        ``portrait`` is uint8 [H, W, 3] or [b, H, W, 3] of the pipeline's size. ``seed`` decides the
        noise, one for all streams or one each: the same seed and speech give the same video,
        whatever else is in the batch.
        """
        images = self._checked_portrait(portrait).to(self.device)
        seeds = _checked_seeds(seed, len(images))
        latents = self.encode_portrait.encode(images)
        opening = Opening(len(images), latents, seeds, self.text, images)
        states = {name: runner.open(opening) for name, runner in self.runners.items()}
        return AvatarState(states, num_streams=len(images))

    @torch.inference_mode()
    def step(self, state: AvatarState, samples: Tensor) -> tuple[Tensor, AvatarState]:
        """Hear some speech; return the frames it completes and the new state.

        ``samples`` is float32 [n] or [b, n] at 16 kHz in [-1, 1], any n. The frames are uint8
        [b, m, H, W, 3] with m >= 0: whole blocks, once their look-ahead has been heard.
        """
        samples = self._checked_samples(state, samples)
        frames, nodes = self._run(state.nodes, samples.to(self.device), last=False)
        return self._handed_out(state, frames, nodes, samples.shape[1], finished=False)

    @torch.inference_mode()
    def step_together(
        self, states: Sequence[AvatarState], samples: Sequence[Tensor]
    ) -> list[Stepped | Exception]:
        """Step streams that were opened one by one, each with its own speech, as `step` does.

        Streams that are alike, as all are once their windows have filled, share the work; results
        are those of `step` up to rounding. What goes wrong with a stream is its outcome and no
        other's.
        """
        runs = [Run(state.nodes) for state in states]
        for run, state, heard in zip(runs, states, samples, strict=True):
            try:
                checked = self._checked_samples(state, heard)
                run.values["audio.samples"] = checked.to(self.device)
            except Exception as e:
                run.failure = e
        flow(runs, self.runners, self.wires)
        each = zip(states, runs, strict=True)
        return [run.failure or self._finished(state, run) for state, run in each]

    def _finished(self, state: AvatarState, run: Run) -> Stepped:
        frames, heard = run.values.get(self.output), run.values["audio.samples"].shape[1]
        return self._handed_out(state, frames, {**state.nodes, **run.after}, heard, finished=False)

    @torch.inference_mode()
    def flush(self, state: AvatarState) -> tuple[Tensor, AvatarState]:
        """End the streams: fill the last block with silence and return every frame still owed.

        In all, a stream of n samples has exactly ``ceil(n / 640)`` frames.
        """
        if state.is_finished:
            return self._no_frames(state.num_streams), state
        per_block = self.geometry.frames_per_block * SAMPLES_PER_FRAME
        silence = torch.zeros(state.num_streams, -state.num_samples % per_block)
        if state.num_samples == 0:
            return self._no_frames(state.num_streams), attrs.evolve(state, is_finished=True)
        frames, nodes = self._run(state.nodes, silence.to(self.device), last=True)
        return self._handed_out(state, frames, nodes, 0, finished=True)

    @torch.inference_mode()
    def snapshot(self, state: AvatarState) -> Snapshot:
        """Return a copy of all that the streams remember, for another process or another time.

        Raises ``SnapshotError`` if a node remembers what cannot be copied, and
        ``StaleStreamStateError`` for a state that was stepped already.
        """
        saved = {name: r.snapshot(state.nodes[name]) for name, r in self.runners.items()}
        header = SnapshotHeader(
            preset=self.info.preset,
            configuration=self.identity.configuration,
            weights=self.identity.weights,
            num_streams=state.num_streams,
            num_samples=state.num_samples,
            num_frames=state.num_frames,
            is_finished=state.is_finished,
        )
        return Snapshot.of(header, saved, self._packages, self.device)

    @torch.inference_mode()
    def restore(self, snapshot: Snapshot) -> AvatarState:
        """Return streams that go on where those of the snapshot stood, bit for bit.

        Raises ``SnapshotMismatchError`` with every difference if it is of another avatar.
        """
        header, own = snapshot.header, self.identity
        header.require(self.info.preset, own.configuration, own.weights)
        saved = snapshot.values(self.runners, self._packages, self.device)
        again = Reopening(self.text)
        try:
            nodes = {name: self.runners[name].restore(one, again) for name, one in saved.items()}
        except (AttributeError, TypeError, ValueError, LookupError, RuntimeError) as e:
            raise SnapshotError(f"A state in the snapshot is none of its node: {e}.") from e
        return AvatarState(
            nodes, header.num_streams, header.num_samples, header.num_frames, header.is_finished
        )

    @property
    def _packages(self) -> frozenset[str]:
        """Return the packages whose classes states are made of."""
        return frozenset({"af_core"}).union(*map(packages, self.runners.values()))

    @torch.inference_mode()
    def interrupt(self, state: AvatarState) -> AvatarState:
        """Forget the speech whose frames have not come out; what is heard next takes its place.

        The blocks on their way begin anew, from fresh noise and with the new speech, after the
        frames that did come out. Raises ``StageContractError`` unless ``can_interrupt``.
        """
        if state.is_finished:
            raise StreamEndedError("These streams were flushed and have ended; open new ones.")
        if not self.can_interrupt:
            raise StageContractError(
                "This pipeline cannot be interrupted: a node hears the speech beside the denoiser, "
                "so its past and the frames would part. Let it hear what the denoiser hands out."
            )
        denoiser: Any = self.runners[DENOISER]
        kept = denoiser.interrupt(state.nodes[DENOISER])
        opening = denoiser.reopening(kept)
        heard = {name: self.runners[name].open(opening) for name in self._before(DENOISER)}
        samples = denoiser.num_emitted(kept) * self.geometry.samples_per_block
        nodes = {**state.nodes, DENOISER: kept, **heard}
        return attrs.evolve(state, nodes=nodes, num_samples=samples)

    @property
    def can_interrupt(self) -> bool:
        """Whether speech can be forgotten: all that is heard goes through the denoiser."""
        if DENOISER not in self.runners:
            return False
        inside = {"audio", *self._before(DENOISER)}
        others = set(self.runners) - inside - {DENOISER}
        return not any(inside & self._sources(name) for name in others)

    def _sources(self, name: str) -> set[str]:
        """Return the nodes that a node hears directly."""
        return {source.partition(".")[0] for source in self.wires[name].values()}

    def _before(self, name: str) -> set[str]:
        """Return the nodes whose work a node depends on."""
        direct = self._sources(name) & set(self.runners)
        return direct.union(*(self._before(one) for one in direct))

    def stream(
        self, portrait: Tensor, chunks: Iterable[Tensor], *, seed: int | Sequence[int] = 0
    ) -> Iterator[Tensor]:
        """Yield the frames of a whole utterance, chunk by chunk, as they become ready."""
        state = self.open(portrait, seed=seed)
        for samples in chunks:
            frames, state = self.step(state, samples)
            if frames.shape[1]:
                yield frames
        frames, state = self.flush(state)
        if frames.shape[1]:
            yield frames

    def _run(
        self, states: Mapping[str, Any], samples: Tensor, *, last: bool
    ) -> tuple[Tensor | None, dict[str, Any]]:
        """Let samples flow through all nodes, in order; ``last`` makes each give what it owes."""
        heard = {"audio.samples": samples}
        values, after = run_nodes(self.runners, self.wires, states, heard, last=last)
        return values.get(self.output), after

    def _handed_out(
        self,
        state: AvatarState,
        frames: Tensor | None,
        nodes: Mapping[str, Any],
        num_samples: int,
        *,
        finished: bool,
    ) -> tuple[Tensor, AvatarState]:
        """Return frames and state; at the end, what silence has drawn is cut off."""
        frames = self._no_frames(state.num_streams) if frames is None else frames
        heard = state.num_samples + num_samples
        if finished:
            self._require_all(heard, state.num_frames + frames.shape[1])
            frames = frames[:, : -(-heard // SAMPLES_PER_FRAME) - state.num_frames]
        shown = state.num_frames + frames.shape[1]
        return frames, AvatarState(nodes, state.num_streams, heard, shown, finished)

    def _require_all(self, num_samples: int, made: int) -> None:
        """Refuse an end at which more or fewer frames were drawn than speech has blocks for."""
        per_block = self.geometry.frames_per_block
        due = -(-num_samples // (per_block * SAMPLES_PER_FRAME)) * per_block
        if made != due:
            node, before = self.output.partition(".")[0], [*self.runners]
            before = before[: before.index(node)] if node in before else []
            raise StageContractError(
                f"The pipeline drew {made} frames where {due} were due: {num_samples} samples of "
                f"speech are {-(-num_samples // SAMPLES_PER_FRAME)} frames, in whole blocks of "
                f"{per_block}. Likely at fault: {node!r}, which hands out the frames"
                + (f", or a node before it ({', '.join(before)})" if before else "")
                + ". Each owes, flush included, as much video as it took in; the conformance kit "
                "(af_core.testing.conformance) finds which does not."
            )

    def _no_frames(self, num_streams: int) -> Tensor:
        size = (num_streams, 0, self.info.height, self.info.width, 3)
        return torch.empty(size, dtype=torch.uint8)

    def _checked_portrait(self, portrait: Tensor) -> Tensor:
        images = portrait[None] if portrait.ndim == 3 else portrait
        want = (self.geometry.height, self.geometry.width, 3)
        if images.ndim != 4 or tuple(images.shape[1:]) != want or images.dtype != torch.uint8:
            raise StreamInputError(
                f"The portrait is {portrait.dtype} {list(portrait.shape)}; this avatar takes "
                f"torch.uint8 {list(want)}, or [b, {want[0]}, {want[1]}, 3] for b streams."
            )
        return images

    def _checked_samples(self, state: AvatarState, samples: Tensor) -> Tensor:
        if state.is_finished:
            raise StreamEndedError("These streams were flushed and have ended; open new ones.")
        rows = samples[None] if samples.ndim == 1 else samples
        if rows.ndim != 2 or len(rows) != state.num_streams or rows.dtype != torch.float32:
            raise StreamInputError(
                f"The samples are {samples.dtype} {list(samples.shape)}; these streams take "
                f"torch.float32 [{state.num_streams}, n]"
                + (" or [n]." if state.num_streams == 1 else ".")
            )
        if not bool(torch.isfinite(rows).all()):
            raise StreamInputError("The samples hold NaN or infinity; replace them with silence.")
        return rows


def _checked_seeds(seed: Any, num_streams: int) -> tuple[int, ...]:
    """Return one seed for each stream from one integer for all, or from one for each."""
    if isinstance(seed, Integral):
        return (int(seed),) * num_streams
    seeds = tuple(seed) if isinstance(seed, Iterable) and not isinstance(seed, str) else (seed,)
    if len(seeds) != num_streams or not all(isinstance(one, Integral) for one in seeds):
        raise StreamInputError(
            f"The seed is {seed!r} ({type(seed).__name__}); give one integer for all streams, or "
            f"a list of integers, one for each of the {num_streams}."
        )
    return tuple(int(one) for one in seeds)


def load(
    preset: str = "toon",
    overrides: Mapping[str, Any] | None = None,
    *,
    catalog: Catalog | None = None,
) -> Avatar:
    """Return the avatar of a preset, or of a pipeline file.

    ``overrides`` maps dotted keys to values: ``{"window_scheduler.num_passes": 2}``. Raises
    ``PipelineError`` with every problem at once; see ``af-runtime validate`` and ``explain``.
    """
    return build(open_pipeline(preset, overrides, catalog))


def build(pipeline: Pipeline) -> Avatar:
    """Load the weights of a checked pipeline and return the avatar."""
    parts = assemble(pipeline)
    info = describe(pipeline, parts.num_parameters)
    return Avatar(
        info=info,
        geometry=pipeline.geometry,
        encode_portrait=parts.image_encoder,
        runners=parts.runners,
        wires=parts.wires,
        output=pipeline.output,
        text=parts.text,
        device=parts.device,
        identity=Identity(configuration_of(pipeline), parts.modules, parts.text),
    )


def describe(pipeline: Pipeline, num_parameters: int) -> AvatarInfo:
    """Return what a driver has to know about the avatar of a pipeline."""
    delay, made = latency(pipeline), pipeline.graph.format_of(pipeline.output)
    return AvatarInfo(
        preset=pipeline.spec.name,
        width=_size(made and made.width, pipeline.geometry.width),
        height=_size(made and made.height, pipeline.geometry.height),
        frames_per_block=pipeline.geometry.frames_per_block,
        block_ms=delay.block_ms,
        lookahead_ms=delay.lookahead_ms,
        delay_ms=delay.total_ms,
        num_parameters=num_parameters,
    )


def configuration_of(pipeline: Pipeline) -> str:
    """Return the hash of all options that change what is drawn."""
    return configuration(_options(pipeline), PATH_OPTIONS)


def _size(value: Any, fallback: int) -> int:
    return value if isinstance(value, int) else fallback


def _options(pipeline: Pipeline) -> dict[str, Any]:
    """Return all that decides what is drawn, besides weights and prompt; no paths, no places."""
    return {
        "name": pipeline.spec.name,
        "geometry": pipeline.spec.geometry,
        "precision": pipeline.spec.precision,
        "stages": {
            name: [stage.kind, stage.use, stage.config, dict(pipeline.graph.incoming(name))]
            for name, stage in sorted(pipeline.stages.items())
            if stage.kind != "text_encoder"
        },
        "output": pipeline.output,
    }
