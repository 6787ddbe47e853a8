"""`toolkit show`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from toolkit.cli.output import json_option, print_json, print_table, say
from toolkit.errors import RecipeError, UnknownNameError, nearest
from toolkit.plugins import Toolkit, current_toolkit
from toolkit.registry import KINDS, Entry


@click.command("show", short_help="Show one thing whole: a resolved recipe, a mechanism, any registered name.")
@click.argument("name")
@click.argument("overrides", nargs=-1, metavar="[SECTION.KEY=VALUE]...")
@click.option(
    "--pattern", metavar="TEXT", help="Of attention: which backend runs 'causal() & window(256, 0)', and why."
)
@click.option("--shape", metavar="B,H,L,D", help="Of attention: for this shape, or B,H,Lq,Lk,D. Default: 1,8,1024,64.")
@json_option
def command(name: str, overrides: tuple[str, ...], pattern: str | None, shape: str | None, as_json: bool) -> None:
    """Show one thing whole.

    A recipe (name or file): resolved, with full names, every default and the overrides. An attention mechanism: paper,
    equation, capabilities, cost and options. Anything else that is registered: its options with types and defaults. A
    kind may stand before the name: `toolkit show attention gat`.
    """
    toolkit = current_toolkit()
    kind = name if name in KINDS and overrides and "=" not in overrides[0] else None
    if kind is not None:
        name, overrides = overrides[0], overrides[1:]
    path = Path(name)
    entries = [] if path.suffix in {".yaml", ".yml"} else _named(toolkit, name, kind)
    recipes = [entry.full_name for entry in entries if entry.kind == "recipes"]
    if path.suffix in {".yaml", ".yml"} or path.parent != Path():
        recipes = [name]
    elif not entries:
        known = {entry.name for each in ([kind] if kind else KINDS) for entry in toolkit.registry.all(each)}
        raise UnknownNameError(f"nothing is called {name!r}.{nearest(name, known)}{toolkit.explain_missing(name)}")
    if overrides and not recipes:
        raise RecipeError(f"overrides go with a recipe, but {name!r} is among {', '.join(e.kind for e in entries)}")
    if pattern is not None or shape is not None:
        mechanisms = [entry for entry in entries if entry.kind == "attention"]
        if not mechanisms:
            raise RecipeError(f"--pattern and --shape go with an attention mechanism, but {name!r} is none")
        entries = mechanisms
    found = [_recipe(toolkit, recipe, overrides) for recipe in recipes]
    found += [_thing(toolkit, entry) for entry in entries if entry.kind != "recipes" and not overrides]
    if pattern is not None or shape is not None:
        from toolkit.cli.explain_backend import SHAPE, explained

        found[-1]["chosen"] = explained(entries[-1].load(), pattern or "", shape or SHAPE)
    if as_json:
        print_json(found[0] if len(found) == 1 else {"found": found})
        return
    for index, facts in enumerate(found):
        if index:
            say()
        _print(facts)


def _named(toolkit: Toolkit, name: str, only: str | None) -> list[Entry]:
    found = []
    for kind in [only] if only else KINDS:
        claims = [entry for entry in toolkit.registry.all(kind) if name in (entry.name, entry.full_name)]
        found += [toolkit.registry.get(kind, name)] if claims else []
    return found


def _recipe(toolkit: Toolkit, name: str, overrides: tuple[str, ...]) -> dict[str, Any]:
    from toolkit.recipe import find, load
    from toolkit.resolve import resolve

    resolved = resolve(load(name, toolkit, overrides))
    return {"kind": "recipes", "name": resolved.name, "file": str(find(name, toolkit)), "recipe": resolved.document}


def _thing(toolkit: Toolkit, entry: Entry) -> dict[str, Any]:
    facts: dict[str, Any] = {"kind": entry.kind, "name": entry.full_name, "summary": entry.summary}
    facts |= {"source": entry.source, "target": entry.target}
    if entry.kind == "commands":
        return {**facts, "help": f"toolkit {entry.name} --help"}

    from toolkit.cli.describe import capabilities_of, first_line, given_to, options_of

    target = entry.load()
    given = given_to(toolkit, entry, target)
    facts |= {"description": first_line(target), "given": list(given)}
    if entry.kind == "attention":
        facts["capabilities"] = capabilities_of(target)
    return {**facts, "options": [option.plain() for option in options_of(target, given)]}


def _print(facts: dict[str, Any]) -> None:
    if "recipe" in facts:
        from toolkit import yamlfile

        say(f"# {facts['name']}, resolved with every default, from {facts['file']}")
        say(yamlfile.dump(facts["recipe"]).rstrip())
        return
    say(f"{facts['name']} ({facts['kind']}): {facts['summary']}")
    for key in ("description", "source", "target", "help"):
        if facts.get(key):
            say(f"{key}: {facts[key]}")
    if facts.get("given"):
        say(f"given by the toolkit: {', '.join(facts['given'])}")
    if facts.get("capabilities"):
        print_table(["capability", "value"], [(key, _shown(value)) for key, value in facts["capabilities"].items()])
    if facts.get("chosen"):
        chosen = facts["chosen"]
        why = {"backend": chosen["backend"], "because": chosen["reason"]}
        why |= {f"not {other}": reason for other, reason in chosen["refused"].items()}
        print_table([f"for {chosen['shape']}", f"pattern {chosen['pattern']}"], list(why.items()), wrapped=True)
    options = facts.get("options")
    if options:
        rows = [(each["name"], each["type"], "(required)" if each["required"] else _default(each)) for each in options]
        print_table(["option", "type", "default"], rows)
    elif options is not None:
        say("It takes no options.")


def _default(option: dict[str, Any]) -> str:
    return json.dumps(option["default"], ensure_ascii=False)


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
