"""What every mechanism owes, as checks that the tests of each family call."""

import copy

import torch

from toolkit.attention import Need, causal, dense, edges, padding, to_edges

H, D = 2, 4


def drawn(*shape, seed=0, grad=False):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.double, generator=generator).requires_grad_(grad)


def qkv(queries=4, keys=6, batch=2, heads=H, dim=D, width=None, grad=False):
    shapes = (queries, dim), (keys, dim), (keys, width or dim)
    return [drawn(batch, heads, *shape, seed=place, grad=grad) for place, shape in enumerate(shapes)]


def graph(targets=5, sources=6, num=14, seed=0):
    """Random edges, some of them twice; target 0 has none."""
    generator = torch.Generator().manual_seed(seed)
    ends = (
        torch.randint(0, sources, (num,), generator=generator),
        torch.randint(1, targets, (num,), generator=generator),
    )
    return edges(torch.stack(ends), targets, sources)


def nodes(pattern, width=None, grad=False):
    shapes = (pattern.num_targets, D), (pattern.num_sources, D), (pattern.num_sources, width or D)
    return [drawn(size, H, dim, seed=place, grad=grad) for place, (size, dim) in enumerate(shapes)]


def filled(module, seed=0):
    """Draw every parameter, zeros included, so that none can be without effect unseen; in double precision."""
    module = module.double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, dtype=torch.double, generator=generator) * 0.7)
    return module


def check_gradients(attend, pattern, inputs, **more):
    """First derivatives in q, k, v and all parameters."""

    def run(q, k, v, *_):
        return attend(q, k, v, pattern, **more).values

    assert torch.autograd.gradcheck(run, (*inputs, *attend.parameters()), atol=1e-6)


def check_dense(attend, width=None):
    """Padding, the future, other samples and rows without keys; with fewer queries than keys."""
    q, k, v = qkv(width=width)
    pattern = causal() & padding(torch.tensor([4, 6]))
    before = attend(q, k, v, pattern).values
    assert torch.isfinite(before).all()
    changed = [x.clone() for x in (q, k, v)]
    changed[1][0, :, 4:] = float("nan")  # padding of the first sample
    changed[2][0, :, 4:] = float("inf")
    changed[1][1, :, 5] += 3.0  # the last key, which only the last query sees
    changed[2][1, :, 5] += 3.0
    after = attend(*changed, pattern).values
    torch.testing.assert_close(after[0], before[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(after[1, :, :3], before[1, :, :3], rtol=0, atol=1e-12)
    assert not torch.allclose(after[1, :, 3], before[1, :, 3])
    other = [torch.cat([x[:1], drawn(*x[1:].shape, seed=9) * 3]) for x in (q, k, v)]
    torch.testing.assert_close(attend(*other, pattern).values[0], before[0], rtol=0, atol=1e-12)
    short = attend(q[:1], k[:1, :, :4], v[:1, :, :4]).values  # a sample without its padding gives the same
    torch.testing.assert_close(attend(q, k, v, padding(torch.tensor([4, 6]))).values[:1], short)


def check_empty_rows(attend, width=None):
    """Rows that may look at nothing give 0 with gradient 0, and so does a sample of padding alone."""
    mask = torch.ones(4, 6, dtype=torch.bool)
    mask[1] = False
    q, k, v = qkv(width=width, grad=True)
    values = attend(q, k, v, dense(mask) & padding(torch.tensor([6, 0]))).values
    assert not values[0, :, 1].any()
    assert not values[1].any()
    assert values[0, :, 0].any()
    grads = torch.autograd.grad(values.sum() + values[0, :, 1].exp().sum(), [q, k, v], allow_unused=True)
    grads = [torch.zeros(()) if grad is None else grad for grad in grads]
    assert all(torch.isfinite(grad).all() for grad in grads)
    assert not any(grad[1].any() for grad in grads if grad.dim())
    assert not grads[0].dim() or not grads[0][0, :, 1].any()
    assert not attend(q, k[:, :, :0], v[:, :, :0]).values.any()


def check_poison(attend):
    """NaN in a key reaches the rows that look at it and no others, forward and backward."""
    q, k, v = qkv(4, 4)
    clean = attend(q, k, v, causal()).values
    k[0, :, 3], v[0, :, 3] = float("nan"), float("nan")
    q, k, v = (x.requires_grad_() for x in (q, k, v))
    values = attend(q, k, v, causal()).values
    assert values[0, :, 3].isnan().all()
    torch.testing.assert_close(values[0, :, :3], clean[0, :, :3])
    torch.testing.assert_close(values[1], clean[1])
    inputs = [q, k, v, *attend.parameters()]
    grads = torch.autograd.grad(values[1].sum() + values[0, :, :3].sum(), inputs, allow_unused=True)
    assert all(torch.isfinite(grad).all() for grad in grads if grad is not None)


def check_edges_equal_dense(attend):
    """The same mechanism on a sequence, and on the pairs of its mask as edges; both backends of edges."""
    mask = torch.rand(4, 6, generator=torch.Generator().manual_seed(3)) < 0.5
    mask[2] = False
    q, k, v = qkv(batch=1, grad=True)
    listed = to_edges(dense(mask), 4, 6)
    turned = [x[0].transpose(0, 1) for x in (q, k, v)]
    wanted = [q, k, v, *attend.parameters()]
    full = attend(q, k, v, dense(mask)).values
    slopes = torch.autograd.grad(full.square().sum(), wanted)
    for backend in ("edges", "reference", "auto"):
        if backend == "edges" and attend.normalize != "softmax":
            continue
        attend.backend = backend
        sparse = attend(*turned, listed).values.transpose(0, 1)[None]
        torch.testing.assert_close(sparse, full)
        for one, other in zip(torch.autograd.grad(sparse.square().sum(), wanted), slopes, strict=True):
            torch.testing.assert_close(one, other)


def check_half(attend):
    """bf16 and fp16 stay near double precision and keep their type."""
    q, k, v = qkv()
    wanted = attend(q, k, v, causal()).values
    for kind, error in ((torch.bfloat16, 0.05), (torch.float16, 0.01), (torch.float32, 1e-5)):
        values = copy.deepcopy(attend).to(kind)(q.to(kind), k.to(kind), v.to(kind), causal()).values
        assert values.dtype == kind
        assert (values.double() - wanted).norm() < error * wanted.norm()


def check_weights(attend, width=None):
    """Exact weights reproduce the output; rows and heads are chosen from them."""
    q, k, v = qkv(width=width)
    pattern = causal() & padding(torch.tensor([4, 6]))
    every = attend(q, k, v, pattern, need=Need(received=True))
    torch.testing.assert_close(every.weights.values @ v, every.values)
    torch.testing.assert_close(every.weights.received, every.weights.values.sum(2))
    some = attend(q, k, v, pattern, need=Need(rows=[2, 0], heads=[1]))
    torch.testing.assert_close(some.weights.values, every.weights.values[:, [1]][:, :, [2, 0]])
    return every.weights.values
