"""Our language model beside Hugging Face's GPT-2 of the same size, and beside xz.

    python benchmarks/language_model.py --xz                # bits per byte of xz on the held-out files; 10 seconds
    python benchmarks/language_model.py --equal             # both trained on the same batches in the same order
    python benchmarks/language_model.py --speed             # training tokens a second, step against step
    python benchmarks/language_model.py --generate          # written tokens a second, KV cache, greedy
    python benchmarks/language_model.py --parse RUN         # how many functions that a run writes Python can parse

The peer is `GPT2LMHeadModel` in a plain loop: forward, cross-entropy, backward, clip, AdamW, cosine. Ours is trained as
`toolkit train` does, Lightning's loop and all. Both have learned positions, tanh GELU of torch's own (GPT-2's own, in
Python, would be slower), SDPA, no dropout, the same optimizer and schedule. --equal draws the weights of each side by
its own rule, anew for each seed, and lets the peer begin with ours as well. One thread unless --threads says otherwise;
keys such as model.dim=512 change both.
"""

from __future__ import annotations

import argparse
import ast
import json
import lzma
import statistics
import tempfile
import textwrap
import time
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from language_peer import PlainLoop, bits_per_byte, copy_weights, gpt2

from toolkit import checkpoint
from toolkit.assemble import build_data, build_for_training
from toolkit.bench.measure import machine, paired
from toolkit.decoding.sampling import Sampling, sample
from toolkit.plugins import current_toolkit
from toolkit.recipe import load
from toolkit.resolve import Resolved, resolve
from toolkit.run import train
from toolkit.surroundings import quiet_libraries
from toolkit.thin_loop import thin

LIKE_GPT2 = ["attention=scaled_dot_product", "model.positions=learned", "model.activation=gelu_tanh", "loggers=[]"]
SMALL = ["data.context=128", "model.dim=128", "model.num_layers=4"]
"""The size at which equality is shown: minutes for a training."""


def chosen(given: list[str]) -> Resolved:
    short = "schedule.warmup=0"  # timings take fewer steps than the recipe's warm-up
    return resolve(load("lm_python", current_toolkit(), [*LIKE_GPT2, short, *given]))


def xz(resolved: Resolved) -> dict[str, float]:
    """Return bits per byte of xz -9e on the test files: in one stream, and each file by itself."""
    data: Any = resolved.data.build()
    contents = [each.path.read_bytes() for each in data.documents()["test"]]
    total = sum(map(len, contents))
    preset = 9 | lzma.PRESET_EXTREME
    together = len(lzma.compress(b"".join(contents), preset=preset))
    apart = sum(len(lzma.compress(each, preset=preset)) for each in contents)
    return {"files": len(contents), "bytes": total, "together": 8 * together / total, "apart": 8 * apart / total}


def equal(given: list[str], steps: int, seeds: list[int]) -> dict[str, Any]:
    """Train both for some steps with each seed; return the bits per byte of validation that they reach.

    peer draws weights of its own, so that its seeds and ours tell how much chance there is in it; `same start` begins
    with the very weights that ours began with.
    """
    short = [f"trainer.limit_train_batches={steps}", "trainer.max_epochs=1", f"schedule.warmup={steps // 20}"]
    found: dict[str, list[float]] = {"ours": [], "peer": [], "same start": []}
    for seed in seeds:
        recipe = load("lm_python", current_toolkit(), [*LIKE_GPT2, *SMALL, *short, *given, f"seed={seed}"])
        with tempfile.TemporaryDirectory() as folder:
            result = train(recipe, out=Path(folder) / "run", quiet=True, test=False)
        found["ours"].append(result.metrics["val/bits_per_byte"])
        resolved = resolve(recipe)
        for name in ("peer", "same start"):
            pl.seed_everything(seed, verbose=False)  # the loader's order follows from it, and our weights, as above
            data: Any = build_data(resolved)
            task = build_for_training(resolved, data)
            model = gpt2(resolved.document["model"], dict(data.spec))
            if name == "same start":
                copy_weights(task.model, model)
            count = [sum(each.numel() for each in one.parameters()) for one in (task.model, model)]
            assert count[0] == count[1], count
            loop = PlainLoop(model, resolved.optimization, steps=steps, clip=resolved.trainer["gradient_clip_val"])
            for batch in islice(data.train_dataloader(), steps):
                loop.step(batch)
            found[name].append(bits_per_byte(model, data.val_dataloader(), list(map(len, task.bytes))))
        print(f"seed {seed}: " + ", ".join(f"{name} {each[-1]:.5f}" for name, each in found.items()), flush=True)
    spread = {name: statistics.stdev(each) if len(each) > 1 else 0.0 for name, each in found.items()}
    mean = {name: statistics.mean(each) for name, each in found.items()}
    return {"steps": steps, "seeds": seeds, "weights": count[0], "bits_per_byte": found, "mean": mean, "spread": spread}


