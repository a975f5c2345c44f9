"""One part of a pipeline in a process of its own: its weights, and the streams it remembers."""

from collections.abc import Iterator, Mapping
from typing import Any

import attrs
import torch
from af_core.assembly import Assembled, assemble_process
from af_core.graph.checked import Pipeline
from af_core.graph.placement import Leg, legs
from af_core.running import Opening, Reopening, packages
from af_core.snapshots.identity import Identity
from af_core.snapshots.value import Snapshot, SnapshotHeader
from af_core.together import run_nodes
from torch import Tensor

Values = dict[str, Tensor]

DENOISER = "denoiser"

WARM_BLOCKS = 6
"""Enough for a window to be full."""


@attrs.define(eq=False)
class Stream:
    """What one batch of streams remembers in one leg."""

    leg: int
    nodes: Mapping[str, Any]
    """State of each node."""


class Host:
    """Runs the nodes of one process of the placement."""

    def __init__(self, pipeline: Pipeline, process: str) -> None:
        self.process = process
        self._part: Assembled = assemble_process(pipeline, process)
        self._legs = legs(pipeline)
        self._streams: dict[int, Stream] = {}
        self._packages = frozenset({"af_core"}).union(*map(packages, self._part.runners.values()))
        self._header = SnapshotHeader(
            preset=pipeline.spec.name,
            configuration="",
            weights="",
            num_streams=0,
            num_samples=0,
            num_frames=0,
            is_finished=False,
        )

    @property
    def num_parameters(self) -> int:
        """Weights of this part."""
        return self._part.num_parameters

    @property
    def device(self) -> str:
        """Device of the weights."""
        return self._part.device

    @torch.inference_mode()
    def encode(self, images: Tensor) -> Tensor:
        """Encode portraits uint8 [b, H, W, 3] to normalised latents [b, 1, c, h, w]."""
        return self._part.image_encoder.encode(images.to(self.device))

    @property
    def has_encoder(self) -> bool:
        """Whether portraits are encoded here."""
        return self._part.image_encoder is not None

    def text(self) -> Tensor | None:
        """Return the embedding of the prompt, if it is read here."""
        return self._part.text

    def weights(self) -> str:
        """Return the hash of the weights of this part."""
        return Identity("", self._part.modules, self._part.text).weights

    @torch.inference_mode()
    def open(self, stream: int, leg: int, opening: Opening) -> None:
        """Begin a batch of streams."""
        here = attrs.evolve(
            opening,
            portrait=opening.portrait.to(self.device),
            image=None if opening.image is None else opening.image.to(self.device),
            text=None if opening.text is None else opening.text.to(self.device),
        )
        names = self._legs[leg].nodes
        states = {name: self._part.runners[name].open(here) for name in names}
        self._streams[stream] = Stream(leg, states)

    @torch.inference_mode()
    def work(self, stream: int, values: Values, *, is_last: bool) -> Values:
        """Let a batch of streams take values and return what others take of the result."""
        one = self._streams[stream]
        leg: Leg = self._legs[one.leg]
        runners = {name: self._part.runners[name] for name in leg.nodes}
        given = {name: value.to(self.device) for name, value in values.items()}
        made, one.nodes = run_nodes(runners, self._part.wires, one.nodes, given, last=is_last)
        return {name: made[name] for name in leg.outputs if name in made}

    @torch.inference_mode()
    def interrupt(self, stream: int) -> int:
        """Let the denoiser forget what has not come out; return the blocks that have."""
        one, denoiser = self._streams[stream], self._denoiser
        kept = denoiser.interrupt(one.nodes[DENOISER])
        one.nodes = {**one.nodes, DENOISER: kept}
        return denoiser.num_emitted(kept)

    @property
    def _denoiser(self) -> Any:
        return self._part.runners[DENOISER]

    @torch.inference_mode()
    def snapshot(self, stream: int) -> bytes:
        """Return all that a batch of streams remembers here; raises ``SnapshotError``."""
        one = self._streams[stream]
        saved = {n: self._part.runners[n].snapshot(state) for n, state in one.nodes.items()}
        return Snapshot.of(self._header, saved, self._packages, self.device).to_bytes()

    @torch.inference_mode()
    def restore(self, stream: int, leg: int, data: Any, text: Tensor | None) -> None:
        """Let a batch of streams be where it was when the snapshot was made."""
        names = self._legs[leg].nodes
        saved = Snapshot.from_bytes(data).values(names, self._packages, self.device)
        again = Reopening(None if text is None else text.to(self.device))
        nodes = {n: self._part.runners[n].restore(saved[n], again) for n in names}
        self._streams[stream] = Stream(leg, nodes)

    def forget(self, stream: int) -> None:
        """Remember a batch of streams no more."""
        self._streams.pop(stream, None)


def warm_up(hosts: Mapping[str, Host], pipeline: Pipeline) -> Iterator[None]:
    """Let a stream of silence run through all parts in this process, one block a turn."""
    geometry, order = pipeline.geometry, legs(pipeline)
    image = torch.full((1, geometry.height, geometry.width, 3), 128, dtype=torch.uint8)
    encoder = next(host for host in hosts.values() if host.has_encoder)
    texts = (host.text() for host in hosts.values())
    text = next((text for text in texts if text is not None), None)
    opening = Opening(1, encoder.encode(image), (0,), text, image)
    for index, leg in enumerate(order):
        hosts[leg.process].open(index, index, opening)
    try:
        for _ in range(WARM_BLOCKS):
            values = {"audio.samples": torch.zeros(1, geometry.samples_per_block)}
            for index, leg in enumerate(order):
                inputs = {name: values[name] for name in leg.inputs if name in values}
                if inputs:
                    values |= hosts[leg.process].work(index, inputs, is_last=False)
            yield
    finally:
        for index, leg in enumerate(order):
            hosts[leg.process].forget(index)
