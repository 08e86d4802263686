"""
The zone that the pages tell times in, and whose days their charts have: the reader's.

Its browser knows it, and tells it in a cookie that `admin.js` sets, and that names no zone for a reader who chose the
configured one. A form that holds times names the zone that it was shown in, so that what was typed means the same
wherever its reader is when it is sent.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from functools import lru_cache
from zoneinfo import ZoneInfo

from flask import current_app, g, request

from accounting.zones import has_whole_hours
from config import zone_of
from services import Services

UTC_ZONE = ZoneInfo("UTC")
COOKIE = "admin_time_zone"
FIELD = "times_in"


def of_pages() -> ZoneInfo:
    """The zone of the form that was sent, else the reader's, else the configured one."""
    return _known(g.get(FIELD)) or _of_reader() or configured()


def configured() -> ZoneInfo:
    """ADMIN_TIME_ZONE, for readers whose browser names none, and for what outlives a reader's visit."""
    return Services.of(current_app).settings.admin_time_zone


def in_words() -> str:
    """Whose zone it is, for the foot of a page."""
    return "this browser's zone" if _of_reader() else "set by ADMIN_TIME_ZONE"


def take_from_form() -> None:
    """From here on pages tell times in the zone that the form was shown in, if it names one."""
    setattr(g, FIELD, request.form.get(FIELD))


def of_days(begin: datetime, end: datetime) -> ZoneInfo:
    """The pages' zone, or UTC where sums by hour cannot tell its days."""
    zone = of_pages()
    return zone if has_whole_hours(zone, begin, end) else UTC_ZONE


def _of_reader() -> ZoneInfo | None:
    return _known(request.cookies.get(COOKIE))


@lru_cache(maxsize=64)
def _known(name: str | None) -> ZoneInfo | None:
    with suppress(ValueError):
        return zone_of(name) if name else None
    return None
