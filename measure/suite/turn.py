"""A turn of one of several servers that are measured side by side."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

# A turn that cost more than so many others is not the server's: a machine below this one had stopped its processor.
ABSURD = 4


@dataclass(frozen=True)
class Turn:
    """CPU seconds of a server, and the calls or events that they were for."""

    cpu_s: float
    count: int


def cost_us(turns: Sequence[Turn]) -> float:
    """CPU of one call or event, in microseconds: the mean of turns of the same length, absurd ones cut down."""
    costs = [turn.cpu_s / turn.count * 1e6 for turn in turns]
    most = ABSURD * statistics.median(costs)
    return statistics.mean(min(cost, most) for cost in costs)
