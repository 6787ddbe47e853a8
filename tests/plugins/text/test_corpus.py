"""Files as a stream of tokens: what is left out, how files are split, and windows that score each token once."""

import sys
import warnings

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from toolkit_text.data import stream as stream_module
from toolkit_text.data.corpus import SPLITS, TextFolder
from toolkit_text.data.documents import PIECE, collect, pieces
from toolkit_text.data.python_source import PythonSource
from toolkit_text.data.stream import END, ScoringWindows, Stream, TrainingWindows
from toolkit_text.data.token_bytes import Utf8, token_bytes, without_marks

from toolkit.errors import DataError, ToolkitWarning

SENTENCES = (
    "The quick brown fox jumps over the lazy dog.\n",
    "Käse schmeckt mit Brot \u2013 \N{SNOWMAN}\r\n\ttab, and  two spaces \n\n",
    "e\u0301 is no é; [END] and [PAD] are names of marks.\n",
)


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "texts"
    for number in range(30):
        path = root / f"part{number % 3}" / f"{number:02}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        words = "".join(SENTENCES[(number + k) % 3] for k in range(4))
        path.write_bytes(f"Chapter {number} of many. {words}".encode())
    return root


def read(folder, **options):
    data = TextFolder(files=str(folder), **{"vocabulary": 300, "context": 16, "split_seed": 1, **options})
    data.setup()
    return data


def decoded(data, tokens):
    names = token_bytes(Tokenizer.from_str(data.spec["tokenizer"]))
    return b"".join(names[int(token)] for token in tokens)


def test_every_byte_of_every_document_comes_back(folder):
    data = read(folder)
    assert {name: len(each) for name, each in data.documents().items()} == data.spec["documents"]
    for name, documents in data.documents().items():
        stream = data.streams[name]
        assert stream.names == [each.name for each in documents]
        assert stream.tokens[0] == data.spec["end"]
        for place, each in enumerate(documents):
            start, stop = stream.start[place], stream.start[place + 1]
            assert decoded(data, stream.tokens[start : stop - 1]) == each.path.read_bytes()
            assert stream.tokens[stop - 1] == data.spec["end"]
            assert stream.document_at(start) == stream.document_at(stop - 1) == each.name
        assert int((stream.tokens == data.spec["end"]).sum()) == len(documents) + 1  # the name of a mark is text
        assert not (stream.tokens == data.spec["pad"]).any()


def test_the_tokenizer_learns_from_training_files_only(folder):
    data = read(folder)
    held_out = {path.name: path for path in (data.documents()["test"][0].path, data.documents()["val"][0].path)}
    for path in held_out.values():
        path.write_text("zzqq " * 300, encoding="utf-8")

    def find():
        every = [collect(folder, [each.path for each in data.documents()[name]], bytes.decode) for name in SPLITS]
        return dict(zip(SPLITS, every, strict=True))

    other = TextFolder(files=str(folder), vocabulary=300, context=16)
    other.find = find
    other.setup()
    assert other.spec["tokenizer"] == data.spec["tokenizer"]


def test_what_cannot_be_read_is_left_out_and_counted(folder):
    (folder / "a.txt").write_bytes(b"")
    (folder / "b.txt").write_bytes(b" \n\t ")
    (folder / "c.txt").write_bytes("Ü".encode("latin-1") * 20)
    (folder / "d.bin").write_bytes(b"abc\0def")
    (folder / "e.txt").write_bytes((folder / "part0" / "00.txt").read_bytes())
    (folder / ".hidden").write_bytes(b"not a text of anybody's")
    told = "of 35 files some are left out: 1 binary, 2 empty, 1 in another encoding, 1 the same as another"
    with pytest.warns(ToolkitWarning, match=told):
        data = read(folder)
    assert sum(data.spec["documents"].values()) == 30


def test_files_in_another_encoding_and_byte_order_marks(folder, tmp_path):
    other = tmp_path / "latin"
    for path in folder.rglob("*.txt"):
        (other / path.parent.name).mkdir(parents=True, exist_ok=True)
        text = path.read_text(encoding="utf-8").encode("latin-1", "ignore")
        (other / path.parent.name / path.name).write_bytes(text)
    data = read(other, encoding="latin-1")
    assert b"K\xc3\xa4se" in decoded(data, data.streams["train"].tokens)  # bytes are those of UTF-8
    marked = next(folder.rglob("*.txt"))
    marked.write_bytes(b"\xef\xbb\xbf" + marked.read_bytes())
    data = read(folder)
    assert b"\xef\xbb\xbf" not in b"".join(decoded(data, each.tokens) for each in data.streams.values())
    with pytest.raises(DataError, match="no encoding that Python knows"):
        TextFolder(files="x", encoding="utf-9")


