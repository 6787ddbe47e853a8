import pytest

from toolkit.errors import MissingExtraError, PluginError, UnknownNameError
from toolkit.registry import Entry, Registry


def entry(name="gat", plugin="core", target="math:sqrt", kind="attention", **more):
    return Entry(kind, plugin, name, target, "a summary", **more)


@pytest.fixture
def registry():
    registry = Registry()
    registry.add(entry("gat"))
    registry.add(entry("linear"))
    registry.add(entry("linear", plugin="other"))
    return registry


def test_a_short_name_finds_its_entry(registry):
    assert registry.get("attention", "gat") is registry.get("attention", "core:gat")


def test_a_name_two_plugins_claim_must_be_written_in_full(registry):
    with pytest.raises(UnknownNameError, match=r"claimed by 2 plugins.*core:linear, other:linear"):
        registry.get("attention", "linear")
    assert registry.get("attention", "other:linear").plugin == "other"


@pytest.mark.parametrize("name", ["gta", "core:gta"])
def test_an_unknown_name_gets_the_nearest(registry, name):
    with pytest.raises(UnknownNameError, match=r"Did you mean '(core:)?gat'"):
        registry.get("attention", name)


def test_the_kind_matters(registry):
    with pytest.raises(UnknownNameError, match="among models"):
        registry.get("models", "gat")


@pytest.mark.parametrize(
    ("bad", "complaint"),
    [
        (entry("gat"), "registered twice"),
        (entry("a:b"), "no name"),
        (entry("new", target="math.sqrt"), "module:attribute"),
        (entry("new", kind="attentions"), "Did you mean 'attention'"),
    ],
)
def test_what_cannot_be_registered(registry, bad, complaint):
    with pytest.raises(PluginError, match=complaint):
        registry.add(bad)


def test_withdrawing_forgets_one_plugin_only(registry):
    registry.withdraw("other")
    assert registry.get("attention", "linear").plugin == "core"


def test_loading_imports_only_then():
    assert entry().load()(4) == 2


@pytest.mark.parametrize(
    ("target", "error", "complaint"),
    [
        ("math:squirt", PluginError, "squirt"),
        ("toolkit.nowhere:x", PluginError, "does not exist"),
        ("needs_absent:x", MissingExtraError, r'pip install "attention-toolkit\[graph\]"'),
        ("breaks:x", PluginError, "ZeroDivisionError"),
    ],
)
def test_what_cannot_be_loaded_says_why(tmp_path, monkeypatch, target, error, complaint):
    (tmp_path / "needs_absent.py").write_text("import a_package_that_nobody_has")
    (tmp_path / "breaks.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(error, match=complaint):
        entry(target=target, extra="graph").load()
