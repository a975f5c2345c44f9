"""Decoder: clean latents in, frames out."""

from typing import Protocol, TypeVar, runtime_checkable

from af_core.tensors import Frames, Image, Latents

StateT = TypeVar("StateT")


@runtime_checkable
class Decoder(Protocol[StateT]):
    """Turns latents into RGB, causally; any cut into chunks gives the same frames."""

    def open(self, num_streams: int) -> StateT:
        """Return the state before the first latent."""
        ...

    def step(self, state: StateT, latents: Latents) -> tuple[Frames, StateT]:
        """Decode ``[b, f, c, h, w]``: the first latent ever gives 1 frame, every other 4."""
        ...


@runtime_checkable
class SeesPortrait(Decoder[StateT], Protocol[StateT]):
    """A decoder that is shown the portrait's pixels when streams begin."""

    def open_seeing(self, portraits: Image) -> StateT:
        """Return the state before the first latent, for portraits ``uint8 [b, H, W, 3]``."""
        ...
