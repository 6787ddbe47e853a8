import warnings

import pytest
import torch
from story_samples import ROOMS, babi_folder
from toolkit_text.data.babi import BAbI, read_file
from toolkit_text.data.questions import split_off

from toolkit.errors import DataError, SourceError, ToolkitWarning


def made(folder, **options):
    data = BAbI(folder=str(folder), tasks=[1, 19], **options)
    data.setup()
    return data


def written(tmp_path, text):
    path = tmp_path / "qa1_one_train.txt"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_is_read_line_by_line(tmp_path):
    path = written(
        tmp_path,
        "1 Ugo went home.\n2 Where is Ugo? \thome\t1\n3 Vera took the box.\n4 What do they hold?\tbox,hat\t3 1\n"
        "1 Wim slept.\n2 Who slept?\twim\t1\n",
    )
    one, two, three = read_file(path, "qa1")
    assert one == (("Ugo went home.",), "Where is Ugo?", "home", (0,), "qa1", 1)
    assert two == (("Ugo went home.", "Vera took the box."), "What do they hold?", "box,hat", (1, 0), "qa1", 1)
    assert three == (("Wim slept.",), "Who slept?", "wim", (0,), "qa1", 2)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("1 Ugo left.\nUgo slept.\n", "line 2: 'Ugo slept.' does not begin with a number"),
        ("1 Ugo left.\n2 \n", "line 2: '2 ' does not begin with a number and a sentence"),
        ("1 Ugo left.\n\n2 Ugo slept.\n", "line 2: '' does not begin"),
        ("1 Ugo left.\n3 Ugo slept.\n", "line 2 has the number 3, but 2 or 1 was to come"),
        ("2 Ugo left.\n", "line 1 has the number 2, but 1 or 1"),
        ("1 Ugo left.\n2 Who?\tugo\n", "line 2: a question has an answer and supporting lines"),
        ("1 Ugo left.\n2 Who?\t\t1\n", "line 2: a question has an answer and supporting lines"),
        ("1 Ugo left.\n2 Who?\tugo\t2\n", "line 2: the supporting line '2' is no sentence"),
        ("1 Ugo left.\n2 Who?\tugo\tx\n", "line 2: the supporting line 'x'"),
        ("1 Ugo left.\n2 Who?\tugo\t1\n1 Wim left.\n2 Who?\tu\t1 3\n", "line 4: the supporting line '3'"),
        ("1 Ugo left.\n", "holds no question"),
        ("", "holds no question"),
    ],
)
def test_a_mistake_is_told_with_its_line(text, what, tmp_path):
    with pytest.raises(DataError, match=what):
        read_file(written(tmp_path, text), "qa1")


def test_bytes_that_are_no_text_or_no_archive_are_told(tmp_path):
    path = tmp_path / "qa1_one_train.txt"
    path.write_bytes(b"1 \xff\xfe\n")
    with pytest.raises(DataError, match="cannot be read"):
        read_file(path, "qa1")
    packed = tmp_path / "qa1_one_train.txt.gz"
    packed.write_bytes(b"no archive")
    with pytest.raises(DataError, match="cannot be read"):
        read_file(packed, "qa1")


@pytest.mark.parametrize("packed", [False, True])
def test_splits_classes_and_words(packed, tmp_path):
    data = made(babi_folder(tmp_path, packed=packed))
    spec = data.spec
    assert spec["tasks"] == ["qa1", "qa19"]
    assert set(ROOMS) < set(spec["classes"])
    assert {"s,n", "e,w"} < set(spec["classes"])  # an answer of two words is one class
    assert set(spec["words"]) >= {"ugo", "cellar", "where", "go"}
    assert not {"ugo.", "Ugo", "n,s"} & set(spec["words"])
    counts = {name: len(found) for name, found in data.splits.items()}
    assert counts == {"train": 36 * 2 + 36, "val": 4 * 2 + 4, "test": 16 * 2 + 16}
    assert len(data.provenance()) == 4
    assert all(len(digest) == 64 for digest in data.provenance().values())


def test_the_folder_of_a_variant_may_be_named_itself(tmp_path):
    whole, inner = made(babi_folder(tmp_path)), made(tmp_path / "en-10k")
    assert whole.spec == inner.spec


