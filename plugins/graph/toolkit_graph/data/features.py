"""Features of nodes as they are read (a scipy matrix) and as models take them (a tensor)."""

from __future__ import annotations

import warnings

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

SPARSE_BELOW = 0.25  # share of non-zero features under which a sparse product is the faster one


def mostly_zero(features: scipy.sparse.csr_matrix) -> bool:
    """Return whether so few features are not zero that a model should take them sparse."""
    return bool(features.nnz < SPARSE_BELOW * max(1, features.shape[0] * features.shape[1]))


def feature_tensor(features: scipy.sparse.csr_matrix, sparse: bool | None = None) -> Tensor:
    """Return features as a sparse CSR tensor where few of them are not zero, else dense. Shapes: (N, F)."""
    if not (mostly_zero(features) if sparse is None else sparse):
        return torch.from_numpy(features.toarray().astype(np.float32))
    features = features.sorted_indices()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(
            torch.from_numpy(features.indptr.astype(np.int64)),
            torch.from_numpy(features.indices.astype(np.int64)),
            torch.from_numpy(features.data.astype(np.float32)),
            size=features.shape,
            check_invariants=True,
        )


def row_normalised(features: scipy.sparse.csr_matrix) -> scipy.sparse.csr_matrix:
    """Divide each row by its sum, as the authors of GCN and GAT do; a row of zeros stays one."""
    sums = np.asarray(features.sum(axis=1)).ravel()
    scale = np.divide(1.0, sums, out=np.zeros_like(sums, dtype=np.float64), where=sums != 0)
    return scipy.sparse.csr_matrix(scipy.sparse.diags(scale) @ features)
