"""flash-linear-attention by a stand-in with its documented signature, under `linear`; and the check before a choice."""

import sys
from types import SimpleNamespace

import pytest
import stand_ins
import torch
from contract_checks import drawn, qkv

from toolkit.attention import MultiHeadAttention, Request, causal, full, padding, segments
from toolkit.attention.backends import fla, flex, trust
from toolkit.attention.linear import Linear
from toolkit.errors import CapabilityError

H, D = 2, 4


@pytest.fixture
def kernel(monkeypatch):
    """The stand-in where the package would be, on a CPU."""
    ops = SimpleNamespace(chunk_linear_attn=stand_ins.chunk_linear_attn)
    for name in ("fla", "fla.ops"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace())
    monkeypatch.setitem(sys.modules, "fla.ops.linear_attn", ops)
    monkeypatch.setattr(fla, "_DEVICES", ("cpu",))
    monkeypatch.setattr(trust, "_FOUND", {})
    for cached in (trust.installed, fla._parameters):
        cached.cache_clear()
    yield ops
    for cached in (trust.installed, fla._parameters):
        cached.cache_clear()


def chosen(attend, pattern, dtype=torch.bfloat16, queries=9, keys=9):
    q, k, v = (x.to(dtype) for x in qkv(queries, keys))
    return attend.explain(Request(q=q, k=k, v=v, pattern=pattern))


@pytest.mark.parametrize(("queries", "keys"), [(9, 9), (4, 9), (9, 4)])
@pytest.mark.parametrize("pattern", [causal(), causal() & padding(torch.tensor([4, 3]))])
def test_it_gives_what_plain_torch_gives(kernel, queries, keys, pattern):
    x = [each.float().requires_grad_() for each in qkv(queries, keys)]
    results = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "get_float32_matmul_precision", lambda: "high")
        for backend in ("torch", "fla"):
            attend = Linear(heads=H, dim=D, backend=backend)
            output = attend(*x, pattern)
            values, state = output.values, output.state
            results.append([values, *state, *torch.autograd.grad(values.square().sum() + state.sums.sum(), x)])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_a_state_goes_in_and_comes_out(kernel, monkeypatch):
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")
    attend = Linear(heads=H, dim=D, backend="fla")
    q, k, v = (x.float() for x in qkv(9, 9))
    whole, state, parts = attend(q, k, v, causal()), None, []
    for some in (slice(0, 4), slice(4, 9)):
        output = attend(q[:, :, some], k[:, :, some], v[:, :, some], causal(), state=state)
        state = output.state
        parts.append(output.values)
    torch.testing.assert_close(torch.cat(parts, 2), whole.values)
    torch.testing.assert_close(state.sums, whole.state.sums)
    torch.testing.assert_close(state.total, whole.state.total)


def test_it_is_chosen_after_its_check(kernel):
    attend = Linear(heads=H, dim=D)
    choice = chosen(attend, causal())
    assert (choice.name, choice.refused) == ("fla", {})
    assert list(trust._FOUND) == [("fla", "cpu", torch.bfloat16)]
    q, k, v = (x.bfloat16() for x in qkv(9, 9))
    found = attend(q, k, v, causal()).values
    torch.testing.assert_close(found, Linear(heads=H, dim=D, backend="torch")(q, k, v, causal()).values)


def test_older_versions_are_told_the_layout(kernel, monkeypatch):
    def older(q, k, v, scale=None, initial_state=None, output_final_state=False, normalize=True, head_first=True):
        assert not head_first
        return stand_ins.chunk_linear_attn(q, k, v, scale, initial_state, output_final_state, normalize)

    monkeypatch.setattr(kernel, "chunk_linear_attn", older)
    assert chosen(Linear(heads=H, dim=D), causal()).name == "fla"


def test_a_kernel_that_errs_is_left_out(kernel, monkeypatch):
    def broken(*args, **options):
        found, state = stand_ins.chunk_linear_attn(*args, **options)
        return found.roll(1, 1), state

    monkeypatch.setattr(kernel, "chunk_linear_attn", broken)
    with pytest.warns(UserWarning, match="'fla' is left out: its self-check with torch.bfloat16 on cpu failed"):
        choice = chosen(Linear(heads=H, dim=D), causal())
    assert choice.name == "torch"
    assert "is allowed" in choice.refused["fla"]


