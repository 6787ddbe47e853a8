"""Pairs of texts from files: what goes together, what is left out, and how steps are filled."""

from __future__ import annotations

import gzip
import json

import pytest
import torch
from pair_samples import SPEC, counted, encoded
from tokenizers import Tokenizer
from toolkit_text.data import multi30k
from toolkit_text.data.lines import read_lines
from toolkit_text.data.multi30k import Multi30k
from toolkit_text.data.pair_batch import NOTHING
from toolkit_text.data.parallel_files import ParallelFiles

from toolkit.errors import DataError, ToolkitWarning

PLAIN = {"tokenizer": "word", "min_count": 1}


def lines(path, texts, encoding="utf-8"):
    raw = "".join(f"{text}\n" for text in texts).encode(encoding)
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return str(path)


@pytest.fixture
def files(tmp_path):
    pairs = counted(120)
    return [lines(tmp_path / "some.en", pairs.source), lines(tmp_path / "some.de.gz", pairs.target)]


def test_two_files_go_together_line_by_line(files):
    data = ParallelFiles(train=files, **PLAIN)
    data.setup()
    pairs = counted(120)
    rows = torch.cat([each.rows for each in data.splits.values()])
    assert sorted(rows.tolist()) == list(range(120))
    reader = Tokenizer.from_str(data.spec["tokenizer"])
    for split in data.splits.values():
        batch = split.batch(torch.arange(len(split)))
        for place, row in enumerate(batch.row.tolist()):
            assert batch.reference[place] == pairs.target[row]
            length = batch.source_lengths[place]
            assert batch.source[place, length - 1] == data.spec["end"]
            assert reader.decode(batch.source[place, : length - 1].tolist()) == pairs.source[row]
    assert not {*pairs_of(data, "train")} & {*pairs_of(data, "test")}
    assert all(len(split) for split in data.splits.values())
    json.dumps(dict(data.spec))


def pairs_of(data, name):
    return [data.read()["train"].source[row] for row in data.splits[name].rows.tolist()]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_two_columns_of_a_table(tmp_path, suffix):
    import pandas as pd

    pairs = counted(60)
    table = pd.DataFrame({"english": pairs.source, "german": pairs.target, "other": 1})
    path = tmp_path / f"table{suffix}"
    if suffix == ".parquet":
        table.to_parquet(path)
    elif suffix == ".jsonl":
        table.to_json(path, orient="records", lines=True, force_ascii=False)
    else:
        table.to_csv(path, sep="," if suffix == ".csv" else "\t", index=False)
    data = ParallelFiles(train=str(path), source="english", target="german", **PLAIN)
    data.setup()
    assert data.spec["columns"] == ["english"]
    found = data.read()["train"]
    assert (found.source, found.target) == (pairs.source, pairs.target)
    with pytest.raises(DataError, match="no column 'englisch'"):
        ParallelFiles(train=str(path), source="englisch", target="german").setup()


def test_files_that_do_not_go_together(tmp_path, files):
    short = lines(tmp_path / "short.de", counted(119).target)
    with pytest.raises(DataError, match=r"some.en and .*short.de: the sources have 120 lines and the targets 119"):
        ParallelFiles(train=[files[0], short]).setup()
    with pytest.raises(DataError, match="3 files were given"):
        ParallelFiles(train=[*files, short])
    with pytest.raises(DataError, match=r"some.en ends in none of .csv"):
        ParallelFiles(train=files[0])
    with pytest.raises(DataError, match="there is no file"):
        ParallelFiles(train=[files[0], str(tmp_path / "none.de")]).setup()
    with pytest.raises(DataError, match="nothing is to be translated"):
        ParallelFiles(train=files, source="text", target="text")


def test_empty_sides_are_left_out_and_counted(tmp_path):
    pairs = counted(40)
    source = lines(tmp_path / "a.en", [*pairs.source[:20], "", "  ", *pairs.source[20:]])
    target = lines(tmp_path / "a.de", [*pairs.target[:20], "eins", "zwei", *pairs.target[20:39], "\t"])
    data = ParallelFiles(train=[source, target], **PLAIN)
    with pytest.warns(ToolkitWarning, match="3 of 42 pairs have an empty side"):
        found = data.read()["train"]
    assert found.rows == [*range(20), *range(22, 41)]
    nothing = lines(tmp_path / "b.en", ["", "x"]), lines(tmp_path / "b.de", ["x", ""])
    with pytest.raises(DataError, match="no pair with two texts among 2 lines"):
        ParallelFiles(train=[*nothing]).read()
    (tmp_path / "c.en").write_bytes(b"")
    with pytest.raises(DataError, match=r"c\.en is empty"):
        ParallelFiles(train=[str(tmp_path / "c.en"), target]).read()


