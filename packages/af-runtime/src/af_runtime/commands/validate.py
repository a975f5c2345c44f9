"""``af-runtime validate``: every error of a pipeline at once, without loading anything."""

from typing import Annotated, Literal

import typer
from af_core.graph import check_pipeline, parse_overrides
from rich.console import Console
from rich.markup import escape

from af_runtime.commands.output import Overrides, print_json, print_problems
from af_runtime.exit_codes import BAD_CONFIG


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("validate")(validate)


def validate(
    config: Annotated[str, typer.Argument(help="A preset, or a pipeline file (YAML or TOML).")],
    overrides: Overrides = None,
    format: Annotated[Literal["text", "json"], typer.Option(help="How to answer.")] = "text",
    json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
) -> None:
    """Check a pipeline file or preset: all errors at once, nothing is loaded."""
    checked = check_pipeline(config, parse_overrides(overrides or []))
    ok = not checked.problems
    if json or format == "json":
        print_json({"ok": ok, "errors": checked.problems, "warnings": checked.warnings})
    else:
        print_problems(checked.warnings, "warning")
        print_problems(checked.problems, "error")
        _print_verdict(config, len(checked.problems))
    raise typer.Exit(0 if ok else BAD_CONFIG)


def _print_verdict(config: str, num_errors: int) -> None:
    config = escape(config)
    if num_errors:
        plural = "s" if num_errors > 1 else ""
        text = f"[bold red]{config} has {num_errors} error{plural}.[/]"
        Console(stderr=True, highlight=False).print(text)
    else:
        Console(highlight=False).print(f"[bold green]{config} is valid.[/]")
