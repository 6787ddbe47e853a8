"""`toolkit doctor`."""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any

import click

from toolkit.cli.output import json_option, print_json, print_table, say, size
from toolkit.plugins import Toolkit, current_toolkit, disabled_plugins
from toolkit.registry import pip_line

DISTRIBUTION = "attention-toolkit"
VARIABLES = ("TOOLKIT_OFFLINE", "TOOLKIT_CACHE", "TOOLKIT_DISABLE_PLUGINS", "HF_HUB_OFFLINE", "CUDA_VISIBLE_DEVICES")


@click.command(
    "doctor", short_help="Examine this machine: versions, devices, disk, what is missing and how to mend it."
)
@click.option("--network", is_flag=True, help="Also try to reach the package index.")
@json_option
@click.pass_context
def command(context: click.Context, network: bool, as_json: bool) -> None:
    """Examine this machine: versions, devices, memory, disk, extras, plugins, and the command that mends each fault.

    Packages that are built against torch are imported, to see whether they fit the installed one. Exit code 1 if one
    does not, a plugin failed to load, or a package that the core needs is missing.
    """
    from toolkit.companions import probe

    toolkit = current_toolkit()
    companions = probe()
    facts: dict[str, Any] = {
        "versions": {DISTRIBUTION: _version(DISTRIBUTION), "python": platform.python_version(), **_core_versions()},
        "system": platform.platform(),
        "devices": _devices(next((each.error for each in companions if each.name == "torch"), "torch is missing")),
        "built_for_torch": [{**asdict(each), "mend": each.mend} for each in companions],
        "cache": _cache(),
        "environment": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        "extras": _extras(toolkit),
        "plugins": {
            status.name: status.error or ("disabled" if status.disabled else "ok")
            for status in toolkit.statuses.values()
        },
    }
    if network:
        facts["network"] = _network()
    problems = [f"the plugin {status.name!r} failed to load: {status.error}" for status in toolkit.failures()]
    problems += [f"{each['name']}: {each['state']}; {each['mend']}" for each in facts["extras"] if each["core"]]
    problems += [f"{each.problem}. Mend it with: {each.mend}" for each in companions if each.error]
    facts["problems"] = problems
    facts["extras"] = [each for each in facts["extras"] if not each["core"]]
    if as_json:
        print_json(facts)
    else:
        _print(facts)
    if problems:
        context.exit(1)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _core_versions() -> dict[str, str]:
    packages = ("torch", "pytorch-lightning", "torchmetrics", "numpy", "scipy", "torch-geometric")
    return {package: found for package in packages if (found := _version(package))}


def _devices(torch_error: str) -> dict[str, Any]:
    from toolkit import provenance

    if torch_error:  # importing it here would take this process down as well
        nothing = {"accelerators": [], "accelerators_error": f"unknown without torch: {torch_error}"}
        return {"processor": provenance.processor(), "cores": os.cpu_count(), **nothing}
    found = provenance.hardware()
    try:
        import torch

        found["accelerators"] = [
            {
                "name": torch.cuda.get_device_name(index),
                "memory_bytes": torch.cuda.get_device_properties(index).total_memory,
            }
            for index in range(torch.cuda.device_count())
        ]
        found["cuda_of_torch"] = torch.version.cuda or ""
        found["mps"] = bool(torch.backends.mps.is_available())
    except (ImportError, RuntimeError) as error:
        found["accelerators_error"] = str(error)
    return found


def _cache() -> dict[str, Any]:
    from toolkit.files import cache_root, free

    root = cache_root()
    files = [path.stat().st_size for path in root.rglob("*") if path.is_file()] if root.is_dir() else []
    nearest = next(path for path in (root, *root.parents) if path.exists())
    return {
        "folder": str(root),
        "used_bytes": sum(files),
        "files": len(files),
        "free_bytes": free(root),
        "writable": os.access(nearest, os.W_OK),
    }


