"""A small encoder in a folder, of the RoBERTa family: another padding token, and positions that begin later."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from toolkit_text.data.files import TextFiles
from toolkit_text.data.tokens import TokenSpec
from toolkit_text.models.pretrained import PretrainedClassifier
from toolkit_text.pretrained import encoder_named
from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaModel

from toolkit.errors import DataError, RecipeError

MARKS = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoders") / "whole"
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = list(MARKS.values())
    made.train_from_iterator([], trainers.BpeTrainer(special_tokens=special, initial_alphabet=alphabet))
    made.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=30, **MARKS).save_pretrained(folder)
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=made.get_vocab_size(),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
    )
    RobertaModel(config).save_pretrained(folder)
    return folder


def changed(whole, name, change):
    """Return a copy of the folder whose weights are changed."""
    folder = shutil.copytree(whole, whole.parent / name)
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})
    return folder


def read(table, folder, **options):
    data = TextFiles(train=str(table), tokenizer=str(folder), **{"max_length": 30, **options})
    data.prepare_data()
    data.setup()
    return data


def test_the_encoder_answers_as_by_itself(whole, table):
    data = read(table, whole)
    assert data.spec["pad"] == 1
    model = PretrainedClassifier(classes=2, tokens=TokenSpec.of(data.spec)).eval()
    model.start()
    batch = data.splits["train"].batch(torch.arange(4))
    for place, length in enumerate(batch.lengths.tolist()):
        alone = batch.tokens[place : place + 1, :length]
        assert (batch.tokens[place, length:] == 1).all()
        wanted = RobertaModel.from_pretrained(whole).eval()(alone).last_hidden_state.mean(1)
        torch.testing.assert_close(model(batch)[place], model.classify(wanted)[0], atol=1e-5, rtol=1e-5)


def test_more_tokens_than_the_encoder_can_place_are_refused(whole, table):
    with pytest.raises(DataError, match="was trained on 30 positions"):
        read(table, whole, max_length=31)  # it has 32, of which two are before the first token


def test_weights_that_are_not_in_the_files_are_not_made_up(whole, table):
    folder = changed(whole, "lacks", lambda weights: {n: w for n, w in weights.items() if "layer.1" not in n})
    model = PretrainedClassifier(classes=2, tokens=TokenSpec.of(read(table, folder).spec))
    with pytest.raises(RecipeError, match=r"lack 16 weights of its model, such as encoder\.layer\.1"):
        model.start()


def test_an_encoder_kept_in_half_precision_is_trained_in_single(whole, tmp_path, table):
    folder = tmp_path / "half"
    shutil.copytree(whole, folder)
    RobertaModel.from_pretrained(whole).half().save_pretrained(folder)
    data = read(table, folder)
    model = PretrainedClassifier(classes=2, tokens=TokenSpec.of(data.spec))
    model.start()
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert model(data.splits["train"].batch(torch.arange(2))).dtype == torch.float32


def test_a_trained_run_names_no_place_and_needs_no_files(whole, table):
    folder = shutil.copytree(whole, whole.parent / "moved")
    data = read(table, folder)
    config = data.spec["encoder"]["config"]
    assert not [key for key, value in config.items() if str(folder) in str(value)]
    assert encoder_named(str(folder)).config() == config
    shutil.rmtree(folder)
    follows = TextFiles(train=str(table), tokenizer=str(folder), max_length=30)
    follows.trained = data.spec
    follows.prepare_data()
    follows.setup()
    assert follows.spec == data.spec


def test_a_configuration_names_no_code_to_be_run(whole, table, tmp_path):
    """Kernels of the hub are code: neither the folder of an encoder nor a checkpoint can have them fetched."""
    folder = shutil.copytree(whole, tmp_path / "kernels")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "attn_implementation": "someone/kernels"}))
    spec = read(table, folder).spec
    assert "someone/kernels" not in json.dumps(spec["encoder"])
    changed = {
        **spec["encoder"]["config"],
        "attn_implementation": "someone/kernels",
        "auto_map": {"AutoModel": "a--b.C"},
    }
    tokens = TokenSpec.of({**spec, "encoder": {**spec["encoder"], "config": changed}})
    made = PretrainedClassifier(classes=2, tokens=tokens)
    made.start()
    assert made.encoder.config._attn_implementation in ("sdpa", "eager")
