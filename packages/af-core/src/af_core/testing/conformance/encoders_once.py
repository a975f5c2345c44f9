"""Checks for what works once per stream: image encoders and text encoders."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from af_core.testing.conformance.common import close, keeps_nothing, same

Make = Callable[[], Any]
Shape = tuple[int, int, int]


def pictures(num: int, size: tuple[int, int]) -> Tensor:
    """Return seeded uint8 pictures [b, H, W, 3]."""
    rng = torch.Generator().manual_seed(num)
    return torch.randint(0, 256, (num, *size, 3), generator=rng, dtype=torch.uint8)


@torch.no_grad()
def gives_one_latent_per_picture(make: Make, *, size: tuple[int, int], latent: Shape) -> None:
    """Pictures uint8 [b, H, W, 3] become float32 latents [b, 1, c, h, w]."""
    got = make().encode(pictures(2, size))
    assert tuple(got.shape) == (2, 1, *latent), f"got {list(got.shape)}, not [2, 1, {latent}]"
    assert got.dtype == torch.float32, f"latents are {got.dtype}, not torch.float32"
    assert bool(torch.isfinite(got).all()), "latents hold NaN or infinity"


@torch.no_grad()
def encodes_each_picture_by_itself(make: Make, *, size: tuple[int, int], latent: Shape) -> None:
    """A picture's latent does not depend on the others in the batch, nor on earlier calls."""
    encoder, both = make(), pictures(2, size)
    alone = encoder.encode(both[:1])
    close(encoder.encode(both)[:1], alone, "latent of a picture in a batch", 1e-4)
    same(encoder.encode(both[:1]), alone, "latent of the second call")


@torch.no_grad()
def keeps_no_memory_of_pictures(make: Make, *, size: tuple[int, int], latent: Shape) -> None:
    """Calls leave no tensors behind."""
    encoder, image = make(), pictures(1, size)
    keeps_nothing(lambda: encoder.encode(image), "image encoder")


@torch.no_grad()
def gives_rows_for_each_prompt(make: Make) -> None:
    """Prompts become float embeddings [b, token, d], the same each time."""
    encoder, prompts = make(), ["a person speaks", ""]
    rows = encoder.encode(prompts)
    assert rows.ndim == 3 and len(rows) == 2, f"got {list(rows.shape)}, not [2, token, d]"
    assert rows.is_floating_point() and bool(torch.isfinite(rows).all()), "rows are not finite"
    same(encoder.encode(prompts), rows, "rows of the second call")


@torch.no_grad()
def encodes_each_prompt_by_itself(make: Make) -> None:
    """A prompt's embedding does not depend on the others in the batch."""
    encoder = make()
    both = encoder.encode(["a person speaks", "rain"])
    close(both[:1], encoder.encode(["a person speaks"]), "rows of a prompt in a batch", 1e-4)


IMAGE_CHECKS = (
    gives_one_latent_per_picture,
    encodes_each_picture_by_itself,
    keeps_no_memory_of_pictures,
)
TEXT_CHECKS = (gives_rows_for_each_prompt, encodes_each_prompt_by_itself)
