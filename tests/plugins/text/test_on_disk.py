"""Texts that do not fit in memory: read part by part, mapped from the cache, the same as from memory."""

import pickle
import warnings

import numpy as np
import pytest
import torch
from text_samples import as_json_lines, reviews
from toolkit_text.data import files, on_disk
from toolkit_text.data.files import TextFiles
from toolkit_text.data.named import SST2, TREC, AGNews
from toolkit_text.data.survey import Survey
from toolkit_text.data.table import Written, read_parts
from toolkit_text.data.texts import Texts, joined

from toolkit.errors import DataError, ToolkitWarning


@pytest.fixture(autouse=True)
def _parts(monkeypatch, tmp_path):
    monkeypatch.setattr(files, "PART", 7)
    monkeypatch.setenv("TOOLKIT_CACHE", str(tmp_path / "cache"))


def data_of(path, **options):
    made = TextFiles(train=str(path), **{"min_count": 1, "batch_size": 8, **options})
    made.prepare_data()
    made.setup()
    return made


@pytest.fixture
def lines(tmp_path):
    rows = [{"text": text + " café 日本 ☕", "label": label} for text, label in reviews(100)] * 2
    return as_json_lines(tmp_path / "a.jsonl", rows)


@pytest.mark.parametrize(
    "options", [{}, {"max_length": 9, "too_long": "slide"}, {"tokenizer": "bpe", "vocabulary": 300}]
)
def test_splits_tokens_and_batches_are_those_of_memory(lines, options):
    memory, disk = data_of(lines, **options), data_of(lines, keep="disk", **options)
    assert memory.spec == disk.spec
    for name, split in memory.splits.items():
        other = disk.splits[name]
        for field in ("first", "rows", "target"):
            assert getattr(split, field).equal(getattr(other, field))
    torch.manual_seed(0)
    ours = list(memory.train_dataloader())
    torch.manual_seed(0)
    for one, other in zip(ours, disk.train_dataloader(), strict=True):
        assert one.tokens.equal(other.tokens)
        assert one.row.equal(other.row)


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_every_kind_of_file_is_read_in_parts(tmp_path, suffix):
    import pandas as pd

    frame = pd.DataFrame(
        {"text": [f"ünï {k}" if k % 9 else "" for k in range(40)], "label": [k % 3 for k in range(40)]}
    )
    path = tmp_path / f"a.{suffix}"
    if suffix == "parquet":
        frame.to_parquet(path)
    elif suffix == "jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_csv(path, index=False, sep="\t" if suffix == "tsv" else ",")
    with pytest.warns(ToolkitWarning, match="5 of 40 rows are left out: 5 without text"):
        parts = list(read_parts(path, ["text"], "label", Written(), 7))
    assert len(parts) == 6
    assert max(map(len, parts)) <= 7
    with pytest.warns(ToolkitWarning):
        (whole,) = read_parts(path, ["text"], "label", Written())
    assert joined(parts) == whole


def test_a_second_run_reads_nothing(lines, monkeypatch):
    first = data_of(lines, keep="disk")

    def never(*arguments, **options):
        raise AssertionError("read again")

    monkeypatch.setattr(files, "read_parts", never)
    second = data_of(lines, keep="disk")
    assert second.spec == first.spec
    assert second.splits["val"].rows.equal(first.splits["val"].rows)
    with pytest.raises(AssertionError, match="read again"):
        data_of(lines, keep="disk", max_length=20)


def test_what_was_not_finished_is_made_again(lines, tmp_path):
    first = data_of(lines, keep="disk")
    (flat,) = (tmp_path / "cache").rglob("train/flat.bin")
    expected = first.splits["train"].sequences.flat.clone()
    flat.write_bytes(flat.read_bytes()[:-4])
    assert data_of(lines, keep="disk").splits["train"].sequences.flat.equal(expected)


def test_nothing_is_held_but_one_part_at_a_time(lines, monkeypatch):
    held = []
    encode = on_disk.MappedWriter.add

    def add(self, found, rows, target):
        held.append(len(rows))
        return encode(self, found, rows, target)

    monkeypatch.setattr(on_disk.MappedWriter, "add", add)
    data_of(lines, keep="disk")
    assert sum(held) == 200
    assert max(held) <= 7


def test_a_tokenizer_is_learned_from_a_bounded_sample(lines):
    small = data_of(lines, keep="disk", learn_from=400)
    whole = data_of(lines, keep="disk")
    assert 2 < small.spec["vocabulary"] < whole.spec["vocabulary"]


def test_a_sample_does_not_depend_on_the_parts():
    texts = [text for text, _ in reviews(200)]
    found = []
    for size in (1, 7, 200):
        survey = Survey(0, 1000)
        for first in range(0, 200, size):
            part = texts[first : first + size]
            survey.add(Texts(part, ["a"] * len(part), list(range(len(part)))))
        found.append(survey.sample(np.arange(200)))
    assert found[0] == found[1] == found[2]
    assert 0 < sum(map(len, found[0])) <= 1000


