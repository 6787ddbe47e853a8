import json
import warnings
from types import SimpleNamespace

import pytest
import torch
from text_samples import as_json_lines, reviews
from toolkit_text.data.batch import TextBatch
from toolkit_text.data.files import TextFiles
from toolkit_text.data.tokens import TokenSpec
from toolkit_text.models.embedding import TokenEmbedding
from toolkit_text.models.recurrent import RecurrentClassifier
from toolkit_text.models.transformer import TransformerClassifier
from toolkit_text.tasks import classification
from toolkit_text.tasks.classification import TextClassification

from toolkit.attention import Need
from toolkit.choice import Choice
from toolkit.cli.main import main
from toolkit.errors import DataError, RecipeError
from toolkit.recipe import load
from toolkit.run import train
from toolkit.trained import evaluate, predict, predict_file, predict_texts

TOKENS = TokenSpec(vocabulary=50, pad=0, max_length=16)


def batch(lengths, seed=0):
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.tensor(lengths)
    tokens = torch.randint(1, 50, (len(lengths), int(lengths.max())), generator=draw)
    tokens[torch.arange(tokens.shape[1]) >= lengths[:, None]] = 0
    places = torch.arange(len(lengths))
    return TextBatch(target=places % 3, tokens=tokens, lengths=lengths, owner=places, row=places)


def model(kind, attention, **options):
    chosen = None if attention is None else Choice("attention", attention)
    torch.manual_seed(1)
    made = {"recurrent": RecurrentClassifier, "transformer": TransformerClassifier}[kind]
    return made(classes=3, tokens=TOKENS, attention=chosen, dim=16, **options).eval()


MODELS = [
    ("recurrent", None),
    ("recurrent", "saliency_pooling"),
    ("recurrent", "scaled_dot_product"),
    ("transformer", "scaled_dot_product"),
    ("transformer", "rotary"),
    ("transformer", "additive"),
]


@pytest.mark.parametrize(("kind", "attention"), MODELS)
def test_padding_and_other_texts_change_no_answer(kind, attention):
    made, whole = model(kind, attention), batch([9, 4, 16, 1])
    together = made(whole)
    for place, length in enumerate(whole.lengths.tolist()):
        alone = TextBatch(
            target=whole.target[place : place + 1],
            tokens=whole.tokens[place : place + 1, :length],
            lengths=whole.lengths[place : place + 1],
            owner=torch.zeros(1, dtype=torch.long),
            row=torch.zeros(1, dtype=torch.long),
        )
        torch.testing.assert_close(made(alone)[0], together[place], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("kind", "attention"), MODELS)
def test_weights_are_over_the_tokens_that_are_there(kind, attention):
    made, whole = model(kind, attention), batch([9, 4, 16, 1])
    for weights in made.attention_weights(whole, Need()):
        values = weights.values
        torch.testing.assert_close(values.sum(-1)[:, :, 0], torch.ones(4, values.shape[1]))
        assert not values[~whole.mask[:, None, None].expand_as(values)].any()


def test_the_transformer_is_torchs_own_with_the_same_weights():
    made = model(
        "transformer", "scaled_dot_product", heads=4, num_layers=1, dropout=0.0, order="post", positions="none"
    )
    ours, theirs = (
        made.stack.layers[0],
        torch.nn.TransformerEncoderLayer(16, 4, 64, 0.0, "gelu", batch_first=True).eval(),
    )
    attend = ours.attention
    with torch.no_grad():
        theirs.self_attn.in_proj_weight.copy_(torch.cat([attend.query.weight, attend.key.weight, attend.value.weight]))
        theirs.self_attn.in_proj_bias.copy_(torch.cat([attend.query.bias, attend.key.bias, attend.value.bias]))
    theirs.self_attn.out_proj.load_state_dict(attend.out.state_dict())
    theirs.linear1.load_state_dict(ours.feedforward[0].state_dict())
    theirs.linear2.load_state_dict(ours.feedforward[3].state_dict())
    whole = batch([9, 4])
    x = made.embedding(whole.tokens)
    wanted = theirs(x, src_key_padding_mask=~whole.mask)
    found = ours(x, whole.pattern).x
    torch.testing.assert_close(found[whole.mask], wanted[whole.mask], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["recurrent", "transformer", "hierarchical"])
