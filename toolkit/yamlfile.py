"""YAML as people mean it: `5e-4` is a number, `on` is text, a repeated key is an error, every key knows its line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from toolkit.errors import RecipeError

Lines = dict[tuple[str | int, ...], int]
"""Line number (from 1) of each key path of a document."""

LARGEST = 10_000
"""Keys and values of a document, each alias counted as what it stands for; a recipe has a few hundred."""


class _Loader(yaml.SafeLoader):
    """The safe loader with the scalar rules of YAML 1.2's core schema."""


_Loader.yaml_implicit_resolvers = {}
_DIGITS = r"(\.[0-9]+|[0-9]+(\.[0-9]*)?)"
for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", "~nN\0"),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
):
    _firsts: list[str | None] = ["" if letter == "\0" else letter for letter in _first]
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _firsts)


def _construct_int(loader: _Loader, node: yaml.ScalarNode) -> int:
    text = loader.construct_scalar(node)
    return int(text, 16 if text.lower().startswith("0x") else 10)


_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)


def parse(text: str, name: str) -> tuple[Any, Lines]:
    """Parse one YAML document; `name` stands for it in messages.

    Raises: RecipeError naming the line for bad syntax, a repeated key, a key that is no text, a custom tag, or aliases
    that stand for more than LARGEST values.
    """
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        lines: Lines = {}
        value = None if node is None else _plain(loader, node, (), lines, name)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{name}:{mark.line + 1}" if mark else name
        raise RecipeError(f"{where}: not valid YAML: {getattr(error, 'problem', None) or error}") from error
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"{name}: not valid YAML: {error}") from error
    finally:
        loader.dispose()
    return value, lines


def _plain(loader: _Loader, node: yaml.Node, path: tuple[str | int, ...], lines: Lines, name: str) -> Any:
    lines.setdefault(path, node.start_mark.line + 1)
    if len(lines) > LARGEST:  # aliases of aliases grow without bound: a few lines can stand for billions of values
        raise RecipeError(
            f"{name}:{node.start_mark.line + 1}: the document stands for more than {LARGEST} keys and values, "
            "with each alias (*name) counted in full; write out what is meant, without aliases of aliases"
        )
    if isinstance(node, yaml.CollectionNode) and node.tag.rpartition(":")[2] not in ("map", "seq"):
        raise RecipeError(f"{name}:{node.start_mark.line + 1}: not valid YAML here: the tag {node.tag!r}")
    if isinstance(node, yaml.MappingNode):
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            key = key_node.value
            if not isinstance(key_node, yaml.ScalarNode) or not isinstance(key, str):
                raise RecipeError(f"{name}:{line}: a key must be a word, given a {key_node.id}")
            if key in found:
                raise RecipeError(f"{name}:{line}: the key {key!r} is given twice; first on line {lines[(*path, key)]}")
            lines[(*path, key)] = line
            found[key] = _plain(loader, value_node, (*path, key), lines, name)
        return found
    if isinstance(node, yaml.SequenceNode):
        return [_plain(loader, item, (*path, index), lines, name) for index, item in enumerate(node.value)]
    return loader.construct_object(node)


def parse_value(text: str, name: str) -> Any:
    """Parse what stands right of `=` in an override; an empty text is the empty string."""
    return "" if text == "" else parse(text, name)[0]


def load_file(path: Path) -> tuple[Any, Lines]:
    """Parse a YAML file. Raises: RecipeError if it cannot be read as UTF-8 text or as YAML."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: not UTF-8 text (byte {error.start})") from error
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error.strerror}") from error
    return parse(text, str(path))


def dump(value: Any) -> str:
    """Write plain values as YAML that `parse` reads back to the same values."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100, default_flow_style=None)


def shown(value: Any) -> str:
    """Return a plain value for a message: on one line, as a recipe would hold it, with text in quotes."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(value)
    if isinstance(value, list | tuple):
        text = f"[{', '.join(map(shown, value))}]"
    if isinstance(value, dict):
        text = f"{{{', '.join(f'{key}: {shown(item)}' for key, item in value.items())}}}"
    return text if len(text) <= 120 else f"{text[:100]} ... ({len(text)} characters)"


class _Dumper(yaml.SafeDumper):
    """The safe dumper with our loader's rules, so that text that looks like a number is quoted and 5e-4 is not."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers
