"""`toolkit predict`."""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click

from toolkit.cli.output import json_option, note, print_json, print_table, say
from toolkit.errors import RunError

SHOWN = 20
"""Rows that are printed when nobody said how many."""
LARGEST, WIDEST = 3, 100
"""Of a cell with many numbers by name, or a long list: what is printed. Files and JSON hold all."""


@click.command("predict", short_help="Write a trained run's predictions as a table, CSV or JSON lines.")
@click.argument("run")
@click.argument("overrides", nargs=-1, metavar="[DATA.KEY=VALUE]...")
@click.option("--text", "texts", multiple=True, metavar="TEXT", help="A text to predict; may be given again.")
@click.option("--file", type=click.Path(path_type=Path, dir_okay=False), help="A file with texts to predict.")
@click.option("--column", "columns", multiple=True, help="Its column with the text; that of the run's data by default.")
@click.option("--encoding", default="", metavar="NAME", help="Its encoding; that of the run's data by default.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="A .csv or .jsonl file.")
@click.option("--top", type=click.IntRange(min=1), metavar="N", help=f"Only the first N rows; printed: {SHOWN}.")
@json_option
def command(
    run: str,
    overrides: tuple[str, ...],
    texts: tuple[str, ...],
    file: Path | None,
    columns: tuple[str, ...],
    encoding: str,
    out: Path | None,
    top: int | None,
    as_json: bool,
) -> None:
    """Predict every item of a trained run's data, or new texts, one row an item.

    RUN is a run directory (its best checkpoint is used) or a checkpoint file. In a .csv file the probability of each
    class has a column, `probabilities.CLASS`; rows of a .jsonl file stay nested.
    """
    if out is not None and out.suffix not in WRITERS:
        raise click.UsageError(f"--out {out}: the file name must end in {' or '.join(WRITERS)}")

    if out is not None and file is not None and out.resolve() == file.resolve():
        raise click.UsageError(f"--out {out} is the file that is read: give another name, or its texts are lost")
    if bool(texts) + (file is not None) + bool(overrides) > 1:
        raise click.UsageError("give one of --text, --file and data.KEY=VALUE: each says what is to be predicted")
    if (columns or encoding) and file is None:
        raise click.UsageError(f"{'--column' if columns else '--encoding'} belongs to --file")

    from toolkit import trained
    from toolkit.files import writing

    rows: Iterable[dict[str, Any]]
    if texts:
        rows = [{**row, "text": text} for row, text in zip(trained.predict_texts(run, texts), texts, strict=True)]
    elif file is not None:
        rows = trained.predict_file(run, file, columns, encoding)
    else:
        rows = trained.predict(run, list(overrides))
    rows = itertools.islice(rows, top)
    if out is not None:
        count = 0

        def counted(made: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
            nonlocal count
            for row in made:
                count += 1
                yield row

        if file is None:  # a large file is written while it is read
            rows = list(rows)
            count = len(rows)
        with writing(out) as written:
            for line in WRITERS[out.suffix](rows if isinstance(rows, list) else counted(rows)):
                written.write(line.encode())
        if as_json:
            print_json({"run": run, "rows": count, "out": str(out)})
        else:
            say(f"{count} rows in {out}")
        return
    rows = list(rows)
    if as_json:
        print_json({"run": run, "rows": rows})
    else:
        shown = rows[: top or SHOWN]
        names = list(dict.fromkeys(key for row in shown for key in row))
        print_table(names, [[printed(row.get(name, "")) for name in names] for row in shown])
        if len(rows) > len(shown):
            note(f"{len(rows) - len(shown)} more rows; --out FILE.csv writes all {len(rows)}")


def printed(value: Any) -> str:
    """Return a cell as a person reads it: of many numbers by name the largest few, of long lists the beginning."""
    if isinstance(value, dict) and len(value) > LARGEST and all(type(each) in (int, float) for each in value.values()):
        largest = sorted(value.items(), key=lambda item: -item[1])[:LARGEST]
        listed = ", ".join(f"{name} {_rounded(number)}" for name, number in largest)
        return f"{listed}, {len(value) - LARGEST} more"
    text = _cell(_rounded(value))
    return f"{text[:WIDEST]}..." if isinstance(value, dict | list) and len(text) > WIDEST else text


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _cell(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else str(value)


def _csv(rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Yield rows as lines of CSV: a nested mapping has a column for each of its keys, as programs read tables.

    The columns of a list are those of all its rows; of rows that are still being made, those of the first.
    """
    flat: Iterator[dict[str, Any]] = map(_flat, rows)
    if isinstance(rows, list):
        flat = iter(known := list(flat))
        names = list(dict.fromkeys(key for row in known for key in row))
    else:
        first = next(flat, {})
        names, flat = list(first), itertools.chain([first] if first else [], flat)
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    for row in flat:
        if strange := [name for name in row if name not in names]:
            raise RunError(
                f"--out: a row has {strange[0]!r}, which the first had not; take a .jsonl file, which keeps rows apart"
            )
        writer.writerow({key: _cell(value) if isinstance(value, list | dict) else value for key, value in row.items()})
        yield _taken(text)
    yield _taken(text)


def _taken(text: io.StringIO) -> str:
    found = text.getvalue()
    text.seek(0)
    text.truncate()
    return found


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in row.items():
        inner = _flat(value) if isinstance(value, dict) and value else {"": value}
        for name, item in inner.items():
            column = f"{key}.{name}" if name else key
            if column in found:
                raise RunError(
                    f"--out: two columns would be called {column!r}; take a .jsonl file, which keeps rows nested"
                )
            found[column] = item
    return found


def _jsonl(rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    for row in rows:
        yield json.dumps(row, ensure_ascii=False) + "\n"


WRITERS = {".csv": _csv, ".jsonl": _jsonl}