@pytest.mark.parametrize("too_long", ["truncate", "slide"])
def test_a_share_without_texts_has_gradients_of_zero(kind, too_long, table):
    data = TextFiles(train=str(table), min_count=1, max_length=16, too_long=too_long)
    data.setup()
    attention = Choice("attention", "scaled_dot_product")
    chosen = Choice("models", f"text:{kind}", {"dim": 16}, parts={"attention": attention})
    task = TextClassification(spec=data.spec, model=chosen)
    preds = task.step(data.splits["train"].batch(torch.arange(0))).preds
    assert preds.shape == (0, 2)
    (preds.sum() * 0).backward()
    assert all(weight.grad is not None and not weight.grad.any() for weight in task.parameters())


def test_parts_are_summed_in_single_precision(table):
    data = TextFiles(train=str(table), min_count=1, max_length=8, too_long="slide")
    data.setup()
    chosen = Choice("models", "text:recurrent", parts={"attention": Choice("attention", "saliency_pooling")})
    task = TextClassification(spec=data.spec, model=chosen).bfloat16()
    assert task.logits(data.splits["train"].batch(torch.arange(4))).dtype == torch.float32


def classifier(data, kind="recurrent", **options):
    torch.manual_seed(0)
    parts = {"attention": Choice("attention", "scaled_dot_product")}
    chosen = Choice("models", f"text:{kind}", {"dim": 16, "dropout": 0.0}, parts=parts)
    return TextClassification(spec=data.spec, model=chosen, **options)


@pytest.mark.parametrize("kind", ["recurrent", "transformer", "hierarchical"])
def test_the_shift_of_adversarial_training_is_where_the_loss_grows_fastest(kind, table):
    data = TextFiles(train=str(table), min_count=1)
    data.setup()
    whole = data.splits["train"].batch(torch.arange(6))
    plain, task = classifier(data, kind).train(), classifier(data, kind, adversarial=0.5).train()
    loss, shifted = plain.step(whole).loss, task.step(whole).loss - plain.step(whole).loss
    assert shifted > loss + 5e-4
    task.adversarial = -0.5
    assert task.step(whole).loss - plain.step(whole).loss < loss - 5e-4
    task.adversarial = 0.5
    seen = []
    hook = task.model.vectors.register_forward_hook(lambda module, given, output: seen.append(output))
    task.eval().step(whole)
    hook.remove()
    assert task.step(whole).loss == plain.eval().step(whole).loss  # evaluation is as usual
    assert seen[0].shape[:2] == whole.tokens.shape  # of a document as a whole, where sentences are read apart
    assert not whole.full
    shift = task._shift(seen[0], torch.randn_like(seen[0]), whole.mask)
    usual = torch.cat([row[:length] for row, length in zip(seen[0], whole.lengths, strict=True)]).norm(dim=-1).mean()
    torch.testing.assert_close(shift.flatten(1).norm(dim=1), (0.5 * usual).expand(len(shift)))
    task.train().step(whole).loss.backward()
    assert all(weight.grad is not None for weight in task.parameters())


def test_frozen_vectors_are_not_shifted(table):
    data = TextFiles(train=str(table), min_count=1)
    data.setup()
    task = classifier(data)
    task.model.embedding.requires_grad_(False)
    with pytest.raises(RecipeError, match=r"task.adversarial=0.5 shifts token vectors, but these are frozen"):
        TextClassification(spec=data.spec, model=SimpleNamespace(build=lambda **sizes: task.model), adversarial=0.5)


def test_word_dropout_leaves_out_whole_vectors_in_training_only(table):
    embedding = TokenEmbedding(tokens=TOKENS, dim=8, word_dropout=0.5)
    tokens = torch.randint(1, 50, (40, 16))
    gone = embedding(tokens).eq(0)
    assert gone.all(-1).equal(gone.any(-1))
    assert 0.4 < gone.float().mean() < 0.6
    assert not embedding.eval()(tokens).eq(0).any()


def test_a_text_of_any_number_of_parts_bounds_what_is_read_at_a_time(table, tmp_path, monkeypatch):
    rows = [
        {"text": "word " * (40 if k % 5 else 900) + text, "label": label} for k, (text, label) in enumerate(reviews(60))
    ]
    data = TextFiles(
        train=str(as_json_lines(tmp_path / "a.jsonl", rows)),
        **{"min_count": 1, "max_length": 16, "too_long": "slide", "train_windows": 3, "batch_size": 8},
    )
    data.setup()
    assert max(len(batch.owner) for batch in data.test_dataloader()) > 60
    for batch in data.train_dataloader():
        assert batch.owner.bincount().max() <= 3
        assert len(batch.owner) <= 8 * 3
    task = classifier(data).eval()
    batch = data.splits["test"].batch(torch.arange(len(data.splits["test"])))
    whole = task.logits(batch)
    sizes = []
    task.model.register_forward_hook(lambda module, given, output: sizes.append(given[0].tokens.numel()))
    monkeypatch.setattr(classification, "PLACES", 160)
    torch.testing.assert_close(task.logits(batch), whole)
    assert len(sizes) > 3
    assert max(sizes) <= 160


