import json

import pytest
import torch
from toolkit_text.data.batch import TextBatch
from toolkit_text.data.files import TextFiles
from toolkit_text.data.tokens import TokenSpec
from toolkit_text.models.recurrent import RecurrentClassifier
from toolkit_text.models.transformer import TransformerClassifier
from toolkit_text.tasks.classification import TextClassification

from toolkit.attention import Need
from toolkit.choice import Choice
from toolkit.errors import DataError
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
    ours, theirs = made.stack.layers[0], torch.nn.TransformerEncoderLayer(16, 4, 64, 0.0, "gelu", batch_first=True).eval()
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


@pytest.mark.parametrize("kind", ["recurrent", "transformer"])
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


def test_an_empty_text_is_told(table, toolkit, tmp_path):
    result = train(recipe(table, toolkit, tmp_path, trainer={"max_epochs": 1}), out=tmp_path / "run", quiet=True)
    with pytest.raises(DataError, match="text 1 of 2 is empty"):
        predict_texts(result.directory, ["lovely", " \n"])


def test_a_long_text_is_judged_by_all_its_parts(table, toolkit, tmp_path):
    data = {"use": "text:files", "train": str(table), "min_count": 1, "max_length": 16, "too_long": "slide"}
    result = train(recipe(table, toolkit, tmp_path, data=data), out=tmp_path / "run", quiet=True)
    begin = "This scarf, no. 1: "
    one, other = predict_texts(result.directory, [begin * 4 + "lovely", begin * 4 + "awful"])
    assert one["probabilities"]["good"] > other["probabilities"]["good"]
