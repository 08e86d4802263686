"""
Two checkouts in turn: what each figure of this one is beside that of the other, and how sure that is.

One run's figure spreads by a tenth and more: the machine is not equally fast each second, and no two processes lie
equally well in its caches. So both servers are up at the same time, on the same processor, with the same upstream and
load, and are served in turns of some milliseconds, in which the machine hardly changes; CPU is counted and not the
clock; and all of it is done again with new processes. Each start gives one ratio, and the interval is Student's over
the starts: whatever differs from one to the next is in it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from measure.suite.json_load import json_turns
from measure.suite.lockstep import Lockstep
from measure.suite.server import ROOT, Server, one_kept_free
from measure.suite.stage import proxy
from measure.suite.turn import Turn, cost_us
from measure.suite.upstreams import json_upstream

PER_S = 50.0
COUNTS = (100, 400)
# Two-sided, 95 %, for 1, 2, ... degrees of freedom; for more of them the last is a little too wide.
STUDENT = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14, 2.13)
# What "2 %" means wherever it is promised.
PROMISED_PERCENT = 2.0
# How often both are started: at least and at most, and until no interval is wider than so much to either side.
STARTS = (6, 12)
ENOUGH_PERCENT = 1.5

# What one side did in a start, and the other beside it.
Sides = tuple[Sequence[Turn], Sequence[Turn]]


@dataclass(frozen=True)
class Difference:
    """
    One figure of both checkouts.

    Attributes:
        here_us, there_us: CPU of one call or event, the median of the starts.
        percent: By how much more this checkout needs.
        low, high: The ends of its interval of 95 %, in percent.
    """

    what: str
    here_us: float
    there_us: float
    percent: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """Whether this checkout may need 2 % more than the other."""
        if self.high < PROMISED_PERCENT:
            return f"{PROMISED_PERCENT:g} % more is excluded"
        return f"more than {PROMISED_PERCENT:g} %" if self.low > PROMISED_PERCENT else "cannot be told"


def difference(what: str, starts: Sequence[Sides]) -> Difference:
    """The figure of two or more starts."""
    costs = [(cost_us(here), cost_us(there)) for here, there in starts]
    logs = [math.log(here / there) for here, there in costs]
    mean = statistics.mean(logs)
    half = STUDENT[min(len(logs) - 1, len(STUDENT)) - 1] * statistics.stdev(logs) / math.sqrt(len(logs))
    percent, low, high = (math.expm1(value) * 100 for value in (mean, mean - half, mean + half))
    here_us, there_us = (statistics.median(side) for side in zip(*costs, strict=True))
    return Difference(what, here_us, there_us, percent, low, high)


def compare(
    other: Path, work: Path, *, seconds: float, starts: tuple[int, int] = STARTS
) -> Iterator[list[Difference]]:
    """
    Every figure, after each start from the second on; the last is the result.

    Args:
        other: The other checkout, which is run by its own .venv where it has one.
        seconds: How long each kind of event is measured in each start; calls, which vary more, twice as long.
        starts: At least and at most.
    """
    found: dict[str, list[Sides]] = {}
    with one_kept_free() as processor, json_upstream(work) as upstream, Lockstep() as lockstep:
        for number in range(starts[1]):
            checkouts = [(ROOT, work / "here"), (other, work / "there")]
            # Who is started first, and has the first turn, changes from start to start.
            order = 1 if number % 2 == 0 else -1
            for what, turns in _one_start(checkouts[::order], upstream, lockstep, seconds, processor):
                here, there = turns[::order]
                found.setdefault(what, []).append((here, there))
            if number:
                told = [difference(what, pairs) for what, pairs in found.items()]
                yield told
                if number + 1 >= starts[0] and all(one.high - one.percent < ENOUGH_PERCENT for one in told):
                    return


def _one_start(
    checkouts: Sequence[tuple[Path, Path]], upstream: Server, lockstep: Lockstep, seconds: float, processor: int
) -> Iterator[tuple[str, list[list[Turn]]]]:
    with _both(checkouts, upstream, processor) as servers:
        yield "a JSON call", json_turns(servers, 2 * seconds)
    with _both(checkouts, lockstep.server, processor) as servers:
        for count in COUNTS:
            yield (
                f"an event, {count} streams of {PER_S:g}/s",
                lockstep.cost(servers, streams=count, per_s=PER_S, seconds=seconds, is_paced=False),
            )


@contextmanager
def _both(checkouts: Sequence[tuple[Path, Path]], upstream: Server, processor: int) -> Iterator[list[Server]]:
    with ExitStack() as up:
        servers = [up.enter_context(proxy(upstream, data, checkout=checkout)) for checkout, data in checkouts]
        for server in servers:
            server.run_on(processor)
        yield servers
