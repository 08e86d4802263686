"""How long until a day is over, as somebody names it."""

from __future__ import annotations

import math
from datetime import date, datetime, time, timedelta

import click

_WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")


def hours_until(day: str, now: datetime) -> int:
    """
    Whole hours, rounded up, until the end of a weekday (today's or the next) or date. Raises BadParameter.

    Args:
        now: Aware; the day ends where its clock says so.
    """
    end = datetime.combine(_date(day, now.date()) + timedelta(days=1), time.min, tzinfo=now.tzinfo)
    hours = math.ceil((end - now).total_seconds() / 3600)
    if hours < 1:
        raise click.BadParameter(f"{day} is over.", param_hint="--until")
    return hours


def _date(day: str, today: date) -> date:
    if day.lower() in _WEEKDAYS:
        return today + timedelta(days=(_WEEKDAYS.index(day.lower()) - today.weekday()) % 7)
    try:
        return date.fromisoformat(day)
    except ValueError as exc:
        raise click.BadParameter("must be a weekday, or a date such as 2026-12-24.", param_hint="--until") from exc
