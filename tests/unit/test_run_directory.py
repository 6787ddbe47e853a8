"""One process at a time in a run directory, and no folder left behind by a run that never began."""

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap

import filelock
import pytest

from toolkit import recipe, run, run_directory
from toolkit.errors import RunError, SourceError
from toolkit.run_directory import RunDirectory


@pytest.fixture
def tiny(digits_toolkit):
    return recipe.load("digits", digits_toolkit, ["trainer.max_epochs=1", "schedule=null", "loggers=[csv]"])


@pytest.fixture
def finished(tiny, tmp_path):
    return RunDirectory(run.train(tiny, out=tmp_path / "run", quiet=True, test=False).directory)


@pytest.fixture
def elsewhere(tmp_path):
    """Start a process that holds a run directory, and give it."""
    started = []

    def start(directory, inside="pass"):
        code = f"""
            import os, sys, time
            from pathlib import Path
            from toolkit import run_directory
            with run_directory.held(run_directory.RunDirectory(Path(sys.argv[1]))):
                {inside}
                print("held", flush=True)
                time.sleep(300)
        """
        command = [sys.executable, "-c", textwrap.dedent(code), str(directory.path)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_run_that_another_process_trains_is_not_resumed(finished, tiny, elsewhere):
    before = (finished.path / "run.json").read_bytes()
    other = elsewhere(finished)
    with pytest.raises(RunError) as caught:
        run.train(tiny.with_overrides(["trainer.max_epochs=2"]), resume=finished.path, quiet=True)
    for part in (finished.path, f"process {other.pid} on {socket.gethostname()}", finished.resume):
        assert str(part) in str(caught.value)
    assert (finished.path / "run.json").read_bytes() == before


@pytest.mark.parametrize("inside", ["pass", "if os.fork() == 0: time.sleep(5); os._exit(0)"])
def test_a_killed_process_leaves_no_lock(finished, tiny, elsewhere, inside):
    """Nor do the workers of its loaders, which live a little longer."""
    other = elsewhere(finished, inside)
    other.kill()
    other.wait()
    assert (finished.path / run_directory.HOLDER).exists()
    longer = run.train(tiny.with_overrides(["trainer.max_epochs=2"]), resume=finished.path, quiet=True)
    assert longer.trained
    assert not (finished.path / run_directory.HOLDER).exists()


def test_a_process_that_is_not_yet_known_is_not_waited_for(finished):
    with (
        filelock.FileLock(finished.path / run_directory.LOCK),
        pytest.raises(RunError, match="in use by another process"),
    ):
        run_directory.held(finished).__enter__()


def test_a_new_directory_belongs_to_one_process(tmp_path, elsewhere, tiny):
    directory = RunDirectory(tmp_path / "new")
    directory.path.mkdir()
    elsewhere(directory)  # as a process that fetches its data: nothing else is in the folder yet
    with pytest.raises(RunError, match="is in use by process"):
        run.train(tiny, out=directory.path, quiet=True)


def test_a_directory_that_filled_while_it_was_claimed_is_refused(tmp_path, monkeypatch):
    held = run_directory.held

    def late(directory):
        (directory.path / "recipe.yaml").touch()
        return held(directory)

    monkeypatch.setattr(run_directory, "held", late)
    with pytest.raises(RunError, match="is not empty"), run_directory.new("digits", tmp_path / "new"):
        pytest.fail("two runs in one folder")
    assert (tmp_path / "new" / "recipe.yaml").exists()


def test_a_folder_of_something_else_is_not_written_in(tmp_path):
    (tmp_path / "letter.txt").touch()
    with pytest.raises(RunError, match="is not empty"), run_directory.new("digits", tmp_path):
        pytest.fail("a run among letters")
    assert os.listdir(tmp_path) == ["letter.txt"]


@pytest.mark.parametrize("where", ["fetch", "logger"])
@pytest.mark.parametrize("out", [None, "new", "mine"])
def test_a_run_that_never_began_leaves_nothing(tmp_path, monkeypatch, tiny, where, out):
    def fails(*_, **__):
        raise SourceError("no source has it")

    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    monkeypatch.setattr(run, "build_data" if where == "fetch" else "_trainer", fails)
    with pytest.raises(SourceError, match="no source has it"):
        run.train(tiny, out=out, quiet=True)
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")} - {"cache"}
    assert left <= {"mine", "runs", "runs/.numbering.lock"}, left
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert run.train(tiny, out=out, quiet=True, test=False).directory.name == (out or "digits-1")


def test_resuming_forgets_how_the_part_before_ended(finished, tiny, monkeypatch):
    finished.note(status="failed", error="RunError: no more room", ended="then")
    seen = {}
    note = RunDirectory.note

    def look(self, **facts):
        note(self, **facts)
        seen.setdefault(facts["status"], self.state())

    monkeypatch.setattr(RunDirectory, "note", look)
    run.train(tiny.with_overrides(["trainer.max_epochs=2"]), resume=finished.path, quiet=True)
    assert not {"error", "ended", "metrics", "best_epoch", "epochs"} & seen["running"].keys()
    state = json.loads((finished.path / "run.json").read_text())
    assert state["status"] == "finished"
    assert "error" not in state
    assert state["epochs"] == 2


def test_what_cannot_be_resumed_is_left_as_it_was(finished, tiny):
    before = finished.state()
    with pytest.raises(Exception, match="another 'optimizer'"):
        run.train(tiny.with_overrides(["optimizer.lr=0.5"]), resume=finished.path, quiet=True)
    assert finished.state() == before


def test_a_run_goes_on_with_the_recipe_it_last_had(finished, tiny):
    """Overrides of --resume hold for the next --resume as well, which needs no other words than the directory."""
    from contextlib import contextmanager

    from toolkit import resuming

    @contextmanager
    def stop_at_once():
        yield lambda: True

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "stop_on_signal", stop_at_once)
        longer = tiny.with_overrides(["trainer.max_epochs=4"])
        assert not run.train(longer, resume=finished.path, quiet=True).finished
    run.train(resuming.recipe_of(finished.path), resume=finished.path, quiet=True)
    assert finished.state()["epochs"] == 4


def test_a_signal_while_data_is_fetched_ends_the_process(tiny, tmp_path, digits_environment):
    """No handler of ours may swallow it then: nothing would look at the wish."""
    code = """
        import sys, time
        from toolkit import recipe, run
        from toolkit.plugins import current_toolkit
        def fetch(resolved):
            print("fetching", flush=True)
            time.sleep(300)
        run.build_data = fetch
        run.train(recipe.load("digits", current_toolkit()), out=sys.argv[1], quiet=True)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "new")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=digits_environment)
    try:
        assert process.stdout.readline() == "fetching\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == -signal.SIGTERM
    finally:
        process.kill()
        process.stdout.close()
    assert run.train(tiny, out=tmp_path / "new", quiet=True, test=False).finished
