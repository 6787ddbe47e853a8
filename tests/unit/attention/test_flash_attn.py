"""flash-attn by a stand-in with its documented signature: what is lowered is exact, what it cannot do is refused."""

import json
import sys
from types import SimpleNamespace

import pytest
import stand_ins
import torch
from contract_checks import drawn, filled

from toolkit.attention import (
    MultiHeadAttention,
    Need,
    Request,
    causal,
    dense,
    full,
    global_tokens,
    padding,
    segments,
    window,
)
from toolkit.attention.additive import Additive
from toolkit.attention.alibi import ALiBi
from toolkit.attention.backends import flash_attn, trust
from toolkit.attention.differential import Differential
from toolkit.attention.dot import General
from toolkit.attention.rotary import Rotary
from toolkit.attention.scaled_dot_product import ScaledDotProduct
from toolkit.attention.soft_capped import SoftCapped
from toolkit.attention.t5_relative import T5Relative
from toolkit.attention.talking_heads import TalkingHeads
from toolkit.errors import CapabilityError

H, D = 2, 8


@pytest.fixture
def calls(monkeypatch):
    """The stand-in where flash-attn would be, on a CPU and in any type; what it was called with."""
    seen = []

    def spied(kernel):
        def run(*tensors, **options):
            seen.append((kernel.__name__, options))
            return kernel(*tensors, **options)

        run.__wrapped__ = kernel  # so that its signature is the kernel's
        return run

    kernels = {name: spied(getattr(stand_ins, name)) for name in ("flash_attn_func", "flash_attn_varlen_func")}
    monkeypatch.setitem(sys.modules, "flash_attn", SimpleNamespace(**kernels))
    monkeypatch.setattr(flash_attn, "_DEVICES", ("cpu",))
    monkeypatch.setattr(flash_attn, "_DTYPES", (torch.bfloat16, torch.float64))
    monkeypatch.setattr(trust, "_FOUND", {})
    for cached in (trust.installed, flash_attn._parameters):
        cached.cache_clear()
    yield seen
    for cached in (trust.installed, flash_attn._parameters):
        cached.cache_clear()


def qkv(queries=9, keys=9, heads=H):
    return [drawn(3, heads, n, D, seed=seed).requires_grad_() for seed, n in enumerate((queries, keys, keys))]


LENGTHS = padding(torch.tensor([9, 4, 0]))
IDS = segments(torch.tensor([[0] * 9, [3, 3, 1, 1, 1, 2, 5, 5, 5], [1, 1, 1, 1, 1, 1, 1, 1, 0]]))
LOWERED = [
    (None, 9),
    (full(), 5),
    (causal(), 9),
    (causal(), 5),
    (causal(), 12),
    (window(2, 0), 9),
    (window(2, 3), 5),
    (window(None, 2), 12),
    (window(1, None) & causal(), 7),
    (window(3, 0) & window(2, 2), 9),
    (LENGTHS, 9),
    (LENGTHS, 5),
    (full() & LENGTHS, 12),
    (causal() & LENGTHS, 9),
    (IDS, 9),
    (IDS & causal(), 9),
    (IDS & window(1, 1), 9),
]


@pytest.mark.parametrize(("pattern", "queries"), LOWERED)
@pytest.mark.parametrize(
    ("mechanism", "options"), [(ScaledDotProduct, {}), (SoftCapped, {"cap": 0.7}), (ALiBi, {}), (General, {})]
)
def test_lowered_patterns_are_exact(calls, pattern, queries, mechanism, options):
    attend, inputs = filled(mechanism(heads=H, dim=D, **options)), qkv(queries)
    sloped = mechanism is ALiBi and "Padding" in repr(pattern)
    wanted = [*inputs, *attend.parameters()]
    results = []
    for backend in ("reference", "flash_attn"):
        attend.backend = backend
        if sloped and backend == "flash_attn":
            with pytest.raises(CapabilityError, match="ALiBi's distances"):
                attend(*inputs, pattern)
            return
        values = attend(*inputs, pattern).values
        results.append([values, *torch.autograd.grad(values.square().sum(), wanted)])
    assert calls
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


def test_kernels_get_what_they_document(calls):
    attend = ScaledDotProduct(heads=H, dim=D, backend="flash_attn", scale=0.3)
    attend(*qkv(), window(3, 0))
    attend(*qkv(), causal() & LENGTHS)
    attend(*qkv(), IDS)
    names = [name for name, _ in calls]
    assert names == ["flash_attn_func", "flash_attn_func", "flash_attn_varlen_func", "flash_attn_varlen_func"]
    first = calls[0][1]
    assert (first["window_size"], first["causal"], first["softmax_scale"]) == ((3, 0), True, 0.3)
    assert (first["dropout_p"], first["softcap"], first["alibi_slopes"]) == (0.0, 0.0, None)
    assert calls[2][1].get("causal", False) is False


