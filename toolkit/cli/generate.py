"""`toolkit generate`."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click

from toolkit.cli.output import json_option, print_json, say

DRAWN = 0.8
"""The temperature when nobody said one: a little below the model's own."""


@click.command("generate", short_help="Let a trained run write on from a prompt.")
@click.argument("run")
@click.option("--prompt", metavar="TEXT", help="What the text begins with; a new text without it.")
@click.option(
    "--file", type=click.Path(path_type=Path, dir_okay=False, exists=True), help="A file (UTF-8) with the prompt."
)
@click.option("--tokens", type=click.IntRange(min=1), help="Tokens to write at most; the task's choice without it.")
@click.option(
    "--temperature",
    type=click.FloatRange(min=0),
    default=DRAWN,
    show_default=True,
    help="Below 1 likely tokens are likelier still; 0 always takes the likeliest.",
)
@click.option("--top-k", type=click.IntRange(min=1), help="Draw from the K likeliest tokens only.")
@click.option(
    "--top-p",
    type=click.FloatRange(min=0, max=1, min_open=True),
    default=1.0,
    help="Draw from the fewest likeliest tokens that together have this probability.",
)
@click.option(
    "--repetition-penalty",
    type=click.FloatRange(min=0, min_open=True),
    default=1.0,
    help="Above 1 tokens that are in the text already become less likely.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="The same seed, the same text.")
@click.option("--num", type=click.IntRange(min=1), default=1, show_default=True, help="How many texts, side by side.")
@json_option
def command(
    run: str,
    prompt: str | None,
    file: Path | None,
    tokens: int | None,
    temperature: float,
    top_k: int | None,
    top_p: float,
    repetition_penalty: float,
    seed: int,
    num: int,
    as_json: bool,
) -> None:
    """Let a trained language model write on from a prompt, shown as it is written.

    RUN is a run directory (its best checkpoint is used) or a checkpoint file: the tokenizer is in it. Several texts are
    written side by side, and shown one after another.
    """
    if prompt is not None and file is not None:
        raise click.UsageError("give --prompt or --file: each says how the text begins")
    begun = _read(file) if file is not None else prompt or ""

    from toolkit import trained
    from toolkit.decoding.sampling import Sampling

    sampling = Sampling(
        temperature=temperature, top_k=top_k, top_p=top_p, repetition_penalty=repetition_penalty, seed=seed
    )
    texts, counts = [""] * num, [0] * num
    shown_at_once = num == 1 and not as_json
    start = time.perf_counter()
    for step in trained.write(run, begun, num=num, tokens=tokens, sampling=sampling):
        if shown_at_once and not counts[0]:  # now that the run was found and takes the prompt
            _show(begun)
            start = time.perf_counter()
        for place, new in enumerate(step):
            texts[place] += new.text
            counts[place] += new.tokens
        if shown_at_once:
            _show(step[0].text)
    taken = time.perf_counter() - start
    if as_json:
        print_json(
            {
                "run": run,
                "prompt": begun,
                "texts": [{"text": text, "tokens": count} for text, count in zip(texts, counts, strict=True)],
                "seconds": taken,
            }
        )
    elif shown_at_once:
        say()
    else:
        for place, text in enumerate(texts):
            say(f"--- {place + 1} of {num}")
            _show(begun + text)
            say()


def _read(file: Path) -> str:
    try:
        return file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise click.UsageError(f"--file {file} is no UTF-8 (byte {error.start}): write it in UTF-8") from None


def _show(text: str) -> None:
    """Print text without a new line; on a terminal, control characters that a model may write are shown, not obeyed."""
    if sys.stdout.isatty():
        text = "".join(each if each.isprintable() or each in "\n\t" else repr(each)[1:-1] for each in text)
    click.echo(text, nl=False)
