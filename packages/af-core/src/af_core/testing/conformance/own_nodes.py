"""Checks for nodes of one's own; ``inputs`` makes [b, m, ...] tensors by port from (b, m, seed)."""

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from af_core.testing.conformance.common import keeps_nothing, same
from af_core.testing.conformance.snapshots import carried

Make = Callable[[], Any]
Inputs = Callable[[int, int, int], Mapping[str, Tensor]]

CUTS = ((), (1,), (1, 2), (1,) * 7)
LENGTH = 8


def ran(node: Any, inputs: Mapping[str, Tensor], sizes: tuple[int, ...] = ()) -> dict[str, Tensor]:
    """Return all outputs of a finite stream, cut in time into these sizes."""
    length = next(iter(inputs.values())).shape[1]
    edges = [0, *torch.tensor(sizes, dtype=torch.long).cumsum(0).tolist(), length]
    state = node.open(len(next(iter(inputs.values()))))
    outputs: dict[str, list[Tensor]] = {}
    for start, stop in pairwise(edges):
        piece = {port: value[:, start:stop] for port, value in inputs.items()}
        made, state = node.step(state, piece)
        _collect(outputs, made)
    made, state = node.flush(state)
    _collect(outputs, made)
    return {port: torch.cat(parts, dim=1) for port, parts in outputs.items()}


@torch.no_grad()
def does_not_depend_on_how_time_is_cut(make: Make, *, inputs: Inputs) -> None:
    """Any way of cutting its inputs gives the same outputs."""
    node, given = make(), inputs(1, LENGTH, 0)
    whole = ran(node, given)
    for sizes in CUTS:
        _same(ran(node, given, sizes), whole, f"pieces {sizes or 'in one'}")


@torch.no_grad()
def keeps_streams_apart(make: Make, *, inputs: Inputs) -> None:
    """Two interleaved streams give what each gives alone."""
    node, one, two = make(), inputs(1, LENGTH, 1), inputs(1, LENGTH, 2)
    alone = ran(node, one, (1,) * (LENGTH - 1))
    first, second = node.open(1), node.open(1)
    outputs: dict[str, list[Tensor]] = {}
    for index in range(LENGTH):
        made, first = node.step(first, {p: v[:, index : index + 1] for p, v in one.items()})
        _, second = node.step(second, {p: v[:, index : index + 1] for p, v in two.items()})
        _collect(outputs, made)
    _collect(outputs, node.flush(first)[0])
    _same({p: torch.cat(v, dim=1) for p, v in outputs.items()}, alone, "an interleaved stream")


@torch.no_grad()
def remembers_only_in_its_state(make: Make, *, inputs: Inputs) -> None:
    """An older state steps to the same result again: nothing is remembered elsewhere."""
    node, given = make(), inputs(1, LENGTH, 0)
    _, state = node.step(node.open(1), given)
    first, _ = node.step(state, given)
    again, _ = node.step(state, given)
    _same(dict(again), dict(first), "the second call")


@torch.no_grad()
def goes_on_from_a_snapshot(make: Make, *, inputs: Inputs) -> None:
    """A state that went through a snapshot goes on as if nothing had happened."""
    node, given = make(), inputs(1, LENGTH, 0)
    for cut in (0, 1, LENGTH // 2, LENGTH - 1):
        first = {port: value[:, :cut] for port, value in given.items()}
        rest = {port: value[:, cut:] for port, value in given.items()}
        _, state = node.step(node.open(1), first) if cut else ({}, node.open(1))
        there = _finished(node, carried(node, state), rest)
        _same(there, _finished(node, state, rest), f"after a snapshot at {cut}")


@torch.no_grad()
def keeps_no_memory_of_ended_streams(make: Make, *, inputs: Inputs) -> None:
    """Sessions leave no tensors behind."""
    node, given = make(), inputs(1, LENGTH, 0)
    keeps_nothing(lambda: ran(node, given), "node")


def _finished(node: Any, state: Any, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what a state gives for these inputs and the end of the stream."""
    outputs: dict[str, list[Tensor]] = {}
    made, state = node.step(state, inputs)
    _collect(outputs, made)
    _collect(outputs, node.flush(state)[0])
    return {port: torch.cat(parts, dim=1) for port, parts in outputs.items()}


def _collect(outputs: dict[str, list[Tensor]], made: Mapping[str, Tensor]) -> None:
    for port, value in made.items():
        outputs.setdefault(port, []).append(value)


def _same(got: Mapping[str, Tensor], want: Mapping[str, Tensor], what: str) -> None:
    assert set(got) == set(want), f"{what}: ports {sorted(got)}, not {sorted(want)}"
    for port in want:
        same(got[port], want[port], f"{what}: {port}")


CHECKS = (
    does_not_depend_on_how_time_is_cut,
    keeps_streams_apart,
    remembers_only_in_its_state,
    goes_on_from_a_snapshot,
    keeps_no_memory_of_ended_streams,
)
