"""The catalogue of everything that can be named in a pipeline, and who provides it."""

import re
import sys
from collections.abc import Callable, Iterable
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import msgspec
import pluggy

from af_core.errors import PluginConflictError, PluginError, UnknownNameError
from af_core.plugins import hookspecs
from af_core.plugins.contract import config_faults
from af_core.plugins.hookspecs import PROJECT
from af_core.plugins.kinds import BY_HOOK, KINDS, Kind
from af_core.problems import Problem, did_you_mean, unknown

NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*")


@attrs.frozen
class Offer:
    """One registered name: a config class, or the file of a preset."""

    kind: str
    name: str
    provider: str
    version: str
    builtin: bool
    config: type[Any] | None = None
    file: Path | None = None

    @property
    def label(self) -> str:
        """Return ``provider:name``, which names this offer even when others share the name."""
        return f"{self.provider}:{self.name}"


class PluginRecord(msgspec.Struct, frozen=True):
    """One plugin as ``plugins list`` shows it, whatever became of it."""

    name: str
    """Distribution that provides it."""
    version: str
    hooks: list[str]
    """Hooks it implements."""
    status: str
    """``ok``, ``conflict`` (loaded, some names withheld), ``failed`` or ``disabled``."""
    error: str | None
    path: str | None
    provides: list[str]
    """What it offers, as ``kind/name``."""


@attrs.frozen
class Catalog:
    """Every offer of every plugin that loaded, and a record of those that did not."""

    offers: tuple[Offer, ...]
    plugins: tuple[PluginRecord, ...]
    problems: tuple[Problem, ...] = ()
    """What should be reported as warnings: failed plugins, withheld names, AF_PLUGINS typos."""

    def names(self, kind: str) -> list[str]:
        """Return the names that can be used for a kind, sorted."""
        names = {o.name for o in self.offers if o.kind == kind}
        return sorted(name for name in names if self._usable(kind, name) is not None)

    def get(self, kind: str, name: str) -> Offer:
        """Return the offer of that name, or of ``provider:name``.

        Raises ``UnknownNameError`` (with a close match and all names) or ``PluginConflictError``.
        """
        offer = self._usable(kind, name) or self._labelled(kind, name)
        if offer is not None:
            return offer
        rivals = [o for o in self.offers if o.kind == kind and o.name == name]
        if rivals:
            raise PluginConflictError([conflict(rivals)])
        words = kind.replace("_", " ")
        problem = unknown(f"unknown_{kind}", "", words, name, self.names(kind))
        told = problem.message + self._absent()
        raise UnknownNameError([msgspec.structs.replace(problem, message=told)])

    def _absent(self) -> str:
        """Tell which plugins offer nothing, and why: the name may be one of theirs."""
        told = [
            f" The plugin {one.name!r} is {one.status}{f': {one.error}' if one.error else ''}."
            for one in self.plugins
            if one.status in ("failed", "disabled")
        ]
        return "".join(told)

    def _usable(self, kind: str, name: str) -> Offer | None:
        same = [o for o in self.offers if o.kind == kind and o.name == name]
        own = [o for o in same if o.builtin]
        if own:
            return own[0]
        return same[0] if len(same) == 1 else None

    def _labelled(self, kind: str, label: str) -> Offer | None:
        return next((o for o in self.offers if o.kind == kind and o.label == label), None)


def conflict(rivals: list[Offer]) -> Problem:
    """Return the problem of several plugins that offer the same name."""
    first = rivals[0]
    providers = " and ".join(repr(o.provider) for o in rivals)
    words = first.kind.replace("_", " ")
    kept = next((o for o in rivals if o.builtin), None)
    fate = f"the built-in of {kept.provider!r} stays" if kept else "neither is used"
    return Problem(
        code="name_conflict",
        path=f"{first.kind}/{first.name}",
        message=f"The {words} {first.name!r} is offered by {providers}; {fate}.",
        got=", ".join(o.label for o in rivals),
        suggestion="\n".join(f"use: {o.label}" for o in rivals if not o.builtin),
    )


def conflicts(offers: Iterable[Offer]) -> list[Problem]:
    """Return one problem per name that more than one plugin offers."""
    groups: dict[tuple[str, str], list[Offer]] = {}
    for offer in offers:
        groups.setdefault((offer.kind, offer.name), []).append(offer)
    return [conflict(group) for group in groups.values() if len(group) > 1]


