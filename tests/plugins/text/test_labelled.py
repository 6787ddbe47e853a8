import numpy as np
import pytest
import torch
from text_samples import as_json_lines, reviews
from tokenizers import Tokenizer, models, processors
from toolkit_text.data.files import TextFiles
from toolkit_text.data.splits import assign, draws
from toolkit_text.data.tokens import encode, train_tokenizer

from toolkit.errors import DataError, ToolkitWarning


def read(path, **options):
    data = TextFiles(train=str(path), **{"min_count": 1, "batch_size": 8, **options})
    data.prepare_data()
    data.setup()
    return data


def seen(loader):
    return [(batch, row) for batch in loader for row in batch.row.tolist()]


# Splits -------------------------------------------------------------------------------------------------------------


def test_each_row_lies_in_one_split_and_equal_texts_in_the_same(tmp_path):
    rows = [{"text": text, "label": label} for text, label in reviews(100)] * 3
    data = read(as_json_lines(tmp_path / "a.jsonl", rows), val_share=0.2, test_share=0.2)
    parts = {name: set(split.rows.tolist()) for name, split in data.splits.items()}
    assert set().union(*parts.values()) == set(range(300))
    assert sum(map(len, parts.values())) == 300
    for members in parts.values():
        assert {row % 100 for row in members} == {row % 100 for row in members if row < 100}
    assert 20 < len(parts["val"]) < 120


def test_split_seed_moves_the_split_and_given_files_are_kept(table, tmp_path):
    one, other = read(table), read(table, split_seed=1)
    assert one.splits["test"].rows.tolist() == read(table).splits["test"].rows.tolist()
    assert one.splits["test"].rows.tolist() != other.splits["test"].rows.tolist()
    given = as_json_lines(tmp_path / "test.jsonl", [{"text": "awful", "label": "bad"}])
    assert read(table, test=str(given)).splits["test"].rows.tolist() == [0]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"val_share": 0.6, "test_share": 0.5}, "leave nothing for training"),
        ({"val_share": 0.0}, "split 'val' has no rows"),
        ({"classes": ["good"]}, r"data.classes=\['good'\]: name two classes or more, each of them once"),
        ({"classes": ["good", "bad", "bad"]}, "name two classes or more, each of them once"),
        ({"label": "labl"}, "Did you mean 'label'"),
        ({"tokenizer": "wrd"}, "neither word, bpe, minilm, nor a folder"),
    ],
)
def test_options_that_cannot_work_say_what_would(table, options, says):
    with pytest.raises(DataError, match=says):
        read(table, **options)


def test_one_class_is_no_choice_and_a_strange_label_is_named(tmp_path, table):
    alone = as_json_lines(tmp_path / "a.jsonl", [{"text": f"good {k}", "label": "good"} for k in range(60)])
    with pytest.raises(DataError, match=r"all \d+ training texts have the label 'good'"):
        read(alone)
    strange = as_json_lines(tmp_path / "b.jsonl", [{"text": "hm", "label": "neutral"}])
    with pytest.raises(DataError, match=r"val has labels that training did not: 'neutral'; it had 'bad', 'good'"):
        read(table, val=str(strange))


def test_classes_that_are_numbers_are_in_their_order(tmp_path):
    rows = [{"text": f"text {k}", "label": 1 + k % 11} for k in range(400)]
    assert read(as_json_lines(tmp_path / "a.jsonl", rows)).spec["classes"] == [str(k) for k in range(1, 12)]


def test_labels_called_nan_do_not_shuffle_the_classes(tmp_path):
    labels = ("nan", "2", "x", "-1", "NaN", "10", "inf")
    rows = [{"text": f"text {k}", "label": labels[k % 7]} for k in range(400)]
    classes = ["-1", "2", "10", "inf", "NaN", "nan", "x"]
    assert read(as_json_lines(tmp_path / "a.jsonl", rows)).spec["classes"] == classes


def test_texts_of_training_that_are_measured_on_are_told(table, tmp_path):
    same = as_json_lines(tmp_path / "a.jsonl", [{"text": text, "label": label} for text, label in reviews(60)])
    with pytest.warns(ToolkitWarning, match=r"\d+ of 60 texts of test are in train too"):
        read(table, test=str(same))


def test_each_class_is_shared_out_by_itself(tmp_path):
    rows = [{"text": f"text {k}", "label": "often"} for k in range(200)]
    rows += [{"text": f"rare {k}", "label": "rare"} for k in range(3)] + [{"text": "one", "label": "once"}] * 2
    for seed in range(5):
        data = read(as_json_lines(tmp_path / "a.jsonl", rows), split_seed=seed)
        counts = {name: [data.spec["classes"][k] for k in split.target.tolist()] for name, split in data.splits.items()}
        assert all(8 < counts[name].count("often") < 35 for name in ("val", "test"))
        assert [counts[name].count("rare") for name in ("train", "val", "test")] == [1, 1, 1]
        assert [counts[name].count("once") for name in ("train", "val", "test")] == [2, 0, 0]