def test_windows_of_training_are_drawn_anew_and_the_same_by_seed(table, tmp_path):
    rows = [
        {"text": " ".join(f"w{k}x{n}" for k in range(80)) + text, "label": label}
        for n, (text, label) in enumerate(reviews(60))
    ]
    options = {"min_count": 1, "max_length": 8, "too_long": "slide", "train_windows": 2}
    data = TextFiles(train=str(as_json_lines(tmp_path / "a.jsonl", rows)), **options)
    data.setup()
    split = data.splits["train"]
    one, same, other = (split.batch(torch.arange(5), seed=seed) for seed in (1, 1, 2))
    assert one.tokens.equal(same.tokens)
    assert not one.tokens.equal(other.tokens)
    assert one.owner.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    whole = split.sequences.padded(torch.arange(int(split.first[5])), split.pad)[0].tolist()
    assert all(row in whole for row in one.tokens.tolist())


# Runs ---------------------------------------------------------------------------------------------------------------


def recipe(table, toolkit, folder, **sections):
    document = {
        "name": "mine",
        "data": {"use": "text:files", "train": str(table), "min_count": 1, "batch_size": 16},
        "task": {"use": "text:classification"},
        "model": {"use": "text:transformer", "dim": 16, "num_layers": 1},
        "attention": "scaled_dot_product",
        "optimizer": {"use": "adam", "lr": 0.01},
        "trainer": {"max_epochs": 8, "accelerator": "cpu"},
        **sections,
    }
    path = folder / "mine.yaml"
    path.write_text(json.dumps(document))
    return load(str(path), toolkit, ["loggers=[]"])


@pytest.mark.parametrize(
    "model",
    [
        {"use": "text:transformer", "dim": 16, "num_layers": 1},
        {"use": "text:recurrent", "dim": 16, "hidden": 8},
        {"use": "text:hierarchical", "dim": 16, "hidden": 8},
    ],
)
def test_a_run_learns_from_a_users_file_and_reads_new_texts(model, table, toolkit, tmp_path):
    result = train(recipe(table, toolkit, tmp_path, model=model), out=tmp_path / "run", quiet=True)
    assert result.metrics["test/accuracy"] > 0.9
    assert evaluate(result.directory, []).metrics["test/accuracy"] == result.metrics["test/accuracy"]
    rows = predict_texts(result.directory, ["This scarf: ugly!", "This coat, so soft and warm: lovely", "This: lovely"])
    assert [row["row"] for row in rows] == [0, 1, 2]
    assert [row["class"] for row in rows] == ["bad", "good", "good"]
    numbers = [row["row"] for row in predict(result.directory, [])]
    assert numbers == sorted(numbers)


def test_a_file_is_predicted_row_by_row(table, toolkit, tmp_path):
    result = train(recipe(table, toolkit, tmp_path), out=tmp_path / "run", quiet=True)
    new = tmp_path / "new.csv"
    new.write_text("text\nawful scarf\n\n  \nlovely coat\n")
    with pytest.warns(match="2 of 4 rows are left out: 2 without text"):
        found = list(predict_file(result.directory, new))
    assert [(row["row"], row["class"]) for row in found] == [(0, "bad"), (3, "good")]


def test_a_file_is_read_in_the_encoding_of_the_runs_own_data(table, toolkit, tmp_path):
    table.write_text(table.read_text(encoding="utf-8").replace("lovely", "très joli"), encoding="latin-1")
    data = {"use": "text:files", "train": str(table), "min_count": 1, "encoding": "latin-1"}
    trainer = {"max_epochs": 1, "accelerator": "cpu"}
    result = train(recipe(table, toolkit, tmp_path, data=data, trainer=trainer), out=tmp_path / "run", quiet=True)
    assert len(list(predict_file(result.directory, table))) == 120
    with pytest.raises(DataError, match="is not utf-8 throughout"):
        list(predict_file(result.directory, table, encoding="utf-8"))


