import gzip

import pandas as pd
import pytest
from toolkit_text.data import reviews
from toolkit_text.data.table import read_table, read_texts

from toolkit.errors import DataError, ToolkitWarning

ROWS = 'text,label\nün café ☕,1\n"two\nlines, one cell",01\n,1\nno label,\n'


def written(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_cells_stay_text_and_rows_keep_their_number(tmp_path):
    with pytest.warns(ToolkitWarning, match=r"2 of 4 rows are left out: 1 without text, 1 without label"):
        found = read_texts(written(tmp_path / "a.csv", ROWS), ["text"], "label")
    assert found.texts == ["ün café ☕", "two\nlines, one cell"]
    assert found.labels == ["1", "01"]  # a number would have lost the zero
    assert found.rows == [0, 1]


def test_every_format_gives_the_same(tmp_path):
    columns = {"text": ["one", "two", "three"], "label": [1, 2, 1]}
    frame = pd.DataFrame(columns)
    files = [
        written(tmp_path / "a.csv", frame.to_csv(index=False)),
        written(tmp_path / "a.tsv", frame.to_csv(index=False, sep="\t")),
        written(tmp_path / "a.jsonl", frame.to_json(orient="records", lines=True)),
        written(tmp_path / "a.csv.gz", gzip.compress(frame.to_csv(index=False).encode())),
        written(tmp_path / "a.jsonl.gz", gzip.compress(frame.to_json(orient="records", lines=True).encode())),
    ]
    frame.to_parquet(tmp_path / "a.parquet")
    for path in [*files, tmp_path / "a.parquet"]:
        found = read_texts(path, ["text"], "label")
        assert (found.texts, found.labels) == (columns["text"], ["1", "2", "1"]), path.name


def test_missing_numbers_do_not_turn_labels_into_fractions(tmp_path):
    pd.DataFrame({"text": ["a", "b", "c"], "label": [1, None, 5]}).to_parquet(tmp_path / "a.parquet")
    with pytest.warns(ToolkitWarning, match="1 without label"):
        assert read_texts(tmp_path / "a.parquet", ["text"], "label").labels == ["1", "5"]


def test_several_columns_are_joined(tmp_path):
    path = written(tmp_path / "a.csv", "title,body\nHead,Body\n,Only body\nOnly head,\n")
    assert read_texts(path, ["title", "body"], None).texts == ["Head\n\nBody", "Only body", "Only head"]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", "", "is empty"),
        ("a.csv", "text,label\n", "a header and no rows"),
        ("a.csv", "txt,label\na,1\n", "no column 'text'. Did you mean 'txt'"),
        ("a.csv", "text,label\n,1\n", "no row with a text and a label"),
        ("a.csv", "text,label\ncaf\xe9,1\n".encode("latin-1"), "not utf-8 throughout: line 2 has the byte 0xe9"),
        (
            "a.csv",
            "text,label\ncaf\xe9,1\n".encode("utf-16"),
            "line 1 has the byte 0xff. Name its encoding, such as cp1252",
        ),
        (
            "a.csv",
            "text,label\né,1\né,1\n".encode() + b"caf\xe9,1\n",
            "line 4 has the byte 0xe9. Of the lines with more than ASCII 2 fit and 1 do not: it is mixed",
        ),
        ("a.csv", 'text,label\n"open,1\n', "cannot be read"),
        ("a.jsonl", '{"text": "a"\n', "cannot be read"),
        ("a.parquet", "no parquet", "cannot be read"),
        ("a.csv.gz", "no gzip", "cannot be read"),
        ("a.xlsx", "PK", "ends in none of .csv, .tsv, .jsonl"),
    ],
)
def test_what_cannot_be_read_says_why(tmp_path, name, content, says):
    path = written(tmp_path / name, content)
    with pytest.raises(DataError, match="(?s)" + says.replace(".", r"\.").replace("?", r"\?")) as caught:
        read_texts(path, ["text"], "label")
    assert str(path) in str(caught.value)


UNCLEAR = [
    (
        "a.csv",
        "text,label\nhello, world,good\nbad, thing,bad\n",
        "cannot be read: .*Expected 2 fields in line 2, saw 3; a cell with ',' in it stands between quotation marks",
    ),
    ("a.csv", "text,text,label\na,b,1\n", "2 columns called 'text'"),
    ("a.jsonl", "\n \n", "has no rows"),
    ("a.jsonl", '[{"text": "a", "label": 1}]\n', "line 1 is no JSON object"),
    ("a.jsonl", '{"text": "a", "label": 1}\n\n{"text"\n', "line 3: Expecting"),
    ("a.jsonl", '{"text": ["a", "b"], "label": 1}\n', "column 'text' of row 0 holds a list"),
    ("a.jsonl", '{"text": "a", "label": {"x": 1}}\n', "column 'label' of row 0 holds a dict"),
]