def test_of_thousands_of_classes_each_is_in_all_splits():
    drawn = draws([f"text {k}" for k in range(9000)], 0)
    classes = np.arange(9000) % 3000  # three texts each
    found = assign(drawn, classes, {"val": 0.1, "test": 0.1})
    assert all(sorted(classes[places].tolist()) == list(range(3000)) for places in found.values())


def test_a_text_stays_in_its_split_when_others_come(tmp_path):
    def splits(count):
        rows = [{"text": f"text {k}", "label": "ab"[k % 2]} for k in range(count)]
        return {
            name: set(split.rows.tolist())
            for name, split in read(as_json_lines(tmp_path / "a.jsonl", rows)).splits.items()
        }

    few, many = splits(200), splits(400)
    assert all(few[name] <= many[name] for name in few)


def test_texts_with_two_labels_stay_together(tmp_path):
    rows = [{"text": f"text {k % 50}", "label": "a" if k < 50 else "b"} for k in range(100)]
    rows += [{"text": f"other {k}", "label": "b"} for k in range(50)]
    data = read(as_json_lines(tmp_path / "a.jsonl", rows))
    for split in data.splits.values():
        own = {row % 50 for row in split.rows.tolist() if row < 100}
        assert sum(row < 100 for row in split.rows.tolist()) == 2 * len(own)


def test_files_without_a_header_have_their_columns_named(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text("".join(f'{label}\t"{text}\n' for text, label in reviews(40)), encoding="utf-8")
    data = read(path, header=["label", "text"], quotes=False)
    assert data.read()["train"].texts[0] == '"' + reviews(1)[0][0]
    assert data.spec["classes"] == ["bad", "good"]
    with pytest.raises(DataError, match=r"has 2 columns, but data.header names 3: a, b, c"):
        read(path, header=["a", "b", "c"], quotes=False)
    lines = as_json_lines(tmp_path / "a.jsonl", [{"text": "a", "label": "b"}])
    with pytest.raises(DataError, match=r"data.header names the columns of .csv and .tsv files"):
        read(lines, header=["text", "label"])


def test_several_files_are_one_split(tmp_path):
    rows = [{"text": text, "label": label} for text, label in reviews(90)]
    parts = [str(as_json_lines(tmp_path / f"{k}.jsonl", rows[k : k + 30])) for k in (0, 30, 60)]
    data = TextFiles(train=parts, min_count=1)
    assert data.read()["train"].texts == [row["text"] for row in rows]
    assert data.read()["train"].rows == list(range(90))
    assert list(data.provenance()) == parts
    with pytest.raises(DataError, match=r"data.train is an empty list"):
        TextFiles(train=[])


def test_a_tokenizer_file_is_used_as_it_is(table, tmp_path):
    made = train_tokenizer([text for text, _ in reviews()], kind="bpe", vocabulary=300)
    made.save(str(tmp_path / "tokenizer.json"))
    data = read(table, tokenizer=str(tmp_path / "tokenizer.json"))
    assert data.spec["tokenizer"] == made.to_str()
    assert data.spec["encoder"] is None
    Tokenizer(models.WordLevel({"a": 0}, unk_token="a")).save(str(tmp_path / "bare.json"))
    for name, says in (("bare.json", "has no token"), ("none.json", "there is no file")):
        with pytest.raises(DataError, match=says):
            read(table, tokenizer=str(tmp_path / name))
    (tmp_path / "no.json").write_text("{}")
    with pytest.raises(DataError, match="is no tokenizer of the library tokenizers"):
        read(table, tokenizer=str(tmp_path / "no.json"))


@pytest.mark.parametrize("too_long", ["truncate", "slide"])
def test_steps_hold_no_more_places_than_they_may(tmp_path, too_long):
    rows = [{"text": "word " * (k % 40) + text, "label": label} for k, (text, label) in enumerate(reviews(200))]
    path = as_json_lines(tmp_path / "a.jsonl", rows)
    data = read(path, max_length=24, too_long=too_long, batch_tokens=120, batch_size=64, train_windows=4)
    sizes = [batch.tokens.numel() for batch in data.train_dataloader()]
    assert max(sizes) <= 120
    assert sum(len(batch.row) for batch in data.train_dataloader()) == len(data.splits["train"])


# Tokens -------------------------------------------------------------------------------------------------------------


def test_words_and_marks_are_tokens_whatever_the_language():
    made = train_tokenizer(["It's a café, naïve? Ja! 日本"], kind="word", vocabulary=99, min_count=1)
    assert made.encode("IT'S a café?").tokens == ["it's", "a", "café", "?"]
    assert made.encode("unheard").tokens == ["[UNK]"]


def test_bytes_know_every_character():
    made = train_tokenizer(["low lower lowest"] * 9, kind="bpe", vocabulary=300)
    for text in ("lowest", "日本 ☕ ", "a\tb\n"):
        assert made.decode(made.encode(text).ids) == text


def test_min_count_and_vocabulary_bound_what_is_learned():
    texts = ["a a a b b c"]
    assert train_tokenizer(texts, kind="word", vocabulary=99, min_count=2).get_vocab_size() == 4
    assert train_tokenizer(texts, kind="word", vocabulary=3, min_count=1).get_vocab_size() == 3


def test_long_texts_are_cut_with_a_warning_or_read_in_parts(table, tmp_path):
    long = [{"text": "word " * 50 + text, "label": label} for text, label in reviews(60)]
    path = as_json_lines(tmp_path / "a.jsonl", long)
    with pytest.warns(ToolkitWarning, match=r"(\d+) of \1 texts of \w+ are longer than data.max_length=16"):
        cut = read(path, max_length=16)
    whole = read(path, max_length=16, too_long="slide")
    for batch in cut.train_dataloader():
        assert batch.tokens.shape[1] <= 16
        assert batch.owner.tolist() == list(range(len(batch.row)))
    for batch in whole.test_dataloader():
        assert batch.tokens.shape[1] <= 16
        assert len(batch.owner) > len(batch.row)
        assert sorted(set(batch.owner.tolist())) == list(range(len(batch.row)))


def test_parts_of_a_text_overlap_and_leave_nothing_out():
    text = " ".join(f"w{k}" for k in range(30))
    tokenizer = train_tokenizer([text], kind="word", vocabulary=99, min_count=1)
    whole = tokenizer.encode(text).ids
    found = encode(tokenizer.to_str(), [text], 8, "slide")
    first, *others = map(list, found.sequences)
    assert first == whole[:8]
    assert first + [token for part in others for token in part[2:]] == whole


def test_vocabularies_that_say_nothing_are_refused():
    with pytest.raises(DataError, match=r"data.min_count=4 and data.vocabulary=99 leave no word"):
        train_tokenizer(["a b", "a"], kind="word", vocabulary=99, min_count=4)
    with pytest.raises(DataError, match="bpe begins with 256 bytes"):
        train_tokenizer(["a b", "a"], kind="bpe", vocabulary=256)


def test_a_text_has_tokens_and_room_for_them():
    tokenizer = train_tokenizer(["a b c"], kind="word", vocabulary=99, min_count=1)
    with pytest.raises(DataError, match="text 1 has no token in it: ' '"):
        encode(tokenizer.to_str(), ["a", " "], 8, "truncate")
    assert len(encode(tokenizer.to_str(), ["a \ud800 b"], 8, "truncate").sequences[0]) == 3
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[PAD] $A [PAD]", special_tokens=[("[PAD]", tokenizer.token_to_id("[PAD]"))]
    )
    assert len(encode(tokenizer.to_str(), ["a b c"], 3, "slide").sequences) == 3
    for too_long in ("truncate", "slide"):
        with pytest.raises(DataError, match=r"data.max_length=2 leaves no room for text: the tokenizer sets 2 marks"):
            encode(tokenizer.to_str(), ["a b c"], 2, too_long)


# Batches ------------------------------------------------------------------------------------------------------------


def test_batches_hold_each_text_as_it_was_encoded(table):
    data = read(table)
    tokenizer = Tokenizer.from_str(data.spec["tokenizer"])
    texts = data.read()["train"].texts
    rows = []
    for batch in data.train_dataloader():
        for place, row in enumerate(batch.row.tolist()):
            length = int(batch.lengths[place])
            assert batch.tokens[place, :length].tolist() == tokenizer.encode(texts[row]).ids
            assert (batch.tokens[place, length:] == data.spec["pad"]).all()
            rows.append(row)
    assert sorted(rows) == sorted(data.splits["train"].rows.tolist())


def test_texts_of_similar_length_share_a_batch(table):
    data = read(table, batch_size=8)
    spread = [int(batch.lengths.max() - batch.lengths.min()) for batch in data.train_dataloader()]
    lengths = data.splits["train"].lengths
    torch.manual_seed(0)
    apart = [int(part.max() - part.min()) for part in lengths[torch.randperm(len(lengths))].split(8)]
    assert sum(spread) < sum(apart) / 2


def test_a_trained_run_keeps_its_vocabulary_and_its_classes(table, tmp_path):
    data = read(table)
    other = as_json_lines(tmp_path / "b.jsonl", [{"text": f"ugly scarf {k}", "label": "bad"} for k in range(60)])
    follows = TextFiles(train=str(other), min_count=1)
    follows.trained = data.spec
    follows.setup()
    assert follows.spec == data.spec
    for options, says in (
        ({"tokenizer": "bpe"}, "data.tokenizer='bpe': this run was trained with 'word'"),
        ({"lowercase": False}, "data.lowercase=false: this run was trained with true"),
        ({"classes": ["good", "bad"]}, r"data.classes=\['good', 'bad'\]: this run was trained with \['bad', 'good'\]"),
        ({"max_length": 512}, "data.max_length=512: this run was trained on 256 tokens at most"),
    ):
        strange = TextFiles(train=str(other), **{"min_count": 1, **options})
        strange.trained = data.spec
        with pytest.raises(DataError, match=says):
            strange.setup()
    batch = next(iter(follows.test_dataloader()))
    assert set(batch.target.tolist()) == {data.spec["classes"].index("bad")}