def test_mixed_encodings_are_told_by_line(tmp_path):
    path = tmp_path / "mixed.de"
    path.write_bytes("fünf\nsechs\n".encode() + "fünf\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"mixed.de is not utf-8 throughout: line 3 has the byte 0xfc"):
        read_lines(path)
    assert read_lines(path, "latin-1")[2] == "fünf"
    with pytest.raises(DataError, match="unknown encoding"):
        read_lines(path, "utf-99")
    path.write_bytes(b"\xef\xbb\xbfeins\r\nzwei\xe2\x80\xa8drei\r\n")
    assert read_lines(path) == ["eins", "zwei\u2028drei"]
    broken = tmp_path / "broken.gz"
    broken.write_bytes(gzip.compress(b"eins\n" * 99)[:-20])
    with pytest.raises(DataError, match=r"broken\.gz cannot be read"):
        read_lines(broken)


def test_long_pairs_are_left_out_of_training_and_cut_in_tests(tmp_path):
    source = ["one two three four"] * 3 + ["one"] * 5
    target = ["eins"] * 5 + ["vier drei zwei eins"] * 3
    train = [lines(tmp_path / "a.en", source), lines(tmp_path / "a.de", target)]
    data = ParallelFiles(train=train, val=train, test=train, max_length=4, **PLAIN)
    with pytest.warns(ToolkitWarning, match="are in train too") as told:
        data.setup()
    texts = [str(each.message) for each in told if "longer" in str(each.message)]
    assert texts[0] == "6 of 8 pairs of train are longer than data.max_length=4 tokens and left out"
    assert texts[2].startswith("6 of 8 pairs of test are longer than data.max_length=4 tokens and cut off")
    assert data.splits["train"].rows.tolist() == [3, 4]
    batch = data.splits["test"].batch(torch.arange(8))
    assert batch.source.shape[1] == batch.target.shape[1] == 4
    assert batch.reference[7] == "vier drei zwei eins"
    long = [lines(tmp_path / "b.en", source[:3]), lines(tmp_path / "b.de", target[:3])]
    nothing = ParallelFiles(train=long, val=train, test=train, max_length=4, **PLAIN)
    with pytest.raises(DataError, match="all 3 training pairs are longer"), pytest.warns(ToolkitWarning, match="3 of"):
        nothing.setup()
    with pytest.raises(DataError, match="leaves no room"):
        ParallelFiles(train=train, max_length=1)


def test_a_split_without_pairs_is_told(files):
    with pytest.raises(DataError, match=r"'val' has no pairs: .*data.val_share"):
        ParallelFiles(train=files, val_share=0.0, **PLAIN).setup()
    with pytest.raises(DataError, match="leave nothing for training"):
        ParallelFiles(train=files, val_share=0.5, test_share=0.5)


def test_steps_hold_tokens_not_pairs_and_count_those_that_are_written(files):
    data = ParallelFiles(train=files, batch_tokens=40, **PLAIN)
    data.setup()
    seen = []
    for batch in data.train_dataloader():
        longest = max(batch.source.shape[1], batch.target.shape[1])
        assert len(batch.row) * longest <= 40
        assert batch.total == int(batch.written.sum()) == len(batch.tokens)
        seen += batch.row.tolist()
    assert sorted(seen) == sorted(data.splits["train"].rows.tolist())


def test_what_is_written_follows_what_was_written_before():
    pairs = encoded([(3, 4), (1, 2)])
    batch = pairs.batch(torch.tensor([0, 1]))
    for row, size in ((0, 4), (1, 2)):
        assert batch.previous[row, 0] == SPEC["begin"]
        assert torch.equal(batch.previous[row, 1 : size + 1], batch.target[row, :size])
        assert batch.target[row, size] == SPEC["end"]
        assert (batch.target[row, size + 1 :] == NOTHING).all()
    assert batch.written.sum(1).tolist() == [5, 3]
    nobody = pairs.batch(torch.arange(0), total=7)
    assert (len(nobody.row), len(nobody.target), len(nobody.tokens), nobody.total) == (0, 0, 0, 7)


@pytest.mark.parametrize("joint", [True, False])
def test_one_vocabulary_or_two(files, joint):
    data = ParallelFiles(train=files, joint=joint, **PLAIN)
    data.setup()
    assert data.spec["vocabulary"] == (16 if joint else 10)
    assert data.spec["target_vocabulary"] == (16 if joint else 10)
    assert (data.spec["target_tokenizer"] is None) == joint
    assert "eins" not in json.loads(data.spec["tokenizer"])["model"]["vocab"] or joint


def test_a_trained_run_keeps_its_tokenizers(files):
    trained = ParallelFiles(train=files, **PLAIN)
    trained.setup()
    for changed, told in (({"joint": False}, "data.joint=false"), ({"max_length": 200}, "at most")):
        other = ParallelFiles(train=files, **{**PLAIN, **changed})
        other.trained = dict(trained.spec)
        with pytest.raises(DataError, match=told):
            other.setup()


def test_multi30k_from_a_folder(tmp_path, monkeypatch):
    pairs = counted(60)
    from toolkit.files import sha256_of

    monkeypatch.setenv("TOOLKIT_OFFLINE", "1")
    monkeypatch.setenv("TOOLKIT_CACHE", str(tmp_path / "cache"))
    for split in ("train", "val", "test_2016_flickr"):
        for language, texts in (("en", pairs.source), ("de", pairs.target)):
            lines(tmp_path / f"{split}.{language}.gz", texts)
            digest = sha256_of(tmp_path / f"{split}.{language}.gz")
            monkeypatch.setitem(multi30k.SHA256, f"{split}.{language}", digest)
    for source, target in (("en", "de"), ("de", "en")):
        data = Multi30k(source=source, target=target, folder=str(tmp_path), **PLAIN)
        data.prepare_data()
        data.setup()
        found = data.read()["test"]
        assert (found.source, found.target)[:: 1 if source == "en" else -1] == (pairs.source, pairs.target)
        assert len(data.provenance()) == 6
    with pytest.raises(DataError, match="both 'de'"):
        Multi30k(source="de", target="de")
    assert len(multi30k.SHA256) == 12
