"""Packages that do not fit the installed torch are found, whatever way they fail, with the pip line that mends them."""

from __future__ import annotations

import sys
from importlib.metadata import version

import pytest

from toolkit import companions
from toolkit.companions import explain, mend, probe
from toolkit.hookspecs import hookimpl

TORCH = version("torch").partition("+")[0]
MISFIT = "raise RuntimeError('operator torchvision::nms does not exist')"


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Write modules with the bodies and requirements they are given, as if pip had installed them before others."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(name, body, *wants, release="0.1"):
        (tmp_path / f"{name}.py").write_text(body + "\n")
        if name != "torch":  # the test itself runs on it; only other processes see the one written here
            monkeypatch.delitem(sys.modules, name, raising=False)
        info = tmp_path / f"{name.replace('-', '_')}-{release}.dist-info"
        info.mkdir()
        lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {release}"]
        (info / "METADATA").write_text("\n".join([*lines, *(f"Requires-Dist: {want}" for want in wants)]) + "\n")

    return write


@pytest.fixture
def only(monkeypatch):
    """Look at these packages alone, and let torch load at once: importing the real one takes seconds."""

    def choose(*names):
        monkeypatch.setattr(companions, "COMPANIONS", {name: name for name in names})

    return choose


def errors():
    return {each.name: each.error for each in probe()}


def test_what_fits_and_what_does_not(install, only):
    install("torch", "")
    install("torchvision", MISFIT)
    install("torchaudio", "import os; os.write(1, b'no newline'); print('hello')")
    only("torchvision", "torchaudio", "absent_companion")
    found = errors()
    assert found == {
        "torch": "",
        "torchvision": "RuntimeError: operator torchvision::nms does not exist",
        "torchaudio": "",
    }
    (problem,) = [each for each in probe() if each.error]
    assert problem.problem.startswith("torchvision 0.1 does not load beside torch 0.1: RuntimeError")


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (
            "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
            "takes Python down while it is imported (signal SIGSEGV)",
        ),
        ("import os; os._exit(3)", "takes Python down while it is imported (exit code 3)"),
        ("import sys; sys.exit('no')", "SystemExit: no"),
        ("raise OSError('libx.so: undefined\\nsymbol')", "OSError: libx.so: undefined symbol"),
        ("import time; time.sleep(60)", "was not imported within"),
    ],
)
def test_a_crash_is_contained_and_the_others_are_still_tried(install, only, monkeypatch, body, told):
    install("torch", "")
    install("torchvision", body)
    install("torchaudio", "")
    only("torchvision", "torchaudio")
    monkeypatch.setattr(companions, "PATIENCE", 3.0)
    found = errors()
    assert found["torchvision"].startswith(told)
    assert found["torchaudio"] == ""


def test_without_torch_nothing_else_is_tried(install, only):
    install("torch", "raise ImportError('libtorch.so')")
    install("torchvision", MISFIT)
    only("torchvision")
    assert errors() == {"torch": "ImportError: libtorch.so"}


def test_the_line_depends_on_what_does_not_fit(install):
    install("torchvision", "", "torch (==1.0)")
    install("torchaudio", "", f"torch (=={TORCH})")
    assert mend("torchvision") == f'pip install --upgrade "torch=={TORCH}" torchvision'
    assert mend("torchaudio") == f'pip install --force-reinstall "torch=={TORCH}" torchaudio'
    assert mend("torch") == "pip install --force-reinstall torch"


def test_where_our_own_extra_caps_torch_the_extra_mends_it(install):
    install("torch", "", release="99.0")
    assert mend("torchaudio") == 'pip install "attention-toolkit[speech]"'


def caught(code, name):
    try:
        exec(compile(code, name, "exec"), {"__name__": name})
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def test_only_a_failing_import_of_a_companion_is_explained(install):
    install("torchvision", MISFIT)
    told = explain(caught("import torchvision", "some_plugin"))
    assert told.startswith(f"torchvision 0.1 does not load beside torch {version('torch')}. Mend it with: pip install")
    wrapped = caught("try:\n    import torchvision\nexcept RuntimeError:\n    raise ValueError('later')", "some_plugin")
    assert "torchvision" in explain(wrapped)
    assert explain(caught("import torchvizion", "some_plugin")) == ""
    assert explain(caught("1 / 0", "some_plugin")) == ""
    install("torchaudio", "def load(path): raise RuntimeError('no file')")
    assert explain(caught("import torchaudio\ntorchaudio.load('nowhere')", "some_plugin")) == ""


def test_a_recipe_whose_part_needs_a_misfit_gets_the_line(install, digits_toolkit, tmp_path):
    from toolkit.errors import PluginError

    install("torchvision", MISFIT)
    (tmp_path / "toolkit_pictures.py").write_text("import torchvision\n")

    class Plugin:
        @hookimpl
        def register_models(self, register):
            register("pictures", "toolkit_pictures:Model", summary="Needs torchvision")

    digits_toolkit.register(Plugin(), "pictures")
    with pytest.raises(PluginError, match=r"nms does not exist\. torchvision 0\.1 does not load beside .* pip install"):
        digits_toolkit.registry.get("models", "pictures").load()
