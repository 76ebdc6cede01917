"""What samples come to. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence


def percentile(samples: Sequence[float], p: float) -> float:
    """The nearest-rank percentile, `p` in 0..1: the smallest sample that p of all do not exceed.

    Raises ValueError when there are no samples.
    """
    if not samples:
        raise ValueError("no samples")
    return sorted(samples)[max(0, math.ceil(p * len(samples)) - 1)]
