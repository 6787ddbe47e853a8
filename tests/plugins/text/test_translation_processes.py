"""Two CPU processes over gloo: losses by token and metrics of texts are those of one."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pair_samples import counted

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
    return checkpoint.read(run / "checkpoints" / "best.ckpt")["state_dict"], values


def test_two_processes_are_as_one(tmp_path):
    pairs = counted(7)
    rows = [{"source": one, "target": other} for one, other in zip(pairs.source, pairs.target, strict=True)]
    for name, some in (("train", rows), ("val", rows[:3]), ("test", rows[:1])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    document = {
        "name": "mine",
        "data": {
            "use": "text:parallel",
            "min_count": 1,
            "tokenizer": "word",
            **{name: str(tmp_path / f"{name}.jsonl") for name in ("train", "val", "test")},
        },
        "task": {"use": "text:translation", "metrics": ["bleu", "chrf", "exact_match", "perplexity"], "beams": 2},
        "model": {"use": "text:recurrent_translator", "dim": 8, "hidden": 8, "dropout": 0.0},
        "attention": "additive",
        "optimizer": {"use": "sgd", "lr": 0.3},
        "callbacks": [{"use": "weight_average", "decay": 0.5}],
        "trainer": {"max_epochs": 2},
        "loggers": ["csv"],
    }
    (tmp_path / "mine.yaml").write_text(json.dumps(document))
    # 7 pairs in 4 steps: one step has one pair, and the other process none
    one, one_metrics = trained(tmp_path, 1, "data.batch_size=2")
    two, two_metrics = trained(tmp_path, 2, "data.batch_size=1")
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-3, atol=1e-5)
    assert {"val/bleu", "val/chrf", "test/exact_match", "test/perplexity"} <= set(one_metrics)
    assert two_metrics == pytest.approx(one_metrics, rel=1e-3)
