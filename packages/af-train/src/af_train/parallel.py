"""Many processes as one: joined by torchrun, weights in shards (FSDP2), gradients averaged."""

import os
import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import attrs
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

Precision = Literal["float32", "bfloat16"]

_METHODS = ("open", "embed_audio", "silence", "modulation", "recall_modulation", "denoise")
"""What is called of a network besides its forward; each gathers its weights first."""
_LAYER_METHODS = ("modulate", "read", "qkv", "finish")


def products_in(precision: Precision, device: str) -> AbstractContextManager[Any]:
    """Return the context in which products have this precision and sums stay float32."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.split(":")[0], torch.bfloat16)


@attrs.frozen
class World:
    """Who takes part in a run."""

    rank: int = 0
    size: int = 1
    device: str = "cpu"

    @property
    def leads(self) -> bool:
        """Whether this process writes logs and removes files."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait until all are here."""
        if self.size > 1:
            dist.barrier()


def place_in_world() -> World:
    """Return this process's place as torchrun tells it, for work that needs no word of others."""
    cuda = torch.cuda.is_available()
    device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if cuda else "cpu"
    if cuda:
        torch.cuda.set_device(device)
    rank, size = (int(os.environ.get(name, "0")) for name in ("RANK", "WORLD_SIZE"))
    return World(rank, max(1, size), device)


def join_world() -> World:
    """Return this process's place as torchrun tells it; alone without torchrun."""
    world = place_in_world()
    if world.size > 1 and not dist.is_initialized():
        dist.init_process_group("gloo" if world.device == "cpu" else "nccl")
    return world


def leave_world() -> None:
    """Take leave of the others, if there are any."""
    if dist.is_initialized():
        dist.destroy_process_group()


class Sharded(nn.Module):
    """The face of a network whose weights lie in shards: every call gathers them once.

    It stands apart from the network, so that what the network calls of itself on the way through
    ``denoise`` does not gather, and in the backward pass does not let go, in the middle of it.
    """

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    @property
    def config(self) -> Any:
        """Shape of the network."""
        return self.network.config

    @property
    def audio_dim(self) -> int:
        """Width of one audio feature row."""
        return self.network.audio_dim

    def forward(self, *inputs: Any) -> Any:
        """See ``Denoiser.__call__``."""
        return self.network(*inputs)

    def denoise(self, *inputs: Any) -> Tensor:
        """See ``Trainable.denoise``."""
        return self.network.denoise(*inputs)

    def open(self, *inputs: Any) -> Any:
        """See ``Denoiser.open``."""
        return self.network.open(*inputs)

    def allocate(self, *inputs: Any) -> Any:
        """See ``Denoiser.allocate``; no weights are needed."""
        return self.network.allocate(*inputs)

    def embed_audio(self, rows: Tensor) -> Tensor:
        """See ``Denoiser.embed_audio``."""
        return self.network.embed_audio(rows)

    def silence(self, num_streams: int) -> Tensor:
        """See ``Denoiser.silence``."""
        return self.network.silence(num_streams)

    def modulation(self, timesteps: Tensor) -> Any:
        """See ``Denoiser.modulation``."""
        return self.network.modulation(timesteps)

    def recall_modulation(self, *inputs: Any) -> Any:
        """See ``Denoiser.recall_modulation``."""
        return self.network.recall_modulation(*inputs)


def shard(network: Any, world: World, precision: Precision = "float32") -> Any:
    """Split a network's weights over all processes, layer by layer, and return its new face.

    Alone, the network itself. All processes must come with the same weights.
    """
    network.to(world.device)
    if world.size == 1:
        return network
    # an operation in place on what a call returns would go wrong, as it says; there is none
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view", UserWarning)
    mesh = init_device_mesh(world.device.split(":")[0], (world.size,))
    policy = MixedPrecisionPolicy()
    if precision == "bfloat16":
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for layer in network.layers:
        fully_shard(layer, mesh=mesh, mp_policy=policy)
        for method in _LAYER_METHODS:
            register_fsdp_forward_method(layer, method)
    face = Sharded(network)
    fully_shard(face, mesh=mesh, mp_policy=policy)
    for method in _METHODS:
        register_fsdp_forward_method(face, method)
    return face


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor that may lie in shards as one."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def whole_weights(network: nn.Module) -> dict[str, Tensor]:
    """Return a network's weights on the CPU, gathered; all processes must ask together."""
    return {n: whole(v.detach()).cpu() for n, v in network.state_dict().items()}
