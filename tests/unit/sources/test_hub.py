"""Files of the Hugging Face hub."""

import sys

import pytest
from served import CONTENT, resource

from toolkit import files
from toolkit.errors import MissingExtraError, SourceError
from toolkit.sources import HubFile, fetch


def test_without_the_hub_library_the_pip_line_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    source = HubFile(repo_id="someone/something", filename="a", revision="main")
    with pytest.raises(SourceError, match="pip install huggingface_hub"):
        fetch(resource(source))
    with pytest.raises(MissingExtraError):
        source.get(files.cache_root() / "part", "0" * 64)


def test_the_hub_is_asked_for_the_exact_revision_and_not_when_offline(tmp_path, monkeypatch):
    huggingface_hub = pytest.importorskip("huggingface_hub")
    (tmp_path / "blob").write_bytes(CONTENT)
    asked = []

    def download(repo_id, filename, **options):
        asked.append((repo_id, filename, options))
        if options["local_files_only"]:
            raise FileNotFoundError("no copy")
        return str(tmp_path / "blob")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    source = HubFile(repo_id="someone/something", filename="a", revision="abc", repo_type="dataset")
    assert fetch(resource(source)) == tmp_path / "blob"
    assert asked == [("someone/something", "a", {"revision": "abc", "repo_type": "dataset", "local_files_only": False})]
    monkeypatch.setenv("TOOLKIT_OFFLINE", "1")
    with pytest.raises(SourceError, match="TOOLKIT_OFFLINE"):
        fetch(resource(source))
