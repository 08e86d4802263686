"""The zone that the pages tell times in, and whose days their charts have."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

from flask import current_app

from accounting.zones import has_whole_hours
from services import Services

UTC_ZONE = ZoneInfo("UTC")


def of_pages() -> ZoneInfo:
    """ADMIN_TIME_ZONE."""
    return Services.of(current_app).settings.admin_time_zone


def of_days(begin: datetime, end: datetime) -> ZoneInfo:
    """The pages' zone, or UTC where sums by hour cannot tell its days."""
    zone = of_pages()
    return zone if has_whole_hours(zone, begin, end) else UTC_ZONE