def test_weights_rotary_groups_and_dropout(calls):
    attend = Rotary(heads=H, dim=D, backend="flash_attn")
    inputs = qkv(6)
    found = attend(*inputs, window(4, 0), need=Need(rows=[2]))
    torch.testing.assert_close(found.weights.values @ inputs[2], found.values[:, :, 2:3])
    layer = filled(MultiHeadAttention(dim=16, heads=4, kv_heads=2, backend="flash_attn"))
    x, values = drawn(2, 7, 16, seed=1), []
    for backend in ("flash_attn", "reference"):
        layer.mechanism.backend = backend
        values.append(layer(x, pattern=window(2, 0)).values)
    torch.testing.assert_close(*values)
    noisy = ScaledDotProduct(heads=H, dim=D, backend="flash_attn", dropout=0.5).train()
    noisy(*inputs, window(4, 0))
    assert calls[-1][1]["dropout_p"] == 0.5


def test_a_soft_cap_takes_no_dropout(calls):
    attend, inputs = SoftCapped(heads=H, dim=D, backend="flash_attn", dropout=0.5), qkv()
    with pytest.raises(CapabilityError, match="with a soft cap its kernels drop no weights"):
        attend.train()(*inputs, window(2, 0))
    assert not calls
    attend.eval()(*inputs, window(2, 0))
    assert len(calls) == 1
    q = torch.zeros(1, H, 64, D, dtype=torch.bfloat16)
    attend, asked = SoftCapped(heads=H, dim=D, dropout=0.5).to(q.dtype), Request(q=q, k=q, v=q)
    assert attend.train().explain(asked).name != "flash_attn"
    assert attend.eval().explain(asked).name == "flash_attn"


def test_values_may_be_wider_than_keys(calls):
    q, k, v = qkv()
    found = [
        ScaledDotProduct(heads=H, dim=D, backend=backend)(q, k, torch.cat([v, v * 2], -1), window(2, 0)).values
        for backend in ("flash_attn", "reference")
    ]
    torch.testing.assert_close(*found)
    both = filled(Differential(heads=H, dim=D, backend="flash_attn"))
    values = both(q, k, v, window(2, 0)).values
    both.score.backend = "reference"
    torch.testing.assert_close(values, both(q, k, v, window(2, 0)).values)


def test_padded_nan_reaches_nothing(calls):
    attend, (q, k, v) = ScaledDotProduct(heads=H, dim=D, backend="flash_attn"), [x.detach() for x in qkv()]
    before = attend(q, k, v, causal() & LENGTHS).values
    k, v = k.clone(), v.clone()
    k[1, :, 4:], v[1, :, 4:] = float("nan"), float("inf")
    torch.testing.assert_close(attend(q, k, v, causal() & LENGTHS).values, before)
    assert not before[2].any()


def test_a_batch_of_padding_alone_is_0(calls):
    attend = ScaledDotProduct(heads=H, dim=D, backend="flash_attn")
    nothing = padding(torch.zeros(3, dtype=torch.long))
    assert not attend(*qkv(), nothing).values.any()
    assert not attend(*qkv(), nothing & causal()).values.any()


REFUSED = [
    (ScaledDotProduct, {"normalize": "sparsemax"}, None, "softmax only"),
    (Additive, {}, None, "not an inner product"),
    (T5Relative, {}, None, "ALiBi's alone"),
    (TalkingHeads, {}, None, "mixed around softmax"),
    (ScaledDotProduct, {}, causal() | global_tokens([0]), "one window, padding and segments"),
    (ScaledDotProduct, {}, dense(torch.ones(9, 9, dtype=torch.bool)), "one window, padding and segments"),
    (ScaledDotProduct, {}, LENGTHS & IDS, "not both at once"),
    (ScaledDotProduct, {}, LENGTHS & window(2, 0), "beside padding"),
    (ScaledDotProduct, {}, segments(torch.tensor([[0, 1, 0] * 3] * 3)), "comes back after another"),
    (ALiBi, {}, LENGTHS, "ALiBi's distances"),
]


@pytest.mark.parametrize(("mechanism", "options", "pattern", "match"), REFUSED)
def test_what_it_cannot_do_is_refused_with_the_reason(calls, mechanism, options, pattern, match):
    attend = mechanism(heads=H, dim=D, backend="flash_attn", **options).double()
    with pytest.raises(CapabilityError, match=match):
        attend(*qkv(), pattern)
    assert not calls


def test_other_refusals(calls, monkeypatch):
    attend = ScaledDotProduct(heads=H, dim=D, backend="flash_attn")
    q, k, v = qkv()
    with pytest.raises(CapabilityError, match="as many queries as keys"):
        attend(q[:, :, :5], k, v, causal() & LENGTHS)
    with pytest.raises(CapabilityError, match="no bias tensor"):
        attend(q, k, v, bias=torch.zeros(9, 9))
    with pytest.raises(CapabilityError, match="values at least as wide as keys"):
        attend(q, k, v[..., :5])
    with pytest.raises(CapabilityError, match="no gradient"):
        attend(q, k, v, need=Need(gradient=True))
    with pytest.raises(CapabilityError, match=r"half precision alone, and not torch.float32"):
        attend(q.float(), k.float(), v.float())
    with pytest.raises(CapabilityError, match="256 features"):
        ScaledDotProduct(heads=1, dim=264, backend="flash_attn")(*(torch.zeros(1, 1, 2, 264) for _ in range(3)))
    monkeypatch.setattr(flash_attn, "_DEVICES", ("cuda",))
    with pytest.raises(CapabilityError, match="runs on cuda, not on cpu"):
        attend(q, k, v)
    old = SimpleNamespace(flash_attn_func=lambda q, k, v, causal=False, window_size=(-1, -1): q)
    monkeypatch.setitem(sys.modules, "flash_attn", old)
    monkeypatch.setattr(flash_attn, "_DEVICES", ("cpu",))
    flash_attn._parameters.cache_clear()
    with pytest.raises(CapabilityError, match=r"2\.6 or newer"):
        attend(q, k, v)


