"""The outermost layer: exit codes, errors on one screen, and what a start costs."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import click
import pytest

from toolkit.cli.main import COMMANDS, group, main
from toolkit.errors import RunError
from toolkit.hookspecs import hookimpl
from toolkit.plugins import PluginStatus

PROBE = """
import json, resource, sys
from toolkit.cli.main import main
code = main(sys.argv[1:])
used = resource.getrusage(resource.RUSAGE_SELF)
heavy = sorted({"torch", "pytorch_lightning", "numpy", "rich"} & set(sys.modules))
print("\\n" + json.dumps({"code": code, "cpu": used.ru_utime + used.ru_stime, "heavy": heavy}))
"""


@pytest.fixture
def failing(digits_toolkit, monkeypatch):
    """A function that makes `toolkit fail` raise an error."""

    def register(error):
        def fail():
            raise error

        monkeypatch.setattr(click, "_failing_command", click.Command("fail", callback=fail), raising=False)

        class Plugin:
            @hookimpl
            def register_commands(self, register):
                register("fail", "click:_failing_command", summary="Fails")

        digits_toolkit.register(Plugin(), "failing")

    return register


@pytest.mark.parametrize(("arguments", "rich"), [(["--help"], []), (["list"], ["rich"]), (["plugins"], ["rich"])])
def test_start_is_quick_and_imports_nothing_heavy(arguments, rich, digits_environment):
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *arguments], env=digits_environment, capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["code"] == 0
    assert found["heavy"] == rich
    assert found["cpu"] < 0.5


def test_help_lists_every_command(toolkit):
    done = toolkit("--help")
    assert done.code == 0
    for name in COMMANDS:
        assert f"  {name} " in done.out
    assert toolkit().out == done.out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_a_summary(toolkit, name):
    done = toolkit(name, "--help")
    assert done.code == 0
    assert f"toolkit {name}" in done.out
    assert "--debug" in done.out
    assert group.get_command(click.Context(group), name).short_help


def test_version(toolkit):
    import toolkit as package

    assert toolkit("--version").out == f"attention-toolkit {package.__version__}\n"


def test_unknown_command_gets_the_nearest(toolkit):
    done = toolkit("trian", "digits")
    assert done.code == 2
    assert done.out == ""
    assert "no command 'trian'. Did you mean 'train'?" in done.err
    assert "Traceback" not in done.err


def test_unknown_option_shows_usage_without_traceback(toolkit):
    done = toolkit("list", "--jsn")
    assert done.code == 2
    assert "--jsn" in done.err
    assert "Usage: toolkit list" in done.err


def test_user_error_is_text_and_debug_shows_the_traceback(toolkit, failing):
    failing(RunError("[bold]a folder[/bold] is full"))
    plain = toolkit("fail")
    assert (plain.code, plain.out, plain.err) == (2, "", "error: [bold]a folder[/bold] is full\n")
    for arguments in (["--debug", "fail"], ["fail", "--debug"]):
        debugged = toolkit(*arguments)
        assert debugged.code == 2
        assert "Traceback" in debugged.err
        assert "RunError" in debugged.err


def test_misfit_that_a_plugin_meets_late_is_no_bug_and_gets_its_pip_line(toolkit, failing, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    try:
        import torchvision  # noqa: F401
    except RuntimeError as error:
        failing(error)
    done = toolkit("fail")
    assert done.code == 2
    assert "Traceback" not in done.err
    assert "nms does not exist" in done.err
    assert "Mend it with: pip install" in done.err


def test_long_error_fits_one_screen(toolkit, failing):
    failing(RunError("\n".join(f"line {number}" for number in range(500))))
    done = toolkit("fail")
    assert len(done.err.splitlines()) < 45
    assert "460 more lines" in done.err


def test_our_bug_shows_traceback_and_asks_for_a_report(toolkit, failing):
    failing(KeyError("surprise"))
    done = toolkit("fail")
    assert done.code == 1
    assert "Traceback" in done.err
    assert "This is a bug in attention-toolkit" in done.err


def test_bug_of_a_plugin_names_the_plugin(toolkit, failing, digits_toolkit):
    failing(KeyError("surprise"))
    digits_toolkit.statuses["failing"] = PluginStatus("failing", __name__.partition(".")[0], "toolkit-failing", "1.2")
    assert "please report it to toolkit-failing 1.2" in toolkit("fail").err


@pytest.mark.parametrize(
    ("error", "text"),
    [(OSError(28, "No space left on device", "/full"), "/full"), (MemoryError(), "out of memory")],
    ids=["disk", "memory"],
)
def test_what_the_machine_lacks_is_no_bug(toolkit, failing, error, text):
    failing(error)
    done = toolkit("fail")
    assert done.code == 2
    assert text in done.err
    assert "Traceback" not in done.err


def test_interrupt_exits_130(toolkit, failing):
    failing(KeyboardInterrupt())
    assert toolkit("fail").code == 130


def test_exit_code_of_a_command_is_kept(digits_toolkit, monkeypatch):
    monkeypatch.setattr(group, "main", lambda *_, **__: 1)
    assert main([]) == 1


def test_reader_that_leaves_early_costs_no_traceback(digits_environment):
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "toolkit.cli.main", "list"]
    done = subprocess.run(command, env=digits_environment, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr
    assert done.returncode in (0, 1)


def test_plugin_command_cannot_take_the_name_of_ours(toolkit, digits_toolkit):
    class Plugin:
        @hookimpl
        def register_commands(self, register):
            register("train", "click:nothing", summary="An impostor")

    digits_toolkit.register(Plugin(), "impostor")
    assert "Train a recipe" in toolkit("train", "--help").out
    assert "impostor:train" in toolkit("--help").out


def test_broken_plugin_command_is_listed_and_fails_alone(toolkit, digits_toolkit):
    class Plugin:
        @hookimpl
        def register_commands(self, register):
            register("ghost", "toolkit_no_such_module:command", summary="Not there")

    digits_toolkit.register(Plugin(), "ghosts")
    assert toolkit("--help").code == 0
    assert "ghost" in toolkit("list", "commands").out
    done = toolkit("ghost")
    assert done.code == 2
    assert "ghosts:ghost" in done.err
