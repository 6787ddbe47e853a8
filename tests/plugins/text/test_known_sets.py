"""SST-2, AG News, TREC and IMDB from files laid out as they are published, and from a stand-in of the hub."""

import gzip
import json

import pytest
from text_samples import reviews
from toolkit_text.data.named import IMDB, SST2, TREC, AGNews

from toolkit.errors import DataError, ToolkitWarning

SENTENCES = [(text.replace("\n", " "), label) for text, label in reviews(40)]


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content.encode()) if path.suffix == ".gz" else content.encode())
    return path


def loaded(data):
    data.prepare_data()
    data.setup()
    return data


def polarity(rows, texts="text", labels="label", between="\t", header=False):
    lines = [f"{texts}{between}{labels}"] if header else []
    return "\n".join([*lines, *(f"{text}{between}{int(label == 'good')}" for text, label in rows)]) + "\n"


@pytest.mark.parametrize("header", [None, "text", "sentence"])
def test_sst2_is_read_with_or_without_names_of_columns(tmp_path, header):
    for name, rows in (("train", SENTENCES), ("dev", SENTENCES[:6]), ("test", SENTENCES[6:12])):
        put(tmp_path / f"{name}.tsv", polarity(rows, header or "", header=header is not None))
    rows = SST2(folder=str(tmp_path)).read()
    assert {name: len(texts) for name, texts in rows.items()} == {"train": 40, "val": 6, "test": 6}
    assert rows["val"].texts == [text for text, _ in SENTENCES[:6]]
    assert rows["train"].labels == ["positive" if label == "good" else "negative" for _, label in SENTENCES]


def test_a_quotation_mark_of_sst2_is_a_character(tmp_path):
    put(tmp_path / "train.tsv", 'fine\t1\n" open\t0\n' + polarity(SENTENCES))
    assert SST2(folder=str(tmp_path)).read()["train"].texts[1] == '" open'


def test_ag_news_is_read_as_published_and_as_text_and_label(tmp_path):
    published = "".join(f'"{1 + k % 4}","Title {k}","About, say, {k}"\n' for k in range(40))
    short = "".join(f"Title {k} and more,{k % 4}\n" for k in range(60))
    put(tmp_path / "test.csv.gz", published)
    put(tmp_path / "train_subset.csv.gz", short)
    with pytest.raises(DataError, match=r"no file of AG News whose name begins with train.*data.train=FILE"):
        AGNews(folder=str(tmp_path)).read()
    data = loaded(AGNews(folder=str(tmp_path), train="train_subset.csv.gz", min_count=1))
    assert data.spec["classes"] == ["Business", "Sci/Tech", "Sports", "World"]
    rows = data.read()
    assert (rows["test"].texts[1], rows["test"].labels[:5]) == (
        "Title 1\n\nAbout, say, 1",
        ["World", "Sports", "Business", "Sci/Tech", "World"],
    )
    assert rows["train"].labels[:5] == ["World", "Sports", "Business", "Sci/Tech", "World"]
    assert sorted(set(data.splits["val"].target.tolist())) == [0, 1, 2, 3]  # one of each class at least
    assert len(data.splits["train"]) + len(data.splits["val"]) == 60


def test_ag_news_in_other_files(tmp_path):
    put(tmp_path / "a" / "train.jsonl", "".join(json.dumps({"text": "a", "label": k % 4}) + "\n" for k in range(8)))
    assert AGNews(folder=str(tmp_path / "a")).read()["train"].labels[:4] == ["World", "Sports", "Business", "Sci/Tech"]
    with_names = put(tmp_path / "b.csv", "label,text\nSports,He ran\n1,She won\n")
    assert AGNews(train=str(with_names)).read()["train"].labels == ["Sports", "Sports"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("7,a,b\n", "row 0 has the label '7', which is none of '1', '2', '3', '4'"),
        (
            "1,a,b,c\n",
            "not laid out as AG News is: it has the columns 1, a, b, c, not class, title, description or text",
        ),
        ("", "is empty"),
    ],
)
def test_files_of_something_else_are_refused(tmp_path, content, says):
    with pytest.raises(DataError, match=says):
        AGNews(train=str(put(tmp_path / "train.csv", content))).read()


def test_two_files_of_one_name_are_not_guessed_and_shards_are_joined(tmp_path):
    put(tmp_path / "train.tsv", polarity(SENTENCES))
    put(tmp_path / "train.jsonl", '{"text": "a", "label": 1}\n')
    with pytest.raises(DataError, match=r"several files for train: train.jsonl, train.tsv. Say which with data.train"):
        SST2(folder=str(tmp_path)).read()
    for shard in range(2):
        rows = "".join(json.dumps({"text": f"a {k}", "label": k % 2}) + "\n" for k in range(shard * 3, shard * 3 + 3))
        put(tmp_path / "data" / f"train-0000{shard}-of-00002.jsonl", rows)
    found = SST2(folder=str(tmp_path / "data")).read()["train"]
    assert (found.texts, found.rows) == ([f"a {k}" for k in range(6)], list(range(6)))
    with pytest.raises(DataError, match=r"data.val names a file, so data.train or data.folder must name one too"):
        SST2(val="dev.tsv").setup()
    with pytest.raises(DataError, match="there is no folder"):
        SST2(folder=str(tmp_path / "nowhere")).read()


