"""
A meter's arithmetic: whether it admits a call, what it holds for it, and what it counts when the call has ended.

A call is admitted when S < L and (none of the meter's calls runs, or S + holds + hold <= L and S + bounds + bound <=
10 L); by a meter that reserves the bound when S + bounds + bound <= L. S is what was spent, L the amount.

Amounts are micro-dollars, tokens or requests, whichever the meter counts; all are whole numbers. PostgreSQL computes
the same in SQL (`database.claims`), and the tests compare the two.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from llmproxy.limits.periods import FURTHEST_US, RATES, Period, has_begun_before

Unit = Literal["usd", "tokens", "requests"]
Reserve = Literal["likely", "bound"]
Shortage = Literal["exhausted", "too_small", "reserved"]

# However many calls are sent at once, what they may cost together stays within so many times the amount.
MOST_BOUNDS = 10
# What a call is held for at least, where it may cost that much: so many times what calls cost in the mean.
HELD_MEANS = 3
# The mean moves by one part in so many at each settlement.
MEAN_PARTS = 32


class Meter(NamedTuple):
    """
    One limit with its count, as its row stands.

    Attributes:
        models: Names and globs of the models it is for, separated by commas; None for all calls.
        spent: In this period. `reserved` and `bounds` are what running calls are held for, and may cost at most.
        mean: Of the costs so far, see MEAN_PARTS.
        period_end: In microseconds since 1970 UTC. A meter that never counted has 0.
    """

    id: str
    name: str
    unit: Unit
    models: str | None
    period: Period
    zone: str
    reserve: Reserve
    amount: int
    spent: int = 0
    reserved: int = 0
    bounds: int = 0
    mean: int = 0
    period_end: int = 0

    @property
    def holds(self) -> bool:
        """Whether running calls are held for; a rate, and a meter of requests, count what they admit instead."""
        return self.unit != "requests" and self.period not in RATES


_COUNTS = Meter._fields.index("spent")


class Claimed(NamedTuple):
    """What a call does to a meter when it is admitted, in the meter's unit; `counted` is spent at once."""

    hold: int
    bound: int
    counted: int


def claimed(meter: Meter, *, bound: int, estimate: int) -> Claimed:
    """What this meter is to hold and count for a call that may cost `bound`, and likely costs `estimate`."""
    if meter.unit == "requests":
        return Claimed(0, 0, 1)
    if not meter.holds:
        return Claimed(0, 0, estimate)
    likely = min(bound, max(estimate, HELD_MEANS * meter.mean))
    return Claimed(likely if meter.reserve == "likely" else bound, bound, 0)


def shortage(meter: Meter, call: Claimed) -> Shortage | None:
    """Why the meter does not admit the call; None when it does."""
    if meter.spent >= meter.amount:
        return "exhausted"
    left = meter.amount - meter.spent
    if meter.reserve == "bound":
        if meter.bounds + call.bound <= left:
            return None
        return "reserved" if meter.bounds else "too_small"
    is_within = meter.reserved + call.hold <= left
    is_within &= meter.spent + meter.bounds + call.bound <= MOST_BOUNDS * meter.amount
    return None if not meter.bounds or is_within else "reserved"


def turned(meter: Meter, now_us: int, ends: tuple[int, int]) -> Meter:
    """
    The meter as it stands at this moment: with nothing spent where its period is over.

    Args:
        ends: Of the period around a moment that is now or a little before, and of the one after.
    """
    if now_us < meter.period_end <= now_us + FURTHEST_US[meter.period]:
        return meter
    return meter._replace(spent=0, period_end=ends[0] if now_us < ends[0] else ends[1])


def admitted(meter: Meter, call: Claimed) -> Meter:
    """The meter with the call running."""
    return _with(meter, meter.spent + call.counted, meter.reserved + call.hold, meter.bounds + call.bound, meter.mean)


def settled(meter: Meter, call: Claimed, cost: int, at_us: int) -> Meter:
    """
    The meter with the call ended, at what it cost.

    Args:
        at_us: When the call was admitted. A rate forgets what was before its minute or hour.
    """
    if not meter.holds:
        return corrected(meter, call.counted, cost, at_us)
    mean = mean_after(meter.mean, cost)
    return _with(meter, meter.spent + cost, meter.reserved - call.hold, meter.bounds - call.bound, mean)


def corrected(meter: Meter, charged: int, cost: int, at_us: int) -> Meter:
    """The meter with a call at what it cost, and not at what was charged for it before."""
    if meter.unit == "requests" or (not meter.holds and not has_begun_before(meter.period, meter.period_end, at_us)):
        return meter
    # Whoever set it to nothing meanwhile did not mean less than nothing.
    return _with(meter, max(meter.spent + cost - charged, 0), meter.reserved, meter.bounds, meter.mean)


def _with(meter: Meter, spent: int, reserved: int, bounds: int, mean: int) -> Meter:
    # `_replace` takes twice as long, and each call waits for it four times.
    return Meter._make((*meter[:_COUNTS], spent, reserved, bounds, mean, meter.period_end))


def mean_after(mean: int, cost: int) -> int:
    """The mean with one more cost in it, rounded towards what it was, as integers are divided in SQL."""
    difference = cost - mean
    step = abs(difference) // MEAN_PARTS
    return mean + step if difference > 0 else mean - step
