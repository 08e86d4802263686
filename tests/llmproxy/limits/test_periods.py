"""Ends of periods, over changes of clocks and in odd zones."""

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmproxy.limits.periods import FURTHEST_US, NEVER_US, PERIODS, checked_zone, period_ends

ZONES = [
    "UTC", "Europe/Amsterdam", "America/New_York", "Asia/Kolkata", "Asia/Kathmandu", "Australia/Lord_Howe",
    "Pacific/Apia", "Pacific/Chatham", "Africa/Cairo", "America/Havana", "America/Asuncion", "Asia/Beirut",
    "America/Scoresbysund", "Antarctica/Troll", "Asia/Gaza",
]  # fmt: skip
moments = st.integers(
    int(datetime(2010, 1, 1, tzinfo=UTC).timestamp()), int(datetime(2037, 1, 1, tzinfo=UTC).timestamp())
)
moments_us = st.builds(lambda second, micro: second * 10**6 + micro, moments, st.integers(0, 999_999))


def us(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def utc(text: str) -> int:
    return us(datetime.fromisoformat(text).replace(tzinfo=UTC))


def local_date(at_us: int, zone: str) -> date:
    return datetime.fromtimestamp(at_us // 10**6, ZoneInfo(zone)).date()


@pytest.mark.parametrize(
    ("period", "zone", "at", "end"),
    [
        ("minute", "UTC", "2026-11-26T15:59:59", "2026-11-26T16:00"),
        ("hour", "UTC", "2026-11-26T15:00:00", "2026-11-26T16:00"),
        ("day", "UTC", "2026-11-26T00:00:00", "2026-11-27T00:00"),
        ("week", "UTC", "2026-11-26T12:00:00", "2026-11-30T00:00"),
        ("week", "UTC", "2026-11-30T00:00:00", "2026-12-07T00:00"),
        ("month", "UTC", "2026-12-31T23:59:59", "2027-01-01T00:00"),
        # 23 hours, then 25.
        ("day", "Europe/Amsterdam", "2027-03-27T23:00:00", "2027-03-28T22:00"),
        ("day", "Europe/Amsterdam", "2026-10-24T22:00:00", "2026-10-25T23:00"),
        ("month", "Europe/Amsterdam", "2027-03-15T12:00:00", "2027-03-31T22:00"),
        # Midnight does not exist: the day begins at one o'clock.
        ("day", "Africa/Cairo", "2026-04-23T12:00:00", "2026-04-23T22:00"),
        # Midnight comes twice: the day begins at the first.
        ("day", "America/Havana", "2026-10-31T12:00:00", "2026-11-01T04:00"),
        ("day", "America/Havana", "2026-11-01T04:30:00", "2026-11-02T05:00"),
        # The 30th of December 2011 did not exist.
        ("day", "Pacific/Apia", "2011-12-30T09:59:59", "2011-12-30T10:00"),
        ("day", "Pacific/Apia", "2011-12-30T10:00:00", "2011-12-31T10:00"),
    ],
)
def test_a_period_ends_where_the_next_begins(period, zone, at, end):
    assert period_ends(period, zone, utc(at))[0] == utc(end)


@given(st.sampled_from(["day", "week", "month"]), st.sampled_from(ZONES), moments_us)
def test_a_period_of_the_calendar_ends_at_the_first_instant_of_a_day(period, zone, at_us):
    ends = period_ends(period, zone, at_us)

    assert at_us < ends[0] < ends[1]
    for end in ends:
        day = local_date(end, zone)
        assert local_date(end - 1, zone) < day
        assert {"day": True, "week": day.weekday() == 0, "month": day.day == 1}[period]
    assert ends[1] == period_ends(period, zone, ends[0])[0]


@given(st.sampled_from(PERIODS), st.sampled_from(ZONES), moments_us)
def test_no_period_ends_further_ahead_than_any_may(period, zone, at_us):
    assert period_ends(period, zone, at_us)[0] <= at_us + FURTHEST_US[period]


@given(st.sampled_from(["minute", "hour"]), moments_us)
def test_rates_end_with_the_minute_and_the_hour_of_utc(period, at_us):
    end, after = period_ends(period, "Asia/Kathmandu", at_us)

    assert end - at_us <= after - end == {"minute": 60, "hour": 3600}[period] * 10**6
    assert end % (after - end) == 0


def test_a_year_of_days_has_no_gap_and_no_overlap():
    ends = [utc("2026-01-01")]
    while len(ends) < 366:
        ends.append(period_ends("day", "Europe/Amsterdam", ends[-1])[0])

    lengths = [(b - a) // (3600 * 10**6) for a, b in pairwise(ends[1:])]
    assert sorted(lengths) == [23] + [24] * 362 + [25]


def test_the_whole_never_ends():
    assert period_ends("total", "UTC", utc("2026-11-26")) == (NEVER_US, NEVER_US)
    assert utc("2126-01-01") + FURTHEST_US["total"] < 2**63


@pytest.mark.parametrize(
    "name",
    ["Europe/Amsterdm", "", "../etc/passwd", "/etc/passwd", "a\0b", "Europe", "x" * 5000, "right/UTC", "localtime"],
)
def test_what_is_no_zone_is_refused(name):
    with pytest.raises(ValueError, match="time zone such as"):
        checked_zone(name)


def test_a_zone_is_taken():
    assert checked_zone("Europe/Amsterdam") == "Europe/Amsterdam"
