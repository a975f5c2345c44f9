"""What an objective is: whose weights move at a step, and how their gradients come about."""

import random
from collections.abc import Mapping, Sequence
from typing import Protocol

import attrs
from torch import Tensor

from af_train.batches import Batch
from af_train.networks import Networks

STUDENT, TEACHER, CRITIC = "student", "teacher", "critic"
"""The roles: who is taught, who knows, and who tells how the student's clips are distributed."""

Losses = Mapping[str, Tensor]


@attrs.frozen
class Turn:
    """One update within a step: whose, and what the batches of all ranks have in common."""

    role: str
    """Whose gradients are wanted; nobody else's may change."""
    step: int
    choices: random.Random
    """Choices that all ranks and micro-batches make alike; each call gets a fresh, equal one."""
    share: float = 1.0
    """Weight of this micro-batch: 1 / number of micro-batches."""


class Objective(Protocol):
    """Gradients for roles, from batches. Weights are the networks', options are frozen."""

    @property
    def roles(self) -> tuple[str, ...]:
        """Roles that are trained at all."""
        ...

    @property
    def frozen(self) -> tuple[str, ...]:
        """Roles that are asked and never change."""
        ...

    def turns(self, step: int) -> Sequence[str]:
        """Return the roles that move at this step, in order; each gets a batch of its own."""
        ...

    def backward(self, turn: Turn, networks: Networks, batch: Batch) -> Losses:
        """Add ``turn.share`` times the gradient to the parameters of ``turn.role``.

        Returns detached scalars for the log, the one called ``loss`` among them.
        """
        ...


def drawn_at(objective: Objective, role: str, step: int) -> int:
    """Return the step whose batch and choices ``step`` uses: its own, or one that came before.

    An objective may have a method ``drawn_at(role, step)`` to learn from one batch several times.
    """
    rule = getattr(objective, "drawn_at", None)
    return step if rule is None else rule(role, step)
