"""What a file of weights lacks, what it has too much, and what has the wrong shape."""

from collections.abc import Mapping

import attrs
from torch import Tensor, nn

from af_core.errors import WeightsError

Shape = tuple[int, ...]


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

    def __str__(self) -> str:
        """Return every fault, one a line."""
        lines = [f"  missing     {name}" for name in self.missing]
        lines += [f"  unexpected  {name}" for name in self.unexpected]
        lines += [
            f"  misshapen   {name}: {list(want)} wanted, {list(seen)} seen"
            for name, want, seen in self.misshapen
        ]
        return "\n".join(lines)


def compare(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> WeightsReport:
    """Return how the given tensors differ from the wanted ones."""
    return WeightsReport(
        missing=tuple(sorted(wanted.keys() - given.keys())),
        unexpected=tuple(sorted(given.keys() - wanted.keys())),
        misshapen=tuple(
            (name, tuple(wanted[name].shape), tuple(given[name].shape))
            for name in sorted(wanted.keys() & given.keys())
            if wanted[name].shape != given[name].shape
        ),
    )


def require_fit(
    wanted: Mapping[str, Tensor], given: Mapping[str, Tensor], source: str, name: str
) -> None:
    """Raise ``WeightsError`` with every difference; ``source`` and ``name`` of the model are said.

    Only names and shapes are compared: tensors on the device ``meta`` will do.
    """
    report = compare(wanted, given)
    if report.fits:
        return
    counts = f"{len(report.missing)} missing, {len(report.unexpected)} unexpected"
    raise WeightsError(
        f"The weights in {source} do not fit {name}: {counts}, "
        f"{len(report.misshapen)} misshapen.\n{report}"
    )


def fill(
    model: nn.Module, tensors: Mapping[str, Tensor], source: str, *, assign: bool = False
) -> None:
    """Copy tensors into a model, all of them or none; ``source`` names them in messages.

    With ``assign`` they are not copied but become the weights, so that nothing is held twice.
    """
    require_fit(model.state_dict(), tensors, source, type(model).__name__)
    model.load_state_dict(dict(tensors), strict=True, assign=assign)
