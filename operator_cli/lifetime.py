"""When a day is over, as somebody names it."""

from __future__ import annotations

from datetime import date, datetime, time, timedelta

import click

_WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")


def end_of(day: str, now: datetime) -> datetime:
    """
    The end of a weekday (today's or the next) or date here. Raises BadParameter.

    Args:
        now: Aware, in the zone of this machine, whose days are meant.
    """
    named = _date(day, now.date())
    if named < now.date():
        raise click.BadParameter(f"{day} is over.", param_hint="--until")
    try:
        # This machine's clock may be changed until then, and be another number of hours off from UTC.
        return datetime.combine(named + timedelta(days=1), time.min).astimezone()
    except (OverflowError, ValueError) as exc:
        raise click.BadParameter(f"{day} is too far away.", param_hint="--until") from exc


def _date(day: str, today: date) -> date:
    if day.lower() in _WEEKDAYS:
        return today + timedelta(days=(_WEEKDAYS.index(day.lower()) - today.weekday()) % 7)
    try:
        return date.fromisoformat(day)
    except ValueError as exc:
        raise click.BadParameter("must be a weekday, or a date such as 2026-12-24.", param_hint="--until") from exc
