"""Names: what plugins register, found by full name (`plugin:name`) or by short name while that is unambiguous.

An entry holds the address of an object, not the object, so that listing everything imports nothing.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import Any

from toolkit.errors import MissingExtraError, PluginError, UnknownNameError, nearest

KINDS = (
    "attention",
    "tasks",
    "data",
    "models",
    "metrics",
    "optimizers",
    "schedules",
    "callbacks",
    "loggers",
    "recipes",
    "commands",
)


@dataclass(frozen=True)
class Entry:
    """One registered name.

    `target` is `module:attribute` (for recipes `package:file`); `source` is the paper or page it follows; `extra`
    is the optional dependency group of attention-toolkit, or the pip requirement, without which it cannot be imported.
    """

    kind: str
    plugin: str
    name: str
    target: str
    summary: str
    source: str = ""
    extra: str = ""

    @property
    def full_name(self) -> str:
        return f"{self.plugin}:{self.name}"

    def load(self) -> Any:
        """Import and return the object. Raises: MissingExtraError, PluginError."""
        module_name, _, attribute = self.target.partition(":")
        try:
            found = importlib.import_module(module_name)
            for part in attribute.split("."):
                found = getattr(found, part)
        except ModuleNotFoundError as error:
            if error.name is not None and module_name.startswith(error.name):
                raise PluginError(
                    f"{self.full_name} ({self.kind}) is registered at {self.target!r}, but there is no module "
                    f"{error.name!r}. Its plugin registers an address that does not exist."
                ) from error
            raise MissingExtraError(
                f"{self.full_name} needs the package {error.name!r}. {self.how_to_install()}"
            ) from error
        except AttributeError as error:
            raise PluginError(
                f"{self.full_name} ({self.kind}) is registered at {self.target!r}, but {error}."
            ) from error
        except Exception as error:
            from toolkit.companions import explain

            told = f"{self.full_name} ({self.kind}) failed to import: {type(error).__name__}: {error}"
            raise PluginError(" ".join(filter(None, [f"{told.rstrip('.')}.", explain(error)]))) from error
        return found

    def how_to_install(self) -> str:
        """Return the sentence with the pip line that brings what this entry needs."""
        if not self.extra:
            return f"Install what the plugin {self.plugin!r} asks for."
        return f"Install it with: {pip_line(self.extra)}"


def pip_line(extra: str) -> str:
    """Return the pip command for one of our extras, or for a requirement of somebody else's."""
    ours = {"text", "vision", "speech", "graph", "recsys", "all", "dev"}
    return f'pip install "attention-toolkit[{extra}]"' if extra in ours else f'pip install "{extra}"'


@dataclass
class Registry:
    """All entries of one toolkit, by kind and full name."""

    entries: dict[str, dict[str, Entry]] = field(default_factory=lambda: {kind: {} for kind in KINDS})

    def add(self, entry: Entry) -> None:
        """Add an entry. Raises: PluginError if its full name is taken or its target is no address."""
        if entry.kind not in self.entries:
            raise PluginError(f"no such kind {entry.kind!r}.{nearest(entry.kind, self.entries)}")
        if ":" in entry.name or not entry.name:
            raise PluginError(f"{entry.name!r} is no name: give a short name, the plugin's own is put before it")
        module, colon, attribute = entry.target.partition(":")
        if not (module and colon and attribute):
            raise PluginError(f"{entry.full_name}: target {entry.target!r} is not of the form 'module:attribute'")
        names = self.entries[entry.kind]
        if entry.full_name in names:
            raise PluginError(f"{entry.full_name} is registered twice among {entry.kind}")
        names[entry.full_name] = entry

    def all(self, kind: str) -> list[Entry]:
        """Return the entries of a kind, sorted by full name."""
        return [self.entries[kind][name] for name in sorted(self.entries[kind])]

    def get(self, kind: str, name: str) -> Entry:
        """Return the entry of a full or short name.

        Raises: UnknownNameError if nothing has it (with the nearest), or two plugins claim it (with both).
        """
        names = self.entries[kind]
        if name in names:
            return names[name]
        claims = [entry for entry in self.all(kind) if entry.name == name]
        if len(claims) == 1:
            return claims[0]
        if claims:
            raise UnknownNameError(
                f"{name!r} is claimed by {len(claims)} plugins among {kind}: "
                f"{', '.join(entry.full_name for entry in claims)}. Write one of these in full."
            )
        known = set(names) if ":" in name else {entry.name for entry in names.values()}
        raise UnknownNameError(f"unknown name {name!r} among {kind}.{nearest(name, known)}")

    def withdraw(self, plugin: str) -> None:
        """Forget everything a plugin registered."""
        for names in self.entries.values():
            for full_name in [name for name, entry in names.items() if entry.plugin == plugin]:
                del names[full_name]
