"""JSON that every reader takes: Python's own writes NaN, which is not JSON."""

from __future__ import annotations

import json
import math
from typing import Any


def strict_json(value: Any) -> str:
    """Return values as indented JSON: numbers that are not finite become null, what is not plain becomes text."""
    return json.dumps(_finite(value), indent=2, ensure_ascii=False, allow_nan=False, default=str)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
