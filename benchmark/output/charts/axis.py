"""Values onto pixels, and round values to write beside them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

# A tail this many times longer than the fastest response is only readable on a logarithmic axis.
LOG_FROM = 12


@dataclass(frozen=True)
class Axis:
    """Values from `low` to `high` onto pixels from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False

    def at(self, value: float) -> float:
        """The pixel of a value; values beyond the ends stand at the ends."""
        value = min(max(value, self.low), self.high)
        if self.is_log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self, count: int) -> list[float]:
        """About so many round values."""
        return _log_ticks(self.low, self.high, count) if self.is_log else _even_ticks(self.low, self.high, count)


def latency_axis(values: Sequence[float], start: float, end: float, *, from_zero: bool = True) -> Axis:
    """From zero, or round the smallest, to the largest of sorted values; logarithmic where these are far apart."""
    low, high = values[0], values[-1] or 1.0
    if low > 0 and high / low > LOG_FROM:
        return Axis(low / 1.1, high * 1.1, start, end, is_log=True)
    base = 0.0 if from_zero else low
    step = _step(((high - base) or high) / 4)
    return Axis(math.floor(base / step) * step, math.ceil(high * 1.001 / step) * step, start, end)


def count_axis(high: float, start: float, end: float, *, steps: int) -> Axis:
    """From zero to about the highest, in about so many round steps."""
    step = _step((high or 1.0) / steps)
    return Axis(0, math.ceil((high or 1.0) * 0.999 / step) * step, start, end)


def _step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)


def _even_ticks(low: float, high: float, count: int) -> list[float]:
    step = _step((high - low) / count)
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float, count: int) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 5), (1, 3), (1,)):
        ticks = [
            factor * 10.0**power for power in powers for factor in factors if low <= factor * 10.0**power <= high
        ]
        if len(ticks) <= count:
            break
    return ticks
