"""Our two-layer GAT beside PyTorch Geometric's, step for step on the same data, in one process.

    python benchmarks/graph.py                              # Cora and PubMed; about two minutes
    python benchmarks/graph.py --data cora --pairs 100 --json
    python benchmarks/graph.py --overhead                   # and what our trainer adds to a plain loop of the model

Both have 8 heads of size 8, one output head, dropout 0.6 on inputs and weights, ELU and Adam. PyG reads dense features,
as in its own example; ours reads what the data module gives. Before the clock starts the weights are copied over and
the logits compared. Steps alternate, ours and theirs, and the ratio is the median of the pairs' ratios.
Rows marked "all nodes" compute every node's last layer, as PyG's do; the others only what the loss looks at.
Peak memory is that of a fresh process for each, imports included.

Both run on one thread unless --threads says otherwise: with more threads than idle cores every small operation waits
for the slowest, and the clock shows the machine's other work. On a quiet machine, --threads 2 is worth a look too.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from graph_overhead import line, measure
from torch import Tensor, nn
from torch.nn import functional as F

from toolkit.bench.measure import machine, paired, peak_mib, run_apart

HIDDEN, HEADS, DROPOUT = 8, 8, 0.6
Step = Callable[[], Tensor]


def steps_of(model: nn.Module, logits: Callable[[str], Tensor], target: dict[str, Tensor]) -> dict[str, Step]:
    """Return a training step on the train nodes and an evaluation step on the validation nodes."""
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3, weight_decay=5e-4)

    def train() -> Tensor:
        model.train()
        optimizer.zero_grad()
        loss = F.cross_entropy(logits("train"), target["train"])
        loss.backward()
        optimizer.step()
        return loss

    @torch.no_grad()
    def evaluate() -> Tensor:
        model.eval()
        return F.cross_entropy(logits("val"), target["val"])

    return {"train": train, "evaluate": evaluate}


def theirs(work: dict[str, Any]) -> tuple[nn.Module, Callable[[str], Tensor]]:
    """Build PyG's model. Shapes: work x (N, F) dense, index (2, E) without self-loops, which GATConv adds."""
    from torch_geometric.nn import GATConv

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = GATConv(work["x"].shape[1], HIDDEN, HEADS, dropout=DROPOUT)
            self.second = GATConv(HIDDEN * HEADS, work["classes"], heads=1, concat=False, dropout=DROPOUT)

        def forward(self, x: Tensor, index: Tensor) -> Tensor:
            x = F.elu(self.first(F.dropout(x, DROPOUT, self.training), index))
            return self.second(F.dropout(x, DROPOUT, self.training), index)

    model = Network()
    return model, lambda split: model(work["x"], work["index"])[work[split]]


def ours(work: dict[str, Any], *, all_nodes: bool = False) -> tuple[nn.Module, Callable[[str], Tensor]]:
    """Build our model over the same graph, self-loops included. Shapes: work x (N, F) in the data module's layout."""
    from toolkit_graph.data.batch import GraphBatch
    from toolkit_graph.models.attention_network import AttentionNetwork

    from toolkit.attention import edges
    from toolkit.attention.gat import GAT

    class Chosen:
        def build(self, *, heads: int, dim: int) -> GAT:
            return GAT(heads=heads, dim=dim, dropout=DROPOUT)

    model = AttentionNetwork(
        features=work["x"].shape[1],
        classes=work["classes"],
        attention=Chosen(),
        hidden=HIDDEN,
        heads=HEADS,
        dropout=DROPOUT,
    )
    num_nodes = work["x"].shape[0]
    index = torch.cat([work["index"], torch.arange(num_nodes).expand(2, -1)], 1)
    whole = GraphBatch(target=work["train"], x=work["x"], pattern=edges(index, num_nodes))
    batches = {split: whole if all_nodes else replace(whole, items=work[split]) for split in ("train", "val")}

    def logits(split: str) -> Tensor:
        answer: Tensor = model(batches[split])
        return answer[work[split]] if all_nodes else answer

    return model, logits


def copy_weights(source: Any, model: Any) -> None:
    """Copy PyG's weights into our layers."""
    with torch.no_grad():
        for layer, conv in zip(model.layers, (source.first, source.second), strict=True):
            layer.weight.copy_(conv.lin.weight.T)
            layer.bias.copy_(conv.bias)
            layer.mechanism.query_weight.copy_(conv.att_dst[0])
            layer.mechanism.key_weight.copy_(conv.att_src[0])


