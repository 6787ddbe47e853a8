"""Where a trained run looks in a story, hop by hop, as a picture."""

from __future__ import annotations

from pathlib import Path

import torch

from toolkit import checkpoint, heatmap
from toolkit.errors import RunError
from toolkit.task import Row
from toolkit_text.tasks.answering import Answering, asked_in


def draw(run: str | Path, story: str, path: str | Path) -> Row:
    """Draw how much each hop looks at each sentence, and return the row that the run predicts.

    run: a run directory or a checkpoint. story: sentences of which the last is the question, or JSON, as `toolkit
    predict RUN --text` takes it.
    Raises: RunError for a run that answers no questions, or whose model does not look at sentences; DataError.
    """
    restored = checkpoint.restore(run)
    task = restored.task
    if not isinstance(task, Answering):
        raise RunError(f"{restored.path}: its task {restored.payload.recipe['task']['use']} answers no questions")
    (batch,) = task.batches_of([story])
    with torch.inference_mode():
        weights = task.looks(batch)
        (row,) = task.rows(batch)
    if weights is None or not weights.shape[1]:
        raise RunError(f"{restored.path}: its model looks at no sentences one by one, so there is nothing to draw")
    asked = asked_in(story, 0)
    heatmap.draw(
        weights[0].T,
        asked.sentences[-weights.shape[2] :],
        [str(hop) for hop in range(1, weights.shape[1] + 1)],
        Path(path),
        title=f"{asked.question} {row['class']} ({row['probability']:.2f})",
        column_title="hop",
    )
    return row