@pytest.mark.parametrize(("name", "content", "says"), UNCLEAR)
def test_what_could_be_meant_otherwise_is_not_guessed(tmp_path, name, content, says):
    with pytest.raises(DataError, match=says):
        read_texts(written(tmp_path / name, content), ["text"], "label")


def test_text_and_label_are_two_columns(table):
    with pytest.raises(DataError, match="cannot be both text and label"):
        read_texts(table, ["text", "label"], "label")
    with pytest.raises(DataError, match="name a column with the text"):
        read_texts(table, [], "label")


def test_nulls_of_every_kind_are_nothing(tmp_path):
    frame = pd.DataFrame(
        {
            "text": pd.array(["a", "b", None], dtype="string"),
            "label": pd.array([1, None, 1], dtype="Int64"),
            "kind": pd.Categorical(["x", None, "y"]),
        }
    )
    frame.to_parquet(tmp_path / "a.parquet")
    with pytest.warns(match="1 without text, 1 without label"):
        found = read_texts(tmp_path / "a.parquet", ["text"], "label")
    assert (found.texts, found.labels, found.rows) == (["a"], ["1"], [0])
    with pytest.warns(match="1 without text"):
        assert read_texts(tmp_path / "a.parquet", ["kind"], None).texts == ["x", "y"]


def test_whole_numbers_of_any_size_are_told_apart(tmp_path):
    large = 2**53 + 1
    rows = "".join(f'{{"text": "a", "label": {label}}}\n' for label in (large, large - 1, 10**19, "null", 7.0))
    with pytest.warns(match="1 without label"):
        found = read_texts(written(tmp_path / "a.jsonl", rows), ["text"], "label")
    assert found.labels == [str(large), str(large - 1), str(10**19), "7"]


@pytest.mark.parametrize("start", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_marks_and_line_ends_of_windows(tmp_path, start, end):
    lines = {"a.csv": ["text,label", "one,1", "two,2"], "A.TSV": ["text\tlabel", "one\t1", "two\t2"]}
    lines["a.jsonl"] = ['{"text": "one", "label": "1"}', '{"text": "two", "label": "2"}']
    for name, each in lines.items():
        found = read_texts(written(tmp_path / name, start + end.join(each) + end), ["text"], "label")
        assert (found.texts, found.labels, found.rows) == (["one", "two"], ["1", "2"], [0, 1])


def test_half_a_character_is_replaced(tmp_path):
    path = written(tmp_path / "a.jsonl", '{"text": "a\\ud800b \\ud83d\\ude00", "label": 1}\n')
    assert read_texts(path, ["text"], "label").texts == ["a\ufffdb \U0001f600"]


def test_a_quotation_mark_that_swallows_rows_is_told(tmp_path):
    path = written(tmp_path / "a.tsv", 'text\tlabel\nfine\t0\n"open\t1\nb\t2\nc" d\t1\n')
    with pytest.warns(ToolkitWarning, match="1 rows hold cells with tabs and line ends, the first of them row 1"):
        assert len(read_texts(path, ["text"], "label")) == 2


def test_a_review_keeps_the_number_of_its_row(monkeypatch):
    table = pd.DataFrame({"Title": ["a", "b", None], "Review Text": [None, "two", "three"], "Rating": [1, 2, 3]})
    monkeypatch.setattr(reviews, "fetch", lambda resource: None)
    monkeypatch.setattr(reviews, "read_table", lambda path, kind: table)
    found = reviews.ClothingReviews(target="rating").read()["train"]
    assert (found.texts, found.rows) == (["b\n\ntwo", "three"], [1, 2])


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match="there is no file"):
        read_table(tmp_path / "none.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(DataError, match="is a folder, not a file"):
        read_table(tmp_path / "folder.csv")


def test_an_encoding_can_be_named(tmp_path):
    path = written(tmp_path / "a.csv", "text,label\ncaf\xe9,1\n".encode("latin-1"))
    assert read_texts(path, ["text"], "label", "latin-1").texts == ["café"]
    with pytest.raises(DataError, match="unknown encoding: uft8"):
        read_texts(path, ["text"], "label", "uft8")
