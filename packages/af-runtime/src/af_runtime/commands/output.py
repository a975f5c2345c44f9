"""How the commands speak: results on stdout, messages for people on stderr."""

import sys
from collections.abc import Iterable
from typing import Annotated, Any

import msgspec
import typer
from af_core.problems import Problem
from rich.console import Console
from rich.text import Text

Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=C", help="Override one key of the pipeline; repeatable."),
]


def print_json(value: Any) -> None:
    """Write a value as indented JSON to stdout."""
    text = msgspec.json.format(msgspec.json.encode(value), indent=2)
    sys.stdout.write(text.decode() + "\n")


def print_problems(problems: Iterable[Problem], word: str) -> None:
    """Write problems to stderr; ``word`` is ``error`` or ``warning``."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    style = {"error": "bold red", "warning": "bold yellow"}[word]
    for problem in problems:
        console.print(Text.assemble((f"{word}: ", style), str(problem)))


def short_count(number: int) -> str:
    """Return a number of things in three digits, such as ``1.42B``."""
    for scale, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= scale:
            return f"{number / scale:.3g}{letter}"
    return str(number)
