"""Language modelling from recipe to text: metrics, rows, resuming, two processes, `toolkit generate`."""

import io
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from toolkit_text.data.token_bytes import token_bytes
from toolkit_text.metrics import bits_per_byte, perplexity

from toolkit import checkpoint
from toolkit.cli import generate as generate_module
from toolkit.cli.main import main
from toolkit.decoding.sampling import Sampling
from toolkit.errors import DataError, RunError, ShapeError
from toolkit.recipe import from_document
from toolkit.run import train
from toolkit.trained import evaluate, open_run, predict, write

SCRIPT = Path(__file__).parents[2] / "fixtures" / "two_processes.py"
VERSES = ("one fish", "two fish", "red fish", "blue fish", "käse ☃", "the cat in the hat sat on the mat")


def corpus(folder, count=24):
    folder.mkdir(exist_ok=True)
    for number in range(count):
        lines = [f"{VERSES[(number * k) % len(VERSES)]}, no. {number}" for k in range(1, 30)]
        (folder / f"{number:02}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def document(folder, **changes):
    found = {
        "name": "verses",
        "data": {
            "use": "text:corpus",
            "files": str(folder),
            "vocabulary": 300,
            "context": 16,
            "batch_size": 8,
            "stride": 5,
        },
        "task": {"use": "text:language_modelling"},
        "model": {"use": "text:language_model", "dim": 16, "heads": 2, "num_layers": 1, "positions": "none"},
        "attention": {"use": "rotary"},
        "optimizer": {"use": "adamw", "lr": 0.01},
        "trainer": {"max_epochs": 1, "accelerator": "cpu", "limit_train_batches": 12},
        "loggers": [],
    }
    for key, value in changes.items():
        found[key] = {**found[key], **value}
    return found


def trained(folder, out, **changes):
    return train(from_document(document(folder, **changes), "a test"), out=out, quiet=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    base = tmp_path_factory.mktemp("verses")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOOLKIT_CACHE", str(base / "cache"))
        patch.delenv("TOOLKIT_RUN_DIRECTORY", raising=False)
        return trained(corpus(base / "texts"), base / "run")


def test_metrics_are_the_nats_of_all_tokens_over_the_bytes_of_all_files(run):
    restored, data = open_run(run.directory, [])
    nats = tokens = 0.0
    with torch.no_grad():
        for batch in data.test_dataloader():
            nats += restored.task.step(batch).preds.double().sum().item()
            tokens += len(batch.target)
    size = sum(each.size for each in data.documents()["test"])
    assert tokens == len(data.streams["test"]) - 1
    assert run.metrics["test/bits_per_byte"] == pytest.approx(nats / math.log(2) / size, rel=1e-6)
    assert run.metrics["test/perplexity"] == pytest.approx(math.exp(nats / tokens), rel=1e-6)
    assert run.metrics["test/loss"] == pytest.approx(nats / tokens, rel=1e-5)
    assert run.metrics["val/bits_per_byte"] < 8


def test_it_learns(tmp_path):
    result = trained(
        corpus(tmp_path / "texts"), tmp_path / "run", trainer={"max_epochs": 6, "limit_train_batches": 1.0}
    )
    assert result.metrics["test/bits_per_byte"] < 1.5  # 3.4 without learning: log2(300) / 2.4 bytes a token


def test_evaluation_does_not_depend_on_the_size_of_batches_and_more_context_helps(run):
    whole = evaluate(run.directory, []).metrics
    assert whole == pytest.approx({name: run.metrics[name] for name in whole}, rel=1e-6)
    assert evaluate(run.directory, ["data.batch_size=3"]).metrics == pytest.approx(whole, rel=1e-6)
    apart = evaluate(run.directory, ["data.stride=16"]).metrics
    assert apart["test/bits_per_byte"] > whole["test/bits_per_byte"]
    assert evaluate(run.directory, ["data.context=32"]).metrics != pytest.approx(whole, rel=1e-6)
    with pytest.raises(DataError, match=r"data.vocabulary=299: this run was trained with 300"):
        evaluate(run.directory, ["data.vocabulary=299"])


def test_rows_tell_each_window_and_add_up(run):
    rows = list(predict(run.directory, []))
    data = open_run(run.directory, [])[1]
    assert [row["window"] for row in rows] == list(range(len(data.test_dataloader().items)))
    size = sum(each.size for each in data.documents()["test"])
    assert sum(row["bytes"] for row in rows) == size
    assert sum(row["bits"] for row in rows) / size == pytest.approx(run.metrics["test/bits_per_byte"], rel=1e-6)
    assert {row["document"] for row in rows} == {each.name for each in data.documents()["test"]}
    assert all(row["bits_per_byte"] is None or row["bits_per_byte"] > 0 for row in rows)


def test_texts_of_others_are_measured_with_the_runs_own_tokenizer(run, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    for number in range(40):
        (other / f"{number}.txt").write_text(f"other words entirely {number}", encoding="utf-8")
    found = evaluate(run.directory, [f"data.files={other}", "data.val_share=0", "data.test_share=0.9"]).metrics
    assert found["test/bits_per_byte"] > run.metrics["test/bits_per_byte"]
    with pytest.raises(DataError, match="the split 'val' has none"):
        evaluate(run.directory, [f"data.files={other}", "data.val_share=0", "data.test_share=0.9"], split="val")


def test_metrics_take_parts_in_any_sizes():
    tokenizer = Tokenizer.from_str(_tokenizer())
    sizes = [len(each) for each in token_bytes(tokenizer)]
    nats = torch.rand(50, generator=torch.Generator().manual_seed(0))
    target = torch.randint(len(sizes), (50,), generator=torch.Generator().manual_seed(1))
    expected = nats.double().sum().item() / math.log(2) / sum(sizes[token] for token in target.tolist())
    for cuts in ([50], [1, 49], [10] * 5):
        metrics = [bits_per_byte({"tokenizer": tokenizer.to_str()}), perplexity({})]
        for some, tokens in zip(nats.split(cuts), target.split(cuts), strict=True):
            for metric in metrics:
                metric.update(some, tokens)
        assert metrics[0].compute().item() == pytest.approx(expected, rel=1e-12)
        assert metrics[1].compute().item() == pytest.approx(nats.double().mean().exp().item(), rel=1e-12)


def _tokenizer():
    from toolkit_text.data.tokens import train_tokenizer

    made = train_tokenizer(
        [" ".join(VERSES)], kind="bpe", vocabulary=280, lowercase=False, marks=("[END]",), exact=True
    )
    return made.to_str()


def test_a_run_goes_on_where_it_stopped(tmp_path):
    folder = corpus(tmp_path / "texts")
    whole = trained(folder, tmp_path / "whole", trainer={"max_epochs": 2})
    trained(folder, tmp_path / "parts", trainer={"max_epochs": 1})
    recipe = from_document(document(folder, trainer={"max_epochs": 2}), "a test")
    resumed = train(recipe, resume=tmp_path / "parts", quiet=True)
    one, two = (checkpoint.read(each.directory / "checkpoints" / "last.ckpt") for each in (whole, resumed))
    assert one["global_step"] == two["global_step"] == 24
    for name, value in one["state_dict"].items():
        assert torch.equal(two["state_dict"][name], value), name


def test_two_processes_learn_and_measure_what_one_does(tmp_path):
    content = document(
        corpus(tmp_path / "texts"), optimizer={"use": "sgd", "lr": 0.1}, trainer={"limit_train_batches": 1.0}
    )
    del content["trainer"]["accelerator"]
    (tmp_path / "mine.yaml").write_text(json.dumps({**content, "loggers": ["csv"]}), encoding="utf-8")
    found = []
    for devices, batch in ((1, 4), (2, 2)):
        command = [sys.executable, str(SCRIPT), str(tmp_path / str(devices)), str(devices), str(tmp_path / "mine.yaml")]
        environment = {name: value for name, value in os.environ.items() if name != "TOOLKIT_RUN_DIRECTORY"}
        more = [f"data.batch_size={batch}", "trainer.max_epochs=1"]
        done = subprocess.run([*command, *more], capture_output=True, text=True, env=environment, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
        directory = tmp_path / str(devices) / "run"
        metrics = json.loads((directory / "run.json").read_text(encoding="utf-8"))["metrics"]
        found.append((checkpoint.read(directory / "checkpoints" / "last.ckpt")["state_dict"], metrics))
    for name, value in found[0][0].items():
        torch.testing.assert_close(found[1][0][name], value, rtol=1e-3, atol=1e-5)
    assert found[1][1] == pytest.approx(found[0][1], rel=1e-4)
    assert "test/bits_per_byte" in found[0][1]


# Writing ------------------------------------------------------------------------------------------------------------


def texts_of(run, prompt="one", num=1, tokens=20, **sampling):
    texts, counts = [""] * num, [0] * num
    for step in write(run.directory, prompt, num=num, tokens=tokens, sampling=Sampling(**sampling)):
        texts = [text + new.text for text, new in zip(texts, step, strict=True)]
        counts = [count + new.tokens for count, new in zip(counts, step, strict=True)]
    return texts, counts


def test_the_same_seed_writes_the_same(run):
    assert texts_of(run, num=3, seed=4) == texts_of(run, num=3, seed=4) != texts_of(run, num=3, seed=5)
    texts, counts = texts_of(run, num=3, seed=4)
    assert len(set(texts)) == 3
    assert max(counts) <= 20


def test_an_empty_prompt_begins_a_document_and_texts_go_past_the_context(run):
    texts, counts = texts_of(run, prompt="", num=2, tokens=60, seed=1)
    assert max(counts) > 16
    assert all(texts)
    assert "[END]" not in "".join(texts)


def test_learned_positions_end_where_training_did(tmp_path):
    result = trained(
        corpus(tmp_path / "texts"),
        tmp_path / "run",
        model={"positions": "learned"},
        attention={"use": "scaled_dot_product"},
    )
    with pytest.raises(ShapeError, match=r"has learned 16 positions, but a text of 6[0-9] tokens"):
        texts_of(result, tokens=60)
    _, counts = texts_of(result, prompt="", tokens=None, num=4)
    assert max(counts) == 15


def test_generate_shows_the_prompt_and_what_follows(run, capsys):
    assert main(["generate", str(run.directory), "--prompt", "red ☃", "--tokens", "12", "--seed", "3"]) == 0
    shown = capsys.readouterr().out
    text = texts_of(run, prompt="red ☃", tokens=12, temperature=0.8, seed=3)[0][0]
    assert shown == f"red ☃{text}\n"


def test_generate_as_json_and_several_at_once(run, capsys, tmp_path):
    (tmp_path / "prompt.txt").write_bytes("\ufeffblue\n".encode())
    options = ["--file", str(tmp_path / "prompt.txt"), "--tokens", "5", "--num", "2", "--top-k", "5", "--top-p", "0.9"]
    assert main(["generate", str(run.directory), *options, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["prompt"] == "blue\n"
    texts, counts = texts_of(run, prompt="blue\n", tokens=5, num=2, top_k=5, top_p=0.9, temperature=0.8)
    assert found["texts"] == [{"text": text, "tokens": count} for text, count in zip(texts, counts, strict=True)]
    assert main(["generate", str(run.directory), *options]) == 0
    shown = capsys.readouterr().out
    assert shown == f"--- 1 of 2\nblue\n{texts[0]}\n--- 2 of 2\nblue\n{texts[1]}\n"


def test_greedy_writes_the_likeliest(run, capsys):
    outputs = []
    for seed in ("0", "1"):
        assert (
            main(
                [
                    "generate",
                    str(run.directory),
                    "--prompt",
                    "two",
                    "--temperature",
                    "0",
                    "--seed",
                    seed,
                    "--tokens",
                    "9",
                ]
            )
            == 0
        )
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--prompt", "a", "--file", __file__], "give --prompt or --file"),
        (["--top-p", "0"], "--top-p"),
        (["--temperature", "-1"], "--temperature"),
        (["--file", "no-such-file"], "no-such-file"),
    ],
)
def test_what_does_not_fit_is_told(run, options, told, capsys):
    assert main(["generate", str(run.directory), *options]) == 2
    assert told in capsys.readouterr().err


def test_a_prompt_that_is_no_utf8_is_told(run, tmp_path, capsys):
    (tmp_path / "prompt.txt").write_bytes(b"abc\xff")
    assert main(["generate", str(run.directory), "--file", str(tmp_path / "prompt.txt")]) == 2
    assert "is no UTF-8 (byte 3)" in " ".join(capsys.readouterr().err.split())


def test_on_a_terminal_control_characters_are_shown(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    generate_module._show("a\x1b[31m\tb\nü\x9b")
    assert terminal.getvalue() == "a\\x1b[31m\tb\nü\\x9b"


def test_a_run_that_does_not_write_says_so(tmp_path, monkeypatch):
    class Other:
        path = tmp_path
        task = object()

        class payload:  # noqa: N801
            recipe = {"task": {"use": "text:classification"}}  # noqa: RUF012

    monkeypatch.setattr(checkpoint, "restore", lambda path: Other)
    with pytest.raises(RunError, match="its task text:classification does not write text"):
        next(write(tmp_path, "a", sampling=Sampling()))
