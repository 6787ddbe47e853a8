import errno
import os
import pickle
import zipfile
from importlib.metadata import version

import pytest
import torch

from toolkit import checkpoint, recipe, run
from toolkit.errors import CheckpointError, RunError, UnknownNameError
from toolkit.plugins import Toolkit, current_toolkit, using


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "karate"
    return run.train(recipe.load("gat_karate", current_toolkit(), smoke=True), out=folder, quiet=True)


@pytest.fixture
def copied(trained, tmp_path):
    path = tmp_path / "best.ckpt"
    path.write_bytes((trained.directory / "checkpoints" / "best.ckpt").read_bytes())
    return path


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("exploded",)


def test_a_run_is_restored_without_its_data_plugin_or_recipe(trained, copied):
    bare = Toolkit()
    full = current_toolkit().registry
    for kind in ("attention", "tasks", "models", "metrics"):
        for entry in full.all(kind):
            bare.registry.add(entry)
    with using(bare):
        restored = checkpoint.restore(copied)
    assert restored.payload.spec["classes"]
    assert not restored.task.training
    expected = checkpoint.read(copied)["state_dict"]
    assert all(torch.equal(value, expected[name]) for name, value in restored.task.state_dict().items())


def test_a_missing_plugin_is_named(copied):
    with using(Toolkit()), pytest.raises(UnknownNameError, match=r"core:gat.*None are known"):
        checkpoint.restore(copied)


def test_a_checkpoint_knows_where_it_came_from(copied):
    payload = checkpoint.payload_of(checkpoint.read(copied))
    assert payload.recipe["attention"]["use"] == "core:gat"
    assert payload.provenance["versions"]["torch"] == version("torch")
    assert payload.provenance["plugins"]["graph"].startswith("attention-toolkit")


def test_a_run_folder_stands_for_its_best_checkpoint(trained, tmp_path):
    assert checkpoint.locate(trained.directory).name == "best.ckpt"
    with pytest.raises(CheckpointError, match="no run or checkpoint"):
        checkpoint.locate(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        checkpoint.locate(tmp_path)


@pytest.mark.parametrize("part", [0.0, 0.3, 0.99])
def test_a_truncated_checkpoint_is_told(copied, part):
    content = copied.read_bytes()
    copied.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(CheckpointError, match=r"truncated|cannot be read"):
        checkpoint.restore(copied)


def test_a_damaged_checkpoint_is_told(copied):
    content = bytearray(copied.read_bytes())
    with zipfile.ZipFile(copied) as archive:
        start = archive.getinfo(next(name for name in archive.namelist() if name.endswith("data.pkl"))).header_offset
    content[start + 60 : start + 200] = bytes(140)
    copied.write_bytes(bytes(content))
    with pytest.raises(CheckpointError):
        checkpoint.restore(copied)


def test_pickled_objects_are_refused_and_never_run(copied, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({**checkpoint.read(copied), "extra": Bomb()}, copied)
    with pytest.raises(CheckpointError, match="is refused: it carries pickled objects"):
        checkpoint.restore(copied)
    assert not (tmp_path / "exploded").exists()
    copied.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(CheckpointError, match="not a whole checkpoint"):
        checkpoint.restore(copied)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    "content",
    [
        {"state_dict": {}},
        [1, 2],
        {"model": {"w": torch.zeros(2)}},
        {"state_dict": {}, "toolkit": 1},
        {"state_dict": {}, "toolkit": {"format": 1}},
    ],
)
def test_a_foreign_checkpoint_is_told(tmp_path, content):
    torch.save(content, tmp_path / "theirs.ckpt")
    with pytest.raises(CheckpointError, match="foreign"):
        checkpoint.restore(tmp_path / "theirs.ckpt")


def test_a_newer_format_is_told(copied):
    found = checkpoint.read(copied)
    found["toolkit"]["format"] = 99
    torch.save(found, copied)
    with pytest.raises(CheckpointError, match="format 99"):
        checkpoint.restore(copied)


def test_weights_that_do_not_fit_are_told(copied):
    found = checkpoint.read(copied)
    first, second, *_ = found["state_dict"]
    found["state_dict"][first] = torch.zeros(1, 1, 1, 1)
    found["state_dict"]["odd"] = found["state_dict"].pop(second)
    torch.save(found, copied)
    with pytest.raises(CheckpointError) as error:
        checkpoint.restore(copied)
    assert all(word in str(error.value) for word in (first, second, "odd", "(1, 1, 1, 1)"))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_leaves_the_old_checkpoint(copied, monkeypatch, number):
    before = copied.read_bytes()

    def full(handle):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"still at .*best\.ckpt.*--resume"):
        checkpoint.write(checkpoint.read(copied), copied)
    monkeypatch.undo()
    assert copied.read_bytes() == before
    assert [path.name for path in copied.parent.iterdir()] == ["best.ckpt"]


def test_a_really_full_disk(copied, tmp_path):
    """A limit on file size makes the kernel refuse the write, inside torch.save."""
    resource = pytest.importorskip("resource")
    import signal

    found, before = checkpoint.read(copied), resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    try:
        with pytest.raises(RunError, match=r"cannot write new\.ckpt"):
            checkpoint.write(found, tmp_path / "new.ckpt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert not (tmp_path / "new.ckpt").exists()
