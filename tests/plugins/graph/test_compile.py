"""Compiled models answer as uncompiled ones, in values and gradients, and the compiler sees them whole."""

import shutil

import pytest
import torch
from toolkit_graph.data.batch import GraphBatch
from toolkit_graph.models.attention_network import AttentionNetwork
from toolkit_graph.models.gcn import GCN
from torch._dynamo.testing import CompileCounterWithBackend

from toolkit.attention import edges
from toolkit.choice import Choice
from toolkit.recipe import load
from toolkit.run import train
from toolkit.trained import evaluate

N, FEATURES, CLASSES = 30, 11, 3
CASES = [
    ("gat", "sparse", "nodes"),
    ("gatv2", "dense", "nodes"),
    ("gcn", "sparse", "nodes"),
    ("scaled_dot_product", "dense", "graphs"),
]


@pytest.fixture(autouse=True)
def _nothing_compiled_before():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def batches(layout, kind):
    """Two batches of one graph, or of four: what is computed first fills no cache that hides a fault of the other."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(N, FEATURES, generator=draw) * (torch.rand(N, FEATURES, generator=draw) < 0.3)
    x = x.to_sparse_csr() if layout == "sparse" else x
    index = (torch.rand(N, N, generator=draw) < 0.1).fill_diagonal_(True).nonzero().T
    if kind == "graphs":
        graph = (torch.arange(N) * 4) // N
        index = index[:, graph[index[0]] == graph[index[1]]]
        return [GraphBatch(x=x, pattern=edges(index, N), graph=graph, num_graphs=4, target=torch.zeros(4))] * 2
    pattern = edges(index, N)
    some = [torch.arange(0, N, 2), torch.tensor([1, 4, 28])]
    return [GraphBatch(x=x, pattern=pattern, items=items, target=torch.zeros(len(items))) for items in some]


def network(name):
    torch.manual_seed(5)
    sizes = {"features": FEATURES, "classes": CLASSES, "dropout": 0.0}
    if name == "gcn":
        return GCN(**sizes)
    return AttentionNetwork(**sizes, attention=Choice("attention", name), hidden=3, heads=2)


def answers(model, layout, kind):
    """Return the logits and gradients of a step on the first batch, and the logits of the second as in evaluation."""
    first, second = batches(layout, kind)
    logits = model(first)
    grads = torch.autograd.grad(logits.square().sum(), list(model.parameters()))
    with torch.no_grad():
        return [logits, *grads, model(second)]


@pytest.mark.parametrize(("name", "layout", "kind"), CASES)
def test_a_compiled_model_answers_the_same(toolkit, name, layout, kind):
    plain, compiled = network(name), network(name)
    counter = CompileCounterWithBackend("aot_eager")
    compiled.compile(backend=counter)
    wanted, found = answers(plain, layout, kind), answers(compiled, layout, kind)
    assert counter.frame_count > 0
    for one, other in zip(wanted, found, strict=True):
        torch.testing.assert_close(other, one)


@pytest.mark.parametrize("name", ["gat", "gcn"])
def test_what_follows_the_preparation_is_one_graph(toolkit, name):
    """Sorting edges and choosing features breaks the compiler's graph; between the layers nothing does."""
    model = network(name)
    counter = CompileCounterWithBackend("eager")
    model.compile(backend=counter)
    model(batches("dense", "nodes")[0])
    assert counter.frame_count == 1


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile builds its CPU code with g++, which is not here")
def test_a_run_compiles_by_one_key_of_its_recipe(toolkit, tmp_path, monkeypatch):
    monkeypatch.delenv("TOOLKIT_RUN_DIRECTORY", raising=False)
    settings = ["attention=null", "model={use: gcn, hidden: 4, dropout: 0}", "trainer.max_epochs=1"]
    settings += ["trainer.accelerator=cpu", "trainer.num_sanity_val_steps=0", "loggers=[]"]
    asked, compile_module = [], torch.nn.Module.compile

    def noted(module, **how):
        asked.append(how)
        return compile_module(module, **how)

    monkeypatch.setattr(torch.nn.Module, "compile", noted)
    found = {}
    for choice in ("false", "true"):
        recipe = load("gat_karate", toolkit, [*settings, f"compile={choice}"], smoke=True)
        learned = train(recipe, out=tmp_path / choice, quiet=True, test=False).metrics
        found[choice] = {**learned, **evaluate(tmp_path / choice, []).metrics}
    assert asked == [{"mode": "default", "dynamic": None, "fullgraph": False}]
    assert {"val/loss", "test/loss", "test/accuracy"} <= set(found["true"])
    assert found["true"] == pytest.approx(found["false"], abs=1e-4)
