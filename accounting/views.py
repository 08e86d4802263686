"""
The views of the usage sums: by which dimensions each is, and whether per hour or per day.

CALLS has every dimension; the others can be had from it, and are kept because a question should read few rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from models import DIMENSIONS

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_HOUR = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class View:
    """Usage summed by `dimensions` per `hours` (1 or 24)."""

    id: int
    hours: int
    dimensions: frozenset[str]


CALLS = View(1, 1, frozenset(DIMENSIONS))
MODEL_HOURS = View(2, 1, frozenset({"model"}))
PROJECT_HOURS = View(3, 1, frozenset({"project_id", "refusal"}))
PROJECT_DAYS = View(4, 24, frozenset({"project_id", "model"}))
TOKEN_DAYS = View(5, 24, frozenset({"project_id", "token_id"}))
VIEWS = (CALLS, MODEL_HOURS, PROJECT_HOURS, PROJECT_DAYS, TOKEN_DAYS)
# Where a recount gathers what it will compare with CALLS. No report looks there.
RECOUNT = View(0, 1, CALLS.dimensions)


def hour_of(moment: datetime) -> int:
    """The hour that a time lies in, counted since 1970-01-01 UTC."""
    return (moment - _EPOCH) // _HOUR


def hours_around(begin: datetime, end: datetime) -> tuple[int, int]:
    """The whole hours around a span of time: the first, and the one after the last."""
    return hour_of(begin), -((_EPOCH - end) // _HOUR)


def moment(hour: int) -> datetime:
    """When an hour begins."""
    return _EPOCH + hour * _HOUR
