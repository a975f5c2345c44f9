"""What a file of weights lacks, what it has too much, and what has the wrong shape."""

from collections.abc import Callable, Mapping

import attrs
import torch
from torch import Tensor, nn

from af_core.errors import WeightsError

Shape = tuple[int, ...]
Write = Callable[[str, Tensor, Tensor], None]
"""Writes a tensor of a file, known by its name, into the one that a network will own."""

_LINES = 20
"""Lines of each kind of fault in a message; the report itself holds all."""


@attrs.frozen
class WeightsReport:
    """Every difference between the tensors a model wants and those it was given."""

    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    misshapen: tuple[tuple[str, Shape, Shape], ...] = ()
    """(name, shape wanted, shape seen)."""

    @property
    def fits(self) -> bool:
        """Whether there is no difference."""
        return not (self.missing or self.unexpected or self.misshapen)

    @property
    def counts(self) -> str:
        """How many faults there are of each kind."""
        return (
            f"{len(self.missing)} missing, {len(self.unexpected)} unexpected, "
            f"{len(self.misshapen)} misshapen"
        )

    def __str__(self) -> str:
        """Return the faults, one a line; of very many of a kind, the first and their number."""
        shapes = [
            f"  misshapen   {name}: {list(want)} wanted, {list(seen)} seen"
            for name, want, seen in self.misshapen
        ]
        kinds = (
            [f"  missing     {name}" for name in self.missing],
            [f"  unexpected  {name}" for name in self.unexpected],
            shapes,
        )
        return "\n".join(line for lines in kinds for line in _shortened(lines))


def compare(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> WeightsReport:
    """Return how the given tensors differ from the wanted ones; only names and shapes are read."""
    return WeightsReport(
        missing=tuple(sorted(wanted.keys() - given.keys())),
        unexpected=tuple(sorted(given.keys() - wanted.keys())),
        misshapen=tuple(
            (name, tuple(wanted[name].shape), tuple(given[name].shape))
            for name in sorted(wanted.keys() & given.keys())
            if wanted[name].shape != given[name].shape
        ),
    )


def fill(
    model: nn.Module, tensors: Mapping[str, Tensor], source: str, *, assign: bool = False
) -> None:
    """Copy tensors into a model, all of them or none; ``source`` names them in messages.

    With ``assign`` they are not copied but become the weights, so that nothing is held twice.
    """
    require_fit(model.state_dict(), tensors, source, type(model).__name__)
    model.load_state_dict(dict(tensors), strict=True, assign=assign)


def adopt(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    source: str,
    *,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
    write: Write | None = None,
) -> None:
    """Give a model that was built on the device ``meta`` its weights, all of them or none.

    Tensor after tensor is read, moved to the device, cast to ``dtype`` (None: the type it has) and
    becomes the model's own; ``write`` does so in place of a plain copy. Of a memory-mapped file,
    no more than one tensor is held besides the model, and nothing of it is shared afterwards.
    """
    require_fit(model.state_dict(), tensors, source, type(model).__name__)
    own = {}
    for name, tensor in tensors.items():
        own[name] = empty_as(tensor, device, dtype)
        if write is None:
            own[name].copy_(tensor)
        else:
            write(name, tensor, own[name])
    model.load_state_dict(own, strict=True, assign=True)


def empty_as(tensor: Tensor, device: str = "cpu", dtype: torch.dtype | None = None) -> Tensor:
    """Return room for a tensor; only floating-point numbers are to be cast to ``dtype``."""
    kind = dtype if dtype and tensor.is_floating_point() else tensor.dtype
    return torch.empty(tensor.shape, dtype=kind, device=device)


def require_fit(
    wanted: Mapping[str, Tensor], given: Mapping[str, Tensor], source: str, name: str
) -> None:
    """Raise ``WeightsError`` with every difference; ``source`` and ``name`` of the model are said.

    Only names and shapes are compared: tensors on the device ``meta`` will do.
    """
    report = compare(wanted, given)
    if not report.fits:
        raise WeightsError(f"The weights in {source} do not fit {name}: {report.counts}.\n{report}")


def _shortened(lines: list[str]) -> list[str]:
    if len(lines) <= _LINES:
        return lines
    word = lines[0].split()[0]
    return [*lines[:_LINES], f"  {word:<11} ... and {len(lines) - _LINES} more"]
