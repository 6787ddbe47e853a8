"""Layers of other packages and of ours with the same sizes and weights, and what makes them comparable.

Where both compute the same, outputs and gradients are asserted equal before a clock starts. Where they approximate
differently, `differs` says in what, and what both miss of softmax attention stands beside the times.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attention_peers.packages import load
from toolkit.attention import Mechanism, MultiHeadAttention, Pattern, build, causal, padding

HEADS, HEAD_DIM = 8, 64
DIM = HEADS * HEAD_DIM
BLOCK = 256
SLOTS = 256
LANDMARKS = 64
FEATURES = 266
SAMPLES = 4
Attend = Callable[..., Tensor]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Our side and a peer's, to be called with `inputs`: x (B, L, DIM), or q, k, v (B, H, L, D).

    real: the tokens (B, L) whose rows are compared; None for all. missed: takes inputs and an output, and gives what it
    misses of what softmax attention adds to the plain mean of values: |found - exact| / |mean - exact|.
    """

    ours: Attend
    peer: Attend
    inputs: list[Tensor]
    modules: tuple[nn.Module, nn.Module]
    real: Tensor | None = None
    missed: Callable[..., float] | None = None


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One comparison. same: what is equal, in words. differs: what is not; empty if both compute the same numbers.

    make: takes the length. proof: a pair that is the same where the difference is gone. most: the longest length to
    measure, where the peer's memory forbids more.
    """

    package: str
    make: Callable[[int], Pair]
    same: str
    differs: str = ""
    proof: Callable[[int], Pair] | None = None
    most: int = 1 << 20


def check(kind: Kind, length: int) -> None:
    """Assert equal outputs and gradients, in double precision, of a pair that computes the same, or of its proof.

    The tolerance leaves room for a softmax in single precision, which x-transformers takes of any type.
    Raises: AssertionError.
    """
    make = kind.proof if kind.differs else kind.make
    if make is None:
        return
    pair = make(length)
    for module in pair.modules:
        module.double()
    inputs = [each.detach().double().requires_grad_() for each in pair.inputs]
    outputs = [attend(*inputs) for attend in (pair.ours, pair.peer)]
    if pair.real is not None:
        outputs = [each[pair.real] for each in outputs]
    torch.testing.assert_close(*outputs, atol=1e-6, rtol=1e-6)
    gradients = [torch.autograd.grad(each.square().sum(), inputs) for each in outputs]
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-5)


def _x(length: int, samples: int = 1) -> list[Tensor]:
    made = torch.Generator().manual_seed(length)
    return [torch.randn(samples, length, DIM, generator=made).requires_grad_()]


def _layer(attention: str | Mechanism, pattern: Pattern | None = None, **options: Any) -> tuple[nn.Module, Attend]:
    layer = MultiHeadAttention(dim=DIM, heads=HEADS, attention=attention, bias=False, **options)
    return layer, lambda x: layer(x, pattern=pattern).values


@torch.no_grad()
def _copy(ours: nn.Module, *weights: Tensor) -> None:
    """Copy the weights of the projections of q, k, v and the output."""
    for name, weight in zip(("query", "key", "value", "out"), weights, strict=True):
        ours.get_parameter(f"{name}.weight").copy_(weight)


def _missed(ours: nn.Module) -> Callable[[Tensor, Tensor], float]:
    weights = [ours.get_parameter(f"{name}.weight") for name in ("query", "key", "value", "out")]

    @torch.no_grad()
    def missed(x: Tensor, found: Tensor) -> float:
        q, k, v = (F.linear(x, weight).unflatten(-1, (HEADS, -1)).transpose(1, 2) for weight in weights[:3])
        exact, mean = F.scaled_dot_product_attention(q, k, v), v.mean(2, keepdim=True).expand_as(v)
        exact, mean = (F.linear(each.transpose(1, 2).flatten(2), weights[3]) for each in (exact, mean))
        return float((found - exact).norm() / (mean - exact).norm())

    return missed


def _x_transformers(length: int, *, flash: bool, padded: bool) -> Pair:
    torch.manual_seed(0)
    peer = load("x-transformers").Attention(DIM, dim_head=HEAD_DIM, heads=HEADS, causal=True, flash=flash)
    inputs, pattern, mask = _x(length), causal(), None
    if padded:
        inputs = _x(length, SAMPLES)
        lengths = torch.arange(1, SAMPLES + 1) * length // SAMPLES
        pattern, mask = causal() & padding(lengths), torch.arange(length) < lengths[:, None]
    ours, attend = _layer("scaled_dot_product", pattern)
    _copy(ours, *(each.weight for each in (peer.to_q, peer.to_k, peer.to_v, peer.to_out)))
    return Pair(ours=attend, peer=lambda x: peer(x, mask=mask), inputs=inputs, modules=(ours, peer), real=mask)


def _local(length: int, *, exact: bool) -> Pair:
    torch.manual_seed(0)
    made = load("local-attention").LocalAttention
    peer = made(BLOCK, causal=True, look_backward=1, exact_windowsize=exact, use_rotary_pos_emb=False)
    ours = (
        build("sliding_window", heads=HEADS, dim=HEAD_DIM, window=BLOCK)
        if exact
        else build("block_local", heads=HEADS, dim=HEAD_DIM, block=BLOCK, around=1)
    )
    made_up = torch.Generator().manual_seed(length)
    inputs = [torch.randn(1, HEADS, length, HEAD_DIM, generator=made_up).requires_grad_() for _ in range(3)]
    return Pair(ours=lambda q, k, v: ours(q, k, v, causal()).values, peer=peer, inputs=inputs, modules=(ours, peer))


def _performer(length: int, *, ahead: bool) -> Pair:
    torch.manual_seed(0)
    with contextlib.redirect_stdout(io.StringIO()):  # it says that it does without a CUDA extension
        peer = load("performer-pytorch").SelfAttention(
            DIM, heads=HEADS, dim_head=HEAD_DIM, nb_features=FEATURES, causal=not ahead, attn_out_bias=False
        )
    ours, attend = _layer("performer", None if ahead else causal(), features=FEATURES)
    _copy(ours, *(each.weight for each in (peer.to_q, peer.to_k, peer.to_v, peer.to_out)))
    ours.get_submodule("mechanism").get_buffer("projection").copy_(peer.fast_attention.projection_matrix)
    inputs = _x(length)
    missed = _missed(ours) if ahead else None
    return Pair(ours=attend, peer=peer, inputs=inputs, modules=(ours, peer), missed=missed)


def _linformer(length: int) -> Pair:
    torch.manual_seed(0)
    slots = min(SLOTS, length)
    peer = load("linformer").LinformerSelfAttention(DIM, length, k=slots, heads=HEADS, dim_head=HEAD_DIM)
    nn.init.zeros_(peer.to_out.bias)
    ours, attend = _layer("linformer", max_length=length, projected_length=slots, share="heads")
    _copy(ours, *(each.weight for each in (peer.to_q, peer.to_k, peer.to_v, peer.to_out)))
    mechanism = ours.get_submodule("mechanism")
    with torch.no_grad():
        mechanism.get_parameter("key_projection").copy_(peer.proj_k.T)
        mechanism.get_parameter("value_projection").copy_(peer.proj_v.T)
    return Pair(ours=attend, peer=peer, inputs=_x(length), modules=(ours, peer))


def _nystrom(length: int, *, iterations: int = 6) -> Pair:
    torch.manual_seed(0)
    made = load("nystrom-attention").NystromAttention
    chosen = {"num_landmarks": LANDMARKS, "pinv_iterations": iterations, "residual": False}
    peer = made(DIM, dim_head=HEAD_DIM, heads=HEADS, **chosen)
    nn.init.zeros_(peer.to_out[0].bias)
    ours, attend = _layer("nystrom", landmarks=LANDMARKS, iterations=iterations)
    _copy(ours, *peer.to_qkv.weight.chunk(3), peer.to_out[0].weight)
    return Pair(ours=attend, peer=peer, inputs=_x(length), modules=(ours, peer), missed=_missed(ours))


_SAME_LAYER = "projections, heads and weights; outputs and gradients asserted equal"
KINDS: dict[str, Kind] = {
    "x-transformers flash, causal": Kind(
        package="x-transformers",
        make=lambda length: _x_transformers(length, flash=True, padded=False),
        same=_SAME_LAYER,
    ),
    "x-transformers flash, causal, padded batch": Kind(
        package="x-transformers",
        make=lambda length: _x_transformers(length, flash=True, padded=True),
        same=f"{_SAME_LAYER} on real tokens (theirs sets the others to 0); {SAMPLES} samples of 1/4 to 4/4 the length",
        most=4096,
    ),
    "x-transformers, causal": Kind(
        package="x-transformers",
        make=lambda length: _x_transformers(length, flash=False, padded=False),
        same=f"{_SAME_LAYER}; its default, without flash",
        most=4096,
    ),
    "local-attention, blocks": Kind(
        package="local-attention",
        make=lambda length: _local(length, exact=False),
        same=f"q, k, v and blocks of {BLOCK}: the own block and the one before; outputs and gradients asserted equal",
    ),
    "local-attention, window": Kind(
        package="local-attention",
        make=lambda length: _local(length, exact=True),
        same=f"q, k, v and a window of {BLOCK} keys before each query; outputs and gradients asserted equal",
    ),
    "performer-pytorch": Kind(
        package="performer-pytorch",
        make=lambda length: _performer(length, ahead=True),
        same=f"projections, heads, weights and the {FEATURES} random features",
        differs="theirs adds 1e-4 to every feature and shares one stabiliser between all keys",
    ),
    "performer-pytorch, causal": Kind(
        package="performer-pytorch",
        make=lambda length: _performer(length, ahead=False),
        same=f"projections, heads, weights and the {FEATURES} random features; theirs without its CUDA extension",
        differs="as above, and theirs adds 1e-6 to what normalises",
        most=2048,
    ),
    "linformer": Kind(
        package="linformer",
        make=_linformer,
        same=f"{_SAME_LAYER}; {SLOTS} slots, shared between heads",
    ),
    "nystrom-attention": Kind(
        package="nystrom-attention",
        make=_nystrom,
        same=f"projections, heads, weights, {LANDMARKS} landmarks and 6 steps towards the inverse, no convolution",
        differs="theirs starts the inverse from the largest sums of the whole batch, ours from each head's own; "
        "after 30 steps outputs and gradients are asserted equal",
        proof=lambda length: _nystrom(length, iterations=30),
    ),
}
