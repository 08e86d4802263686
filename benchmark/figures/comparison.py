"""
Two targets in turn, and what the first costs beside the second.

Rounds alternate, and swap their order from pair to pair, so that whatever changes on the machine meets both. The
intervals are bootstrapped over pairs of rounds, not over single requests: requests of one round resemble each other,
and an interval that took them for independent would be too narrow.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from benchmark.figures.percentiles import percentile
from benchmark.load import strain
from benchmark.load.samples import Run
from benchmark.plan import Plan

ROUNDS = 10
RESAMPLES = 1000
# A round is represented by at most so many of its times, evenly over their order.
KEPT_PER_ROUND = 200


def rounds_of(plan: Plan) -> list[Plan]:
    """The plan in equal parts, each with at least one request for every user; together exactly the plan."""
    if plan.requests is None:
        assert plan.duration_s is not None
        sizes: list[dict[str, Any]] = [{"duration_s": plan.duration_s / ROUNDS}] * ROUNDS
    else:
        count = max(1, min(ROUNDS, plan.requests // plan.concurrency))
        each, rest = divmod(plan.requests, count)
        sizes = [{"requests": each + (number < rest)} for number in range(count)]
    return [replace(plan, **size, warmup=0, seed=plan.seed + number) for number, size in enumerate(sizes)]


def in_turn(count: int) -> Iterator[tuple[int, int]]:
    """(round, side) in the order to run them: side 0 before 1, then 1 before 0."""
    for number in range(count):
        for side in (0, 1) if number % 2 == 0 else (1, 0):
            yield number, side


def joined(runs: Sequence[Run]) -> Run:
    """The rounds of one side as one run. Its duration is the time in which it was this side's turn."""
    return Run(
        samples=list(chain.from_iterable(run.samples for run in runs)),
        began_ns=runs[0].began_ns,
        duration_s=sum(run.duration_s for run in runs),
        interrupted=any(run.interrupted for run in runs),
        unfinished=sum(run.unfinished for run in runs),
        strain=strain.joined(run.strain for run in runs),
        opened=list(chain.from_iterable(run.opened for run in runs)),
    )


@dataclass(frozen=True)
class _Round:
    """The times of one round: in order, as many as are kept, and what the mean needs of all."""

    ordered: list[float]
    total: float
    count: int


Pair = tuple[_Round, _Round]
Statistic = Callable[[list[_Round]], float]


def _percentile(percent: float) -> Statistic:
    def of(rounds: list[_Round]) -> float:
        # Sorted lists one after another are sorted in hardly more than one pass.
        found = percentile(sorted(chain.from_iterable(each.ordered for each in rounds)), percent)
        assert found is not None
        return found

    return of


def _mean(rounds: list[_Round]) -> float:
    return sum(each.total for each in rounds) / sum(each.count for each in rounds)


# Which times of a sample are compared, and what of many of them, by the name that the figure has.
TIMES: dict[str, dict[str, Statistic]] = {
    "latency_ms": {"average_latency_ms": _mean, "p50_latency_ms": _percentile(50), "p99_latency_ms": _percentile(99)},
    "ttft_ms": {"ttft_p50_ms": _percentile(50), "ttft_p99_ms": _percentile(99)},
    "tpot_ms": {"tpot_p50_ms": _percentile(50)},
}
STATISTICS = tuple(chain.from_iterable(TIMES.values()))


def comparison(first: Sequence[Run], second: Sequence[Run]) -> dict[str, Any]:
    """
    First minus second and first by second, each with the interval that holds 95 %; of tokens where both have any.

    None where one of them has no response.
    """
    found: dict[str, Any] = dict.fromkeys(TIMES["latency_ms"])
    for time, statistics in TIMES.items():
        rounds = ((_round(one, time), _round(two, time)) for one, two in zip(first, second, strict=True))
        pairs = [(one, two) for one, two in rounds if one and two]
        drawn = list(_resampled(pairs))
        found |= {name: _compared(statistic, pairs, drawn) for name, statistic in statistics.items() if pairs}
    return found


def _round(run: Run, time: str) -> _Round | None:
    times = (getattr(sample, time) for sample in run.samples if sample.cause is None)
    ordered = sorted(value for value in times if value is not None)
    return _Round(ordered, sum(ordered), len(ordered)) if ordered else None


def _resampled(pairs: list[Pair]) -> Iterator[list[Pair]]:
    """Pairs drawn with replacement, as often as the interval needs; none from a single pair, which says nothing."""
    if len(pairs) < 2:
        return
    thin = [(_thinned(a), _thinned(b)) for a, b in pairs]
    dice = random.Random(1)
    for _ in range(RESAMPLES):
        yield dice.choices(thin, k=len(thin))


def _thinned(one: _Round) -> _Round:
    if len(one.ordered) <= KEPT_PER_ROUND:
        return one
    step = len(one.ordered) / KEPT_PER_ROUND
    return replace(one, ordered=[one.ordered[int((place + 0.5) * step)] for place in range(KEPT_PER_ROUND)])


def _compared(statistic: Statistic, pairs: list[Pair], drawn: list[list[Pair]]) -> dict[str, Any] | None:
    sides = [_sides(statistic, resample) for resample in drawn]
    return beside(
        *_sides(statistic, pairs),
        difference_interval_ms=_interval([a - b for a, b in sides], 3),
        ratio_interval=_interval([a / b for a, b in sides if b], 4),
    )


def beside(
    first: float | None,
    second: float | None,
    *,
    difference_interval_ms: list[float] | None = None,
    ratio_interval: list[float] | None = None,
) -> dict[str, Any] | None:
    """Two times in milliseconds, their difference and their ratio; None where one of them is unknown."""
    if first is None or not second:
        return None
    return {
        "first": round(first, 3),
        "second": round(second, 3),
        "difference_ms": round(first - second, 3),
        "difference_interval_ms": difference_interval_ms,
        "ratio": round(first / second, 4),
        "ratio_interval": ratio_interval,
    }


def _sides(statistic: Statistic, pairs: list[Pair]) -> tuple[float, float]:
    return statistic([a for a, _ in pairs]), statistic([b for _, b in pairs])


def _interval(values: list[float], digits: int) -> list[float] | None:
    ordered = sorted(values)
    low, high = percentile(ordered, 2.5), percentile(ordered, 97.5)
    return None if low is None or high is None else [round(low, digits), round(high, digits)]
