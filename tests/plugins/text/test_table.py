import gzip

import pandas as pd
import pytest
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


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match="there is no file"):
        read_table(tmp_path / "none.csv")


def test_an_encoding_can_be_named(tmp_path):
    path = written(tmp_path / "a.csv", "text,label\ncaf\xe9,1\n".encode("latin-1"))
    assert read_texts(path, ["text"], "label", "latin-1").texts == ["café"]
