"""The lengths of time that pages look back over, and the one that was asked for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from accounting.report import Filters, Period, Step, local_days, series
from blueprints.admin import zones
from llmproxy.admission import utc_now
from models import db

_STEPS: dict[Step, timedelta] = {"hour": timedelta(hours=1), "day": timedelta(days=1)}


@dataclass(frozen=True, slots=True)
class Span:
    """
    A length of time to look back over.

    Attributes:
        name: In addresses.
        form: How the start of one of its periods is written.
    """

    name: str
    words: str
    length: timedelta
    step: Step
    form: str

    def around(self, now: datetime) -> tuple[datetime, datetime]:
        """
        Its beginning and its end, whole periods, the one that runs now the last of them.

        So the sums of whole days suffice where it goes by days, those of UTC.
        """
        # Hours are those of the sums: in a zone that is off by half of one they begin at half past.
        now = now.astimezone(zones.of_days(now - self.length, now) if self.step == "day" else UTC)
        hour = 0 if self.step == "day" else now.hour
        end = now.replace(hour=hour, minute=0, second=0, microsecond=0) + _STEPS[self.step]
        return end - self.length, end

    def before(self, begin: datetime) -> tuple[datetime, datetime]:
        """As much time before its beginning."""
        return begin - self.length, begin

    def periods(self, filters: Filters, begin: datetime, end: datetime) -> list[Period]:
        """Usage by its steps, whose starts are in the zone of the pages, or that of their days."""
        if self.step == "hour":
            hours = series(db.session, filters, begin, end, step="hour")
            return [replace(hour, start=hour.start.astimezone(zones.of_pages())) for hour in hours]
        zone = zones.of_days(begin, end)
        if zone == zones.UTC_ZONE:
            return series(db.session, filters, begin, end, step="day")
        return local_days(db.session, filters, begin, end, zone)

    def label(self, moment: datetime) -> str:
        """The start of a period, in words. Where clocks are put back, an hour comes twice: which of them it is."""
        other = moment.replace(fold=1 - moment.fold)
        is_twice = self.step == "hour" and moment.utcoffset() != other.utcoffset()
        return moment.strftime(f"{self.form} %Z" if is_twice else self.form)


SPANS = {
    span.name: span
    for span in (
        Span("24h", "24 hours", timedelta(hours=24), "hour", "%H:%M"),
        Span("7d", "7 days", timedelta(days=7), "hour", "%d %b %H:%M"),
        Span("30d", "30 days", timedelta(days=30), "day", "%d %b"),
    )
}


MONTH = SPANS["30d"]


def address_of(moment: datetime) -> str:
    """A moment as the addresses of lists have it, in UTC."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M")


def during_month() -> dict[str, str]:
    """The time that lists sum up what was done lately for, for a list of requests."""
    return {"from": address_of(MONTH.around(utc_now())[0])}


def addresses(periods: list[Period], end: datetime) -> list[tuple[str, str]]:
    """Where each period begins and ends, for addresses."""
    moments = [address_of(moment) for moment in (*(period.start for period in periods), end)]
    return list(pairwise(moments))
