"""Streams that were opened one by one pass the nodes of a pipeline, at once where they can."""

import logging
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import attrs
import torch
from torch import Tensor

from af_core.joining import groups
from af_core.running import Made, Runner, Values

log = logging.getLogger(__name__)


@attrs.define
class Run:
    """One stream on its way through the nodes."""

    before: Mapping[str, Any]
    """The states of all nodes."""
    values: dict[str, Tensor] = attrs.field(factory=dict)
    """What has come out of ports so far, by ``node.port``."""
    after: dict[str, Any] = attrs.field(factory=dict)
    """The new states."""
    failure: Exception | None = None
    """What went wrong with this stream; it is taken no further."""


def flow(
    runs: Sequence[Run],
    runners: Mapping[str, Runner],
    wires: Mapping[str, Mapping[str, str]],
) -> None:
    """Let what has arrived flow through all nodes, in order."""
    for node, runner in runners.items():
        alive = [run for run in runs if run.failure is None]
        given = [(run, inputs) for run in alive if (inputs := arrived(wires[node], run.values))]
        before = [run.before[node] for run, _ in given]
        outcomes = _outcomes(runner, before, [inputs for _, inputs in given])
        for (run, _), outcome in zip(given, outcomes, strict=True):
            if isinstance(outcome, Exception):
                run.failure = outcome
                continue
            made, run.after[node] = outcome
            run.values.update({f"{node}.{port}": value for port, value in made.items()})


def arrived(wires: Mapping[str, str], values: Values) -> dict[str, Tensor]:
    """Return what has arrived at a node by port, given where its inputs come from."""
    return {port: values[source] for port, source in wires.items() if source in values}


@runtime_checkable
class StepsAsOne(Protocol):
    """A node that may serve several streams at once, each opened on its own."""

    def kinds(self, states: Sequence[Any], inputs: Sequence[Values]) -> list[Hashable | None]:
        """Return a kind for each stream; those of one kind can be stepped as one."""
        ...

    def step_as_one(self, states: Sequence[Any], inputs: Sequence[Values]) -> list[Made]:
        """Return what ``step`` returns for each stream, up to rounding.

        If it raises, it has changed nothing, and each can still be stepped alone.
        """
        ...


def _outcomes(
    runner: Runner, states: Sequence[Any], inputs: Sequence[Values]
) -> list[Made | Exception]:
    """Step a node for several streams, at once where it can.

    What goes wrong with one stream is its own outcome; the others are stepped all the same.
    """
    each = list(zip(states, inputs, strict=True))
    kinds = runner.kinds(states, inputs) if isinstance(runner, StepsAsOne) else [None] * len(each)
    outcomes: dict[int, Made | Exception] = {}
    for members in groups(kinds):
        stepped = _stepped(runner, [each[i] for i in members])
        outcomes.update(zip(members, stepped, strict=True))
    return [outcomes[i] for i in range(len(each))]


def _stepped(runner: Runner, each: list[tuple[Any, Values]]) -> list[Made | Exception]:
    if len(each) > 1 and isinstance(runner, StepsAsOne):
        try:
            return [*runner.step_as_one(*zip(*each, strict=True))]
        except Exception:
            log.warning(
                "a step of %d streams failed; each is tried alone", len(each), exc_info=True
            )
    return [_alone(runner, *one) for one in each]


def _alone(runner: Runner, state: Any, inputs: Values) -> Made | Exception:
    try:
        return runner.step(state, inputs)
    except Exception as e:
        return e


def run_nodes(
    runners: Mapping[str, Runner],
    wires: Mapping[str, Mapping[str, str]],
    states: Mapping[str, Any],
    values: Values,
    *,
    last: bool,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Let values, named ``node.port``, flow through nodes in order; return all values and states.

    ``last`` makes each node give what it owes.
    """
    values, after = dict(values), {}
    for name, runner in runners.items():
        inputs = arrived(wires[name], values)
        made, state = runner.step(states[name], inputs) if inputs else ({}, states[name])
        if last:
            owed, state = runner.flush(state)
            made = _appended(made, owed)
        after[name] = state
        values.update({f"{name}.{port}": value for port, value in made.items()})
    return values, after


def _appended(made: dict[str, Tensor], owed: Values) -> dict[str, Tensor]:
    both = {**owed, **made}
    return {
        port: torch.cat([made[port], owed[port]], dim=1) if port in made and port in owed else value
        for port, value in both.items()
    }
