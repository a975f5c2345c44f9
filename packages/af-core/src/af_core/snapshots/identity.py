"""What an avatar is, as two hashes: its options, and its weights."""

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import cached_property
from typing import Any

import attrs
import msgspec
import torch
from torch import Tensor, nn


@attrs.define(eq=False, slots=False)
class Identity:
    """What a snapshot must agree with. The weights are hashed once, when first asked for."""

    configuration: str = ""
    """Hash of the options."""
    modules: tuple[nn.Module, ...] = ()
    text: Tensor | None = None
    """Embedding of the prompt."""
    elsewhere: Callable[[], Iterable[str]] = tuple
    """Returns the hashes of the weights that other processes hold."""

    @cached_property
    def weights(self) -> str:
        """Hash of all weights and the prompt: SHA-256 of names, types, shapes and numbers."""
        found = hashlib.sha256()
        for module in self.modules:
            for name, tensor in sorted(module.state_dict().items()):
                _add(found, name, tensor)
        if self.text is not None:
            _add(found, "text", self.text)
        others = [*self.elsewhere()]
        for other in others:
            found.update(other.encode())
        return found.hexdigest() if self.modules or self.text is not None or others else ""


def configuration(options: Mapping[str, Any], without: Collection[str]) -> str:
    """Return the hash of the options of a pipeline; keys of these names are left out."""
    plain = _without(msgspec.to_builtins(options), without)
    return hashlib.sha256(msgspec.json.encode(plain, order="deterministic")).hexdigest()


def _add(found: Any, name: str, tensor: Tensor) -> None:
    found.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
    if tensor.numel():
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)


def _without(value: Any, keys: Collection[str]) -> Any:
    if isinstance(value, dict):
        return {key: _without(one, keys) for key, one in value.items() if key not in keys}
    return [_without(one, keys) for one in value] if isinstance(value, list | tuple) else value
