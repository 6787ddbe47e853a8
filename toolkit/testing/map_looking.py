"""Checks on feature maps: what is hidden must not matter, and gates and samples are those that were used."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from toolkit.attention.feature_maps import Gates, Samples
from toolkit.attention.need import Need
from toolkit.errors import CapabilityError
from toolkit.testing.case import Case
from toolkit.testing.check import Broken, same
from toolkit.testing.map_trial import MapTrial, gradients, map_trial
from toolkit.testing.subject import Subject


def declared(subject: Subject, case: Case) -> None:
    """Maps are answered with values of the right shape, and weights as they are declared."""
    made = map_trial(subject, case)
    same(made.values(), torch.zeros_like(made.points[0] if made.points else made.maps[0]), "zero", torch.inf)
    if subject.declared.weights != "none":
        if made(need=Need()).weights is None:
            raise Broken(f"weights are declared {subject.declared.weights!r}, but none came back")
        return
    try:
        made(need=Need())
    except CapabilityError:
        return
    raise Broken("seeing weights is not declared, but is answered all the same; raise CapabilityError")


def padding_leak(subject: Subject, case: Case) -> None:
    """Nothing changes when the content of padding changes, and a gate gives what it gives to the map cut out."""
    made = map_trial(subject, case)
    before = made.values()
    same(made.values(maps=made.hidden(lambda x: 100 - 3 * x)), before, "an output changes when padding does")
    if made.points:
        return
    height, width = made.there()[0, :, 0].sum(), made.there()[0, 0].sum()
    cut = made.sample(0).values(maps=[made.maps[0][:1, :, :height, :width]], masks=[None])
    same(before[:1, :, :height, :width], cut, "a padded map gives something else than the map alone")


def mask_leak(subject: Subject, case: Case) -> None:
    """Nothing changes when hidden places do, hidden places give 0, and something changes when the others do."""
    made = map_trial(subject, case)
    before = made.values()
    same(made.values(maps=made.hidden(lambda x: 100 - 3 * x)), before, "an output changes when hidden places do")
    if not made.points and before.masked_fill(made.there()[:, None], 0).any():
        raise Broken("a hidden place does not give 0")
    if torch.equal(made.values(maps=[5 - 3 * x for x in made.maps]), before):
        raise Broken("no output changes when all places do: it looks at nothing")


def empty_rows(subject: Subject, case: Case) -> None:
    """A sample without any place gives 0 with gradient 0, and nothing anywhere is NaN, forward or backward."""
    made = map_trial(subject, case).require_grad()
    values = made.values()
    if not torch.isfinite(values).all():
        raise Broken("values are not finite where a sample has no place")
    if values[0].any():
        raise Broken("a sample without any place is not 0")
    for what, total in (("all samples", values.exp().sum()), ("the empty sample", values[0].exp().sum())):
        for name, grad in gradients(made, total).items():
            if not torch.isfinite(grad).all():
                raise Broken(f"the gradient of {what} with respect to {name} is not finite")
            if what == "the empty sample" and grad.any():
                raise Broken(f"the gradient of a sample without any place is not 0 with respect to {name}")


def poison(subject: Subject, case: Case) -> None:
    """NaN and infinity in hidden places reach nothing, forward or backward."""
    made = map_trial(subject, case)
    clean = made.values()
    for value in (float("nan"), float("inf")):
        bad = replace(made, maps=made.hidden(lambda x, value=value: torch.full_like(x, value))).require_grad()
        values = bad.values()
        same(values, clean, f"{value} in a hidden place changes an output")
        for name, grad in gradients(bad, values.sum()).items():
            if not torch.isfinite(grad).all():
                raise Broken(f"{value} in a hidden place makes the gradient with respect to {name} not finite")


def weights(subject: Subject, case: Case) -> None:
    """Gates times the map, or what is read at the samples, are the output; asking for them changes nothing."""
    made = map_trial(subject, case)
    output = made(need=Need())
    same(output.values, made.values(), "values change when weights are asked for")
    shown = output.weights
    if subject.declared.weights == "exact":
        same(_applied(made, shown), output.values, "weights times the map are not the output")
    if not isinstance(shown, Samples) or shown.values is None or case.queries < 1:
        return
    rows, heads = [case.queries - 1, 0][: case.queries], [made.module.heads - 1]
    some = made(need=Need(rows=rows, heads=heads)).weights
    assert isinstance(some, Samples)
    assert some.values is not None
    same(some.values, shown.values[:, heads][:, :, rows], "chosen rows and heads are not those of all weights")
    same(some.locations, shown.locations[:, heads][:, :, rows], "chosen locations are not those of all")


def _applied(made: MapTrial, shown: object) -> Tensor:
    """Compute the output from the weights by a way of the kit's own."""
    maps = made.hidden(torch.zeros_like)
    if isinstance(shown, Gates):
        x = maps[0]
        for gate, shape in ((shown.channel, (0, 1)), (shown.spatial, (0, 2, 3))):
            if gate is None:
                continue
            if tuple(gate.shape) != tuple(x.shape[axis] for axis in shape):
                raise Broken(f"a gate has another shape than channels or places: {tuple(gate.shape)}")
            x = x * (gate[:, :, None, None] if len(shape) == 2 else gate[:, None])
        return x
    if not isinstance(shown, Samples) or shown.values is None:
        raise Broken("exact weights of maps are Gates or Samples, with which the output can be computed again")
    total: Tensor | int = 0
    for level, x in enumerate(maps):
        some = slice(level * shown.points, (level + 1) * shown.points)
        read = _interpolated(made.module.values(x, made.masks[level]), shown.locations[:, :, :, some])
        total = total + (read * shown.values[:, :, :, some, None]).sum(3)
    assert isinstance(total, Tensor)
    joined: Tensor = made.module.join(total)
    empty = ~torch.stack([made.there(level).flatten(1).any(1) for level in range(len(maps))]).any(0)
    return joined.masked_fill(empty[:, None, None], 0)


def _interpolated(values: Tensor, locations: Tensor) -> Tensor:
    """Read between the four nearest places. Shapes: (B, H, D, height, width), (B, H, Lq, P, 2) -> (B, H, Lq, P, D)."""
    height, width = values.shape[3:]
    x, y = locations[..., 0] * width - 0.5, locations[..., 1] * height - 0.5
    total = values.new_zeros(*x.shape, values.shape[2])
    for i in range(height):
        for j in range(width):
            near = (1 - (y - i).abs()).clamp_min(0) * (1 - (x - j).abs()).clamp_min(0)
            total = total + near[..., None] * values[:, :, None, None, :, i, j]
    return total


def row_sums(subject: Subject, case: Case) -> None:
    """The weights of every query's readings add up to 1, or to at most 1, as declared."""
    shown = map_trial(subject, case)(need=Need()).weights
    assert isinstance(shown, Samples)
    assert shown.values is not None
    total = shown.values.sum(-1)
    wanted = torch.ones_like(total) if subject.declared.sums == "one" else total.clamp(0, 1)
    same(total, wanted, f"the sum of weights is not what `sums` declares, {subject.declared.sums!r}")
