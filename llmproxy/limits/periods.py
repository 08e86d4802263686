"""
When a meter's period ends: moments in microseconds since 1970 UTC, days in the meter's own time zone.

A day, week or month ends at the first instant of the next one where the meter lives, which is not always 24 hours
later, nor always at midnight: a clock that goes from 23:59 to 01:00 begins its day at 01:00.
"""

from __future__ import annotations

from datetime import date, datetime, timedelta
from functools import lru_cache
from typing import Literal, get_args
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from llmproxy.times import microseconds

Period = Literal["minute", "hour", "day", "week", "month", "total"]
PERIODS: tuple[Period, ...] = get_args(Period)
# In these a meter counts what it admits. In the others it is a budget, and holds what running calls may cost.
RATES: frozenset[Period] = frozenset({"minute", "hour"})

US_PER_S = 10**6
# The end of what has none: far, and yet small enough to be added to.
NEVER_US = 2**62

_HOUR_US = 3600 * US_PER_S
LENGTH_US = {
    "minute": 60 * US_PER_S, "hour": _HOUR_US, "day": 24 * _HOUR_US, "week": 168 * _HOUR_US, "month": 744 * _HOUR_US,
}  # fmt: skip
# An end that lies further ahead was written by a clock that was wrong. The hour more is a day's in autumn.
FURTHEST_US = {"total": NEVER_US, **{period: length + _HOUR_US for period, length in LENGTH_US.items()}}

# What some machines have beside the zones: their own, the one that rules without a name go by, none at all, and all
# zones once more, of which those with leap seconds begin their days half a minute late.
_NO_ZONES = frozenset({"localtime", "posixrules", "Factory", "posix", "right"})


def checked_zone(name: str) -> str:
    """The name, when it is a time zone's wherever this runs. ValueError says what it must be."""
    try:
        if name.split("/")[0] in _NO_ZONES:
            raise ValueError(name)
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError("must be a time zone such as Europe/Amsterdam or UTC") from None
    return name


def has_begun_before(period: Period, period_end: int, at_us: int) -> bool:
    """Whether the minute or hour that ends then had begun at this moment."""
    return at_us >= period_end - LENGTH_US[period]


def period_ends(period: Period, zone: str, at_us: int) -> tuple[int, int]:
    """
    The end of the period around a moment, and of the one after it.

    Both, because the clock that decides may be a little ahead of whoever asks.
    """
    if period == "total":
        return NEVER_US, NEVER_US
    if period in RATES:
        length = LENGTH_US[period]
        end = (at_us // length + 1) * length
        return end, end + length
    # A calendar's days are the same for every moment of a minute, for no zone has changed within one since 1972.
    return _calendar_ends(period, zone, at_us // LENGTH_US["minute"])


@lru_cache(maxsize=256)
def _calendar_ends(period: Period, zone: str, minute: int) -> tuple[int, int]:
    end = _calendar_end(period, ZoneInfo(zone), minute * LENGTH_US["minute"])
    return end, _calendar_end(period, ZoneInfo(zone), end)


def _calendar_end(period: Period, zone: ZoneInfo, at_us: int) -> int:
    today = datetime.fromtimestamp(at_us // US_PER_S, zone).date()
    day = _first_day_after(period, today)
    # A day that a zone has left out altogether begins and ends at the same instant.
    while (end := _first_instant(day, zone)) <= at_us:
        day = _first_day_after(period, day)
    return end


def _first_day_after(period: Period, today: date) -> date:
    if period == "day":
        return today + timedelta(days=1)
    if period == "week":
        return today + timedelta(days=7 - today.weekday())
    return (today.replace(day=1) + timedelta(days=31)).replace(day=1)


def _first_instant(day: date, zone: ZoneInfo) -> int:
    # Where midnight does not exist, this takes the clock from before the change, and so the instant of the change.
    midnight = datetime(day.year, day.month, day.day, tzinfo=zone)
    return microseconds(midnight)
