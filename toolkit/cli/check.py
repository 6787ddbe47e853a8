"""`toolkit check`."""

from __future__ import annotations

from typing import Any

import click

from toolkit.cli.output import duration, json_option, print_error, print_json, print_table, say, size
from toolkit.plugins import current_toolkit
from toolkit.yamlfile import shown


@click.command("check", short_help="Check a recipe without training it; with --batch, run a few steps and measure.")
@click.argument("recipe")
@click.argument("overrides", nargs=-1, metavar="[SECTION.KEY=VALUE]...")
@click.option("--batch", is_flag=True, help="Build it and train a few batches: shapes, parameters, memory, time.")
@json_option
@click.pass_context
def command(context: click.Context, recipe: str, overrides: tuple[str, ...], batch: bool, as_json: bool) -> None:
    """Check a recipe without training it: every section, name, key and type.

    All mistakes are reported; exit code 2 if there are any. With --batch the data is read, the model built and a few
    training steps are taken, forward and backward, which leave nothing behind.
    """
    from toolkit.problems import problems
    from toolkit.recipe import load
    from toolkit.resolve import resolve

    loaded = load(recipe, current_toolkit(), overrides, mistakes=[])
    mistakes = [str(problem) for problem in problems(loaded)]
    facts: dict[str, Any] = {"recipe": loaded.document.get("name", recipe), "ok": not mistakes, "problems": mistakes}
    if mistakes:
        for mistake in mistakes:
            print_error(mistake)
        if as_json:
            print_json(facts)
        context.exit(2)
    resolved = resolve(loaded)
    facts["document"] = resolved.document
    if batch:
        facts["batch"] = _measured(resolved)
    if as_json:
        print_json(facts)
        return
    _print_choices(resolved.document)
    if batch:
        _print_batch(facts["batch"])
    say(f"\n{loaded.name} is sound. Next: " + ("toolkit train " if batch else "toolkit check --batch ") + recipe)


def _measured(resolved: Any) -> dict[str, Any]:
    from toolkit.cli.trial import measure
    from toolkit.surroundings import quiet_libraries

    with quiet_libraries():
        return measure(resolved)


def _print_choices(document: dict[str, Any]) -> None:
    rows = []
    for section, value in document.items():
        if isinstance(value, dict) and "use" in value:
            options = ", ".join(f"{key}={shown(option)}" for key, option in value.items() if key != "use")
            rows.append((section, value["use"], options))
    print_table(["section", "use", "options"], rows, wrapped=True)


def _print_batch(facts: dict[str, Any]) -> None:
    say()
    tensors = [("batch", name, each) for name, each in facts["batch"].items()]
    tensors += [("output", name, each) for name, each in facts["output"].items()]
    print_table(
        ["tensor", "name", "shape", "type"],
        [(kind, name, " x ".join(map(str, each["shape"])) or "()", each["dtype"]) for kind, name, each in tensors],
    )
    say()
    print_table(["module", "parameters"], [(name, str(count)) for name, count in facts["parameters"].items()])
    say()
    memory = [(f"memory: {name.replace('_', ' ')}", size(value)) for name, value in facts["memory_bytes"].items()]
    rows = [("device", facts["device"]), *memory, ("step", duration(facts["step_seconds"]))]
    rows.append(("batches an epoch", str(facts["batches_per_epoch"] or "unknown")))
    if facts["run_seconds"] is not None:
        whole = f"{duration(facts['run_seconds'])} for {facts['batches']} batches, without validation"
        rows.append(("whole run, at most", whole))
    print_table(["measured", "value"], rows)