def _extras(toolkit: Toolkit) -> list[dict[str, Any]]:
    """Return each optional part and whether it is whole: our extras, what registered entries ask for, and the core."""
    from packaging.requirements import Requirement

    needs: dict[str, list[Requirement]] = {"": []}
    for line in requires(DISTRIBUTION) or ():
        requirement = Requirement(line)
        names = [name for name in _extra_names() if requirement.marker and requirement.marker.evaluate({"extra": name})]
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            names = [""]
        for name in names:
            needs.setdefault(name, []).append(requirement)
    for kind in toolkit.registry.entries:
        for entry in toolkit.registry.all(kind):
            if entry.extra and entry.extra not in needs:
                needs[entry.extra] = [Requirement(entry.extra)]
    rows = []
    for name, requirements in needs.items():
        missing = [text for each in requirements if (text := _missing(each))]
        if any(each.name == DISTRIBUTION for each in requirements):
            continue  # `all` and `dev` repeat the others
        if name or missing:
            state = "missing " + ", ".join(missing) if missing else "installed"
            mend = (pip_line(name) if name else f"pip install --upgrade {DISTRIBUTION}") if missing else ""
            rows.append({"name": name or "core", "state": state, "mend": mend, "core": not name})
    return rows


def _extra_names() -> list[str]:
    from importlib.metadata import metadata

    return metadata(DISTRIBUTION).get_all("Provides-Extra") or []


def _missing(requirement: Any) -> str:
    found = _version(requirement.name)
    if not found:
        return str(requirement.name)
    return "" if requirement.specifier.contains(found, prereleases=True) else f"{requirement} (found {found})"


def _network() -> dict[str, str]:
    import requests
    from pypi_simple import PYPI_SIMPLE_ENDPOINT

    from toolkit.downloads import session, shown
    from toolkit.errors import SourceError
    from toolkit.pip_settings import pip_settings

    found = {}
    for url in [index or PYPI_SIMPLE_ENDPOINT for index in pip_settings().indexes]:
        try:
            with session() as opened:
                answer = opened.get(url.rstrip("/") + "/pip/", timeout=10, stream=True)
                answer.close()
            found[shown(url)] = "reached" if answer.ok else f"answers {answer.status_code}"
        except (SourceError, requests.RequestException) as error:
            first = str(error).splitlines()[0] if isinstance(error, SourceError) else type(error).__name__
            found[shown(url)] = f"not reached: {first}"
    return found


def _print(facts: dict[str, Any]) -> None:
    devices, cache = facts["devices"], facts["cache"]
    rows = [(name, text) for name, text in facts["versions"].items()]
    rows.append(("system", facts["system"]))
    rows.append(
        ("processor", f"{devices['processor']}, {devices['cores']} cores, {devices.get('memory_gib', '?')} GiB")
    )
    loads = [f"{each['name']} {'does not load' if each['error'] else 'loads'}" for each in facts["built_for_torch"]]
    rows.append(("built for torch", ", ".join(loads)))
    cards = [f"{card['name']} ({size(card['memory_bytes'])})" for card in devices["accelerators"]]
    rows.append(("accelerators", ", ".join(cards) or devices.get("accelerators_error", "none")))
    writable = "" if cache["writable"] else ", NOT WRITABLE: set TOOLKIT_CACHE"
    used = f"{cache['files']} files, {size(cache['used_bytes'])}, {size(cache['free_bytes'])} free{writable}"
    rows.append(("cache", f"{cache['folder']}: {used}"))
    rows += list(facts["environment"].items())
    rows += [(f"plugin {name}", state) for name, state in facts["plugins"].items()]
    rows += list(facts.get("network", {}).items())
    print_table(["what", "found"], rows)
    say()
    print_table(["extra", "state", "mend"], [(each["name"], each["state"], each["mend"]) for each in facts["extras"]])
    disabled = sorted(disabled_plugins())
    say(f"\nSwitched off: {', '.join(disabled)}" if disabled else "")
    say("\n".join(f"PROBLEM {problem}" for problem in facts["problems"]) or f"No problem found ({sys.executable}).")
