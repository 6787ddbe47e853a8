"""Any data set of the hub: the library reads a folder that is laid out like a repository, without a network."""

import pandas as pd
import pytest
from text_samples import reviews
from toolkit_text.data.hub import HubSplit, HubTexts

from toolkit.errors import DataError


@pytest.fixture
def repository(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = reviews(60)
    for name, part in (("train", rows[:50]), ("test", rows[50:])):
        frame = pd.DataFrame({"title": ["T"] * len(part), "body": [text for text, _ in part]})
        frame["stars"] = [5 if label == "good" else 1 for _, label in part]
        (tmp_path / "set").mkdir(exist_ok=True)
        frame.to_parquet(tmp_path / "set" / f"{name}.parquet")
    return tmp_path / "set"


def test_columns_are_named_and_what_is_missing_is_split_off(repository):
    data = HubTexts(id=str(repository), test="test", text=["title", "body"], label="stars", min_count=1)
    data.prepare_data()
    data.setup()
    assert data.spec["classes"] == ["1", "5"]
    assert len(data.splits["train"]) + len(data.splits["val"]) == 50
    assert len(data.splits["test"]) == 10
    assert data.read()["test"].texts[0] == "T\n\n" + reviews(60)[50][0]
    again = HubTexts(id=str(repository), test="test", text=["title", "body"], label="stars")
    assert data.provenance() == again.provenance()


def test_from_disk_it_is_the_same(repository, tmp_path, monkeypatch):
    monkeypatch.setenv("TOOLKIT_CACHE", str(tmp_path / "ours"))
    options = {"id": str(repository), "test": "test", "text": "body", "label": "stars", "min_count": 1}
    memory, disk = HubTexts(**options), HubTexts(**options, keep="disk")
    for data in (memory, disk):
        data.setup()
    assert memory.spec == disk.spec
    for name in memory.splits:
        assert memory.splits[name].sequences.flat.equal(disk.splits[name].sequences.flat)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"text": "bdy", "label": "stars"}, "no column 'bdy'. Did you mean 'body'"),
        ({"text": "body", "label": "stars", "train": "nowhere"}, "could not be had"),
        ({"text": "body", "label": "body"}, "cannot be both text and label"),
    ],
)
def test_what_is_not_there_is_told(repository, options, says):
    with pytest.raises(DataError, match=says):
        HubTexts(id=str(repository), **options).read()


def test_a_label_that_is_kept_secret_is_told():
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [-1, -1]})
    rows = rows.cast_column("label", datasets.ClassLabel(names=["neg", "pos"]))
    split = HubSplit("someone/something", "test")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HubSplit, "load", lambda self: rows)
        with pytest.raises(DataError, match=r"the label -1, which stands for one that is not told.*neg, pos"):
            list(split.parts())


def test_offline_asks_no_one(monkeypatch):
    datasets = pytest.importorskip("datasets")
    from huggingface_hub import constants

    seen = []
    before = datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE

    def load_dataset(*arguments, **options):
        seen.append((datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE))
        raise ConnectionError("no copy")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setenv("TOOLKIT_OFFLINE", "1")
    with pytest.raises(DataError, match="TOOLKIT_OFFLINE is set; ConnectionError: no copy"):
        HubTexts(id="someone/something").read()
    assert seen == [(True, True)]
    assert before == (datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE)
