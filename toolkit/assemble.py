"""From choices to objects, data first: its spec is all that crosses to the task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from toolkit.binding import bind
from toolkit.choice import Choice
from toolkit.resolve import PROVIDED, Resolved
from toolkit.sections import COMPONENTS

if TYPE_CHECKING:
    from toolkit.data import Data
    from toolkit.task import Task


def build_data(resolved: Resolved, trained: Mapping[str, Any] | None = None) -> Data:
    """Build the data module, fetch what it needs and read it, so that its spec is known.

    trained: the spec that a run was trained with, for data that is read to be used by it.
    """
    data: Data = resolved.data.build()
    data.trained = trained
    data.prepare_data()
    data.setup()
    return data


def build_task(document: Mapping[str, Any], spec: Mapping[str, Any]) -> Task:
    """Build a task from a resolved document and a spec: what a checkpoint holds, and all that is needed."""

    def choice(section: str, parts: dict[str, Choice], provided: tuple[str, ...]) -> Choice:
        options = dict(document[section])
        name = options.pop("use")
        bare = Choice(COMPONENTS[section], name)
        return replace(bare, options=bind(bare.target(), options, where=section, provided=provided), parts=parts)

    attention = {"attention": choice("attention", {}, PROVIDED["attention"])} if document.get("attention") else {}
    task_class: type[Task] = Choice("tasks", document["task"]["use"]).target()
    model = choice("model", attention, (*task_class.gives_model, "attention"))
    task: Task = choice("task", {"model": model}, PROVIDED["tasks"]).build(spec=spec)
    return task


def build_for_training(resolved: Resolved, data: Data) -> Task:
    """Build a task with its optimizer and the weights it starts from, compiled if the recipe says so."""
    task = build_task(resolved.document, data.spec)
    task.start()
    task.optimization = resolved.optimization
    settings = resolved.compile
    if settings.enabled:
        task.model.compile(mode=settings.mode, dynamic=settings.dynamic, fullgraph=settings.fullgraph)
    return task
