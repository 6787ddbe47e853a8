"""The list of hooks inside docs/plugins.md, made from `toolkit.hookspecs` itself.

Run: python -m toolkit.cli.reference      in a checkout, to write it and docs/cli.md again
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from toolkit import hookspecs
from toolkit.cli.marked import Marks

MARKS = Marks("hooks")


def hooks() -> str:
    """Return the hooks in the order of their declaration: name, signature and docstring of each."""
    parts = [_described(hookspecs.Register.__call__, "`register`, which every register hook is given")]
    parts += [_described(getattr(hookspecs, name), f"`{name}`") for name in hook_names()]
    return "\n".join(parts)


def hook_names() -> list[str]:
    """Return the names of all hooks, in the order of their declaration."""
    marked = [name for name, value in vars(hookspecs).items() if hasattr(value, "toolkit_spec")]
    return sorted(marked, key=lambda name: inspect.getsourcelines(getattr(hookspecs, name))[1])


def signature(name: str) -> str:
    """Return the declaration of a hook as it stands in the source."""
    return _declared(getattr(hookspecs, name))


def renewed(page: str) -> str:
    """Return docs/plugins.md with its hooks written anew. Raises: PluginError if it has no marks."""
    return MARKS.renewed(page, hooks())


def _declared(function: Callable[..., Any]) -> str:
    lines = [line for line in inspect.getsource(function).splitlines() if not line.strip().startswith("@")]
    end = next(index for index, line in enumerate(lines) if line.endswith(":"))
    return inspect.cleandoc("\n" + "\n".join(lines[: end + 1])).removesuffix(":")


def _described(function: Callable[..., Any], title: str) -> str:
    return f"### {title}\n\n```text\n{_declared(function)}\n```\n\n{inspect.getdoc(function)}\n"
