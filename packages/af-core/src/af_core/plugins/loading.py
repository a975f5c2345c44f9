"""Loads every plugin into one catalogue; a plugin that fails is reported, never fatal."""

import os
from collections.abc import Iterable
from importlib import metadata
from typing import Any

import attrs

from af_core.errors import PluginError
from af_core.plugins import builtin
from af_core.plugins.discovery import (
    FIRST_PARTY,
    Candidate,
    Found,
    discover,
    handshake_fault,
    scan,
)
from af_core.plugins.registry import Catalog, Offer, PluginRecord, collect, conflicts, implemented
from af_core.problems import Problem

ALLOW_LIST = "AF_PLUGINS"
"""Environment variable with the plugins that may load; empty means none but our own."""


@attrs.frozen
class _Loaded:
    record: PluginRecord
    offers: tuple[Offer, ...] = ()


def load_catalog(
    *,
    extra: Iterable[tuple[str, Any]] = (),
    candidates: list[Candidate] | None = None,
    allowed: str | None = None,
) -> Catalog:
    """Return the catalogue of the built-ins and of every installed plugin.

    ``extra`` adds plugins that are not installed, as pairs of a name and a module or object.
    ``candidates`` and ``allowed`` replace what importlib.metadata and AF_PLUGINS say. Calling it
    again, in this process or another, gives the same catalogue; imports happen once.
    """
    environment = os.environ.get(ALLOW_LIST) if allowed is None else allowed
    found, warnings = discover(scan() if candidates is None else candidates, environment)
    loaded = [_builtin(), *(_installed(f) for f in found), *(_extra(*e) for e in extra)]
    offers = tuple(offer for plugin in loaded for offer in plugin.offers)
    clashes = conflicts(offers)
    records = tuple(_with_conflicts(plugin, clashes) for plugin in loaded)
    failures = [_failure(r) for r in records if r.status == "failed"]
    return Catalog(offers, records, (*warnings, *failures, *clashes))


def _builtin() -> _Loaded:
    version = metadata.version("af-core")
    return _collected("af-core", version, builtin, builtin.__file__, own=True)


def _installed(found: Found) -> _Loaded:
    who = found.candidate
    if found.disabled or found.error:
        status = "disabled" if found.disabled else "failed"
        error = f"{ALLOW_LIST} does not name it." if found.disabled else found.error
        return _Loaded(
            PluginRecord(who.distribution, who.version, [], status, error, found.path, [])
        )
    own = who.distribution in FIRST_PARTY
    return _collected(who.distribution, who.version, found.module, found.path, own=own)


def _extra(name: str, module: Any) -> _Loaded:
    fault = handshake_fault(module)
    path = getattr(module, "__file__", None)
    if fault:
        return _Loaded(PluginRecord(name, "", [], "failed", fault, path, []))
    return _collected(name, "", module, path, own=False)


def _collected(name: str, version: str, module: Any, path: str | None, *, own: bool) -> _Loaded:
    try:
        offers = collect(module, name, version, builtin=own)
        hooks = implemented(module, name)
    except PluginError as e:
        return _Loaded(PluginRecord(name, version, [], "failed", str(e), path, []))
    provides = [f"{offer.kind}/{offer.name}" for offer in offers]
    return _Loaded(PluginRecord(name, version, hooks, "ok", None, path, provides), offers)


def _with_conflicts(plugin: _Loaded, clashes: list[Problem]) -> PluginRecord:
    """Return the record, marked if a name it offers is withheld because of another plugin."""
    record = plugin.record
    mine = [p for p in clashes if p.path in record.provides]
    if not mine or any(offer.builtin for offer in plugin.offers):
        return record
    text = " ".join(p.message for p in mine)
    return PluginRecord(
        record.name, record.version, record.hooks, "conflict", text, record.path, record.provides
    )


def _failure(record: PluginRecord) -> Problem:
    return Problem(
        code="plugin_failed",
        path=record.name,
        message=f"The plugin was not loaded. {record.error}",
        got=record.path,
        suggestion=f"af-runtime plugins show {record.name}",
    )
