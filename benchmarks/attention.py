"""The toolkit's attention beside other packages, and beside the plain way to compute the same.

    python benchmarks/attention.py                                     # everything; some twenty minutes on one thread
    python benchmarks/attention.py --section peers --peer linformer --length 1024 --pairs 30
    python benchmarks/attention.py --section conformance --json
    python benchmarks/attention.py --section peers peer-lengths conformance --record    # and write it into the docs

Sections layer, window, weights, linear, edges and lengths are those of `toolkit bench attention`. The others are beside
x-transformers, local-attention, performer-pytorch, linformer and nystrom-attention, which `pip install -e ".[bench]"`
installs; a package that is not there is told, and the rest is measured.

peers: speed and memory of the same layer, same sizes and weights; equal outputs and gradients are asserted first where
both compute the same numbers. Steps alternate, ours and theirs, and the ratio is the median of the pairs' ratios,
theirs over ours: above 1 ours is faster. Memory is what forward and backward add in a fresh process.
peer-lengths: time and memory against length, as a picture. conformance: what `toolkit conform` finds in each of them,
through a thin adapter that declares what the package claims.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from attention_peers import record, scoreboard, speed
from attention_peers.packages import MODULES, versions
from attention_peers.pairs import KINDS

from toolkit.bench import attention, lengths
from toolkit.bench.attention import Row
from toolkit.bench.measure import machine
from toolkit.cli.output import note, print_table, say
from toolkit.provenance import now

PEERS = ("peers", "peer-lengths", "conformance")
SECTIONS = (*attention.SECTIONS, "lengths", *PEERS)
Found = dict[str, Any]


def measured(rows: Any) -> Found:
    """Collect rows, telling each as it comes."""
    kept: list[Row] = []
    for row in rows:
        note(f"{row.section}: {row.what}: {figures(row.figures)}")
        kept.append(row)
    return {"rows": [asdict(row) for row in kept]}


def figures(found: dict[str, float]) -> str:
    """Return figures as words: a ratio with its quartiles, whatever else by its name."""
    if "ours_ms" in found:
        times = f"ours {found['ours_ms']:.1f} ms, peer {found['peer_ms']:.1f} ms"
        return f"{times}, peer / ours {found['ratio']:.2f} (quartiles {found['low']:.2f} to {found['high']:.2f})"
    return ", ".join(f"{name} {value:.4g}" for name, value in found.items() if name != "length")


def drawn(given: argparse.Namespace, module: Any, points: Any, name: str) -> Found:
    """Collect points, telling each as it comes, and draw them."""
    kept = []
    for point in points:
        note(
            ", ".join(
                f"{key} {value:.4g}" if key != "length" and isinstance(value, float) else f"{key} {value}"
                for key, value in asdict(point).items()
            )
        )
        kept.append(point)
    found: Found = {"points": [asdict(point) for point in kept]}
    if kept:
        device = "GPU" if torch.cuda.is_available() else "CPU"
        found["picture"] = str(module.draw(kept, given.out / name, device=device))
    return found


def held(peers: dict[str, scoreboard.Tested]) -> Found:
    """Hold peers and ours to the conformance kit."""
    kept = []
    for column in scoreboard.columns(peers):
        note(f"{column.name}: {column.absent or ', '.join(each.check for each in column.broken) or 'nothing breaks'}")
        kept.append(column.plain())
    return {"columns": kept}


def run(section: str, given: argparse.Namespace) -> Found:
    """Run one section. Returns what it found as plain values."""
    kinds = {name: kind for name, kind in KINDS.items() if kind.package in given.peer}
    peers = {name: each for name, each in scoreboard.PEERS.items() if each.package in given.peer}
    chosen: dict[str, Callable[[], Found]] = {
        "lengths": lambda: drawn(given, lengths, lengths.points(), "attention.png"),
        "peers": lambda: {
            **measured(speed.rows(kinds, tuple(given.length), given.pairs)),
            "absent": speed.absent(kinds),
        },
        "peer-lengths": lambda: (
            drawn(
                given,
                speed,
                speed.points({name: kinds[name] for name in speed.DRAWN if name in kinds}),
                "attention_peers.png",
            )
            | {"absent": speed.absent(kinds)}
        ),
        "conformance": lambda: held(peers),
    }
    return chosen[section]() if section in chosen else measured(attention.SECTIONS[section](given.pairs))


def tell(section: str, found: Found) -> None:
    """Print what a section found."""
    if found.get("rows"):
        verdict = {True: "met", False: "MISSED", None: ""}
        cells = [(row["what"], figures(row["figures"]), row["target"], verdict[row["met"]]) for row in found["rows"]]
        print_table([section, "figures", "target", ""], cells, wrapped=True)
    if "picture" in found:
        say(f"picture: {found['picture']}")
    for why in found.get("absent", {}).values():
        say(f"{section}: not compared with: {why}")
    if section == "peers":
        for name, kind in KINDS.items():
            if any(row["what"].startswith(f"{name}, L") for row in found["rows"]):
                say(f"{name}: equal: {kind.same}{f'; not equal: {kind.differs}' if kind.differs else ''}")
    if "columns" in found:
        heading, marks = scoreboard.table(found["columns"])
        if marks:
            print_table([heading[0], *(str(place) for place in range(1, len(heading)))], marks)
        say(", ".join(f"{place} {name}" for place, name in enumerate(heading[1:], 1)) + f"\n{scoreboard.LEGEND}\n")
        for column in found["columns"]:
            if column["absent"]:
                say(f"conformance: not held to it: {column['name']}: {column['absent']}")
            for each in column["broken"]:
                say(f"{column['name']} breaks {each['check']}: {each['detail']}\n    {each['rerun']}")


def keep(sections: dict[str, Found], given: argparse.Namespace) -> None:
    """Write what was found of other packages into the docs."""
    asked = {"section": [*sections], "length": given.length, "pairs": [given.pairs], "threads": [given.threads]}
    words = [f"--{name} {' '.join(str(each) for each in values)}" for name, values in asked.items()]
    made = {
        "made": now(),
        "machine": machine(),
        "packages": versions(),
        "command": f"python benchmarks/attention.py {' '.join(words)} --record",
    }
    if "peer-lengths" in sections:
        record.PICTURE.write_bytes(Path(sections["peer-lengths"].pop("picture")).read_bytes())
    kept = record.store({name: found | made for name, found in sections.items() if name in PEERS})
    record.PAGE.write_text(record.renewed(record.PAGE.read_text(encoding="utf-8"), kept), encoding="utf-8")
    note(f"written: {record.STORE.name} and {record.PAGE.name}")


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--section", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="some sections only")
    parser.add_argument("--peer", nargs="+", choices=list(MODULES), default=list(MODULES), help="some packages only")
    parser.add_argument("--length", nargs="+", type=int, default=list(speed.LENGTHS), help="lengths of section peers")
    parser.add_argument("--pairs", type=int, default=12, help="timed pairs of steps")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch, for both")
    parser.add_argument(
        "--out", type=Path, default=Path("bench"), metavar="FOLDER", help="where pictures and the table go"
    )
    parser.add_argument("--json", action="store_true", help="print JSON and nothing else on standard output")
    parser.add_argument("--record", action="store_true", help="write what is found of other packages into the docs")
    parser.add_argument("--weigh", nargs=3, metavar=("KIND", "SIDE", "LENGTH"), help=argparse.SUPPRESS)
    given = parser.parse_args(words)
    if given.pairs < 3:
        parser.error("--pairs: quartiles need at least 3")
    if wrong := [length for length in given.length if length < 1 or length % speed.BLOCK]:
        parser.error(f"--length: {wrong} are no multiples of {speed.BLOCK}, the size of blocks")
    if given.record:
        gone = speed.absent(KINDS)
        if set(given.peer) != set(MODULES) or gone:
            parser.error("--record wants every package. " + "; ".join(gone.values()))
    return given


def main() -> None:
    given = arguments()
    torch.set_num_threads(given.threads)
    if given.weigh:
        name, side, length = given.weigh
        print(json.dumps(speed.weigh(name, side, int(length))))
        return
    about = machine() | versions()
    if not given.json:
        say(", ".join(f"{key} {value}" for key, value in about.items() if value is not None))
    sections: dict[str, Found] = {}
    for section in dict.fromkeys(given.section):
        sections[section] = run(section, given)
        if not given.json:
            tell(section, sections[section])
    given.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"machine": about, "sections": sections}, indent=2)
    (given.out / "attention.json").write_text(text + "\n", encoding="utf-8")
    if given.json:
        print(text)
    if given.record:
        keep(sections, given)


if __name__ == "__main__":
    main()
