"""A plugin with a node that passes speech on, until a sample tells it to misbehave.

Each mood is a sample value that no speech has. So tests choose what goes wrong, where and when.
"""

import os
import threading
import time

import attrs
import msgspec
import torch
from af_core.plugins import hookimpl
from af_core.ports import VARYING, Declaration, Port, audio_samples
from torch import Tensor

af_plugin_api = 1

FAILS, EXITS, HANGS, STARVES, HIDES = 2.0, 3.0, 4.0, 5.0, 6.0


@attrs.frozen
class Memory:
    """How much was heard, and something that may not travel."""

    num_samples: int = 0
    hidden: object = None


class Moody:
    """Speech in, the same speech out, or else."""

    def open(self, num_streams):
        return Memory()

    def step(self, state, inputs):
        samples = inputs["samples"]
        mood = float(samples.max()) if samples.numel() else 0.0
        if mood == FAILS:
            raise RuntimeError("a bad mood")
        if mood == EXITS:
            os._exit(3)
        if mood == HANGS:
            time.sleep(1e6)
        if mood == STARVES:
            raise MemoryError("too little for this mood")
        hidden = threading.Lock() if mood == HIDES else state.hidden
        return {"samples": samples}, Memory(state.num_samples + samples.shape[1], hidden)

    def flush(self, state):
        return {}, state


class MoodyOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """No options."""

    def declare(self, geometry):
        port = Port("samples", audio_samples(VARYING))
        return Declaration((port,), (port,), num_parameters=0)

    def build(self, context):
        return Moody()


@hookimpl
def af_register_nodes(register):
    register("moody", MoodyOptions)


def misbehave(samples: Tensor, mood: float, at: int = 0) -> Tensor:
    """Samples [n] with a mood in them."""
    samples = samples.clone()
    samples[at] = mood
    return torch.where(samples == mood, mood, samples)
