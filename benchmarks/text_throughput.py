"""Texts a second in training a classifier: ours against Hugging Face's Trainer with a BERT of the same size.

    python benchmarks/text_throughput.py                        # model text:transformer, 4 layers of 256
    python benchmarks/text_throughput.py --texts 2048 --pairs 5 --precision 32-true
    python benchmarks/text_throughput.py --model pretrained     # the library's own BERT in our run, too

The clothing reviews, the same tokens, texts a step, precision, optimizer, clipping and dropout on both sides; attention
weights are dropped on neither side: torch has no fast kernel for that on a CPU. Ours is what `toolkit train` runs:
Lightning's loop with the data module's loader, which puts texts of similar length together. Theirs is `Trainer` with
`BertForSequenceClassification` and its collator, which pads each batch to its longest text: as it is by default, whose
batches are drawn at random, and with `group_by_length`. A turn is an epoch of each, `Trainer.fit` beside
`Trainer.train`; building models and trainers is in neither. The ratio is the median over the turns, above 1 we win.
Needs: pip install accelerate
"""

from __future__ import annotations

import argparse
import json
import tempfile
import warnings
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from tokenizers import Tokenizer
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DataCollatorWithPadding,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
)

from toolkit.assemble import build_data, build_for_training
from toolkit.bench.measure import Step, machine, paired
from toolkit.data import Data
from toolkit.plugins import current_toolkit
from toolkit.recipe import load
from toolkit.resolve import Resolved, resolve
from toolkit.surroundings import quiet_libraries
from toolkit.thin_loop import thin


@dataclass(frozen=True)
class Setting:
    """What both sides train. texts: of an epoch."""

    model: str
    dim: int
    layers: int
    heads: int
    texts: int
    batch: int
    precision: str
    vocabulary: int = 8000
    max_length: int = 192
    dropout: float = 0.1
    lr: float = 1e-4


def config(setting: Setting, pad: int, classes: int) -> BertConfig:
    return BertConfig(
        vocab_size=setting.vocabulary,
        hidden_size=setting.dim,
        num_hidden_layers=setting.layers,
        num_attention_heads=setting.heads,
        intermediate_size=4 * setting.dim,
        max_position_embeddings=setting.max_length,
        hidden_dropout_prob=setting.dropout,
        attention_probs_dropout_prob=0.0,
        pad_token_id=pad,
        num_labels=classes,
    )


def our_side(setting: Setting) -> tuple[Resolved, Data]:
    """Return our recipe and its data, of which an epoch has as many texts as the setting says."""
    shape = {"dim": setting.dim, "num_layers": setting.layers, "heads": setting.heads, "order": "post"}
    overrides = [
        f"data.tokenizer=bpe data.vocabulary={setting.vocabulary} data.max_length={setting.max_length}",
        f"data.batch_size={setting.batch} trainer.max_epochs=1 trainer.precision={setting.precision}",
        "trainer.accelerator=cpu trainer.gradient_clip_val=1.0 trainer.limit_val_batches=0",
        "trainer.num_sanity_val_steps=0 loggers=[] stop=null checkpoint=null",
        f"optimizer.use=adamw optimizer.lr={setting.lr} optimizer.weight_decay=0.0",
    ]
    words = [word for line in overrides for word in line.split()]
    model = {"use": "text:transformer", **shape, "dropout": setting.dropout}
    document = [*words, f"model={json.dumps(model)}", "attention=scaled_dot_product"]
    resolved = resolve(load("reviews_sentiment", current_toolkit(), document))
    data: Any = build_data(resolved)
    chosen = torch.randperm(len(data.splits["train"]), generator=torch.Generator().manual_seed(0))[: setting.texts]
    loader = data.train_dataloader

    def some() -> Any:
        made = loader()
        made.items, made.lengths = made.items[chosen], made.lengths[chosen]
        return made

    data.train_dataloader = some
    data.chosen = chosen
    return resolved, data


