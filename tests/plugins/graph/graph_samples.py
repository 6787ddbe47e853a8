"""A random graph and what the tests of models build on it."""

import torch
from toolkit_graph.data.batch import GraphBatch

from toolkit.attention import edges
from toolkit.attention.gat import GAT
from toolkit.attention.gatv2 import GATv2
from toolkit.attention.scaled_dot_product import ScaledDotProduct

N, F_IN, H, D = 30, 11, 3, 4
MECHANISMS = [GAT, GATv2, ScaledDotProduct]


class Chosen:
    """A mechanism as a recipe hands it over: options known, sizes not."""

    def __init__(self, mechanism=GAT, **options):
        self.mechanism, self.options = mechanism, options

    def build(self, *, heads, dim):
        return self.mechanism(heads=heads, dim=dim, **self.options)


def index_with_loops(seed=0):
    """Distinct edges with one self-loop a node, shuffled: PyG's own self-loops then are the same edges, elsewhere."""
    generator = torch.Generator().manual_seed(seed)
    listed = (torch.rand(N, N, generator=generator) < 0.1).fill_diagonal_(True).nonzero().T
    return listed[:, torch.randperm(listed.shape[1], generator=generator)]


def features(density=0.3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(N, F_IN, generator=generator).double()
    return x * (torch.rand(N, F_IN, generator=generator) < density)


def batch_of(items=None, x=None, seed=0, **more):
    x = features() if x is None else x
    return GraphBatch(target=torch.zeros(1), x=x, pattern=edges(index_with_loops(seed), N), items=items, **more)


def copied(layer, conv):
    """Copy a PyG convolution's weights into our layer."""
    attend = layer.mechanism
    with torch.no_grad():
        if isinstance(attend, GAT):
            layer.weight.copy_(conv.lin.weight.T)
            attend.query_weight.copy_(conv.att_dst[0])
            attend.key_weight.copy_(conv.att_src[0])
        elif isinstance(attend, GATv2):
            layer.weight.copy_(torch.cat([conv.lin_r.weight, conv.lin_l.weight]).T)
            attend.weight.copy_(conv.att[0])
        else:
            parts = (conv.lin_query, conv.lin_key, conv.lin_value)
            layer.weight.copy_(torch.cat([part.weight for part in parts]).T)
            if layer.skip is not None:
                layer.skip.copy_(conv.lin_skip.weight.T)
        if layer.bias is not None:
            layer.bias.copy_(conv.bias)
        if layer.skip is not None and not isinstance(attend, ScaledDotProduct):
            layer.skip.copy_(conv.res.weight.T)


def two_epochs(data):
    """Return the nodes of each training batch of two epochs."""
    train, epochs = data.train_dataloader(), []
    for epoch in range(2):
        train.set_epoch(epoch)
        epochs.append([batch.node_ids.tolist() for batch in train])
    return epochs
