"""The packages that are compared with: whether they are here, which version, and what to type if not."""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import Any

MODULES = {
    "x-transformers": "x_transformers",
    "local-attention": "local_attention",
    "performer-pytorch": "performer_pytorch",
    "linformer": "linformer",
    "nystrom-attention": "nystrom_attention",
}
"""The module of each package, by the package's name on the index."""


def load(package: str) -> Any:
    """Import the module of a package. Raises: ImportError that names the pip command."""
    try:
        return importlib.import_module(MODULES[package])
    except ImportError as error:
        raise ImportError(why_not(package, error)) from error


def missing(package: str) -> str:
    """Say why a package cannot be compared with, and what installs it; an empty string if it can."""
    try:
        load(package)
    except ImportError as error:
        return str(error)
    return ""


def why_not(package: str, error: ImportError) -> str:
    """Tell a package that is not installed from one that does not import."""
    line = f"pip install {package}"
    if isinstance(error, ModuleNotFoundError) and error.name == MODULES[package]:
        return f"{package} is not installed: {line}"
    if isinstance(error, ModuleNotFoundError):  # performer-pytorch reads distutils, which left Python with 3.12
        needed = "setuptools" if error.name == "distutils" else error.name
        return f"{package} is installed but does not import without {error.name}: {line} {needed}"
    return f"{package} is installed but does not import: {error}"


def versions() -> dict[str, str]:
    """Return the version of every package that is installed."""
    found = {}
    for package in MODULES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