def test_without_the_package_it_says_so():
    q = torch.zeros(1, H, 4, D)
    with pytest.raises(CapabilityError, match=r"not installed; pip install flash-attn --no-build-isolation. What can"):
        ScaledDotProduct(heads=H, dim=D, backend="flash_attn")(q, q, q)
    choice = ScaledDotProduct(heads=H, dim=D).explain(Request(q=q, k=q, v=q, pattern=window(2, 0)))
    assert "not installed" in choice.refused["flash_attn"]


def test_it_is_chosen_where_torch_would_write_out_a_mask(calls):
    q = torch.zeros(1, H, 64, D, dtype=torch.bfloat16)

    def chosen(attend, pattern, queries=64):
        return attend.to(q.dtype).explain(Request(q=q[:, :, :queries], k=q, v=q, pattern=pattern))

    plain = ScaledDotProduct(heads=H, dim=D)
    for pattern in (None, full(), causal()):
        choice = chosen(plain, pattern)
        assert choice.name == "sdpa"
        assert "needs no mask" in choice.refused["flash_attn"]
    for attend, pattern, queries in (
        (plain, causal(), 9),
        (plain, window(5, 5), 64),
        (plain, padding(torch.tensor([50])), 64),
        (SoftCapped(heads=H, dim=D), None, 64),
        (ALiBi(heads=H, dim=D), None, 64),
    ):
        assert chosen(attend, pattern, queries).name == "flash_attn"


def test_it_is_checked_once_before_it_is_chosen(calls):
    q = torch.zeros(1, H, 16, D, dtype=torch.bfloat16)
    attend = ScaledDotProduct(heads=H, dim=D).to(q.dtype)
    attend(q, q, q, window(2, 0))
    checked = len(calls)
    assert checked > len(flash_attn.CASES)
    attend(q, q, q, window(2, 0))
    assert len(calls) == checked + 1
    assert list(trust._FOUND.items()) == [(("flash_attn", "cpu", torch.bfloat16), None)]


@pytest.mark.parametrize("wrong", ["causal", "softcap", "alibi_slopes", "raises"])
def test_a_kernel_that_errs_is_left_out_with_a_warning_once(calls, monkeypatch, wrong):
    right = sys.modules["flash_attn"].flash_attn_func

    def broken(q, k, v, **options):
        if wrong == "raises":
            raise RuntimeError("no kernel image is available\nfor this device")
        shape = (-1, -1) if wrong == "causal" else options["window_size"]
        options |= {"softcap": 0.0} if wrong == "softcap" else {}
        options |= {"alibi_slopes": None} if wrong == "alibi_slopes" else {}
        return right(q, k, v, **options | {"causal": False, "window_size": shape})

    broken.__wrapped__ = right  # so that its signature is the kernel's
    monkeypatch.setattr(sys.modules["flash_attn"], "flash_attn_func", broken)
    q = torch.zeros(1, H, 16, D, dtype=torch.bfloat16)
    attend = ScaledDotProduct(heads=H, dim=D).to(q.dtype)
    asked = Request(q=q, k=q, v=q, pattern=window(2, 0))
    with pytest.warns(UserWarning, match="attention backend 'flash_attn' is left out: its self-check") as found:
        choice = attend.explain(asked)
    assert len(found) == 1
    assert choice.name == "sdpa"
    match = "RuntimeError: no kernel image is available" if wrong == "raises" else "is allowed"
    assert choice.refused["flash_attn"].endswith(match)
    assert attend.explain(asked).refused["flash_attn"] == choice.refused["flash_attn"]  # and no second warning
    attend.backend = "flash_attn"
    assert attend.explain(asked).name == "flash_attn"  # who asks for it gets it


def test_show_tells_that_kernels_are_not_installed(capsys):
    from toolkit.cli.main import main

    for name, backend, pip in (
        ("scaled_dot_product", "flash_attn", "pip install flash-attn --no-build-isolation"),
        ("linear", "fla", "pip install flash-linear-attention"),
        ("differential", "flash_attn", "pip install flash-attn"),
    ):
        assert main(["show", "attention", name, "--pattern", "causal()", "--shape", "1,2,40,16", "--json"]) == 0
        refused = json.loads(capsys.readouterr().out)["chosen"]["refused"]
        assert f"not installed; {pip}" in refused[backend]