def test_a_large_file_is_predicted_part_by_part(table, toolkit, tmp_path, monkeypatch, capsys):
    result = train(recipe(table, toolkit, tmp_path, trainer={"max_epochs": 1}), out=tmp_path / "run", quiet=True)
    whole = list(predict_file(result.directory, table))
    monkeypatch.setattr(classification, "ROWS", 50)
    read = []
    real = classification.read_parts

    def counted(*arguments):
        for part in real(*arguments):
            read.append(len(part))
            yield part

    monkeypatch.setattr(classification, "read_parts", counted)
    rows = predict_file(result.directory, table)
    first = [next(rows) for _ in range(49)]
    assert read == [49]  # the header is a row of the first part; no more is read before it is wanted
    found = first + list(rows)
    assert read == [49, 50, 21]
    assert [row["row"] for row in found] == list(range(120))
    for one, other in zip(found, whole, strict=True):
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-5)
    for suffix in ("jsonl", "csv"):
        out = tmp_path / f"out.{suffix}"
        assert main(["predict", str(result.directory), "--file", str(table), "--out", str(out), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["rows"] == 120
        lines = out.read_text(encoding="utf-8").splitlines()
        if suffix == "jsonl":
            assert [json.loads(line)["row"] for line in lines] == list(range(120))
            assert json.loads(lines[7])["probabilities"] == pytest.approx(whole[7]["probabilities"], abs=1e-5)
        else:
            assert lines[0] == "row,class,probability,probabilities.bad,probabilities.good"
            assert len(lines) == 121


def test_a_run_is_measured_on_another_file_without_its_own(table, toolkit, tmp_path):
    result = train(recipe(table, toolkit, tmp_path, trainer={"max_epochs": 1}), out=tmp_path / "run", quiet=True)
    rows = [{"text": text, "label": label} for text, label in reviews(30)]
    other = as_json_lines(tmp_path / "other.jsonl", rows)
    before = evaluate(result.directory, [f"data.test={other}"]).metrics
    table.unlink()
    assert evaluate(result.directory, [f"data.test={other}"]).metrics == before
    assert len(list(predict(result.directory, [f"data.test={other}"]))) == 30
    assert evaluate(result.directory, [f"data.val={other}"], split="val").metrics["val/loss"] == pytest.approx(
        before["test/loss"]
    )
    with pytest.raises(DataError, match="there is no file"):
        evaluate(result.directory, [])
    strange = as_json_lines(tmp_path / "strange.jsonl", [*rows, {"text": "hm", "label": "neutral"}])
    with pytest.raises(
        DataError, match=r"test has labels that training did not: 'neutral'; it had 'bad', 'good'. Leave"
    ):
        evaluate(result.directory, [f"data.test={strange}"])


def test_an_empty_text_is_told(table, toolkit, tmp_path):
    result = train(recipe(table, toolkit, tmp_path, trainer={"max_epochs": 1}), out=tmp_path / "run", quiet=True)
    with pytest.raises(DataError, match="text 1 of 2 is empty"):
        predict_texts(result.directory, ["lovely", " \n"])


def test_a_long_text_is_told_or_read_in_parts(table, toolkit, tmp_path):
    data = {"use": "text:files", "train": str(table), "min_count": 1, "max_length": 16}
    parts = {"model": {"use": "text:recurrent", "dim": 4, "hidden": 4}, "trainer": {"max_epochs": 1}}
    texts = ["lovely", "lovely " * 17, "lovely " * 16]
    for too_long in ("truncate", "slide"):
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            made = recipe(table, toolkit, tmp_path, data={**data, "too_long": too_long}, **parts)
            result = train(made, out=tmp_path / too_long, quiet=True)
            told.clear()
            predict_texts(result.directory, texts)
        says = [str(each.message) for each in told if "longer than" in str(each.message)]
        cut = "1 of 3 texts are longer than the 16 tokens that this run reads and cut off; one trained with "
        assert says == ([cut + "data.too_long=slide reads all of them"] if too_long == "truncate" else [])


def test_what_is_read_is_not_written_over(table, toolkit, tmp_path, capsys):
    before = table.read_bytes()
    assert main(["predict", str(tmp_path / "run"), "--file", str(table), "--out", str(table)]) == 2
    assert "is the file that is read" in capsys.readouterr().err
    assert table.read_bytes() == before


def test_a_long_text_is_judged_by_all_its_parts(table, toolkit, tmp_path):
    data = {"use": "text:files", "train": str(table), "min_count": 1, "max_length": 16, "too_long": "slide"}
    result = train(recipe(table, toolkit, tmp_path, data=data), out=tmp_path / "run", quiet=True)
    begin = "This scarf, no. 1: "
    one, other = predict_texts(result.directory, [begin * 4 + "lovely", begin * 4 + "awful"])
    assert one["probabilities"]["good"] > other["probabilities"]["good"]
