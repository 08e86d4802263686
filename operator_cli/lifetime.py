"""How long until a day is over, as somebody names it."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, time, timedelta

import click

_WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")


def hours_until(day: str, now: datetime) -> int:
    """
    Whole hours, rounded up, until the end of a weekday (today's or the next) or date here. Raises BadParameter.

    Args:
        now: Aware, in the zone of this machine, whose days are meant.
    """
    named = _date(day, now.date())
    if named < now.date():
        raise click.BadParameter(f"{day} is over.", param_hint="--until")
    try:
        # This machine's clock may be changed until then, and be another number of hours off from UTC.
        end = datetime.combine(named + timedelta(days=1), time.min).astimezone()
    except (OverflowError, ValueError) as exc:
        raise click.BadParameter(f"{day} is too far away.", param_hint="--until") from exc
    return math.ceil((end - now.astimezone(UTC)).total_seconds() / 3600)


def _date(day: str, today: date) -> date:
    if day.lower() in _WEEKDAYS:
        return today + timedelta(days=(_WEEKDAYS.index(day.lower()) - today.weekday()) % 7)
    try:
        return date.fromisoformat(day)
    except ValueError as exc:
        raise click.BadParameter("must be a weekday, or a date such as 2026-12-24.", param_hint="--until") from exc
