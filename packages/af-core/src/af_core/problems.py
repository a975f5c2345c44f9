"""What is wrong with a pipeline or a plugin, as one value that people and programs both read.

The same object travels in ``--json`` answers and in exceptions, so a message never has two texts.
"""

import difflib
from collections.abc import Iterable

import msgspec


class Problem(msgspec.Struct, frozen=True):
    """One thing that is wrong, where it is, and what would work instead."""

    code: str
    """Stable machine name such as ``unknown_key`` or ``format_mismatch``."""
    path: str
    """Where: a dotted path into the pipeline, an edge, or the name of a plugin."""
    message: str
    """What is wrong, in one sentence."""
    expected: str | None = None
    """What would have been accepted."""
    got: str | None = None
    """What was seen."""
    suggestion: str | None = None
    """The line to write instead, or the action to take."""

    def __str__(self) -> str:
        """Return the problem as indented text for a terminal."""
        head = f"{self.path}: {self.message}" if self.path else self.message
        rows = (("expected", self.expected), ("got", self.got), ("try", self.suggestion))
        return "\n".join([head, *(_row(name, text) for name, text in rows if text)])


def _row(name: str, text: str) -> str:
    first, *rest = text.splitlines()
    return "\n".join([f"    {name:<9} {first}", *(f"    {'':<9} {line}" for line in rest)])


def listing(problems: Iterable[Problem]) -> str:
    """Return all problems as one text, one paragraph each."""
    return "\n".join(str(problem) for problem in problems)


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that ``name`` most resembles, or None when none is close."""
    options = list(known)
    folded = {option.casefold().replace("-", "_"): option for option in options}
    wanted = name.casefold().replace("-", "_")
    close = difflib.get_close_matches(wanted, folded, n=1, cutoff=0.6)
    return folded[close[0]] if close else None


def unknown(
    code: str, path: str, what: str, name: str, known: Iterable[str], *, fix: str = "{name}"
) -> Problem:
    """Return the problem of a name that is not among the known ones.

    ``fix`` is the line to write, with ``{name}`` where the close match belongs.
    """
    options = sorted(known)
    close = did_you_mean(name, options)
    return Problem(
        code=code,
        path=path,
        message=f"There is no {what} named {name!r}."
        + (f" Did you mean {close!r}?" if close else ""),
        expected=f"one of: {', '.join(options)}" if options else f"no {what} exists here",
        got=name,
        suggestion=fix.format(name=close) if close else None,
    )
