"""Plain torch in the place of packages that need a GPU, with the signatures and semantics that they document."""

import torch


def _mask(queries, keys, causal, window_size):
    """Aligned to the bottom right; both ends of a window count, and -1 is without limit."""
    i, j = torch.arange(queries)[:, None] + keys - queries, torch.arange(keys)
    left, right = window_size
    seen = (j <= i) if causal else torch.ones(queries, keys, dtype=torch.bool)
    seen = seen & (j >= i - left) if left >= 0 else seen
    return seen & (j <= i + right) if right >= 0 else seen


def flash_attn_func(
    q,
    k,
    v,
    dropout_p=0.0,
    softmax_scale=None,
    causal=False,
    window_size=(-1, -1),
    softcap=0.0,
    alibi_slopes=None,
    deterministic=False,
    return_attn_probs=False,
):
    """Shapes: q (B, Lq, H, D), k, v (B, Lk, Hkv, D). Rows that may look at nothing give 0."""
    assert q.shape[-1] == k.shape[-1] == v.shape[-1] <= 256
    assert all(x.stride(-1) == 1 for x in (q, k, v))
    assert not (softcap and dropout_p)
    groups = q.shape[2] // k.shape[2]
    k, v = (x.repeat_interleave(groups, 2) for x in (k, v))
    scores = torch.einsum("bihd,bjhd->bhij", q, k) * (q.shape[-1] ** -0.5 if softmax_scale is None else softmax_scale)
    if softcap > 0:
        scores = softcap * (scores / softcap).tanh()
    queries, keys = scores.shape[2:]
    if alibi_slopes is not None:
        assert alibi_slopes.dtype == torch.float32
        far = (torch.arange(queries)[:, None] + keys - queries - torch.arange(keys)).abs()
        scores = scores - alibi_slopes[:, None, None] * far
    scores = scores.masked_fill(~_mask(queries, keys, causal, window_size), -torch.inf)
    empty = (scores == -torch.inf).all(-1, keepdim=True)
    weights = scores.masked_fill(empty, 0).softmax(-1).masked_fill(empty, 0)
    weights = torch.nn.functional.dropout(weights, dropout_p)
    return torch.einsum("bhij,bjhd->bihd", weights.to(v.dtype), v)


def flash_attn_varlen_func(
    q,
    k,
    v,
    cu_seqlens_q,
    cu_seqlens_k,
    max_seqlen_q,
    max_seqlen_k,
    dropout_p=0.0,
    softmax_scale=None,
    causal=False,
    window_size=(-1, -1),
    softcap=0.0,
    alibi_slopes=None,
    deterministic=False,
    return_attn_probs=False,
    block_table=None,
):
    """Shapes: q (total_q, H, D), k, v (total_k, Hkv, D), cu_seqlens (B + 1,) int32; each sequence by itself."""
    for bounds, total, longest in ((cu_seqlens_q, len(q), max_seqlen_q), (cu_seqlens_k, len(k), max_seqlen_k)):
        assert bounds.dtype == torch.int32
        assert bounds[0] == 0
        assert bounds[-1] == total
        assert isinstance(longest, int)
        assert longest == bounds.diff().max()
    parts = []
    for a, b in zip(cu_seqlens_q.tolist()[:-1], cu_seqlens_q.tolist()[1:], strict=True):
        place = len(parts)
        c, d = cu_seqlens_k.tolist()[place : place + 2]
        more = (dropout_p, softmax_scale, causal, window_size, softcap, alibi_slopes)
        parts.append(flash_attn_func(q[None, a:b], k[None, c:d], v[None, c:d], *more)[0])
    return torch.cat(parts)


def chunk_linear_attn(
    q,
    k,
    v,
    scale=None,
    initial_state=None,
    output_final_state=False,
    normalize=True,
    cu_seqlens=None,
):
    """Shapes: q, k (B, T, H, K), v (B, T, H, V), states (B, H, K, V)."""
    assert not normalize
    assert q.shape[1] >= q.shape[2]
    scale = k.shape[-1] ** -0.5 if scale is None else scale
    state = torch.zeros(q.shape[0], q.shape[2], k.shape[3], v.shape[3], dtype=q.dtype)
    state = state if initial_state is None else initial_state
    rows = []
    for t in range(q.shape[1]):
        state = state + k[:, t, :, :, None] * v[:, t, :, None]
        rows.append(torch.einsum("bhk,bhkv->bhv", q[:, t] * scale, state))
    return torch.stack(rows, 1), state if output_final_state else None
