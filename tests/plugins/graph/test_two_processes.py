"""Two CPU processes over gloo, for real: they share the work exactly and step with the one-process gradient."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from toolkit import checkpoint

SCRIPT = Path(__file__).parents[2] / "fixtures" / "two_processes.py"


def trained(folder, devices, *overrides):
    environment = {name: value for name, value in os.environ.items() if name != "TOOLKIT_RUN_DIRECTORY"}
    command = [
        sys.executable,
        str(SCRIPT),
        str(folder),
        str(devices),
        "gat_karate",
        "loggers=[csv]",
        *overrides,
        "--notes",
    ]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    notes = [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(devices)]
    weights = checkpoint.read(folder / "run" / "checkpoints" / "last.ckpt")["state_dict"]
    return notes, weights, done.stdout.split("METRICS")[1].split()


@pytest.mark.parametrize("sampled", [False, True])
def test_two_processes_are_as_one(tmp_path, sampled):
    # Without dropout: each process draws its own masks. Sampled with all neighbours, so both runs see the same edges.
    overrides = ["model.dropout=0", "attention.dropout=0"]
    if sampled:
        overrides += ["data.batch_size=2", "data.neighbors=[-1, -1]"]
    one, one_weights, one_metrics = trained(tmp_path / "one", 1, *overrides, *(["data.batch_size=4"] * sampled))
    two, two_weights, two_metrics = trained(tmp_path / "two", 2, *overrides)
    everything = sorted(item for epoch, items in one[0][0] if epoch == 0 for item in items)
    assert len(everything) == 4
    for epoch in range(4):
        shares = [[item for at, items in notes[0] if at == epoch for item in items] for notes in two]
        assert all(shares), "each process has its share"
        assert sorted(shares[0] + shares[1]) == everything
    for first, second, alone in zip(two[0][1], two[1][1], one[0][1], strict=True):
        for name, gradient in alone.items():
            torch.testing.assert_close(first[name], gradient, rtol=1e-4, atol=1e-6)
            torch.testing.assert_close(second[name], first[name], rtol=0, atol=0)
    for name, value in one_weights.items():
        torch.testing.assert_close(two_weights[name], value, rtol=1e-3, atol=1e-5)
    assert [float(value) for value in two_metrics] == pytest.approx([float(value) for value in one_metrics], rel=1e-3)
