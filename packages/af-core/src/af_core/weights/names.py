"""Names of tensors without what training wrappers and checkpoints put around them."""

from collections.abc import Mapping
from typing import TypeVar

from af_core.errors import WeightsError

ValueT = TypeVar("ValueT")

WRAPPERS = ("_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_orig_mod.", "module.")
"""Name parts that training wrappers leave behind, anywhere in a name."""
PREFIXES = ("model.", "base_model.", "diffusion_model.")
"""First parts of every name in published files: AvatarForcing's, peft's, and that of adapters."""


def plain_names(tensors: Mapping[str, ValueT]) -> dict[str, ValueT]:
    """Return the tensors under the network's own names, wrappers and prefix stripped."""
    named: dict[str, ValueT] = {}
    twice = []
    for name, tensor in tensors.items():
        plain = plain_name(name)
        if plain in named:
            twice.append(name)
        named[plain] = tensor
    if twice:
        raise WeightsError(
            "Several tensors have the same name once wrappers are stripped: "
            + ", ".join(sorted(twice))
            + "."
        )
    return named


def plain_name(name: str) -> str:
    """Return one name without wrappers, anywhere, and without prefixes."""
    parts = f".{name}"
    for wrapper in WRAPPERS:
        parts = parts.replace(f".{wrapper}", ".")
    parts = parts[1:]
    while parts.startswith(PREFIXES):
        parts = parts.partition(".")[2]
    return parts
