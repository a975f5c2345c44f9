"""What objectives need of a batch, or an error that says what is missing."""

from af_core.errors import ConfigError
from torch import Tensor

from af_train.batches import Batch
from af_train.networks import Conditions


def clip_of(batch: Batch) -> Tensor:
    """Return the clean latents ``[b, f, c, h, w]``."""
    if batch.clip is None:
        raise ConfigError("This objective learns from clips; its source gives conditions only.")
    return batch.clip


def states_of(batch: Batch, num_rungs: int) -> Tensor:
    """Return trajectories ``[b, rungs + 1, f, c, h, w]``, noise first."""
    if batch.states is None:
        raise ConfigError(
            "This objective learns from trajectories: `af-train backfill` makes them."
        )
    if batch.states.shape[1] != num_rungs + 1:
        raise ConfigError(
            f"A ladder of {num_rungs} rungs needs {num_rungs + 1} states of each trajectory; "
            f"this store has {batch.states.shape[1]}."
        )
    return batch.states


def element_weights(batch: Batch) -> Tensor | float:
    """Return how much each element of a clip counts, broadcastable to ``[b, f, c, h, w]``."""
    return 1.0 if batch.weights is None else batch.weights


def num_blocks(batch: Batch, block_latents: int) -> int:
    """Return the number of whole blocks of a clip."""
    if batch.num_frames % block_latents:
        raise ConfigError(
            f"A clip of {batch.num_frames} latent frames is no whole number of blocks of "
            f"{block_latents}."
        )
    return batch.num_frames // block_latents


def conditions_of(batch: Batch) -> Conditions:
    """Return what the clips of a batch are made from."""
    return Conditions(batch.portrait, batch.rows, batch.text)
