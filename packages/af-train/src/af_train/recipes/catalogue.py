"""Recipes by name: FAMILY_STAGE is one stage; toon_distill, or another FAMILY, the whole chain."""

import difflib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs

from af_train.parallel import World
from af_train.recipes.lamp import lamp_chain, lamp_recipe
from af_train.recipes.liveavatar import liveavatar_chain, liveavatar_recipe
from af_train.recipes.paper import paper_chain, paper_recipe
from af_train.recipes.settings import UnknownNameError
from af_train.recipes.toon_distill import toon_chain, toon_distill_recipe

ALONE = ("toon", "toon_sync")
"""Recipes that belong to no chain of teacher and student; the commands run them themselves."""
_DISTILL = ("teacher", "backfill", "ode", "dmd")


@attrs.frozen
class Family:
    """A chain of stages that share a directory and a recipe."""

    name: str
    about: str
    stages: tuple[str, ...]
    recipe: Callable[[], Any]
    """Returns the recipe, frozen."""
    chain: Callable[[Path, Any, World], Any]
    """Puts the chain together; reads data and weights."""
    directory: str
    """Where it works unless told otherwise."""
    whole: str
    """Name that runs the whole chain."""


FAMILIES = (
    Family(
        "toon",
        "the embedded avatar",
        _DISTILL,
        toon_distill_recipe,
        toon_chain,
        "runs/distill",
        "toon_distill",
    ),
    Family(
        "lamp",
        "the lamp world, in a minute",
        _DISTILL,
        lamp_recipe,
        lamp_chain,
        "runs/lamp",
        "lamp",
    ),
    Family(
        "paper_1_3b",
        "AvatarForcing's chain over its 1.3 B network",
        _DISTILL,
        paper_recipe,
        paper_chain,
        "runs/paper_1_3b",
        "paper_1_3b",
    ),
    Family(
        "liveavatar",
        "Live Avatar's stages: diffusion forcing, self-forcing DMD over a noisy history",
        ("teacher", "forcing", "dmd"),
        liveavatar_recipe,
        liveavatar_chain,
        "runs/liveavatar",
        "liveavatar",
    ),
)


def names() -> Iterator[str]:
    """Yield the name of every recipe."""
    yield from ALONE
    for family in FAMILIES:
        yield family.whole
        yield from (f"{family.name}_{stage}" for stage in family.stages)


def find(name: str) -> tuple[Family, str | None]:
    """Return a family, and the stage if one is named.

    Raises ``UnknownNameError`` with the nearest name there is.
    """
    for family in FAMILIES:
        if name == family.whole:
            return family, None
        for stage in family.stages:
            if name == f"{family.name}_{stage}":
                return family, stage
    if name in ALONE:
        hint = " The chain of teacher and student is toon_distill." if name == "toon" else ""
        raise UnknownNameError(f"{name} has no dry run, and no stages to name apart.{hint}")
    whole = [f.whole for f in FAMILIES if name == f"{f.name}_distill"]
    close = whole or difflib.get_close_matches(name, [*names()], n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise UnknownNameError(f"No recipe named {name!r}.{hint} There are: {', '.join(names())}.")
