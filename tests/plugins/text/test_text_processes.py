"""Two CPU processes over gloo, where one of them has no text in some steps."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from text_samples import as_json_lines, reviews

from toolkit import checkpoint

SCRIPT = Path(__file__).parents[2] / "fixtures" / "two_processes.py"


def trained(folder, devices, *overrides):
    environment = {name: value for name, value in os.environ.items() if name != "TOOLKIT_RUN_DIRECTORY"}
    command = [sys.executable, str(SCRIPT), str(folder / str(devices)), str(devices), str(folder / "mine.yaml")]
    done = subprocess.run([*command, *overrides], capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    run = folder / str(devices) / "run"
    rows = list(csv.DictReader((run / "metrics.csv").open()))
    values = {name: float(value) for row in rows for name, value in row.items() if "/" in name and value}
    return checkpoint.read(run / "checkpoints" / "last.ckpt")["state_dict"], values


def test_a_process_without_texts_changes_nothing(tmp_path):
    rows = [{"text": text, "label": label} for text, label in reviews(9)]
    document = {
        "name": "mine",
        "data": {
            "use": "text:files",
            "min_count": 1,
            "train": str(as_json_lines(tmp_path / "train.jsonl", rows[:7])),
            "val": str(as_json_lines(tmp_path / "val.jsonl", rows[:1])),
            "test": str(as_json_lines(tmp_path / "test.jsonl", rows[6:])),
        },
        "task": {"use": "text:classification", "metrics": ["accuracy", "auroc", "macro_f1", "calibration_error"]},
        "model": {"use": "text:transformer", "dim": 16, "num_layers": 1, "dropout": 0.0},
        "attention": "scaled_dot_product",
        "optimizer": {"use": "sgd", "lr": 0.1},
        "trainer": {"max_epochs": 2},
        "loggers": ["csv"],
    }
    (tmp_path / "mine.yaml").write_text(json.dumps(document))
    one, one_metrics = trained(tmp_path, 1, "data.batch_size=2")
    two, two_metrics = trained(tmp_path, 2, "data.batch_size=1")  # 7 texts in 4 steps: one of them has one text
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-3, atol=1e-5)
    assert {"val/auroc", "test/auroc", "test/calibration_error"} <= set(one_metrics)
    assert two_metrics == pytest.approx(one_metrics, rel=1e-3, nan_ok=True)


def test_stories_are_shared_out_too(tmp_path):
    """Questions of a step are dealt out, metrics by task are of all, the linear start ends for both at once."""
    document = {
        "name": "mine",
        "data": {"use": "text:stories", "tasks": ["one_fact", "yes_no"], "train": 2, "val": 1, "test": 1},
        "task": {"use": "text:answering", "metrics": ["accuracy", "mean_task_error", "task_errors", "support_mass"]},
        "model": {"use": "text:memory_network", "dim": 8, "linear_start": 1},
        "attention": "dot",
        "optimizer": {"use": "sgd", "lr": 0.1},
        "trainer": {"max_epochs": 2},
        "loggers": ["csv"],
    }
    (tmp_path / "mine.yaml").write_text(json.dumps(document))
    one, one_metrics = trained(tmp_path, 1, "data.batch_size=6")
    two, two_metrics = trained(tmp_path, 2, "data.batch_size=3")
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-3, atol=1e-5)
    assert int(two["model.validations"]) == 1
    assert {"val/support_mass", "test/task_errors/yes_no"} <= set(one_metrics)
    assert two_metrics == pytest.approx(one_metrics, rel=1e-3, nan_ok=True)
