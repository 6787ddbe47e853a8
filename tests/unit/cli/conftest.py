"""Running commands inside the test process, as the console script runs them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from toolkit.cli.main import main
from toolkit.plugins import Toolkit


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output, which holds one JSON document and nothing else."""
        return json.loads(self.out)


Toolkits = Callable[..., Outcome]


@pytest.fixture
def toolkit(
    digits_toolkit: Toolkit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Toolkits:
    """Run a command in an empty folder and return its outcome."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COLUMNS", raising=False)

    def run(*arguments: str) -> Outcome:
        capfd.readouterr()
        code = main(arguments)
        return Outcome(code, *capfd.readouterr())

    return run


@pytest.fixture(scope="session")
def tiny() -> list[str]:
    """Overrides under which the digits train in a second."""
    return ["trainer.max_epochs=2", "trainer.limit_train_batches=3", "schedule=null", "trainer.accelerator=cpu"]
