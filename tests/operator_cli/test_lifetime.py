"""How long until a day that somebody names is over."""

from datetime import datetime
from zoneinfo import ZoneInfo

import click
import pytest

from operator_cli.lifetime import hours_until

THURSDAY = datetime(2026, 11, 26, 22, 30, tzinfo=ZoneInfo("UTC"))


@pytest.mark.parametrize(
    ("day", "hours"), [("thursday", 2), ("Friday", 26), ("wednesday", 146), ("2026-11-26", 2), ("2026-11-28", 50)]
)
def test_a_day_lasts_to_its_end(day: str, hours: int) -> None:
    assert hours_until(day, THURSDAY) == hours


@pytest.mark.parametrize("day", ["2026-11-25", "someday", "", "26.11.2026"])
def test_what_is_over_or_no_day_is_refused(day: str) -> None:
    with pytest.raises(click.BadParameter):
        hours_until(day, THURSDAY)


def test_a_day_ends_where_the_clock_is() -> None:
    amsterdam = THURSDAY.astimezone(ZoneInfo("Europe/Amsterdam"))

    assert hours_until("thursday", amsterdam) == 1
