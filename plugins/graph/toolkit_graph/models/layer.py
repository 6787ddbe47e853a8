"""One graph layer around any attention mechanism: projections, heads, bias and skip connection."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from toolkit.attention import EdgePattern, Mechanism, Need, Weights
from toolkit.attention.dropout import dropout as drop
from toolkit.binding import Probability
from toolkit.errors import CapabilityError
from toolkit_graph.models.sparse import project

_PROJECTIONS = {"shared": (0, 0, 0), "shared_kv": (0, 1, 1), "separate": (0, 1, 2)}  # block of q, of k, of v


class GraphAttention(nn.Module):
    """out_i = join_h(sum_j w_ijh v_jh) + bias (+ skip x_i), where q, k, v = projections of x as the mechanism asks.

    concat: heads are concatenated, otherwise averaged. skip: add a linear projection of the target's own features.
    dropout, value_dropout: rates at which input features, and values after projection, are dropped in training.
    Projections have no bias. Of the three in arXiv:2009.03509, eq. 3, the key's cancels in the softmax and the value's
    is `bias`; the query's, and that paper's gate and norm behind the layer, are left out.
    Shapes: weight (in_features, blocks * H * D), stored as (in, out) because sparse features gather its rows;
    bias (H * D) or (D). Source: arXiv:1710.10903, eq. 4 to 6.
    """

    def __init__(
        self,
        *,
        in_features: int,
        mechanism: Mechanism,
        concat: bool = True,
        bias: bool = True,
        skip: bool = False,
        dropout: Probability = 0.0,
        value_dropout: Probability = 0.0,
    ) -> None:
        super().__init__()
        if "edges" not in mechanism.capabilities.layouts:
            raise CapabilityError(f"attention {mechanism.name!r} does not run on edges, which a graph layer needs")
        self.mechanism, self.concat, self.dropout, self.value_dropout = mechanism, concat, dropout, value_dropout
        self.blocks = _PROJECTIONS[mechanism.projections]
        width = mechanism.heads * mechanism.dim
        out_features = width if concat else mechanism.dim
        self.weight = nn.Parameter(torch.empty(in_features, (max(self.blocks) + 1) * width))
        self.bias = nn.Parameter(torch.empty(out_features)) if bias else None
        self.skip = nn.Parameter(torch.empty(in_features, out_features)) if skip else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw every projection by Glorot's rule, as the paper's own code does."""
        for block in self.weight.data.chunk(max(self.blocks) + 1, 1):
            nn.init.xavier_uniform_(block)
        if self.skip is not None:
            nn.init.xavier_uniform_(self.skip)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor, pattern: EdgePattern, *, need: Need | None = None) -> tuple[Tensor, Weights | None]:
        """Attend over the edges of a pattern whose targets are the first of its sources.

        Shapes: x (Ns, in_features) dense or sparse CSR -> (Nt, H * D) or (Nt, D).
        """
        attend, targets = self.mechanism, pattern.num_targets
        weight = self.weight if self.skip is None else torch.cat([self.weight, self.skip], 1)
        joined = project(x, weight, self.dropout, self.training)
        width = attend.heads * attend.dim
        parts = [joined[:, start : start + width] for start in range(0, self.weight.shape[1], width)]
        parts = [part.reshape(-1, attend.heads, attend.dim) for part in parts]  # (Ns, H, D)
        query, key, value = (parts[block] for block in self.blocks)
        value = drop(value, self.value_dropout, self.training)
        output = attend(query[:targets], key, value, pattern, need=need)
        out = output.values.flatten(1) if self.concat else output.values.mean(1)
        if self.skip is not None:
            out = out + joined[:targets, self.weight.shape[1] :]
        return (out if self.bias is None else out + self.bias), output.weights
