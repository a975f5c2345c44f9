"""Finds the installed plugins and imports them, one by one, so that no plugin can hurt another.

pluggy's own loader skips a second distribution with the same entry-point name without a word and
lets one failing import end the loading of all others; here each case becomes a record.
"""

import re
import sys
import traceback
from collections import Counter
from collections.abc import Iterable
from contextlib import redirect_stdout
from importlib import metadata
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import attrs

from af_core.plugins.hookspecs import API_VERSION, PROJECT
from af_core.problems import Problem, unknown

FIRST_PARTY = frozenset({"af-core", "af-audio", "af-train", "af-runtime"})
"""The SDK's own distributions; AF_PLUGINS does not switch them off."""


@attrs.frozen
class Candidate:
    """An entry point that was found, before anything of it is imported."""

    distribution: str
    version: str
    entry: metadata.EntryPoint

    @property
    def label(self) -> str:
        """Return ``distribution:entry-point``, the exact name of this plugin."""
        return f"{self.distribution}:{self.entry.name}"


@attrs.frozen
class Found:
    """A candidate and what became of its import."""

    candidate: Candidate
    module: ModuleType | Any = None
    error: str | None = None
    disabled: bool = False

    @property
    def path(self) -> str | None:
        """Return the file of the plugin, as far as it can be told without importing it."""
        return getattr(self.module, "__file__", None) or _located(self.candidate.entry)


def normalised(name: str) -> str:
    """Return a distribution's name in the one spelling that PEP 503 gives it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def scan(distributions: Iterable[metadata.Distribution] | None = None) -> list[Candidate]:
    """Return the candidates of every installed distribution, each distribution once."""
    seen: set[str] = set()
    found: list[Candidate] = []
    for dist in metadata.distributions() if distributions is None else distributions:
        name = normalised(dist.metadata["Name"] or "")
        if not name or name in seen:
            continue
        seen.add(name)
        found += [
            Candidate(name, dist.version, entry)
            for entry in dist.entry_points
            if entry.group == PROJECT
        ]
    return sorted(found, key=lambda candidate: candidate.label)


def discover(candidates: list[Candidate], allowed: str | None) -> tuple[list[Found], list[Problem]]:
    """Import what is allowed and unambiguous; return every candidate's fate and any warnings.

    ``allowed`` is the value of AF_PLUGINS: None lets all in, an empty string none, otherwise a
    comma-separated list of distributions or ``distribution:entry-point``.
    """
    wanted = None if allowed is None else [w.strip() for w in allowed.split(",") if w.strip()]
    active = [c for c in candidates if _is_allowed(c, wanted)]
    times = Counter(c.entry.name for c in active)
    found = [
        Found(c, disabled=True)
        if c not in active
        else _clash(c, active)
        if times[c.entry.name] > 1
        else _import(c)
        for c in candidates
    ]
    return found, _unmatched(wanted or [], candidates)


def _is_allowed(candidate: Candidate, wanted: list[str] | None) -> bool:
    if wanted is None or candidate.distribution in FIRST_PARTY:
        return True
    return any(_matches(want, candidate) for want in wanted)


def _matches(want: str, candidate: Candidate) -> bool:
    distribution, colon, entry = want.partition(":")
    same = normalised(distribution) == candidate.distribution
    return same and (not colon or entry == candidate.entry.name)


def _unmatched(wanted: list[str], candidates: list[Candidate]) -> list[Problem]:
    known = {c.distribution for c in candidates} | {c.label for c in candidates}
    return [
        unknown("unknown_plugin", "AF_PLUGINS", "installed plugin", want, known)
        for want in wanted
        if not any(_matches(want, candidate) for candidate in candidates)
    ]


def _clash(candidate: Candidate, active: list[Candidate]) -> Found:
    same = [c for c in active if c.entry.name == candidate.entry.name]
    owners = " and ".join(repr(c.distribution) for c in same)
    return Found(
        candidate,
        error=f"Entry point {candidate.entry.name!r} is declared by {owners}; none of them was "
        f"loaded. Uninstall one, or allow one by its full name: AF_PLUGINS={candidate.label}",
    )


def _import(candidate: Candidate) -> Found:
    try:
        with redirect_stdout(sys.stderr):  # a chatty plugin must not spoil --json
            module = candidate.entry.load()
    except (Exception, SystemExit) as e:
        return Found(candidate, error=f"The import failed: {_told(e)}")
    fault = handshake_fault(module)
    return Found(candidate, module=module, error=fault)


def handshake_fault(module: Any) -> str | None:
    """Return why the plugin's ``af_plugin_api`` does not fit this af-core, or None."""
    line = f"af_plugin_api = {API_VERSION}"
    stated = getattr(module, "af_plugin_api", None)
    if stated is None:
        return f"The plugin does not state its API version; write {line!r} in its module."
    if type(stated) is int and stated == API_VERSION:
        return None
    advice = "upgrade af-core" if isinstance(stated, int) and stated > API_VERSION else "upgrade it"
    return f"The plugin states af_plugin_api = {stated!r}; this af-core speaks {line!r}: {advice}."


def _told(error: BaseException) -> str:
    """Return the error with the line of the plugin that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    outside = [f for f in frames if "importlib" not in f.filename and f.filename != __file__]
    where = f" ({outside[-1].filename}:{outside[-1].lineno})" if outside else ""
    return f"{type(error).__name__}: {error}{where}"


def _located(entry: metadata.EntryPoint) -> str | None:
    try:
        spec = find_spec(entry.module)
    except (Exception, SystemExit):  # parents of a dotted name are imported on the way
        spec = None
    return spec.origin if spec else None
