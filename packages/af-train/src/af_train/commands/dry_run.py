"""`af-train run RECIPE --dry-run`: what a recipe would do, before anything is there."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
from rich.console import Console
from rich.markup import escape

from af_train.parallel import World
from af_train.recipes.catalogue import find
from af_train.recipes.dry_run import dry_run, table
from af_train.recipes.settings import with_settings


def tell(
    recipe: str,
    directory: Path | None,
    settings: Sequence[str],
    *,
    as_json: bool,
    console: Console,
) -> None:
    """Print the plan of a recipe; the number of processes is that of WORLD_SIZE."""
    family, stage = find(recipe)
    made = with_settings(family.recipe(), settings)
    world = World(size=int(os.environ.get("WORLD_SIZE", "1")))
    plan = dry_run(family, stage, made, directory or Path(family.directory), world)
    if as_json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(plan)).decode() + "\n")
        return
    console.print(table(plan))
    for need in plan.needs:
        console.print(f"[yellow]needs[/yellow] {escape(need)}")