def collect(module: Any, provider: str, version: str, *, builtin: bool) -> tuple[Offer, ...]:
    """Call every registration hook of one plugin and return what it offers.

    The plugin is first checked alone: unknown arguments, misspelt hooks and hooks that lack their
    mark raise ``PluginError`` here, which says what to write.
    """
    offers: list[Offer] = []
    for hook, function, argnames in _hooks(module, provider):
        kind = BY_HOOK[hook]
        take = _add_config if kind.config else _add_preset
        register = partial(take, offers, kind, (provider, version, builtin))
        given = {"register": register} if "register" in argnames else {}
        try:
            with redirect_stdout(sys.stderr):
                function(**given)
        except PluginError:
            raise
        except (Exception, SystemExit) as e:
            raise PluginError(f"Its hook {hook} failed: {type(e).__name__}: {e}") from e
    return tuple(offers)


def implemented(module: Any, provider: str) -> list[str]:
    """Return the names of the hooks that a plugin implements, in the order of a pipeline."""
    found = {hook for hook, _, _ in _hooks(module, provider)}
    return [kind.hook for kind in KINDS if kind.hook in found]


def _hooks(module: Any, provider: str) -> list[tuple[str, Callable[..., Any], tuple[str, ...]]]:
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(hookspecs)
    try:
        manager.register(module, provider)
    except pluggy.PluginValidationError as e:
        raise PluginError(f"A hook does not fit: {_one_line(e)}") from e
    _require_known_hooks(manager, module)
    hooks = [
        (kind.hook, impl.function, impl.argnames)
        for kind in KINDS
        for impl in getattr(manager.hook, kind.hook).get_hookimpls()
    ]
    if not hooks:
        raise PluginError(
            "It implements no hook. Mark a function such as "
            "af_register_noise_schedules(register) with @hookimpl; docs/plugins.md lists all."
        )
    return hooks


def _require_known_hooks(manager: pluggy.PluginManager, module: Any) -> None:
    """Refuse misspelt hooks and hooks without their mark, both of which pluggy lets pass."""
    mark = f"{PROJECT}_impl"
    for name in sorted(n for n in dir(module) if n.startswith("af_register_")):
        value = getattr(module, name)
        if not callable(value):
            continue
        if name not in BY_HOOK and not hasattr(value, mark):
            continue
        if name in BY_HOOK and not hasattr(value, mark):
            raise PluginError(
                f"{name} is not marked and would never be called; write @hookimpl above it "
                "(from af_core.plugins import hookimpl)."
            )
    try:
        manager.check_pending()
    except pluggy.PluginValidationError as e:
        name = str(e).split("'")[1] if "'" in str(e) else ""
        close = did_you_mean(name, BY_HOOK)
        hint = f" Did you mean {close!r}?" if close else f" Hooks: {', '.join(BY_HOOK)}."
        raise PluginError(f"There is no hook named {name!r}.{hint}") from e


def _add_config(
    offers: list[Offer], kind: Kind, who: tuple[str, str, bool], name: str, config: type[Any]
) -> None:
    _require_name(offers, kind, name)
    faults = config_faults(kind, config)
    if faults:
        raise PluginError(f"The {kind.words} {name!r} cannot be offered: it {'; '.join(faults)}.")
    offers.append(Offer(kind.name, name, *who, config=config))


def _add_preset(
    offers: list[Offer], kind: Kind, who: tuple[str, str, bool], name: str, path: Path | str
) -> None:
    _require_name(offers, kind, name)
    file = Path(path)
    if not file.is_file():
        raise PluginError(f"The preset {name!r} points to a file that is not there: {file}")
    offers.append(Offer(kind.name, name, *who, file=file))


def _require_name(offers: list[Offer], kind: Kind, name: str) -> None:
    if not (isinstance(name, str) and NAME.fullmatch(name)):
        raise PluginError(
            f"{name!r} cannot name a {kind.words}: use lower-case letters, digits, '_', '-', '.'."
        )
    if any(o.kind == kind.name and o.name == name for o in offers):
        raise PluginError(f"It registers the {kind.words} {name!r} twice.")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
