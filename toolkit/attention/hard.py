"""Hard attention: each query looks at one key, drawn from its weights. Xu et al. 2015, arXiv:1502.03044."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from toolkit.attention.call import checked
from toolkit.attention.capabilities import Capabilities
from toolkit.attention.explicit import answer
from toolkit.attention.mechanism import Attention, AttentionOutput, Mechanism, Request
from toolkit.attention.need import Need
from toolkit.attention.normalizers import DenseRows, EdgeRows, Rows, softmax
from toolkit.attention.pairwise import Pairwise
from toolkit.binding import Fraction, NonNegativeFloat, PositiveFloat
from toolkit.errors import CapabilityError, ShapeError


class Hard(Mechanism):
    """In training each query draws one key with the probabilities a that `score` gives, and takes its value.

    score: the pairwise mechanism inside, by name (with `score_options`) or ready made.
    estimator: where gradients come from. `reinforce` gives none to the scores; `aux` carries `log_prob`, the
    log-probability of each draw, and `entropy`, that of each row, for `ReinforceLoss`. `straight_through` draws with
    Gumbel noise, and takes the gradient of softmax((log a + noise) / temperature) for that of the draw.
    temperature: that one, 1 if it is not given. expected: share of samples (of targets, on edges) that take the
    expectation sum_j a_j v_j instead of a draw, with `reinforce`; the paper has 0.5.
    evaluation: outside training, the `expectation`, or the `argmax`, the value of the most probable key, or the mean of
    those that are equally so.
    Shapes: log_prob and entropy as the queries, (B, H, Lq) or (Nt, H); 0 for rows that may look at nothing.
    Raises: ValueError for a score whose weights are no probabilities.
    Source: arXiv:1502.03044, eq. 8 to 12 (reinforce); arXiv:1611.01144, sec. 2.2 (straight_through).
    """

    name = "hard"
    capabilities = Capabilities(
        sums="one",
        gradient="estimate",
        cost="L^2 D (dense), E D (edges), with all weights in memory",
        paper="Xu et al. 2015, Show, Attend and Tell, arXiv:1502.03044",
        equation="v_s with s drawn from softmax_j score(q_i, k_j)",
    )
    examples: ClassVar[tuple[dict[str, Any], ...]] = ({}, {"estimator": "straight_through", "evaluation": "argmax"})

    def __init__(
        self,
        *,
        heads: int,
        dim: int,
        score: str | Pairwise = "scaled_dot_product",
        score_options: dict[str, Any] | None = None,
        estimator: Literal["reinforce", "straight_through"] = "reinforce",
        temperature: PositiveFloat | None = None,
        expected: Fraction = 0.0,
        evaluation: Literal["expectation", "argmax"] = "expectation",
    ) -> None:
        super().__init__(heads=heads, dim=dim)
        for what, given, known in (
            ("estimator", estimator, ("reinforce", "straight_through")),
            ("evaluation", evaluation, ("expectation", "argmax")),
        ):
            if given not in known:
                raise ValueError(f"hard knows {what} {' and '.join(known)}, but {given!r} was given")
        if (temperature is not None and not temperature > 0) or not 0 <= expected <= 1:
            raise ValueError(
                f"hard wants temperature above 0 and expected from 0 to 1, but {temperature} and {expected} were given"
            )
        if temperature is not None and estimator != "straight_through":
            raise ValueError(f"temperature={temperature} goes with estimator='straight_through', not {estimator!r}")
        if expected and estimator != "reinforce":
            raise ValueError(f"expected={expected} goes with estimator='reinforce', not {estimator!r}")
        self.estimator, self.temperature = estimator, 1.0 if temperature is None else temperature
        self.expected, self.evaluation = expected, evaluation
        self.score = _inner(score, heads, dim, score_options or {})

    @property
    def learns_from_aux(self) -> bool:
        return self.estimator == "reinforce"

    def attend(self, request: Request) -> AttentionOutput:
        if request.state is not None:
            raise CapabilityError("hard keeps no state between calls, so it takes none")
        call, looked = checked(request, self).quarantined()
        need = Need(gradient=True, lse=request.need is not None and request.need.lse)
        inner = self.score(call.q, call.k, call.v[..., :1], call.pattern, bias=call.bias, need=need)
        assert inner.weights is not None
        assert inner.weights.values is not None
        p = inner.weights.values
        p = p.to(torch.promote_types(p.dtype, torch.float32))
        dense = call.layout == "dense"
        rows: Rows = DenseRows() if dense else EdgeRows(call.edges.index[1], call.queries)
        total = rows.sum(p).squeeze(-1) if dense else rows.sum(p)
        looked = total.isnan() if looked is None else looked | total.isnan()
        weights, aux = self._drawn(p, rows, dense) if self.training else (self._known(p, rows), {})
        return answer(self, call, weights.to(call.v.dtype), inner.lse, looked, aux=aux)

    def _known(self, p: Tensor, rows: Rows) -> Tensor:
        if self.evaluation == "expectation":
            return p
        top = ((p == rows.spread(rows.max(p))) & (p > 0)).to(p.dtype)
        return top / rows.spread(rows.sum(top).clamp_min(1))

    def _drawn(self, p: Tensor, rows: Rows, dense: bool) -> tuple[Tensor, dict[str, Tensor]]:
        possible = p > 0
        log_p = p.masked_fill(~possible, 1).log()
        noise = -torch.empty_like(p).exponential_().clamp_min(torch.finfo(p.dtype).tiny).log()
        noisy = (log_p + noise).masked_fill(~possible, -torch.inf)  # its largest is a draw from p
        drawn = _largest(noisy, possible, rows)
        if self.estimator == "straight_through":
            soft, _ = softmax(noisy / self.temperature, rows)
            return drawn + (soft - soft.detach()), {}
        log_prob, entropy = rows.sum(drawn * log_p), -rows.sum(p * log_p)
        if dense:
            log_prob, entropy = log_prob.squeeze(-1), entropy.squeeze(-1)
        if self.expected:
            mean = torch.rand(len(log_prob), device=p.device) < self.expected
            log_prob = log_prob.masked_fill(mean.view(-1, *[1] * (log_prob.dim() - 1)), 0)
            place = mean.view(-1, 1, 1, 1) if dense else rows.spread(mean[:, None])
            drawn = torch.where(place, p, drawn)
        return drawn, {"log_prob": log_prob, "entropy": entropy}

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, estimator={self.estimator!r}, evaluation={self.evaluation!r}"


@torch.no_grad()
def _largest(x: Tensor, possible: Tensor, rows: Rows) -> Tensor:
    """Return 1 at the first largest of the possible entries of each row, and 0 elsewhere."""
    top = (x == rows.spread(rows.max(x))) & possible
    along = 0 if isinstance(rows, EdgeRows) else -1
    place = torch.arange(x.shape[along], device=x.device, dtype=torch.float64)
    place = -(place[:, None] if along == 0 else place).expand_as(x)
    place = place.masked_fill(~top, -torch.inf)
    return ((place == rows.spread(rows.max(place))) & top).to(x.dtype)


def _inner(score: str | Pairwise, heads: int, dim: int, options: dict[str, Any]) -> Pairwise:
    from toolkit.attention import build

    made: Attention
    if isinstance(score, str):
        made = build(score, heads=heads, dim=dim, **options)
    elif options:
        raise TypeError(
            f"score_options {sorted(options)} belong to a score that is named, but one was given ready made"
        )
    else:
        made = score
    shown = made.capabilities
    certain = shown.weights == "exact" and shown.sums in (None, "one")
    if not isinstance(made, Pairwise) or made.normalizer.sums != "one" or not certain:
        raise ValueError(
            f"hard draws from exact weights that add up to one, as those of a pairwise mechanism with "
            f"normalize='softmax' do; those of {made.name} as it was built are not such"
        )
    if made.dropout:
        raise ValueError(f"hard drops no weights, so its score {made.name} must have dropout=0, not {made.dropout}")
    if (made.heads, made.dim) != (heads, dim):
        raise ShapeError(f"the score has heads={made.heads}, dim={made.dim}, but hard has heads={heads}, dim={dim}")
    return made


class ReinforceLoss(nn.Module):
    """Turn a reward for each sample into a loss whose gradient is the REINFORCE estimate for hard attention.

    loss = -mean_n [reward_weight * (r_n - b) * sum log p(s_n) + entropy_weight * sum H(s_n)]. The sums are over heads,
    queries and calls. b is a moving average of earlier rewards, b <- decay * b + (1 - decay) * mean(r), from 0, kept by
    each process for itself; it moves in training only. The paper's reward is the log-likelihood of the target; that
    itself is a loss of the task, and is not in here.
    Shapes: baseline (). Source: arXiv:1502.03044, eq. 11 and 12; decay 0.9 as there, the weights are ours.
    """

    baseline: Tensor

    def __init__(
        self, *, decay: Fraction = 0.9, reward_weight: PositiveFloat = 1.0, entropy_weight: NonNegativeFloat = 0.01
    ) -> None:
        super().__init__()
        self.decay, self.reward_weight, self.entropy_weight = decay, reward_weight, entropy_weight
        self.register_buffer("baseline", torch.zeros(()))

    def forward(self, reward: Tensor, *drawn: dict[str, Tensor]) -> Tensor:
        """Shapes: reward (N,), one for each sample or target node; drawn: the `aux` of one call or several -> ().

        Raises: ShapeError if rewards and draws disagree on N; CapabilityError for an `aux` without draws.
        """
        if not drawn or any("log_prob" not in aux for aux in drawn):
            raise CapabilityError("ReinforceLoss wants the aux of hard(estimator='reinforce') in training")
        shapes = {tuple(aux["log_prob"].shape[:1]) for aux in drawn}
        if shapes != {tuple(reward.shape)}:
            raise ShapeError(f"reward has shape {tuple(reward.shape)} but draws are for {sorted(shapes)} samples")
        reward = reward.detach()
        log_prob, entropy = (sum(aux[name].flatten(1).sum(1) for aux in drawn) for name in ("log_prob", "entropy"))
        gain = self.reward_weight * (reward - self.baseline) * log_prob + self.entropy_weight * entropy
        if self.training and len(reward):
            with torch.no_grad():
                self.baseline.lerp_(reward.mean().to(self.baseline.dtype), 1 - self.decay)
        loss: Tensor = -gain.mean()
        return loss
