"""Loggers that others write to: where MLflow's files go, and loggers that want no folder of the run."""

import os

import pytest
from pytorch_lightning.loggers import CSVLogger as LightningCSV
from pytorch_lightning.loggers import MLFlowLogger
from training import digits

from toolkit import run
from toolkit.hookspecs import hookimpl
from toolkit.loggers import MLflow


@pytest.fixture
def given(monkeypatch):
    """What Lightning's logger is given; the package of MLflow itself is not among the tests' own."""
    found = {}
    monkeypatch.setattr(MLFlowLogger, "__init__", lambda self, **options: found.update(options))
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_ALLOW_FILE_STORE"):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    return found


def test_mlflow_writes_files_that_it_is_asked_for(given):
    MLflow()
    assert given["tracking_uri"] == "file:./mlruns"
    assert os.environ["MLFLOW_ALLOW_FILE_STORE"] == "true"


def test_mlflow_goes_where_it_is_told(given, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:5000")
    MLflow(experiment_name="mine", run_name="first")
    assert given == {"tracking_uri": "http://localhost:5000", "experiment_name": "mine", "run_name": "first"}
    MLflow(tracking_uri="sqlite:///runs.db")
    assert given["tracking_uri"] == "sqlite:///runs.db"
    assert "MLFLOW_ALLOW_FILE_STORE" not in os.environ


class Placeless(LightningCSV):
    def __init__(self, *, name: str = "apart") -> None:
        super().__init__("elsewhere", name=name)


def test_a_logger_without_a_folder_of_the_run_is_built_without_one(digits_toolkit, tmp_path, monkeypatch):
    class Plugin:
        @hookimpl
        def register_loggers(self, register):
            register("placeless", f"{__name__}:Placeless", summary="Writes elsewhere")

    digits_toolkit.register(Plugin(), "apart")
    monkeypatch.chdir(tmp_path)
    run.train(digits(digits_toolkit, "loggers=[placeless]"), out=tmp_path / "run", quiet=True)
    assert list((tmp_path / "elsewhere" / "apart").rglob("metrics.csv"))
