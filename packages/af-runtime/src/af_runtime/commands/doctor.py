"""``af-runtime doctor``: what this machine has, what it lacks, and what to do."""

from typing import Annotated

import typer

from af_runtime.commands.output import print_json
from af_runtime.exit_codes import UNAVAILABLE


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("doctor")(doctor)


def doctor(
    json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Look at this machine: what is there, what is missing, what to do.

    Exits 69 if something is missing without which nothing works.
    """
    import attrs

    from af_runtime.doctor import examine

    findings = examine()
    if json:
        print_json([attrs.asdict(one) for one in findings])
    else:
        width = max(len(one.what) for one in findings)
        for one in findings:
            typer.echo(f"{'!' if one.advice else ' '} {one.what:{width}}  {one.seen}")
            if one.advice:
                typer.echo(f"  {'':{width}}  -> {one.advice}")
    if any(one.advice and one.is_needed for one in findings):
        raise typer.Exit(UNAVAILABLE)
