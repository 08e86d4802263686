"""Days of other zones than UTC, out of sums by hour."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from sqlalchemy import ColumnElement, case, literal

from accounting.views import hours_around, moment

_HOUR = timedelta(hours=1)
_DAY_HOURS = 24
_FIRST = date(1970, 1, 1)


class NoWholeHours(ValueError):
    """A zone is off from UTC by a part of an hour: an hour's sum would belong to two of its days."""


class LocalDays:
    """
    The days of a zone within a span of hours.

    Args:
        zone: Whose days.
        first: The first hour, counted as in the sums.
        last: The hour after the last.

    Raises NoWholeHours.
    """

    def __init__(self, zone: ZoneInfo, first: int, last: int) -> None:
        self._zone = zone
        self._span = first, last
        # From which hour on which offset holds: two a year, where clocks are changed.
        self._offsets = [(first, _offset(zone, first))]
        for hour in range(first, last, _DAY_HOURS):
            self._look_between(hour, min(hour + _DAY_HOURS, last - 1))

    def _look_between(self, before: int, after: int) -> None:
        if _offset(self._zone, after) != self._offsets[-1][1]:
            changed = next(
                hour for hour in range(before, after + 1) if _offset(self._zone, hour) != self._offsets[-1][1]
            )
            self._offsets.append((changed, _offset(self._zone, changed)))

    def number_of(self, hour: ColumnElement[int]) -> ColumnElement[int]:
        """The statement's number of the day in which an hour lies."""
        *earlier, (_, latest) = self._offsets
        ends = [start for start, _ in self._offsets[1:]]
        steps = [(hour < end, literal(offset)) for (_, offset), end in zip(earlier, ends, strict=True)]
        local = hour + (case(*steps, else_=literal(latest)) if steps else literal(latest))
        return local // _DAY_HOURS

    def starts(self) -> dict[int, datetime]:
        """When each day begins, by its number."""
        first, last = (moment(hour).astimezone(self._zone).date() for hour in (self._span[0], self._span[1] - 1))
        days = (first + timedelta(days=number) for number in range((last - first).days + 1))
        return {(day - _FIRST).days: datetime(day.year, day.month, day.day, tzinfo=self._zone) for day in days}


def has_whole_hours(zone: ZoneInfo, begin: datetime, end: datetime) -> bool:
    """Whether sums by hour can tell the days of a zone within a span."""
    try:
        LocalDays(zone, *hours_around(begin, end))
    except NoWholeHours:
        return False
    return True


def _offset(zone: ZoneInfo, hour: int) -> int:
    offset = moment(hour).astimezone(zone).utcoffset() or timedelta(0)
    if offset % _HOUR:
        raise NoWholeHours
    return offset // _HOUR