def read(name: str, folder: str | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read a data set once; return what our model and what PyG's model gets: the same numbers in two layouts."""
    from toolkit_graph.data.planetoid import Planetoid

    data = Planetoid(name=name, folder=folder)  # type: ignore[arg-type]
    data.prepare_data()
    data.setup("fit")
    index = data.index[:, data.index[0] != data.index[1]]
    shared = {"index": index, "classes": int(data.target.max()) + 1, "target": data.target}
    shared |= {split: data.split(split) for split in ("train", "val")}
    dense = data.x.to_dense() if data.x.layout is torch.sparse_csr else data.x
    return {**shared, "x": data.x}, {**shared, "x": dense}


def compare(name: str, folder: str | None, count: int) -> list[dict[str, Any]]:
    """Time and weigh both models on one data set."""
    mine, his = read(name, folder)
    target = {split: mine["target"][mine[split]] for split in ("train", "val")}
    torch.manual_seed(0)
    peer, peer_logits = theirs(his)
    rows = []
    for suffix, all_nodes in (("", False), (", all nodes", True)):
        model, logits = ours(mine, all_nodes=all_nodes)
        copy_weights(peer, model)
        model.eval(), peer.eval()
        torch.testing.assert_close(logits("val"), peer_logits("val"), atol=1e-4, rtol=1e-4)
        fast, slow = steps_of(model, logits, target), steps_of(peer, peer_logits, target)
        for step in fast:
            found = paired(fast[step], slow[step], pairs=count, warm=3)
            rows.append({"data": name, "step": step + suffix, **found.plain()})
    with tempfile.TemporaryDirectory() as temporary:
        peaks = {}
        for who, work in (("ours", mine), ("pyg", his)):
            path = Path(temporary) / f"{who}.pt"
            torch.save(work, path)
            peaks[who] = weigh_apart(who, path)
    rows.append(
        {
            "data": name,
            "step": "peak memory",
            "ours_mib": peaks["ours"]["peak"],
            "peer_mib": peaks["pyg"]["peak"],
            "ours_above_start_mib": peaks["ours"]["peak"] - peaks["ours"]["start"],
            "peer_above_start_mib": peaks["pyg"]["peak"] - peaks["pyg"]["start"],
            "ratio": peaks["pyg"]["peak"] / peaks["ours"]["peak"],
        }
    )
    return rows


def weigh_apart(who: str, path: Path) -> dict[str, float]:
    """Run ten steps of one model in a fresh process. Returns MiB at the end of importing, and at the peak."""
    return run_apart([__file__, f"--threads={torch.get_num_threads()}", "--weigh", who, str(path)])


def weigh(who: str, path: str) -> None:
    if who == "pyg":
        import torch_geometric.nn  # noqa: F401
    else:
        import toolkit_graph.models.attention_network  # noqa: F401
    start = peak_mib()
    work = torch.load(path, weights_only=True)
    target = {split: work["target"][work[split]] for split in ("train", "val")}
    model, logits = (theirs if who == "pyg" else ours)(work)
    for step in steps_of(model, logits, target).values():
        for _ in range(10):
            step()
    print(json.dumps({"start": start, "peak": peak_mib()}))


def versions() -> dict[str, Any]:
    import torch_geometric

    return machine() | {"torch_geometric": torch_geometric.__version__}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=["cora", "pubmed"], choices=["cora", "citeseer", "pubmed"])
    parser.add_argument("--folder", help="where the files of the data set already are")
    parser.add_argument("--pairs", type=int, default=40, help="timed pairs of steps")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch, for both")
    parser.add_argument("--overhead", action="store_true", help="also what Lightning and logging add to a plain loop")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--weigh", nargs=2, metavar=("WHO", "FILE"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.weigh:
        weigh(*given.weigh)
        return
    overhead = measure() if given.overhead else None
    rows = [row for name in given.data for row in compare(name, given.folder, given.pairs)]
    if given.json:
        print(json.dumps({"machine": versions(), "rows": rows, "overhead": overhead}, indent=2))
        return
    print(", ".join(f"{key} {value}" for key, value in versions().items()))
    print(f"{'':8} {'':20} {'ours':>10} {'PyG':>10}   PyG / ours")
    for row in rows:
        kind = "mib" if "ours_mib" in row else "ms"
        low, high = row.get("low"), row.get("high")
        spread = f"  (quartiles {low:.2f} to {high:.2f})" if low else ""
        figures = f"{row[f'ours_{kind}']:>10.2f} {row[f'peer_{kind}']:>10.2f}   {row['ratio']:.2f}{spread}"
        print(f"{row['data']:8} {row['step']:20} {figures}")
    if overhead is not None:
        print(line(overhead))


if __name__ == "__main__":
    main()
