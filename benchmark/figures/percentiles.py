"""Percentiles, rounded means, and how they are spoken."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

Figures = dict[str, Any]
TOLD = (50, 90, 99)


def percentile(ordered: Sequence[float], percent: float) -> float | None:
    """Of sorted numbers, interpolated linearly; None of none."""
    if not ordered:
        return None
    place = (len(ordered) - 1) * percent / 100
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def rounded(value: float | None) -> float | None:
    """To thousandths."""
    return None if value is None else round(value, 3)


def mean(values: Sequence[float]) -> float | None:
    """Rounded; None of none."""
    return rounded(statistics.fmean(values)) if values else None


def spread(name: str, values: Iterable[float | None], unit: str = "_ms") -> Figures:
    """`name_p50_ms`, `_p90_`, `_p99_` of the values that are known."""
    ordered = sorted(value for value in values if value is not None)
    return {f"{name}_p{percent}{unit}": rounded(percentile(ordered, percent)) for percent in TOLD}
