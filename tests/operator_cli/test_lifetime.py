"""When a day that somebody names is over."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime

import click
import pytest

from operator_cli.lifetime import end_of

THURSDAY = datetime(2026, 11, 26, 22, 30, tzinfo=UTC)


@pytest.fixture(params=["UTC"], autouse=True)
def zone(request: pytest.FixtureRequest) -> Iterator[None]:
    """Of this machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", request.param)
        time.tzset()
        yield
    time.tzset()


@pytest.mark.parametrize(("day", "end"), [("thursday", 27), ("Friday", 28), ("2026-11-26", 27), ("2026-11-28", 29)])
def test_a_day_lasts_to_its_end(day: str, end: int) -> None:
    assert end_of(day, THURSDAY) == datetime(2026, 11, end, tzinfo=UTC)


@pytest.mark.parametrize("day", ["2026-11-25", "someday", "", "26.11.2026", "0001-01-01", "9999-12-31"])
def test_what_is_over_or_no_day_is_refused(day: str) -> None:
    with pytest.raises(click.BadParameter):
        end_of(day, THURSDAY)


@pytest.mark.parametrize("zone", ["Europe/Amsterdam"], indirect=True)
@pytest.mark.parametrize(
    ("now", "day", "end"),
    [
        (THURSDAY, "thursday", datetime(2026, 11, 26, 23, tzinfo=UTC)),
        # A Sunday of 25 hours.
        (datetime(2026, 10, 24, 21, 30, tzinfo=UTC), "sunday", datetime(2026, 10, 25, 23, tzinfo=UTC)),
    ],
)
def test_a_day_is_that_of_this_machine(now: datetime, day: str, end: datetime) -> None:
    assert end_of(day, now.astimezone()) == end
