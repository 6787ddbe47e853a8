"""Checks on feature maps: numbers and gradients in every type, samples and queries by themselves, compilers."""

from __future__ import annotations

import logging
from dataclasses import replace

import torch
from torch import Tensor, nn

from toolkit.errors import CapabilityError
from toolkit.testing.case import Case
from toolkit.testing.check import TOLERANCE, Broken, same
from toolkit.testing.map_trial import MapTrial, gradients, map_trial
from toolkit.testing.subject import Subject


def reference(subject: Subject, case: Case) -> None:
    """Values and gradients in single precision equal those in double precision."""
    made = map_trial(subject, case)
    twin, allowed = made.twin().require_grad(), TOLERANCE[case.dtype]
    values, wanted = made.require_grad().values(), twin.values()
    same(values, wanted, "values are not those of the exact result", allowed)
    slopes = gradients(twin, wanted.square().sum())
    for name, grad in gradients(made, values.square().sum()).items():
        same(grad, slopes[name], f"the gradient with respect to {name} is not that of the exact result", allowed)


def gradcheck(subject: Subject, case: Case) -> None:
    """The gradient with respect to maps, queries and all parameters is that of finite differences."""
    made = map_trial(subject, case).require_grad()
    for name, leaf in made.leaves().items():
        if not torch.autograd.gradcheck(lambda *_: made.values(), leaf, fast_mode=True, raise_exception=False):
            raise Broken(f"the gradient with respect to {name} is not the derivative")


def double_backward(subject: Subject, case: Case) -> None:
    """A second derivative is right where one is declared, and refused elsewhere."""
    made = map_trial(subject, case).require_grad()
    leaves = (*made.maps, *made.points)
    if not subject.declared.double_backward:
        try:
            first = torch.autograd.grad(made.values().square().sum(), leaves[0], create_graph=True)[0]
            torch.autograd.grad(first.square().sum(), leaves, materialize_grads=True)
        except (CapabilityError, RuntimeError):
            return
    if not torch.autograd.gradgradcheck(lambda *_: made.values(), leaves, raise_exception=False, fast_mode=True):
        raise Broken("the second derivative is wrong, or neither declared nor refused")


def half_precision(subject: Subject, case: Case) -> None:
    """The error in half precision is at most 8 times what rounding maps, queries and parameters once more does."""
    made = map_trial(subject, case)
    twin, values = made.twin(), made.values()
    if values.dtype != case.dtype:
        raise Broken(f"values have another type than the map: {values.dtype} for {case.dtype}")
    wanted, eps = twin.values().detach(), torch.finfo(case.dtype).eps
    generator = torch.Generator().manual_seed(case.seed)

    def rounded(x: Tensor) -> Tensor:
        noise = torch.rand(x.shape, generator=generator, dtype=torch.float64).to(x.device) * 2 - 1
        return x * (1 + eps / 2 * noise)

    moved = made.twin()
    with torch.no_grad():
        for parameter in moved.module.parameters():
            parameter.copy_(rounded(parameter))
        other = moved.values(maps=[rounded(x) for x in twin.maps], points=tuple(rounded(x) for x in twin.points))
    allowed = 8 * (other - wanted).abs().max().item() + eps / 2 * wanted.abs().max().item()
    error = (values.detach().double() - wanted).abs().nan_to_num(nan=torch.inf).max().item()
    if not error <= allowed:
        raise Broken(f"the error in {case.dtype} is too large: {error:.3g}, where {allowed:.3g} is allowed")


def batch_independence(subject: Subject, case: Case) -> None:
    """A sample alone gives what it gives beside others, whatever those hold, in training as well."""
    for train in (False, True):
        made = map_trial(subject, case, train=train and not subject.takes("dropout"))
        together = made.values()
        others = [torch.cat([x[:1], 5 - 20 * x[1:]]) for x in made.maps]
        same(made.values(maps=others)[:1], together[:1], "a sample's output changes when the others of its batch do")
        same(made.sample(0).values(), together[:1], "a sample's output alone is not what it is in a batch")


def query_permutation(subject: Subject, case: Case) -> None:
    """Permuting queries with their reference points permutes the output."""
    made = map_trial(subject, case)
    order = torch.randperm(case.queries, generator=torch.Generator().manual_seed(case.seed + 1)).to(made.maps[0].device)
    after = made.values(points=tuple(x[:, order] for x in made.points))
    same(after, made.values()[:, order], "permuting queries does not permute the output")


def key_permutation(subject: Subject, case: Case) -> None:
    """Permuting the places of a map, with its mask, permutes the output."""
    made = map_trial(subject, case)
    places = case.height * case.width
    order = torch.randperm(places, generator=torch.Generator().manual_seed(case.seed + 1)).to(made.maps[0].device)

    def moved(x: Tensor) -> Tensor:
        return x.flatten(-2)[..., order].unflatten(-1, (case.height, case.width))

    after = made.values(maps=[moved(made.maps[0])], masks=[moved(made.there())])
    same(
        after,
        moved(made.values()),
        "permuting places does not permute the output; if places are meant to matter, declare `positional=True`",
    )


def deterministic(subject: Subject, case: Case) -> None:
    """In evaluation the same request gives the same bits, and changes nothing."""
    made = map_trial(subject, case)
    given = {name: each.detach().clone() for name, each in made.leaves().items()}
    if not torch.equal(made.values(), made.values()):
        raise Broken("two calls in evaluation give different outputs")
    for name, each in made.leaves().items():
        if not torch.equal(each, given[name]):
            raise Broken(f"a call in evaluation changes {name}")


def state_dict(subject: Subject, case: Case) -> None:
    """A module built under another seed that loads the state of the first gives the same bits."""
    made = map_trial(subject, case)
    other = map_trial(subject, replace(case, seed=case.seed + 1)).module
    other.load_state_dict({name: each.clone() for name, each in made.module.state_dict().items()})
    if not torch.equal(replace(made, module=other).values(), made.values()):
        raise Broken("another module that loads its state gives another output")


class _Flat(nn.Module):
    """A module that takes tensors only, for compilers, with its masks fixed."""

    def __init__(self, made: MapTrial) -> None:
        super().__init__()
        self.made, self.module = made, made.module

    def forward(self, *tensors: Tensor) -> Tensor:
        count = len(self.made.maps)
        return self.made.values(maps=list(tensors[:count]), points=tuple(tensors[count:]))


def compiles(subject: Subject, case: Case) -> None:
    """torch.compile takes it as one graph, forward and backward, with the same output and gradients."""
    made = map_trial(subject, case).require_grad()
    inputs = (*made.maps, *made.points)
    torch._dynamo.reset()
    found = torch.compile(_Flat(made), backend="aot_eager", fullgraph=True)(*inputs)
    wanted = made.values()
    same(found, wanted, "compiled, it gives another output")
    for one, other in zip(*(torch.autograd.grad(each.sum(), inputs) for each in (found, wanted)), strict=True):
        same(one, other, "compiled, it gives another gradient")


def exports(subject: Subject, case: Case) -> None:
    """torch.export takes it, and the exported program gives the same output."""
    made = map_trial(subject, case)
    inputs = (*made.maps, *made.points)
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        program = torch.export.export(_Flat(made), inputs)
    finally:
        logging.disable(before)
    same(program.module()(*inputs), made.values(), "exported, it gives another output")
