"""`toolkit bench attention`: what our layers cost beside the plain way to compute the same."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from toolkit.attention import MultiHeadAttention, Need, Request, build, causal, pushed, rollout, window
from toolkit.bench.measure import Step, apart, paired, peak_mib, seconds

HEADS, HEAD_DIM = 8, 64
WINDOW = 256
LAYER_LENGTHS = (512, 1024, 2048, 4096)
WINDOW_LENGTHS = (4096, 8192, 16384, 32768)
LINEAR_LENGTHS = (4096, 8192, 16384, 32768, 65536)
WEIGHTS_LENGTH = 32768
ROWS_LENGTH = 8192
GRAPHS = ((10_000, 100_000), (100_000, 2_000_000))


@dataclass(frozen=True)
class Row:
    """One measurement. target: what the ratio, or the figure, has to reach, in words; met: whether it does."""

    section: str
    what: str
    figures: dict[str, float]
    target: str = ""
    met: bool | None = None


def drawn(length: int, count: int = 3, *, grad: bool = True, device: str = "cpu") -> list[Tensor]:
    """Draw queries, keys and values. Shapes: (1, H, L, D)."""
    made = torch.Generator().manual_seed(length)
    shape = (1, HEADS, length, HEAD_DIM)
    return [torch.randn(shape, generator=made).to(device).requires_grad_(grad) for _ in range(count)]


def forward_backward(attend: Callable[..., Tensor], inputs: list[Tensor]) -> Step:
    """Return a step that attends and sends gradients to every input."""

    def step() -> None:
        torch.autograd.grad(attend(*inputs).sum(), inputs)

    return step


def layer(pairs: int) -> Iterator[Row]:
    """Compare `MultiHeadAttention` with the same projections around torch's own attention."""
    ours = MultiHeadAttention(dim=HEADS * HEAD_DIM, heads=HEADS)
    for length in LAYER_LENGTHS:
        x = torch.randn(1, length, ours.dim, generator=torch.Generator().manual_seed(0)).requires_grad_()

        def direct(x: Tensor) -> Tensor:
            parts = (
                project(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for project in (ours.query, ours.key, ours.value)
            )
            q, k, v = parts
            values = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            out: Tensor = ours.out(values.transpose(1, 2).flatten(2))
            return out

        def layered(x: Tensor) -> Tensor:
            return ours(x, pattern=causal()).values

        for what, one, other in (
            ("forward", _without_gradients(layered, x), _without_gradients(direct, x)),
            ("forward + backward", forward_backward(layered, [x]), forward_backward(direct, [x])),
        ):
            found = paired(one, other, pairs=pairs)
            cost = 1 / found.ratio
            yield Row("layer", f"L = {length}, {what}", found.plain() | {"cost": cost}, "cost <= 1.05", cost <= 1.05)


def _without_gradients(attend: Callable[[Tensor], Tensor], x: Tensor) -> Step:
    def step() -> None:
        with torch.no_grad():
            attend(x)

    return step


def windows(pairs: int) -> Iterator[Row]:
    """Compare a sliding window with torch's attention under the equal mask; then let the length grow."""
    attend, pattern = build("scaled_dot_product", heads=HEADS, dim=HEAD_DIM), window(WINDOW, 0)
    length = WINDOW_LENGTHS[0]
    inputs, mask = drawn(length), pattern.mask(length, length)
    ours = forward_backward(lambda q, k, v: attend(q, k, v, pattern).values, inputs)
    peer = forward_backward(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=mask), inputs)
    found = paired(ours, peer, pairs=max(3, pairs // 4), warm=1)
    yield Row("window", f"L = {length}, forward + backward", found.plain(), "ratio >= 4", found.ratio >= 4)
    yield from _growth("window", WINDOW_LENGTHS, lambda q, k, v: attend(q, k, v, pattern).values)


def linear(pairs: int) -> Iterator[Row]:
    """Let the length of causal linear attention grow, and its memory in a process of its own."""
    attend = build("linear", heads=HEADS, dim=HEAD_DIM)
    yield from _growth("linear", LINEAR_LENGTHS, lambda q, k, v: attend(q, k, v, causal()).values)
    for length in LINEAR_LENGTHS:
        yield Row("linear", f"L = {length}, memory", apart(__name__, "linear", str(length)))


def _growth(section: str, lengths: tuple[int, ...], attend: Callable[..., Tensor]) -> Iterator[Row]:
    per_token = None
    for length in lengths:
        step = forward_backward(attend, drawn(length))
        step()
        taken = 1e6 * min(seconds(step) for _ in range(3)) / length
        per_token = taken if per_token is None else per_token
        growth = taken / per_token
        figures = {"us_per_token": taken, "growth": growth}
        yield Row(section, f"L = {length}, time a token", figures, "growth <= 1.3", growth <= 1.3)


def weights(pairs: int) -> Iterator[Row]:
    """Weigh exact weights of chosen rows, received mass and rollout against the forward pass alone, inputs counted."""
    forward = apart(__name__, "forward", str(WEIGHTS_LENGTH))
    yield Row("weights", f"L = {WEIGHTS_LENGTH}, forward alone", forward)
    for what in ("rows", "received", "pushed", "rollout"):
        found = apart(__name__, what, str(WEIGHTS_LENGTH))
        times = found["above_imports_mib"] / forward["above_imports_mib"]
        yield Row(
            "weights", f"L = {WEIGHTS_LENGTH}, {what}", found | {"times": times}, "times <= 2 of the peak", times <= 2
        )


def rows(pairs: int) -> Iterator[Row]:
    """Train through the backend `rows`, which scores no more than some rows at a time, and weigh its memory."""
    found = apart(__name__, "trained", str(ROWS_LENGTH))
    times = found["above_start_mib"] / (HEADS * ROWS_LENGTH**2 * 4 / 2**20)
    what = f"L = {ROWS_LENGTH}, talking_heads, forward + backward"
    yield Row("rows", what, found | {"times": times}, "times <= 0.5 of one L x L tensor", times <= 0.5)


def edges(pairs: int) -> Iterator[Row]:
    """Compare attention on the edges of a random graph with PyG's layers of the same weights."""
    from toolkit.bench.edges import compare

    for nodes, num_edges in GRAPHS:
        for name, found in compare(nodes, num_edges, pairs=max(3, pairs // 2 if nodes < 50_000 else 3)):
            yield Row("edges", f"{name}, N = {nodes}, E = {num_edges}", found.plain(), "ratio >= 1", found.ratio >= 1)


SECTIONS: dict[str, Callable[[int], Iterator[Row]]] = {
    "layer": layer,
    "window": windows,
    "weights": weights,
    "rows": rows,
    "linear": linear,
    "edges": edges,
}


def weigh(what: str, length: int) -> dict[str, Any]:
    """Do one thing in this process.

    Returns its seconds, and its peak memory in MiB: in all, above the imports (so with its inputs), and above both.
    """
    name = {"linear": "linear", "trained": "talking_heads"}.get(what, "scaled_dot_product")
    attend, grad = build(name, heads=HEADS, dim=HEAD_DIM), name != "scaled_dot_product"
    small = drawn(64, grad=grad)
    _weigh(what, attend, small)  # libraries are loaded and threads started by now
    imports = peak_mib()
    inputs = drawn(length, grad=grad)
    start = peak_mib()
    taken = seconds(lambda: _weigh(what, attend, inputs))
    peak = peak_mib()
    return {"seconds": taken, "peak_mib": peak, "above_imports_mib": peak - imports, "above_start_mib": peak - start}


def _weigh(what: str, attend: Any, inputs: list[Tensor]) -> None:
    q, k, v = inputs
    asked = Request(q=q, k=k, v=v, pattern=causal())
    if what in ("linear", "trained"):
        forward_backward(lambda q, k, v: attend(q, k, v, causal()).values, inputs)()
        return
    with torch.no_grad():
        if what == "forward":
            attend(q, k, v, causal())
        elif what == "rows":
            attend(q, k, v, causal(), need=Need(rows=list(range(0, q.shape[2], q.shape[2] // 64))))
        elif what == "received":
            attend(q, k, v, causal(), need=Need(weights=False, received=True))
        elif what == "pushed":
            pushed(attend, asked, torch.ones(1, 1, q.shape[2], 1))
        elif what == "rollout":
            rollout([(attend, asked), (attend, asked)], [q.shape[2] - 1])


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(weigh(sys.argv[1], int(sys.argv[2]))))
