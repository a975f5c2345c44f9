"""How many threads the model uses: set explicitly, and without spinning while they wait."""

import os
from typing import Annotated

import typer

Threads = Annotated[
    int | None,
    typer.Option(min=1, help="Threads of the model. Default: 2, or 1 on a single core."),
]

DEFAULT_THREADS = 2
"""More gain little for the embedded model, and a server runs one process per few cores."""


def use_threads(threads: int | None) -> int:
    """Fix torch's threads for this process, before torch does any work; return their number.

    OpenMP threads wait passively (``OMP_WAIT_POLICY=PASSIVE``, unless the environment says
    otherwise): spinning ones slow down whatever shares their cores, the video encoder first.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import torch

    chosen = threads or min(DEFAULT_THREADS, os.cpu_count() or 1)
    torch.set_num_threads(chosen)
    return chosen
