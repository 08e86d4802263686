"""
What the sums say: totals, series over time, the biggest users, reasons of refusals.

Each question is put to the view with the fewest rows that can answer it (see `usage_tables`); whole days are
taken from a view by day where there is one. Times are rounded outwards to whole hours, for the sums know no less.
Call within an application context.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import ColumnElement, Select, func, select

from models import Project, Token, db
from usage_tables import (
    BUCKETS_MS,
    CALLS,
    COUNTS,
    DURATION,
    MODEL_HOURS,
    PROJECT_DAYS,
    PROJECT_HOURS,
    SUMS,
    TOKEN_DAYS,
    TTFT,
    View,
    hours_around,
    moment,
    usage_keys,
    usage_sums,
)

Step = Literal["hour", "day"]
Kind = Literal["project", "token", "model"]

_STEP_HOURS = {"hour": 1, "day": 24}
_COLUMN = {"project": "project_id", "token": "token_id", "model": "model"}
# The fewest rows first.
_BY_HOUR = (MODEL_HOURS, PROJECT_HOURS, CALLS)
_BY_DAY = (PROJECT_DAYS, TOKEN_DAYS)


@dataclass(frozen=True, slots=True)
class Filters:
    """Whose usage; None means everybody's."""

    project_id: str | None = None
    token_id: str | None = None
    model: str | None = None

    @property
    def columns(self) -> dict[str, str]:
        """Column -> wanted value."""
        wanted = {"project_id": self.project_id, "token_id": self.token_id, "model": self.model}
        return {name: value for name, value in wanted.items() if value is not None}


EVERYBODY = Filters()


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Milliseconds, interpolated within a bucket; None where nothing was measured."""

    p50: float | None
    p95: float | None


@dataclass(frozen=True, slots=True)
class Usage:
    """
    Sums over some requests.

    Attributes:
        requests: All of them, refused ones included.
        refusals: Answered by the proxy itself instead of being forwarded.
        errors: Forwarded, and failed on the way, timed out, or answered with a status of 400 or above.
        client_closed: The client hung up; these count as nothing else.
        usage_reported: Requests whose tokens the upstream told; the token sums are theirs.
        cached_tokens: Of the prompt tokens.
        reasoning_tokens: Of the completion tokens.
        duration_ms: Arrival to last byte, of what was forwarded.
        ttft_ms: Arrival to first body byte, of what was forwarded.
    """

    requests: int
    refusals: int
    errors: int
    client_closed: int
    usage_reported: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    duration_ms: Percentiles
    ttft_ms: Percentiles

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True)
class Period:
    """Usage of the hour or day that begins at `start`."""

    start: datetime
    usage: Usage


@dataclass(frozen=True, slots=True)
class Consumer:
    """
    Usage of one project, token or model.

    `key` is its id or the model's name, '' where the record had none. `name` is the project's name or the token's
    label, None where there is none (any more).
    """

    key: str
    name: str | None
    usage: Usage


def whole_hours(begin: datetime, end: datetime) -> tuple[datetime, datetime]:
    """The span of whole hours around a span of time: what a report over it covers."""
    first, last = hours_around(begin, end)
    return moment(first), moment(last)


def totals(filters: Filters, begin: datetime, end: datetime) -> Usage:
    """Usage of the whole span."""
    return _usage(_added(_rows(filters, hours_around(begin, end))))


def series(filters: Filters, begin: datetime, end: datetime, *, step: Step) -> list[Period]:
    """Usage hour by hour or day by day (in UTC), every one of the span, zeros where there was none."""
    hours = _STEP_HOURS[step]
    span = first, last = hours_around(begin, end)
    found: dict[int, list[int]] = {}
    for hour, *sums in _rows(filters, span, by_hour=True, whole_days=step == "day"):
        start = hour // hours * hours
        found[start] = _sum(found.get(start), sums)
    starts = range(first // hours * hours, last, hours)
    return [Period(moment(start), _usage(found.get(start))) for start in starts]


def top(by: Kind, filters: Filters, begin: datetime, end: datetime, *, limit: int) -> list[Consumer]:
    """The `limit` projects, tokens or models with the most requests, the busiest first."""
    column = _COLUMN[by]
    span = hours_around(begin, end)
    chosen = _busiest(column, filters, span, limit)
    found: dict[str, list[int]] = {}
    for key, *sums in _rows(filters, span, column=column, among=chosen):
        found[key] = _sum(found.get(key), sums)
    names = _names(by, chosen)
    return [Consumer(key, names.get(key), _usage(found.get(key))) for key in chosen]


def refusals_by_reason(filters: Filters, begin: datetime, end: datetime) -> dict[str, int]:
    """How often the proxy itself refused, by the error's code ('none' where it has none), the commonest first."""
    found: dict[str, int] = {}
    for code, count in _rows(filters, hours_around(begin, end), column="refusal", sums=("refusals",)):
        if count:
            found[code] = found.get(code, 0) + int(count)
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def _busiest(column: str, filters: Filters, span: tuple[int, int], limit: int) -> list[str]:
    found: dict[str, int] = {}
    for key, count in _rows(filters, span, column=column, sums=("requests",)):
        found[key] = found.get(key, 0) + int(count)
    return sorted((key for key in found if found[key]), key=lambda key: (-found[key], key))[:limit]