def test_patterns_lists_and_files_apart(folder):
    data = read(folder / "part[01]" / "*.txt", val_share=0.3, test_share=0.3)
    assert sum(data.spec["documents"].values()) == 20
    train, test = str(folder / "part0"), [str(folder / "part1" / "01.txt"), str(folder / "part1" / "04.txt")]
    data = TextFolder(files=train, val=str(folder / "part2"), test=test, vocabulary=300, context=16)
    data.setup()
    assert data.spec["documents"] == {"train": 10, "val": 10, "test": 2}
    assert set(data.provenance()) == {"documents of train", "documents of val", "documents of test"}
    data = TextFolder(files=train, val=str(folder / "part2"), test=train, vocabulary=300, context=16)
    with pytest.warns(ToolkitWarning, match="10 documents of val and test are in train as well"):
        data.setup()
    with pytest.raises(DataError, match=r"nothing matches '.*\*\.tex'"):
        read(folder / "*.tex")


def test_equal_files_lie_in_one_split_wherever_they_are(folder, tmp_path):
    data = read(folder)
    moved = tmp_path / "moved"
    moved.mkdir()
    for path in folder.rglob("*.txt"):
        (moved / f"x{path.name}").write_bytes(path.read_bytes())
    other = read(moved)
    for name in ("train", "val", "test"):
        assert {each.digest for each in data.documents()[name]} == {each.digest for each in other.documents()[name]}
    assert {each.digest for each in read(folder, split_seed=2).documents()["test"]} != {
        each.digest for each in data.documents()["test"]
    }


def test_too_little_text_is_told(folder, tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "a.txt").write_text("one file cannot be three splits")
    with pytest.raises(DataError, match="has none of the 1 documents: files are never cut in two"):
        read(tmp_path / "one")
    with pytest.raises(DataError, match=r"fewer than two windows of data\.context=9000"):
        read(folder, context=9000)
    with pytest.raises(DataError, match=r"stride=17 is more than data\.context=16"):
        read(folder, stride=17)
    with pytest.raises(DataError, match="leave nothing for training"):
        read(folder, val_share=0.5, test_share=0.5)
    with pytest.raises(DataError, match="bpe begins with 256 bytes"):
        read(folder, vocabulary=256)


def test_streams_are_encoded_once_and_mapped(folder, monkeypatch):
    first = read(folder)
    assert isinstance(first.streams["train"].tokens, np.memmap)
    with monkeypatch.context() as patched:
        patched.setattr(stream_module, "_write", lambda *_: pytest.fail("encoded again"))
        again = read(folder)
    assert np.array_equal(first.streams["test"].tokens, again.streams["test"].tokens)
    path = next(folder.rglob("*.txt"))
    path.write_text(path.read_text(encoding="utf-8") + "more", encoding="utf-8")
    assert sum(map(len, read(folder).streams.values())) != sum(map(len, again.streams.values()))


def test_a_stream_that_was_cut_short_is_written_again(folder):
    data = read(folder)
    whole = np.array(data.streams["train"].tokens)
    path = data.streams["train"].tokens.filename
    del data
    with open(path, "r+b") as file:
        file.truncate(10)
    assert np.array_equal(read(folder).streams["train"].tokens, whole)


def test_a_long_document_is_cut_behind_ends_of_lines_and_loses_nothing():
    text = "".join(f"line {number}\n" for number in range(200_000)) + "x" * (PIECE + 5)
    parts = list(pieces(text))
    assert "".join(parts) == text
    assert max(map(len, parts)) <= PIECE
    assert parts[0].endswith("\n")
    assert len(parts) == 5


# Windows ------------------------------------------------------------------------------------------------------------


def numbered(length):
    return Stream(np.arange(length, dtype=np.uint16), np.array([1, length]), ["all"])


@pytest.mark.parametrize(
    ("length", "context", "stride"),
    [(2, 8, 4), (9, 8, 4), (10, 8, 8), (100, 8, 3), (101, 8, 8), (64, 16, 1), (97, 16, 5)],
)
@pytest.mark.parametrize("processes", [1, 2])
def test_every_token_is_scored_once_with_enough_before_it(length, context, stride, processes):
    targets, before = [], {}
    for rank in range(processes):
        loader = ScoringWindows(numbered(length), context, stride, batch_size=3, share=(rank, processes))
        for batch in loader:
            scored = torch.ones_like(batch.tokens, dtype=torch.bool) if batch.scored is None else batch.scored
            if not len(batch.target):
                continue
            assert torch.equal(batch.tokens[scored] + 1, batch.target)
            targets += batch.target.tolist()
            for window, place in scored.nonzero().tolist():
                before[int(batch.tokens[window, place]) + 1] = place + 1
            assert batch.documents == ("all",) * len(batch.row)
    assert sorted(targets) == list(range(1, length))
    width = min(context, length - 1)
    assert all(have >= min(target, width - min(stride, width) + 1) for target, have in before.items())


def test_scored_tokens_are_counted_in_what_a_step_holds():
    loader = ScoringWindows(numbered(30), 8, 3, batch_size=2)
    assert sum(batch.total for batch in loader) == 29


