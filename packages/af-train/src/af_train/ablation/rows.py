"""What a study hands to its report: rows with statistics, tracks over time and frames."""

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from af_train.ablation.verdicts import Statistic
from af_train.plots import Curve

NOT_YET = "It has not been run to the end; the same command without --report-only does."
_MOMENTS_S = (1, 20, 40, 60)


def moments_within(seconds: float) -> list[int]:
    """Return the moments of a stream whose frames are shown: those of the paper's figures."""
    return [moment for moment in _MOMENTS_S if moment <= seconds]


@attrs.frozen(eq=False)
class Row:
    """One model, streamed in one way."""

    of: str
    """The paper's row that it stands for."""
    label: str
    trained: str
    """How its weights came about, and whether they were trained as they are streamed."""
    columns: Mapping[str, Statistic]
    """By the paper's columns; what is not measured is not there."""
    more: Mapping[str, Statistic]
    """Numbers that the paper does not have."""
    tracks: Mapping[str, Curve]
    """Numbers over windows of time."""
    frames: Sequence[Any]
    """Pictures uint8 ``[H, W, 3]``, one for each of the moments."""


@attrs.frozen(eq=False)
class Missing:
    """A row that could not be made, and why."""

    of: str
    label: str
    why: str


@attrs.frozen(eq=False)
class Study:
    """All tables of one world."""

    world: str
    about: str
    """Paragraphs on the world, in Markdown."""
    names: Mapping[str, str]
    """What each column is measured with here; columns that are absent are not measured."""
    more: Mapping[str, str]
    """Meaning of the numbers that the paper does not have."""
    tables: Mapping[str, Sequence[Row | Missing]]
    """Rows by table."""
    truth: Sequence[Any]
    """True pictures at the moments."""
    moments_s: Sequence[int]
    num_seeds: int
    num_clips: int
    seconds: float
