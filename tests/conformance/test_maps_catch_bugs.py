"""The kit catches bugs planted in attention on feature maps, each by the check that is meant for it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from toolkit.attention import AttentionOutput
from toolkit.attention.feature_maps import FeatureAttention, Gates
from toolkit.attention.feature_maps.cbam import CBAM
from toolkit.attention.feature_maps.deformable import Deformable
from toolkit.attention.feature_maps.squeeze_excitation import SqueezeExcitation
from toolkit.testing.check import Broken
from toolkit.testing.kit import CHECKS, conform, rerun
from toolkit.testing.maps import ON_MAPS
from toolkit.testing.subject import Subject


class Sound(FeatureAttention):
    """Each channel by the sigmoid of its mean, as a newcomer would write it; every bug is one thing changed."""

    name = "sound"
    capabilities = replace(SqueezeExcitation.capabilities, paper="", equation="x_c sigmoid(s mean(x)_c)")

    def __init__(self, *, dim, heads=1):
        super().__init__(dim=dim, heads=heads)
        self.slope = nn.Parameter(torch.ones(dim))

    def mean(self, x, mask):
        count = x.shape[2] * x.shape[3] if mask is None else mask.sum((1, 2))[:, None].clamp_min(1)
        return x.sum((2, 3)) / count

    def gates(self, x, mask):
        return Gates(channel=(self.slope * self.mean(x, mask)).sigmoid())


class CountsPadding(Sound):
    def mean(self, x, mask):
        return x.mean((2, 3))


class SeesHidden(Sound):
    def forward(self, x, mask=None, *, need=None):
        gates = replace(self.gates(x, None), mask=mask)
        return AttentionOutput(values=gates.applied(x), weights=None if need is None else gates)


class GivesBias(Sound):
    def forward(self, x, mask=None, *, need=None):
        output = super().forward(x, mask, need=need)
        return replace(output, values=output.values + self.slope[:, None, None])


class LooksAtNothing(Sound):
    def forward(self, x, mask=None, *, need=None):
        return super().forward(torch.zeros_like(x), mask, need=need)


class EmptyIsNaN(Sound):
    def mean(self, x, mask):
        return x.sum((2, 3)) / (x.shape[2] * x.shape[3] if mask is None else mask.sum((1, 2))[:, None])


class Multiplies(Sound):
    def forward(self, x, mask=None, *, need=None):
        x = x if mask is None else x * mask[:, None]
        return super().forward(x, None, need=need)


class OverTheBatch(Sound):
    def mean(self, x, mask):
        found = super().mean(x, mask)
        return found - found.mean(0) if self.training else found


class OtherGates(Sound):
    def forward(self, x, mask=None, *, need=None):
        output = super().forward(x, mask, need=need)
        if output.weights is None:
            return output
        return replace(output, weights=replace(output.weights, channel=1 - output.weights.channel))


class ShowsNothing(Sound):
    def forward(self, x, mask=None, *, need=None):
        return super().forward(x, mask)


class Detached(Sound):
    def mean(self, x, mask):
        return super().mean(x, mask).detach()


class Coarse(Sound):
    def mean(self, x, mask):
        return super().mean(x.half() if x.dtype == torch.float32 else x, mask).to(x.dtype)


class CoarseHalf(Sound):
    def mean(self, x, mask):
        found = super().mean(x, mask)
        return (found * 2).round() / 2 if x.dtype in (torch.half, torch.bfloat16) else found


class OtherType(Sound):
    def gates(self, x, mask):
        return Gates(channel=super().gates(x, mask).channel.double())


class SeesPlaces(Sound):
    def mean(self, x, mask):
        return super().mean(x, mask) + x[:, :, 0, 0]


class Noisy(Sound):
    def mean(self, x, mask):
        return super().mean(x, mask) + torch.rand(())


class KeepsStateApart(Sound):
    def __init__(self, *, dim, heads=1):
        super().__init__(dim=dim, heads=heads)
        self.apart = torch.rand(())

    def mean(self, x, mask):
        return super().mean(x, mask) + self.apart


class BranchesOnData(Sound):
    def mean(self, x, mask):
        return super().mean(x, mask) * (1 if x.sum() > 0 else 2)


class Unnormalised(Deformable):
    examples = ({"levels": 2, "points": 2},)

    def samples(self, queries, reference, shapes):
        found = super().samples(queries, reference, shapes)
        return replace(found, values=2 * found.values)


class QueriesMix(Deformable):
    examples = ({"levels": 2, "points": 2},)

    def samples(self, queries, reference, shapes):
        return super().samples(queries.cumsum(1), reference, shapes)


class OtherLocations(Deformable):
    examples = ({"levels": 1, "points": 1},)

    def forward(self, *given, need=None):
        output = super().forward(*given, need=need)
        if output.weights is None:
            return output
        return replace(output, weights=replace(output.weights, locations=output.weights.locations + 0.2))


class _Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    def backward(ctx, grad):
        return 2 * ctx.saved_tensors[0].detach() * grad


class LosesSecondDerivative(Sound):
    def mean(self, x, mask):
        return _Once.apply(super().mean(x, mask))


class LeaksThroughItsBias(Deformable):
    """Hidden places are 0 before the projection, and its bias after: a mask as the newcomer writes it."""

    examples = ({"levels": 1, "points": 2},)

    def forward(self, queries, reference, maps, masks=None, *, need=None):
        return super().forward(queries, reference, maps, None, need=need)


CAUGHT_BY = {
    CountsPadding: "padding_leak",
    SeesHidden: "mask_leak",
    LeaksThroughItsBias: "mask_leak",
    LooksAtNothing: "mask_leak",
    GivesBias: "mask_leak",
    EmptyIsNaN: "empty_rows",
    Multiplies: "poison",
    OverTheBatch: "batch_independence",
    OtherGates: "weights",
    OtherLocations: "weights",
    ShowsNothing: "declared",
    Detached: "gradcheck",
    Coarse: "reference",
    CoarseHalf: "half_precision",
    OtherType: "half_precision",
    SeesPlaces: "key_permutation",
    QueriesMix: "query_permutation",
    Noisy: "deterministic",
    KeepsStateApart: "state_dict",
    Unnormalised: "row_sums",
    LosesSecondDerivative: "double_backward",
    BranchesOnData: "compiles",
}


def outcomes(target, *names, seed=0):
    found = conform(Subject.of(target.__name__, target), [CHECKS[name] for name in names] or None, seed=seed)
    return {each.check: each for each in found}


def test_sound_gates_and_readers_break_nothing():
    for target in (Sound, CBAM, Deformable):
        names = [name for name in CHECKS if target is Sound or name not in ("compiles", "exports")]
        found = outcomes(target, *names)
        assert {name: each.detail for name, each in found.items() if each.status == "failed"} == {}
        skipped = {name for name, each in found.items() if each.status == "skipped"}
        only = {Sound: {"row_sums", "query_permutation"}, CBAM: {"row_sums", "query_permutation", "key_permutation"}}
        assert skipped == set(CHECKS) - set(ON_MAPS) | only.get(target, {"key_permutation"})
        assert all(found[name].detail for name in skipped)
        assert all(found[name].answered for name in set(found) - skipped)


@pytest.mark.parametrize("check", ON_MAPS)
def test_every_check_has_a_bug_that_it_is_meant_for(check):
    assert check in CHECKS
    assert check in CAUGHT_BY.values() or check == "exports"  # BranchesOnData breaks it too, below


@pytest.mark.parametrize(("bug", "check"), CAUGHT_BY.items(), ids=lambda each: getattr(each, "__name__", each))
def test_bug_is_caught_by_the_check_meant_for_it(bug, check):
    outcome = outcomes(bug, check)[check]
    assert outcome.status == "failed"
    with pytest.raises((Broken, RuntimeError)):  # the small example still breaks it
        rerun(Subject.of("bug", bug), check, outcome.case)


def test_branch_on_data_cannot_be_exported():
    assert outcomes(BranchesOnData, "exports")["exports"].status == "failed"


def test_bugs_are_caught_under_another_seed():
    for bug, check in CAUGHT_BY.items():
        if check != "compiles":
            assert outcomes(bug, check, seed=1)[check].status == "failed", (bug, check)


def test_failing_example_is_small_and_says_how_to_run_it_again():
    outcome = outcomes(SeesHidden, "mask_leak")["mask_leak"]
    assert (outcome.case.layout, outcome.case.batch, outcome.case.dim) == ("map", 1, 1)
    assert outcome.case.height * outcome.case.width <= 4
    assert f"rerun('SeesHidden', 'mask_leak', {outcome.case!r})" in outcome.rerun
    case = eval(repr(outcome.case), {"Case": type(outcome.case), "torch": torch})
    assert case == outcome.case