class InTurn(pl.Callback):
    """After each step of ours, a step of the peer; a step of ours is all that lies between two of these."""

    def __init__(self, loop: PlainLoop, batches: Any) -> None:
        self.loop, self.batches = loop, batches
        self.ours: list[float] = []
        self.peer: list[float] = []
        self.since: float | None = None

    def on_train_batch_end(self, *_: Any) -> None:
        now = time.perf_counter()
        if self.since is not None:
            self.ours.append(now - self.since)
        start = time.perf_counter()
        self.loop.step(next(self.batches))
        self.since = time.perf_counter()
        if self.ours:  # the first step of ours builds caches and is not timed
            self.peer.append(self.since - start)


def speed(resolved: Resolved, pairs: int, compiled: bool, warm: int = 3) -> dict[str, Any]:
    """Train both in turn and return tokens a second, with the median of the pairs' ratios: above 1 ours is faster."""
    pl.seed_everything(resolved.seed, verbose=False)
    data: Any = build_data(resolved)
    task = build_for_training(resolved, data)
    model = gpt2(resolved.document["model"], dict(data.spec))
    if compiled:
        task.model.compile()
        model.compile()
    steps = pairs + warm + 1
    loop = PlainLoop(model, resolved.optimization, steps=steps, clip=resolved.trainer["gradient_clip_val"])
    turn = InTurn(loop, chain.from_iterable(map(iter, repeat(data.train_dataloader()))))
    options = {**resolved.trainer, "max_epochs": -1, "max_steps": steps, "limit_val_batches": 0}
    with quiet_libraries(), tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            **options,
            callbacks=[turn],
            logger=False,
            default_root_dir=folder,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        thin(trainer).fit(task, datamodule=data)
    ours, peer = turn.ours[warm:], turn.peer[warm:]
    ratios = [b / a for a, b in zip(ours, peer, strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4)
    tokens = data.batch_size * data.context
    return {
        "compiled": compiled,
        "weights": sum(each.numel() for each in model.parameters()),
        "tokens_a_step": tokens,
        "ours": tokens / statistics.median(ours),
        "peer": tokens / statistics.median(peer),
        "ratio": statistics.median(ratios),
        "quartiles": [low, high],
        "pairs": len(ratios),
    }


def generating(resolved: Resolved, pairs: int, batches: list[int], tokens: int) -> list[dict[str, Any]]:
    """Let both write greedily from equal prompts; return tokens a second, and the median of the pairs' ratios."""
    from toolkit_text.models.language_decoder import LanguageDecoder

    pl.seed_everything(resolved.seed, verbose=False)
    data: Any = build_data(resolved)
    ours: Any = build_for_training(resolved, data).model.eval()
    peer = gpt2(resolved.document["model"], dict(data.spec)).eval()
    found = []
    for batch in batches:
        prompt = next(iter(data.val_dataloader())).tokens[:1, :32].expand(batch, -1).contiguous()

        def write(prompt: Any = prompt) -> None:
            decoder = LanguageDecoder(ours, batch=len(prompt), length=prompt.shape[1] + tokens)
            written = list(sample(decoder, prompt, tokens=tokens, sampling=Sampling(temperature=0)))
            assert len(written) == tokens

        def peer_writes(prompt: Any = prompt) -> None:
            with torch.inference_mode():
                written = peer.generate(
                    prompt,
                    attention_mask=torch.ones_like(prompt),
                    max_new_tokens=tokens,
                    min_new_tokens=tokens,
                    do_sample=False,
                    use_cache=True,
                    pad_token_id=data.spec["pad"],
                )
            assert written.shape[1] == prompt.shape[1] + tokens

        timed = paired(write, peer_writes, pairs=pairs, warm=1)
        found.append(
            {
                "batch": batch,
                "tokens": tokens,
                "ours": 1e3 * batch * tokens / timed.ours_ms,
                "peer": 1e3 * batch * tokens / timed.peer_ms,
                "ratio": timed.ratio,
                "quartiles": [timed.low, timed.high],
                "pairs": pairs,
            }
        )
    return found


NAMES = ("read", "parse", "get_name", "close", "is_valid", "write", "load", "find", "format", "update")


def parsing(run: str, count: int, temperature: float, tokens: int) -> dict[str, Any]:
    """Let a run write functions from their first words; return the share that `ast.parse` accepts.

    A function is what follows `def name(` up to the next line that is not indented; one that did not end within its
    tokens counts as not parsed.
    """
    task: Any = checkpoint.restore(run).task
    parsed = ended = 0
    for place, name in enumerate(NAMES):
        prompt = f"def {name}("
        texts = [""] * (count // len(NAMES))
        sampling = Sampling(temperature=temperature, seed=place)
        for step in task.write(prompt, num=len(texts), tokens=tokens, sampling=sampling):
            texts = [text + new.text for text, new in zip(texts, step, strict=True)]
        for text in texts:
            function = whole_function(prompt + text)
            ended += function is not None
            parsed += function is not None and parses(function)
    total = count // len(NAMES) * len(NAMES)
    return {
        "functions": total,
        "temperature": temperature,
        "ended": ended / total,
        "parsed": parsed / total,
        "parsed_of_ended": parsed / ended if ended else None,
    }


def whole_function(text: str) -> str | None:
    """Return the function that a text begins with; None where the text stops before it has ended."""
    lines = text.split("\n")
    inside = 0  # brackets that are open make a line that is not indented a part of the function
    for place, line in enumerate(lines):
        if place and not inside and line and not line[0].isspace() and line[0] not in ")]}#":
            return "\n".join(lines[:place])
        inside = max(0, inside + sum(line.count(each) for each in "([{") - sum(line.count(each) for each in ")]}"))
    return None


def parses(code: str) -> bool:
    try:
        ast.parse(textwrap.dedent(code))
    except (SyntaxError, ValueError):
        return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*")
    for name in ("xz", "equal", "speed", "generate", "json"):
        parser.add_argument(f"--{name}", action="store_true")
    parser.add_argument("--parse", metavar="RUN")
    parser.add_argument("--compile", action="store_true", help="with --speed: both through torch.compile")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--tokens", type=int, default=128, help="that --generate and --parse write")
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 8])
    parser.add_argument("--functions", type=int, default=200)
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    found: dict[str, Any] = {"machine": machine()}
    if given.xz:
        found["xz"] = xz(chosen(given.overrides))
    if given.equal:
        found["equal"] = equal(given.overrides, given.steps, list(range(given.seeds)))
    if given.speed:
        found["speed"] = speed(chosen(given.overrides), given.pairs, given.compile)
    if given.generate:
        found["generate"] = generating(chosen(given.overrides), given.pairs, given.batches, given.tokens)
    if given.parse:
        found["parse"] = parsing(given.parse, given.functions, given.temperature, given.tokens)
    print(json.dumps(found, indent=None if given.json else 2))


if __name__ == "__main__":
    main()
