"""How long until a day that somebody names is over."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime

import click
import pytest

from operator_cli.lifetime import hours_until

THURSDAY = datetime(2026, 11, 26, 22, 30, tzinfo=UTC)


@pytest.fixture(params=["UTC"], autouse=True)
def zone(request: pytest.FixtureRequest) -> Iterator[None]:
    """Of this machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", request.param)
        time.tzset()
        yield
    time.tzset()


@pytest.mark.parametrize(
    ("day", "hours"), [("thursday", 2), ("Friday", 26), ("wednesday", 146), ("2026-11-26", 2), ("2026-11-28", 50)]
)
def test_a_day_lasts_to_its_end(day: str, hours: int) -> None:
    assert hours_until(day, THURSDAY) == hours


@pytest.mark.parametrize("day", ["2026-11-25", "someday", "", "26.11.2026", "0001-01-01", "9999-12-31"])
def test_what_is_over_or_no_day_is_refused(day: str) -> None:
    with pytest.raises(click.BadParameter):
        hours_until(day, THURSDAY)


@pytest.mark.parametrize("zone", ["Europe/Amsterdam"], indirect=True)
@pytest.mark.parametrize(
    ("now", "day", "hours"),
    [
        (THURSDAY, "thursday", 1),
        (datetime(2026, 10, 24, 21, 30, tzinfo=UTC), "sunday", 26),  # a Sunday of 25 hours
    ],
)
def test_a_day_is_that_of_this_machine(now: datetime, day: str, hours: int) -> None:
    assert hours_until(day, now.astimezone()) == hours