def _names(by: Kind, keys: list[str]) -> dict[str, str | None]:
    if by == "model":
        return {key: key for key in keys}
    statement = (
        select(Project.id, Project.name).where(Project.id.in_(keys))
        if by == "project"
        else select(Token.id, Token.label).where(Token.id.in_(keys))
    )
    return dict(db.session.execute(statement).tuples().all())


def _rows(
    filters: Filters,
    span: tuple[int, int],
    *,
    column: str | None = None,
    among: list[str] | None = None,
    by_hour: bool = False,
    whole_days: bool = True,
    sums: tuple[str, ...] = SUMS,
) -> Iterator[Any]:
    """
    Sums by the hour, by a column, or by nothing. One group may come in several rows, one of each part of the span.

    Args:
        among: Only these values of the column.
        whole_days: False when days are too coarse.
    """
    wanted = dict[str, Any](filters.columns)
    if among is not None and column is not None:
        wanted.setdefault(column, among)
    dimensions = {*wanted, column} - {None}
    for view, first, last in _parts(dimensions, span, whole_days=whole_days):
        yield from db.session.execute(_statement(view, first, last, wanted, column, by_hour, sums))


def _parts(dimensions: set[Any], span: tuple[int, int], *, whole_days: bool) -> Iterable[tuple[View, int, int]]:
    """The view for each part of the span."""
    first, last = span
    hours = next(view for view in _BY_HOUR if dimensions <= view.dimensions)
    days = next((view for view in _BY_DAY if dimensions <= view.dimensions), None)
    first_day, last_day = -(-first // 24) * 24, last // 24 * 24
    if hours is MODEL_HOURS or days is None or not whole_days or first_day >= last_day:
        return [(hours, first, last)]
    parts = [(hours, first, first_day), (days, first_day, last_day), (hours, last_day, last)]
    return [part for part in parts if part[1] < part[2]]


def _statement(
    view: View,
    first: int,
    last: int,
    wanted: dict[str, Any],
    column: str | None,
    by_hour: bool,
    sums: tuple[str, ...],
) -> Select[Any]:
    added = [func.sum(usage_sums.c[name]).label(name) for name in sums]
    in_span: list[ColumnElement[bool]] = [usage_sums.c.hour >= first, usage_sums.c.hour < last]
    # A key belongs to one view. Naming the view besides would invite the database to walk through all of it.
    in_span.append(usage_sums.c.key_id.in_(_keys(view, wanted)) if wanted else usage_sums.c.view == view.id)
    if by_hour:
        return select(usage_sums.c.hour, *added).where(*in_span).group_by(usage_sums.c.hour)
    if column is None:
        return select(*added).where(*in_span)
    by_key = select(usage_sums.c.key_id, *added).where(*in_span).group_by(usage_sums.c.key_id).subquery()
    again = [func.sum(by_key.c[name]) for name in sums]
    group = usage_keys.c[column]
    return select(group, *again).join(by_key, by_key.c.key_id == usage_keys.c.id).group_by(group)


def _keys(view: View, wanted: dict[str, Any]) -> Select[Any]:
    conditions = [
        usage_keys.c[name].in_(value) if isinstance(value, list) else usage_keys.c[name] == value
        for name, value in wanted.items()
    ]
    return select(usage_keys.c.id).where(usage_keys.c.view == view.id, *conditions)


def _added(rows: Iterable[Iterable[Any]]) -> list[int] | None:
    found: list[int] | None = None
    for row in rows:
        found = _sum(found, row)
    return found


def _sum(so_far: list[int] | None, sums: Iterable[Any]) -> list[int]:
    # PostgreSQL adds bigints up to a numeric, and both databases nothing at all up to NULL.
    numbers = [int(number or 0) for number in sums]
    return numbers if so_far is None else [a + b for a, b in zip(so_far, numbers, strict=True)]


def _usage(sums: list[int] | None) -> Usage:
    by_name = dict(zip(SUMS, sums or [0] * len(SUMS), strict=True))
    return Usage(
        **{name: by_name[name] for name in COUNTS},
        duration_ms=_percentiles([by_name[name] for name in DURATION]),
        ttft_ms=_percentiles([by_name[name] for name in TTFT]),
    )


def _percentiles(buckets: list[int]) -> Percentiles:
    return Percentiles(p50=_quantile(buckets, 0.5), p95=_quantile(buckets, 0.95))


def _quantile(buckets: list[int], share: float) -> float | None:
    """The value under which `share` of the samples lie; of what is beyond the last bound, that bound."""
    left = share * sum(buckets)
    if left == 0:
        return None
    for low, high, count in zip((0, *BUCKETS_MS), BUCKETS_MS, buckets, strict=False):
        if count and left <= count:
            return round(low + (high - low) * left / count, 1)
        left -= count
    return float(BUCKETS_MS[-1])