def test_training_windows_lie_side_by_side_and_move_with_the_epoch():
    torch.manual_seed(5)
    starts = set()
    for epoch in range(6):
        loader = TrainingWindows(numbered(1000), 16, batch_size=4, share=(0, 1))
        loader.set_epoch(epoch)
        batches = list(loader)
        seen = torch.cat([batch.target for batch in batches])
        assert len(seen.unique()) == len(seen) == (1000 - 16) // 16 * 16
        assert seen.max() - seen.min() + 1 == len(seen)
        for batch in batches:
            assert torch.equal(batch.tokens.flatten() + 1, batch.target)
            assert batch.total == len(batch.target)
        starts.add(int(seen.min()))
        again = TrainingWindows(numbered(1000), 16, batch_size=4, share=(0, 1))
        again.set_epoch(epoch)
        assert all(torch.equal(a.tokens, b.tokens) for a, b in zip(batches, again, strict=True))
    assert len(starts) > 2
    assert max(starts) <= 16


def test_two_processes_share_a_step_and_agree_on_where_windows_begin():
    torch.manual_seed(5)
    whole = list(TrainingWindows(numbered(500), 16, batch_size=4, share=(0, 1)))
    halves = [list(TrainingWindows(numbered(500), 16, batch_size=2, share=(rank, 2))) for rank in (0, 1)]
    for step, batch in enumerate(whole):
        both = torch.cat([half[step].target for half in halves]).sort().values
        assert torch.equal(both, batch.target.sort().values)
        assert {half[step].total for half in halves} == {batch.total}


def test_a_loader_goes_on_in_mid_epoch():
    torch.manual_seed(5)
    loader = TrainingWindows(numbered(500), 16, batch_size=4, share=(0, 1))
    loader.set_epoch(3)
    batches = list(loader)
    later = TrainingWindows(numbered(500), 16, batch_size=4, share=(0, 1))
    later.set_epoch(3)
    later.load_state_dict({"epoch": 3, "position": 2})
    assert all(torch.equal(a.tokens, b.tokens) for a, b in zip(batches[2:], later, strict=True))


def test_workers_make_the_same_windows():
    torch.manual_seed(5)
    plain = TrainingWindows(numbered(300), 16, batch_size=4, share=(0, 1))
    workers = TrainingWindows(numbered(300), 16, batch_size=4, share=(0, 1))
    workers.workers = 1
    plain.set_epoch(2)
    workers.set_epoch(2)
    assert all(torch.equal(a.tokens, b.tokens) for a, b in zip(plain, workers, strict=True))


# Bytes of tokens ----------------------------------------------------------------------------------------------------


def test_bytes_of_tokens_are_exact(folder):
    data = read(folder)
    tokenizer = Tokenizer.from_str(data.spec["tokenizer"])
    names = token_bytes(tokenizer)
    assert {bytes([byte]) for byte in range(256)} <= set(names)
    assert names[tokenizer.token_to_id(END)] == b""
    text = "".join(SENTENCES) + "\x00\x1b\x7f\xa0\xad\u3042\U0001f600"
    ids = without_marks(tokenizer).encode(text, add_special_tokens=False).ids
    assert b"".join(names[token] for token in ids) == text.encode()


def test_text_comes_out_when_its_characters_are_whole():
    text, out = "a\N{SNOWMAN}é\U0001f600", []
    utf8 = Utf8()
    for byte in text.encode():
        out.append(utf8.take(bytes([byte])))
    assert out[:4] == ["a", "", "", "\N{SNOWMAN}"]
    assert "".join(out) == text
    assert utf8.take(b"\xe2\x98") == ""
    assert utf8.rest() == "\N{REPLACEMENT CHARACTER}"
    assert Utf8().take(b"\xffb") == "\N{REPLACEMENT CHARACTER}b"


def test_a_tokenizer_of_words_has_no_bytes():
    from toolkit_text.data.tokens import train_tokenizer

    words = train_tokenizer(["Käse — and bread"], kind="word", vocabulary=50, min_count=1)
    with pytest.raises(DataError, match="not made of bytes"):
        token_bytes(words)


# Python's own source ------------------------------------------------------------------------------------------------


def test_the_standard_library_without_tests_and_generated_files():
    data = PythonSource()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        names = {each.name for parts in data.documents().values() for each in parts}
    assert {"argparse.py", "asyncio/tasks.py", "json/decoder.py"} <= names
    assert not [name for name in names if {"test", "tests", "idle_test", "site-packages"} & set(name.split("/"))]
    assert not [name for name in names if name.startswith(("_sysconfigdata", "config-", "pydoc_data/topics"))]
    assert "encodings/cp1252.py" not in names
    assert data.left_out["written by a program"] > 20
    assert len(names) > 300
    (name,) = data.provenance()
    assert sys.version.split()[0] in name
    assert len(data.provenance()[name]) == 64


def test_source_in_another_encoding_is_read_by_its_cookie():
    data = PythonSource()
    assert data.decode("# -*- coding: latin-1 -*-\nx = 'ü'\n".encode("latin-1")).endswith("x = 'ü'\n")
    with pytest.raises((SyntaxError, LookupError)):
        data.decode(b"# -*- coding: no-such -*-\n")
