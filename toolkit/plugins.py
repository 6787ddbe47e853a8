"""Loading plugins: each by itself, so that one that is broken is reported and harms nobody else."""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import pluggy

from toolkit import hookspecs
from toolkit.errors import PluginError, nearest
from toolkit.hookspecs import REGISTER_HOOKS, Register
from toolkit.registry import Entry, Registry

GROUP = "toolkit"
DISABLE_VARIABLE = "TOOLKIT_DISABLE_PLUGINS"


@dataclass(frozen=True)
class PluginStatus:
    """What became of one plugin: `error` is empty when it loaded, `trace` holds the traceback when it did not."""

    name: str
    module: str
    distribution: str = ""
    version: str = ""
    error: str = ""
    trace: str = ""
    disabled: bool = False


@dataclass
class Toolkit:
    """A registry filled by plugins, and the hooks they listen to. Holds no global state: make as many as you like."""

    registry: Registry = field(default_factory=Registry)
    manager: pluggy.PluginManager = field(default_factory=lambda: pluggy.PluginManager("toolkit"))
    statuses: dict[str, PluginStatus] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.manager.add_hookspecs(hookspecs)

    def register(self, plugin: object, name: str) -> None:
        """Add a plugin object under a name: all of what it registers, or nothing.

        Raises: PluginError if a hook is unknown or mis-declared, an entry is refused, or the name is taken.
        """
        if self.manager.has_plugin(name):
            raise PluginError(f"two plugins are named {name!r}")
        try:
            self.manager.register(plugin, name=name)
            self._reject_unknown_hooks(plugin, name)
            for hook, kind in REGISTER_HOOKS.items():
                callers = {caller.plugin_name: caller for caller in getattr(self.manager.hook, hook).get_hookimpls()}
                if name in callers:
                    callers[name].function(**_wanted(callers[name], {"register": self._registrar(kind, name)}))
        except Exception as error:
            self.registry.withdraw(name)
            if self.manager.has_plugin(name):
                self.manager.unregister(name=name)
            if isinstance(error, PluginError):
                raise
            raise PluginError(f"plugin {name!r}: {type(error).__name__}: {error}") from error
        self.statuses[name] = PluginStatus(name, getattr(plugin, "__name__", type(plugin).__name__))

    def load_entry_points(self, disabled: frozenset[str] = frozenset()) -> None:
        """Load every installed plugin; one that fails is recorded in `statuses` and nothing else."""
        for point in sorted(entry_points(group=GROUP), key=lambda point: (point.name != "core", point.name)):
            self._load(point, disabled)

    def _load(self, point: EntryPoint, disabled: frozenset[str]) -> None:
        distribution, version = (point.dist.name, point.dist.version) if point.dist else ("", "")
        name = point.name
        if name in self.statuses:  # two distributions claim one entry-point name: keep the first, report the second
            name = f"{point.name}@{distribution}"
            taken_by = self.statuses[point.name].distribution or "another plugin"
            message = f"the name {point.name!r} is already taken by {taken_by}"
            self.statuses[name] = PluginStatus(name, point.value, distribution, version, error=message)
            return
        if name in disabled:
            self.statuses[name] = PluginStatus(name, point.value, distribution, version, disabled=True)
            return
        try:
            self.register(point.load(), name)
            self.statuses[name] = PluginStatus(name, point.value, distribution, version)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a plugin that calls sys.exit() while importing must not take the command down
            message = str(error) if isinstance(error, PluginError) else f"{type(error).__name__}: {error}"
            self.statuses[name] = PluginStatus(
                name, point.value, distribution, version, error=message, trace=traceback.format_exc()
            )

    def _registrar(self, kind: str, plugin: str) -> Register:
        def register(name: str, target: str, *, summary: str, source: str = "", extra: str = "") -> None:
            self.registry.add(Entry(kind, plugin, name, target, summary, source, extra))

        return register

    def _reject_unknown_hooks(self, plugin: object, name: str) -> None:
        known = set(REGISTER_HOOKS) | {"after_resolve", "after_run"}
        for attribute in dir(plugin):
            options = self.manager.parse_hookimpl_opts(plugin, attribute)
            if options is None:
                continue
            hook = options.get("specname") or attribute
            if hook not in known and not options.get("optionalhook"):
                raise PluginError(f"plugin {name!r} implements an unknown hook {hook!r}.{nearest(hook, known)}")

    def failures(self) -> list[PluginStatus]:
        """Return the plugins that did not load."""
        return [status for status in self.statuses.values() if status.error]

    def explain_missing(self, name: str) -> str:
        """Return a clause naming the broken or disabled plugin a name may have come from, or an empty string."""
        plugin = name.partition(":")[0] if ":" in name else ""
        status = self.statuses.get(plugin)
        if status is not None and status.disabled:
            return f" The plugin {plugin!r} is switched off by {DISABLE_VARIABLE}."
        if status is not None and status.error:
            return f" The plugin {plugin!r} failed to load: {status.error}"
        failed = [status.name for status in self.failures()]
        return f" Plugins that failed to load: {', '.join(failed)} (see `toolkit plugins`)." if failed else ""


def _wanted(implementation: pluggy.HookImpl, arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {name: arguments[name] for name in implementation.argnames}


def disabled_plugins() -> frozenset[str]:
    """Return the names listed in TOOLKIT_DISABLE_PLUGINS (separated by commas)."""
    return frozenset(name.strip() for name in os.environ.get(DISABLE_VARIABLE, "").split(",") if name.strip())


_current: ContextVar[Toolkit | None] = ContextVar("toolkit", default=None)
_installed: list[Toolkit] = []


def load_toolkit() -> Toolkit:
    """Return a new toolkit with every installed plugin loaded."""
    toolkit = Toolkit()
    toolkit.load_entry_points(disabled_plugins())
    return toolkit


def current_toolkit() -> Toolkit:
    """Return the toolkit in use: the one `using` set, else the installed plugins, loaded once a process."""
    chosen = _current.get()
    if chosen is not None:
        return chosen
    if not _installed:
        _installed.append(load_toolkit())
    return _installed[0]


@contextmanager
def using(toolkit: Toolkit) -> Iterator[Toolkit]:
    """Make `toolkit` the current one inside a `with` block."""
    token = _current.set(toolkit)
    try:
        yield toolkit
    finally:
        _current.reset(token)


def versions_of_plugins(toolkit: Toolkit) -> dict[str, str]:
    """Return "distribution version" of each loaded plugin, for provenance."""
    return {
        status.name: f"{status.distribution} {status.version}".strip()
        for status in toolkit.statuses.values()
        if not status.error and not status.disabled
    }
