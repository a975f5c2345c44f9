"""What a suite found: numbers with intervals, skipped clips by name, as JSON and as a table."""

import msgspec
from rich.table import Column, Table


class Score(msgspec.Struct, frozen=True):
    """One number over clips."""

    metric: str
    """Metric that gives it."""
    value: float
    low: float | None
    """Lower end of the 95 % bootstrap interval over clips; None if there was one clip."""
    high: float | None
    """Upper end."""
    num_clips: int
    """Clips it was measured on."""
    num_skipped: int
    """Clips that the metric could not measure."""


class Skip(msgspec.Struct, frozen=True):
    """A clip that a metric could not measure."""

    clip: str
    metric: str
    reason: str


class SuiteReport(msgspec.Struct, frozen=True):
    """Everything a suite has to say."""

    num_clips: int
    scores: dict[str, Score]
    skipped: list[Skip]
    crops: str = "boxes of the truth"
    """Whose boxes cut the crops."""

    def json(self) -> str:
        """Return the report as JSON."""
        return msgspec.json.format(msgspec.json.encode(self)).decode()

    def table(self, title: str = "") -> Table:
        """Return the report as a table for terminals."""
        name_column = Column("number", no_wrap=True)
        table = Table(
            name_column, "value", "95 % interval", "clips", "skipped", title=title or None
        )
        for name, score in self.scores.items():
            interval = "" if score.low is None else f"{score.low:.4g} .. {score.high:.4g}"
            counts = (str(score.num_clips), str(score.num_skipped))
            table.add_row(name, f"{score.value:.4g}", interval, *counts)
        return table
