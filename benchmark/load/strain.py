"""
Whether llm-benchmark itself was the bottleneck: how much of a processor it used, and how late its own clock rang.

A busy client adds its own waiting to every latency, and blames the server. Its CPU tells when it has reached its end
(one core: it is one process), the clock also when it is the machine that is too busy to let it run.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import gevent

TICK_S = 0.02
# From here on nobody should take the figures for the server's.
MOST_CPU_SHARE = 0.8
MOST_LAG_MS, MOST_LAG_SHARE = 10.0, 0.1


@dataclass
class Strain:
    """What a run, or all rounds of a target, asked of this process. `lags_ms`: how late each tick came."""

    cpu_s: float = 0.0
    lags_ms: array[float] = field(default_factory=lambda: array("d"))


@contextmanager
def strain() -> Iterator[Strain]:
    """Measures while the block runs; complete when it has ended."""
    found, began_s = Strain(), time.process_time()
    ticking = gevent.spawn(_tick, found.lags_ms)
    try:
        yield found
    finally:
        ticking.kill()
        found.cpu_s = time.process_time() - began_s


def _tick(lags_ms: array[float]) -> None:
    while True:
        due_ns = time.monotonic_ns() + int(TICK_S * 1e9)
        gevent.sleep(TICK_S)
        lags_ms.append(max(0.0, (time.monotonic_ns() - due_ns) / 1e6))


def joined(several: Iterable[Strain]) -> Strain:
    """What several runs asked, one after another."""
    every = Strain()
    for one in several:
        every.cpu_s += one.cpu_s
        every.lags_ms.extend(one.lags_ms)
    return every


def warning(*, cpu_share: float, lag_ms: float | None, measured_ms: float | None) -> str | None:
    """
    What to tell of a run in which the client was in its own way; None of any other.

    Args:
        lag_ms: The lateness that 99 % of the ticks kept below.
        measured_ms: A time that was measured, which a lateness is held against.
    """
    if cpu_share >= MOST_CPU_SHARE:
        return f"llm-benchmark used {cpu_share:.0%} of a core: it, and not the server, may be what was measured"
    if lag_ms is None or measured_ms is None or lag_ms < max(MOST_LAG_MS, MOST_LAG_SHARE * measured_ms):
        return None
    return f"this machine kept llm-benchmark waiting (p99 {lag_ms:.0f} ms): what is slow may be its own lateness"
