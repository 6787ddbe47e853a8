"""The task of translation: training, metrics, new texts, alignments."""

from __future__ import annotations

import json

import pytest
import torch
from click.testing import CliRunner
from pair_samples import counted
from toolkit_text.data.parallel_files import ParallelFiles
from toolkit_text.tasks.translation import Translation
from torch.nn import functional as F

from toolkit import checkpoint
from toolkit.choice import Choice
from toolkit.cli.align import command
from toolkit.decoding.beam import Hypothesis
from toolkit.errors import CapabilityError, DataError, RunError, ToolkitWarning
from toolkit.recipe import from_document
from toolkit.run import train
from toolkit.trained import align, evaluate, predict, predict_file, predict_texts

MODELS = {
    "recurrent": {"use": "text:recurrent_translator", "dim": 16, "hidden": 32, "dropout": 0.0},
    "transformer": {"use": "text:transformer_translator", "dim": 32, "heads": 4, "num_layers": 1, "dropout": 0.0},
}


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    pairs = counted(400)
    path = tmp_path_factory.mktemp("pairs") / "numbers.jsonl"
    rows = [{"source": one, "target": other} for one, other in zip(pairs.source, pairs.target, strict=True)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def recipe(table, model="recurrent", **changes):
    """A recipe of seconds. Texts repeat, so that a share of the table, drawn by the text, would be unlike the rest."""
    document = {
        "name": "numbers",
        "data": {
            "use": "text:parallel",
            **dict.fromkeys(("train", "val", "test"), table),
            "tokenizer": "word",
            "min_count": 1,
            "batch_tokens": 100,
            "max_length": 12,
        },
        "task": {"use": "text:translation", "metrics": ["bleu", "chrf", "exact_match", "token_accuracy", "perplexity"]},
        "model": MODELS[model],
        "attention": "additive" if model == "recurrent" else "scaled_dot_product",
        "optimizer": {"use": "adam", "lr": 1e-2},
        "trainer": {"max_epochs": 24, "check_val_every_n_epoch": 12, "accelerator": "cpu"},
        "loggers": [],
    }
    for section, keys in changes.items():
        document[section] = {**document[section], **keys}
    return from_document(document, "a test")


@pytest.fixture(scope="module")
def run(table, tmp_path_factory):
    from toolkit.plugins import Toolkit, using

    fresh = Toolkit()
    fresh.load_entry_points()
    with using(fresh):
        return train(recipe(table), out=tmp_path_factory.mktemp("run") / "run", quiet=True)


def test_a_recurrent_network_learns_to_translate(toolkit, run):
    assert run.metrics["test/exact_match"] > 0.95
    assert run.metrics["test/bleu"] > 95
    assert 1 < run.metrics["val/perplexity"] < 1.5
    assert evaluate(run.directory, []).metrics["test/bleu"] == pytest.approx(run.metrics["test/bleu"])


def test_a_transformer_learns_to_translate(toolkit, table, tmp_path):
    found = train(
        recipe(table, "transformer", optimizer={"lr": 5e-3}, trainer={"max_epochs": 72}),
        out=tmp_path / "run",
        quiet=True,
    ).metrics
    assert found["test/exact_match"] > 0.9


def test_rows_and_new_texts_are_translated(toolkit, run, tmp_path):
    pairs = counted(400)
    rows = list(predict(run.directory, []))
    assert [row["row"] for row in rows] == list(range(400))
    right = [row["translation"] == target for row, target in zip(rows, pairs.target, strict=True)]
    assert sum(right) / 400 == pytest.approx(run.metrics["test/exact_match"])
    assert all(row["score"] < 0 for row in rows)
    texts = ["three two", "one", "five four one"]
    found = predict_texts(run.directory, texts)
    assert [row["translation"] for row in found] == ["zwei drei", "eins", "eins vier fünf"]
    lines = tmp_path / "texts.txt"
    lines.write_text("three two\n\n  one \n")
    with pytest.warns(ToolkitWarning, match="1 of 3 lines are empty"):
        assert [(row["row"], row["translation"]) for row in predict_file(run.directory, lines)] == [
            (0, "zwei drei"),
            (2, "eins"),
        ]
    table = tmp_path / "texts.csv"
    table.write_text("source,text\none,five four one\n")
    assert [row["translation"] for row in predict_file(run.directory, table)] == ["eins"]
    assert [row["translation"] for row in predict_file(run.directory, table, ["text"])] == ["eins vier fünf"]
    with pytest.raises(DataError, match="text 1 of 2 is empty"):
        predict_texts(run.directory, ["one", " "])


def test_alignment_follows_the_words(toolkit, run, tmp_path):
    found = align(run.directory, "one two three")
    assert found.source == ["one", "two", "three", "[EOS]"]
    assert found.target == ["drei", "zwei", "eins", "[EOS]"]
    assert found.text == "drei zwei eins"
    torch.testing.assert_close(found.weights.sum(1), torch.ones(4))
    assert found.weights.shape == (4, 4)
    out = tmp_path / "align.png"
    done = CliRunner().invoke(command, [str(run.directory), "--text", "one two three", "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "drei zwei eins" in done.output
    assert out.read_bytes().startswith(b"\x89PNG")
    done = CliRunner().invoke(command, [str(run.directory), "--text", "one", "--out", str(out), "--json"])
    assert json.loads(done.stdout)["target"] == ["eins", "[EOS]"]
    assert CliRunner().invoke(command, [str(run.directory), "--text", "one", "--out", "x.jpg"]).exit_code == 2
    with pytest.raises(CapabilityError, match="there is no layer 1"):
        align(run.directory, "one", layer=1)
    with pytest.raises(CapabilityError, match="there is no head 3"):
        align(run.directory, "one", head=3)


def test_alignment_by_layer_and_head(toolkit, table):
    task = task_of(table, "transformer", num_layers=2, heads=2)
    parts = [task.align("one two", layer=layer, head=head).weights for layer in (0, 1) for head in (0, 1)]
    assert len({tuple(each.flatten().tolist()) for each in parts}) == 4
    torch.testing.assert_close(task.align("one two").weights, torch.stack(parts).mean(0))
    torch.testing.assert_close(task.align("one two", head=1).weights, torch.stack(parts[1::2]).mean(0))


def test_without_attention_there_is_nothing_to_align(toolkit, table):
    with pytest.raises(CapabilityError, match="by no attention"):
        task_of(table, "recurrent", attention=None).align("one")


def test_other_tasks_align_nothing(toolkit, tmp_path):
    document = {
        "name": "karate",
        "data": {"use": "graph:karate"},
        "task": {"use": "graph:node_classification"},
        "model": {"use": "graph:gcn", "hidden": 4},
        "optimizer": {"use": "adam", "lr": 0.1},
        "trainer": {"max_epochs": 1, "accelerator": "cpu"},
        "loggers": [],
    }
    directory = train(from_document(document, "a test"), out=tmp_path / "run", quiet=True).directory
    with pytest.raises(RunError, match="aligns no texts"):
        align(directory, "one")


def task_of(table, model, attention="scaled_dot_product", task=None, **options):
    data = data_of(table)
    chosen = {**MODELS[model], **options}
    name = chosen.pop("use")
    parts = {} if attention is None else {"attention": Choice("attention", attention)}
    torch.manual_seed(0)
    return Translation(spec=data.spec, model=Choice("models", name, chosen, parts), **(task or {})).eval()


def data_of(table, **options):
    data = ParallelFiles(train=table, val=table, test=table, **{"tokenizer": "word", "min_count": 1, **options})
    data.setup()
    return data


def test_loss_is_that_of_each_token(toolkit, table):
    task = task_of(table, "transformer", task={"label_smoothing": 0.2})
    batch = data_of(table).splits["test"].batch(torch.tensor([3, 0, 9]))
    output = task.step(batch)
    target = batch.target[batch.target != -100]
    assert torch.equal(output.target, target)
    torch.testing.assert_close(output.loss, F.cross_entropy(output.preds, target))
    torch.testing.assert_close(
        task.train().step(batch).loss, F.cross_entropy(output.preds, target, label_smoothing=0.2)
    )


def test_validation_writes_greedily_and_tests_with_beams(toolkit, table, monkeypatch):
    task = task_of(table, "transformer", task={"metrics": ["bleu", "exact_match"], "beams": 3})
    batch = data_of(table).splits["test"].batch(torch.tensor([3, 0, 9]))
    asked = []

    def written(batch, *, beams, best=1):
        asked.append(beams)
        return [[Hypothesis([5], -1.0, -1.0)]] * len(batch.row)

    monkeypatch.setattr(task, "written", written)
    for stage in ("val", "test", "val"):
        task._evaluate(stage, batch)
    assert asked == [1, 3, 1]  # once for both metrics
    only_tokens = task_of(table, "transformer", task={"metrics": ["token_accuracy"]})
    monkeypatch.setattr(only_tokens, "written", written)
    only_tokens._evaluate("test", batch)
    assert len(asked) == 3


def test_translations_are_bounded_and_hold_no_marks(toolkit, table):
    task = task_of(table, "recurrent", task={"length_ratio": 1.0, "length_margin": 2})
    batch = data_of(table).splits["test"].batch(torch.arange(20))
    with torch.no_grad():  # an end that is never likely
        task.model.embedding.offset[task.spec["end"]] = -100
        task.model.embedding.offset[task.spec["pad"]] = task.model.embedding.offset[task.spec["begin"]] = 100
    for beams in (1, 3):
        for found, read in zip(task.written(batch, beams=beams, best=beams), batch.source_lengths, strict=True):
            assert len(found) == beams
            for each in found:
                assert len(each.tokens) + 1 == int(read) + 2
                assert not {task.spec["pad"], task.spec["begin"], task.spec["end"]} & set(each.tokens)
            assert [each.score for each in found] == sorted((each.score for each in found), reverse=True)


def test_the_tokenizer_travels_in_the_checkpoint(toolkit, run):
    restored = checkpoint.restore(run.directory)
    assert restored.payload.spec["tokenizer"].startswith("{")
    assert restored.task.text(Hypothesis([], -1.0, -1.0)) == ""
