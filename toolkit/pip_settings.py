"""The user's own pip settings: which package indexes to ask, with which certificates and proxy."""

from __future__ import annotations

import configparser
import os
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class PipSettings:
    """What pip would use. `indexes` is empty where the default index is meant."""

    indexes: tuple[str, ...] = ()
    find_links: tuple[str, ...] = ()
    cert: str | None = None
    client_cert: str | None = None
    proxy: str | None = None
    timeout: float | None = None
    trusted_hosts: tuple[str, ...] = ()
    no_index: bool = False


def pip_settings() -> PipSettings:
    """Read pip's configuration files and environment in pip's own order: the later wins, the environment last.

    `indexes` starts with "" for the default index when only extra ones are configured.
    """
    found: dict[str, str] = {}
    for file in _files():
        parser = configparser.RawConfigParser()
        try:
            parser.read(file, encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError, OSError):
            continue  # pip itself complains about it; our defaults still work
        for section in ("global", "install", "download"):
            if parser.has_section(section):
                found |= {key.replace("_", "-"): value for key, value in parser.items(section)}
    for variable, value in os.environ.items():
        if variable.startswith("PIP_") and value.strip():
            found[variable[4:].lower().replace("_", "-")] = value
    extra = _words(found.get("extra-index-url", ""))
    index = found.get("index-url", "").strip()
    return PipSettings(
        indexes=(index, *extra),
        find_links=tuple(_words(found.get("find-links", ""))),
        cert=_path(found.get("cert")),
        client_cert=_path(found.get("client-cert")),
        proxy=found.get("proxy") or None,
        timeout=_seconds(found.get("timeout") or found.get("default-timeout")),
        trusted_hosts=tuple(_words(found.get("trusted-host", ""))),
        no_index=found.get("no-index", "").strip().lower() in {"1", "true", "yes", "on", "y", "t"},
    )


def _files() -> Iterator[Path]:
    """Yield the configuration files that pip reads, global before user before environment."""
    chosen = os.environ.get("PIP_CONFIG_FILE", "")
    if chosen == os.devnull:
        return
    home, name = Path.home(), "pip.ini" if os.name == "nt" else "pip.conf"
    if os.name == "nt":
        yield Path(os.environ.get("PROGRAMDATA", "C:\\ProgramData")) / "pip" / name
        yield home / "pip" / name
        yield Path(os.environ.get("APPDATA", home)) / "pip" / name
    else:
        for folder in reversed(os.environ.get("XDG_CONFIG_DIRS", "/etc/xdg").split(os.pathsep)):
            yield Path(folder) / "pip" / name
        yield Path("/etc") / name
        yield home / ".pip" / name
        if sys.platform == "darwin":
            yield home / "Library" / "Application Support" / "pip" / name
        yield Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config") / "pip" / name
    yield Path(sys.prefix) / name
    if chosen:
        yield Path(chosen)


def _words(text: str) -> list[str]:
    return shlex.split(text, comments=False, posix=os.name != "nt") if text.strip() else []


def _path(text: str | None) -> str | None:
    return str(Path(text).expanduser()) if text else None


def _seconds(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None
