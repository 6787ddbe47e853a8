"""The logs of a run: a CSV that can be read while it grows and is cut back on resuming, and TensorBoard files."""

from __future__ import annotations

import csv
import io
import os
import time
from argparse import Namespace
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger, MLFlowLogger, TensorBoardLogger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from toolkit.files import writing

Rows = list[dict[str, float]]
FLUSH_SECONDS = 5.0


class CSVLogger(Logger):
    """Write `metrics.csv` in the run directory: `step`, `epoch`, then each metric in order of appearance."""

    def __init__(self, save_dir: str) -> None:
        super().__init__()
        self.path = Path(save_dir) / "metrics.csv"
        self.rows: Rows = []
        self._save_at = time.monotonic() + FLUSH_SECONDS

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        return ""

    @property
    def log_dir(self) -> str:
        return str(self.path.parent)

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        step = step if step is not None else len(self.rows)
        if self.rows and self.rows[-1]["step"] == step:
            self.rows[-1].update(metrics)
        else:
            self.rows.append({"step": step, **metrics})

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """The resolved recipe is in the run directory already."""

    def save(self) -> None:
        """Write now and then: this is called after every epoch, which may take milliseconds only."""
        if time.monotonic() > self._save_at:
            self.flush()

    @rank_zero_only
    def flush(self) -> None:
        """Write all rows."""
        start = time.monotonic()
        if self.rows:
            with writing(self.path) as file:
                file.write(_as_csv(self.rows).encode())
        done = time.monotonic()
        self._save_at = done + max(FLUSH_SECONDS, 100 * (done - start))  # a long run's file takes at most 1 % of it

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.flush()

    def resume(self, last_step: int) -> None:
        """Take over the rows of an earlier part of this run, up to the step of its checkpoint."""
        self.rows = [row for row in read_rows(self.path) if row["step"] < last_step] if self.path.exists() else []


def flush(loggers: Iterable[Logger]) -> None:
    """Make loggers write what they hold."""
    for logger in loggers:
        write_now = getattr(logger, "flush", logger.save)
        write_now()


def _as_csv(rows: Rows) -> str:
    columns = list(dict.fromkeys(["step", "epoch", *(key for row in rows for key in row)]))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {**row, "step": int(row["step"])} | ({"epoch": int(row["epoch"])} if "epoch" in row else {}) for row in rows
    )
    return text.getvalue()


def read_rows(path: Path) -> Rows:
    """Read a `metrics.csv` back; empty cells are left out."""
    with path.open(newline="", encoding="utf-8") as file:
        return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]


class TensorBoard(TensorBoardLogger):
    """TensorBoard event files in the folder `tensorboard` of the run directory.

    Rows are held and written every few seconds, one event a step: an event a value, or waking the writer's thread every
    epoch, takes several times as long.
    """

    def __init__(self, save_dir: str) -> None:
        super().__init__(str(Path(save_dir) / "tensorboard"), name="", version="", default_hp_metric=False)
        self._rows: dict[int, tuple[float, dict[str, float]]] = {}
        self._saved_at = time.monotonic()

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        step = max(self._rows, default=0) if step is None else step
        self._rows.setdefault(step, (time.time(), {}))[1].update(metrics)

    def save(self) -> None:
        """Write now and then; Lightning calls this after every epoch."""
        if time.monotonic() - self._saved_at > FLUSH_SECONDS:
            self.flush()

    @rank_zero_only
    def flush(self) -> None:
        """Write all rows."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        writer = self.experiment._get_file_writer()
        for step, (walltime, row) in self._rows.items():
            values = [Summary.Value(tag=name, simple_value=float(value)) for name, value in row.items()]
            writer.add_summary(Summary(value=values), step, walltime)
        self._rows = {}
        self.experiment.flush()
        self._saved_at = time.monotonic()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.flush()
        super().finalize(status)


class MLflow(MLFlowLogger):
    """MLflow: the server or database of `tracking_uri` or MLFLOW_TRACKING_URI, else files in `mlruns` beside the runs.

    Current MLflow refuses files unless they are asked for, and its small package has no database: so they are asked
    for.
    """

    def __init__(
        self, *, experiment_name: str = "attention", run_name: str | None = None, tracking_uri: str | None = None
    ) -> None:
        tracking_uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
        if tracking_uri is None:
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
            tracking_uri = "file:./mlruns"
        super().__init__(experiment_name=experiment_name, run_name=run_name, tracking_uri=tracking_uri)