def test_two_processes_and_workers_share_without_overlap_or_loss(lines):
    data = data_of(lines, keep="disk")
    seen = []
    for rank in range(2):
        data.share = lambda rank=rank: (rank, 2)
        data.workers = rank  # batches made ahead, or not
        seen += [row for batch in data.train_dataloader() for row in batch.row.tolist()]
    assert sorted(seen) == sorted(data.splits["train"].rows.tolist())


def test_training_goes_on_in_the_middle_of_an_epoch(lines):
    data = data_of(lines, keep="disk")
    loader = data.train_dataloader()
    torch.manual_seed(5)
    rows = [batch.row.tolist() for batch in loader]
    again = data_of(lines, keep="disk").train_dataloader()
    again.load_state_dict({"epoch": 0, "position": 3})
    assert [batch.row.tolist() for batch in again] == rows[3:]


def test_classes_may_be_given_and_other_labels_are_told(lines):
    assert data_of(lines, keep="disk", classes=["good", "bad"]).spec["classes"] == ["good", "bad"]
    for keep in ("memory", "disk"):
        with pytest.raises(DataError, match=r"train has labels that data.classes does not: 'good'"):
            data_of(lines, keep=keep, classes=["bad", "ugly"])


def test_one_class_and_strange_labels_of_given_files_are_told(tmp_path, lines):
    alone = as_json_lines(tmp_path / "b.jsonl", [{"text": f"good {k}", "label": "good"} for k in range(60)])
    with pytest.raises(DataError, match=r"all \d+ training texts have the label 'good'"):
        data_of(alone, keep="disk")
    strange = as_json_lines(tmp_path / "c.jsonl", [{"text": "hm", "label": "neutral"}])
    with pytest.raises(DataError, match="test has labels that training did not: 'neutral'"):
        data_of(lines, keep="disk", test=str(strange))


def test_a_trained_run_maps_the_file_it_is_given(tmp_path, lines):
    data = data_of(lines, keep="disk")
    other = as_json_lines(tmp_path / "d.jsonl", [{"text": text, "label": label} for text, label in reviews(20)])
    follows = TextFiles(train=str(tmp_path / "gone.jsonl"), test=str(other), min_count=1, keep="disk")
    follows.trained = data.spec
    follows.setup()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert sum(len(batch.row) for batch in follows.test_dataloader()) == 20


def test_parts_without_any_text_are_passed_over(tmp_path):
    rows = [{"text": text, "label": label} for text, label in reviews(60)]
    path = as_json_lines(tmp_path / "e.jsonl", rows[:30] + [{"text": "", "label": "bad"}] * 20 + rows[30:])
    with pytest.warns(ToolkitWarning, match="20 of 80 rows are left out") as told:
        disk = data_of(path, keep="disk")
    assert sum("left out" in str(each.message) for each in told) == 1  # it is read twice, and told of once
    assert sum(len(split.rows) for split in disk.splits.values()) == 60


def test_files_are_read_twice_and_no_more(lines, monkeypatch):
    passes = []
    read = files.read_parts

    def counted(*arguments, **options):
        passes.append(arguments[0])
        return read(*arguments, **options)

    monkeypatch.setattr(files, "read_parts", counted)
    data_of(lines, keep="disk")
    assert len(passes) == 2


def test_what_labels_mean_is_part_of_what_is_kept(tmp_path):
    """The same files hold other classes for other options, and for another data set."""
    kinds = {"HUM:ind": "HUM", "LOC:city": "LOC", "NUM:date": "NUM"}
    rows = [
        {"text": f"what {k}", "fine_label": fine, "coarse_label": coarse}
        for k, (fine, coarse) in enumerate(list(kinds.items()) * 30)
    ]
    as_json_lines(tmp_path / "train.jsonl", rows)
    found = {}
    for fine in (False, True):
        data = TREC(folder=str(tmp_path), fine=fine, min_count=1, keep="disk")
        data.setup()
        found[fine] = data.spec["classes"]
    assert found == {False: ["human", "location", "number"], True: list(kinds)}
    numbers = as_json_lines(tmp_path / "n.jsonl", [{"text": f"text {k}", "label": k % 2} for k in range(60)])
    classes = []
    for kind in (SST2, AGNews):
        data = kind(train=str(numbers), min_count=1, keep="disk")
        data.setup()
        classes.append(data.spec["classes"])
    assert classes == [["negative", "positive"], ["Sports", "World"]]


def test_a_worker_that_is_spawned_maps_the_files_itself(lines):
    split = data_of(lines, keep="disk").splits["train"]
    sent = pickle.dumps(split.batch)  # what a loader's worker is sent where processes are not forked
    assert len(sent) < 2000 < split.sequences.flat.nbytes
    items = torch.tensor([3, 5])
    assert pickle.loads(sent)(items).tokens.equal(split.batch(items).tokens)