@pytest.mark.parametrize(
    ("pattern", "dtype", "sizes", "match"),
    [
        (full(), torch.bfloat16, (9, 9), "causal sequences alone"),
        (causal() & segments(torch.zeros(2, 9, dtype=torch.long)), torch.bfloat16, (9, 9), "causal sequences alone"),
        (causal(), torch.float64, (9, 9), r"does not take torch.float64"),
        (causal(), torch.float32, (9, 9), r"set_float32_matmul_precision\('high'\)"),
        (causal(), torch.bfloat16, (1, 9), "fewer tokens than heads"),
    ],
)
def test_what_it_cannot_do_is_refused_with_the_reason(kernel, pattern, dtype, sizes, match):
    attend = Linear(heads=H, dim=D)
    choice = chosen(attend, pattern, dtype, *sizes)
    assert choice.name == "torch"
    with pytest.raises(CapabilityError, match=match + ".*What can: torch"):
        chosen(Linear(heads=H, dim=D, backend="fla"), pattern, dtype, *sizes)


def test_without_the_package_it_says_so():
    choice = chosen(Linear(heads=H, dim=D), causal())
    assert choice.name == "torch"
    assert choice.refused == {"fla": "flash-linear-attention is not installed; pip install flash-linear-attention"}
    assert chosen(Linear(heads=H, dim=D, backend="torch"), causal()).reason == "it was asked for"
    with pytest.raises(ValueError, match="'auto', 'torch' and 'fla'"):
        Linear(heads=H, dim=D, backend="flash")
    layer = MultiHeadAttention(dim=8, heads=2, attention="linear", backend="torch")
    assert layer(drawn(1, 3, 8).float(), pattern=causal()).values.isfinite().all()


def test_a_compiler_gets_no_kernel_that_was_not_asked_for(monkeypatch):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    measured = []
    why = trust.doubt("flex", torch.device("cpu"), torch.float32, lambda *_: iter(measured.append(1) or ()))
    assert "while a compiler looks on" in why
    assert not measured


def test_a_check_that_answers_nothing_is_no_pass(monkeypatch):
    monkeypatch.setattr(trust, "_FOUND", {})
    with pytest.warns(UserWarning, match="it answered nothing"):
        assert trust.doubt("empty", torch.device("cpu"), torch.float32, lambda *_: iter(())) is not None


def test_the_check_of_flex_fails_where_it_has_no_backward_pass(monkeypatch):
    """On a CPU, where flex can be had here, torch has none: the check finds out, in place of a training run."""
    monkeypatch.setattr(trust, "_FOUND", {})
    with pytest.warns(UserWarning, match="'flex' is left out: its self-check with torch.float32 on cpu failed"):
        trust.doubt("flex", torch.device("cpu"), torch.float32, trust.pairwise(flex, flex.CASES))


def test_the_check_draws_nothing_from_torchs_generators(monkeypatch):
    monkeypatch.setattr(trust, "_FOUND", {})
    torch.manual_seed(3)
    wanted = torch.rand(3)
    torch.manual_seed(3)
    with pytest.warns(UserWarning, match="left out"), torch.inference_mode():
        trust.doubt("flex", torch.device("cpu"), torch.float32, trust.pairwise(flex, flex.CASES))
    assert torch.equal(torch.rand(3), wanted)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["scaled_dot_product", "linear", "differential", "talking_heads"])
def test_layers_compile_without_a_word_of_kernels_that_are_not_there(name):
    torch._dynamo.reset()
    layer = MultiHeadAttention(dim=16, heads=2, attention=name).eval()

    def run(x):
        return layer(x, pattern=causal()).values

    x = drawn(1, 6, 16).float()
    torch.testing.assert_close(torch.compile(run, backend="aot_eager", fullgraph=True)(x), run(x))
