import subprocess
import sys
from importlib.metadata import EntryPoint
from types import ModuleType

import pytest

from toolkit import plugins as plugins_module
from toolkit.errors import PluginError, UnknownNameError
from toolkit.hookspecs import REGISTER_HOOKS, hookimpl
from toolkit.plugins import Toolkit, current_toolkit, using
from toolkit.registry import KINDS


def plugin(**functions):
    module = ModuleType("made_up")
    for name, function in functions.items():
        setattr(module, name, hookimpl(function))
    return module


def brings(name, target="math:sqrt"):
    def register_attention(register):
        register(name, target, summary="s")

    return plugin(register_attention=register_attention)


def test_installed_plugins_are_found_and_whole():
    toolkit = Toolkit()
    toolkit.load_entry_points()
    assert {"core", "graph"} <= set(toolkit.statuses)
    assert not toolkit.failures()
    assert toolkit.registry.get("attention", "gat").full_name == "core:gat"
    assert toolkit.registry.get("data", "karate").plugin == "graph"


def test_each_register_hook_fills_its_kind():
    assert sorted(REGISTER_HOOKS.values()) == sorted(KINDS)
    toolkit = Toolkit()

    def make(kind):
        return lambda register: register(f"a_{kind}", "math:sqrt", summary="s", source="t", extra="u")

    toolkit.register(plugin(**{hook: make(kind) for hook, kind in REGISTER_HOOKS.items()}), "mine")
    for kind in KINDS:
        found = toolkit.registry.get(kind, f"a_{kind}")
        assert (found.plugin, found.summary, found.source, found.extra) == ("mine", "s", "t", "u")


def test_an_unknown_hook_is_refused_with_the_nearest_and_nothing_stays():
    def register_attention(register):
        register("mine", "math:sqrt", summary="s")

    broken = plugin(register_attention=register_attention, register_atention=lambda register: None)
    toolkit = Toolkit()
    with pytest.raises(PluginError, match=r"unknown hook 'register_atention'.*register_attention"):
        toolkit.register(broken, "mine")
    with pytest.raises(UnknownNameError):
        toolkit.registry.get("attention", "mine")


def test_a_plugin_that_fails_halfway_leaves_nothing():
    def register_attention(register):
        register("first", "math:sqrt", summary="s")
        raise ValueError("oh no")

    toolkit = Toolkit()
    with pytest.raises(PluginError, match="ValueError: oh no"):
        toolkit.register(plugin(register_attention=register_attention), "mine")
    assert toolkit.registry.all("attention") == []
    toolkit.register(brings("first"), "mine")  # the name is free again


def test_a_hook_with_a_wrong_argument_is_refused():
    with pytest.raises(PluginError, match="mine"):
        Toolkit().register(plugin(register_attention=lambda registry: None), "mine")


def points(tmp_path, monkeypatch, **sources):
    for name, source in sources.items():
        (tmp_path / f"{name}_plugin.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    found = [EntryPoint(name, f"{name}_plugin", "toolkit") for name in sources]
    monkeypatch.setattr(plugins_module, "entry_points", lambda group: found)


GOOD = (
    "from toolkit.hookspecs import hookimpl\n"
    "@hookimpl\n"
    "def register_models(register):\n"
    "    register('good', 'math:sqrt', summary='s')\n"
)


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("import a_package_that_nobody_has", "a_package_that_nobody_has"),
        ("1 / 0", "ZeroDivisionError"),
        ("def (", "SyntaxError"),
        ("raise SystemExit(3)", "SystemExit"),
    ],
)
def test_a_broken_plugin_is_reported_and_harms_nobody(tmp_path, monkeypatch, source, complaint):
    points(tmp_path, monkeypatch, broken=source, sound=GOOD)
    toolkit = Toolkit()
    toolkit.load_entry_points()
    assert [status.name for status in toolkit.failures()] == ["broken"]
    assert complaint in toolkit.statuses["broken"].error
    assert "Traceback" in toolkit.statuses["broken"].trace
    assert toolkit.registry.get("models", "good").plugin == "sound"
    assert "broken" in toolkit.explain_missing("broken:thing")
    assert "broken" in toolkit.explain_missing("thing")


def test_a_plugin_can_be_switched_off(tmp_path, monkeypatch):
    points(tmp_path, monkeypatch, sound=GOOD)
    monkeypatch.setenv("TOOLKIT_DISABLE_PLUGINS", "other, sound")
    toolkit = plugins_module.load_toolkit()
    assert toolkit.statuses["sound"].disabled
    assert toolkit.registry.all("models") == []
    assert "switched off" in toolkit.explain_missing("sound:good")


def test_two_distributions_with_one_name_keep_the_first(tmp_path, monkeypatch):
    points(tmp_path, monkeypatch, sound=GOOD)
    twice = [EntryPoint("sound", "sound_plugin", "toolkit"), EntryPoint("sound", "other_plugin", "toolkit")]
    monkeypatch.setattr(plugins_module, "entry_points", lambda group: twice)
    toolkit = Toolkit()
    toolkit.load_entry_points()
    assert not toolkit.statuses["sound"].error
    assert "already taken" in toolkit.failures()[0].error


def test_using_sets_the_toolkit_of_a_block():
    mine = Toolkit()
    outside = current_toolkit()
    with using(mine):
        assert current_toolkit() is mine
    assert current_toolkit() is outside


def test_loading_plugins_imports_nothing_heavy():
    code = (
        "import sys; from toolkit.plugins import load_toolkit; load_toolkit();"
        "print([name for name in ('torch', 'pytorch_lightning', 'pydantic', 'numpy') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