def test_validation_has_whole_stories_and_follows_the_seed(tmp_path):
    babi_folder(tmp_path)
    first, again, other = (made(tmp_path, split_seed=seed).texts for seed in (0, 0, 1))
    assert first == again
    assert first["val"] != other["val"]
    assert first["test"] == other["test"]
    stories = {name: {(each.task, each.story) for each in first[name]} for name in ("train", "val")}
    assert not stories["train"] & stories["val"]
    assert len([each for each in first["val"] if each.task == "qa1"]) == 2 * len(
        {each.story for each in first["val"] if each.task == "qa1"}
    )


def test_a_share_of_no_story_leaves_a_split_empty_which_is_told(tmp_path):
    babi_folder(tmp_path)
    rest, share = split_off(made(tmp_path).texts["train"], 0.0, 0)
    assert (len(rest), len(share)) == (36 * 2 + 36, 0)
    with pytest.raises(DataError, match="'val' has no questions"):
        made(tmp_path, val_share=0.0)


def test_tasks_that_are_not_there_are_counted_or_refused(tmp_path):
    babi_folder(tmp_path)
    (tmp_path / "en-10k" / "qa3_three-supporting-facts_test.txt").write_text("1 a\n2 b?\tc\t1\n")
    data = BAbI(folder=str(tmp_path))
    with pytest.warns(ToolkitWarning, match=r"lacks files of 18 of 20 tasks, .*task 3 \(train\), task 4 \(train and"):
        data.setup()
    assert data.spec["tasks"] == ["qa1", "qa19"]
    with pytest.raises(SourceError, match=r"lacks files of 1 of 2 tasks: task 3 \(train\)\. Get tasks_1-20"):
        BAbI(folder=str(tmp_path), tasks=[1, 3]).setup()


@pytest.mark.parametrize("folder", [None, "nowhere"])
def test_without_files_it_is_said_where_to_get_and_put_them(folder, tmp_path):
    where = None if folder is None else str(tmp_path / folder)
    with pytest.raises(SourceError, match=r"data\.folder=PLACE, where PLACE/en-10k/qa1_single-supporting-fact_train"):
        BAbI(folder=where).setup()


def test_an_empty_folder_of_a_variant_is_no_set(tmp_path):
    (tmp_path / "en-10k").mkdir()
    with pytest.raises(SourceError, match="lacks files of 20 of 20 tasks"):
        BAbI(folder=str(tmp_path)).setup()


@pytest.mark.parametrize("tasks", [[0], [21], []])
def test_tasks_are_numbered_from_1_to_20(tasks):
    with pytest.raises(DataError, match=r"data\.tasks"):
        BAbI(tasks=tasks)


def test_answers_that_training_never_gives_are_counted(tmp_path):
    babi_folder(tmp_path, train=12, test=16)  # some ways of the test stories are new
    train, test = (
        {each.answer for part, asked in made(tmp_path, val_share=0.2).texts.items() if part in kind for each in asked}
        for kind in (("train",), ("test",))
    )
    unseen = len([1 for each in made(tmp_path, val_share=0.2).texts["test"] if each.answer not in train])
    assert test - train
    with pytest.warns(ToolkitWarning, match=f"{unseen} of 48 questions of test have an answer that no training"):
        data = made(tmp_path, val_share=0.2)
    assert test <= set(data.spec["classes"])


def test_longer_stories_than_the_memory_are_cut_and_counted(tmp_path):
    babi_folder(tmp_path)
    with pytest.warns(ToolkitWarning, match="72 of 108 questions of train are about more than data.memory=3"):
        data = made(tmp_path, memory=3)
    found = data.splits["train"].batch(torch.arange(108))
    assert found.memory.shape[1] == 3
    texts = data.texts["train"]
    long = [place for place, each in enumerate(texts) if len(each.sentences) == 4]
    for place in long:
        supported = [told in texts[place].support for told in (1, 2, 3)]
        assert found.support[place].tolist() == supported


def test_a_trained_run_keeps_its_words_and_classes(tmp_path):
    spec = made(babi_folder(tmp_path)).spec
    other = BAbI(folder=str(tmp_path), tasks=[1])
    other.trained = spec
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        other.setup()
    assert other.spec == spec
    strange = BAbI(folder=str(tmp_path), tasks=[19])
    strange.trained = {**spec, "classes": [each for each in spec["classes"] if each != "n,n"]}
    with pytest.raises(DataError, match="has the answer 'n,n', which training did not"):
        strange.setup()