def test_trec_as_published(tmp_path):
    lines = ["LOC:city What is the capital of Perú ?", "HUM:ind Who wrote Dubliners ?", "NUM:date When is noon ?"]
    (tmp_path / "train_5500.label").write_bytes("\n".join(lines * 4).encode("latin-1"))
    (tmp_path / "TREC_10.label").write_bytes("\n".join(lines).encode("latin-1"))
    found = TREC(folder=str(tmp_path)).read()
    assert found["test"].texts[0] == "What is the capital of Perú ?"
    assert found["test"].labels == ["location", "human", "number"]
    assert len(found["train"]) == 12
    assert TREC(folder=str(tmp_path), fine=True).read()["test"].labels == ["LOC:city", "HUM:ind", "NUM:date"]
    (tmp_path / "TREC_10.label").write_bytes(b"LOC:city Where is \x85 ?\nHUM:ind Who ?\n")  # a line end, to splitlines
    assert TREC(folder=str(tmp_path)).read()["test"].texts == ["Where is \x85 ?", "Who ?"]
    put(tmp_path / "TREC_10.label", "LOC:city Where ?\nno class\n")
    with pytest.raises(DataError, match="line 2 is not a class and a question"):
        TREC(folder=str(tmp_path)).read()


def test_imdb_as_published_and_as_a_table(tmp_path):
    for split in ("train", "test"):
        for number, (text, label) in enumerate(SENTENCES):
            kind = "pos" if label == "good" else "neg"
            put(tmp_path / split / kind / f"{number}_9.txt", text + "<br /><br />The end.")
    data = loaded(IMDB(folder=str(tmp_path), min_count=1))
    assert data.spec["classes"] == ["negative", "positive"]
    assert len(data.splits["test"]) == 40
    assert all(text.endswith("\n\nThe end.") for text in data.read()["train"].texts)
    put(tmp_path / "test" / "pos" / "99_9.txt", " ")
    with pytest.warns(ToolkitWarning, match="test: 1 of 41 rows are left out: 1 without text"):
        assert len(IMDB(folder=str(tmp_path)).read()["test"]) == 40
    (tmp_path / "test" / "pos" / "99_9.txt").write_bytes(b"caf\xe9")
    with pytest.raises(DataError, match=r"99_9.txt is not utf-8 throughout: .*Name its encoding: data.encoding"):
        IMDB(folder=str(tmp_path)).read()
    table = put(tmp_path / "all.csv", "review,sentiment\nGood,positive\nBad,negative\n")
    assert IMDB(train=str(table)).read()["train"].labels == ["positive", "negative"]


# The hub ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch):
    """A hub with stand-ins for the four sets: the columns and class names that theirs have. Returns what was asked."""
    datasets = pytest.importorskip("datasets")
    words = [text for text, _ in SENTENCES]

    def classes(column, names):
        rows = {"text": words, column: [k % len(names) for k in range(len(words))]}
        return datasets.Dataset.from_dict(rows).cast_column(column, datasets.ClassLabel(names=names))

    numbers = {"text": words, "label": [k % 2 for k in range(40)], "label_text": ["no"] * 40}
    sets = {
        "SetFit/sst2": datasets.Dataset.from_dict(numbers),
        "fancyzhx/ag_news": classes("label", ["World", "Sports", "Business", "Sci/Tech"]),
        "CogComp/trec": classes("coarse_label", ["ABBR", "ENTY", "DESC", "HUM", "LOC", "NUM"]),
        "stanfordnlp/imdb": classes("label", ["neg", "pos"]),
    }
    asked = []

    def load_dataset(id, config=None, *, split, revision=None):
        asked.append((id, split, revision))
        return sets[id]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


@pytest.mark.parametrize(
    ("kind", "id", "splits", "classes"),
    [
        (SST2, "SetFit/sst2", ["train", "validation", "test"], ["negative", "positive"]),
        (AGNews, "fancyzhx/ag_news", ["train", "test"], ["Business", "Sci/Tech", "Sports", "World"]),
        (
            TREC,
            "CogComp/trec",
            ["train", "test"],
            ["abbreviation", "description", "entity", "human", "location", "number"],
        ),
        (IMDB, "stanfordnlp/imdb", ["train", "test"], ["negative", "positive"]),
    ],
)
def test_without_files_a_set_comes_from_the_hub_with_its_classes_by_name(hub, kind, id, splits, classes):
    data = kind(min_count=1)
    data.prepare_data()
    assert [(name, split) for name, split, _ in hub] == [(id, split) for split in splits]
    assert {revision for _, _, revision in hub} == {"refs/convert/parquet" if kind is TREC else None}
    with pytest.warns(match="texts of test are in train too"):  # the stand-in has the same rows in all
        data.setup()
    assert data.spec["classes"] == classes
    sums = data.provenance()
    assert len(sums) == len(splits)
    assert all(len(sha256) == 64 for sha256 in sums.values())


def test_a_run_that_the_hub_trained_is_measured_on_a_file(hub, tmp_path):
    data = SST2(min_count=1)
    with pytest.warns(match="texts of test are in train too"):
        data.setup()
    hub.clear()
    follows = SST2(test=str(put(tmp_path / "own.tsv", polarity(SENTENCES[:6]))), min_count=1)
    follows.trained = data.spec
    follows.setup()
    assert sum(len(batch.row) for batch in follows.test_dataloader()) == 6
    with pytest.raises(DataError, match=r"there is no file for the split 'val': name one with data.val=FILE"):
        follows.val_dataloader()
    assert hub == []
