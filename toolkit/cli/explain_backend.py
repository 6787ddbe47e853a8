"""Which backend a mechanism gets for a pattern and a shape, and why the others would not do."""

from __future__ import annotations

from typing import Any

import torch

from toolkit.attention import Mechanism, Request
from toolkit.attention.parse_pattern import parse_pattern
from toolkit.attention.pattern import Lengths
from toolkit.errors import CapabilityError, RecipeError

SHAPE = "1,8,1024,64"


def explained(mechanism: type[Mechanism], pattern: str, shape: str, device: str = "cpu") -> dict[str, Any]:
    """Say which backend would run, why, and why not the others. `shape` is B,H,L,D or B,H,Lq,Lk,D.

    Raises: RecipeError for a shape or pattern that cannot be read; CapabilityError where the mechanism refuses.
    """
    if not issubclass(mechanism, Mechanism):
        layouts = ", ".join(sorted(mechanism.capabilities.layouts))
        raise CapabilityError(
            f"attention {mechanism.name!r} runs on the layout {layouts}: it has no pattern or backends"
        )
    batch, heads, queries, keys, dim = _sizes(shape)
    made = mechanism(heads=heads, dim=dim).to(device).eval()
    q = torch.zeros(batch, heads, queries, dim, device=device)
    k = torch.zeros(batch, heads, keys, dim, device=device)
    asked = Request(q=q, k=k, v=k, pattern=parse_pattern(pattern) if pattern else None)
    if asked.pattern is not None:
        asked.pattern.check(batch, heads, Lengths(queries, keys))
    facts = {"pattern": pattern or "none", "shape": f"q {tuple(q.shape)}, k {tuple(k.shape)}", "device": device}
    explain = getattr(made, "explain", None)
    if explain is None:
        made(q, k, k, asked.pattern)  # what it cannot do, it refuses here
        return facts | {"backend": "its own", "reason": "this mechanism has one way to compute", "refused": {}}
    choice = explain(asked)
    return facts | {"backend": choice.name, "reason": choice.reason, "refused": choice.refused}


def _sizes(shape: str) -> tuple[int, int, int, int, int]:
    parts = shape.split(",")
    if len(parts) not in (4, 5) or not all(part.strip().isdigit() and int(part) for part in parts):
        raise RecipeError(f"--shape wants batch,heads,length,dim or batch,heads,queries,keys,dim, but got {shape!r}")
    sizes = [int(part) for part in parts]
    batch, heads, queries, *keys, dim = sizes
    return batch, heads, queries, keys[0] if keys else queries, dim