def ours(resolved: Resolved, data: Any, setting: Setting, seen: dict[str, int]) -> Step:
    """Return what trains an epoch as `toolkit train` does."""
    pl.seed_everything(0, verbose=False)
    task = build_for_training(resolved, data)
    if setting.model == "pretrained":
        task.model = _library_model(setting, data, resolved)
    seen["weights"] = sum(weight.numel() for weight in task.parameters())
    trainer = thin(
        pl.Trainer(
            **resolved.trainer,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
    )

    def train() -> None:
        trainer.fit(task, datamodule=data)
        seen["steps"] = trainer.global_step

    return train


def _next(steps: list[Step]) -> None:
    steps.pop()()


def _library_model(setting: Setting, data: Any, resolved: Resolved) -> torch.nn.Module:
    from toolkit_text.data.tokens import TokenSpec
    from toolkit_text.models.pretrained import PretrainedClassifier

    spec = data.spec
    settings = config(setting, spec["pad"], len(spec["classes"])).to_dict()
    tokens = TokenSpec(spec["vocabulary"], spec["pad"], spec["max_length"], {"name": "bert", "config": settings})
    return PretrainedClassifier(classes=len(spec["classes"]), tokens=tokens, dropout=setting.dropout)


def theirs(data: Any, setting: Setting, folder: str, grouped: bool, seen: dict[str, int]) -> Step:
    """Return what trains an epoch with Hugging Face's Trainer."""
    spec, split = data.spec, data.splits["train"]
    start = split.sequences.start
    rows = [
        {"input_ids": split.sequences.flat[start[item] : start[item + 1]].tolist(), "labels": int(split.target[item])}
        for item in data.chosen.tolist()
    ]
    torch.manual_seed(0)
    model = BertForSequenceClassification(config(setting, spec["pad"], len(spec["classes"])))
    seen["weights"] = sum(weight.numel() for weight in model.parameters())
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(spec["tokenizer"]), pad_token="[PAD]")
    arguments = TrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=setting.batch,
        num_train_epochs=1,
        learning_rate=setting.lr,
        lr_scheduler_type="constant",
        max_grad_norm=1.0,
        bf16=setting.precision == "bf16-mixed",
        use_cpu=True,
        save_strategy="no",
        eval_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        **_grouping(grouped),
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=rows, data_collator=DataCollatorWithPadding(tokenizer))

    def train() -> None:
        trainer.train()
        seen["steps"] = trainer.state.global_step

    return train


def _grouping(grouped: bool) -> dict[str, Any]:
    """Return the option under the name that this release of the library has for it."""
    if not grouped:
        return {}
    known = TrainingArguments.__dataclass_fields__
    return {"group_by_length": True} if "group_by_length" in known else {"train_sampling_strategy": "group_by_length"}


def places(data: Any, setting: Setting) -> dict[str, float]:
    """Return how many places of an epoch's batches hold a token: of ours, and of batches drawn at random."""
    made = [(batch.tokens.numel(), int(batch.lengths.sum())) for batch in data.train_dataloader()]
    lengths = data.splits["train"].lengths[data.chosen]
    drawn = lengths[torch.randperm(len(lengths), generator=torch.Generator().manual_seed(1))].split(setting.batch)
    return {
        "ours": sum(held for _, held in made) / sum(size for size, _ in made),
        "at random": int(lengths.sum()) / sum(len(each) * int(each.max()) for each in drawn),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["transformer", "pretrained"], default="transformer")
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--texts", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--precision", choices=["32-true", "bf16-mixed"], default="bf16-mixed")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    setting = Setting(given.model, given.dim, given.layers, given.heads, given.texts, given.batch, given.precision)
    warnings.simplefilter("ignore")
    found: dict[str, Any] = {"setting": vars(setting), "machine": machine()}
    with quiet_libraries(), tempfile.TemporaryDirectory() as folder:
        resolved, data = our_side(setting)
        found["held"] = places(data, setting)
        for name, grouped in (("Trainer", False), ("Trainer, group_by_length", True)):
            us: dict[str, int] = {}
            them: dict[str, int] = {}
            turns = range(given.pairs + 1)
            own = [ours(resolved, data, setting, us) for _ in turns]
            other = [theirs(data, setting, folder, grouped, them) for _ in turns]
            timed = paired(partial(_next, own), partial(_next, other), pairs=given.pairs, warm=1)
            assert us["steps"] == them["steps"], (us, them)
            found[name] = {**timed.plain(), "our_weights": us["weights"], "their_weights": them["weights"]}
    if given.json:
        print(json.dumps(found, indent=2))
        return
    held = found["held"]
    print(f"places that hold a token: ours {held['ours']:.2f}, batches at random {held['at random']:.2f}")
    for name in ("Trainer", "Trainer, group_by_length"):
        each = found[name]
        speeds = [1e3 * setting.texts / each[side] for side in ("ours_ms", "peer_ms")]
        print(
            f"{name:26} {each['ratio']:.2f}x [{each['low']:.2f}, {each['high']:.2f}]   texts a second: ours "
            f"{speeds[0]:.0f}, theirs {speeds[1]:.0f}   weights: {each['our_weights']:,} and {each['their_weights']:,}"
        )


if __name__ == "__main__":
    main()
